import { expect, test } from 'vitest'
import {
  checkAudience,
  checkChannel,
  checkClient,
  checkContentType,
  checkEpoch,
  checkEvent,
  checkId,
  checkIdempotencyKey,
  checkKey,
  checkPosition,
  checkSeq,
  checkTime,
  checkType,
  EARLIEST,
  formatTime,
  isSystemChannel,
  isTextType,
  isTombstone,
  SEQ_MAX,
} from '../src/event.ts'
import { event } from './parts.ts'
import { codeOf } from './random.ts'

const NO_TEXT: readonly unknown[] = [undefined, null, '', 0, 1, true, [], {}, ['a'], { toString: () => 'a' }]

/** Each is taken as it is. */
function takes(check: (value: unknown) => unknown, values: readonly unknown[]): void {
  for (const value of values) expect(check(value)).toBe(value)
}

function refuses(check: (value: unknown) => unknown, values: readonly unknown[]): void {
  for (const value of values) expect([value, codeOf(() => check(value))]).toEqual([value, 'bad-request'])
}

test('A channel is 1–200 bytes of the allowed characters, in segments that a path keeps apart', () => {
  takes(checkChannel, [
    'a',
    'orders',
    'Orders-2026.v1_x:y',
    'repo/42',
    'repo/42/files',
    '...',
    'a/...',
    '.hidden/..also',
    '_streamer',
    'x'.repeat(200),
    'events',
    'trim/x',
    'a/eventsource',
    'a/my-events',
    'a/Events',
  ])
  refuses(checkChannel, [
    ...NO_TEXT,
    'x'.repeat(201),
    '/',
    '/a',
    'a/',
    'a//b',
    '.',
    '..',
    './a',
    'a/.',
    'a/..',
    'a/../b',
    'a b',
    'a\n',
    'a\0',
    'a?b',
    'a#b',
    'a%2Fb',
    'a\\b',
    'a@1',
    'ä',
    'a,b',
    '😀',
  ])
  for (const word of ['events', 'trim', 'compact', 'state', 'cursors', 'erase'])
    refuses(checkChannel, [`a/${word}`, `a/${word}/b`, `a/b/${word}`])
})

test('Names beginning with an underscore are the system’s', () => {
  expect(['_streamer', '_', 'a', 'a/_b', 'a_'].map(isSystemChannel)).toEqual([true, true, false, false, false])
})

test('A client is 1–128 bytes of the same characters without a slash', () => {
  takes(checkClient, ['a', 'web-42', 'Web.42_x:y', '...', '_x', 'events', 'c'.repeat(128)])
  refuses(checkClient, [...NO_TEXT, 'c'.repeat(129), '.', '..', 'a/b', 'a b', 'a\n', 'ü', 'a\0'])
})

test('A type is 1–128 of its characters and no word of the protocol', () => {
  takes(checkType, ['node.added', 'a/b', 'A:b_c-d', 'message', 'tidemark', 'errors', 't'.repeat(128)])
  refuses(checkType, [
    ...NO_TEXT,
    'error',
    'open',
    'tidemark.',
    'tidemark.gap',
    't'.repeat(129),
    'a b',
    'a\nid: 1',
    'a\r',
    'é',
  ])
})

test('A key is 1–1,024 bytes of UTF-8 without control characters', () => {
  takes(checkKey, ['/photos/a.jpg', ' ', 'k'.repeat(1_024), 'ü'.repeat(512), '😀'.repeat(256), '\u2028', '"\\'])
  refuses(checkKey, [
    ...NO_TEXT,
    'k'.repeat(1_025),
    'ü'.repeat(513),
    '😀'.repeat(257),
    'a\0',
    'a\n',
    '\u007f',
    '\u0085',
    '\ud800',
    'a\udc00b',
  ])
})

test('An id and an idempotency key are 1–128 printable ASCII characters', () => {
  for (const check of [checkId, checkIdempotencyKey]) {
    takes(check, ['b7c1', ' ', '~', 'a b"c', 'i'.repeat(128)])
    refuses(check, [...NO_TEXT, 'i'.repeat(129), 'a\t', 'a\n', '\u007f', 'é'])
  }
})

test('An epoch is opaque, but of a form that this server can have given', () => {
  takes(checkEpoch, ['x1', 'a.b~7', 'A-_'.repeat(10), 'e'.repeat(32)])
  refuses(checkEpoch, [...NO_TEXT, 'e'.repeat(33), 'a b', 'a/b', 'a\n', 'é'])
})

test('A seq is a whole number from 0 to 2^53 − 1, as a number or in digits', () => {
  takes(checkSeq, [0, 1, SEQ_MAX])
  expect(['0', '41', '0041', `${SEQ_MAX}`].map((seq) => checkSeq(seq))).toEqual([0, 41, 41, SEQ_MAX])
  refuses(checkSeq, [
    ...NO_TEXT.filter((value) => typeof value !== 'number'),
    -1,
    1.5,
    SEQ_MAX + 1,
    Number.NaN,
    Number.POSITIVE_INFINITY,
    1n,
    '-1',
    '+1',
    '1.0',
    '1e3',
    '0x10',
    ' 1',
    '1 ',
    '9007199254740992',
    '9'.repeat(16),
    '0'.repeat(17),
  ])
})

test('A position is a seq, earliest, head, head-50 or a time', () => {
  const time = Date.UTC(2026, 10, 22, 18, 48, 0, 123)
  expect(
    [
      undefined,
      'earliest',
      0,
      41,
      '41',
      'head',
      'head-0',
      'head-50',
      'time:2026-11-22T18:48:00.123Z',
      'time:2026-11-22T19:48:00.123+01:00',
    ].map(checkPosition),
  ).toEqual([
    EARLIEST,
    EARLIEST,
    { at: 'seq', seq: 0 },
    { at: 'seq', seq: 41 },
    { at: 'seq', seq: 41 },
    { at: 'head', back: 0 },
    { at: 'head', back: 0 },
    { at: 'head', back: 50 },
    { at: 'time', time },
    { at: 'time', time },
  ])
  refuses(checkPosition, [
    null,
    '',
    true,
    [],
    {},
    -1,
    1.5,
    SEQ_MAX + 1,
    '-1',
    '1.5',
    '9'.repeat(16),
    '9'.repeat(400),
    'Earliest',
    'HEAD',
    'latest',
    'head-',
    'head--1',
    'head+1',
    'head-1.5',
    `head-${'9'.repeat(16)}`,
    'time:',
    'time:now',
    'time:41',
    ' 41',
    'x1:41',
  ])
})

test('A time is RFC 3339 with its zone, to the millisecond, from 1970 on', () => {
  const whole = Date.UTC(2026, 10, 22, 18, 48, 0)
  for (const [text, ms] of [
    ['2026-11-22T18:48:00Z', whole],
    ['2026-11-22t18:48:00z', whole],
    ['2026-11-22T18:48:00.1Z', whole + 100],
    ['2026-11-22T18:48:00.123Z', whole + 123],
    ['2026-11-22T18:48:00.123456789Z', whole + 123],
    ['2026-11-22T13:18:00-05:30', whole],
    ['2024-02-29T00:00:00Z', Date.UTC(2024, 1, 29)],
    ['1970-01-01T00:00:00Z', 0],
  ] as const)
    expect([text, checkTime(text)]).toEqual([text, ms])
  refuses(checkTime, [
    ...NO_TEXT,
    '2026-11-22',
    '2026-11-22T18:48Z',
    '2026-11-22T18:48:00',
    '2026-11-22 18:48:00Z',
    '2026-11-22T18:48:00+0100',
    '2026-11-22T18:48:00.Z',
    '2026-11-22T18:48:00,5Z',
    '2026-11-22T18:48:00.1234567890Z',
    '2026-13-01T00:00:00Z',
    '2026-00-01T00:00:00Z',
    '2026-01-00T00:00:00Z',
    '2026-01-32T00:00:00Z',
    '2026-02-29T00:00:00Z',
    '2026-02-30T00:00:00Z',
    '2026-04-31T00:00:00Z',
    '2026-01-01T24:00:00Z',
    '2026-01-01T25:00:00Z',
    '2026-01-01T00:60:00Z',
    '2026-01-01T00:00:61Z',
    '2026-01-01T00:00:00+24:00',
    '2026-01-01T00:00:00+01:60',
    '1969-12-31T23:59:59Z',
    'Sun, 22 Nov 2026 18:48:00 GMT',
    whole,
  ])
  expect(formatTime(whole + 5)).toBe('2026-11-22T18:48:00.005Z')
  expect(checkTime(formatTime(whole + 5))).toBe(whole + 5)
})

test('A content type is a media type; JSON in any form is the default', () => {
  for (const json of ['application/json', 'Application/JSON', 'application/json; charset=utf-8', 'application/json ;x'])
    expect([json, codeOf(() => checkContentType(json))]).toEqual([json, 'taken'])
  expect(['application/json', 'APPLICATION/JSON;charset=UTF-8'].map(checkContentType)).toEqual([null, null])
  expect(
    ['text/plain', 'Text/HTML; Charset=UTF-8', 'application/ld+json', 'image/svg+xml'].map(checkContentType),
  ).toEqual(['text/plain', 'text/html; Charset=UTF-8', 'application/ld+json', 'image/svg+xml'])
  refuses(checkContentType, [
    ...NO_TEXT,
    'text',
    'text/',
    '/plain',
    'text/plain/x',
    'text /plain',
    'text/plain\r\nx: y',
    'text/plain; a=\0',
    'text/ä',
    `text/${'x'.repeat(128)}`,
  ])
})

test('Only types that are text by their name are given as text', () => {
  for (const type of ['text/plain', 'TEXT/HTML; charset=x', 'application/xml', 'image/svg+xml', 'application/ld+json'])
    expect([type, isTextType(type)]).toEqual([type, true])
  for (const type of ['image/png', 'application/octet-stream', 'application/xmlx', 'application/msgpack', 'textual/x'])
    expect([type, isTextType(type)]).toEqual([type, false])
})

test('An audience names at least one user or group, and nothing else', () => {
  expect(checkAudience({ users: ['ann'] })).toEqual({ users: ['ann'], groups: [] })
  expect(checkAudience({ groups: ['/staff', '/ü'] })).toEqual({ users: [], groups: ['/staff', '/ü'] })
  const hundred = Array.from({ length: 100 }, (_, i) => `u${i}`)
  expect(checkAudience({ users: hundred, groups: hundred })).toEqual({ users: hundred, groups: hundred })
  refuses(checkAudience, [
    ...NO_TEXT,
    'ann',
    { users: [], groups: [] },
    { users: 'ann' },
    { users: null },
    { users: ['ann'], roles: ['x'] },
    { users: [''] },
    { users: [1] },
    { users: ['a\n'] },
    { users: ['\ud800'] },
    { users: ['x'.repeat(257)] },
    { users: [...hundred, 'one more'] },
    JSON.parse('{ "users": ["ann"], "__proto__": { "admin": true } }'),
  ])
})

test('An event has data, a key or a type, and never both an audience and a key', () => {
  const to = { users: ['ann'], groups: [] }
  takes(checkEvent as (value: unknown) => unknown, [
    event(null),
    event(undefined, { key: 'k' }),
    event(undefined, { type: 't' }),
    event(1, { type: 't', key: 'k', id: 'i' }),
    event(1, { to }),
  ])
  refuses(checkEvent as (value: unknown) => unknown, [
    event(undefined),
    event(undefined, { id: 'i' }),
    event(undefined, { to }),
    event(1, { to, key: 'k' }),
  ])
})

test('A tombstone is a key without any data; null is data', () => {
  expect(isTombstone(event(undefined, { key: 'k' }))).toBe(true)
  expect(isTombstone(event(null, { key: 'k' }))).toBe(false)
  expect(isTombstone(event(undefined, { type: 't' }))).toBe(false)
})
