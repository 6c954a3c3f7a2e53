import { unpack } from 'msgpackr'
import { describe, expect, test } from 'vitest'
import { decodeBlock, splitBlocks } from '../../src/block.ts'
import { encodeBody } from '../../src/body.ts'
import type { Log } from '../../src/log/log.ts'
import { PollAnswer } from '../../src/server/schemas.ts'
import { POLL_CHANNELS_MAX, READ_BYTES } from '../../src/wire.ts'
import { body, event, range, tempLog } from '../parts.ts'
import { call, problemOf, RawConnection } from './calls.ts'
import { startTestServer } from './serve.ts'

const append = (log: Log, channel: string, ...values: unknown[]) => log.append([{ channel, body: body(...values) }])

/** Polls, and checks the answer's shape. */
async function poll(url: string, request: unknown, headers: Record<string, string> = {}) {
  const answer = await call(`${url}/v1/poll`, 'POST', request, headers)
  if (answer.status === 200) PollAnswer.parse(answer.json)
  return answer
}

/** Polls, waiting; resolves once the server is surely waiting. */
async function waitingPoll(url: string, log: Log, request: Record<string, unknown>) {
  const gauge = async () =>
    Number(/tidemark_followers\{door="poll"\} (\d+)/.exec((await call(`${url}/metrics`)).text)?.[1])
  const before = await gauge()
  const answer = poll(url, { wait: 50, ...request })
  while ((await gauge()) === before) await log.channels('')[Symbol.asyncIterator]().next()
  return { answer }
}

const seqs = (page: { events: { seq: number }[] }) => page.events.map(({ seq }) => seq)

describe('reading', () => {
  test('a page for each channel that has something, in the order of the request', async () => {
    const { url, log } = await startTestServer()
    for (const channel of ['zebra', '42', 'apple', '7']) await append(log, channel, `${channel} 1`, `${channel} 2`)
    await append(log, 'still', 'x')
    const { epoch } = await log.info('zebra')
    const request =
      '{"channels":{"zebra":{"after":0},"42":{"after":1},"still":{"after":1},"apple":{"after":0},"7":{"after":0}}}'
    const { status, json, headers } = await poll(url, request)
    expect(status).toBe(200)
    expect(headers.get('cache-control')).toBe('no-store')
    expect(headers.get('vary')).toContain('Accept')
    expect(json.pages.map((page: { channel: string }) => page.channel)).toEqual(['zebra', '42', 'apple', '7'])
    expect(json.streamer).toBe('on')
    expect(json).not.toHaveProperty('streamerRetryAfter')
    const [zebra, fortyTwo] = json.pages
    expect(zebra).toEqual({
      ...{ channel: 'zebra', epoch, after: 0, last: 2, head: 2, trimmed: 0, caughtUp: true },
      events: [1, 2].map((seq) => ({ seq, time: expect.any(String), data: `zebra ${seq}` })),
    })
    expect([fortyTwo.after, fortyTwo.last, ...seqs(fortyTwo)]).toEqual([1, 2, 2])
  })

  test('data stand as they were sent', async () => {
    const { url, log } = await startTestServer()
    const data = new TextEncoder().encode('{"b":1.0,  "a":1e2,"é":"\\u00e9"}')
    await log.append([{ channel: 'a', body: encodeBody([event(undefined, { data })]) }])
    const { text } = await poll(url, { channels: { a: { after: 0 } } })
    expect(text).toContain('"data":{"b":1.0,  "a":1e2,"é":"\\u00e9"}')
  })

  test('as MessagePack, a page holds blocks of exactly its range', async () => {
    const { url, log } = await startTestServer()
    await append(log, 'a', ...range(1, 10))
    const init = {
      method: 'POST',
      headers: { 'content-type': 'application/json', accept: 'application/msgpack' },
      body: JSON.stringify({ channels: { a: { after: 3 }, '..': {} }, limit: 4 }),
    }
    const response = await fetch(`${url}/v1/poll`, init)
    expect(response.headers.get('content-type')).toBe('application/msgpack')
    const { pages, streamer } = unpack(new Uint8Array(await response.arrayBuffer()))
    expect(streamer).toBe('on')
    const [a, bad] = pages
    expect(a).toMatchObject({ channel: 'a', after: 3, last: 7, head: 10, caughtUp: false })
    expect(
      splitBlocks(a.blocks)
        .flatMap((block) => decodeBlock(block))
        .map(({ seq }) => seq),
    ).toEqual([4, 5, 6, 7])
    expect(bad).toMatchObject({ channel: '..', error: { code: 'bad-request', status: 400 } })
    expect(problemOf(await poll(url, { channels: {} }, { accept: 'text/html' })).code).toBe('not-acceptable')
  })

  test('a place that is asked for by a word is told, moved or not', async () => {
    const { url, log } = await startTestServer()
    await append(log, 'a', ...range(1, 100))
    const { pages } = (await poll(url, { channels: { a: { after: 'head' }, none: { after: 'head' } } })).json
    expect(pages).toMatchObject([
      { channel: 'a', after: 100, last: 100, head: 100, caughtUp: true, events: [] },
      { channel: 'none', epoch: null, after: 0, last: 0, head: 0, events: [] },
    ])
    const later = (await poll(url, { channels: { a: { after: 'head-2' } } })).json.pages
    expect(seqs(later[0])).toEqual([99, 100])
    expect(seqs((await poll(url, { channels: { a: {} }, limit: 3 })).json.pages[0])).toEqual([1, 2, 3])
  })

  test('a place that the caller asks to be told is told, moved or not, after what comes before it', async () => {
    const { url, log } = await startTestServer()
    await append(log, 'a', ...range(1, 10))
    const { epoch } = await log.info('a')
    await log.commit('me', 'a', { seq: 4 })
    const ask = async (channels: object, limit = 100) =>
      (await poll(url, { client: 'me', channels, limit })).json.pages as Record<string, unknown>[]
    expect(await ask({ a: { after: 10, epoch } })).toEqual([])
    expect(await ask({ a: { after: 10, tell: true }, none: { tell: true } })).toMatchObject([
      { channel: 'a', epoch, after: 10, last: 10, head: 10, caughtUp: true, events: [] },
      { channel: 'none', epoch: null, after: 0, last: 0, caughtUp: true },
    ])
    // What the answer has no room for is not told: a reset may come before it.
    const two = await ask({ a: { tell: true }, b: { after: 3, epoch: 'other', tell: true } }, 1)
    expect(two.map(({ channel, after, reset }) => [channel, after, reset])).toEqual(
      two.length === 2
        ? [
            ['a', 4, undefined],
            ['b', 0, true],
          ]
        : [['a', 4, undefined]],
    )
    expect(problemOf(await poll(url, { channels: { a: { tell: 1 } } })).code).toBe('bad-request')
  })

  test('an unknown channel is not an error, and its first epoch is not a reset', async () => {
    const { url, log } = await startTestServer()
    const first = (await poll(url, { channels: { a: {} } })).json.pages[0]
    expect(first).toMatchObject({ epoch: null, last: 0 })
    expect((await poll(url, { channels: { a: { after: 0, epoch: null } } })).json.pages).toEqual([])
    await append(log, 'a', 1)
    const page = (await poll(url, { channels: { a: { after: first.last, epoch: first.epoch } } })).json.pages[0]
    expect(seqs(page)).toEqual([1])
    expect(page).not.toHaveProperty('reset')
  })
})

describe('cursors', () => {
  test('a commit moves the cursor before reading, and the channel goes on from it', async () => {
    const { url, log } = await startTestServer()
    await append(log, 'a', ...range(1, 5))
    const { epoch } = await log.info('a')
    const first = (await poll(url, { client: 'web', channels: { a: {} }, limit: 2 })).json.pages[0]
    expect(seqs(first)).toEqual([1, 2])
    expect(await log.cursor('web', 'a')).toBeUndefined()
    const second = (await poll(url, { client: 'web', channels: { a: { commit: first.last, epoch } }, limit: 2 })).json
    expect(seqs(second.pages[0])).toEqual([3, 4])
    expect(await log.cursor('web', 'a')).toMatchObject({ seq: 2, epoch })
    expect(seqs((await poll(url, { client: 'web', channels: { a: {} } })).json.pages[0])).toEqual([3, 4, 5])
  })

  test('a lower commit moves nothing, and an explicit place wins over the cursor', async () => {
    const { url, log } = await startTestServer()
    await append(log, 'a', ...range(1, 5))
    await log.commit('web', 'a', { seq: 4 })
    expect(seqs((await poll(url, { client: 'web', channels: { a: { commit: 1 } } })).json.pages[0])).toEqual([5])
    const both = { client: 'web', channels: { a: { commit: 5, after: 2 } } }
    expect(seqs((await poll(url, both)).json.pages[0])).toEqual([3, 4, 5])
    expect((await log.cursor('web', 'a'))?.seq).toBe(5)
  })

  test('a thousand commits share few writes', async () => {
    const groups: number[] = []
    const log = await tempLog({ onGroup: ({ tasks }) => void groups.push(tasks) })
    const { url } = await startTestServer({ log })
    const names = range(1, POLL_CHANNELS_MAX).map((n) => `channel-${n}`)
    await log.append(names.map((channel) => ({ channel, body: body(1) })))
    groups.length = 0
    const channels = Object.fromEntries(names.map((name) => [name, { commit: 1 }]))
    expect((await poll(url, { client: 'web', channels })).json.pages).toEqual([])
    expect((await log.cursor('web', 'channel-1000'))?.seq).toBe(1)
    expect(groups.length).toBeLessThan(50)
  })

  test('a commit for another history moves nothing and is told as a reset', async () => {
    const { url, log } = await startTestServer()
    await append(log, 'a', ...range(1, 5))
    const old = (await log.info('a')).epoch
    await log.commit('web', 'a', { seq: 5 })
    await log.delete('a')
    const gone = (await poll(url, { client: 'web', channels: { a: { commit: 5, epoch: old } } })).json.pages
    expect(gone).toMatchObject([{ channel: 'a', epoch: null, reset: true, after: 0, last: 0, events: [] }])
    await append(log, 'a', 'new')
    const { epoch } = await log.info('a')
    for (const asked of [{ commit: 5, epoch: old }, { commit: 5 }, { after: 5, epoch: old }, { after: 9, epoch }]) {
      const { pages } = (await poll(url, { client: 'web', channels: { a: asked } })).json
      expect(pages).toMatchObject([{ epoch, reset: true, after: 0, last: 1 }])
      expect(await log.cursor('web', 'a')).toBeUndefined()
    }
  })

  test('events of a channel that is gone can not be committed silently', async () => {
    const { url } = await startTestServer()
    const { pages } = (await poll(url, { client: 'web', channels: { gone: { commit: 5 } } })).json
    expect(pages).toMatchObject([{ channel: 'gone', epoch: null, reset: true }])
  })
})

describe('what is one channel’s own', () => {
  test('a gap is told and the page goes on after it', async () => {
    const { url, log } = await startTestServer()
    await append(log, 'a', ...range(1, 5))
    await append(log, 'empty', ...range(1, 3))
    await log.commit('web', 'a', { seq: 1 })
    await log.trim('a', 3)
    await log.trim('empty', 3)
    for (const asked of [{ after: 1 }, {}])
      expect((await poll(url, { client: 'web', channels: { a: asked } })).json.pages).toMatchObject([
        { gap: { after: 1, trimmed: 3 }, after: 3, last: 5, trimmed: 3, events: [{ seq: 4 }, { seq: 5 }] },
      ])
    expect((await poll(url, { channels: { empty: { after: 0 } } })).json.pages).toMatchObject([
      { gap: { after: 0, trimmed: 3 }, after: 3, last: 3, head: 3, caughtUp: true, events: [] },
    ])
    expect((await poll(url, { channels: { a: { after: 'earliest' } } })).json.pages[0]).not.toHaveProperty('gap')
  })

  test('one bad channel never fails the others', async () => {
    const { url, log } = await startTestServer()
    await append(log, 'good', 1)
    const channels = { '../etc': { after: 0 }, good: { after: 0 }, 'a/events/b': {} }
    const { status, json } = await poll(url, { channels })
    expect(status).toBe(200)
    expect(json.pages).toMatchObject([
      { channel: '../etc', error: { code: 'bad-request', status: 400, detail: expect.any(String) } },
      { channel: 'good', last: 1 },
      { channel: 'a/events/b', error: { code: 'bad-request' } },
    ])
    const prototype = await poll(url, '{"channels":{"good":{"after":0},"__proto__":{"after":0}}}')
    expect(prototype.status).toBe(200)
    expect(prototype.json.pages).toMatchObject([
      { channel: 'good', last: 1 },
      { channel: '__proto__', error: { code: 'bad-request' } },
    ])
  })
})

describe('limits', () => {
  test('limit holds for the whole answer', async () => {
    const { url, log } = await startTestServer()
    for (const channel of ['a', 'b', 'c']) await append(log, channel, ...range(1, 10))
    const channels = { a: { after: 0 }, b: { after: 0 }, c: { after: 0 } }
    const { pages } = (await poll(url, { channels, limit: 15 })).json
    expect(pages.flatMap(seqs)).toHaveLength(15)
    expect(pages).toHaveLength(2)
  })

  test('the channel that is served first rotates, so that none starves behind a busy one', async () => {
    const { url, log } = await startTestServer()
    const names = ['a', 'b', 'c', 'd']
    for (const channel of names) await append(log, channel, ...range(1, 10))
    const channels = Object.fromEntries(names.map((name) => [name, { after: 0 }]))
    const served = new Set<string>()
    // Of 200 polls that serve one of four, one misses a given channel in 1 of 10^25 runs.
    for (let i = 0; i < 200 && served.size < names.length; i++)
      served.add((await poll(url, { channels, limit: 1 })).json.pages[0].channel)
    expect([...served].sort()).toEqual(names)
  })

  test('the answer is cut near 1 MiB, never below one event', async () => {
    const { url, log } = await startTestServer()
    const big = 'x'.repeat(900_000)
    for (const channel of ['a', 'b', 'c', 'd']) await append(log, channel, big)
    const channels = { a: { after: 0 }, b: { after: 0 }, c: { after: 0 }, d: { after: 0 } }
    const { text, json } = await poll(url, { channels })
    expect(json.pages).toHaveLength(2)
    expect(text.length).toBeLessThan(2 * READ_BYTES)
  })

  test('more than a thousand channels are refused', async () => {
    const { url } = await startTestServer()
    const channels = Object.fromEntries(range(0, POLL_CHANNELS_MAX).map((n) => [`c${n}`, {}]))
    expect(problemOf(await poll(url, { channels })).code).toBe('bad-request')
  })

  test.each([
    ['a negative limit', { channels: {}, limit: -1 }],
    ['no limit at all', { channels: {}, limit: 0 }],
    ['a limit beyond 10,000', { channels: {}, limit: 10_001 }],
    ['a wait beyond 55', { channels: {}, wait: 56 }],
    ['no channels', {}],
    ['channels as a list', { channels: ['a'] }],
    ['a commit without a client', { channels: { a: { commit: 1 } } }],
    ['a commit that is no seq', { client: 'web', channels: { a: { commit: 1.5 } } }],
    ['a streamer that is neither on nor off', { channels: {}, streamer: true }],
    ['an unknown field', { channels: {}, waitt: 1 }],
    ['an unknown field of a channel', { channels: { a: { from: 1 } } }],
    ['an after that is no position', { channels: { a: { after: 'tail' } } }],
    ['a client with a slash', { client: 'a/b', channels: {} }],
    ['a channel twice', '{"channels":{"a":{"after":0},"a":{"after":1}}}'],
  ])('%s is a bad request', async (_, request) => {
    const { url } = await startTestServer()
    expect(problemOf(await poll(url, request)).code).toBe('bad-request')
  })
})

describe('waiting', () => {
  test('it answers as soon as one channel has something', async () => {
    const { url, log } = await startTestServer()
    await append(log, 'a', 1)
    const { answer } = await waitingPoll(url, log, { channels: { a: { after: 1 }, b: { after: 0 }, c: {} } })
    await append(log, 'b', 'now')
    expect((await answer).json.pages).toMatchObject([
      { channel: 'b', last: 1, events: [{ data: 'now' }] },
      { channel: 'c', epoch: null },
    ])
  })

  test('channels of one append come together', async () => {
    const { url, log } = await startTestServer()
    const { answer } = await waitingPoll(url, log, { channels: { a: { after: 0 }, b: { after: 0 } } })
    await log.append([
      { channel: 'a', body: body(1) },
      { channel: 'b', body: body(1) },
    ])
    expect((await answer).json.pages.map((page: { channel: string }) => page.channel)).toEqual(['a', 'b'])
  })

  test('a deletion ends the wait too, as a reset to nothing', async () => {
    const { url, log } = await startTestServer()
    await append(log, 'a', ...range(1, 3))
    const { epoch } = await log.info('a')
    const deleted = await waitingPoll(url, log, { channels: { a: { after: 3, epoch } } })
    await log.delete('a')
    expect((await deleted.answer).json.pages).toMatchObject([{ channel: 'a', epoch: null, reset: true, last: 0 }])
  })

  test('without anything it answers at the end of the wait, with no pages', async () => {
    const { url, log } = await startTestServer()
    await append(log, 'a', 1)
    const { status, json } = await poll(url, { channels: { a: { after: 1 } }, wait: 0.2 })
    expect([status, json.pages]).toEqual([200, []])
  })

  test('the switch ends the wait; turned on, it tells how to spread the return', async () => {
    const { url, log } = await startTestServer({ retryWindow: 1_234 })
    await append(log, 'a', 1)
    const turn = (on: boolean) => call(`${url}/v1/admin/streamer`, 'PUT', { on })
    const off = await waitingPoll(url, log, { channels: { a: { after: 1 } } })
    await turn(false)
    expect((await off.answer).json).toEqual({ pages: [], streamer: 'off' })
    const on = await waitingPoll(url, log, { channels: { a: { after: 1 } } })
    await turn(true)
    expect((await on.answer).json).toEqual({ pages: [], streamer: 'on', streamerRetryAfter: 1_234 })
    const next = await poll(url, { channels: { a: { after: 1 } } })
    expect(next.json.streamerRetryAfter).toBe(1_234)
  })

  test('whoever believes that the switch stands otherwise does not wait', async () => {
    const { url, log } = await startTestServer({ retryWindow: 1_234 })
    await append(log, 'a', 1)
    const turn = (on: boolean) => call(`${url}/v1/admin/streamer`, 'PUT', { on })
    const asked = (streamer: string) => ({ channels: { a: { after: 1 } }, wait: 50, streamer })
    expect((await poll(url, asked('off'))).json).toEqual({ pages: [], streamer: 'on' })
    await turn(false)
    expect((await poll(url, asked('on'))).json).toEqual({ pages: [], streamer: 'off' })
    const waits = await waitingPoll(url, log, asked('off'))
    await turn(true)
    const told = { pages: [], streamer: 'on', streamerRetryAfter: 1_234 }
    expect((await waits.answer).json).toEqual(told)
    expect((await poll(url, asked('off'))).json).toEqual(told)
    const { answer } = await waitingPoll(url, log, asked('on'))
    await append(log, 'a', 2)
    expect((await answer).json.pages).toHaveLength(1)
  })

  test('a caller that hangs up waits no longer', async () => {
    const { url, log, port } = await startTestServer()
    const followers = async () =>
      /tidemark_followers\{door="poll"\} (\d+)/.exec((await call(`${url}/metrics`)).text)?.[1]
    const connection = await RawConnection.open(port)
    const request = JSON.stringify({ channels: { a: { after: 0 } }, wait: 50 })
    connection.send(
      `POST /v1/poll HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: ${request.length}\r\n\r\n${request}`,
    )
    while ((await followers()) !== '1') await log.channels('')[Symbol.asyncIterator]().next()
    connection.socket.destroy()
    while ((await followers()) !== '0') await log.channels('')[Symbol.asyncIterator]().next()
  })
})
