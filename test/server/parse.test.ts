import fc from 'fast-check'
import { expect, test } from 'vitest'
import { BODY_BYTES_MAX, type Body, FLAG } from '../../src/body.ts'
import { hasCode } from '../../src/errors.ts'
import type { Event } from '../../src/event.ts'
import { jsonFields, NdjsonReader, parseJsonBody, parseJsonEvents } from '../../src/formats/parse.ts'
import { codeOf, law } from '../random.ts'
import { eventsOf } from './bare.ts'

const bytes = (value: unknown): Buffer => Buffer.from(typeof value === 'string' ? value : JSON.stringify(value))

const parsed = (value: unknown): Event[] => eventsOf(parseJsonBody(bytes(value)))
const dataOf = (value: unknown): string | null => {
  const { data } = parsed(value)[0]!
  return data && Buffer.from(data).toString()
}
const refusal = (value: unknown): string => codeOf(() => parseJsonBody(bytes(value)))

test('An event has the fields that were given, and null for the others.', () => {
  const all = '{"type":"node.added","key":"/photos/ä.jpg","id":"b7 c1","data":{"bytes":1024}}'
  expect(parsed(all)[0]).toMatchObject({
    type: 'node.added',
    key: '/photos/ä.jpg',
    id: 'b7 c1',
    contentType: null,
    to: null,
  })
  expect(dataOf(all)).toBe('{"bytes":1024}')
  expect(parsed('{"type":"ping"}')[0]).toMatchObject({ type: 'ping', key: null, id: null, data: null })
  expect(parsed({ data: 1, to: { users: ['ann'], groups: ['/staff'] } })[0]!.to).toEqual({
    users: ['ann'],
    groups: ['/staff'],
  })
})

test('A body is one event or a list, and its flags tell keys and addresses.', () => {
  expect(parseJsonBody(bytes([{ data: 1 }, { key: 'a', data: 2 }]))).toMatchObject({ count: 2, flags: FLAG.keyed })
  expect(parseJsonBody(bytes({ data: 1, to: { users: ['ann'] } }))).toMatchObject({ count: 1, flags: FLAG.addressed })
  expect(parsed(' \n[ {"data":1}\t,\r\n{"data":2} ] \n').map(({ seq }) => seq)).toEqual([1, 2])
})

test('Data is kept as its sender wrote it, but for line breaks between tokens.', () => {
  for (const data of [
    '{"b":1,"a":[1.50,-0,1E2]}',
    '"\\u00e9\\/\\n"',
    ' 1',
    '{"__proto__":{"x":1},"a":1,"a":2}',
    '"ü€😀"',
  ])
    expect(dataOf(`{"data":${data}}`)).toBe(data.trim())
  expect(dataOf('{"data":{\r\n "a": "x\\ny",\n"b":\t2}}')).toBe('{   "a": "x\\ny", "b":\t2}')
  expect(dataOf('[{\n"data":[1,\n2]}\n]')).toBe('[1, 2]')
})

test('Null is data; no data at all with a key is a tombstone; nothing at all is refused.', () => {
  expect(dataOf('{"data":null}')).toBe('null')
  expect(parsed('{"key":"a"}')[0]).toMatchObject({ key: 'a', data: null })
  for (const empty of ['{}', '{"id":"a"}', '{"to":{"users":["ann"]}}']) expect(refusal(empty)).toBe('bad-request')
})

test('With another content type, data is a string and its UTF-8 is kept.', () => {
  const text = { contentType: 'Text/Plain; charset=utf-8', data: 'a\n"ü"\\' }
  expect(dataOf(text)).toBe('a\n"ü"\\')
  expect(parsed(text)[0]!.contentType).toBe('text/plain; charset=utf-8')
  expect(dataOf({ contentType: 'text/plain', data: '' })).toBe('')
  expect(dataOf('{"data":"plain","contentType":"text/plain"}')).toBe('plain')
  expect(dataOf('{"data":"\\ud83d\\ude00","contentType":"text/plain"}')).toBe('😀')
  for (const data of ['1', 'null', '{}', '"\\ud800"', '"\\udc00x"'])
    expect([data, refusal(`{"contentType":"text/plain","data":${data}}`)]).toEqual([data, 'bad-request'])
  expect(refusal({ contentType: 'text/plain', type: 'a' })).toBe('bad-request')
})

test('Base64 data is kept byte for byte; as JSON it is checked and put on one line.', () => {
  const base64 = (value: Uint8Array | string): string => Buffer.from(value).toString('base64')
  const binary = parsed({ dataBase64: base64(new Uint8Array([0, 255, 10])) })[0]!
  expect([binary.contentType, [...binary.data!]]).toEqual(['application/octet-stream', [0, 255, 10]])
  expect(parsed({ contentType: 'image/png', dataBase64: '' })[0]!.data).toHaveLength(0)
  const json = { contentType: 'application/JSON; charset=utf-8', dataBase64: base64(' {"a":\n1}\n') }
  expect([parsed(json)[0]!.contentType, dataOf(json)]).toEqual([null, '{"a": 1}'])
  for (const broken of ['{', '', '1 2', '"\xff"', '9007199254740993', '['.repeat(65) + ']'.repeat(65)])
    expect([broken, refusal({ ...json, dataBase64: Buffer.from(broken, 'latin1').toString('base64') })]).toEqual([
      broken,
      'bad-request',
    ])
  for (const wrong of ['AA', 'A===', 'AAA', 'A-_=', 'AA==\n', ' AA==', 'AB==', 'AA=='.slice(0, 3)])
    expect([wrong, refusal({ dataBase64: wrong })]).toEqual([wrong, 'bad-request'])
  expect(refusal({ dataBase64: 'AA==', data: 1 })).toBe('bad-request')
  expect(refusal({ dataBase64: 1 })).toBe('bad-request')
})

test('Unknown fields, fields given twice and fields of a wrong kind are refused.', () => {
  const wrong = [
    '{"data":1,"seq":4}',
    '{"data":1,"__proto__":{}}',
    '{"data":1,"constructor":1}',
    '{"data":1,"data":2}',
    '{"type":"a","t\\u0079pe":"b"}',
    '{"data":1,"dataBase64":"","dataBase64":""}',
    '{"data":1,"type":null}',
    '{"data":1,"type":7}',
    '{"data":1,"key":null}',
    '{"data":1,"key":""}',
    '{"data":1,"id":["a"]}',
    '{"data":1,"contentType":null}',
    '{"data":1,"to":null}',
    '{"data":1,"to":["ann"]}',
    '{"data":1,"to":{}}',
    '{"data":1,"to":{"users":["ann"],"users":["bob"]}}',
    '{"data":1,"to":{"users":["ann"],"__proto__":[]}}',
    '{"data":1,"to":{"users":["ann"]},"key":"a"}',
    '{"data":1,"type":"tidemark.gap"}',
    '{"data":1,"type":"a b"}',
    '{"data":1,"key":"a\\u0000b"}',
    '{"data":1,"key":"\\ud800"}',
    '{"data":1,"id":"ü"}',
    '{"data":1,"contentType":"text"}',
  ]
  for (const each of wrong) expect([each, refusal(each)]).toEqual([each, 'bad-request'])
})

test('What is no event or no list of events is refused.', () => {
  for (const wrong of [
    '',
    ' ',
    '[]',
    '[ ]',
    '1',
    'null',
    '"a"',
    '[1]',
    '[null]',
    '[[]]',
    '[{"data":1},]',
    '[{"data":1}',
    '{"data":1}]',
    '{"data":1}{"data":2}',
    '{"data":1} x',
    '{"data"}',
    '{"data":}',
    '{"data":1,}',
    '{data:1}',
    '\ufeff{"data":1}',
  ])
    expect([wrong, refusal(wrong)]).toEqual([wrong, 'bad-request'])
  expect(codeOf(() => parseJsonBody(Buffer.from([...bytes('{"data":"'), 0xff, ...bytes('"}')])))).toBe('bad-request')
})

test('A refusal in a list tells which event is at fault.', () => {
  try {
    parseJsonBody(bytes('[{"data":1},{"data":2},{"data":3,"x":1}]'))
  } catch (error) {
    expect(error).toMatchObject({ code: 'bad-request', details: { event: 2, field: 'x' } })
    return
  }
  throw new Error('it was taken')
})

test('A thousand events are taken, one more and a byte too many are too large.', () => {
  const events = (count: number): string => `[${Array(count).fill('{"data":1}').join()}]`
  expect(parseJsonBody(bytes(events(1_000))).count).toBe(1_000)
  expect(refusal(events(1_001))).toBe('too-large')
  const ofLength = (length: number): unknown => ({ data: 'x'.repeat(length) })
  expect(parseJsonBody(bytes(ofLength(BODY_BYTES_MAX - 100))).count).toBe(1)
  expect(refusal(ofLength(BODY_BYTES_MAX))).toBe('too-large')
  expect(refusal([ofLength(BODY_BYTES_MAX / 2), ofLength(BODY_BYTES_MAX / 2)])).toBe('too-large')
})

test('Deep data is refused at once, wherever it stands.', () => {
  const deep = (levels: number): string => '['.repeat(levels) + ']'.repeat(levels)
  expect(dataOf(`{"data":${deep(64)}}`)).toBe(deep(64))
  expect(refusal(`{"data":${deep(65)}}`)).toBe('bad-request')
  expect(refusal(`[{"data":${deep(65)}}]`)).toBe('bad-request')
  expect(refusal('['.repeat(1_000_000))).toBe('bad-request')
  expect(refusal(`{"data":${'{"a":'.repeat(200_000)}`)).toBe('bad-request')
})

test('Events inside a bigger text are parsed where they stand.', () => {
  const text = bytes('{"op":"append","note":"ü","events":[{"data":\n[1]},{"type":"ä"}]}')
  const span = jsonFields(text).get('events')!
  expect(codeOf(() => parseJsonEvents(text, span))).toBe('bad-request')
  const good = bytes('{"note":"ü\\n",\n"events":[{"type":"a","data":\n[1]},{"key":"ü"}],"ref":1}')
  const events = eventsOf(parseJsonEvents(good, jsonFields(good).get('events')!))
  expect(events.map(({ type, key, data }) => [type, key, data && Buffer.from(data).toString()])).toEqual([
    ['a', null, '[1]'],
    [null, 'ü', null],
  ])
  for (const events of ['{"data":1}', '[]', '1', 'null']) {
    const wrong = bytes(`{"events":${events}}`)
    expect(codeOf(() => parseJsonEvents(wrong, jsonFields(wrong).get('events')!))).toBe('bad-request')
  }
})

test('Random events come out as they went in, whatever space stands between their tokens.', () => {
  const json = fc.jsonValue({ maxDepth: 4 }).filter((value) => !/\d{16}|e\+|\p{Surrogate}/u.test(JSON.stringify(value)))
  const event = fc.record({
    data: json,
    type: fc.stringMatching(/^[a-z.]{1,20}$/),
    key: fc.string({ minLength: 1, unit: 'grapheme' }),
  })
  const valid = event.filter(
    ({ key, type }) => !/[\u0000-\u001f\u007f-\u009f]/.test(key) && type !== 'error' && type !== 'open',
  )
  law(500, fc.tuple(fc.array(valid, { minLength: 1, maxLength: 5 }), fc.nat(2)), ([events, space]) => {
    const read = parsed(JSON.stringify(events, null, space))
    expect(read.map(({ type, key, data }) => ({ data: JSON.parse(Buffer.from(data!).toString()), type, key }))).toEqual(
      JSON.parse(JSON.stringify(events)),
    )
    if (space === 0)
      expect(read.map(({ data }) => Buffer.from(data!).toString())).toEqual(
        events.map(({ data }) => JSON.stringify(data)),
      )
  })
})

test('Bytes at random, and good bodies with bytes changed, are taken or refused with a code, never anything else.', () => {
  const good = bytes(
    '[{"data":{"a":[1,"\\u00e9"]},"type":"a.b","key":"ü","id":"i"},{"dataBase64":"AA==","to":{"users":["ann"]}},{"contentType":"text/plain","data":"x"}]',
  )
  const changes = fc.array(fc.tuple(fc.nat(good.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 })
  const changed = changes.map((all) => {
    const copy = Buffer.from(good)
    for (const [at, value] of all) copy[at] = value
    return copy
  })
  const any = fc.oneof(
    changed,
    fc.uint8Array({ maxLength: 60 }),
    fc.nat(good.length).map((end) => good.subarray(0, end)),
  )
  law(3_000, any, (given) => {
    expect(['taken', 'bad-request']).toContain(codeOf(() => parseJsonBody(given)))
  })
})

// ── NDJSON ───────────────────────────────────────────────────────────────────────────────────────────────────────

const LINE_MAX = 2_000_000

/** The pieces of a text that comes in chunks. */
function piecesOf(chunks: readonly Uint8Array[], lineMax = LINE_MAX): Body[] {
  const reader = new NdjsonReader(lineMax)
  return [...chunks.flatMap((chunk) => [...reader.push(chunk)]), ...reader.finish()]
}

function cut(whole: Buffer, places: readonly number[]): Buffer[] {
  const edges = [0, ...places.map((place) => place % (whole.length + 1)), whole.length].sort((a, b) => a - b)
  return edges.slice(1).map((end, i) => whole.subarray(edges[i], end))
}

test('Lines are events; empty lines and a missing last line break change nothing.', () => {
  const body = piecesOf([bytes('{"data":1}\r\n\n  \n{"data":"ü"}\n\n{"data":3}')])
  expect(body).toHaveLength(1)
  expect(eventsOf(body[0]!).map(({ data }) => Buffer.from(data!).toString())).toEqual(['1', '"ü"', '3'])
  expect(piecesOf([bytes('')])).toEqual([])
  expect(piecesOf([bytes('\n \r\n\n')])).toEqual([])
})

test('Pieces hold a thousand events at most, and are cut by content alone, however the bytes arrive.', () => {
  const lines = bytes(Array.from({ length: 2_500 }, (_, i) => `{"data":${i}}`).join('\n'))
  const whole = piecesOf([lines])
  expect(whole.map(({ count }) => count)).toEqual([1_000, 1_000, 500])
  law(20, fc.array(fc.nat(), { maxLength: 30 }), (places) => {
    expect(piecesOf(cut(lines, places)).map((piece) => Buffer.from(piece.bytes).toString('base64'))).toEqual(
      whole.map((piece) => Buffer.from(piece.bytes).toString('base64')),
    )
  })
})

test('Pieces never outgrow an append, and each is as full as its next event allows.', () => {
  const line = (kib: number): string => `${JSON.stringify({ key: 'ü'.repeat(20), data: 'x'.repeat(kib * 1024) })}\n`
  const pieces = piecesOf([bytes([300, 300, 300, 300, 900, 10, 900].map(line).join(''))])
  expect(pieces.map(({ count }) => count)).toEqual([3, 1, 2, 1])
  expect(pieces.every((piece) => piece.bytes.length <= BODY_BYTES_MAX)).toBe(true)
})

test('A line byte by byte costs no more than the line.', () => {
  const line = bytes({ data: 'x'.repeat(50_000) })
  const pieces = piecesOf(Array.from(line, (_, i) => line.subarray(i, i + 1)))
  expect(eventsOf(pieces[0]!)[0]!.data).toHaveLength(50_002)
})

test('A bad line is refused with its number; what came before it was given out.', () => {
  for (const [bad, code] of [
    ['{"data":1}x', 'bad-request'],
    ['[{"data":1}]', 'bad-request'],
    ['{"data":"\xff"}', 'bad-request'],
    ['{"x":1}', 'bad-request'],
    [`{"data":"${'x'.repeat(300)}"}`, 'too-large'],
  ] as const) {
    const reader = new NdjsonReader(200)
    const given = Buffer.from(`${'{"data":1}\n'.repeat(1_001)}${bad}\n{"data":2}\n`, 'latin1')
    const pieces: Body[] = []
    let error: unknown
    try {
      for (const piece of reader.push(given)) pieces.push(piece)
    } catch (thrown) {
      error = thrown
    }
    expect([bad, hasCode(error, code)]).toEqual([bad, true])
    expect(error).toMatchObject({ details: { line: 1_002 } })
    expect(pieces.map(({ count }) => count)).toEqual([1_000])
  }
})

test('A line that never ends is refused when it is too long, not kept.', () => {
  const reader = new NdjsonReader(1_000)
  const feed = (): void => {
    for (let i = 0; i < 30; i++) for (const _ of reader.push(Buffer.alloc(50, 0x20))) throw new Error('a piece')
  }
  expect(codeOf(feed)).toBe('too-large')
})
