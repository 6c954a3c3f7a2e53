/**
 * Hostile input by chance: valid ones mutated, seeds printed. The judge says of each whether it was taken or refused with
 * one of our codes, how much CPU it took at most, and what memory stayed behind.
 */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { ERRORS, TidemarkError } from '../src/errors.ts'
import { type Dice, dice } from './crash/dice.ts'
import { SEED } from './parts.ts'

/** How many inputs in all: `FUZZ_INPUTS=200000` is the long form. */
export const INPUTS = Number(process.env.FUZZ_INPUTS ?? 0)
export const isLong = INPUTS > 0

/** What one input may take, ms, and for each MiB of it. */
export const CPU_MS_MAX = 50
const CPU_MS_PER_MIB = 50
/** What may stay behind after all of them, bytes. */
export const GROWTH_BYTES_MAX = 20 * 1024 * 1024

export const newDice = (name: string): Dice => {
  let hash = SEED
  for (const c of name) hash = (Math.imul(hash, 31) + c.charCodeAt(0)) >>> 0
  return dice(hash)
}

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void

/** Bytes of memory that are held after a collection. */
export function held(): number {
  collect()
  collect()
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external
}

const pick = <T>(dice: Dice, list: readonly T[]): T => list[dice(list.length)]!

// ── Mutations ────────────────────────────────────────────────────────────────────────────────────────────────────

const BYTES = [0, 1, 0x0a, 0x20, 0x22, 0x2c, 0x2f, 0x3a, 0x5b, 0x5c, 0x5d, 0x7b, 0x7d, 0x7f, 0x80, 0x90, 0xc0, 0xc1]
const MORE_BYTES = [0xc6, 0xc9, 0xcb, 0xcf, 0xd3, 0xd9, 0xdb, 0xdd, 0xdf, 0xed, 0xf0, 0xfe, 0xff]
/** What parsers stumble over. */
const WORDS = [
  ...['null', 'true', '-0', '1e999', '-1e-999', '9007199254740993', '0.1e1', '00', 'NaN', '[]', '{}', '""', '[[', '}}'],
  ...['"__proto__"', '"constructor"', '"toString"', '__proto__', '\\ud800', '\\u0000', '\\', '\u2028', '\ufeff', '//'],
  ...['\r\n', '\n\n', '\t', ':', '..', '/', '**', '*', '%2f', '%', '_', '=', '&a ', '*a', '!!set ', '<<: ', '- ', '? '],
].map((word) => Buffer.from(word))

/** A few changes of a valid input: bits, bytes, cuts, repetitions, splices with its fellows, words that hurt. */
export function mutate(dice: Dice, corpus: readonly Buffer[]): Buffer {
  let bytes = Buffer.from(pick(dice, corpus))
  for (let changes = 1 + dice(4); changes > 0; changes--) bytes = changed(dice, bytes, corpus)
  return bytes
}

/** Longest input that repetitions make. */
const BYTES_MAX = 64 * 1024

function changed(dice: Dice, bytes: Buffer, corpus: readonly Buffer[]): Buffer<ArrayBuffer> {
  const at = dice(bytes.length + 1)
  const end = at + dice(Math.min(64, bytes.length - at) + 1)
  const around = (middle: Uint8Array, from = at, to = end) =>
    Buffer.concat([bytes.subarray(0, from), middle, bytes.subarray(to)])
  const none = new Uint8Array()
  switch (dice(9)) {
    case 0:
    case 1: {
      const copy = Buffer.from(bytes)
      if (at < copy.length) copy[at]! ^= 1 << dice(8)
      return copy
    }
    case 2:
      return around(Uint8Array.of(pick(dice, dice(2) ? BYTES : MORE_BYTES)), at, at + dice(2))
    case 3:
      return around(none)
    case 4:
      return Buffer.from(bytes.subarray(0, at))
    case 5:
      return around(pick(dice, WORDS), at, dice(2) ? at : end)
    case 6: {
      const other = pick(dice, corpus)
      const from = dice(other.length + 1)
      return around(other.subarray(from, from + dice(other.length - from + 1)))
    }
    case 7: {
      const piece = bytes.subarray(at, end)
      const times = dice(20) === 0 ? 4_096 : 1 + dice(8)
      const room = Math.max(0, BYTES_MAX - bytes.length)
      return around(Buffer.concat(Array<Uint8Array>(times).fill(piece)).subarray(0, room), at, at)
    }
    default:
      return around(Uint8Array.from({ length: dice(8) }, () => dice(256)))
  }
}

/** Any value in JSON, mostly of what has a meaning here, sometimes deep or wide. */
export function anyValue(dice: Dice, depth = 0): unknown {
  switch (dice(depth > 5 ? 8 : 11)) {
    case 0:
      return pick(dice, [null, true, false])
    case 1:
      return pick(dice, [0, -1, 1, 0.5, 2 ** 53 - 1, 2 ** 53, -(2 ** 63), 1e308, 41])
    case 2:
    case 3:
      return pick(dice, ['', 'orders', 'a/b', '_streamer', '..', '__proto__', 'earliest', 'head-50', 'time:2026-01-01'])
    case 4:
      return pick(dice, ['2026-11-22T18:48:00Z', '\ud800', '\u0000', 'é'.repeat(64), 'x'.repeat(201), 'AAAA', '*/**'])
    case 5:
      return 'x'.repeat(dice(2_000))
    case 6:
      return String(dice(1_000_000))
    case 7:
      return dice(4_000_000_000)
    case 8: {
      let value: unknown = 1
      for (let levels = dice(100); levels > 0; levels--) value = dice(2) ? [value] : { a: value }
      return value
    }
    case 9:
      return Array.from({ length: dice(6) }, () => anyValue(dice, depth + 1))
    default:
      return Object.fromEntries(
        Array.from({ length: dice(6) }, () => [pick(dice, NAMES), anyValue(dice, depth + 1)] as const),
      )
  }
}

const NAMES = ['data', 'key', 'type', 'id', 'to', 'users', 'channel', 'events', 'op', 'ref', 'after', '__proto__', 'x']

/** One or two fields of a valid object hold something else, are gone, or stand beside a new one; at any depth. */
export function bent(dice: Dice, value: unknown): unknown {
  if (typeof value !== 'object' || value === null || dice(8) === 0) return anyValue(dice)
  const names = Object.keys(value)
  const copy = (Array.isArray(value) ? [...value] : { ...value }) as Record<string, unknown>
  const name = names.length > 0 && dice(6) > 0 ? pick(dice, names) : pick(dice, NAMES)
  if (dice(8) === 0) delete copy[name]
  else copy[name] = dice(2) ? bent(dice, copy[name]) : anyValue(dice)
  return copy
}

// ── The judge ────────────────────────────────────────────────────────────────────────────────────────────────────

/** What is said of one kind of input. */
interface Row {
  count: number
  taken: number
  worstMs: number
  worstBytes: number
  faults: number
}

/** Most faults of a kind that are told. */
const FAULTS_MAX = 2

/** Names of codes that stand for a caller's mistake; `internal` never does. */
const isCoded = (error: unknown): boolean =>
  error instanceof TidemarkError && Object.hasOwn(ERRORS, error.code) && error.code !== 'internal'

export class Judge {
  readonly #rows = new Map<string, Row>()
  readonly #faults: string[] = []

  /** @throws what was wrong, with the inputs that showed it */
  verdict(): void {
    if (this.#faults.length > 0) throw new Error(this.#faults.join('\n'))
  }

  fault(kind: string, what: string): void {
    this.#row(kind).faults++
    if (this.#row(kind).faults <= FAULTS_MAX) this.#faults.push(`${kind}: ${what}`)
  }

  /** Runs `take` on an input. @param also errors that are a refusal beside ours */
  try(kind: string, input: Uint8Array, take: (input: Uint8Array) => unknown, also?: (error: unknown) => boolean): void {
    const row = this.#row(kind)
    row.count++
    const ms = this.#once(kind, input, take, also, row)
    // A collection that falls into it is not its own: what it takes again and again is.
    const own = ms > CPU_MS_MAX / 2 ? Math.min(ms, ...[1, 2, 3].map(() => this.#once(kind, input, take, also))) : ms
    if (own <= row.worstMs) return
    row.worstMs = own
    row.worstBytes = input.length
    const most = CPU_MS_MAX + (CPU_MS_PER_MIB * input.length) / 2 ** 20
    if (isLong && own > most) this.fault(kind, `${own} ms for ${shown(input)}`)
  }

  #once(
    kind: string,
    input: Uint8Array,
    take: (input: Uint8Array) => unknown,
    also?: (error: unknown) => boolean,
    row?: Row,
  ): number {
    const bytes = new Uint8Array(input)
    const before = process.cpuUsage()
    try {
      take(bytes)
      if (row) row.taken++
    } catch (error) {
      if (!isCoded(error) && !also?.(error))
        this.fault(kind, `${(error as Error).stack?.split('\n').slice(0, 3)} for ${shown(input)}`)
    }
    const { user, system } = process.cpuUsage(before)
    return (user + system) / 1_000
  }

  /** Counts what was asked of a server elsewhere. */
  count(kind: string, isTaken: boolean): void {
    const row = this.#row(kind)
    row.count++
    if (isTaken) row.taken++
  }

  /** What an input took that was not awaited alone: others may stand in it, so that it is only told. */
  took(kind: string, input: Uint8Array, ms: number): void {
    const row = this.#row(kind)
    if (ms <= row.worstMs) return
    row.worstMs = ms
    row.worstBytes = input.length
  }

  get total(): number {
    return [...this.#rows.values()].reduce((sum, { count }) => sum + count, 0)
  }

  taken(kind: string): number {
    return this.#row(kind).taken
  }

  /** Tells what was seen. */
  report(grown: number): void {
    const rows = [...this.#rows].map(([kind, { count, taken, worstMs, worstBytes }]) => {
      const worst = worstMs > 0 ? `, worst ${worstMs.toFixed(1)} ms (${worstBytes} bytes)` : ''
      return `${kind}: ${count} inputs, ${taken} taken${worst}`
    })
    console.log([`seed ${SEED}: ${this.total} inputs, ${(grown / 2 ** 20).toFixed(1)} MiB more`, ...rows].join('\n  '))
  }

  #row(kind: string): Row {
    let row = this.#rows.get(kind)
    if (!row) {
      row = { count: 0, taken: 0, worstMs: 0, worstBytes: 0, faults: 0 }
      this.#rows.set(kind, row)
    }
    return row
  }
}

/** An input as it can be put into a test. */
export const shown = (input: Uint8Array): string => {
  const bytes = Buffer.from(input)
  const more = bytes.length > 600 ? ` … of ${bytes.length} bytes` : ''
  return `seed ${SEED}: ${bytes.subarray(0, 600).toString('base64')}${more} = ${JSON.stringify(bytes.subarray(0, 300).toString('latin1'))}`
}
