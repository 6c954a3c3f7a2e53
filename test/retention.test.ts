import { expect, test } from 'vitest'
import { AUDIT_RETENTION, readRetentionRule, retentionOf, stateOf } from '../src/retention.ts'
import { codeOf } from './random.ts'

test('a rule is a pattern and its limits, each with its unit', () => {
  const read = (text: string) => {
    const { pattern, retention } = readRetentionRule(text)
    return [pattern.text, retention]
  }
  expect(read('logs/**: age=7d, events=1000000, bytes=1GiB, consumed')).toEqual([
    'logs/**',
    { maxAge: 604_800, maxEvents: 1_000_000, maxBytes: 1024 ** 3, consumed: true },
  ])
  expect(read('a:b/*:age=1.5h')).toEqual(['a:b/*', { maxAge: 5_400 }])
  expect(read(' ** : consumed ')).toEqual(['**', { consumed: true }])
  expect(read('x:bytes=1')).toEqual(['x', { maxBytes: 1 }])
  expect(readRetentionRule('files/**: state')).toMatchObject({ retention: {}, state: true })
  expect(readRetentionRule('x: state = off, age=1d')).toMatchObject({ retention: { maxAge: 86_400 }, state: false })
  expect(readRetentionRule('x: age=1d')).not.toHaveProperty('state')
  expect(read(AUDIT_RETENTION)).toEqual(['_audit', { maxAge: 31_536_000, maxBytes: 1024 ** 3 }])
})

test('what is not one is refused', () => {
  const wrong = [
    ...['', 'logs', 'logs:', ': age=1d', 'logs: age', 'logs: age=', 'logs: age=7', 'logs: age=1ms', 'logs: age=0s'],
    ...['logs: age=101y', 'logs: events=0', 'logs: events=1.5', 'logs: events=-1', 'logs: events=1k', 'logs: bytes=0'],
    ...['logs: bytes=1.5', 'logs: consumed=yes', 'logs: consumed, consumed', 'logs: age=1d, age=2d', 'logs: lag=5'],
    ...[
      'logs: age=1d,',
      'a//b: age=1d',
      '**/x: age=1d',
      '_*: age=1d',
      '_streamer: events=1',
      '_a*: age=1d',
      'logs age=1d',
    ],
    ...['logs: state=on', 'logs: state, state=off', 'logs: state=1'],
    ...['logs: events=1=2', 'logs: toString=1', 'logs: __proto__=1'],
  ]
  for (const text of wrong) expect([text, codeOf(() => readRetentionRule(text))]).toEqual([text, 'bad-request'])
})

test('a channel’s own word wins, then that of the first rule that says it: of limits and of the state each for itself', () => {
  const rules = ['a/**: state', 'a/x: age=1d, state=off', 'a/*: events=5', 'b: state=off', '**: state'].map(
    readRetentionRule,
  )
  expect(retentionOf(rules, 'a/x', {})).toEqual({ retention: { maxAge: 86_400 }, from: 'pattern a/x' })
  expect(retentionOf(rules, 'a/y', {})).toEqual({ retention: { maxEvents: 5 }, from: 'pattern a/*' })
  expect(retentionOf(rules, 'b', {})).toBeUndefined()
  expect(stateOf(rules, 'a/x', {})).toEqual({ state: true, from: 'pattern a/**' })
  expect(stateOf(rules, 'b', {})).toEqual({ state: false, from: 'pattern b' })
  expect(stateOf(rules, 'c', {})).toEqual({ state: true, from: 'pattern **' })
  expect(stateOf(rules, '_audit', {})).toBeUndefined()
  expect(stateOf(rules, 'a/x', { state: false })).toEqual({ state: false, from: 'channel' })
  expect(stateOf(rules, 'b', { state: true })).toEqual({ state: true, from: 'channel' })
  expect(stateOf([], 'a', {})).toBeUndefined()
})
