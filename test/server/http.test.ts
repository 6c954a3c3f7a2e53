import type { IncomingMessage } from 'node:http'
import { expect, test } from 'vitest'
import { TidemarkError } from '../../src/errors.ts'
import { acceptedType, parsePath, parseQuery, sendProblem, wantsStream } from '../../src/server/http.ts'
import { codeOf } from '../random.ts'
import { serveBare } from './bare.ts'
import { call } from './calls.ts'

test('An address is decoded once and read from the right.', () => {
  const cases: Record<string, unknown> = {
    '/v1/channels/orders': { resource: 'channel', channel: 'orders' },
    '/v1/channels/orders/events?after=1': { resource: 'events', channel: 'orders' },
    '/v1/channels/repo/42/events': { resource: 'events', channel: 'repo/42' },
    '/v1/channels/repo%2F42/events': { resource: 'events', channel: 'repo/42' },
    '/v1/channels/repo%2f42%2Fevents': { resource: 'events', channel: 'repo/42' },
    '/v1/channels/repo/42': { resource: 'channel', channel: 'repo/42' },
    '/v1/channels/events': { resource: 'channel', channel: 'events' },
    '/v1/channels/events/events': { resource: 'events', channel: 'events' },
    '/v1/channels/cursors/web': { resource: 'channel', channel: 'cursors/web' },
    '/v1/channels/a/cursors': { resource: 'cursors', channel: 'a' },
    '/v1/channels/a/b/cursors/web-1': { resource: 'cursor', channel: 'a/b', client: 'web-1' },
    '/v1/channels/a/cursors/events': { resource: 'events', error: 'bad-request' },
    '/v1/channels/a/trim': { resource: 'trim', channel: 'a' },
    '/v1/channels/a/compact': { resource: 'compact', channel: 'a' },
    '/v1/channels/a/state': { resource: 'state', channel: 'a' },
    '/v1/channels/a/erase': { resource: 'erase', channel: 'a' },
  }
  for (const [url, path] of Object.entries(cases))
    if ((path as { error?: string }).error === undefined) expect([url, parsePath(url)]).toEqual([url, path])
    else expect([url, codeOf(() => parsePath(url))]).toEqual([url, 'bad-request'])
  for (const url of ['/v1/channels', '/v1/channels/', '/v1/channels/?a', '/v1/poll', '/', '/v2/channels/a'])
    expect(parsePath(url)).toBe(undefined)
})

test('Names that can not be, and broken encodings, are refused.', () => {
  const wrong = [
    'a%',
    'a%2',
    'a%zz',
    'a%ff',
    '%c3%28',
    'a%252Fb',
    'a//b',
    '/a',
    'a/',
    'a/./b',
    '../a',
    'a/%2e%2e/b',
    'a%00',
    'a b',
    'a%20b',
    'a/events/b',
    'a/cursors/web/1',
    'a/cursors/..',
    '%F0%9F%98%80',
    'events/',
    'x'.repeat(201),
  ]
  for (const name of wrong)
    expect([name, codeOf(() => parsePath(`/v1/channels/${name}`))]).toEqual([name, 'bad-request'])
})

test('A query is read strictly: known names, each once, encodings whole.', () => {
  const query = parseQuery('/x?a=1&b=%2F+%2B%C3%BC&c&', ['a', 'b', 'c'])
  expect(Object.fromEntries(query)).toEqual({ a: ['1'], b: ['/ +ü'], c: [''] })
  expect(parseQuery('/x?a=1&a=2', ['a'], 'a').get('a')).toEqual(['1', '2'])
  expect(parseQuery('/x?a=b=c', ['a']).get('a')).toEqual(['b=c'])
  for (const url of ['/x', '/x?', '/x?&']) expect(parseQuery(url, []).size).toBe(0)
  for (const url of [
    '/x?b=1',
    '/x?a=1&a=1',
    '/x?a=%',
    '/x?a=%ff',
    '/x?A=1',
    '/x?a%00=1',
    '/x?=1',
    '/x?toString=1',
    '/x?__proto__=1',
  ])
    expect([url, codeOf(() => parseQuery(url, ['a']))]).toEqual([url, 'bad-request'])
})

test('Accept is read by weight and by the range that speaks most exactly.', () => {
  const wants = (accept?: string) => ({ headers: { ...(accept !== undefined && { accept }) } }) as IncomingMessage
  const offers = ['application/json', 'text/event-stream'] as const
  const cases: [string | undefined, string][] = [
    [undefined, 'application/json'],
    ['*/*', 'application/json'],
    ['text/event-stream', 'text/event-stream'],
    ['text/*', 'text/event-stream'],
    ['text/event-stream;q=0.1, application/json;q=0.2', 'application/json'],
    ['application/json;q=0, */*;q=0.1', 'text/event-stream'],
    ['*/*;q=0.1, text/event-stream', 'text/event-stream'],
    ['TEXT/Event-Stream ; charset=utf-8 ; q=1', 'text/event-stream'],
    ['application/json;q=2, text/event-stream;q=0.1', 'text/event-stream'],
  ]
  for (const [accept, type] of cases) expect([accept, acceptedType(wants(accept), offers)]).toEqual([accept, type])
  for (const accept of ['', 'image/png', 'application/json;q=0', ',', 'application/json;q=x'])
    expect([accept, codeOf(() => acceptedType(wants(accept), offers))]).toEqual([accept, 'not-acceptable'])
  expect([
    wantsStream(wants('text/event-stream')),
    wantsStream(wants()),
    wantsStream(wants('text/event-stream, */*')),
  ]).toEqual([true, false, false])
})

test('A failure is a problem, with when to come back where its code promises that.', async () => {
  let failure: unknown
  const server = await serveBare(async () => {
    throw failure
  })
  const answerTo = async (thrown: unknown) => {
    failure = thrown
    const { status, headers, json } = await call(server.url)
    expect(headers.get('content-type')).toBe('application/problem+json')
    expect(headers.get('cache-control')).toBe('no-store')
    return { status, retry: headers.get('retry-after'), json }
  }
  expect(await answerTo(new TidemarkError('gap', 'Gone', { trimmed: 4 }))).toEqual({
    status: 410,
    retry: null,
    json: { type: '/errors#gap', title: expect.any(String), status: 410, code: 'gap', detail: 'Gone', trimmed: 4 },
  })
  expect(await answerTo(new TidemarkError('too-many', 'Wait'))).toMatchObject({ status: 429, retry: '1' })
  expect(await answerTo(new TidemarkError('unavailable', 'Wait', { retryAfter: 2_001 }))).toMatchObject({
    status: 503,
    retry: '3',
  })
  expect(await answerTo(new TidemarkError('unavailable', 'Wait', { retryAfter: 0 }))).toMatchObject({ retry: '1' })
  expect(await answerTo(new TidemarkError('unavailable', 'Unknown', { outcome: 'unknown' }))).toMatchObject({
    json: { outcome: 'unknown' },
  })
  const internal = await answerTo(new Error('a secret'))
  expect(internal).toMatchObject({ status: 500, json: { code: 'internal' } })
  expect(JSON.stringify(internal.json)).not.toContain('secret')
})

test('An answer that has begun is cut when it fails, so that it never looks whole.', async () => {
  const server = await serveBare(async (_req, res) => {
    res.writeHead(200)
    res.write('half')
    sendProblem(res, new Error('later'))
  })
  await expect(call(server.url)).rejects.toThrow()
})
