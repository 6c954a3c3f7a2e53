import { cpSync } from 'node:fs'
import { unpack } from 'msgpackr'
import { expect, test } from 'vitest'
import { decodeBlock, splitBlocks } from '../../src/block.ts'
import { encodeBody } from '../../src/body.ts'
import type { Log, Place } from '../../src/log/log.ts'
import { openLog } from '../../src/log/open.ts'
import { read } from '../../src/server/read.ts'
import type { EventJson } from '../../src/wire.ts'
import { body, event, range, tempDir, tempLog } from '../parts.ts'
import { serveBare, until } from './bare.ts'
import { type Answer, call, problemOf } from './calls.ts'

/** A server for reads, and the ways to call it. */
async function startReads(given?: Log) {
  const bare = await serveBare(read, given)
  const { log, url } = bare
  return {
    ...bare,
    get: (query = '', headers = {}, channel = 'orders') =>
      call(`${url}/v1/channels/${channel}/events${query}`, 'GET', undefined, headers),
    /** Appends one event for each value, as one append. */
    append: async (...values: unknown[]) => (await log.append([{ channel: 'orders', body: body(...values) }]))[0]!,
    epoch: async () => (await log.info('orders')).epoch,
    /** Resolves when so many polls wait: each was taken up, and has looked up its place. */
    waiting: async (polls: number) => {
      await until(() => bare.underWay() >= polls)
      // A lookup asks memory only: it is over before the event loop turns.
      await new Promise((resolve) => setImmediate(resolve))
    },
  }
}

const seqs = ({ json }: Answer<{ events: EventJson[] }>): number[] => json.events.map(({ seq }) => seq)

const codeOf = (answer: Answer): string => {
  const { code, status } = problemOf(answer)
  expect(status).toBe(answer.status)
  expect(answer.headers.get('x-content-type-options')).toBe('nosniff')
  return code
}

// ── Positions ────────────────────────────────────────────────────────────────────────────────────────────────────

test('A page holds the events after a position, and says where the channel stands.', async () => {
  const server = await startReads()
  await server.append('a', 'b')
  await server.append('c')
  const answer = await server.get('?after=1')
  expect(answer.status).toBe(200)
  expect(answer.headers.get('content-type')).toBe('application/json')
  const { events, ...rest } = answer.json
  const epoch = await server.epoch()
  expect(rest).toEqual({ channel: 'orders', epoch, after: 1, last: 3, head: 3, trimmed: 0, caughtUp: true })
  expect(events).toMatchObject([
    { seq: 2, data: 'b' },
    { seq: 3, data: 'c' },
  ])
  expect((await server.get('?after=3')).json).toMatchObject({ after: 3, last: 3, caughtUp: true, events: [] })
})

test('A limit cuts anywhere, and the next page goes on from there.', async () => {
  const server = await startReads()
  await server.append(...range(1, 250))
  expect(seqs(await server.get())).toEqual(range(1, 100))
  const seen: number[] = []
  for (let after = 0, caughtUp = false; !caughtUp; ) {
    const { json } = await server.get(`?after=${after}&limit=7`)
    seen.push(...json.events.map(({ seq }: EventJson) => seq))
    expect(json).toMatchObject({ after, last: seen.at(-1), caughtUp: seen.length === 250 })
    ;({ last: after, caughtUp } = json)
  }
  expect(seen).toEqual(range(1, 250))
})

test('A page is cut near a mebibyte, never below one event.', async () => {
  const server = await startReads()
  for (const letter of ['a', 'b', 'c', 'd']) await server.append(letter.repeat(900_000))
  const first = await server.get('?after=0&limit=1000')
  expect(first.json).toMatchObject({ last: 1, head: 4, caughtUp: false })
  expect(seqs(await server.get('?after=3'))).toEqual([4])
})

test('Positions may be words: earliest, head, some before the head, a time.', async () => {
  const server = await startReads()
  await server.append(...range(1, 10))
  await server.log.trim('orders', 4)
  expect(seqs(await server.get())).toEqual(range(5, 10))
  expect((await server.get('?after=earliest')).json).toMatchObject({ after: 4, trimmed: 4 })
  expect(seqs(await server.get('?after=head'))).toEqual([])
  expect(seqs(await server.get('?after=head-3'))).toEqual([8, 9, 10])
  expect(seqs(await server.get('?after=head-50'))).toEqual(range(5, 10))
  const [{ time }] = (await server.get('?limit=1')).json.events
  expect(seqs(await server.get(`?after=time:${time}`))).toEqual(range(5, 10))
  expect(seqs(await server.get('?after=time:2100-01-01T00:00:00Z'))).toEqual([])
  expect(seqs(await server.get('?after=time:2000-01-01T00:00:00%2B01:00'))).toEqual(range(5, 10))
})

test('A client reads from its cursor; one that never committed reads from the earliest.', async () => {
  const server = await startReads()
  await server.append(...range(1, 5))
  await server.log.trim('orders', 1)
  expect(seqs(await server.get('?client=web'))).toEqual(range(2, 5))
  await server.log.commit('web', 'orders', { seq: 3 })
  expect((await server.get('?client=web')).json).toMatchObject({ after: 3, last: 5 })
  await server.log.trim('orders', 4)
  expect(codeOf(await server.get('?client=web'))).toBe('gap')
  await server.log.delete('orders')
  await server.append(...range(1, 9))
  expect((await server.get('?client=web')).json).toMatchObject({ after: 0, last: 9 })
})

// ── What can not be given ────────────────────────────────────────────────────────────────────────────────────────

test('An explicit seq below what was trimmed is a gap; the beginning of what is left is not.', async () => {
  const server = await startReads()
  await server.append(...range(1, 5))
  await server.log.trim('orders', 3)
  const epoch = await server.epoch()
  const gap = await server.get('?after=2')
  expect([codeOf(gap), gap.json]).toMatchObject(['gap', { after: 2, epoch, trimmed: 3, head: 5 }])
  expect(codeOf(await server.get('?after=0&wait=5'))).toBe('gap')
  expect(seqs(await server.get('?after=3'))).toEqual([4, 5])
})

test('A position beyond the head is told at once, even to a caller who would wait.', async () => {
  const server = await startReads()
  await server.append(1)
  const ahead = await server.get('?after=2&wait=55')
  expect([codeOf(ahead), ahead.json]).toMatchObject([
    'ahead-of-head',
    { epoch: await server.epoch(), trimmed: 0, head: 1 },
  ])
  expect(codeOf(await server.get('?after=9007199254740991'))).toBe('ahead-of-head')
})

test('Another epoch is told, by number, by word and by cursor.', async () => {
  const server = await startReads()
  await server.append(1, 2)
  const old = await server.epoch()
  await server.log.commit('web', 'orders', { seq: 1 })
  await server.log.delete('orders')
  await server.append(1, 2, 3)
  const epoch = await server.epoch()
  for (const query of ['after=1', 'after=head', 'after=earliest', 'after=1&wait=55', 'after=head&wait=55']) {
    const changed = await server.get(`?${query}&epoch=${old}`)
    expect([query, codeOf(changed), changed.json]).toMatchObject([
      query,
      'epoch-changed',
      { epoch, trimmed: 0, head: 3 },
    ])
    expect((await server.get(`?${query.replace(/&wait=\d+/, '')}&epoch=${epoch}`)).status).toBe(200)
  }
})

test('A cursor of another epoch is told.', async () => {
  const dir = tempDir()
  const first = await openLog({ dir })
  await first.append([{ channel: 'orders', body: body(1, 2) }])
  await first.commit('web', 'orders', { seq: 1 })
  await first.close()
  // A copy is another history, with the cursors of the first.
  const copy = tempDir()
  cpSync(dir, copy, { recursive: true })
  const server = await startReads(await tempLog({ dir: copy, acceptCopy: true }))
  const changed = await server.get('?client=web')
  expect([codeOf(changed), changed.json]).toMatchObject(['epoch-changed', { epoch: await server.epoch(), head: 2 }])
})

test('A client whose cursor stands before tombstones that are gone is told.', async () => {
  const server = await startReads()
  await server.append(...range(1, 9))
  const epoch = await server.epoch()
  for (const [client, seq] of Object.entries({ before: 3, behind: 6 }))
    await server.log.commit(client, 'orders', { seq, epoch })
  const cleaned = await server.log.clean!('orders', 5, epoch)
  const told = await server.get('?client=before')
  expect([codeOf(told), told.json]).toMatchObject(['epoch-changed', { epoch: cleaned.epoch }])
  expect((await server.get('?client=behind')).json).toMatchObject({ epoch: cleaned.epoch, after: 6, last: 9 })
})

test('An unknown channel is not found; a caller who waits gets its first events.', async () => {
  const server = await startReads()
  expect(codeOf(await server.get())).toBe('no-channel')
  expect(codeOf(await server.get('?after=head'))).toBe('no-channel')
  expect(codeOf(await server.get('?client=web'))).toBe('no-channel')
  expect(codeOf(await server.get('?after=0&wait=1'))).toBe('no-channel')
  // Whoever names an epoch has known it.
  expect(codeOf(await server.get('?after=0&epoch=x.1&wait=55'))).toBe('no-channel')
  const waiting = ['after=0', 'after=head', 'after=earliest', 'client=web', ''].map((query) =>
    server.get(`?${query}&wait=55`),
  )
  await server.waiting(5)
  await server.append('first', 'second')
  for (const answer of await Promise.all(waiting)) expect(answer.json).toMatchObject({ after: 0, last: 2 })
})

test('What is no read is refused with its code.', async () => {
  const server = await startReads()
  await server.append(1)
  const bad = [
    'after=-1',
    'after=x',
    'after=1.5',
    'after=9007199254740992',
    'after=head%2B1',
    'after=time:yesterday',
    'after=',
    'limit=0',
    'limit=10001',
    'limit=x',
    'wait=56',
    'wait=-1',
    'wait=1.5',
    'epoch=',
    'epoch=a%20b',
    'client=a/b',
    'client=..',
    'client=web&after=1',
    'after=1&after=2',
    'token=secret',
    'key=a',
    'unknown=1',
    'after=%zz',
    '%zz=1',
    '__proto__=1',
  ]
  for (const query of bad) expect([query, codeOf(await server.get(`?${query}`))]).toEqual([query, 'bad-request'])
  expect(codeOf(await server.get('', {}, 'a%FF'))).toBe('bad-request')
  expect(codeOf(await server.get('', {}, 'a/../b%2F..'))).toBe('bad-request')
  expect(codeOf(await server.get('', { accept: 'image/png' }))).toBe('not-acceptable')
  expect(codeOf(await server.get('', { accept: 'application/json;q=0' }))).toBe('not-acceptable')
  expect(codeOf(await call(`${server.url}/v1/channels/orders/events`, 'POST', {}))).toBe('method-not-allowed')
  expect(codeOf(await call(`${server.url}/v1/channels/orders`))).toBe('not-found')
})

test('A log that is closed answers unavailable, also to those who wait.', async () => {
  const log = await tempLog()
  const server = await startReads(log)
  await server.append(1)
  const waiting = server.get('?after=1&wait=55')
  await server.waiting(1)
  await log.close()
  const answer = await waiting
  expect([codeOf(answer), answer.headers.get('retry-after')]).toEqual(['unavailable', '1'])
})

// ── Waiting ──────────────────────────────────────────────────────────────────────────────────────────────────────

test('A poll that waits is answered by the next event, and one that has events does not wait.', async () => {
  const server = await startReads()
  await server.append(1)
  expect(seqs(await server.get('?after=0&wait=55'))).toEqual([1])
  const waiting = [
    server.get('?after=1&wait=55'),
    server.get('?after=head&wait=55'),
    server.get('?after=1&wait=55&limit=1'),
  ]
  await server.waiting(3)
  await server.append(2)
  for (const answer of await Promise.all(waiting)) expect(seqs(answer).slice(0, 1)).toEqual([2])
})

test('A wait that is over is answered with an empty page.', async () => {
  const server = await startReads()
  await server.append(1)
  expect((await server.get('?after=1&wait=1')).json).toMatchObject({ after: 1, last: 1, caughtUp: true, events: [] })
  expect((await server.get('?after=1&wait=0')).json).toMatchObject({ events: [] })
})

test('When the server stops, waiting polls are answered with an empty page, and no new wait begins.', async () => {
  const server = await startReads()
  await server.append(1)
  const waiting = server.get('?after=1&wait=55')
  await server.waiting(1)
  server.stop()
  expect((await waiting).json).toMatchObject({ last: 1, events: [] })
  expect((await server.get('?after=1&wait=55')).json).toMatchObject({ last: 1, events: [] })
})

test('A poll whose caller hangs up is over at once.', async () => {
  const server = await startReads()
  await server.append(1)
  const leaving = new AbortController()
  const url = `${server.url}/v1/channels/orders/events?after=1&wait=55`
  const left = fetch(url, { signal: leaving.signal }).catch((error: Error) => error.name)
  await server.waiting(1)
  leaving.abort()
  expect(await left).toBe('AbortError')
  await server.settled()
  expect(server.failures).toEqual([])
})

test('Polls that wait at one place are one wait of the log, which ends with the last of them.', async () => {
  const waits: AbortSignal[] = []
  const inner = await tempLog()
  const log = new Proxy(inner, {
    get: (target, name) => {
      if (name === 'changed')
        return (channel: string, from: Place, signal: AbortSignal) => {
          if (channel === 'orders') waits.push(signal)
          return target.changed(channel, from, signal)
        }
      const member = Reflect.get(target, name)
      return typeof member === 'function' ? member.bind(target) : member
    },
  })
  const server = await startReads(log)
  await server.append(1)
  const leaving = new AbortController()
  const url = `${server.url}/v1/channels/orders/events?after=1&wait=55`
  const left = range(1, 3).map(() => fetch(url, { signal: leaving.signal }).catch((error: Error) => error.name))
  await server.waiting(3)
  expect(waits.map(({ aborted }) => aborted)).toEqual([false])
  leaving.abort()
  expect(await Promise.all(left)).toEqual(['AbortError', 'AbortError', 'AbortError'])
  await server.settled()
  expect(waits.map(({ aborted }) => aborted)).toEqual([true])
})

test('A trim under a waiting poll is told as a gap.', async () => {
  const server = await startReads()
  await server.append(1)
  const waiting = server.get('?after=1&wait=55')
  await server.waiting(1)
  // Both in one group: the reader wakes after the trim.
  await Promise.all([server.append(2, 3), server.log.trim('orders', 3)])
  const answer = await waiting
  // It was quicker than the trim, or hears of it.
  if (answer.status === 200) expect(seqs(answer)).toEqual([2, 3])
  else expect(codeOf(answer)).toBe('gap')
})

// ── Forms ────────────────────────────────────────────────────────────────────────────────────────────────────────

test('As lines, each event is one, and headers tell what stands around them.', async () => {
  const server = await startReads()
  await server.append('a\nb', 2, 3)
  const answer = await server.get('?after=0&limit=2', { accept: 'application/x-ndjson' })
  expect(answer.headers.get('content-type')).toBe('application/x-ndjson')
  expect(
    answer.text
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line).data),
  ).toEqual(['a\nb', 2])
  const told = ['Epoch', 'After', 'Last', 'Head', 'Trimmed'].map((name) => answer.headers.get(`tidemark-${name}`))
  expect(told).toEqual([await server.epoch(), '0', '2', '3', '0'])
})

test('As MessagePack, a page is a map with its blocks, cut where the limit says.', async () => {
  const server = await startReads()
  await server.append(...range(1, 5))
  await server.append(...range(6, 9))
  const accept = { accept: 'application/msgpack' }
  const page = async (query: string) => {
    const res = await fetch(`${server.url}/v1/channels/orders/events?${query}`, { headers: accept })
    expect(res.headers.get('content-type')).toBe('application/msgpack')
    const { blocks, ...rest } = unpack(Buffer.from(await res.arrayBuffer()))
    const events = splitBlocks(blocks).flatMap((block) => decodeBlock(block, rest.after, rest.last))
    return { ...rest, seqs: events.map(({ seq }) => seq), bytes: blocks.length }
  }
  expect(await page('after=0')).toMatchObject({ after: 0, last: 9, head: 9, caughtUp: true, seqs: range(1, 9) })
  expect(await page('after=3')).toMatchObject({ after: 3, last: 9, seqs: range(4, 9) })
  expect(await page('after=3&limit=4')).toMatchObject({ after: 3, last: 7, caughtUp: false, seqs: range(4, 7) })
  expect(await page('after=9')).toMatchObject({ after: 9, last: 9, seqs: [], bytes: 0 })
})

test('The type that the caller wants most is given.', async () => {
  const server = await startReads()
  await server.append(1)
  const typeOf = async (accept: string) => (await server.get('', { accept })).headers.get('content-type')
  expect(await typeOf('*/*')).toBe('application/json')
  expect(await typeOf('text/html, application/xhtml+xml, */*;q=0.8')).toBe('application/json')
  expect(await typeOf('application/json;q=0.5, application/x-ndjson')).toBe('application/x-ndjson')
  expect(await typeOf('application/json;q=0, */*')).toBe('application/x-ndjson')
  expect(await typeOf('Application/MsgPack , application/json;q=0.9')).toBe('application/msgpack')
  expect(await typeOf('application/*;q=0.1')).toBe('application/json')
})

test('Events of every kind are shown as the protocol says, whomever they are addressed to.', async () => {
  const server = await startReads()
  const bytes = encodeBody([
    event({ n: 1 }, { type: 'made', key: 'ü', id: 'i' }),
    event(undefined, { key: 'ü' }),
    { ...event(1), contentType: 'text/plain', data: Buffer.from('ü') },
    { ...event(1), contentType: 'image/png', data: Buffer.from([255]) },
    event(1, { to: { users: ['ann'], groups: [] } }),
  ])
  await server.log.append([{ channel: 'orders', body: bytes }])
  const { events } = (await server.get()).json
  expect(events.map(({ seq, time, ...rest }: EventJson) => rest)).toEqual([
    { type: 'made', key: 'ü', id: 'i', data: { n: 1 } },
    { key: 'ü', tombstone: true },
    { contentType: 'text/plain', data: 'ü' },
    { contentType: 'image/png', dataBase64: '/w==' },
    { to: { users: ['ann'] }, data: 1 },
  ])
})

// ── Caching ──────────────────────────────────────────────────────────────────────────────────────────────────────

test('Only a page that is over may be kept, and it is asked about before it is used again.', async () => {
  const server = await startReads()
  await server.append(...range(1, 10))
  const epoch = await server.epoch()
  const closed = await server.get(`?after=0&limit=5&epoch=${epoch}`)
  expect(closed.headers.get('cache-control')).toBe('private, no-cache')
  const tag = closed.headers.get('etag')!
  for (const query of [
    'after=0&limit=5',
    `after=5&limit=5&epoch=${epoch}`,
    `after=0&limit=5&wait=0&epoch=${epoch}`,
    `limit=5&epoch=${epoch}`,
    `after=earliest&limit=5&epoch=${epoch}`,
    `client=web&limit=5&epoch=${epoch}`,
  ]) {
    const { headers } = await server.get(`?${query}`)
    expect([query, headers.get('cache-control'), headers.get('etag')]).toEqual([query, 'no-store', null])
  }
  for (const { headers } of [closed, await server.get('?after=0')])
    expect(headers.get('vary')).toBe('Accept, Accept-Encoding, Authorization, Cookie, Origin')
  const again = (given: string, query = 'after=0&limit=5', headers = {}) =>
    server.get(`?${query}&epoch=${epoch}`, { 'if-none-match': given, ...headers })
  await server.append(11)
  for (const given of [tag, `"x", ${tag}`, '*']) {
    const same = await again(given)
    expect([same.status, same.text, same.headers.get('etag'), same.headers.get('cache-control')]).toEqual([
      304,
      '',
      tag,
      'private, no-cache',
    ])
  }
  expect((await again('W/"other"')).status).toBe(200)
  expect((await again(tag, 'after=0&limit=4')).status).toBe(200)
  expect((await again(tag, 'after=0&limit=5', { accept: 'application/x-ndjson' })).status).toBe(200)
  // What is gone is not answered from memory.
  await server.log.trim('orders', 3)
  expect(codeOf(await again(tag))).toBe('gap')
})

test('Pollers at one place are given the same bytes.', async () => {
  const server = await startReads()
  await server.append(...range(1, 20))
  const texts = await Promise.all(
    [100, 20, 10_000].map(async (limit) => (await server.get(`?after=5&limit=${limit}`)).text),
  )
  expect(new Set(texts).size).toBe(1)
  expect(seqs(await server.get('?after=5&limit=3'))).toEqual([6, 7, 8])
  const page = await server.log.read('orders', { after: 5 }, { events: 100, bytes: 1_000_000 })
  // Made once, when it was first asked for.
  let made = 0
  page.form('read.json', () => {
    made++
    return Buffer.alloc(0)
  })
  expect(made).toBe(0)
})

test('A reader that turns away in the middle of an answer leaves nothing behind.', async () => {
  const server = await startReads()
  for (let i = 0; i < 3; i++) await server.append('x'.repeat(900_000))
  const leaving = new AbortController()
  const res = await fetch(`${server.url}/v1/channels/orders/events?limit=3`, { signal: leaving.signal })
  leaving.abort()
  await expect(res.text()).rejects.toThrow()
  await server.settled()
  await until(async () => (await server.get('?after=3')).status === 200)
  expect(server.failures).toEqual([])
})
