/** What the process of the kills amid erasing appends, a function of its life and number. */
import type { NewEvent } from '../../src/event.ts'
import { event, range } from '../parts.ts'

export const CHANNEL = 'people'
/** Of one life. */
export const PEOPLE = 4
/** Appends in which there are people; those behind them have none. */
export const APPENDS = 30

export const personOf = (life: number, i: number): string => `person-${life}-${i}`

/** The events of append `n` of a life: of people the data hold their names, so that they are found on disk. */
export function peopleEvents(life: number, n: number): NewEvent[] {
  return range(0, 7).map((i) => {
    const person = personOf(life, (n + i) % PEOPLE)
    if (n < APPENDS && i % 3 === 0) return event({ n, i, secret: `secret of ${person}` }, { key: person })
    return event({ n, i, pad: 'x'.repeat(120) }, { key: i === 1 ? null : `k${(n + i) % 9}` })
  })
}
