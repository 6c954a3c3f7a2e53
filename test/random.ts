/** Random events and blocks, and small parts of the tests that use them. */
import { crc32 } from 'node:zlib'
import fc from 'fast-check'
import { buildBlock, type Span, sealBlock } from '../src/block.ts'
import { encodeBody } from '../src/body.ts'
import { TidemarkError } from '../src/errors.ts'
import { type Event, type NewEvent, SEQ_MAX, TIME_MAX } from '../src/event.ts'
import { SEED } from './parts.ts'

/** Holds for `numRuns` random values, or fails with the seed and the smallest value that it found. */
export const law = <T>(numRuns: number, of: fc.Arbitrary<T>, holds: (value: T) => void): void => {
  fc.assert(fc.property(of, holds), { seed: SEED, numRuns })
}

/** Texts around every MessagePack length form, from ASCII to beyond the basic plane, byte order marks included. */
const text = fc.oneof(
  fc.string({ maxLength: 40 }),
  fc.string({ unit: 'binary', maxLength: 40 }),
  fc.constantFrom('', '\ufeffmark', 'ü'.repeat(16), 'a'.repeat(31), 'a'.repeat(32), 'é'.repeat(127), 'x'.repeat(256)),
)
const nullable = <T>(of: fc.Arbitrary<T>): fc.Arbitrary<T | null> => fc.option(of, { nil: null })
const names = fc.array(text, { maxLength: 20, size: 'small' })
export const newEvent: fc.Arbitrary<NewEvent> = fc.record({
  type: nullable(text),
  key: nullable(text),
  id: nullable(text),
  contentType: nullable(text),
  data: nullable(fc.uint8Array({ maxLength: 300 })),
  to: fc.option(fc.record({ users: names, groups: names }), { nil: null, freq: 4 }),
})
export const newEvents = fc.array(newEvent, { minLength: 1, maxLength: 8 })
export const channel = fc.stringMatching(/^[A-Za-z0-9._:-]{1,20}$/)
export const after = fc.oneof(
  fc.nat(1_000),
  fc.maxSafeNat().map((n) => Math.min(n, SEQ_MAX - 2 ** 33)),
)
export const time = fc.integer({ min: 2 ** 31, max: TIME_MAX - 2 ** 31 })

export interface Made {
  readonly channel: string
  readonly block: Uint8Array
  readonly events: Event[]
}

export const dense: fc.Arbitrary<Made> = fc
  .record({ channel, after, time, given: newEvents })
  .map(({ channel, after, time, given }) => ({
    channel,
    block: sealBlock(channel, [encodeBody(given)], { after, time }, crc32),
    events: given.map((event, i) => ({ ...event, seq: after + i + 1, time })),
  }))

export const spanOf = ({ seq, time, ...event }: Event): Span => {
  const { bytes, flags } = encodeBody([event])
  return { seq, time, bytes, flags }
}

/** Blocks with a table: seqs left out, times of their own, or both; also a block whose every event is gone. */
export const sparse: fc.Arbitrary<Made> = fc
  .record({
    channel,
    after,
    time,
    given: fc.array(
      fc.record({
        event: newEvent,
        skipped: fc.oneof({ weight: 4, arbitrary: fc.nat(3) }, { weight: 1, arbitrary: fc.nat(2 ** 26) }),
        delta: fc.oneof(fc.constant(0), fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 })),
      }),
      { maxLength: 8 },
    ),
    tail: fc.nat(5),
  })
  .map(({ channel, after, time, given, tail }) => {
    let seq = after
    const events = given.map(({ event, skipped, delta }) => {
      seq += skipped + 1
      return { ...event, seq, time: time + delta }
    })
    const last = seq + tail + (given.length === 0 ? 1 : 0)
    const block = buildBlock(channel, { after, last, time }, events.map(spanOf), crc32)
    if (block === undefined) throw new Error('these offsets fit a table')
    return { channel, block, events }
  })

export const anyBlock = fc.oneof(dense, sparse)

/** Events in a form that is compared at speed and shown readably. */
export const plain = (events: readonly Event[]) =>
  events.map(({ data, ...event }) => ({ ...event, data: data && Buffer.from(data).toString('hex') }))

export const codeOf = (run: () => unknown): string => {
  try {
    run()
  } catch (error) {
    if (error instanceof TidemarkError) return error.code
    throw error
  }
  return 'taken'
}

export const concat = (parts: readonly Uint8Array[]): Uint8Array => Uint8Array.from(Buffer.concat(parts))
