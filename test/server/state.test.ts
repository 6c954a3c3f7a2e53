/** States at the doors: pages over HTTP, state and then live over a socket. */
import { unpack } from 'msgpackr'
import { describe, expect, test } from 'vitest'
import { decodeBlock, splitBlocks } from '../../src/block.ts'
import { encodeBody } from '../../src/body.ts'
import { compactChannel } from '../../src/log/compact.ts'
import type { Log } from '../../src/log/log.ts'
import { readRetentionRule } from '../../src/retention.ts'
import { event, range, tempLog } from '../parts.ts'
import { call, problemOf } from './calls.ts'
import { startTestServer } from './serve.ts'
import { type Message, type Peer, SUBPROTOCOLS, startStream } from './stream.ts'

const put = (log: Log, ...events: readonly (readonly [key: string | null, value?: unknown])[]) =>
  log.append([{ channel: 'c', body: encodeBody(events.map(([key, value]) => event(value, { key }))) }])
const keysOf = (events: readonly Message[]) => events.map(({ seq, key }) => [seq, key])

test('pages of one state stay what they are, whatever comes meanwhile', async () => {
  const { url, log } = await startTestServer()
  const state = (query = '') => call(`${url}/v1/channels/c/state${query}`)
  expect(problemOf(await state())).toMatchObject({ status: 404, code: 'no-channel' })
  await put(log, ['/a/1', 1], ['/b', 1], [null, 'none'], ['/a/2', 1], ['/a/1', 2], ['/c', 1], ['/c'])
  const first = (await state('?limit=2')).json
  const { epoch } = await log.info('c')
  expect(first).toMatchObject({ channel: 'c', epoch, at: 7, after: 0, last: 4, head: 7, trimmed: 0, caughtUp: false })
  expect(keysOf(first.events)).toEqual([
    [2, '/b'],
    [4, '/a/2'],
  ])
  await put(log, ['/a/1'], ['/d', 1])
  const second = (await state(`?limit=2&epoch=${epoch}&at=7&after=4`)).json
  expect(second).toMatchObject({ at: 7, after: 4, last: 7, head: 9 })
  expect(second.events).toMatchObject([{ seq: 5, key: '/a/1', data: 2 }])
  expect(keysOf((await state('?prefix=/a/')).json.events)).toEqual([[4, '/a/2']])
  expect(keysOf((await state(`?epoch=${epoch}`)).json.events)).toEqual([
    [2, '/b'],
    [4, '/a/2'],
    [9, '/d'],
  ])
  expect(keysOf((await state(`?epoch=${epoch}&at=7&prefix=/a/`)).json.events)).toEqual([
    [4, '/a/2'],
    [5, '/a/1'],
  ])
  // What is live goes on from there.
  const { json: live } = await call(`${url}/v1/channels/c/events?after=7&epoch=${epoch}`)
  expect(keysOf(live.events)).toEqual([
    [8, '/a/1'],
    [9, '/d'],
  ])
})

test('the forms of a read, and nothing is kept by those on the way', async () => {
  const { url, log } = await startTestServer()
  await put(log, ['a', 1], ['a', 2], ['b', 1], [null, 1])
  const ask = (accept: string) => fetch(`${url}/v1/channels/c/state`, { headers: { accept } })
  const lines = await ask('application/x-ndjson')
  expect(lines.headers.get('tidemark-at')).toBe('4')
  expect(lines.headers.get('cache-control')).toBe('no-store')
  expect(
    (await lines.text())
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line).seq),
  ).toEqual([2, 3])
  const { blocks, ...fields } = unpack(Buffer.from(await (await ask('application/msgpack')).arrayBuffer()))
  expect(fields).toMatchObject({ at: 4, after: 0, last: 4, head: 4, caughtUp: true })
  expect(splitBlocks(blocks).flatMap((block) => decodeBlock(block).map(({ seq, key }) => [seq, key]))).toEqual([
    [2, 'a'],
    [3, 'b'],
  ])
  expect(problemOf(await call(`${url}/v1/channels/c/state`, 'GET', undefined, { accept: 'text/html' })).status).toBe(
    406,
  )
  expect(problemOf(await call(`${url}/v1/channels/c/state`, 'POST', {})).status).toBe(405)
})

test('what is not as it should be asked is refused', async () => {
  const { url, log } = await startTestServer()
  await put(log, ['a', 1])
  const { epoch } = await log.info('c')
  const code = async (query: string) => problemOf(await call(`${url}/v1/channels/c/state?${query}`)).code
  const long = 'x'.repeat(1_025)
  for (const query of [
    'after=1',
    'at=1',
    `epoch=${epoch}&at=1&after=2`,
    'limit=0',
    'limit=10001',
    'wait=1',
    `prefix=${long}`,
  ])
    expect([query, await code(query)]).toEqual([query, 'bad-request'])
  expect(await code(`epoch=${epoch}&at=0`)).toBe('gap')
  for (const query of ['epoch=x.y', 'epoch=x.y&at=1']) expect(await code(query)).toBe('epoch-changed')
})

test('of a channel whose settings or whose pattern say so it is kept on disk, and told where that is', async () => {
  const retain = [readRetentionRule('by/**: state')]
  const { url, log } = await startTestServer({ retain, log: await tempLog({ retain }) })
  const channel = `${url}/v1/channels/c`
  await put(log, ['a', 1], ['b', 1], ['a', 2])
  expect((await call(channel)).json).not.toHaveProperty('state')
  expect((await call(channel, 'PUT', { state: true })).json).toMatchObject({ settings: { state: true } })
  const state = async () => (await call(channel)).json.state
  await expect.poll(state, { timeout: 10_000 }).toEqual({ at: 3, keys: 2, from: 'channel' })
  await put(log, ['b'], ['c', 1])
  await expect.poll(state, { timeout: 10_000 }).toEqual({ at: 5, keys: 2, from: 'channel' })
  expect(keysOf((await call(`${channel}/state`)).json.events)).toEqual([
    [3, 'a'],
    [5, 'c'],
  ])
  await call(channel, 'PUT', {})
  expect(await state()).toBeUndefined()
  expect(problemOf(await call(channel, 'PUT', { state: 'yes' }))).toMatchObject({ code: 'bad-request' })
  const by = `${url}/v1/channels/by/rule`
  await log.append([{ channel: 'by/rule', body: encodeBody([event(1, { key: 'a' })]) }])
  await expect
    .poll(async () => (await call(by)).json.state, { timeout: 10_000 })
    .toEqual({ at: 1, keys: 1, from: 'pattern by/**' })
  expect((await call(by, 'PUT', { state: false })).json).toMatchObject({ settings: { state: false } })
  expect((await call(by)).json).not.toHaveProperty('state')
})

test('a state that takes more memory than there is for all', async () => {
  const { url, log } = await startTestServer({ limits: { stateMemory: 1 } })
  const data = 'x'.repeat(600_000)
  await put(log, ['a', data])
  expect((await call(`${url}/v1/channels/c/state`)).status).toBe(200)
  await put(log, ['b', data])
  expect(problemOf(await call(`${url}/v1/channels/c/state`))).toMatchObject({ status: 413, code: 'too-large' })
})

test('what is erased is in no state any more, also not in one that is being read', async () => {
  const { url, log } = await startTestServer()
  await put(log, ['a', 'secret'], ['b', 'hidden'], ['c', 1])
  const { at, epoch } = (await call(`${url}/v1/channels/c/state`)).json
  for (const [what, left] of [
    [{ key: 'a' }, ['b', 'c']],
    [{ seq: 2 }, ['c']],
  ] as const) {
    expect((await call(`${url}/v1/channels/c/erase`, 'POST', what)).status).toBe(200)
    await expect
      .poll(async () => (await call(`${url}/v1/channels/c/erase`)).json.report?.events, { timeout: 10_000 })
      .toBe(1)
    expect(problemOf(await call(`${url}/v1/channels/c/state?epoch=${epoch}&at=${at}`)).code).toBe('gap')
    const { events } = (await call(`${url}/v1/channels/c/state`)).json
    expect(events.map(({ key }: Message) => key)).toEqual(left)
  }
})

/** Messages of a channel up to the one that says that the head is reached. */
async function toHead(peer: Peer): Promise<Message[]> {
  const messages: Message[] = []
  for (;;) {
    const message = await peer.next()
    if (message.op === 'heartbeat') continue
    messages.push(message)
    if (message.op === 'caughtup') return messages
  }
}
const eventsIn = (messages: readonly Message[]) => messages.flatMap(({ events = [] }) => events)

describe.each(SUBPROTOCOLS)('a socket (%s)', (subprotocol) => {
  test('has the state, then what comes, from exactly there', async () => {
    const stream = await startStream()
    const { log } = stream
    const data = 'x'.repeat(200)
    for (const round of range(1, 3)) await put(log, ...range(1, 900).map((n) => [`k${n}`, `${round}${data}`] as const))
    await put(log, ['k1'], [null, 'last'])
    const peer = await stream.client(subprotocol)
    peer.send({ op: 'subscribe', channel: 'c', state: true, ref: 1 })
    expect(await peer.next('subscribed')).toMatchObject({ ref: 1, after: 0, head: 2_702 })
    const state = await toHead(peer)
    const frames = state.filter(({ op }) => op === 'events')
    expect(frames.length).toBeGreaterThan(1)
    let after = 0
    for (const frame of frames) {
      expect(frame).toMatchObject({ after, at: 2_702 })
      after = frame.last
    }
    expect(after).toBe(2_702)
    expect(keysOf(eventsIn(frames))).toEqual(range(2, 900).map((n) => [1_800 + n, `k${n}`]))
    await put(log, ['k2', 'new'], ['k3'])
    const live = await peer.next('events')
    expect([live.after, live.at, keysOf(live.events)]).toEqual([
      2_702,
      undefined,
      [
        [2_703, 'k2'],
        [2_704, 'k3'],
      ],
    ])
  })

  test('a channel that is not there yet is waited for; an empty state is one, too', async () => {
    const stream = await startStream()
    const peer = await stream.client(subprotocol)
    peer.send({ op: 'subscribe', channel: 'c', state: true })
    expect(await peer.next('subscribed')).toMatchObject({ epoch: null, after: 0 })
    await put(stream.log, ['a', 1], ['a', 2])
    expect(keysOf(eventsIn(await toHead(peer))).at(-1)).toEqual([2, 'a'])
    await put(stream.log, ['a'])
    await peer.next('events')
    const other = await stream.client(subprotocol)
    other.send({ op: 'subscribe', channel: 'c', state: true })
    await other.next('subscribed')
    expect(await toHead(other)).toMatchObject([
      { op: 'events', after: 0, last: 3, at: 3 },
      { op: 'caughtup', seq: 3 },
    ])
  })

  test('has its state anew after whatever may have deleted some of it unheard', async () => {
    const stream = await startStream()
    const { log } = stream
    await put(log, ['a', 1], ['b', 1], ['c', 1])
    const peer = await stream.client(subprotocol)
    peer.send({ op: 'subscribe', channel: 'c', state: true })
    await peer.next('subscribed')
    await toHead(peer)
    // Both are in the write after this one, so that nobody sees a moment without the channel.
    const before = log.append([{ channel: 'other', body: encodeBody([event(1)]) }])
    await Promise.all([before, log.delete('c'), put(log, ['d', 1], ['d', 2], ['e', 1])])
    const again = await toHead(peer)
    expect(again[0]).toMatchObject({ op: 'reset', trimmed: 0 })
    expect(again.map(({ op, at }) => [op, at]).slice(1, -1)).toEqual([['events', 3]])
    expect(keysOf(eventsIn(again))).toEqual([
      [2, 'd'],
      [3, 'e'],
    ])
  })

  test('where it begins is said once', async () => {
    const stream = await startStream()
    const peer = await stream.client(subprotocol)
    for (const [ref, start] of [{ after: 0, state: true }, { cursor: true, state: true }, { state: false }].entries()) {
      peer.send({ op: 'subscribe', channel: 'c', ref, ...start })
      expect(await peer.next('error')).toMatchObject({ ref, code: 'bad-request' })
    }
  })
})

test('a state that was whole is followed past a compaction', async () => {
  const stream = await startStream()
  const { log } = stream
  await put(log, ['a', 1], ['b', 1], ['a'], ['c', 1])
  const peer = await stream.client()
  peer.send({ op: 'subscribe', channel: 'c', state: true })
  await peer.next('subscribed')
  expect(keysOf(eventsIn(await toHead(peer)))).toEqual([
    [2, 'b'],
    [4, 'c'],
  ])
  await compactChannel(log, 'c', { minLag: 0, tombstoneAge: -60_000, restTimes: 0 })
  await put(log, ['b'])
  const live = await peer.next('events')
  expect([live.after, keysOf(live.events)]).toEqual([4, [[5, 'b']]])
})
