import { expect, test } from 'vitest'
import type { Log } from '../../src/log/log.ts'
import { body, range } from '../parts.ts'
import { call, problemOf } from './calls.ts'
import { startTestServer } from './serve.ts'

const append = (log: Log, channel: string, ...values: unknown[]) => log.append([{ channel, body: body(...values) }])

test('a commit moves a cursor forward; a lower one answers it as it stands', async () => {
  const { url, log } = await startTestServer()
  await append(log, 'orders', ...range(1, 10))
  const { epoch } = await log.info('orders')
  const at = `${url}/v1/channels/orders/cursors/web-42`
  expect(problemOf(await call(at)).code).toBe('not-found')
  const put = await call(at, 'PUT', { seq: 4, epoch })
  const cursor = { client: 'web-42', channel: 'orders', epoch, seq: 4, lag: 6, time: expect.any(String) }
  expect([put.status, put.json]).toEqual([200, cursor])
  expect((await call(at)).json).toEqual(put.json)
  expect((await call(at, 'PUT', { seq: 2 })).json).toEqual(put.json)
  expect((await call(at, 'PUT', { seq: 10 })).json).toMatchObject({ seq: 10, lag: 0 })
})

test('a seek moves it anywhere', async () => {
  const { url, log } = await startTestServer()
  await append(log, 'a', ...range(1, 10))
  const at = `${url}/v1/channels/a/cursors/web`
  await call(at, 'PUT', { seq: 10 })
  expect((await call(at, 'PUT', { seq: 3, seek: true })).json).toMatchObject({ seq: 3, lag: 7 })
  await log.trim('a', 5)
  expect((await call(at)).json).toMatchObject({ seq: 3, lag: 5 })
})

test('neither goes past the head, into another history or into nothing', async () => {
  const { url, log } = await startTestServer()
  await append(log, 'a', ...range(1, 3))
  const at = `${url}/v1/channels/a/cursors/web`
  const { epoch } = await log.info('a')
  for (const seek of [false, true]) {
    const ahead = problemOf(await call(at, 'PUT', { seq: 4, seek }))
    expect(ahead).toMatchObject({ code: 'ahead-of-head', status: 409, epoch, trimmed: 0, head: 3 })
    const changed = problemOf(await call(at, 'PUT', { seq: 1, epoch: 'other.life', seek }))
    expect(changed).toMatchObject({ code: 'epoch-changed', status: 409, epoch, head: 3 })
    const none = problemOf(await call(`${url}/v1/channels/none/cursors/web`, 'PUT', { seq: 0, seek }))
    expect(none.code).toBe('no-channel')
  }
  expect(await log.cursor('web', 'a')).toBeUndefined()
})

test('a forgotten cursor is gone', async () => {
  const { url, log } = await startTestServer()
  await append(log, 'a', 1)
  const at = `${url}/v1/channels/a/cursors/web`
  await call(at, 'PUT', { seq: 1 })
  expect((await call(at, 'DELETE')).status).toBe(204)
  expect(problemOf(await call(at, 'DELETE')).code).toBe('not-found')
  expect(await log.cursor('web', 'a')).toBeUndefined()
  expect(problemOf(await call(`${url}/v1/channels/none/cursors/web`, 'DELETE')).code).toBe('no-channel')
})

test('all cursors of a channel and of a client, with their lag', async () => {
  const { url, log } = await startTestServer()
  await append(log, 'a/b', ...range(1, 5))
  await append(log, 'c', ...range(1, 2))
  await call(`${url}/v1/channels/a%2Fb/cursors/one`, 'PUT', { seq: 1 })
  await call(`${url}/v1/channels/a/b/cursors/two`, 'PUT', { seq: 5 })
  await call(`${url}/v1/channels/c/cursors/one`, 'PUT', { seq: 2 })
  const list = async (path: string) =>
    (await call(url + path)).json.cursors.map((cursor: Record<string, unknown>) =>
      ['client', 'channel', 'seq', 'lag'].map((field) => cursor[field]).join(' '),
    )
  expect(await list('/v1/channels/a/b/cursors')).toEqual(['one a/b 1 4', 'two a/b 5 0'])
  expect((await list('/v1/cursors/one')).sort()).toEqual(['one a/b 1 4', 'one c 2 0'])
  expect(await list('/v1/cursors/nobody')).toEqual([])
  expect(await list('/v1/channels/c/cursors')).toEqual(['one c 2 0'])
  expect(problemOf(await call(`${url}/v1/channels/none/cursors`)).code).toBe('no-channel')
})

test('a cursor of an older history lags by all there is', async () => {
  const { url, log } = await startTestServer()
  await append(log, 'a', ...range(1, 5))
  await call(`${url}/v1/channels/a/cursors/web`, 'PUT', { seq: 5 })
  await log.delete('a')
  await append(log, 'a', ...range(1, 7))
  const answer = await call(`${url}/v1/channels/a/cursors/web`)
  // A deleted channel takes its cursors along; an engine that keeps them tells them as wholly behind.
  if (answer.status === 200) expect(answer.json.lag).toBe(7)
  else expect(problemOf(answer).code).toBe('not-found')
})

test('a list of many cursors is whole, and comes in pieces', async () => {
  const { url, log } = await startTestServer()
  await append(log, 'a', 1)
  const clients = range(1, 3_000).map((n) => `client-${String(n).padStart(4, '0')}`)
  await Promise.all(clients.map((client) => log.commit(client, 'a', { seq: 1 })))
  const { headers, json } = await call(`${url}/v1/channels/a/cursors`)
  expect(headers.get('transfer-encoding')).toBe('chunked')
  expect(json.cursors.map(({ client }: { client: string }) => client)).toEqual(clients)
})

test.each([
  ['no seq', {}],
  ['a negative seq', { seq: -1 }],
  ['a seq beyond 2^53 − 1', '{"seq":9007199254740993}'],
  ['a seq as text', { seq: '1' }],
  ['a seek that is no boolean', { seq: 1, seek: 1 }],
  ['an epoch of another shape', { seq: 1, epoch: 'a b' }],
  ['an unknown field', { seq: 1, client: 'x' }],
])('%s is a bad request', async (_, request) => {
  const { url, log } = await startTestServer()
  await append(log, 'a', 1)
  expect(problemOf(await call(`${url}/v1/channels/a/cursors/web`, 'PUT', request)).code).toBe('bad-request')
})

test('names that can not be are refused', async () => {
  const { url } = await startTestServer()
  for (const path of [
    '/v1/channels/a/cursors/b%20c',
    '/v1/cursors/b%2Fc',
    '/v1/channels/a%2F..%2Fb/cursors/x',
    '/v1/cursors/..x%00',
    '/v1/cursors/%zz',
  ])
    expect([path, problemOf(await call(url + path)).code]).toEqual([path, 'bad-request'])
})
