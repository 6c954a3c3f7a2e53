import { crc32 } from 'node:zlib'
import fc from 'fast-check'
import { Packr, Unpackr } from 'msgpackr'
import { expect, test } from 'vitest'
import { buildBlock, sealBlock, spansOf } from '../../src/block.ts'
import { encodeBody } from '../../src/body.ts'
import type { EventsMessage } from '../../src/client/codec.ts'
import { encode, msgpackCodec } from '../../src/client/msgpack.ts'
import { body, event, range, SEED } from '../parts.ts'

const packr = new Packr({ useRecords: false, variableMapSize: true, int64AsType: 'number' })
const unpackr = new Unpackr({ useRecords: false, int64AsType: 'number' })

/** Values that the client sends. */
const values = fc.letrec((tie) => ({
  leaf: fc.oneof(
    fc.string({ unit: 'grapheme', maxLength: 300 }),
    fc.maxSafeInteger(),
    fc.double({ noNaN: true, noDefaultInfinity: true }),
    fc.boolean(),
    fc.constant(null),
    fc.uint8Array({ maxLength: 70_000 }).map((bytes) => Buffer.from(bytes)),
  ),
  value: fc.oneof(
    { maxDepth: 3, depthSize: 'small' },
    tie('leaf'),
    fc.array(tie('value'), { maxLength: 40 }),
    fc.dictionary(
      fc.string({ minLength: 1, maxLength: 40 }).filter((name) => name !== '__proto__'),
      tie('value'),
      {
        maxKeys: 20,
        noNullPrototype: true,
      },
    ),
  ),
})).value

test('what we encode is what any other decoder reads', () => {
  fc.assert(
    fc.property(values, (value) => {
      const read = unpackr.unpack(Buffer.from(encode(value)))
      expect(JSON.stringify(read)).toBe(JSON.stringify(unpackr.unpack(packr.pack(value))))
    }),
    { seed: SEED, numRuns: 300 },
  )
})

test('what another encoder writes is what we read', () => {
  fc.assert(
    fc.property(values, (value) => {
      const message = msgpackCodec.decode(packr.pack({ op: 'x', value })) as unknown as { value: unknown }
      expect(JSON.stringify(message.value)).toBe(JSON.stringify(unpackr.unpack(packr.pack(value))))
    }),
    { seed: SEED, numRuns: 300 },
  )
})

test('a frame that is cut anywhere, or goes on behind its end, is refused', () => {
  const bytes = packr.pack({
    op: 'events',
    channel: 'a',
    epoch: 'e',
    after: 1,
    last: 2 ** 40,
    blocks: Buffer.alloc(300),
  })
  for (let length = 0; length < bytes.length; length++)
    expect(() => msgpackCodec.decode(bytes.subarray(0, length))).toThrow()
  expect(() => msgpackCodec.decode(Buffer.concat([bytes, Buffer.of(0)]))).toThrow()
})

test('a frame that is nested without end is refused before the stack is', () => {
  expect(() => msgpackCodec.decode(Buffer.alloc(100_000, 0x91))).toThrow(RangeError)
})

test('a map in a frame can not reach a prototype', () => {
  const name = Buffer.from('__proto__')
  const inner = Buffer.concat([Buffer.of(0x81, 0xa9), name, Buffer.of(0x81, 0xa1, 0x78, 0x01)])
  const bytes = Buffer.concat([Buffer.of(0x82, 0xa2), Buffer.from('op'), Buffer.of(0xa1, 0x78, 0xa1, 0x79), inner])
  msgpackCodec.decode(bytes)
  expect(({} as Record<string, unknown>).x).toBeUndefined()
})

test('an append carries JSON data as their text, so that a retry over HTTP is the same append', () => {
  const events = [
    { data: { a: 1.0 } },
    { type: 't', key: 'k' },
    { data: 'text', contentType: 'text/plain' },
    { data: null },
  ]
  const frame = msgpackCodec.encodeAppend!(7, {
    channel: 'a',
    events: JSON.stringify(events),
    expectedSeq: undefined,
    idempotencyKey: 'key',
  })
  expect(unpackr.unpack(new Uint8Array(frame as Uint8Array))).toEqual({
    op: 'append',
    ref: 7,
    channel: 'a',
    idempotencyKey: 'key',
    events: [
      { data: new TextEncoder().encode('{"a":1}'), contentType: 'application/json' },
      { type: 't', key: 'k' },
      { data: 'text', contentType: 'text/plain' },
      { data: new TextEncoder().encode('null'), contentType: 'application/json' },
    ],
  })
})

const block = (after: number, count: number, time = 1_000): Uint8Array =>
  sealBlock('a', [body(...range(after + 1, after + count))], { after, time }, crc32)

const frameOf = (after: number, last: number, ...blocks: Uint8Array[]) => {
  const message = { op: 'events', channel: 'a', epoch: 'e1', after, last, blocks: Buffer.concat(blocks) }
  return msgpackCodec.frame(message as unknown as EventsMessage, 100)
}

test('the first block may begin before the place and the last one end behind it', () => {
  const frame = frameOf(4, 9, block(0, 6), block(6, 6))
  expect(frame.isWhole).toBe(true)
  expect(frame.events('a', 4).map(({ seq, data }) => [seq, data])).toEqual(range(5, 9).map((seq) => [seq, seq]))
})

test('blocks that do not follow each other, begin behind the place, or end before the page does are not whole', () => {
  expect(frameOf(0, 4, block(0, 2), block(3, 1)).isWhole).toBe(false)
  expect(frameOf(0, 4, block(0, 3), block(2, 2)).isWhole).toBe(false)
  expect(frameOf(0, 4, block(1, 3)).isWhole).toBe(false)
  expect(frameOf(0, 4, block(0, 3)).isWhole).toBe(false)
  expect(frameOf(0, 4, block(0, 4).subarray(0, 40)).isWhole).toBe(false)
  expect(frameOf(0, 4, Buffer.alloc(50, 7)).isWhole).toBe(false)
  expect(frameOf(0, 4).isWhole).toBe(true)
})

test('an event of a block looks as the JSON doors show it', () => {
  const bytes = (...values: number[]) => Uint8Array.of(...values)
  const events = [
    event({ a: [1, '🌊'] }, { type: 't', id: 'i' }),
    event(undefined, { key: 'k' }),
    event(undefined, { type: 'only.type' }),
    event(undefined, { contentType: 'text/plain; charset=utf-8', data: new TextEncoder().encode('tide') }),
    event(undefined, { contentType: 'text/plain', data: bytes(0xff) }),
    event(undefined, { contentType: 'image/png', data: bytes(1, 2, 3) }),
    event(1, { to: { users: ['u'], groups: [] } }),
  ]
  const whole = sealBlock('a', [encodeBody(events)], { after: 0, time: 0 }, crc32)
  const time = '1970-01-01T00:00:00.000Z'
  expect(frameOf(0, 7, whole).events('a', 0)).toEqual([
    { channel: 'a', seq: 1, time, type: 't', id: 'i', data: { a: [1, '🌊'] } },
    { channel: 'a', seq: 2, time, key: 'k', tombstone: true },
    { channel: 'a', seq: 3, time, type: 'only.type' },
    { channel: 'a', seq: 4, time, contentType: 'text/plain; charset=utf-8', data: 'tide' },
    { channel: 'a', seq: 5, time, contentType: 'text/plain', dataBase64: '/w==' },
    { channel: 'a', seq: 6, time, contentType: 'image/png', dataBase64: 'AQID' },
    { channel: 'a', seq: 7, time, data: 1, to: { users: ['u'], groups: [] } },
  ])
})

test('a block with holes gives the events it has', () => {
  const dense = block(0, 6)
  const spans = spansOf(dense).filter(({ seq }) => seq % 2 === 0)
  const holes = buildBlock('a', { after: 0, last: 6, time: 1_000 }, spans, crc32)!
  expect(
    frameOf(0, 6, holes)
      .events('a', 2)
      .map(({ seq }) => seq),
  ).toEqual([4, 6])
})

const textsBlock = (texts: readonly string[]): Uint8Array => {
  const events = texts.map((text) => event(undefined, { type: 't', data: new TextEncoder().encode(text) }))
  return sealBlock('a', [encodeBody(events)], { after: 0, time: 0 }, crc32)
}

test('the data of every event are what its text is when it is read alone', () => {
  const texts = fc.array(
    fc.oneof(
      fc.json(),
      fc.constantFrom(' 1 ', '-0', '"a\\u2028,"', '[1, 2]', '{"a":1,"a":2}', '{"__proto__":1}', '"🌊"'),
      // Two of which are more than is read together, and one that is more alone.
      fc.integer({ min: 15_000, max: 40_000 }).map((length) => JSON.stringify('x'.repeat(length))),
    ),
    { minLength: 1, maxLength: 40 },
  )
  fc.assert(
    fc.property(texts, (given) => {
      const events = frameOf(0, given.length, textsBlock(given)).events('a', 0)
      expect(events.map(({ data }) => data)).toEqual(given.map((text) => JSON.parse(text)))
    }),
    { seed: SEED, numRuns: 100 },
  )
})

test('data that are not JSON are data-loss, also where all together would be', () => {
  const bad: [number, string[]][] = [
    [2, ['1', '', '2']],
    [1, ['1,2', '3']],
    [1, ['[1', '2]', '3,4']],
    [2, ['0', '3,0,4', '[1', '2]']],
    [2, ['{}', '{"a":[{}', '{}]}', '{},{}']],
    [3, ['1', '2', '1]']],
    [2, ['1', '"'.padEnd(40_000)]],
  ]
  for (const [seq, texts] of bad) {
    const details = { after: seq - 1, upTo: seq }
    const frame = frameOf(0, texts.length, textsBlock(texts))
    expect(() => frame.events('a', 0)).toThrow(expect.objectContaining({ code: 'data-loss', details }))
  }
})

test('types and keys that are alike, or change, are those of their event', () => {
  const pairs = [
    ['t', 'a'],
    ['t', 'b'],
    ['tt', 'b'],
    ['t', 'ü'],
    ['u', 'ü'],
  ] as const
  const whole = sealBlock(
    'a',
    [encodeBody(pairs.map(([type, key]) => event(1, { type, key })))],
    { after: 0, time: 0 },
    crc32,
  )
  expect(
    frameOf(0, 5, whole)
      .events('a', 0)
      .map(({ type, key }) => [type, key]),
  ).toEqual(pairs)
})

test('a type that is not UTF-8 is data-loss', () => {
  const whole = sealBlock('a', [encodeBody([event(1, { type: 'tide' })])], { after: 0, time: 0 }, crc32)
  whole[whole.indexOf(0x74)] = 0xff
  expect(() => frameOf(0, 1, whole).events('a', 0)).toThrow(expect.objectContaining({ code: 'data-loss' }))
})
