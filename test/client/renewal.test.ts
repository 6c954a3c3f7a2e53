/** Credentials that end, on a server with keys: the socket outlives them. Nothing here is timed but by the tokens. */
import { expect, onTestFinished, test } from 'vitest'
import { connect, NodeSocket } from '../../src/client/node.ts'
import type { SocketClass } from '../../src/client/stream.ts'
import { TidemarkError } from '../../src/errors.ts'
import { body, range } from '../parts.ts'
import { startGuarded } from '../server/guarded.ts'

const CHANNEL = 'orders/1'
/** Of a token: long enough that a busy machine renews it in time. */
const SECONDS = 4
const RENEWALS = 10

test(`one socket lives through ${RENEWALS} renewals, and no event is lost`, { timeout: 120_000 }, async () => {
  const server = await startGuarded()
  let opened = 0
  let renewed = 0
  class Counted extends NodeSocket {
    constructor(url: string, protocols: string[]) {
      super(url, protocols)
      opened++
      this.on('message', (data) => {
        if (JSON.parse(String(data)).op === 'refreshed') renewed++
      })
    }
  }
  const tidemark = connect(server.url, {
    token: () => server.token('anna', undefined, undefined, SECONDS),
    WebSocket: Counted as unknown as SocketClass,
  })
  onTestFinished(() => tidemark.close())
  const states: string[] = []
  tidemark.onState((state) => states.push(state))
  let appended = 0
  const feeding = setInterval(() => void server.log.append([{ channel: CHANNEL, body: body(++appended) }]), 20)
  onTestFinished(() => clearInterval(feeding))
  const seqs: number[] = []
  for await (const { seq } of tidemark.channel(CHANNEL).follow()) {
    seqs.push(seq)
    if (renewed >= RENEWALS || opened > 1) break
  }
  expect(seqs).toEqual(range(1, seqs.length))
  expect(opened).toBe(1)
  expect(states).toEqual(['connecting', 'open'])
})

test('a function that gives no other token leads to 4401, and is asked once more then', {
  timeout: 60_000,
}, async () => {
  const server = await startGuarded()
  let asked = 0
  const tidemark = connect(server.url, {
    token: () => {
      if (asked++) throw new TidemarkError('unauthorized', 'No more')
      return server.token('anna', undefined, undefined, 2)
    },
  })
  onTestFinished(() => tidemark.close())
  const states: string[] = []
  tidemark.onState((state) => states.push(state))
  await expect(tidemark.channel(CHANNEL).follow().next()).rejects.toMatchObject({ code: 'unauthorized' })
  expect(asked).toBe(3)
  expect(states).toEqual(['connecting', 'open', 'waiting', 'connecting', 'idle'])
})

test('a token that is a text is never renewed; welcome tells its end', { timeout: 60_000 }, async () => {
  const server = await startGuarded()
  const token = await server.token('anna', undefined, undefined, 2)
  const tidemark = connect(server.url, { token })
  onTestFinished(() => tidemark.close())
  await expect(tidemark.channel(CHANNEL).follow().next()).rejects.toMatchObject({
    code: 'unauthorized',
    details: { close: 4401 },
  })
  const peer = await server.peer('granted')
  peer.send({ op: 'hello' })
  const { expiresIn } = await peer.next('welcome')
  expect(expiresIn).toBeGreaterThan(0)
  expect(expiresIn).toBeLessThanOrEqual(600_000)
  peer.send({ op: 'refresh', token: server.credentials.granted })
  expect(await peer.next('refreshed')).toHaveProperty('expiresIn')
  const admin = await server.peer('admin')
  admin.send({ op: 'hello' })
  expect(await admin.next('welcome')).not.toHaveProperty('expiresIn')
})
