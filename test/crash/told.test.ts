/** What clients of a real server are told when its directory or its clock is not what it was. */
import { rmSync } from 'node:fs'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { connect } from '../../src/client/node.ts'
import type { Item } from '../../src/client/subscription.ts'
import type { Log } from '../../src/log/log.ts'
import { openLog } from '../../src/log/open.ts'
import { body, tempDir } from '../parts.ts'
import { clock, clockIn } from './clock.ts'
import { copy, writeBack } from './restored.ts'
import { Server } from './server.ts'

const HOUR_MS = 3_600_000

function server(data: string, env: Record<string, string> = {}): Server {
  const it = new Server(data, env)
  onTestFinished(() => it.kill())
  return it
}

const post = async (url: string, count: number): Promise<{ epoch: string; last: number }> => {
  const events = Array.from({ length: count }, (_, data) => ({ data }))
  const headers = { 'content-type': 'application/json' }
  const said = await fetch(`${url}/v1/channels/c/events`, { method: 'POST', headers, body: JSON.stringify(events) })
  expect(said.status).toBe(201)
  return (await said.json()) as { epoch: string; last: number }
}

const read = async (url: string, query: string): Promise<Record<string, unknown>> =>
  (await (await fetch(`${url}/v1/channels/c/events?${query}`)).json()) as Record<string, unknown>

/** The first message of a stream that comes back with an id. */
async function firstMessage(url: string, id: string): Promise<string> {
  const life = new AbortController()
  const headers = { accept: 'text/event-stream', 'last-event-id': id }
  const response = await fetch(`${url}/v1/channels/c/events`, { headers, signal: life.signal })
  let text = ''
  for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
    text += chunk
    const message = text.split('\n\n').find((it) => it.includes('event: ') || it.includes('data: '))
    if (message !== undefined && text.includes(`${message}\n\n`)) return message
  }
  return text
}

/** A follower through the client, and everything that it was given. */
function follow(url: string): { items: Item[]; states: string[]; until(what: () => boolean): Promise<void> } {
  const tidemark = connect(url)
  const [items, states]: [Item[], string[]] = [[], []]
  tidemark.onState((state) => states.push(state))
  let looked = (): void => {}
  const run = (async () => {
    for await (const item of tidemark.channel('c').followItems({ after: 0 })) {
      items.push(item)
      looked()
    }
  })()
  onTestFinished(async () => {
    await tidemark.close()
    await run
  })
  const until = async (what: () => boolean): Promise<void> => {
    while (!what())
      await new Promise<void>((resolve) => {
        looked = resolve
      })
  }
  return { items, states, until }
}

describe('readers of a restored log', () => {
  test('hear reset over every door: from a snapshot of the whole disk beyond its head, from an accepted copy anywhere', {
    timeout: 60_000,
  }, async () => {
    const [data, old] = [`${tempDir()}/log`, `${tempDir()}/old`]
    const it = server(data)
    await it.start()
    await post(it.url, 30)
    await it.kill()
    copy(data, old)
    await it.start()
    const { epoch, last } = await post(it.url, 10)
    expect(last).toBe(40)
    const { items, until } = follow(it.url)
    await until(() => items.some((item) => item.is === 'events' && item.last === 40))

    await it.kill()
    writeBack(old, data)
    await it.start()
    await until(() => items.some(({ is }) => is === 'reset'))
    expect(items.find(({ is }) => is === 'reset')).toMatchObject({ epoch, head: 30 })
    expect(await firstMessage(it.url, `${epoch}:40`)).toContain('event: tidemark.reset')
    expect(await firstMessage(it.url, `${epoch}:30`)).toContain('event: tidemark.caughtup')
    for (const wait of ['', '&wait=50'])
      expect(await read(it.url, `after=40&epoch=${epoch}${wait}`)).toMatchObject({ code: 'ahead-of-head', head: 30 })

    await it.kill()
    rmSync(data, { recursive: true })
    copy(old, data)
    await expect(it.start()).rejects.toThrow('--accept-copy')
    await it.start('--accept-copy')
    await until(() => items.filter(({ is }) => is === 'reset').length === 2)
    const anew = items.findLast(({ is }) => is === 'reset')!
    expect(anew.epoch).not.toBe(epoch)
    for (const seq of [0, 30, 40]) {
      expect(await firstMessage(it.url, `${epoch}:${seq}`)).toContain('event: tidemark.reset')
      for (const wait of ['', '&wait=50'])
        expect(await read(it.url, `after=${seq}&epoch=${epoch}${wait}`)).toMatchObject({ code: 'epoch-changed' })
    }
    await until(() => items.findLast(({ is }) => is === 'events')?.epoch === anew.epoch)
  })
})

describe.skipIf(clock.missing() !== undefined)('a server whose clock jumps an hour', () => {
  test('keeps its sockets and polls, and times never fall', { timeout: 60_000 }, async () => {
    const time = clockIn(tempDir())
    const it = server(`${tempDir()}/log`, time.env)
    await it.start()
    await post(it.url, 1)
    const { items, states, until } = follow(it.url)
    await until(() => items.length > 0)
    const times: number[] = []
    for (const [i, seconds] of [3_600, 0, -3_600, 3_600, 7_200].entries()) {
      const after = i + 1
      const poll = read(it.url, `after=${after}&wait=50`)
      time.set(seconds)
      const { last } = await post(it.url, 1)
      expect(last).toBe(after + 1)
      // Nobody's wait was over before there was something.
      const { events } = (await poll) as { events: { seq: number; time: string }[] }
      expect(events).toMatchObject([{ seq: last }])
      times.push(Date.parse(events[0]!.time))
      await until(() => items.some((item) => item.is === 'events' && item.last === last))
    }
    expect(times).toEqual(times.toSorted((a, b) => a - b))
    // The clock did jump: an hour ahead, there while it went back, then another hour.
    expect(times[0]! - Date.now()).toBeGreaterThan(HOUR_MS / 2)
    expect(times[4]! - times[0]!).toBeGreaterThan(HOUR_MS / 2)
    expect(states.filter((state) => state !== 'connecting')).toEqual(['open'])
  })
})

test('a receipt is kept for its window though the clock jumped an hour ahead meanwhile, and over a restart', async () => {
  const start = Date.UTC(2040, 0, 1, 23, 59)
  vi.useFakeTimers({ toFake: ['Date'], now: start })
  onTestFinished(() => void vi.useRealTimers())
  const dir = tempDir()
  const opened = async (): Promise<Log> => {
    const log = await openLog({ dir })
    onTestFinished(() => log.close())
    return log
  }
  const send = (log: Log) => log.append([{ channel: 'c', body: body('once') }], { idempotencyKey: 'k' })
  const log = await opened()
  await send(log)
  // A minute less than the window, and the jump.
  vi.setSystemTime(start + log.about.idWindow - 60_000 + HOUR_MS)
  expect(await send(log)).toMatchObject([{ first: 1, duplicate: true }])
  await log.close()
  expect(await send(await opened())).toMatchObject([{ first: 1, duplicate: true }])
})
