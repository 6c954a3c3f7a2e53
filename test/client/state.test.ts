/** States in the client: the newest event of each key, then what comes, without a seam, by whichever door. */
import { expect, onTestFinished, test } from 'vitest'
import { encodeBody } from '../../src/body.ts'
import { Tidemark as Client, type Tidemark, type TidemarkOptions } from '../../src/client/client.ts'
import { connect } from '../../src/client/node.ts'
import type { ChannelEvent, Item } from '../../src/client/subscription.ts'
import type { Log } from '../../src/log/log.ts'
import { event, range } from '../parts.ts'
import { startTestServer } from '../server/serve.ts'
import { problem, Scripted } from './scripted.ts'

const put = (log: Log, ...events: readonly (readonly [key: string, value?: unknown])[]) =>
  log.append([{ channel: 'c', body: encodeBody(events.map(([key, value]) => event(value, { key }))) }])

/** By socket, and by polls alone. */
const WAYS: readonly (readonly [string, (url: string, options?: TidemarkOptions) => Tidemark])[] = [
  ['a socket', connect],
  ['polls', (url, options) => new Client(url, { ...options, WebSocket: undefined })],
]

function keep(state: Map<string, unknown>, { key, data, tombstone }: ChannelEvent): void {
  if (tombstone) state.delete(key!)
  else if (key !== undefined) state.set(key, data)
}

test.each(WAYS)('by %s: state first, then live from exactly there, while others append', async (_, join) => {
  const { url, log } = await startTestServer()
  const data = 'x'.repeat(500)
  for (const round of range(1, 3))
    for (const part of range(0, 4))
      await put(log, ...range(1, 900).map((n) => [`k${part * 900 + n}`, `${round}${data}`] as const))
  await put(log, ['k1'], ['k2'])
  const tidemark = join(url)
  onTestFinished(() => tidemark.close())
  const state = new Map<string, unknown>()
  const should = new Map(range(3, 4_500).map((n) => [`k${n}`, `3${data}`]))
  const news = (async () => {
    for (const n of range(1, 40)) {
      await put(log, [`k${n}`, n], [`k${n + 100}`])
      should.set(`k${n}`, String(n))
      should.delete(`k${n + 100}`)
    }
    await put(log, ['last', 'last'])
  })()
  const seqs: number[] = []
  let live = 0
  for await (const item of tidemark.channel('c').followItems({ state: true })) {
    if (item.is === 'caughtup') continue
    if (item.is !== 'events') return expect.fail(item.is)
    if (item.at === undefined) {
      // The seam: nothing between.
      expect(item.after).toBe(live)
    } else expect([item.after, item.last, seqs.length]).toEqual([0, item.at, 0])
    live = item.last
    for (const each of item.events) {
      expect(each.channel).toBe('c')
      keep(state, each)
      seqs.push(each.seq)
    }
    if (state.has('last')) break
  }
  await news
  expect(seqs).toEqual([...new Set(seqs)].sort((a, b) => a - b))
  expect(seqs.length).toBeLessThan(4_500 + 90)
  state.delete('last')
  const shown = (map: Map<string, unknown>) => [...map].map(([key, value]) => `${key} ${value}`).sort()
  expect(shown(state)).toEqual(shown(should))
})

test('once, with a prefix, in as many answers as it takes', async () => {
  const { url, log } = await startTestServer()
  const data = 'x'.repeat(1_000)
  for (const part of range(0, 3)) await put(log, ...range(1, 800).map((n) => [`${part}/${n}`, data] as const))
  await put(log, ['1/1', 'new'], ['1/2'])
  const channel = connect(url).channel('c')
  const { epoch } = await log.info('c')
  const all = await channel.state()
  expect(all).toMatchObject({ channel: 'c', epoch, at: 3_202, head: 3_202, trimmed: 0 })
  expect([all.events.length, all.events.at(-1)]).toMatchObject([
    3_199,
    { seq: 3_201, key: '1/1', data: 'new', channel: 'c' },
  ])
  expect((await channel.state({ prefix: '1/' })).events.length).toBe(799)
  await expect(connect(url).channel('d').state()).rejects.toMatchObject({ code: 'no-channel' })
  await expect(channel.state({ signal: AbortSignal.abort(new Error('left')) })).rejects.toThrow('left')
})

test.each(WAYS)('by %s: another history is told, and its state comes anew', async (_, join) => {
  const { url, log } = await startTestServer()
  await put(log, ['a', 1], ['b', 1], ['b', 2])
  const tidemark = join(url)
  onTestFinished(() => tidemark.close())
  const state = new Map<string, unknown>()
  let resets = 0
  const loop = tidemark.channel('c').follow({
    state: true,
    onReset: () => {
      resets++
      state.clear()
    },
  })
  for await (const each of loop) {
    keep(state, each)
    if (each.key === 'b') {
      // Both are in the write after this one, so that nobody sees a moment without the channel.
      const before = log.append([{ channel: 'other', body: encodeBody([event(1)]) }])
      await Promise.all([before, log.delete('c'), put(log, ['c', 1], ['d', 1], ['d', 2])])
    }
    if (each.key === 'd') break
  }
  expect([resets, loop.place?.after]).toEqual([1, 3])
  expect([...state]).toEqual([
    ['c', 1],
    ['d', 2],
  ])
})

test('a channel that is not there yet is waited for; signal, break and close end the loop', async () => {
  const { url, log } = await startTestServer()
  const tidemark = connect(url)
  onTestFinished(() => tidemark.close())
  const channel = tidemark.channel('c')
  const first = channel.follow({ state: true }).next()
  await expect.poll(() => tidemark.state).toBe('open')
  await put(log, ['a', 1])
  expect((await first).value).toMatchObject({ key: 'a' })
  await put(log, ...range(1, 50).map((n) => [`k${n}`, n] as const))
  const other = connect(url)
  const gone = new AbortController()
  let seen = 0
  await other.channel('c').follow({ state: true, signal: gone.signal }, () => {
    if (++seen === 10) gone.abort()
  })
  expect(seen).toBe(10)
  const items: Item[] = []
  for await (const item of other.channel('c').followItems({ state: true })) {
    items.push(item)
    if (item.is === 'caughtup') void other.close()
  }
  expect(items.map(({ is }) => is)).toEqual(['events', 'caughtup'])
  await expect(channel.follow({ state: true, after: 3 }).next()).rejects.toMatchObject({ code: 'bad-request' })
})

test('where events are gone the state comes anew; what is passing is waited out, what is not ends the loop', async () => {
  const server = await Scripted.start()
  const time = '2026-11-22T18:48:00.123Z'
  let asked = 0
  const page = (at: number) => ({
    ...{ channel: 'c', epoch: 'e1', at, after: 0, last: at, head: at, trimmed: 0, caughtUp: true },
    events: [{ seq: at, time, key: `k${at}`, data: at }],
  })
  server.respond = () => {
    asked++
    if (asked === 1) return problem(503, 'unavailable')
    if (asked === 2) return { body: page(10) }
    if (asked === 3) return problem(410, 'gap')
    if (asked === 4) return { body: page(50) }
    return problem(413, 'too-large', { limit: 1 })
  }
  const tidemark = connect(server.url)
  onTestFinished(() => tidemark.close())
  const told: unknown[] = []
  const followed = tidemark
    .channel('c')
    .follow({ state: true, onReset: ({ trimmed }) => void told.push({ trimmed }) }, ({ seq }) => void told.push(seq))
  const peer = await server.peer()
  expect(await peer.accept()).toMatchObject({ after: 10, epoch: 'e1' })
  peer.say({ op: 'gap', channel: 'c', after: 10, trimmed: 40 })
  expect(await peer.accept()).toMatchObject({ after: 50, epoch: 'e1' })
  peer.say({ op: 'reset', channel: 'c', epoch: 'e1~1', trimmed: 45, head: 60 })
  await expect(followed).rejects.toMatchObject({ code: 'too-large' })
  expect(told).toEqual([10, { trimmed: 40 }, 50, { trimmed: 45 }])
})
