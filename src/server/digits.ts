/** Whole numbers in a query. */
import { z } from 'zod'

const wholeNumber = (least: number, most: number) =>
  z
    .string()
    .regex(/^\d{1,16}$/, 'is a whole number')
    .transform(Number)
    .pipe(z.number().min(least).max(most))

/** @param or what holds where none is given */
export const digits = (least: number, most: number, or: number) =>
  wholeNumber(least, most)
    .default(or)
    .meta({ type: 'integer', minimum: least, maximum: most, description: `Default ${or}` })

export const digitsOrNone = (least: number, most: number) =>
  wholeNumber(least, most).optional().meta({ type: 'integer', minimum: least, maximum: most })
