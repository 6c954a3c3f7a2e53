import { describe, expect, test } from 'vitest'
import { infoOrNone } from '../../src/log/follow.ts'
import type { Log } from '../../src/log/log.ts'
import { body, range, SEED } from '../parts.ts'
import { type Message, type Peer, SUBPROTOCOLS, seqs, startStream, until } from './stream.ts'

const append = async (log: Log, channel: string, ...values: unknown[]) =>
  (await log.append([{ channel, body: body(...values) }]))[0]!

const EVENTS = (first: number, last: number): Message[] => range(first, last).map((n) => ({ data: n }))

/** From `subscribed` to `caughtup`, chained. */
async function readThrough(peer: Peer, channel: string): Promise<{ start: Message; events: Message[] }> {
  const start = await peer.next('subscribed')
  const events: Message[] = []
  for (let after = start.after; ; ) {
    const message = await peer.next('events', 'caughtup')
    if (message.op === 'caughtup') {
      expect(message).toEqual({ op: 'caughtup', channel, seq: after })
      return { start, events }
    }
    expect(message.after).toBe(after)
    after = message.last
    events.push(...message.events)
  }
}

describe.each(SUBPROTOCOLS)('the streamer, %s', (subprotocol) => {
  test('says welcome with its limits, and echoes the ref', async () => {
    const { peer } = await startStream({ heartbeat: 25_000 })
    const socket = await peer(subprotocol)
    expect(socket.ws.protocol).toBe(`tidemark.v1.${subprotocol}`)
    socket.send({ op: 'hello', ref: 'h', client: 'web-42', token: 'unused' })
    expect(await socket.next()).toEqual({
      op: 'welcome',
      ref: 'h',
      server: 'tidemark/test',
      client: 'web-42',
      heartbeat: 25_000,
      limits: { frameBytes: 1_048_576, subscriptions: 1_000, appendEvents: 1_000 },
    })
  })

  test('takes frames that follow hello unawaited', async () => {
    const { peer } = await startStream()
    const socket = await peer(subprotocol)
    socket.send({ op: 'hello' }, { op: 'ping', ref: 1 }, { op: 'append', ref: 2, channel: 'a', events: [{ data: 1 }] })
    expect(await socket.next()).toMatchObject({ op: 'welcome', client: null })
    expect(await socket.next()).toEqual({ op: 'pong', ref: 1 })
    expect(await socket.next()).toMatchObject({ op: 'appended', ref: 2, channel: 'a', first: 1, last: 1, head: 1 })
  })

  test('gives history, then caughtup once, then live events as they come', async () => {
    const { log, client } = await startStream()
    const { epoch } = await append(log, 'orders', 'a', 'b')
    const socket = await client(subprotocol)
    socket.send({ op: 'subscribe', ref: 's', channel: 'orders' })
    expect(await socket.next()).toEqual({
      op: 'subscribed',
      ref: 's',
      channel: 'orders',
      epoch,
      after: 0,
      trimmed: 0,
      head: 2,
    })
    const events = await socket.next('events')
    expect(events).toMatchObject({ op: 'events', channel: 'orders', epoch, after: 0, last: 2 })
    expect(events.events).toMatchObject([
      { seq: 1, data: 'a' },
      { seq: 2, data: 'b' },
    ])
    expect(await socket.next()).toEqual({ op: 'caughtup', channel: 'orders', seq: 2 })
    for (const n of range(3, 12)) {
      await append(log, 'orders', n)
      expect(await socket.next('events')).toMatchObject({ after: n - 1, last: n, events: [{ seq: n, data: n }] })
    }
  })

  test('begins at every kind of position', async () => {
    const { log, client } = await startStream()
    await append(log, 'c', 1, 2, 3)
    await new Promise((resolve) => setTimeout(resolve, 5))
    const middle = new Date().toISOString()
    await new Promise((resolve) => setTimeout(resolve, 5))
    await append(log, 'c', 4, 5)
    await log.commit('web', 'c', { seq: 4 })
    const socket = await client(subprotocol, 'web')
    const from = async (start: object) => {
      socket.send({ op: 'subscribe', channel: 'c', ...start })
      const { start: told, events } = await readThrough(socket, 'c')
      expect(seqs(events)).toEqual(range(told.after + 1, 5))
      return told.after
    }
    expect(await from({})).toBe(0)
    expect(await from({ after: 'earliest' })).toBe(0)
    expect(await from({ after: 2 })).toBe(2)
    expect(await from({ after: 'head' })).toBe(5)
    expect(await from({ after: 'head-2' })).toBe(3)
    expect(await from({ after: `time:${middle}` })).toBe(3)
    expect(await from({ cursor: true })).toBe(4)
  })

  test('waits for a channel that does not exist yet, and its first epoch is no reset', async () => {
    const { log, client } = await startStream()
    const socket = await client(subprotocol)
    socket.send({ op: 'subscribe', channel: 'later', after: 7 })
    expect(await socket.next()).toEqual({
      op: 'subscribed',
      channel: 'later',
      epoch: null,
      after: 0,
      trimmed: 0,
      head: 0,
    })
    const { epoch } = await append(log, 'later', 1)
    expect(await socket.next()).toMatchObject({ op: 'events', epoch, after: 0, last: 1 })
    expect(await socket.next()).toMatchObject({ op: 'caughtup', seq: 1 })
  })

  test('tells a gap, at the start and in the middle, and goes on after it', async () => {
    const { log, client } = await startStream()
    await append(log, 'c', 1, 2, 3)
    await append(log, 'c', 4, 5)
    await log.trim('c', 3)
    const socket = await client(subprotocol)
    socket.send({ op: 'subscribe', channel: 'c', after: 1 })
    expect(await socket.next()).toMatchObject({ op: 'subscribed', after: 1, trimmed: 3, head: 5 })
    expect(await socket.next()).toEqual({ op: 'gap', channel: 'c', after: 1, trimmed: 3 })
    expect(seqs((await socket.next('events')).events)).toEqual([4, 5])
    await socket.next('caughtup')
  })

  test('resets a reader of another history, of one that is gone, and one beyond the head', async () => {
    const { log, client } = await startStream()
    await append(log, 'c', 1, 2, 3)
    const old = (await log.info('c')).epoch
    await log.delete('c')
    await append(log, 'c', 4)
    const { epoch } = await log.info('c')
    const socket = await client(subprotocol)
    const reset = { op: 'reset', channel: 'c', epoch, trimmed: 0, head: 1 }
    for (const start of [{ after: 1, epoch: old }, { after: 2 }]) {
      socket.send({ op: 'subscribe', channel: 'c', ...start })
      await socket.next('subscribed')
      expect(await socket.next()).toEqual(reset)
      expect(await socket.next()).toMatchObject({ op: 'events', epoch, after: 0, last: 1 })
      await socket.next('caughtup')
    }
    socket.send({ op: 'subscribe', channel: 'none', after: 9, epoch: old })
    expect(await socket.next()).toMatchObject({ op: 'subscribed', epoch: null })
    expect(await socket.next()).toEqual({ op: 'reset', channel: 'none', epoch: null, trimmed: 0, head: 0 })
  })

  test('ends the subscription of a deleted channel, and only that', async () => {
    const { log, client } = await startStream()
    await append(log, 'gone', 1)
    await append(log, 'stays', 1)
    const socket = await client(subprotocol)
    socket.send(
      { op: 'subscribe', channel: 'gone', after: 'head' },
      { op: 'subscribe', channel: 'stays', after: 'head' },
    )
    await socket.untilOp('caughtup')
    await socket.untilOp('caughtup')
    await log.delete('gone')
    expect(await socket.next()).toMatchObject({ op: 'ended', channel: 'gone', code: 'no-channel' })
    await append(log, 'stays', 2)
    expect(await socket.next()).toMatchObject({ op: 'events', channel: 'stays', last: 2 })
    // Made again, it can be followed again, from the start of its new history.
    await append(log, 'gone', 'new')
    socket.send({ op: 'subscribe', channel: 'gone' })
    expect((await readThrough(socket, 'gone')).events).toMatchObject([{ seq: 1, data: 'new' }])
  })

  // Pages come from disk in these two, so that one is on its way whenever the next request comes.
  const FROM_DISK = { log: { tailBytes: 1 } }

  test('answers unsubscribe, and no frame of the channel follows', async () => {
    const { log, client } = await startStream(FROM_DISK)
    // More than three of the largest pages.
    for (const n of range(1, 50)) await append(log, 'c', n, 'x'.repeat(100_000))
    const socket = await client(subprotocol)
    for (const round of range(1, 20)) {
      socket.send({ op: 'subscribe', channel: 'c' })
      for (let seen = round % 4; seen > 0; seen--) await socket.untilOp('events')
      socket.send({ op: 'unsubscribe', ref: round, channel: 'c' }, { op: 'unsubscribe', ref: -round, channel: 'c' })
      expect(await socket.answer(round)).toEqual({ op: 'unsubscribed', ref: round, channel: 'c' })
      expect(await socket.next()).toEqual({ op: 'unsubscribed', ref: -round, channel: 'c' })
    }
    await append(log, 'c', 51)
    socket.send({ op: 'ping', ref: 'end' })
    expect(await socket.next()).toEqual({ op: 'pong', ref: 'end' })
  })

  test('replaces a subscription: after its subscribed, only frames of the new place', async () => {
    const { log, client } = await startStream(FROM_DISK)
    for (const n of range(1, 100)) await append(log, 'c', n, 'x'.repeat(10_000))
    const socket = await client(subprotocol)
    for (const round of range(1, 20)) {
      socket.send({ op: 'subscribe', channel: 'c' })
      // The first may be anywhere in its history when the others come.
      for (let seen = round % 4; seen > 0; seen--) await socket.untilOp('events')
      socket.send(
        { op: 'subscribe', channel: 'c', after: 'head' },
        { op: 'subscribe', channel: 'c' },
        { op: 'subscribe', ref: round, channel: 'c', after: 150 },
      )
      await socket.answer(round)
      expect(seqs(await socket.events('c', 150, 200))).toEqual(range(151, 200))
      await socket.next('caughtup')
    }
  })

  test('moves a cursor with an answered commit, forward only', async () => {
    const { log, client } = await startStream()
    const { epoch } = await append(log, 'c', 1, 2, 3)
    const socket = await client(subprotocol, 'web')
    socket.send({ op: 'subscribe', channel: 'c' })
    await readThrough(socket, 'c')
    socket.send({ op: 'commit', ref: 1, channel: 'c', seq: 2 })
    const { time, ...committed } = await socket.next('committed')
    expect(committed).toEqual({ op: 'committed', ref: 1, client: 'web', channel: 'c', epoch, seq: 2, lag: 1 })
    expect(new Date(time).toISOString()).toBe(time)
    socket.send({ op: 'commit', ref: 2, channel: 'c', seq: 1 })
    expect(await socket.next()).toMatchObject({ op: 'committed', ref: 2, seq: 2 })
    socket.send({ op: 'commit', ref: 3, channel: 'c', seq: 9 })
    expect(await socket.next()).toMatchObject({ op: 'error', ref: 3, channel: 'c', code: 'ahead-of-head', head: 3 })
    expect(await log.cursor('web', 'c')).toMatchObject({ seq: 2 })
  })

  test('keeps unanswered commits together and makes them durable soon', async () => {
    const { log, client } = await startStream()
    await append(log, 'c', ...range(1, 500))
    const socket = await client(subprotocol, 'web')
    socket.send({ op: 'subscribe', channel: 'c' })
    await readThrough(socket, 'c')
    for (const seq of range(1, 400)) socket.send({ op: 'commit', channel: 'c', seq })
    await until(async () => (await log.cursor('web', 'c'))?.seq === 400)
    expect(socket.inbox).toEqual([])
  })

  test('keeps the last unanswered commit of a socket that goes away, and of a channel that is left', async () => {
    const { log, client } = await startStream()
    await append(log, 'c', 1, 2, 3)
    const socket = await client(subprotocol, 'web')
    socket.send({ op: 'subscribe', channel: 'c' }, { op: 'commit', channel: 'c', seq: 1 })
    socket.send({ op: 'commit', channel: 'c', seq: 2 }, { op: 'unsubscribe', channel: 'c' })
    await until(async () => (await log.cursor('web', 'c'))?.seq === 2)
    // What was followed here can still be committed.
    socket.send({ op: 'commit', channel: 'c', seq: 3 })
    socket.ws.close()
    await until(async () => (await log.cursor('web', 'c'))?.seq === 3)
  })

  test('tells the failure of an unanswered commit by its channel', async () => {
    const { log, client } = await startStream()
    await append(log, 'c', 1)
    const socket = await client(subprotocol, 'web')
    socket.send({ op: 'subscribe', channel: 'c' }, { op: 'commit', channel: 'c', seq: 5 })
    const error = await socket.untilOp('error')
    expect(error).toMatchObject({ channel: 'c', code: 'ahead-of-head' })
    expect(error).not.toHaveProperty('ref')
  })

  test('does not take a commit of the history before a reset', async () => {
    const { log, client } = await startStream()
    await append(log, 'c', ...range(1, 50))
    const { epoch: old } = await log.info('c')
    await log.delete('c')
    for (const n of range(1, 60)) await append(log, 'c', `${n}`.repeat(4_000))
    const { epoch } = await log.info('c')
    const socket = await client(subprotocol, 'web')
    socket.send(
      { op: 'subscribe', channel: 'c', after: 40, epoch: old },
      { op: 'commit', ref: 1, channel: 'c', seq: 41 },
    )
    expect(await socket.answer(1)).toMatchObject({ op: 'error', channel: 'c', code: 'epoch-changed' })
    expect(await log.cursor('web', 'c')).toBeUndefined()
    await socket.untilOp('caughtup')
    socket.send({ op: 'commit', ref: 2, channel: 'c', seq: 41, epoch: old })
    expect(await socket.answer(2)).toMatchObject({ op: 'error', code: 'epoch-changed', epoch })
    socket.send({ op: 'commit', ref: 3, channel: 'c', seq: 60 })
    expect(await socket.answer(3)).toMatchObject({ op: 'committed', seq: 60, epoch })
  })

  test('keeps a cursor in the run in which its client was, however far it was sent events since', async () => {
    const { log, client } = await startStream()
    const { epoch } = await append(log, 'a', ...range(1, 6))
    const socket = await client(subprotocol, 'web')
    socket.send({ op: 'subscribe', channel: 'a' })
    await readThrough(socket, 'a')
    const cleaned = await log.clean!('a', 5, epoch)
    await append(log, 'a', 7)
    expect(await socket.next('events')).toMatchObject({ epoch: cleaned.epoch, after: 6, last: 7 })
    for (const [seq, run] of [
      [3, epoch],
      [7, cleaned.epoch],
    ] as const) {
      socket.send({ op: 'commit', ref: seq, channel: 'a', seq })
      expect(await socket.next('committed')).toMatchObject({ ref: seq, seq, epoch: run })
    }
  })

  test('asks for a client name and a followed channel before it commits', async () => {
    const { log, client } = await startStream()
    await append(log, 'c', 1)
    const nameless = await client(subprotocol)
    nameless.send({ op: 'subscribe', channel: 'c' }, { op: 'commit', ref: 1, channel: 'c', seq: 1 })
    expect(await nameless.answer(1)).toMatchObject({ op: 'error', code: 'bad-request' })
    nameless.send({ op: 'subscribe', ref: 2, channel: 'c', cursor: true })
    expect(await nameless.answer(2)).toMatchObject({ op: 'error', code: 'bad-request' })
    const socket = await client(subprotocol, 'web')
    socket.send({ op: 'commit', ref: 3, channel: 'c', seq: 1 })
    expect(await socket.answer(3)).toMatchObject({ op: 'error', code: 'bad-request' })
    socket.send({ op: 'subscribe', channel: 'none' }, { op: 'commit', ref: 4, channel: 'none', seq: 1 })
    expect(await socket.answer(4)).toMatchObject({ op: 'error', code: 'no-channel' })
  })

  test('answers appends with their place, and again under the same key', async () => {
    const { log, client, doors } = await startStream()
    const socket = await client(subprotocol)
    const request = { op: 'append', channel: 'c', events: [{ data: 1, type: 't' }, { data: 2 }], idempotencyKey: 'k' }
    socket.send({ ...request, ref: 1 })
    const first = await socket.next()
    const { epoch } = await log.info('c')
    expect(first).toEqual({
      ...{ op: 'appended', ref: 1, channel: 'c', epoch, first: 1, last: 2, head: 2 },
      durability: 'fsync',
    })
    socket.send({ ...request, ref: 2 })
    expect(await socket.next()).toEqual({ ...first, ref: 2, duplicate: true })
    socket.send({ ...request, ref: 3, events: [{ data: 3 }] })
    expect(await socket.next()).toMatchObject({ op: 'error', ref: 3, channel: 'c', code: 'key-reused' })
    socket.send({ op: 'append', ref: 4, channel: 'c', events: [{ data: 3 }], expectedSeq: 1 })
    expect(await socket.next()).toMatchObject({ op: 'error', ref: 4, code: 'seq-conflict', head: 2, epoch })
    socket.send({ op: 'append', ref: 5, channel: 'c', events: [{ data: 3 }], expectedSeq: 2 })
    expect(await socket.next()).toMatchObject({ op: 'appended', ref: 5, first: 3, last: 3 })
    // What was only answered again was not appended again.
    expect(doors.metrics.appends.stream).toMatchObject({ appends: 2, events: 3 })
  })

  test('takes 1,000 appends in flight and answers them in order, refused ones too', async () => {
    const { client } = await startStream()
    const socket = await client(subprotocol)
    const wrong = (n: number) => n % 7 === 0
    for (const n of range(1, 1_000))
      socket.send({ op: 'append', ref: n, channel: 'c', events: wrong(n) ? [{ nonsense: n }] : EVENTS(n, n) })
    let last = 0
    for (const n of range(1, 1_000)) {
      const answer = await socket.next()
      if (wrong(n)) expect(answer).toMatchObject({ op: 'error', ref: n, channel: 'c', code: 'bad-request' })
      else expect(answer).toMatchObject({ op: 'appended', ref: n, first: ++last, last })
    }
  })

  test('answers ping and refresh', async () => {
    const { client } = await startStream()
    const socket = await client(subprotocol)
    socket.send({ op: 'ping' }, { op: 'refresh', ref: 'r', token: 'new' })
    expect(await socket.next()).toEqual({ op: 'pong' })
    expect(await socket.next()).toEqual({ op: 'refreshed', ref: 'r' })
  })

  test('gives every event once and in order to readers that begin anywhere while others append', async () => {
    let state = SEED
    const random = (most: number) => {
      state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff
      return Math.floor((state / 0x80000000) * most)
    }
    const { log, client } = await startStream()
    const total = 2_000
    const writers = range(1, 4).map(() => client(subprotocol))
    const readers = range(1, 6).map(() => client(subprotocol))
    let next = 1
    const appending = Promise.all(
      writers.map(async (opened) => {
        const writer = await opened
        while (next <= total) {
          const first = next
          next = Math.min(first + 1 + random(40), total + 1)
          writer.send({ op: 'append', ref: first, channel: 'c', events: EVENTS(first, next - 1) })
          if (random(3) === 0) await writer.answer(first)
        }
        await writer.ws.ping()
      }),
    )
    const reading = readers.map(async (opened, i) => {
      const reader = await opened
      await until(async () => ((await infoOrNone(log, 'c'))?.head ?? 0) > i * 200)
      const after = random(i * 200 + 1)
      reader.send({ op: 'subscribe', channel: 'c', after })
      await reader.next('subscribed')
      expect(seqs(await reader.events('c', after, total)), `seed ${SEED}`).toEqual(range(after + 1, total))
      return after
    })
    await Promise.all([appending, ...reading])
  })

  test('misses no event that is appended between the last page and the wait', async () => {
    // The page that ends at the head comes from disk: the next append is written while it is read.
    const { log, client } = await startStream(FROM_DISK)
    await append(log, 'c', 0)
    const socket = await client(subprotocol)
    socket.send({ op: 'subscribe', channel: 'c', after: 'head' })
    await socket.untilOp('caughtup')
    let position = 1
    for (const round of range(1, 150)) {
      const first = append(log, 'c', round)
      if (round % 2) await first
      for (let turns = round % 8; turns > 0; turns--) await new Promise((resolve) => setImmediate(resolve))
      const { last } = await append(log, 'c', -round)
      // Nothing is appended until both are here: a reader that missed the second would wait for ever.
      expect(seqs(await socket.events('c', position, last))).toEqual(range(position + 1, last))
      position = last
    }
  })
})

test('a socket that offers no subprotocol speaks JSON', async () => {
  const { url } = await startStream()
  const { WebSocket } = await import('ws')
  const ws = new WebSocket(url)
  await new Promise((resolve) => ws.once('open', resolve))
  ws.send('{"op":"hello"}')
  const [data, binary] = await new Promise<[Buffer, boolean]>((resolve) =>
    ws.once('message', (data: Buffer, binary) => resolve([data, binary])),
  )
  expect(binary).toBe(false)
  expect(JSON.parse(data.toString())).toMatchObject({ op: 'welcome' })
  ws.terminate()
})

test('data appended as JSON is read as the sender wrote it', async () => {
  const { log, client } = await startStream()
  const socket = await client()
  const data = '{"b": 1.50, "a":[1e2,  "\\u00e9\\/"],"z":-0}'
  socket.ws.send(`{"op":"append","ref":1,"channel":"c","events":[{"data":${data},"type":"t"}]}`)
  await socket.answer(1)
  const page = await log.read('c', { after: 0 }, { events: 10, bytes: 1_000 })
  expect(Buffer.concat(page.blocks).toString()).toContain(data)
  const frame = new Promise<string>((resolve) => {
    socket.ws.on('message', (bytes: Buffer) => {
      const text = bytes.toString()
      if (text.includes('"events"')) resolve(text)
    })
  })
  socket.send({ op: 'subscribe', channel: 'c' })
  expect(await frame).toContain(data)
})
