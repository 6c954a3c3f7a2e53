/** What strangers may cost by address, and what one subject may hold; who shows a good credential is let in meanwhile. */
import { once } from 'node:events'
import { expect, onTestFinished, test } from 'vitest'
import { WebSocket } from 'ws'
import { Guard, networkOf } from '../../src/doors/guard.ts'
import { call, problemOf } from './calls.ts'
import { type Guarded, startGuarded } from './guarded.ts'
import { Peer, until } from './stream.ts'

const socketUrl = ({ url }: Guarded): string => `${url.replace('http', 'ws')}/v1/stream`

/** The status that a handshake was answered with. */
async function knock(guarded: Guarded, headers: Record<string, string> = {}): Promise<[number, WebSocket]> {
  const ws = new WebSocket(socketUrl(guarded), { headers })
  onTestFinished(() => ws.terminate())
  ws.on('error', () => {})
  const status = await new Promise<number>((resolve) => {
    ws.on('upgrade', () => resolve(101))
    ws.on('unexpected-response', (_, res) => {
      expect(res.headers['retry-after']).toBeDefined()
      resolve(res.statusCode!)
    })
  })
  return [status, ws]
}

test('bad credentials are refused with 429 after ten, good ones never', async () => {
  const guarded = await startGuarded()
  const list = (headers: Record<string, string>) => call(`${guarded.url}/v1/channels`, 'GET', undefined, headers)
  const bad = { authorization: 'Bearer wrong' }
  for (let n = 0; n < 10; n++) expect((await list(bad)).status).toBe(401)
  const refused = await list(bad)
  expect(problemOf(refused)).toMatchObject({ code: 'too-many', status: 429 })
  expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(50)
  expect((await knock(guarded, bad))[0]).toBe(429)
  const peer = await Peer.open(socketUrl(guarded), 'json', {})
  peer.send({ op: 'hello', token: 'wrong' })
  expect((await peer.closed).code).toBe(4429)

  expect((await list(guarded.headers('granted'))).status).toBe(200)
  expect((await list({})).status).toBe(401)
  await guarded.joined(guarded.credentials.granted)
})

test('sockets that say no hello are bounded; those that said it, or left, count no more', async () => {
  const guarded = await startGuarded({ limits: { strangersPerAddress: 3 } })
  const waiting: WebSocket[] = []
  for (let n = 0; n < 3; n++) {
    const [status, ws] = await knock(guarded)
    expect(status).toBe(101)
    waiting.push(ws)
  }
  expect((await knock(guarded))[0]).toBe(429)
  expect((await knock(guarded, guarded.headers('granted')))[0]).toBe(101)
  waiting[0]!.send(JSON.stringify({ op: 'hello', token: guarded.credentials.granted }))
  await once(waiting[0]!, 'message')
  expect((await knock(guarded))[0]).toBe(101)
  waiting[1]!.terminate()
  await until(async () => (await knock(guarded))[0] === 101)
  expect((await knock(guarded))[0]).toBe(429)
})

test('before anybody has said who they are, frames are small; the longest token fits', async () => {
  const guarded = await startGuarded()
  const closedBy = async (token: string): Promise<number> => {
    const peer = await Peer.open(socketUrl(guarded), 'json', {})
    peer.send({ op: 'hello', token })
    return (await peer.closed).code
  }
  expect(await closedBy('x'.repeat(8_192))).toBe(4401)
  expect(await closedBy('x'.repeat(20_000))).toBe(1009)
  const known = await guarded.joined(guarded.credentials.granted)
  const events = [{ data: 'x'.repeat(20_000) }]
  known.send({ op: 'append', ref: 1, channel: 'orders/1', events })
  expect(await known.next('appended')).toMatchObject({ last: 1 })
})

test('handshakes without a credential are bounded by address and time', () => {
  const guard = new Guard()
  const knocks = (address: string, now: number) => {
    for (let n = 0; ; n++)
      try {
        guard.knock(address, now)()
      } catch (error) {
        expect(error).toMatchObject({ code: 'too-many', details: { retryAfter: 50 } })
        return n
      }
  }
  expect(knocks('192.0.2.1', 0)).toBe(100)
  expect(knocks('192.0.2.1', 0)).toBe(0)
  expect(knocks('192.0.2.2', 0)).toBe(100)
  expect(knocks('192.0.2.1', 1_000)).toBe(20)
  expect(knocks('192.0.2.1', 60_000)).toBe(100)
  expect(knocks('2001:db8::1', 0)).toBe(100)
  expect(knocks('2001:db8:0:0:ffff::2', 0)).toBe(0)
  for (const address of ['2001:db8::1', '2001:db8:0:0:1::', '2001:db8:0:0:1:2:3:4'])
    expect(networkOf(address)).toBe('2001:db8:0:0')
})

test('the sockets and streams of one subject are bounded, those of others are not', async () => {
  const guarded = await startGuarded({ limits: { connectionsPerSubject: 2 } })
  const { granted, other } = guarded.credentials
  const first = await guarded.joined(granted)
  await guarded.log.configure('orders/1', {})
  const events = `${guarded.url}/v1/channels/orders/1/events`
  const open = new AbortController()
  onTestFinished(() => open.abort())
  const streamed = (caller: 'granted' | 'other') =>
    fetch(events, { headers: { ...guarded.headers(caller), accept: 'text/event-stream' }, signal: open.signal })
  expect((await streamed('granted')).status).toBe(200)
  const refused = await streamed('granted')
  expect([refused.status, refused.headers.get('content-type')]).toEqual([200, 'text/event-stream'])
  const told = await refused.text()
  expect(told).not.toMatch(/^id:/m)
  expect(Number(/^retry: (\d+)$/m.exec(told)![1])).toBeGreaterThanOrEqual(10_000)
  expect(told).toMatch(/\nevent: tidemark\.refused\ndata: \{"code":"too-many",/)
  const third = await Peer.open(socketUrl(guarded), 'json', {})
  third.send({ op: 'hello', token: granted })
  expect(await third.next('error')).toMatchObject({ code: 'too-many' })
  await guarded.joined(other)
  await guarded.joined(other)
  first.ws.terminate()
  await until(async () => {
    third.send({ op: 'hello', token: granted })
    return (await third.next('error', 'welcome')).op === 'welcome'
  })
})
