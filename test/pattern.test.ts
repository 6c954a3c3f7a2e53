import fc from 'fast-check'
import { expect, test } from 'vitest'
import { matches, readPattern } from '../src/pattern.ts'
import { codeOf, law } from './random.ts'

const cases: [pattern: string, reached: string[], not: string[]][] = [
  ['orders', ['orders'], ['order', 'orders2', 'orders/1', 'x/orders', '_orders']],
  ['orders/1', ['orders/1'], ['orders', 'orders/12', 'orders/1/2']],
  ['orders/*', ['orders/1', 'orders/a.b'], ['orders', 'orders/1/2', 'orderss/1']],
  ['orders/**', ['orders/1', 'orders/1/2/3'], ['orders', 'orders2/1', '_orders/1']],
  ['or*', ['or', 'orders', 'or.x'], ['o', 'orders/1', 'xor']],
  ['or*/x', ['or/x', 'orders/x'], ['orders', 'orders/y', 'orders/x/y', 'orders/xx']],
  ['*', ['a', 'orders'], ['a/b', '_streamer']],
  ['**', ['a', 'a/b/c'], ['_streamer', '_a/b']],
  ['*/**', ['a/b', 'a/b/c'], ['a', '_a/b']],
  ['a*/b*/**', ['a/b/c', 'ax/by/c/d'], ['a/b', 'ax/by', 'a/c/d']],
  ['_*', ['_a', '_streamer'], ['a', '_a/b', 'a_']],
  ['_a/**', ['_a/b'], ['_a', '_b/c']],
]

test.each(cases)('%s reaches what it says and nothing else', (text, reached, not) => {
  const pattern = readPattern(text)
  expect(reached.filter((channel) => !matches(pattern, channel))).toEqual([])
  expect(not.filter((channel) => matches(pattern, channel))).toEqual([])
})

test('every name that is reached begins as the pattern says', () => {
  for (const [text, reached] of cases)
    for (const channel of reached) expect(channel.startsWith(readPattern(text).beginning), text).toBe(true)
})

test('what is no pattern is refused', () => {
  const wrong = ['', '/', 'a/', '/a', 'a//b', '**/a', 'a/**/b', 'a**', '*a', 'a*b', 'a b', 'ü', 'a?', 'a/{b}', '***']
  for (const text of [...wrong, 'a'.repeat(201), 7, null, undefined, ['a']])
    expect(
      codeOf(() => readPattern(text)),
      String(text),
    ).toBe('bad-request')
})

test('the walk says what a regular expression says', () => {
  const segment = fc.stringMatching(/^[ab_]{1,3}$/)
  const pattern = fc
    .tuple(fc.array(fc.tuple(segment, fc.constantFrom('', '*')), { minLength: 1, maxLength: 3 }), fc.boolean())
    .map(([parts, deep]) => [...parts.map((part) => part.join('')), ...(deep ? ['**'] : [])].join('/'))
  const channel = fc.array(segment, { minLength: 1, maxLength: 4 }).map((parts) => parts.join('/'))
  law(20_000, fc.tuple(pattern, channel), ([text, name]) => {
    const source = text
      .split('/')
      .map((part) => (part === '**' ? '.+' : part.replace('*', '[^/]*')))
      .join('/')
    const says = new RegExp(`^${source}$`).test(name) && name.startsWith('_') === text.startsWith('_')
    if (matches(readPattern(text), name) !== says) throw new Error(`${text} and ${name}: ${says}`)
  })
})
