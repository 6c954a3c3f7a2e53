/** What the console makes of numbers and of foreign text. */
import { expect, test } from 'vitest'
import { draftOf, limitsText, retentionOf } from '../../src/console/limits.ts'
import { outcomeOf } from '../../src/console/runs.tsx'
import { bytes, duration, preview, rate, span, visible, weigh } from '../../src/console/text.ts'
import { writesOf } from '../../src/console/writes.ts'

test('numbers have the unit that a person would choose', () => {
  expect([0, 0.05, 3.1234, 99.96, 12_345.6].map(rate)).toEqual(['0', '<0.1', '3.1', '100', '12,346'])
  expect([0, 1023, 1024, 1.5 * 1024 ** 2, 3e15].map(bytes)).toEqual([
    '0 B',
    '1,023 B',
    '1 KiB',
    '1.5 MiB',
    '2,728.5 TiB',
  ])
  expect([0, 0.25, 2.5, 59_999, 60_000, 61_000, 3_700_000, 90_000_000].map(duration)).toEqual([
    ...['0', '250 µs', '2.5 ms', '59 s', '1 min', '1 min 1 s', '1 h 1 min', '1 d 1 h'],
  ])
  // Steps of a scale differ.
  expect([0, 0.05, 0.5, 500, 1_000, 1_200, 1_400].map(span)).toEqual([
    ...['0', '50 µs', '500 µs', '500 ms', '1 s', '1.2 s', '1.4 s'],
  ])
})

test('a run that was stopped says what stays of it: of a look there is nothing', () => {
  const stopped = { work: 'compact', channel: 'a', running: false, stopped: true, phase: 'rewriting' } as const
  expect(outcomeOf(stopped)).toBe('stopped while rewriting: what was done stays, another run goes on with it')
  expect(outcomeOf({ ...stopped, dryRun: true })).toBe('stopped while rewriting: it only looked')
})

test('limits are read as they were written, in the largest unit that says them whole', () => {
  for (const own of [
    undefined,
    {},
    { maxAge: 604_800, maxEvents: 1_000, maxBytes: 1024 ** 3, consumed: true },
    { maxAge: 90, maxBytes: 1_500 },
    { consumed: true },
  ])
    expect(retentionOf(draftOf(own))).toEqual(own)
  const { age, size } = draftOf({ maxAge: 5_400, maxBytes: 3 * 1024 ** 2 })
  expect([age, size]).toEqual([
    { text: '90', unit: 'minutes' },
    { text: '3', unit: 'MiB' },
  ])
  const typed = { ...draftOf({}), choice: 'own', age: { text: '1.5', unit: 'days' } } as const
  expect(retentionOf(typed)).toEqual({ maxAge: 129_600 })
  expect(limitsText({ maxAge: 604_800, maxEvents: 1_000, maxBytes: 1024 ** 3, consumed: true })).toBe(
    '7 d, 1,000 events, 1 GiB, consumed',
  )
  expect(limitsText({ consumed: false })).toBe('everything')
})

test('characters that hide or turn a line are shown as escapes', () => {
  expect(visible('a\u202eb\u0000c\u2066d\ufeff')).toBe('a\\u202eb\\u0000c\\u2066d\\ufeff')
  expect(visible('é 漢 👋 עברית <b>')).toBe('é 漢 👋 עברית <b>')
})

test('a preview is JSON on one line, and ends where it is long enough', () => {
  expect(preview({ a: [1, 'x"y', null, true], b: {} }, 100)).toBe('{"a":[1,"x\\"y",null,true],"b":{}}')
  expect(preview(JSON.parse('{"__proto__":1}'), 100)).toBe('{"__proto__":1}')
  expect(preview('line\nbreak\u202e', 100)).toBe('"line\\nbreak\\u202e"')
  const huge = { list: Array.from({ length: 1_000_000 }, (_, i) => i), text: 'x'.repeat(1_000_000) }
  expect(preview(huge, 50)).toHaveLength(51)
  expect(preview('x'.repeat(1_000_000), 50)).toHaveLength(51)
})

test('a value weighs about what its text is long', () => {
  const value = { name: 'Ada', list: [1, 2, { deep: 'x'.repeat(1_000) }], ok: true }
  const { length } = JSON.stringify(value)
  expect(weigh(value)).toBeGreaterThan(length * 0.8)
  expect(weigh(value)).toBeLessThan(length * 1.5)
})

test('writes between two answers: their mean, and what 99 of 100 stay below', () => {
  const bounds = [0.001, 0.01, 0.1]
  const groups = (seconds: number, counts: number[]) => ({
    ...{ seconds, counts, bounds, changes: 0, bytes: 0 },
    count: counts.reduce((sum, n) => sum + n),
  })
  const before = groups(5, [100, 100, 0, 0])
  expect(writesOf(undefined, before)).toEqual({ write: null, slowWrite: null })
  expect(writesOf(before, before)).toEqual({ write: null, slowWrite: null })
  const { write, slowWrite } = writesOf(before, groups(5.2, [190, 110, 0, 0]))
  expect(write).toBeCloseTo(2, 9)
  expect(slowWrite).toBeCloseTo(1 + 9 * 0.9, 9)
  expect(writesOf(before, groups(6, [100, 100, 0, 5])).slowWrite).toBe(100)
})
