/** Limits of retention as a person reads and writes them: a number and a unit each. */
import type { RetentionJson } from '../wire.ts'
import { bytes, count, duration } from './text.ts'

/** Each unit in the one that calls take, the smallest first. */
export const AGE_UNITS = { seconds: 1, minutes: 60, hours: 3_600, days: 86_400 } as const
export const SIZE_UNITS = { bytes: 1, KiB: 1024, MiB: 1024 ** 2, GiB: 1024 ** 3 } as const
type Units = Readonly<Record<string, number>>

export interface Amount {
  /** As it was typed; empty for no limit. */
  readonly text: string
  readonly unit: string
}

/** Where a channel's limits come from: the configuration, nowhere, or its own settings. */
export type Choice = 'configured' | 'everything' | 'own'

export interface Draft {
  readonly choice: Choice
  readonly age: Amount
  readonly events: string
  readonly size: Amount
  readonly consumed: boolean
}

/** In the largest unit that it is a whole number of. */
export function amountOf(value: number | undefined, units: Units, or: string): Amount {
  if (value === undefined) return { text: '', unit: or }
  const unit = Object.keys(units).findLast((each) => value % units[each]! === 0)!
  return { text: String(value / units[unit]!), unit }
}

/** Undefined where nothing was typed. What is no number is left to the server to refuse. */
const numberOf = ({ text, unit }: Amount, units: Units): number | undefined =>
  text.trim() === '' ? undefined : Math.round(Number(text) * units[unit]!)

/** @param own retention of the channel's own settings */
export function draftOf(own: RetentionJson | undefined): Draft {
  const { maxAge, maxEvents, maxBytes, consumed = false } = own ?? {}
  const isLimited = maxAge !== undefined || maxEvents !== undefined || maxBytes !== undefined || consumed
  return {
    choice: own === undefined ? 'configured' : isLimited ? 'own' : 'everything',
    age: amountOf(maxAge, AGE_UNITS, 'days'),
    events: maxEvents === undefined ? '' : String(maxEvents),
    size: amountOf(maxBytes, SIZE_UNITS, 'MiB'),
    consumed,
  }
}

/** What the channel's settings are to hold; undefined leaves it to the configuration. */
export function retentionOf({ choice, age, events, size, consumed }: Draft): RetentionJson | undefined {
  if (choice !== 'own') return choice === 'everything' ? {} : undefined
  const maxAge = numberOf(age, AGE_UNITS)
  const maxEvents = numberOf({ text: events, unit: 'seconds' }, AGE_UNITS)
  const maxBytes = numberOf(size, SIZE_UNITS)
  return {
    ...(maxAge !== undefined && { maxAge }),
    ...(maxEvents !== undefined && { maxEvents }),
    ...(maxBytes !== undefined && { maxBytes }),
    ...(consumed && { consumed }),
  }
}

/** `7 d, 1,000 events, 1 GiB, consumed`. */
export function limitsText({ maxAge, maxEvents, maxBytes, consumed }: RetentionJson): string {
  const parts = [
    maxAge !== undefined && duration(maxAge * 1_000),
    maxEvents !== undefined && `${count(maxEvents)} events`,
    maxBytes !== undefined && bytes(maxBytes),
    consumed && 'consumed',
  ]
  return parts.filter((part) => part !== false && part !== undefined).join(', ') || 'everything'
}
