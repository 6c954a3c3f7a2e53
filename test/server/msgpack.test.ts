import fc from 'fast-check'
import { Packr } from 'msgpackr'
import { expect, test } from 'vitest'
import { FLAG } from '../../src/body.ts'
import type { Event } from '../../src/event.ts'
import { KnownTexts, wordsOf } from '../../src/formats/json.ts'
import { msgpackFields } from '../../src/formats/msgpack.ts'
import { parseJsonBody, parseMsgpackBody } from '../../src/formats/parse.ts'
import { codeOf, law } from '../random.ts'
import { eventsOf } from './bare.ts'

const packr = new Packr({ useRecords: false, variableMapSize: true })
const pack = (value: unknown): Buffer => packr.pack(value)
const parsed = (value: unknown): Event[] => eventsOf(parseMsgpackBody(pack(value)))
const dataOf = (value: unknown): string => Buffer.from(parsed(value)[0]!.data!).toString()
const refusal = (bytes: Uint8Array): string => codeOf(() => parseMsgpackBody(bytes))
/** `{ "data": <these bytes> }` */
const withData = (...bytes: number[]): Buffer => Buffer.from([0x81, 0xa4, ...Buffer.from('data'), ...bytes])

const words = wordsOf(['op', 'ref', 'channel', 'events'])
const known = new KnownTexts(['append'])
const fields = (bytes: Uint8Array) => msgpackFields(bytes, words, known)

test('A value is kept as JSON, a bin as those bytes.', () => {
  expect(dataOf({ data: { a: [1, -1, 1.5, true, null, 'ü"\n'], b: {} } })).toBe(
    '{"a":[1,-1,1.5,true,null,"ü\\"\\n"],"b":{}}',
  )
  const bin = parsed({ data: new Uint8Array([0, 255]), type: 'a', key: 'ü', id: 'i' })[0]!
  expect(bin).toMatchObject({ type: 'a', key: 'ü', id: 'i', contentType: 'application/octet-stream', to: null })
  expect([...bin.data!]).toEqual([0, 255])
  expect(parsed({ data: Buffer.from('<a/>'), contentType: 'Application/XML' })[0]!.contentType).toBe('application/xml')
  expect(dataOf({ data: null })).toBe('null')
  expect(dataOf({ contentType: 'text/plain', data: 'ü"' })).toBe('ü"')
  expect(parsed({ dataBase64: 'AP8=' })[0]!.data).toHaveLength(2)
})

test('A bin that says JSON is checked, and put on one line.', () => {
  const json = (text: string): unknown => ({ contentType: 'application/json', data: Buffer.from(text) })
  expect(parsed(json('1'))[0]!.contentType).toBe(null)
  expect(dataOf(json(' {"a":\n[1]}\r\n'))).toBe('{"a": [1]}')
  for (const wrong of ['', '{', '1 2', '9007199254740993', 'NaN', '['.repeat(65) + ']'.repeat(65)])
    expect([wrong, refusal(pack(json(wrong)))]).toEqual([wrong, 'bad-request'])
})

test('A body is one event or a list of them, and is read to its last byte.', () => {
  expect(parseMsgpackBody(pack([{ data: 1 }, { key: 'a' }]))).toMatchObject({ count: 2, flags: FLAG.keyed })
  expect(parseMsgpackBody(pack({ data: 1, to: { users: ['ann'] } }))).toMatchObject({ flags: FLAG.addressed })
  expect(parseMsgpackBody(pack(Array(1_000).fill({ data: 1 }))).count).toBe(1_000)
  expect(refusal(pack(Array(1_001).fill({ data: 1 })))).toBe('too-large')
  expect(refusal(pack({ data: Buffer.alloc(1_000_000) }))).toBe('too-large')
  for (const wrong of [[], {}, 1, null, 'a', [1], [[]], [{ data: 1 }, {}]])
    expect(refusal(pack(wrong))).toBe('bad-request')
  expect(refusal(Buffer.concat([pack({ data: 1 }), pack(1)]))).toBe('bad-request')
  expect(refusal(Buffer.alloc(0))).toBe('bad-request')
})

test('What JSON can not hold is refused.', () => {
  const wrong: Record<string, Buffer> = {
    ext: withData(0xd4, 0, 0),
    'a time': pack({ data: new Date(0) }),
    undefined: withData(0xd4, 0x00, 0x00),
    'the code that is never used': withData(0xc1),
    NaN: withData(0xcb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0),
    Infinity: withData(0xcb, 0x7f, 0xf0, 0, 0, 0, 0, 0, 0),
    'Infinity in half the bytes': withData(0xca, 0x7f, 0x80, 0, 0),
    'uint64 2^53': withData(0xcf, 0, 0x20, 0, 0, 0, 0, 0, 0),
    'int64 −2^53': withData(0xd3, 0xff, 0xe0, 0, 0, 0, 0, 0, 0),
    'an integer of 2^60 as a float': withData(0xcb, 0x43, 0xb0, 0, 0, 0, 0, 0, 0),
    'a bin in a list': pack({ data: [new Uint8Array(1)] }),
    'a bin in a map': pack({ data: { a: { b: new Uint8Array(1) } } }),
    'a name that is a number': withData(0x81, 0x01, 0x01),
    'a name that is nil': withData(0x81, 0xc0, 0x01),
    'text that is not UTF-8': withData(0xa1, 0xff),
    'half a character': withData(0xa3, 0xed, 0xa0, 0x80),
    'a name that is not UTF-8': withData(0x81, 0xa1, 0xc3, 0x01),
    'data given twice': Buffer.concat([Buffer.from([0x82]), withData(1).subarray(1), withData(2).subarray(1)]),
    'data in two ways': pack({ data: 1, dataBase64: '' }),
    'an unknown field': pack({ data: 1, seq: 1 }),
    'an own __proto__': Buffer.from([0x81, 0xa9, ...Buffer.from('__proto__'), 0x80]),
    'a type that is a number': pack({ type: 1 }),
    'a type that is bytes': pack({ type: Buffer.from('a') }),
    'a base64 that is a number': pack({ dataBase64: 1 }),
    'text under another type that is no text': pack({ contentType: 'text/plain', data: 1 }),
    'a list as an audience': pack({ data: 1, to: ['ann'] }),
    'a deep audience': pack({ data: 1, to: { users: [['ann']] } }),
  }
  for (const [what, bytes] of Object.entries(wrong)) expect([what, refusal(bytes)]).toEqual([what, 'bad-request'])
})

test('Numbers are kept exactly, up to 2^53 − 1 and in every form.', () => {
  const forms: [string, number[]][] = [
    ['9007199254740991', [0xcf, 0, 0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]],
    ['-9007199254740991', [0xd3, 0xff, 0xe0, 0, 0, 0, 0, 0, 1]],
    ['4294967295', [0xce, 255, 255, 255, 255]],
    ['65535', [0xcd, 255, 255]],
    ['255', [0xcc, 255]],
    ['-128', [0xd0, 128]],
    ['-32768', [0xd1, 128, 0]],
    ['-2147483648', [0xd2, 128, 0, 0, 0]],
    ['-32', [0xe0]],
    ['127', [0x7f]],
    ['1.5', [0xca, 0x3f, 0xc0, 0, 0]],
    ['1e+300', [0xcb, 0x7e, 0x37, 0xe4, 0x3c, 0x88, 0x00, 0x75, 0x9c]],
    ['0', [0xcb, 0x80, 0, 0, 0, 0, 0, 0, 0]],
  ]
  for (const [text, bytes] of forms)
    expect(Buffer.from(eventsOf(parseMsgpackBody(withData(...bytes)))[0]!.data!).toString()).toBe(text)
})

test('Whatever a map inside data names is kept, __proto__ too.', () => {
  const named = withData(
    0x82,
    0xa9,
    ...Buffer.from('__proto__'),
    0x81,
    0xa1,
    0x61,
    0x01,
    0xab,
    ...Buffer.from('constructor'),
    0x02,
  )
  expect(Buffer.from(eventsOf(parseMsgpackBody(named))[0]!.data!).toString()).toBe(
    '{"__proto__":{"a":1},"constructor":2}',
  )
})

test('Sixty-four levels are taken and one more is refused; a false length costs nothing.', () => {
  const deep = (levels: number): Buffer => withData(...Array(levels - 1).fill(0x91), 0x90)
  expect(eventsOf(parseMsgpackBody(deep(64)))[0]!.data).toHaveLength(128)
  expect(refusal(deep(65))).toBe('bad-request')
  expect(refusal(Buffer.alloc(1_000_000, 0x91))).toBe('bad-request')
  expect(codeOf(() => fields(Buffer.alloc(1_000_000, 0x91)))).toBe('bad-request')
  for (const claim of [0xdd, 0xdf, 0xdb, 0xc6]) {
    expect(refusal(withData(claim, 255, 255, 255, 255))).toBe('bad-request')
    expect(codeOf(() => fields(Buffer.from([claim, 255, 255, 255, 255])))).toBe('bad-request')
  }
})

test('Every cut of a good body is refused, and so is a byte behind it.', () => {
  const whole = pack([
    { data: { a: [1.5, 'ü', -200_000] }, type: 'a', to: { groups: ['/staff'] } },
    { data: Buffer.alloc(300) },
  ])
  for (let end = 0; end < whole.length; end++)
    expect([end, refusal(whole.subarray(0, end))]).toEqual([end, 'bad-request'])
  expect(refusal(Buffer.concat([whole, Buffer.from([0xc0])]))).toBe('bad-request')
})

test('A message is decoded but for its events, which are encoded, and refused when they are asked for.', () => {
  const whole = { op: 'append', ref: 7, more: { a: [new Uint8Array([1])] }, channel: 'c', events: [{ data: [1] }] }
  // The second time a text is known by its bytes.
  for (let i = 0; i < 2; i++) {
    const message = fields(pack(whole))
    expect(message.names()).toEqual(['op', 'ref', 'more', 'channel', 'events'])
    expect(['op', 'ref', 'more', 'channel', 'none'].map((name) => message.value(name))).toEqual([
      ...['append', 7, { a: [Buffer.from([1])] }, 'c', undefined],
    ])
    const events = eventsOf(message.events())
    expect(Buffer.from(events[0]!.data!).toString()).toBe('[1]')
  }
  expect(fields(pack({ channel: 'd' })).value('channel')).toBe('d')
  const badEvents = fields(pack({ events: [{ data: 1, x: 1 }], op: 'append' }))
  expect(badEvents.value('op')).toBe('append')
  expect(codeOf(() => badEvents.events())).toBe('bad-request')
  expect(codeOf(() => fields(pack({ op: 'append' })).events())).toBe('bad-request')
  for (const events of [undefined, null, 1, 'a', [], {}])
    expect(codeOf(() => fields(pack({ events })).events())).toBe('bad-request')
  // What is cut behind events that are wrong is no message at all.
  const cut = pack({ events: [{ data: 1, x: 1 }], op: 'append' }).subarray(0, -1)
  expect(codeOf(() => fields(cut))).toBe('bad-request')
})

test('The fields of a message have any name, each once; those of a map in it are its own properties.', () => {
  const proto = [0x82, 0xa9, ...Buffer.from('__proto__'), 0x80, 0xa1, 0x61, 0x01]
  expect(fields(Buffer.from(proto)).names()).toEqual(['__proto__', 'a'])
  const map = fields(Buffer.from([0x81, 0xa1, 0x62, ...proto])).value('b') as object
  expect(Object.keys(map)).toEqual(['__proto__', 'a'])
  expect(Object.getPrototypeOf(map)).toBe(Object.prototype)
  for (const name of ['a', 'op']) {
    const field = [0xa0 | name.length, ...Buffer.from(name), 1]
    expect(codeOf(() => fields(Buffer.from([0x82, ...field, ...field])))).toBe('bad-request')
  }
})

test('Random events say the same in MessagePack and in JSON.', () => {
  const data = fc.jsonValue({ maxDepth: 4 }).filter((value) => !/\d{16}|e\+|\p{Surrogate}/u.test(JSON.stringify(value)))
  const event = fc.record({ data, type: fc.stringMatching(/^[a-z]{6,20}$/) })
  law(500, fc.array(event, { minLength: 1, maxLength: 5 }), (events) => {
    const text = JSON.stringify(events)
    const fromJson = eventsOf(parseJsonBody(Buffer.from(text)))
    // Through JSON once, as -0 is 0 there.
    expect(
      parsed(JSON.parse(text)).map(({ data, ...rest }) => ({ ...rest, data: Buffer.from(data!).toString() })),
    ).toEqual(fromJson.map(({ data, ...rest }) => ({ ...rest, data: Buffer.from(data!).toString() })))
  })
})

test('Bytes at random, and good bodies with bytes changed, are taken or refused with a code, never anything else.', () => {
  const good = pack([
    { data: { a: [1, 'ü', 1.5, 70_000] }, type: 'a', key: 'k' },
    { data: Buffer.from('x'), to: { users: ['ann'] } },
  ])
  const changes = fc.array(fc.tuple(fc.nat(good.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 })
  const changed = changes.map((all) => {
    const copy = Buffer.from(good)
    for (const [at, value] of all) copy[at] = value
    return copy
  })
  law(3_000, fc.oneof(changed, fc.uint8Array({ maxLength: 60 })), (given) => {
    expect(['taken', 'bad-request', 'too-large']).toContain(refusal(given))
    expect(['taken', 'bad-request']).toContain(codeOf(() => fields(given)))
  })
})
