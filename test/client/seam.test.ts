/** The client against the real server and a real log: whatever is cut, switched or killed, each event comes once. */
import { once } from 'node:events'
import { expect, onTestFinished, test } from 'vitest'
import { encodeBody } from '../../src/body.ts'
import type { Tidemark, TidemarkOptions } from '../../src/client/client.ts'
import { connect, NodeSocket } from '../../src/client/node.ts'
import type { SocketClass } from '../../src/client/stream.ts'
import type { ChannelEvent, Item } from '../../src/client/subscription.ts'
import type { Log } from '../../src/log/log.ts'
import { dice } from '../crash/dice.ts'
import { body, event, range, SEED, tempDir } from '../parts.ts'
import { startTestServer } from '../server/serve.ts'
import { Cable } from './cable.ts'
import { startVictim } from './victims.ts'

function client(url: string, options: TidemarkOptions = {}): Tidemark {
  const tidemark = connect(url, options)
  onTestFinished(() => tidemark.close())
  return tidemark
}

async function fill(log: Log, channel: string, first: number, last: number, size = 7): Promise<void> {
  for (let at = first; at <= last; at += size)
    await log.append([{ channel, body: body(...range(at, Math.min(at + size - 1, last))) }])
}

/** The data of the next events; each event's seq must be one more than the one before. */
async function take(loop: AsyncIterator<ChannelEvent>, count: number): Promise<unknown[]> {
  const found: ChannelEvent[] = []
  while (found.length < count) found.push((await loop.next()).value)
  for (const [i, { seq }] of found.entries()) if (i > 0) expect(seq).toBe(found[i - 1]!.seq + 1)
  return found.map(({ data }) => data)
}

/** Sockets that break after every k-th frame. */
function breakingAfter(k: number): SocketClass {
  return class extends NodeSocket {
    constructor(url: string, protocols: string[]) {
      super(url, protocols)
      let frames = 0
      this.prependListener('message', () => {
        if (++frames === k) this.terminate()
      })
    }
  } as unknown as SocketClass
}

for (const subprotocol of ['json', 'msgpack'] as const)
  for (const k of [3, 4, 7])
    test(`a ${subprotocol} socket that breaks after each ${k} frames misses and doubles nothing`, async () => {
      const { url, log } = await startTestServer()
      const loop = client(url, { subprotocol, WebSocket: breakingAfter(k) })
        .channel('a')
        .follow()
      // Appended while it is followed: many frames, history and live.
      const appending = fill(log, 'a', 1, 400, 20)
      expect(await take(loop, 400)).toEqual(range(1, 400))
      await appending
    })

for (const subprotocol of ['json', 'msgpack'] as const)
  test(`a ${subprotocol} line that is cut in the middle of its bytes misses and doubles nothing`, async () => {
    const random = dice(SEED)
    console.log(`seed ${SEED}`)
    const { url, port, log } = await startTestServer()
    const cable = await Cable.start(port)
    let left = 3_000
    let cuts = 0
    cable.cuts = (piece) => {
      left -= piece.length
      if (left > 0) return false
      // Each third time enough for any frame: who gets nothing again and again waits ever longer before the next try.
      left = ++cuts % 3 ? 2_000 + (random(1_000) / 1_000) ** 2 * 600_000 : 1_000_000
      return true
    }
    const tidemark = client(cable.url, { subprotocol })
    const channels = ['a', 'b', 'c']
    const loops = channels.map((name) => tidemark.channel(name).follow())
    const filled = channels.map((name) => fill(log, name, 1, 3_000, 50))
    for (const loop of loops) expect(await take(loop, 3_000)).toEqual(range(1, 3_000))
    await Promise.all(filled)
    expect(url).not.toBe(cable.url)
  })

test('every kind of event looks the same over JSON, msgpack and a read', async () => {
  const { url, log } = await startTestServer()
  const bytes = (text: string) => new TextEncoder().encode(text)
  const events = [
    event({ nested: [{ deep: 'ß🌊' }], n: 1e300 }, { type: 'a.b', key: '/ä', id: '#1' }),
    event(null),
    event(undefined, { key: 'gone' }),
    event(undefined, { type: 'bare' }),
    event(undefined, { contentType: 'text/plain; charset=utf-8', data: bytes('\u2028 tide') }),
    event(undefined, { contentType: 'application/octet-stream', data: Uint8Array.of(0, 255, 128) }),
    event(undefined, { contentType: 'image/svg+xml', data: bytes('<svg/>') }),
    event('for two', { to: { users: ['u'], groups: ['/staff'] } }),
  ]
  await log.append([{ channel: 'a', body: encodeBody(events) }])
  const [json, msgpack] = await Promise.all(
    (['json', 'msgpack'] as const).map(async (subprotocol) => {
      const found: ChannelEvent[] = []
      for await (const item of client(url, { subprotocol }).channel('a').followItems())
        if (item.is === 'events') found.push(...item.events)
        else break
      return found
    }),
  )
  expect(json).toHaveLength(events.length)
  expect(msgpack).toEqual(json)
  const page = await client(url).channel('a').read()
  expect(page.events.map((read) => ({ ...read, channel: 'a' }))).toEqual(json)
})

test('the streamer may be switched at any time: polls and sockets hand over without a seam', async () => {
  const random = dice(SEED + 1)
  console.log(`seed ${SEED}`)
  const { url, log } = await startTestServer({ retryWindow: 20 })
  const tidemark = client(url)
  const states = new Set<string>()
  tidemark.onState((state) => states.add(state))
  const names = ['a', 'b', 'c', 'd']
  const loops = names.map((name) => tidemark.channel(name).follow())
  const all = 2_000
  const filling = (async () => {
    for (let at = 1; at <= all; at += 10) {
      await log.append(names.map((channel) => ({ channel, body: body(...range(at, at + 9)) })))
      if (random(100) < 15) {
        const on = random(2) === 0
        await fetch(`${url}/v1/admin/streamer`, {
          method: 'PUT',
          headers: { 'content-type': 'application/json' },
          body: JSON.stringify({ on }),
        })
        // A round trip, so that somebody may notice.
        await tidemark.channel('a').read({ after: 'head', limit: 1 })
      }
    }
    await fetch(`${url}/v1/admin/streamer`, {
      method: 'PUT',
      headers: { 'content-type': 'application/json' },
      body: '{"on":true}',
    })
  })()
  for (const found of await Promise.all(loops.map((loop) => take(loop, all)))) expect(found).toEqual(range(1, all))
  await filling
  expect(states).toContain('polling')
  expect(states).toContain('open')
})

test('pressed off and on, the switch moves the client to polls and back to the socket', async () => {
  const { url, log } = await startTestServer({ retryWindow: 5 })
  const tidemark = client(url)
  const becomes = (wanted: string) =>
    new Promise<void>((resolve) => {
      const stop = tidemark.onState((state) => {
        if (state !== wanted) return
        stop()
        resolve()
      })
    })
  const press = (on: boolean) =>
    fetch(`${url}/v1/admin/streamer`, {
      method: 'PUT',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ on }),
    })
  const open = becomes('open')
  const loop = tidemark.channel('a').follow()
  await open
  for (let round = 0; round < 2; round++) {
    const seq = round * 3
    await log.append([{ channel: 'a', body: body(seq + 1) }])
    expect(await take(loop, 1)).toEqual([seq + 1])
    const polling = becomes('polling')
    await press(false)
    await polling
    await log.append([{ channel: 'a', body: body(seq + 2) }])
    expect(await take(loop, 1)).toEqual([seq + 2])
    const back = becomes('open')
    await press(true)
    await back
    await log.append([{ channel: 'a', body: body(seq + 3) }])
    expect(await take(loop, 1)).toEqual([seq + 3])
  }
})

test('the server as it is where no WebSocket passes: everything works over HTTP', async () => {
  const { url, log } = await startTestServer()
  const tidemark = client(url, { client: 'me', WebSocket: refused })
  const loop = tidemark.channel('a').follow({ cursor: true })
  await fill(log, 'a', 1, 2_500, 100)
  expect(await take(loop, 2_500)).toEqual(range(1, 2_500))
  await tidemark.channel('a').append({ data: 2_501 })
  expect(await take(loop, 1)).toEqual([2_501])
  await loop.return()
  expect((await log.cursor('me', 'a'))?.seq).toBe(2_500)
  expect(tidemark.state).toBe('polling')
})

/** As behind a proxy that knows no WebSocket. */
const refused = class extends NodeSocket {
  constructor(_url: string, protocols: string[]) {
    super('ws://127.0.0.1:9', protocols)
  }
} as unknown as SocketClass

// ── Cursors ──────────────────────────────────────────────────────────────────────────────────────────────────────

test('a follower that dies goes on from its cursor: nothing is missed, and what comes again is what was not committed', async () => {
  const { url, log } = await startTestServer()
  await fill(log, 'a', 1, 1_000, 50)
  const random = dice(SEED + 2)
  console.log(`seed ${SEED}`)
  const handled: number[] = []
  const dead: Promise<void>[] = []
  let committed = 0
  while ((handled.at(-1) ?? 0) < 1_000) {
    const cable = await Cable.start(Number(new URL(url).port))
    const tidemark = connect(cable.url, { client: 'worker' })
    const first = (await log.cursor('worker', 'a'))?.seq ?? 0
    expect(first).toBeGreaterThanOrEqual(committed)
    committed = first
    // The cursor is never ahead of what was handled.
    expect(first).toBeLessThanOrEqual(handled.at(-1) ?? 0)
    const end = first + 1 + random(200)
    const loop = tidemark.channel('a').follow({ cursor: true })
    for (let seq = first + 1; seq <= Math.min(end, 1_000); seq++) {
      const { value } = await loop.next()
      expect(value?.seq).toBe(seq)
      handled.push(seq)
      if (random(100) < 2) await tidemark.channel('a').commit(seq - 1)
    }
    // Dies: no goodbye, no last commit.
    cable.target = 0
    cable.cut()
    const death = tidemark.close()
    // Looked at below, perhaps after it failed.
    death.catch(() => {})
    dead.push(death)
  }
  for (const death of await Promise.allSettled(dead))
    if (death.status === 'rejected') expect(death.reason).toMatchObject({ code: 'unavailable' })
  expect([...new Set(handled)]).toEqual(range(1, 1_000))
})

test('a trim below the place is a gap, a deleted channel ends, a new one under its name is a reset', async () => {
  const { url, log } = await startTestServer()
  await fill(log, 'a', 1, 20, 5)
  const { epoch } = await log.info('a')
  await log.trim('a', 12)
  const found: Item[] = []
  for await (const item of client(url).channel('a').followItems({ after: 3, epoch })) {
    found.push(item)
    if (item.is === 'caughtup') break
  }
  expect(found.map(({ is }) => is)).toEqual(['gap', 'events', 'caughtup'])
  expect(found[0]).toMatchObject({ after: 3, trimmed: 12 })

  const tidemark = client(url)
  const loop = tidemark.channel('a').follow({ after: 18, epoch })
  expect(await take(loop, 2)).toEqual([19, 20])
  await log.delete('a')
  await expect(loop.next()).rejects.toMatchObject({ code: 'no-channel' })
  await fill(log, 'a', 1, 30, 5)
  const again = tidemark.channel('a').followItems({ after: 18, epoch })
  const other = (await log.info('a')).epoch
  expect((await again.next()).value).toMatchObject({ is: 'reset', epoch: other, trimmed: 0 })
  expect((await again.next()).value).toMatchObject({ is: 'events', epoch: other, after: 0 })
})

for (const [door, WebSocket] of [
  ['socket', undefined],
  ['polls', refused],
] as const)
  test(`a start by word, and a channel that nobody made yet, over ${door}`, async () => {
    const { url, log } = await startTestServer()
    await fill(log, 'a', 1, 20, 5)
    const options = WebSocket ? { WebSocket } : {}
    const from = async (after: string) => {
      const tidemark = client(url, options)
      const items = tidemark.channel('a').followItems({ after })
      const { value } = await items.next()
      await tidemark.close()
      return value
    }
    expect(await from('head')).toMatchObject({ is: 'caughtup', seq: 20 })
    expect(await from('head-2')).toMatchObject({ is: 'events', after: 18, last: 20 })
    expect(await from('time:2000-01-01T00:00:00.000Z')).toMatchObject({ is: 'events', after: 0 })
    expect(await from('time:2100-01-01T00:00:00.000Z')).toMatchObject({ is: 'caughtup', seq: 20 })

    const tidemark = client(url, options)
    const loop = tidemark.channel('new').follow({ after: 'head' })
    const known = tidemark.channel('a').followItems({ after: 'head' })
    await known.next()
    await tidemark.channel('new').append({ data: 'first' })
    expect(await take(loop, 1)).toEqual(['first'])
  })

// ── Back-pressure ────────────────────────────────────────────────────────────────────────────────────────────────

test('a loop that stands still holds up neither the other channels nor the answers of its own client', async () => {
  const { url, log } = await startTestServer()
  await fill(log, 'slow', 1, 20_000, 1_000)
  await fill(log, 'quick', 1, 20_000, 1_000)
  const tidemark = client(url)
  const slow = tidemark.channel('slow').follow()
  await slow.next()
  const quick = tidemark.channel('quick').follow()
  expect(await take(quick, 20_000)).toEqual(range(1, 20_000))
  expect(await tidemark.channel('other').append({ data: 1 })).toMatchObject({ last: 1 })
  expect(await take(slow, 19_999)).toEqual(range(2, 20_000))
})

// ── Appends ──────────────────────────────────────────────────────────────────────────────────────────────────────

for (const subprotocol of ['json', 'msgpack'] as const)
  test(`an append whose answer is lost with a ${subprotocol} socket, and again with the server, is there once`, async () => {
    const { port, log } = await startTestServer()
    const cable = await Cable.start(port)
    const tidemark = client(cable.url, { subprotocol })
    const loop = tidemark.channel('a').follow()
    await tidemark.channel('a').append({ data: 0 })
    await loop.next()
    // The next piece from the server holds the answer of what is sent now.
    let cuts = 2
    cable.cuts = () => cuts-- > 0
    const answers = await Promise.all([
      tidemark.channel('a').append([{ data: { n: 1.5, s: 'ß' } }, { type: 't', key: 'k' }]),
      tidemark.channel('a').append({ data: 'dGlkZQ', contentType: 'text/plain' }),
    ])
    expect(answers.map(({ first, last }) => [first, last])).toEqual([
      [2, 3],
      [4, 4],
    ])
    expect((await log.info('a')).head).toBe(4)
  })

test('a server that is killed amid appends and restarted has each append once, in order, and followers miss nothing', async () => {
  const dir = tempDir()
  console.log(`seed ${SEED}`)
  const random = dice(SEED + 3)
  let { child, port } = await startVictim(dir)
  const cable = await Cable.start(port)
  const tidemark = client(cable.url, { client: 'me' })
  const loop = tidemark.channel('a').follow({ cursor: true })
  const following = take(loop, 450)
  const answers: Promise<unknown>[] = []
  for (let round = 0; round < 3; round++) {
    const first = round * 150 + 1
    for (const data of range(first, first + 149)) answers.push(tidemark.channel('a').append({ data }))
    // Some are answered, some are on disk without an answer, some were never sent.
    await answers[first - 1 + random(150)]
    child.kill('SIGKILL')
    await once(child, 'exit')
    ;({ child, port } = await startVictim(dir))
    cable.target = port
  }
  const seqs = ((await Promise.all(answers)) as { first: number }[]).map(({ first }) => first)
  expect(seqs).toEqual(range(1, 450))
  expect(await following).toEqual(range(1, 450))
  await loop.return()
}, 60_000)

test('a server that stops tells its clients when to come back, and they do', async () => {
  const dir = tempDir()
  let { child, port } = await startVictim(dir)
  const cable = await Cable.start(port)
  const tidemark = client(cable.url)
  const loop = tidemark.channel('a').follow()
  await tidemark.channel('a').append({ data: 1 })
  expect(await take(loop, 1)).toEqual([1])
  child.kill('SIGTERM')
  await once(child, 'exit')
  const answer = tidemark.channel('a').append({ data: 2 })
  ;({ child, port } = await startVictim(dir))
  cable.target = port
  expect(await answer).toMatchObject({ first: 2 })
  expect(await take(loop, 1)).toEqual([2])
})
