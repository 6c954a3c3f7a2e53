/** Pages that come from the disk together are given one after the other, others in between. */
import { setImmediate as nextTurn } from 'node:timers/promises'
import { afterEach, expect, test, vi } from 'vitest'
import { Pages } from '../../src/doors/pages.ts'
import { type Log, Page } from '../../src/log/log.ts'
import type { HotCall } from '../../src/server/front.ts'
import { poll } from '../../src/server/poll.ts'
import { read } from '../../src/server/read.ts'
import { stream } from '../../src/server/sse.ts'
import { body, range, tempLog } from '../parts.ts'
import { serveBare } from './bare.ts'
import { logWith } from './serve.ts'
import { startStream, until } from './stream.ts'

const READERS = 12

afterEach(() => {
  vi.restoreAllMocks()
})

/** A log of one large event, in no memory; its pages come when they are let go, all together. */
async function heldLog(): Promise<{ log: Log; held: (() => void)[] }> {
  const log = await tempLog()
  await log.append([{ channel: 'c', body: body('x'.repeat(100_000)) }])
  const held: (() => void)[] = []
  const read: Log['read'] = async (channel, ...asked) => {
    // From the disk: each reader has one of its own.
    const page = (await log.read(channel, ...asked)).with({})
    if (channel === 'c') await new Promise<void>((resolve) => held.push(resolve))
    return page
  }
  const recent: Log['recent'] = (channel, ...asked) => (channel === 'c' ? undefined : log.recent(channel, ...asked))
  return { log: logWith(log, { read, recent }), held }
}

/** Lets the first page of each reader go; the most that were given between two looks of the event loop at others. */
async function mostInATurn(held: (() => void)[], given: () => number): Promise<number> {
  await until(() => held.length === READERS)
  // Each look at the clock is a millisecond, a whole one: a turn of a page takes longer than others are to wait.
  let now = Math.ceil(performance.now())
  vi.spyOn(performance, 'now').mockImplementation(() => ++now)
  for (const letGo of held.splice(0)) letGo()
  let [most, before] = [0, 0]
  while (given() < READERS) {
    await nextTurn()
    most = Math.max(most, given() - before)
    before = given()
  }
  return most
}

test('pages of sockets that come together go out in turns', async () => {
  const { log, held } = await heldLog()
  const { client, doors } = await startStream({ over: log })
  for (const _ of range(1, READERS)) {
    const socket = await client()
    socket.send({ op: 'subscribe', channel: 'c' })
  }
  expect(await mostInATurn(held, () => doors.metrics.reads.stream.events)).toBeLessThanOrEqual(2)
})

const ASKED: [string, HotCall, string, RequestInit, 'poll' | 'sse'][] = [
  ['reads', read, '/v1/channels/c/events', {}, 'poll'],
  ['polls', poll, '/v1/poll', { method: 'POST', body: '{"channels":{"c":{"after":0}}}' }, 'poll'],
  ['streams', stream, '/v1/channels/c/events?after=0', { headers: { accept: 'text/event-stream' } }, 'sse'],
]

test.each(ASKED)('so do answers of %s', async (_, handler, path, init, door) => {
  const { log, held } = await heldLog()
  const { url, metrics, stop } = await serveBare(handler, log)
  const headers = { 'content-type': 'application/json', ...init.headers }
  const answers = range(1, READERS).map(() => fetch(url + path, { ...init, headers }))
  expect(await mostInATurn(held, () => metrics.reads[door].events)).toBeLessThanOrEqual(2)
  stop()
  for (const letGo of held) letGo()
  for (const answer of answers) expect((await (await answer).text()).length).toBeGreaterThan(100_000)
})

/** A page of so many bytes, which others share or not. */
const pageOf = (bytes: number, isShared = false): Page => {
  const at = { channel: 'c', epoch: 'x', after: 0, last: 1, head: 1, trimmed: 0 }
  return new Page({ ...at, blocks: [new Uint8Array(bytes)] }, isShared ? () => {} : undefined)
}

test('pages that wait for their turn are bounded; who asks for more is told so until they had it', async () => {
  const page = pageOf(100_000)
  const pages = new Pages(150_000)
  const made: string[] = []
  const first = pages.answer(page, () => made.push('first'))
  const second = pages.answer(page, () => {
    made.push('second')
    throw new Error('of the second')
  })
  expect(() => pages.answer(page, () => made.push('third'))).toThrow(expect.objectContaining({ code: 'too-many' }))
  // What is small is answered all the same, and a stream waits.
  pages.answer(pageOf(100), () => made.push('small'))
  const stream = pages.make(page, () => made.push('stream'))
  expect(made).toEqual(['small'])
  await first
  await expect(second).rejects.toThrow('of the second')
  await stream
  await pages.answer(page, () => made.push('later'))
  expect(made).toEqual(['small', 'first', 'second', 'stream', 'later'])
})

test('small pages are made at once, until they are many; so is what all at the head share, however large', async () => {
  const pages = new Pages()
  let made = 0
  const all = range(1, 30).map(() => pages.answer(pageOf(50_000), () => ++made))
  expect(made).toBe(20)
  pages.answer(pageOf(500_000, true), () => ++made)
  expect(made).toBe(21)
  await Promise.all(all)
  expect(made).toBe(31)
  await nextTurn()
  pages.answer(pageOf(50_000), () => ++made)
  expect(made).toBe(32)
})
