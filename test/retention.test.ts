import { expect, test } from 'vitest'
import { AUDIT_RETENTION, readRetentionRule } from '../src/retention.ts'
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
    ...['logs: events=1=2', 'logs: toString=1', 'logs: __proto__=1'],
  ]
  for (const text of wrong) expect([text, codeOf(() => readRetentionRule(text))]).toEqual([text, 'bad-request'])
})
