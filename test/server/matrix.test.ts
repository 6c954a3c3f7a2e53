/**
 * Who may do what, whole: every route and every message of a socket, for each kind of caller. A route or message
 * without a row here fails, and so does a server that has a route without a right.
 */
import { expect, test, vi } from 'vitest'
import { Keyring } from '../../src/access/keyring.ts'
import { OP_RIGHTS, ROUTE_RIGHTS } from '../../src/doors/rights.ts'
import { makeApp } from '../../src/server/app.ts'
import { body } from '../parts.ts'
import { call } from './calls.ts'
import { CALLERS, type Caller, type Guarded, startGuarded } from './guarded.ts'

interface Row {
  /** Where the route is called; below its own address by default. */
  readonly path?: string
  readonly body?: unknown
  readonly accept?: string
  /** As CALLERS: the status, and the code where the answer has one. */
  readonly answers: readonly (number | string)[]
}

const same = (answer: number | string) => CALLERS.map(() => answer)
const [no, not] = ['401 unauthorized', '403 forbidden']
/** Everybody with the right, on a channel that was granted. */
const granted = (answer: number | string, whole = answer): Row['answers'] => [no, answer, answer, not, answer, whole]
const admins = (answer: number | string): Row['answers'] => [no, not, not, not, not, answer]
const known = (answer: number | string): Row['answers'] => [no, answer, answer, answer, answer, answer]

const ORDERS = '/v1/channels/orders%2F1'

/** By the route as the server knows it. */
const ROWS: Readonly<Record<string, Row>> = {
  'GET /livez': { answers: same(200) },
  'GET /readyz': { answers: same(200) },
  'GET /errors': { answers: same(200) },
  'GET /openapi.json': { answers: same(200) },
  'GET /client.js': { answers: same(200) },
  'GET /client-append.js': { answers: same(200) },
  'GET /client-poll.js': { answers: same(200) },
  'GET /client-msgpack.js': { answers: same(200) },
  'GET /client-bell.js': { answers: same(200) },
  'GET /client-state.js': { answers: same(200) },
  'GET /console': { answers: same(308) },
  'GET /console/': { answers: same(200) },
  'GET /console/:file': { path: '/console/index.html', answers: same(200) },
  'GET /metrics': { answers: admins(200) },

  'POST /v1/channels/:channel/events': { path: `${ORDERS}/events`, body: { data: 1 }, answers: granted(201) },
  'POST /v1/append': {
    body: {
      appends: [
        { channel: 'in', events: [{ data: 1 }] },
        { channel: 'orders/1', events: [{ data: 1 }] },
      ],
    },
    answers: granted(201),
  },
  'GET /v1/channels/:channel/events': { path: `${ORDERS}/events`, answers: granted(200) },
  'GET /v1/channels/:channel/state': { path: `${ORDERS}/state`, answers: granted(200) },
  'GET /v1/events': {
    path: '/v1/events?channel=orders/1&channel=in',
    accept: 'text/event-stream',
    answers: granted(200),
  },
  'POST /v1/poll': {
    body: { client: 'web', channels: { 'orders/1': { after: 0 } } },
    answers: [no, 200, 200, '200 forbidden', 200, 200],
  },
  'GET /v1/stream': { answers: known('400 bad-request') },

  'PUT /v1/channels/:channel/cursors/:client': {
    path: `${ORDERS}/cursors/web`,
    body: { seq: 1 },
    answers: granted(200),
  },
  'GET /v1/channels/:channel/cursors/:client': { path: `${ORDERS}/cursors/web`, answers: granted(200) },
  'GET /v1/channels/:channel/cursors': { path: `${ORDERS}/cursors`, answers: granted(200) },
  'GET /v1/cursors/:client': { path: '/v1/cursors/web', answers: known(200) },
  'DELETE /v1/channels/:channel/cursors/:client': { path: `${ORDERS}/cursors/web`, answers: granted(204) },

  'GET /v1/channels': { answers: known(200) },
  'GET /v1/channels/:channel': { path: ORDERS, answers: granted(200) },
  'PUT /v1/channels/:channel': { path: ORDERS, body: { note: 'x' }, answers: admins(200) },
  'POST /v1/channels/:channel/trim': { path: `${ORDERS}/trim`, body: { upTo: 1 }, answers: admins(200) },
  'POST /v1/channels/:channel/compact': { path: `${ORDERS}/compact`, body: {}, answers: admins(200) },
  'GET /v1/channels/:channel/compact': { path: `${ORDERS}/compact`, answers: admins(200) },
  'DELETE /v1/channels/:channel/compact': { path: `${ORDERS}/compact`, answers: admins(200) },
  'POST /v1/channels/:channel/erase': { path: `${ORDERS}/erase`, body: { seq: 1 }, answers: admins(200) },
  'GET /v1/channels/:channel/erase': { path: `${ORDERS}/erase`, answers: admins(200) },
  'DELETE /v1/channels/:channel/erase': { path: `${ORDERS}/erase`, answers: admins(200) },
  'GET /v1/admin/retention': { path: '/v1/admin/retention?channel=orders/1&maxEvents=1', answers: admins(200) },
  'DELETE /v1/channels/:channel': { path: ORDERS, answers: admins(204) },

  'POST /v1/session': { answers: [no, not, 204, 204, 204, not] },
  'DELETE /v1/session': { answers: same(204) },

  'GET /v1/admin/status': { answers: admins(200) },
  'GET /v1/admin/streamer': { answers: admins(200) },
  'PUT /v1/admin/streamer': { body: { on: true }, answers: admins(200) },
  'GET /v1/admin/figures': { answers: admins(200) },
  'GET /v1/admin/heads': { answers: admins(200) },
  'GET /v1/admin/cursors': { answers: admins(200) },
  'GET /v1/admin/connections': { answers: admins(200) },
  'GET /v1/admin/settings': { answers: admins(200) },
  'GET /v1/admin/space': { answers: admins(200) },
  'GET /v1/admin/runs': { answers: admins(200) },
  'GET /v1/admin/verify': { answers: admins(200) },
  'POST /v1/admin/verify': { body: {}, answers: admins(200) },
  'POST /v1/admin/import': {
    body: { channel: 'moved', from: 'a.b', head: 0, trimmed: 0 },
    answers: admins(200),
  },
}

/** The status, and the code of a problem or of a channel's own error. A stream is left when it has begun. */
async function answerTo(guarded: Guarded, caller: Caller, route: string): Promise<number | string> {
  const [method, url] = route.split(' ') as [string, string]
  const { path = url, body: sent, accept } = ROWS[route]!
  const headers = { ...guarded.headers(caller), ...(accept !== undefined && { accept }) }
  if (accept === 'text/event-stream') {
    const leaving = new AbortController()
    const { status } = await fetch(guarded.url + path, { headers, signal: leaving.signal })
    leaving.abort()
    return status === 200 ? status : `${status} ${status === 401 ? 'unauthorized' : 'forbidden'}`
  }
  const { status, json } = await call(guarded.url + path, method, sent, headers)
  // One run at a time: the next caller finds none.
  if (json?.running === true)
    await vi.waitFor(async () =>
      expect((await call(guarded.url + path, 'GET', undefined, headers)).json.running).toBe(false),
    )
  const code = json?.code ?? json?.pages?.[0]?.error?.code
  return code === undefined ? status : `${status} ${code}`
}

test('every route has a right and a row, and there is none without a route', async () => {
  expect(Object.keys(ROWS).sort()).toEqual(Object.keys(ROUTE_RIGHTS).sort())
  const { url } = await startGuarded()
  const { paths } = (await call(`${url}/openapi.json`)).json as { paths: Record<string, Record<string, unknown>> }
  const routes = Object.entries(paths).flatMap(([path, methods]) =>
    Object.keys(methods).map((method) => `${method.toUpperCase()} ${path.replaceAll(/\{(\w+)\}/g, ':$1')}`),
  )
  const hidden = ['GET /console', 'GET /console/', 'GET /console/:file']
  expect([...routes.filter((route) => !route.startsWith('HEAD ')), ...hidden].sort()).toEqual(Object.keys(ROWS).sort())
})

test('a server with a route that has no right does not start', async () => {
  const app = await makeApp({ fail: () => {}, version: '0', path: '/v1', checkAnswers: false, audited: () => () => {} })
  expect(() => app.get('/v1/new', async () => 'everything')).toThrow('has no row')
})

test.each(Object.keys(ROWS))('%s', async (route) => {
  const guarded = await startGuarded()
  await guarded.log.append([
    { channel: 'orders/1', body: body(1, 2, 3) },
    { channel: 'in', body: body(1) },
  ])
  for (const owner of ['bot~', 'anna~', 'bert~', 'eve~', ''])
    await guarded.log.commit(`${owner}web`, 'orders/1', { seq: 1 })
  const answers: (number | string)[] = []
  for (const caller of CALLERS) answers.push(await answerTo(guarded, caller, route))
  expect(Object.fromEntries(CALLERS.map((caller, i) => [caller, answers[i]]))).toEqual(
    Object.fromEntries(CALLERS.map((caller, i) => [caller, ROWS[route]!.answers[i]])),
  )
})

// ── The socket ───────────────────────────────────────────────────────────────────────────────────────────────────

interface OpRow {
  readonly message: object
  /** As CALLERS: the op or code of the answer; of nobody, the code that the socket is closed with. */
  readonly answers: readonly (number | string)[]
}
const toGranted = (answer: string) => [4400, answer, answer, 'forbidden', answer, answer]
const toKnown = (answer: string) => [4400, answer, answer, answer, answer, answer]

const OPS: Readonly<Record<string, OpRow>> = {
  hello: { message: { op: 'hello', client: 'web' }, answers: [4401, ...Array(5).fill('welcome')] },
  ping: { message: { op: 'ping' }, answers: toKnown('pong') },
  // With the token of the granted client.
  refresh: {
    message: { op: 'refresh' },
    answers: [4400, 'forbidden', 'refreshed', 'forbidden', 'forbidden', 'forbidden'],
  },
  subscribe: { message: { op: 'subscribe', channel: 'orders/1' }, answers: toGranted('subscribed') },
  unsubscribe: { message: { op: 'unsubscribe', channel: 'orders/1' }, answers: toKnown('unsubscribed') },
  commit: { message: { op: 'commit', channel: 'orders/1', seq: 1, epoch: '' }, answers: toGranted('committed') },
  append: { message: { op: 'append', channel: 'orders/1', events: [{ data: 1 }] }, answers: toGranted('appended') },
}

test('every message has a right and a row', () => {
  expect(Object.keys(OPS).sort()).toEqual(Object.keys(OP_RIGHTS).sort())
})

/** Other forms of a message, with rights of their own. */
const FORMS: Readonly<Record<string, OpRow>> = {
  'subscribe with the state': {
    message: { op: 'subscribe', channel: 'orders/1', state: true },
    answers: toGranted('subscribed'),
  },
}

for (const subprotocol of ['json', 'msgpack'] as const)
  test.each(Object.keys({ ...OPS, ...FORMS }))(`${subprotocol}: %s`, async (op) => {
    const guarded = await startGuarded()
    const [appended] = await guarded.log.append([{ channel: 'orders/1', body: body(1, 2, 3) }])
    const { message, answers } = { ...OPS, ...FORMS }[op]!
    const given: Record<string, number | string> = {}
    for (const caller of CALLERS) {
      const peer = await guarded.peer(caller, subprotocol)
      const extra = {
        ...(op === 'refresh' && { token: guarded.credentials.granted }),
        ...(op === 'commit' && { epoch: appended!.epoch }),
      }
      if (op !== 'hello' && caller !== 'none') peer.send({ op: 'hello', client: 'web' })
      peer.send({ ...message, ...extra, ref: 7 })
      if (caller === 'none') given[caller] = (await peer.closed).code
      else {
        const { op: answer, code } = await peer.answer(7)
        given[caller] = answer === 'error' ? code : answer
      }
    }
    expect(given).toEqual(Object.fromEntries(CALLERS.map((caller, i) => [caller, answers[i]])))
  })

test('without keys every route is the admin’s, whatever is shown', async () => {
  expect(Keyring.none().anybody.isAdmin).toBe(true)
  const guarded = await startGuarded()
  const open = await startGuarded({ keys: `${guarded.file}.none` })
  await open.log.append([
    { channel: 'orders/1', body: body(1, 2, 3) },
    { channel: 'in', body: body(1) },
  ])
  await open.log.commit('web', 'orders/1', { seq: 1 })
  for (const [route, { answers }] of Object.entries(ROWS))
    for (const caller of ['none', 'without'] as const) {
      if (route.startsWith('DELETE') && caller === 'without') continue
      // Nobody's token becomes a cookie there.
      const answer = route === 'POST /v1/session' ? 204 : answers.at(-1)
      expect([route, await answerTo(open, caller, route)]).toEqual([route, answer])
    }
})
