import { once } from 'node:events'
import { expect, test } from 'vitest'
import { NodeSocket } from '../../src/client/node.ts'
import type { SocketClass } from '../../src/client/stream.ts'
import type { Item } from '../../src/client/subscription.ts'
import { range } from '../parts.ts'
import { clientOf, Scripted, seqs, setClockBack } from './scripted.ts'

test('hello says who we are, and one socket serves all channels', async () => {
  const server = await Scripted.start()
  const tidemark = clientOf(server, { token: 'secret', client: 'web-1' })
  const a = tidemark.channel('a').follow()
  const b = tidemark.channel('b/c').follow({ after: 'head-5' })
  const peer = await server.peer()
  expect(await peer.next('hello')).toMatchObject({ token: 'secret', client: 'web-1' })
  expect(await peer.accept()).toMatchObject({ channel: 'a' })
  expect(await peer.accept({ after: 7 })).toMatchObject({ channel: 'b/c', after: 'head-5' })
  peer.events('a', 1, 1)
  peer.events('b/c', 8, 8)
  expect((await a.next()).value).toMatchObject({ channel: 'a', seq: 1, data: 1 })
  expect((await b.next()).value).toMatchObject({ channel: 'b/c', seq: 8 })
  expect(server.asked.map(({ url }) => url)).toEqual(['/v1/stream'])
  expect(server.asked[0]!.headers['sec-websocket-protocol']).toBe('tidemark.v1.json')
})

test('a lost socket is replaced, and each channel goes on from its own place', async () => {
  const server = await Scripted.start()
  const tidemark = clientOf(server)
  const a = tidemark.channel('a').follow()
  const b = tidemark.channel('b').follow({ after: 3, epoch: 'e1' })
  const first = await server.peer()
  await first.accept()
  await first.accept()
  first.events('a', 1, 5)
  expect(await seqs(a, 2)).toEqual([1, 2])
  first.cut()
  const second = await server.peer()
  const asked = [await second.accept(), await second.accept()]
  expect(asked).toMatchObject([
    { channel: 'a', after: 5, epoch: 'e1' },
    { channel: 'b', after: 3, epoch: 'e1' },
  ])
  second.events('a', 4, 8)
  second.events('b', 4, 4)
  expect(await seqs(a, 6)).toEqual(range(3, 8))
  expect(await seqs(b, 1)).toEqual([4])
})

test('a frame that skips events is not taken: the channel is asked for again from our own place', async () => {
  const server = await Scripted.start()
  const a = clientOf(server).channel('a').follow()
  const peer = await server.peer()
  await peer.accept()
  peer.events('a', 1, 2)
  peer.events('a', 5, 6)
  // These belong to the subscription that is being replaced.
  peer.events('a', 7, 8)
  expect(await peer.accept()).toMatchObject({ after: 2, epoch: 'e1' })
  peer.events('a', 3, 8)
  expect(await seqs(a, 8)).toEqual(range(1, 8))
  expect(peer.received.filter(({ op }) => op === 'subscribe').length).toBe(2)
})

test('a server that skips events every time is told off with data-loss, and the other channels live', async () => {
  const server = await Scripted.start()
  const tidemark = clientOf(server)
  const a = tidemark.channel('a').follow()
  const b = tidemark.channel('b').follow()
  const peer = await server.peer()
  await peer.accept()
  await peer.accept()
  peer.events('a', 1, 1)
  for (let i = 0; i < 3; i++) {
    peer.events('a', 5, 6)
    if (i < 2) await peer.accept()
  }
  expect(await seqs(a, 1)).toEqual([1])
  await expect(a.next()).rejects.toMatchObject({ code: 'data-loss', details: { after: 1, upTo: 4 } })
  expect(await peer.next('unsubscribe')).toMatchObject({ channel: 'a' })
  peer.events('b', 1, 1)
  expect(await seqs(b, 1)).toEqual([1])
})

test('items tell gap, reset and caughtup in their place', async () => {
  const server = await Scripted.start()
  const items = clientOf(server).channel('a').followItems({ after: 2, epoch: 'e0' })
  const peer = await server.peer()
  const { ref } = await peer.next('subscribe')
  peer.say({ op: 'subscribed', ref, channel: 'a', epoch: 'e1', after: 0, trimmed: 0, head: 1 })
  peer.say({ op: 'reset', channel: 'a', epoch: 'e1', trimmed: 0, head: 1 })
  peer.events('a', 1, 1)
  peer.say({ op: 'caughtup', channel: 'a', seq: 1 })
  peer.say({ op: 'gap', channel: 'a', after: 1, trimmed: 7 })
  peer.events('a', 8, 9)
  const found: Item[] = []
  for await (const item of items) {
    found.push(item)
    if (found.length === 5) break
  }
  expect(found).toMatchObject([
    { is: 'reset', epoch: 'e1', trimmed: 0, head: 1 },
    { is: 'events', epoch: 'e1', after: 0, last: 1, events: [{ seq: 1 }] },
    { is: 'caughtup', seq: 1 },
    { is: 'gap', after: 1, trimmed: 7 },
    { is: 'events', after: 7, last: 9, events: [{ seq: 8 }, { seq: 9 }] },
  ])
  expect(items.place).toEqual({ epoch: 'e1', after: 9 })
})

test('a loop over events throws on a gap or a reset that nobody handles', async () => {
  const server = await Scripted.start()
  const tidemark = clientOf(server)
  const a = tidemark.channel('a').follow()
  const b = tidemark.channel('b').follow()
  const peer = await server.peer()
  await peer.accept()
  await peer.accept()
  peer.say({ op: 'gap', channel: 'a', after: 0, trimmed: 7 })
  peer.say({ op: 'reset', channel: 'b', epoch: 'e2', trimmed: 3, head: 9 })
  await expect(a.next()).rejects.toMatchObject({ code: 'gap', details: { after: 0, trimmed: 7 } })
  await expect(b.next()).rejects.toMatchObject({ code: 'epoch-changed', details: { epoch: 'e2', trimmed: 3 } })
  expect(await a.next()).toEqual({ value: undefined, done: true })
  expect(await peer.next('unsubscribe')).toMatchObject({ channel: 'a' })
})

test('handlers of gap and reset are awaited before the events behind them', async () => {
  const server = await Scripted.start()
  const told: unknown[] = []
  const later = async (what: unknown) => {
    await Promise.resolve()
    told.push(what)
  }
  const loop = clientOf(server)
    .channel('a')
    .follow({ onGap: ({ trimmed }) => later(['gap', trimmed]), onReset: ({ epoch }) => later(['reset', epoch]) })
  const peer = await server.peer()
  await peer.accept()
  peer.events('a', 1, 1)
  peer.say({ op: 'gap', channel: 'a', after: 1, trimmed: 4 })
  peer.events('a', 5, 5)
  peer.say({ op: 'reset', channel: 'a', epoch: 'e2', trimmed: 0, head: 1 })
  peer.events('a', 1, 1, { epoch: 'e2' })
  for await (const { seq } of loop) {
    told.push(seq)
    if (told.length === 5) break
  }
  expect(told).toEqual([1, ['gap', 4], 5, ['reset', 'e2'], 1])
})

test('a reset that was cut off on its way is asked for again, not forgotten', async () => {
  const server = await Scripted.start()
  const items = clientOf(server).channel('a').followItems({ after: 5, epoch: 'e0' })
  const first = await server.peer()
  await first.accept({ epoch: 'e1', after: 0 })
  first.cut()
  const second = await server.peer()
  expect(await second.accept({ epoch: 'e1', after: 0 })).toMatchObject({ after: 5, epoch: 'e0' })
  second.say({ op: 'reset', channel: 'a', epoch: 'e1', trimmed: 0, head: 3 })
  expect((await items.next()).value).toMatchObject({ is: 'reset', epoch: 'e1' })
})

test('every close that may pass is retried', async () => {
  const server = await Scripted.start()
  server.respond = () => ({ body: { pages: [], streamer: 'on' } })
  const tidemark = clientOf(server)
  const loop = tidemark.channel('a').follow()
  let seq = 0
  // 1000, 1005, 1014 are never ours: what stands between may send them.
  for (const code of [1000, 1001, 1005, 1006, 1011, 1012, 1013, 1014, 4408, 4429, 4503, 4999]) {
    const peer = await server.peer()
    await peer.accept()
    seq++
    peer.events('a', seq, seq)
    expect(await seqs(loop, 1)).toEqual([seq])
    if (code === 1006) peer.cut()
    else if (code === 1005) peer.socket.close()
    else peer.socket.close(code, 'retry=1')
  }
  const last = await server.peer()
  expect(await last.accept()).toMatchObject({ after: seq })
})

test('a close that never passes ends each loop with an error, and the next loop starts anew', async () => {
  const codes = {
    1002: 'bad-request',
    1003: 'bad-request',
    1007: 'bad-request',
    1008: 'forbidden',
    1009: 'too-large',
    4400: 'bad-request',
    4403: 'forbidden',
    4401: 'unauthorized',
  }
  const server = await Scripted.start()
  const tidemark = clientOf(server, { token: 'fixed' })
  for (const [close, code] of Object.entries(codes)) {
    const loops = ['a', 'b'].map((name) => tidemark.channel(name).follow())
    const peer = await server.peer()
    await peer.accept()
    await peer.accept()
    peer.events('a', 1, 1)
    peer.socket.close(Number(close), 'so it is')
    expect(await seqs(loops[0]!, 1)).toEqual([1])
    for (const loop of loops)
      await expect(loop.next()).rejects.toMatchObject({ code, details: { close: Number(close) } })
    expect(tidemark.state).toBe('idle')
  }
})

test('a line that went silent is asked once, then replaced', async () => {
  const server = await Scripted.start()
  server.meets = 'silence'
  const loop = clientOf(server).channel('a').follow()
  const first = await server.peer()
  first.welcome(40)
  await first.accept()
  first.events('a', 1, 1)
  await first.next('ping')
  const second = await server.peer()
  second.welcome()
  await second.accept()
  second.events('a', 2, 2)
  expect(await seqs(loop, 2)).toEqual([1, 2])
  await first.closed()
})

test('a line that goes silent while the clock is set back is replaced, too', async () => {
  const server = await Scripted.start()
  server.meets = 'silence'
  const loop = clientOf(server).channel('a').follow()
  const first = await server.peer()
  first.welcome(40)
  await first.accept()
  first.events('a', 1, 1)
  expect(await seqs(loop, 1)).toEqual([1])
  setClockBack()
  await first.next('ping')
  const second = await server.peer()
  second.welcome()
  await second.accept()
  second.events('a', 2, 2)
  expect(await seqs(loop, 1)).toEqual([2])
})

test('a line whose server answers a ping is kept', async () => {
  const server = await Scripted.start()
  server.meets = 'silence'
  const loop = clientOf(server).channel('a').follow()
  const peer = await server.peer()
  // A busy machine answers within it, too.
  peer.welcome(300)
  await peer.accept()
  for (let i = 0; i < 3; i++) {
    await peer.next('ping')
    peer.say({ op: 'pong' })
  }
  peer.events('a', 1, 1)
  expect(await seqs(loop, 1)).toEqual([1])
  expect(server.peers.length).toBe(1)
})

test.each([
  '{"op":',
  'null',
  '{"op":"welcome"}',
  '{"op":"events","channel":"a","epoch":"e1","after":0,"last":1}',
  '{"op":"events","channel":"a","epoch":"e1","after":0,"last":1,"events":[null]}',
])('a frame that is no message, %s, ends the loops', async (frame) => {
  const server = await Scripted.start()
  const loop = clientOf(server).channel('a').follow()
  const peer = await server.peer()
  await peer.accept()
  peer.socket.send(frame)
  await expect(loop.next()).rejects.toMatchObject({ code: 'bad-request', details: { close: 1007 } })
})

test('messages of a newer server are passed over', async () => {
  const server = await Scripted.start()
  const loop = clientOf(server).channel('a').follow()
  const peer = await server.peer()
  await peer.accept()
  peer.say({ op: 'tide', height: 3 })
  peer.events('a', 1, 1)
  expect(await seqs(loop, 1)).toEqual([1])
})

test('a subscription that ended throws its code; one that can not be served now is asked for again', async () => {
  const server = await Scripted.start()
  const tidemark = clientOf(server)
  const a = tidemark.channel('a').follow()
  const b = tidemark.channel('b').follow()
  const c = tidemark.channel('c').follow()
  const peer = await server.peer()
  await peer.accept()
  await peer.accept()
  const { ref } = await peer.next('subscribe')
  peer.say({ op: 'error', ref, channel: 'c', code: 'forbidden', detail: 'not yours' })
  await expect(c.next()).rejects.toMatchObject({ code: 'forbidden' })
  peer.say({ op: 'ended', channel: 'a', code: 'no-channel', detail: 'deleted' })
  await expect(a.next()).rejects.toMatchObject({ code: 'no-channel' })
  peer.events('b', 1, 1)
  peer.say({ op: 'ended', channel: 'b', code: 'unavailable', detail: 'later', retryAfter: 1 })
  expect(await peer.accept()).toMatchObject({ channel: 'b', after: 1 })
  peer.events('b', 2, 2)
  expect(await seqs(b, 2)).toEqual([1, 2])
})

test('leaving a loop leaves the channel, and the channel can be followed again', async () => {
  const server = await Scripted.start()
  const tidemark = clientOf(server)
  const stop = new AbortController()
  const first = tidemark.channel('a').follow({ signal: stop.signal })
  const peer = await server.peer()
  await peer.accept()
  peer.events('a', 1, 3)
  expect(() => tidemark.channel('a').follow()).toThrowError(expect.objectContaining({ code: 'bad-request' }))
  expect(await seqs(first, 1)).toEqual([1])
  expect(first.place).toEqual({ epoch: 'e1', after: 1 })
  stop.abort()
  const second = tidemark.channel('a').follow({ ...first.place!, epoch: 'e1' })
  expect(await first.next()).toEqual({ value: undefined, done: true })
  await peer.next('unsubscribe')
  // Of the first subscription, before the second was accepted.
  peer.events('a', 4, 4)
  expect(await peer.accept()).toMatchObject({ after: 1, epoch: 'e1' })
  peer.events('a', 2, 4)
  expect(await seqs(second, 3)).toEqual([2, 3, 4])
})

test('close ends each loop as if it had been left', async () => {
  const server = await Scripted.start()
  const tidemark = clientOf(server)
  const states: string[] = []
  tidemark.onState((state) => states.push(state))
  const loop = tidemark.channel('a').follow()
  const peer = await server.peer()
  await peer.accept()
  const waiting = loop.next()
  await tidemark.close()
  expect(await waiting).toEqual({ value: undefined, done: true })
  expect(states).toEqual(['connecting', 'open', 'closed'])
  expect(() => tidemark.channel('a').follow()).toThrowError(expect.objectContaining({ code: 'unavailable' }))
  await peer.closed()
})

test('two calls of next that overlap get two events, in order', async () => {
  const server = await Scripted.start()
  const loop = clientOf(server).channel('a').follow()
  const peer = await server.peer()
  await peer.accept()
  const both = [loop.next(), loop.next(), loop.next()]
  peer.events('a', 1, 1)
  peer.events('a', 2, 3)
  expect((await Promise.all(both)).map(({ value }) => value?.seq)).toEqual([1, 2, 3])
})

test('a closed client leaves nothing open for long, though the server hangs and never says goodbye', async () => {
  const server = await Scripted.start()
  const sockets: NodeSocket[] = []
  class Seen extends NodeSocket {
    constructor(url: string, protocols: string[]) {
      super(url, protocols)
      sockets.push(this)
    }
  }
  const tidemark = clientOf(server, { WebSocket: Seen as unknown as SocketClass })
  void tidemark.channel('a').follow().next()
  const peer = await server.peer()
  await peer.accept()
  peer.socket.pause()
  await tidemark.close()
  // Half a minute without a limit of ours, longer than a test may take.
  await once(sockets[0]!, 'close')
})
