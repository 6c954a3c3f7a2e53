import fc from 'fast-check'
import { expect, test } from 'vitest'
import { jsonFields, jsonItems, jsonLine, jsonValue, knownFields } from '../../src/formats/json.ts'
import { codeOf, law } from '../random.ts'

// A hundred thousand texts are refused here; where in our code does not matter.
Error.stackTraceLimit = 0

const bytes = (text: string): Uint8Array => Buffer.from(text)

function isJson(text: string): boolean {
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}

const isTaken = (text: string): boolean => codeOf(() => jsonLine(bytes(text))) === 'taken'

/** Every text of at most `most` of these parts. */
function* textsOf(parts: readonly string[], most: number): Generator<string> {
  let texts = ['']
  for (let length = 1; length <= most; length++) {
    texts = texts.flatMap((text) => parts.map((part) => text + part))
    yield* texts
  }
}

const differing = (texts: Iterable<string>): string[] =>
  [...texts].filter((text) => isTaken(text) !== isJson(text)).slice(0, 10)

test('Structures of up to five parts are taken exactly when JSON.parse takes them.', () => {
  expect(differing(textsOf(['{', '}', '[', ']', ',', ':', '"a"', '1', ' '], 5))).toEqual([])
})

test('Numbers of up to five characters are taken exactly when JSON.parse takes them.', () => {
  expect(differing(textsOf(['0', '1', '-', '+', '.', 'e', 'E'], 5))).toEqual([])
})

test('Strings with every escape and control character are taken exactly when JSON.parse takes them.', () => {
  const quoted = function* (texts: Iterable<string>) {
    for (const text of texts) yield `"${text}"`
  }
  expect(differing(quoted(textsOf(['\\', '"', 'u', '0', 'a', 'F', 'g', 'ü', '/'], 5)))).toEqual([])
  const all = Array.from({ length: 0x180 }, (_, code) => String.fromCharCode(code))
  expect(differing(quoted(all))).toEqual([])
  expect(differing(quoted(all.map((c) => `\\${c}`)))).toEqual([])
  expect(differing(quoted(all.map((c) => `\\u00${c}0`)))).toEqual([])
})

test('Words and the space around values are taken exactly when JSON.parse takes them.', () => {
  const words = [
    'true',
    'false',
    'null',
    'tru',
    'nul',
    'falsee',
    'True',
    'NaN',
    'Infinity',
    '-Infinity',
    'undefined',
    '',
  ]
  const spaces = ['', ' ', '\t', '\n', '\r', '\f', '\v', '\u00a0', '\ufeff', '\u2028', '/**/', '\0']
  expect(differing(words.flatMap((word) => spaces.flatMap((space) => [space + word, word + space])))).toEqual([])
})

/** What a valid text may be refused for all the same. */
const HAS_LARGE_NUMBER = /\d{16}|[eE]\+?\d{3}/

test('A random text, whole or with one part changed, is taken exactly when JSON.parse takes it.', () => {
  const text = fc.oneof(
    fc.json({ maxDepth: 6 }),
    fc.tuple(fc.jsonValue({ maxDepth: 4 }), fc.nat(3)).map(([value, space]) => JSON.stringify(value, null, space)),
  )
  const change = fc.record({
    at: fc.nat(),
    cut: fc.nat(2),
    put: fc.constantFrom('', '"', '\\', ',', '}', '0', ' ', '\n', 'e', '\u0001'),
  })
  law(3_000, fc.tuple(text, fc.option(change)), ([whole, changed]) => {
    const at = changed ? changed.at % (whole.length + 1) : 0
    const given = changed ? whole.slice(0, at) + changed.put + whole.slice(at + changed.cut) : whole
    // Half a character is not UTF-8, and becomes another one on its way into bytes.
    fc.pre(!/\p{Surrogate}/u.test(given) && !HAS_LARGE_NUMBER.test(given))
    expect([given, isTaken(given)]).toEqual([given, isJson(given)])
  })
})

test('A text that is taken keeps its value and every character but line breaks between tokens.', () => {
  law(500, fc.jsonValue({ maxDepth: 5 }), (value) => {
    fc.pre(!HAS_LARGE_NUMBER.test(JSON.stringify(value)) && !/\p{Surrogate}/u.test(JSON.stringify(value)))
    const pretty = `\r\n ${JSON.stringify(value, null, 2).replaceAll('\n', '\r\n')}\t\n`
    const line = Buffer.from(jsonLine(bytes(pretty))).toString()
    expect(line).toBe(pretty.trim().replaceAll(/[\r\n]/g, ' '))
    expect(JSON.parse(line)).toEqual(JSON.parse(pretty))
  })
})

test('Integers are taken up to 2^53 − 1 and fractions up to the largest number.', () => {
  const taken = ['9007199254740991', '-9007199254740991', '1e308', '0.12345678901234567890', '-0', '1E-400', '9.0e15']
  const refused = ['9007199254740992', '-9007199254740992', '9'.repeat(400), '1e309', '-1e309', `${'9'.repeat(400)}.5`]
  expect(taken.filter((text) => !isTaken(text))).toEqual([])
  expect(refused.filter(isTaken)).toEqual([])
  expect(codeOf(() => jsonLine(bytes('{"n":[9007199254740993]}')))).toBe('bad-request')
})

test('Sixty-four levels are taken and one more is refused, whatever stands in it.', () => {
  const nested = (levels: number): string => '['.repeat(levels) + ']'.repeat(levels)
  expect(isTaken(nested(64))).toBe(true)
  expect(isTaken(nested(65))).toBe(false)
  expect(isTaken(`${'{"a":'.repeat(64)}1${'}'.repeat(64)}`)).toBe(true)
  expect(isTaken(`${'{"a":'.repeat(65)}1${'}'.repeat(65)}`)).toBe(false)
})

test('A megabyte of open brackets is refused before it is walked.', () => {
  expect(codeOf(() => jsonLine(bytes('['.repeat(1_000_000))))).toBe('bad-request')
  expect(codeOf(() => jsonFields(bytes(`{"a":${'{"a":'.repeat(200_000)}`)))).toBe('bad-request')
})

test('Text that is not UTF-8 is refused.', () => {
  for (const tail of [[0xff], [0xc3], [0xed, 0xa0, 0x80], [0xc0, 0x80], [0xf5, 0x80, 0x80, 0x80]])
    expect(codeOf(() => jsonFields(Buffer.from([...bytes('{"a":"'), ...tail, ...bytes('"}')])))).toBe('bad-request')
})

test('Fields are found by name, however the name is escaped, and names given twice are refused.', () => {
  const text = bytes(' { "a" : [1, 2] ,\n "\\u0062" : {"c":null}, "__proto__": "x", "": 0 } ')
  const fields = jsonFields(text)
  expect([...fields.keys()]).toEqual(['a', 'b', '__proto__', ''])
  expect([...fields.values()].map((span) => jsonValue(text, span))).toEqual([[1, 2], { c: null }, 'x', 0])
  for (const twice of ['{"a":1,"a":1}', '{"a":1,"\\u0061":2}', '{"":1,"":1}'])
    expect(codeOf(() => jsonFields(bytes(twice)))).toBe('bad-request')
  for (const wrong of ['', '[]', '1', '{} {}', '{}x', '{"a":1,}', '{,}', '{"a"}', '{a:1}', '{"a":1', '{"a":1]'])
    expect([wrong, codeOf(() => jsonFields(bytes(wrong)))]).toEqual([wrong, 'bad-request'])
})

test('Fields and items of a part end with that part.', () => {
  const text = bytes('{"list":[ {"a":1} , 2,[3] ],"none":[],"more":{}}')
  const fields = jsonFields(text)
  const items = jsonItems(text, fields.get('list')!, 3)
  expect(items.map((span) => jsonValue(text, span))).toEqual([{ a: 1 }, 2, [3]])
  expect([...jsonFields(text, items[0]!).keys()]).toEqual(['a'])
  expect(jsonItems(text, fields.get('none')!, 0)).toEqual([])
  expect(codeOf(() => jsonItems(text, fields.get('list')!, 2))).toBe('bad-request')
  expect(codeOf(() => jsonItems(text, fields.get('more')!, 9))).toBe('bad-request')
  // A part that is cut short must not be completed by what stands behind it.
  expect(codeOf(() => jsonFields(text, { start: items[0]!.start, end: items[0]!.end - 1 }))).toBe('bad-request')
})

test('Of an object the first field that is not known is the last one that is read', () => {
  const text = bytes(`{"a":1,"b":{"x":[1]},"c":${'['.repeat(100)}`)
  expect(codeOf(() => knownFields(text, undefined, ['a', 'b', 'c']))).toBe('bad-request')
  const looked: string[] = []
  const stop = new Error('no further')
  const allow = (name: string, before: number): void => {
    looked.push(`${before} ${name}`)
    if (name === 'b') throw stop
  }
  expect(() => jsonFields(text, undefined, allow)).toThrow(stop)
  expect(looked).toEqual(['0 a', '1 b'])
  expect([...knownFields(bytes('{"a":1,"b":2}'), undefined, ['b', 'a']).keys()]).toEqual(['a', 'b'])
})
