import { crc32 } from 'node:zlib'
import fc from 'fast-check'
import { Unpackr } from 'msgpackr'
import { expect, test } from 'vitest'
import {
  buildBlock,
  checkBlock,
  decodeBlock,
  readHeader,
  sealBlock,
  sliceBlock,
  spansOf,
  splitBlocks,
} from '../src/block.ts'
import { BODY_BYTES_MAX, encodeBody, FLAG, HEADER_BYTES } from '../src/body.ts'
import { putU32, putU64 } from '../src/bytes.ts'
import { APPEND_EVENTS_MAX, BLOCK_BYTES_MAX, type NewEvent, SEQ_MAX, TIME_MAX } from '../src/event.ts'
import { range, SEED } from './parts.ts'
import { after, anyBlock, channel, codeOf, concat, law, newEvents, plain, spanOf, sparse, time } from './random.ts'

console.log(`block: TEST_SEED=${SEED}`)

test('A block gives back every field of its events, dense or with a table', () => {
  law(500, anyBlock, ({ channel, block, events }) => {
    checkBlock(channel, block, crc32)
    expect(plain(decodeBlock(block))).toEqual(plain(events))
  })
})

test('The header says range, time, size, count and flags of what was sealed', () => {
  law(200, fc.tuple(channel, after, time, newEvents, newEvents), ([channel, after, time, one, two]) => {
    const bodies = [encodeBody(one), encodeBody(two)]
    const block = sealBlock(channel, bodies, { after, time }, crc32)
    const all = [...one, ...two]
    const { crc, ...header } = readHeader(block)
    expect(header).toEqual({
      flags:
        (all.some((event) => event.key !== null) ? FLAG.keyed : 0) |
        (all.some((event) => event.to !== null) ? FLAG.addressed : 0),
      count: all.length,
      length: block.length,
      after,
      last: after + all.length,
      time,
    })
    expect(checkBlock(channel, block, crc32)).toEqual({ crc, ...header })
  })
})

test('Bodies concatenate: one block of several appends holds their events in order', () => {
  law(200, fc.array(newEvents, { minLength: 1, maxLength: 4 }), (appends) => {
    const apart = sealBlock('c', appends.map(encodeBody), { after: 7, time: 9 }, crc32)
    const whole = sealBlock('c', [encodeBody(appends.flat())], { after: 7, time: 9 }, crc32)
    expect(Buffer.compare(apart, whole)).toBe(0)
  })
})

test('A table is written only where seqs are left out or times differ', () => {
  law(200, sparse, ({ block, events }) => {
    const { flags, after, last, time, count } = readHeader(block)
    expect(count).toBe(events.length)
    expect((flags & FLAG.holes) !== 0).toBe(last - after !== events.length)
    expect((flags & FLAG.times) !== 0).toBe(events.some((event) => event.time !== time))
    expect((flags & FLAG.keyed) !== 0).toBe(events.some((event) => event.key !== null))
    expect((flags & FLAG.addressed) !== 0).toBe(events.some((event) => event.to !== null))
  })
})

test('Spans rebuild the block that they were taken from, byte for byte', () => {
  law(300, anyBlock, ({ channel, block }) => {
    const again = buildBlock(channel, readHeader(block), spansOf(block), crc32)
    expect(Buffer.compare(again!, block)).toBe(0)
  })
})

test('A thousand events and data at every length form of MessagePack come back whole', () => {
  const sizes = [0, 1, 31, 32, 255, 256, 65_535, 65_536]
  const bare = { type: null, key: null, id: null, contentType: null, to: null, data: null }
  const given: NewEvent[] = [
    ...sizes.map((size) => ({ ...bare, data: new Uint8Array(size).fill(size) })),
    ...sizes.map((size) => ({ ...bare, key: 'k'.repeat(size), type: 'ü'.repeat(Math.ceil(size / 2)) })),
    ...[0, 15, 16, 100].map((n) => ({
      ...bare,
      to: { users: range(1, n).map((i) => `user ${i}`), groups: range(1, n).map((i) => `/ü/${i}`) },
    })),
  ]
  given.push(...range(given.length + 1, APPEND_EVENTS_MAX).map((i) => ({ ...bare, id: `${i}` })))
  const block = sealBlock('c', [encodeBody(given)], { after: 0, time: 1 }, crc32)
  expect(given.length).toBe(APPEND_EVENTS_MAX)
  expect(plain(decodeBlock(block))).toEqual(plain(given.map((event, i) => ({ ...event, seq: i + 1, time: 1 }))))
})

test('Data that a door read as a Buffer, or as a view into a larger one, are kept exactly', () => {
  const pool = Buffer.from('..exactly..')
  const bare = { type: null, key: null, id: null, contentType: null, to: null }
  const body = encodeBody([
    { ...bare, data: pool.subarray(2, 9) },
    { ...bare, data: new Uint8Array(pool.buffer, pool.byteOffset + 2, 7) },
  ])
  pool.fill(0)
  const block = sealBlock('c', [body], { after: 0, time: 1 }, crc32)
  expect(decodeBlock(block).map(({ data }) => Buffer.from(data!).toString())).toEqual(['exactly', 'exactly'])
})

test('Any MessagePack decoder reads the same body', () => {
  const decoder = new Unpackr({ useRecords: false })
  law(300, anyBlock, ({ block, events }) => {
    const { flags, count } = readHeader(block)
    const entry = flags & FLAG.times ? 8 : flags & FLAG.holes ? 4 : 0
    const body = block.subarray(HEADER_BYTES + entry * count)
    const read = body.length === 0 ? [] : (decoder.unpackMultiple(body) as unknown[][])
    expect(
      read.map(([type, key, id, contentType, data, to]) => [type, key, id, contentType, data && hex(data), to]),
    ).toEqual(
      events.map(({ type, key, id, contentType, data, to }) => [
        type,
        key,
        id,
        contentType,
        data && hex(data),
        to && [to.users, to.groups],
      ]),
    )
  })
})
const hex = (data: unknown): string => Buffer.from(data as Uint8Array).toString('hex')

test('Every truncation of a block is refused, and so is a byte too many', () => {
  law(30, anyBlock, ({ channel, block }) => {
    for (let length = 0; length < block.length; length++)
      if (codeOf(() => checkBlock(channel, block.subarray(0, length), crc32)) !== 'data-loss')
        expect.fail(`its first ${length} bytes were taken`)
    expect(codeOf(() => checkBlock(channel, concat([block, Uint8Array.of(0)]), crc32))).toBe('data-loss')
  })
})

test('Every single flipped bit of a block is refused', () => {
  law(15, anyBlock, ({ channel, block }) => {
    const flipped = block.slice()
    for (let bit = 0; bit < block.length * 8; bit++) {
      const mask = 1 << (bit & 7)
      flipped[bit >> 3]! ^= mask
      if (codeOf(() => checkBlock(channel, flipped, crc32)) !== 'data-loss') expect.fail(`flipped bit ${bit} was taken`)
      flipped[bit >> 3]! ^= mask
    }
    checkBlock(channel, flipped, crc32)
  })
})

test('A block under the name of another channel is refused', () => {
  law(300, fc.tuple(anyBlock, channel), ([{ channel, block }, other]) => {
    fc.pre(other !== channel)
    expect(codeOf(() => checkBlock(other, block, crc32))).toBe('data-loss')
    expect(codeOf(() => checkBlock(`${channel}x`, block, crc32))).toBe('data-loss')
  })
})

test('Without a crc, damage gives events or a coded refusal, never another failure', () => {
  law(
    300,
    fc.tuple(anyBlock, fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 6 })),
    ([{ block }, hits]) => {
      const damaged = block.slice()
      for (const [at, value] of hits) damaged[at % damaged.length] = value
      for (const read of [decodeBlock, spansOf, splitBlocks])
        expect(['taken', 'data-loss']).toContain(codeOf(() => read(damaged)))
    },
  )
  law(300, fc.uint8Array({ maxLength: 200 }), (noise) => {
    for (const read of [decodeBlock, spansOf, splitBlocks])
      expect(['taken', 'data-loss']).toContain(codeOf(() => read(noise)))
  })
})

test('A header that no block can have is refused before its crc is looked at', () => {
  const whole = sealBlock('c', [encodeBody([EMPTY, EMPTY])], { after: 5, time: 1 }, crc32)
  const changes: Record<string, (block: Uint8Array) => void> = {
    'format 0': (block) => block.fill(0, 0, 1),
    'format 2': (block) => block.fill(2, 0, 1),
    'an unknown flag': (block) => block.fill(16, 1, 2),
    'no events in a dense block': (block) => block.fill(0, 2, 4),
    'fewer events than a dense block covers': (block) => block.fill(1, 3, 4),
    'more events than it covers': (block) => putU64(block, 20, 6),
    'a length below a header': (block) => putU32(block, 4, HEADER_BYTES - 1),
    'a length beyond the bytes': (block) => putU32(block, 4, block.length + 1),
    'an empty range': (block) => putU64(block, 20, 5),
    'a range that falls': (block) => putU64(block, 20, 4),
    'a seq beyond 2^53 − 1': (block) => block.fill(0xff, 20, 28),
    'a time beyond 2^53 − 1': (block) => block.fill(0xff, 28, 36),
  }
  for (const [what, change] of Object.entries(changes)) {
    const block = whole.slice()
    change(block)
    expect([what, codeOf(() => readHeader(block))]).toEqual([what, 'data-loss'])
  }
})
const EMPTY: NewEvent = { type: null, key: null, id: null, contentType: null, data: null, to: null }

test('A table whose seqs do not rise within the range is refused, and so are bytes after the last event', () => {
  const spans = [3, 5].map((seq) => ({ ...spanOf({ ...EMPTY, seq, time: 1 }) }))
  const whole = buildBlock('c', { after: 2, last: 6, time: 1 }, spans, crc32)!
  const second = HEADER_BYTES + 4
  for (const offset of [0, 1, 5, 0xffffffff]) {
    const block = whole.slice()
    putU32(block, second, offset)
    for (const read of [decodeBlock, spansOf]) expect(codeOf(() => read(block))).toBe('data-loss')
  }
  const longer = concat([whole, Uint8Array.of(0x96)])
  putU32(longer, 4, longer.length)
  for (const read of [decodeBlock, spansOf]) expect(codeOf(() => read(longer))).toBe('data-loss')
})

/** Places that cut (after, last] into pieces, both ends included. */
const cutsOf = (block: Uint8Array, fractions: readonly number[]): number[] => {
  const { after, last } = readHeader(block)
  const inner = fractions.map((f) => after + Math.floor(f * (last - after)))
  return [...new Set([after, ...inner, last])].sort((a, b) => a - b)
}
const fractions = fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 5 })

test('Slices of a block chain, cover its range, and hold its events together', () => {
  law(300, fc.tuple(anyBlock, fractions), ([{ channel, block, events }, fractions]) => {
    const cuts = cutsOf(block, fractions)
    const slices = cuts.slice(1).map((last, i) => sliceBlock(channel, block, { after: cuts[i]!, last }, crc32))
    expect(slices.map((slice) => checkBlock(channel, slice, crc32)).map(({ after, last }) => [after, last])).toEqual(
      cuts.slice(1).map((last, i) => [cuts[i], last]),
    )
    expect(plain(slices.flatMap((slice) => decodeBlock(slice)))).toEqual(plain(events))
  })
})

test('A slice whose range covers the block is that block, not a copy', () => {
  law(100, anyBlock, ({ channel, block }) => {
    const { after, last } = readHeader(block)
    expect(sliceBlock(channel, block, { after: Math.max(0, after - 1), last: last + 1 }, crc32)).toBe(block)
  })
})

test('Decoding a range gives the events of that range only', () => {
  law(300, fc.tuple(anyBlock, fractions), ([{ block, events }, fractions]) => {
    const [after, last] = [cutsOf(block, fractions).at(0)!, cutsOf(block, fractions).at(-2)!]
    for (const [from, to] of [
      [after, last],
      [last, SEQ_MAX],
      [0, SEQ_MAX],
      [0, after],
    ] as const)
      expect(plain(decodeBlock(block, from, to))).toEqual(
        plain(events.filter((event) => event.seq > from && event.seq <= to)),
      )
  })
})

test('A run of blocks splits into the blocks that it was joined from, and a cut run is refused', () => {
  law(40, fc.array(anyBlock, { maxLength: 4 }), (made) => {
    const blocks = made.map(({ block }) => block)
    const run = concat(blocks)
    expect(splitBlocks(run).map(hex)).toEqual(blocks.map(hex))
    const ends = new Set(blocks.map((_, i) => concat(blocks.slice(0, i + 1)).length))
    for (let length = 1; length < run.length; length++)
      if (!ends.has(length) && codeOf(() => splitBlocks(run.subarray(0, length))) !== 'data-loss')
        expect.fail(`${length} of ${run.length} bytes were taken`)
  })
})

test('A body may fill a block to its last byte, and one byte more is too large', () => {
  const head = encodeBody([{ ...EMPTY, data: new Uint8Array(65_536) }]).bytes.length - 65_536
  const filling = { ...EMPTY, data: new Uint8Array(BODY_BYTES_MAX - head) }
  const block = sealBlock('c', [encodeBody([filling])], { after: 0, time: 1 }, crc32)
  expect(block.length).toBe(BLOCK_BYTES_MAX)
  expect(decodeBlock(block)[0]!.data!.length).toBe(filling.data.length)
  const larger = { ...EMPTY, data: new Uint8Array(filling.data.length + 1) }
  expect(codeOf(() => encodeBody([larger]))).toBe('too-large')
  expect(codeOf(() => encodeBody([filling, EMPTY]))).toBe('too-large')
})

test('The newest seq and the latest time that a header can hold are exact', () => {
  const block = sealBlock('c', [encodeBody([EMPTY])], { after: SEQ_MAX - 1, time: TIME_MAX }, crc32)
  expect(decodeBlock(block)).toEqual([{ ...EMPTY, seq: SEQ_MAX, time: TIME_MAX }])
  const later = sealBlock('c', [encodeBody([EMPTY])], { after: 0, time: TIME_MAX + 1 }, crc32)
  expect(codeOf(() => decodeBlock(later))).toBe('data-loss')
})

test('A merge whose table can not hold an offset is not made, and the farthest that it can hold is', () => {
  const build = (seq: number, delta: number) =>
    buildBlock(
      'c',
      { after: 0, last: 2 ** 33, time: 2 ** 32 },
      [spanOf({ ...EMPTY, seq, time: 2 ** 32 + delta })],
      crc32,
    )
  expect(build(2 ** 32, 0)).toBeUndefined()
  expect(build(1, 2 ** 31)).toBeUndefined()
  expect(build(1, -(2 ** 31) - 1)).toBeUndefined()
  for (const [seq, delta] of [
    [2 ** 32 - 1, 2 ** 31 - 1],
    [1, -(2 ** 31)],
  ] as const)
    expect(decodeBlock(build(seq, delta)!)).toEqual([{ ...EMPTY, seq, time: 2 ** 32 + delta }])
})
