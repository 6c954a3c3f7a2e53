/** What the process of the keyed kills appends, a function of its number: its parent knows it without being told. */
import type { NewEvent } from '../../src/event.ts'
import { event, range } from '../parts.ts'
import { dice } from './dice.ts'

export const CHANNEL = 'keyed'
const KEYS = 12

/** The events of append `n`: some have no key, some are tombstones, some make their block a large one. */
export function keyedEvents(n: number): NewEvent[] {
  const random = dice(n)
  return range(0, random(5)).map((i) => {
    const key = random(6) === 0 ? null : `k${random(KEYS)}`
    const isTombstone = key !== null && random(4) === 0
    const pad = 'x'.repeat(random(40) === 0 ? 40_000 : random(200))
    return event(isTombstone ? undefined : { n, i, pad }, { key })
  })
}
