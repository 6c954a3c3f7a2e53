/** Times and sizes as people write them: `30s`, `64MiB`; and the share of a run that is done. */
import type { RunJson } from './wire.ts'

export const DURATION_UNITS = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const
export const SIZE_UNITS = { '': 1, KiB: 1024, MiB: 1024 ** 2, GiB: 1024 ** 3 } as const

/** `30s` or `64MiB` as a number of the smallest unit; anything else as it is, for the check behind it to refuse. */
export function withUnit(raw: unknown, units: Readonly<Record<string, number>>): unknown {
  const match = /^(\d{1,12}(?:\.\d{1,3})?) ?([A-Za-z]*)$/.exec(String(raw))
  const unit = match && units[match[2]!]
  return unit ? Number(match[1]) * unit : raw
}

/** The value, when it is a whole number from `min` to `max`. */
export const between = (value: unknown, min: number, max: number): number | undefined =>
  Number.isSafeInteger(value) && (value as number) >= min && (value as number) <= max ? (value as number) : undefined

/** How far the phase of a run is, 0 … 1; undefined where nobody knows how much there is. */
export function shareOf({ seq, trimmed = 0, head }: Pick<RunJson, 'seq' | 'trimmed' | 'head'>): number | undefined {
  if (head === undefined) return undefined
  if (head <= trimmed) return 1
  return Math.min(1, Math.max(0, ((seq ?? trimmed) - trimmed) / (head - trimmed)))
}
