import { get, type IncomingMessage } from 'node:http'
import { connect } from 'node:net'
import { crc32 } from 'node:zlib'
import { createParser } from 'eventsource-parser'
import { expect, onTestFinished, test } from 'vitest'
import { buildBlock } from '../../src/block.ts'
import { encodeBody } from '../../src/body.ts'
import { TidemarkError } from '../../src/errors.ts'
import type { Log } from '../../src/log/log.ts'
import { Page } from '../../src/log/log.ts'
import { stream } from '../../src/server/sse.ts'
import { body, event, range, tempLog } from '../parts.ts'
import { spanOf } from '../random.ts'
import { serveBare, until } from './bare.ts'
import { call, problemOf } from './calls.ts'

// biome-ignore lint/suspicious/noExplicitAny: tests look into events as they like
type Json = any

/** One message as it stands in a stream. */
interface Message {
  id?: string
  event?: string
  data?: string
  retry?: string
}

/** A client that keeps what it gets, and has the id of the last message as an EventSource has it. */
class Client {
  readonly status: number
  readonly headers: IncomingMessage['headers']
  readonly inbox: Message[] = []
  lastId = ''
  ended = false
  text = ''
  readonly #res: IncomingMessage
  #wake = (): void => {}

  private constructor(res: IncomingMessage) {
    this.#res = res
    this.status = res.statusCode!
    this.headers = res.headers
    let rest = ''
    res.setEncoding('utf8').on('data', (chunk: string) => {
      this.text += chunk
      const parts = (rest + chunk).split('\n\n')
      rest = parts.pop()!
      for (const part of parts) this.#take(part)
      this.#wake()
    })
    const over = (): void => {
      this.ended = true
      this.#wake()
    }
    res.on('end', over).on('error', over).on('close', over)
  }

  static open(url: string, lastId?: string): Promise<Client> {
    const headers = { accept: 'text/event-stream', ...(lastId !== undefined && { 'last-event-id': lastId }) }
    return new Promise((resolve, reject) => {
      const req = get(url, { headers, agent: false }, (res) => resolve(new Client(res)))
      req.on('error', reject)
      onTestFinished(() => void req.destroy())
    })
  }

  #take(part: string): void {
    const message: Message = {}
    for (const line of part.split('\n')) {
      const [, name, value] = /^(id|event|data|retry): (.*)$/.exec(line) ?? []
      if (name === undefined && !line.startsWith(':')) throw new Error(`not a line of a stream: ${line}`)
      if (name !== undefined) message[name as keyof Message] = value!
    }
    if (Object.keys(message).length > 0) this.inbox.push(message)
  }

  /** The next message that has an id. */
  async next(): Promise<Message & { id: string; json: Json }> {
    for (;;) {
      const message = this.inbox.shift()
      if (message === undefined) {
        if (this.ended) throw new Error('the stream has ended')
        await new Promise<void>((resolve) => {
          this.#wake = resolve
        })
      } else if (message.id !== undefined) {
        this.lastId = message.id
        return { ...message, id: message.id, json: message.data === undefined ? undefined : JSON.parse(message.data) }
      }
    }
  }

  /** Events up to the one with this seq, and what was told between them. */
  async upTo(seq: number): Promise<Awaited<ReturnType<Client['next']>>[]> {
    const messages = []
    for (;;) {
      const message = await this.next()
      messages.push(message)
      if (message.json?.seq === seq && message.event !== 'tidemark.caughtup') return messages
    }
  }

  close(): void {
    this.#res.destroy()
  }
}

async function startStreams(given?: Log) {
  const bare = await serveBare(stream, given)
  const { log, url } = bare
  return {
    ...bare,
    open: (query = '', lastId?: string, channel = 'orders') =>
      Client.open(`${url}/v1/channels/${channel}/events${query}`, lastId),
    openAll: (query: string, lastId?: string) => Client.open(`${url}/v1/events?${query}`, lastId),
    append: async (channel: string, ...values: unknown[]) =>
      (await log.append([{ channel, body: body(...values) }]))[0]!,
    epoch: async (channel = 'orders') => (await log.info(channel)).epoch,
  }
}

const isEvent = ({ event }: Message): boolean => event !== undefined && !event.startsWith('tidemark.')
const seqsOf = (messages: readonly { json: Json; event?: string }[]): number[] =>
  messages.filter(isEvent).map(({ json }) => json.seq)

// ── One channel ──────────────────────────────────────────────────────────────────────────────────────────────────

test('A stream gives history, tells the head, and goes on with what comes.', async () => {
  const server = await startStreams()
  await server.log.append([
    { channel: 'orders', body: encodeBody([event({ n: 'ü' }, { type: 'made', key: 'ä' }), event(2)]) },
  ])
  const epoch = await server.epoch()
  const client = await server.open()
  expect([client.status, client.headers['content-type'], client.headers['cache-control']]).toEqual([
    200,
    'text/event-stream',
    'no-store',
  ])
  expect([client.headers['x-accel-buffering'], client.headers['x-content-type-options']]).toEqual(['no', 'nosniff'])
  const first = await client.next()
  expect(first).toMatchObject({
    id: `${epoch}:1`,
    event: 'made',
    json: { channel: 'orders', seq: 1, key: 'ä', type: 'made', data: { n: 'ü' } },
  })
  expect(await client.next()).toMatchObject({ id: `${epoch}:2`, event: 'message', json: { seq: 2 } })
  expect(await client.next()).toMatchObject({
    id: `${epoch}:2`,
    event: 'tidemark.caughtup',
    json: { channel: 'orders', seq: 2 },
  })
  await server.append('orders', 3)
  expect(await client.next()).toMatchObject({ id: `${epoch}:3`, json: { seq: 3, data: 3 } })
})

test('The stream says at once when to come back, within the retry window.', async () => {
  const server = await startStreams()
  const client = await server.open()
  await until(() => client.inbox.length > 0)
  const retry = Number(client.inbox[0]!.retry)
  expect(retry).toBeGreaterThanOrEqual(1_000)
  expect(retry).toBeLessThanOrEqual(1_100)
})

test('A browser library reads the stream.', async () => {
  const server = await startStreams()
  await server.append('orders', 'a\nb', 2)
  const client = await server.open()
  await client.upTo(2)
  const seen: unknown[] = []
  createParser({ onEvent: ({ id, event, data }) => seen.push([id, event, JSON.parse(data).data]) }).feed(client.text)
  const epoch = await server.epoch()
  expect(seen.slice(0, 2)).toEqual([
    [`${epoch}:1`, 'message', 'a\nb'],
    [`${epoch}:2`, 'message', 2],
  ])
})

test('With named=0 every event is a message, whatever its type.', async () => {
  const server = await startStreams()
  await server.log.append([{ channel: 'orders', body: encodeBody([event(1, { type: 'made' })]) }])
  expect(await (await server.open('?named=0')).next()).toMatchObject({ event: 'message', json: { type: 'made' } })
  expect(await (await server.open('?named=1')).next()).toMatchObject({ event: 'made' })
})

test('The last id wins over the address, and the stream goes on behind it.', async () => {
  const server = await startStreams()
  await server.append('orders', ...range(1, 9))
  const epoch = await server.epoch()
  expect(seqsOf(await (await server.open('?after=6')).upTo(9))).toEqual([7, 8, 9])
  expect(seqsOf(await (await server.open('?after=8&epoch=x.1', `${epoch}:3`)).upTo(9))).toEqual(range(4, 9))
  expect(seqsOf(await (await server.open('?client=web', `${epoch}:7`)).upTo(9))).toEqual([8, 9])
  expect(seqsOf(await (await server.open(`?after=head-2&epoch=${epoch}`)).upTo(9))).toEqual([8, 9])
})

test('Cut anywhere, a stream that is taken up again by its last id misses nothing and repeats nothing.', async () => {
  const server = await startStreams()
  const seen: number[] = []
  let lastId: string | undefined
  for (let round = 0; round < 8; round++) {
    await server.append('orders', ...range(1, 5))
    const client = await server.open('', lastId)
    const head = (round + 1) * 5
    // Left in the middle; the last time it reads all.
    const end = round < 7 ? head - (round % 4) : head
    while ((seen.at(-1) ?? 0) < end) {
      const message = await client.next()
      if (isEvent(message)) seen.push(message.json.seq)
    }
    lastId = client.lastId
    client.close()
  }
  expect(seen).toEqual(range(1, 40))
})

test('A place that was found for a word is told at once, so that it is not looked up again.', async () => {
  const server = await startStreams()
  await server.append('orders', 1, 2)
  const epoch = await server.epoch()
  const client = await server.open('?after=head')
  expect(await client.next()).toEqual({ id: `${epoch}:2`, json: undefined })
  client.close()
  await server.append('orders', 3)
  expect(seqsOf(await (await server.open('?after=head', client.lastId)).upTo(3))).toEqual([3])
})

test('A client follows from its cursor.', async () => {
  const server = await startStreams()
  await server.append('orders', ...range(1, 5))
  await server.log.commit('web', 'orders', { seq: 3 })
  expect(seqsOf(await (await server.open('?client=web')).upTo(5))).toEqual([4, 5])
})

test('A gap is told before what is left, once.', async () => {
  const server = await startStreams()
  await server.append('orders', ...range(1, 9))
  await server.log.trim('orders', 5)
  const epoch = await server.epoch()
  const client = await server.open('?after=2')
  expect(await client.next()).toMatchObject({
    id: `${epoch}:5`,
    event: 'tidemark.gap',
    json: { channel: 'orders', after: 2, trimmed: 5 },
  })
  const id = client.lastId
  expect(seqsOf(await client.upTo(9))).toEqual(range(6, 9))
  expect((await (await server.open('?after=2', id)).next()).json.seq).toBe(6)
})

test('Another history is told as a reset, by epoch, by a seq beyond the head, and by an id that is not ours.', async () => {
  const server = await startStreams()
  await server.append('orders', 1, 2)
  const epoch = await server.epoch()
  const opens = [
    server.open('?after=1&epoch=x.1'),
    server.open('?after=9'),
    server.open('', 'x.1:1'),
    server.open('', 'nonsense'),
    server.open('', `${epoch}:99999999999999999`),
  ]
  for (const client of await Promise.all(opens)) {
    expect(await client.next()).toMatchObject({
      id: `${epoch}:0`,
      event: 'tidemark.reset',
      json: { channel: 'orders', epoch, trimmed: 0, head: 2 },
    })
    expect(seqsOf(await client.upTo(2))).toEqual([1, 2])
  }
})

test('An unknown channel is waited for; one that is deleted ends, and is told as a reset to who comes back.', async () => {
  const server = await startStreams()
  const client = await server.open()
  await server.append('orders', 1)
  expect((await client.upTo(1)).at(-1)).toMatchObject({ id: `${await server.epoch()}:1` })
  await client.next()
  await server.log.delete('orders')
  expect(await client.next()).toMatchObject({
    event: 'tidemark.ended',
    json: { channel: 'orders', code: 'no-channel' },
  })
  await until(() => client.ended)
  // Nothing hurries back to a channel that is gone.
  expect(Number(client.inbox.at(-1)!.retry)).toBeGreaterThanOrEqual(30_000)
  const back = await server.open('', client.lastId)
  expect(await back.next()).toMatchObject({ id: ':0', event: 'tidemark.reset', json: { epoch: null } })
  await server.append('orders', 'new')
  expect((await back.upTo(1)).at(-1)!.json.data).toBe('new')
  expect(server.failures).toEqual(['no-channel'])
})

test('A channel that is made again is told as ended or as a reset, never gone on with.', async () => {
  const server = await startStreams()
  await server.append('orders', 1, 2, 3)
  const client = await server.open()
  await client.upTo(3)
  await client.next()
  await server.log.delete('orders')
  await server.append('orders', 'new')
  expect(['tidemark.ended', 'tidemark.reset']).toContain((await client.next()).event)
})

/** As Log.recent where every page has to be read. */
const notInMemory = (): undefined => undefined

/** A log whose next page from the start of `orders` has all but its third event left out, as compaction leaves it. */
function compacted(log: Log): Log {
  return new Proxy(log, {
    get(target, name) {
      if (name === 'recent') return notInMemory
      if (name !== 'read') return bound(target, name)
      return async (...args: Parameters<Log['read']>) => {
        const page = await target.read(...args)
        if (page.blocks.length === 0) return page
        const { channel, epoch, after, last, head, trimmed } = page
        const kept = spanOf({ ...event('kept'), seq: 3, time: 0 })
        const blocks = [buildBlock(channel, { after, last, time: 0 }, [kept], crc32)!]
        return new Page({ channel, epoch, after, last, head, trimmed, blocks })
      }
    },
  })
}

function bound(target: Log, name: string | symbol): unknown {
  const member = Reflect.get(target, name, target)
  return typeof member === 'function' ? member.bind(target) : member
}

test('Positions that pass without an event are told by an id alone.', async () => {
  const server = await startStreams(compacted(await tempLog()))
  await server.append('orders', ...range(1, 9))
  const epoch = await server.epoch()
  const client = await server.open()
  expect(await client.next()).toMatchObject({ id: `${epoch}:3`, json: { data: 'kept' } })
  expect(await client.next()).toEqual({ id: `${epoch}:9`, json: undefined })
  expect(await client.next()).toMatchObject({ event: 'tidemark.caughtup' })
})

test('Damage ends the stream with what was lost.', async () => {
  const log = await tempLog()
  const facts = { channel: 'orders', epoch: 'x.1', head: 9, trimmed: 0, after: 3, upTo: 5 }
  const damaged = new Proxy(log, {
    get(target, name) {
      if (name === 'recent') return notInMemory
      if (name !== 'read') return bound(target, name)
      return () => Promise.reject(new TidemarkError('data-loss', 'Damaged', facts))
    },
  })
  const server = await startStreams(damaged)
  await server.append('orders', 1)
  for (const query of ['', '?after=time:2000-01-01T00:00:00Z']) {
    const client = await server.open(query)
    let message = await client.next()
    while (message.event === undefined) message = await client.next()
    expect(message).toMatchObject({ event: 'tidemark.ended', json: { code: 'data-loss', after: 3, upTo: 5 } })
    await until(() => client.ended)
  }
})

// ── Several channels ─────────────────────────────────────────────────────────────────────────────────────────────

test('Several channels stand in one stream, each from its own place.', async () => {
  const server = await startStreams()
  await server.append('orders', ...range(1, 5))
  await server.append('files/a', ...range(1, 3))
  const epoch = await server.epoch('files/a')
  const client = await server.openAll(`channel=orders@3&channel=files/a@${epoch}:1&channel=later`)
  const seen = new Map<string, number[]>()
  for (let events = 0; events < 5; ) {
    const { event: name, json } = await client.next()
    if (json.data === undefined) continue
    if (name === 'message' && json.seq === 3 && json.channel === 'files/a') await server.append('later', 'first')
    seen.set(json.channel, [...(seen.get(json.channel) ?? []), json.seq])
    events++
  }
  expect(Object.fromEntries(seen)).toEqual({ orders: [4, 5], 'files/a': [2, 3], later: [1] })
})

test('Every kind of place may stand behind a channel.', async () => {
  const server = await startStreams()
  await server.append('a', ...range(1, 9))
  for (const [place, first] of [
    ['', 1],
    ['@earliest', 1],
    ['@7', 8],
    ['@head-2', 8],
    ['@time:2000-01-01T00:00:00Z', 1],
  ] as const) {
    const client = await server.openAll(`channel=a${place}`)
    let message = await client.next()
    while (message.json?.data === undefined) message = await client.next()
    expect([place, message.json.seq]).toEqual([place, first])
  }
})

test('Several channels, cut anywhere, go on by their last id: nothing missed, nothing repeated.', async () => {
  const server = await startStreams()
  const names = ['a', 'b', 'c']
  const seen = new Map<string, number[]>(names.map((name) => [name, []]))
  let lastId: string | undefined
  for (let round = 1; round <= 6; round++) {
    for (const name of names) await server.append(name, ...range(1, 4))
    const client = await server.openAll('channel=a&channel=b&channel=c', lastId)
    const total = round * 12
    const least = round < 6 ? total - 5 : total
    while ([...seen.values()].flat().length < least) {
      const { json } = await client.next()
      if (json?.data !== undefined) seen.get(json.channel)!.push(json.seq)
    }
    lastId = client.lastId
    client.close()
  }
  for (const name of names) expect(seen.get(name)).toEqual(range(1, 24))
})

test('What was not told yet stands in no id: a reset is told again when the stream was cut before it.', async () => {
  const server = await startStreams()
  await server.append('a', ...range(1, 3))
  await server.append('b', ...range(1, 3))
  // b is to be told a reset; the first message is one of a.
  const client = await server.openAll('channel=a&channel=b@x.1:2')
  const first = await client.next()
  expect(first.json).toMatchObject({ channel: 'a', seq: 1 })
  client.close()
  const back = await server.openAll('channel=a&channel=b@x.1:2', first.id)
  const told = [await back.next(), await back.next(), await back.next()]
  expect(told.map(({ event, json }) => [event, json.channel])).toContainEqual(['tidemark.reset', 'b'])
})

test('Ids of thirty-two channels stay below two kibibytes; an id of other channels is told as a reset.', async () => {
  const server = await startStreams()
  const names = range(1, 32).map((n) => `channel-${n}`)
  for (const name of names) await server.append(name, 1)
  const query = names.map((name) => `channel=${name}`).join('&')
  const client = await server.openAll(query)
  const message = await client.next()
  expect(message.id.length).toBeLessThanOrEqual(2_048)
  const other = await server.openAll('channel=channel-1&channel=channel-3', client.lastId)
  expect(await other.next()).toMatchObject({ event: 'tidemark.reset' })
  // As many of them, in another order.
  const turned = await server.openAll(
    names
      .reverse()
      .map((name) => `channel=${name}`)
      .join('&'),
    client.lastId,
  )
  expect(await turned.next()).toMatchObject({ event: 'tidemark.reset' })
  const same = await server.openAll(query, client.lastId)
  expect((await same.next()).event).not.toBe('tidemark.reset')
})

test('A channel that ends leaves the others to go on.', async () => {
  const server = await startStreams()
  await server.append('a', 1)
  await server.append('b', 1)
  const client = await server.openAll('channel=a&channel=b')
  for (let caughtUp = 0; caughtUp < 2; ) if ((await client.next()).event === 'tidemark.caughtup') caughtUp++
  await server.log.delete('a')
  expect(await client.next()).toMatchObject({ event: 'tidemark.ended', json: { channel: 'a' } })
  await server.append('b', 2)
  expect(await client.next()).toMatchObject({ json: { channel: 'b', seq: 2 } })
})

test('A busy channel does not starve another.', async () => {
  const server = await startStreams()
  for (let i = 0; i < 20; i++) await server.append('busy', ...Array(20).fill('x'.repeat(10_000)))
  await server.append('quiet', 1)
  const client = await server.openAll('channel=busy&channel=quiet')
  const seen: string[] = []
  while (seen.at(-1) !== 'quiet') {
    const { json } = await client.next()
    if (json?.data !== undefined) seen.push(json.channel)
  }
  expect(seen.length).toBeLessThan(60)
})

// ── Refusals and ends ────────────────────────────────────────────────────────────────────────────────────────────

test('What is no stream is refused with its code.', async () => {
  const server = await startStreams()
  const bad = [
    '/v1/channels/orders/events?after=x',
    '/v1/channels/orders/events?limit=5',
    '/v1/channels/orders/events?wait=5',
    '/v1/channels/orders/events?named=2',
    '/v1/channels/orders/events?epoch=',
    '/v1/channels/orders/events?client=web&after=1',
    '/v1/channels/orders/events?token=secret',
    '/v1/channels/a%2/events',
    '/v1/events',
    '/v1/events?channel=',
    '/v1/events?channel=a&channel=a',
    '/v1/events?channel=a@',
    '/v1/events?channel=a@x',
    '/v1/events?channel=a@-1',
    '/v1/events?channel=a@9007199254740992',
    '/v1/events?channel=a@x%20y:1',
    '/v1/events?channel=a@time:soon',
    '/v1/events?channel=a/events/b',
    '/v1/events?channel=a&after=1',
    '/v1/events?channel=a&key=secret',
    `/v1/events?${range(1, 33)
      .map((n) => `channel=c${n}`)
      .join('&')}`,
  ]
  for (const path of bad) expect([path, problemOf(await call(server.url + path)).code]).toEqual([path, 'bad-request'])
  expect(problemOf(await call(`${server.url}/v1/channels/orders`)).code).toBe('not-found')
  expect(problemOf(await call(`${server.url}/v1/events?channel=a`, 'POST', {})).code).toBe('method-not-allowed')
})

test('When the server stops, streams end with a word when to come back; new ones are closed, not refused.', async () => {
  const server = await startStreams()
  await server.append('orders', 1)
  const clients = await Promise.all([
    server.open(),
    server.open('?after=head'),
    server.openAll('channel=orders&channel=none'),
  ])
  await clients[0]!.upTo(1)
  server.stop()
  for (const client of clients) {
    await until(() => client.ended)
    expect(Number(client.inbox.at(-1)!.retry)).toBeGreaterThanOrEqual(1_000)
  }
  await expect(server.open()).rejects.toThrow()
  await server.settled()
  expect(server.failures).toEqual([])
})

test('A log that closes sends its readers away, under status 200.', async () => {
  const log = await tempLog()
  const server = await startStreams(log)
  await server.append('orders', 1)
  const client = await server.open()
  await client.upTo(1)
  await client.next()
  await log.close()
  await until(() => client.ended)
  const late = await server.open()
  await until(() => late.ended)
  expect([late.status, late.text]).toEqual([200, expect.stringMatching(/^retry: \d+\n\n$/)])
  expect(server.failures).toEqual(['unavailable', 'unavailable'])
})

test('A client that hangs up is let go at once.', async () => {
  const server = await startStreams()
  const clients = await Promise.all(range(1, 20).map(() => server.open('?after=head')))
  for (const client of clients) client.close()
  await server.settled()
  expect(server.failures).toEqual([])
})

test('A client that does not read costs a page, and gets everything when it does.', async () => {
  const server = await startStreams()
  for (let i = 0; i < 40; i++) await server.append('orders', ...Array(10).fill('x'.repeat(50_000)))
  const slow = connect(server.port, '127.0.0.1')
  onTestFinished(() => void slow.destroy())
  slow.write('GET /v1/channels/orders/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n')
  // Another reader passes it by.
  const quick = await server.open()
  expect(seqsOf(await quick.upTo(400))).toEqual(range(1, 400))
  quick.close()
  // The slow one was given what the system takes for it and a page, not all that there is.
  expect(server.metrics.reads.sse.events).toBeLessThan(800)
  const seqs: number[] = []
  let rest = ''
  for await (const chunk of slow.setEncoding('latin1')) {
    const text: string = rest + chunk
    for (const [, seq] of text.matchAll(/"seq":(\d+),"time"/g)) seqs.push(Number(seq))
    // A mark that the chunk cut in two is found with the next one.
    rest = text.slice(Math.max(text.lastIndexOf('"time"') + 6, text.length - 40))
    if (seqs.at(-1) === 400) break
  }
  expect(seqs).toEqual(range(1, 400))
})
