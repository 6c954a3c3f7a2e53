/** Times of the log's writes, made of the counters that a server gives. */
import type { GroupsJson } from '../wire.ts'

export interface Writes {
  /** Mean, ms; null where nothing was written. */
  readonly write: number | null
  /** 99 of 100 took at most this, ms, as far as the bounds tell. */
  readonly slowWrite: number | null
}

/** The writes between two answers. */
export function writesOf(before: GroupsJson | undefined, now: GroupsJson | undefined): Writes {
  const count = (now?.count ?? 0) - (before?.count ?? 0)
  if (now === undefined || before === undefined || count <= 0) return { write: null, slowWrite: null }
  const write = ((now.seconds - before.seconds) / count) * 1_000
  const counts = now.counts.map((n, i) => n - (before.counts[i] ?? 0))
  let left = count * 0.99
  for (const [i, n] of counts.entries()) {
    const from = now.bounds[i - 1] ?? 0
    const to = now.bounds[i] ?? from
    if (left <= n) return { write, slowWrite: (from + (to - from) * (left / n)) * 1_000 }
    left -= n
  }
  return { write, slowWrite: now.bounds.at(-1)! * 1_000 }
}
