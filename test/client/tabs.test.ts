/**
 * One poller per origin, in Chromium: tabs that have to poll share one waiting request. What is not rung is seen at the
 * next fallback, after 20 s at the soonest; everything here has to arrive sooner.
 */
import type { Browser, BrowserContext, Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { CHROMIUM, launch } from '../chromium.ts'
import { dice } from '../crash/dice.ts'
import { body, range, SEED } from '../parts.ts'
import { startTestServer, type TestServer } from '../server/serve.ts'
import { Cable } from './cable.ts'

const TABS = 8
const CHANNELS = range(1, 30).map((n) => `files/${n}`)
/** Less than the fallback of a tab that nobody rings, ms. */
const RUNG_MS = 15_000
/** What Chromium opens to one server over HTTP/1.1. */
const CONNECTIONS_MAX = 6

/** What a tab keeps for us. */
interface Tab {
  /** By channel, what came: seqs, and `reset` or `gap`. */
  told: Record<string, (number | string)[]>
  wrong: string[]
  state: string
  /** Requests of its own that the server holds. */
  waiting: number
  requests: number
}

interface Wish {
  readonly channels: readonly string[]
  /** It never gets a socket. */
  readonly isPolling?: boolean
}

/** Runs in the page, which was loaded from the server itself. */
function followInPage({ channels, isPolling }: Wish): void {
  const { Tidemark } = (globalThis as unknown as { client: typeof import('../../src/client/browser.ts') }).client
  const tab: Tab = { told: {}, wrong: [], state: 'idle', waiting: 0, requests: 0 }
  const counted: typeof fetch = async (...request) => {
    const waits = String(request[1]?.body).includes('"wait":25')
    tab.requests++
    if (waits) tab.waiting++
    try {
      return await fetch(...request)
    } finally {
      if (waits) tab.waiting--
    }
  }
  class NoSocket {
    constructor() {
      // biome-ignore lint/suspicious/noExplicitAny: as a browser's, refused
      setTimeout(() => (this as any).onclose?.({ code: 1006, reason: '' }))
    }
    close() {}
  }
  const tidemark = new Tidemark(location.origin, {
    fetch: counted,
    ...(isPolling && { WebSocket: NoSocket as never }),
  })
  tidemark.onState((state) => {
    tab.state = state
  })
  for (const channel of channels)
    void (async () => {
      const told: (number | string)[] = []
      tab.told[channel] = told
      for await (const item of tidemark.channel(channel).followItems())
        if (item.is === 'events') told.push(...item.events.map(({ seq }) => seq))
        else if (item.is !== 'caughtup') told.push(item.is)
    })().catch((error) => tab.wrong.push(`${channel}: ${error}`))
  Object.assign(globalThis, { tab, tidemark })
}

describe.skipIf(!CHROMIUM)('tabs of one origin', () => {
  let browser: Browser
  beforeAll(async () => {
    browser = await launch()
  })
  afterAll(() => browser?.close())

  async function begin(): Promise<{ server: TestServer; cable: Cable; context: BrowserContext }> {
    const server = await startTestServer({ retryWindow: 20 })
    const cable = await Cable.start(server.port)
    const context = await browser.newContext()
    onTestFinished(() => context.close())
    return { server, cable, context }
  }

  async function open(context: BrowserContext, url: string, wish: Wish): Promise<Page> {
    const page = await context.newPage()
    await page.goto(`${url}/livez`)
    // As text: the test's compiler has an import of its own.
    await page.evaluate("import('/client.js').then((client) => Object.assign(globalThis, { client }) && null)")
    await page.evaluate(followInPage, wish)
    return page
  }

  const tabOf = (page: Page): Promise<Tab> => page.evaluate('globalThis.tab') as Promise<Tab>

  /** Resolves when it holds; throws with what it saw last when it would have needed a fallback. */
  async function until<T>(what: string, look: () => Promise<T>, holds: (seen: T) => boolean): Promise<T> {
    const end = Date.now() + RUNG_MS
    for (;;) {
      const seen = await look()
      if (holds(seen)) return seen
      if (Date.now() > end) throw new Error(`${what}: not within ${RUNG_MS} ms, but ${JSON.stringify(seen)}`)
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
  }

  /** Waits until a tab was told this of a channel, and nothing else. */
  const told = (page: Page, channel: string, expected: readonly (number | string)[]): Promise<unknown> =>
    until(
      `${channel} in a tab`,
      async () => (await tabOf(page)).told[channel] ?? [],
      (seen) => JSON.stringify(seen) === JSON.stringify(expected),
    )

  const press = (url: string, on: boolean): Promise<unknown> =>
    fetch(`${url}/v1/admin/streamer`, {
      method: 'PUT',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ on }),
    })

  /** Waiting polls, as the server counts them. */
  const waiting = async (url: string): Promise<number> =>
    ((await (await fetch(`${url}/v1/admin/figures`)).json()) as { followers: { poll: number } }).followers.poll

  const leaderOf = (pages: readonly Page[]): Promise<Page> =>
    until(
      'one waiting tab',
      async () => (await Promise.all(pages.map(tabOf))).map(({ waiting }) => waiting),
      (seen) => seen.filter((count) => count > 0).length === 1,
    ).then((seen) => pages[seen.findIndex((count) => count > 0)]!)

  test(`${TABS} tabs follow ${CHANNELS.length} channels with one waiting request; appends and page loads are answered meanwhile`, async () => {
    const { server, cable, context } = await begin()
    const { url, log } = server
    await press(url, false)
    for (const channel of CHANNELS) await log.append([{ channel, body: body(1) }])
    const pages: Page[] = []
    for (const _ of range(1, TABS)) pages.push(await open(context, cable.url, { channels: CHANNELS }))
    for (const page of pages) for (const channel of CHANNELS) await told(page, channel, [1])
    await until(
      'waiting polls',
      () => waiting(url),
      (count) => count === 1,
    )
    const leader = await leaderOf(pages)
    const before = (await Promise.all(pages.map(tabOf))).reduce((sum, { requests }) => sum + requests, 0)

    const visitor = await context.newPage()
    const took: number[] = []
    let most = cable.connections
    const writer = pages.find((page) => page !== leader)!
    for (const n of range(2, 21)) {
      expect(await waiting(url)).toBeLessThanOrEqual(1)
      const channel = CHANNELS[n % CHANNELS.length]!
      const start = performance.now()
      await writer.evaluate(
        ([name, data]) =>
          (Reflect.get(globalThis, 'tidemark') as import('../../src/client/browser.ts').Tidemark)
            .channel(name as string)
            .append({ data }) as Promise<unknown>,
        [channel, n],
      )
      most = Math.max(most, cable.connections)
      await visitor.goto(`${cable.url}/livez?${n}`.replace('?', '#'), { timeout: RUNG_MS })
      await visitor.reload({ timeout: RUNG_MS })
      took.push(performance.now() - start)
      for (const page of pages) await told(page, channel, [1, 2])
      most = Math.max(most, cable.connections)
    }
    await until(
      'waiting polls',
      () => waiting(url),
      (count) => count === 1,
    )
    const tabs = await Promise.all(pages.map(tabOf))
    console.log(
      `${TABS} tabs, ${CHANNELS.length} channels, streamer off: at most ${most} connections, ${await waiting(url)} waiting request; ` +
        `20 appends with a page load each, ${Math.max(...took).toFixed(0)} ms at most; ` +
        `${tabs.reduce((sum, { requests }) => sum + requests, 0) - before} requests for 20 events in ${TABS} tabs`,
    )
    expect(tabs.flatMap(({ wrong }) => wrong)).toEqual([])
    expect(most).toBeLessThanOrEqual(CONNECTIONS_MAX)
  }, 120_000)

  test('the leader is closed amid appends, ten times: every tab has each event once, in order, and sooner than a fallback', async () => {
    const random = dice(SEED)
    console.log(`seed ${SEED}`)
    const { server, cable, context } = await begin()
    const { url, log } = server
    await press(url, false)
    const names = CHANNELS.slice(0, 6)
    const heads = new Map(names.map((name) => [name, 0]))
    // Each its own channels; some are wanted by several, some by a tab that never leads.
    const wish = (): Wish => ({ channels: names.filter((_, i) => i === 0 || random(2) === 0) })
    const append = async (): Promise<void> => {
      const channel = names[random(names.length)]!
      const [first, last] = [heads.get(channel)! + 1, heads.get(channel)! + 1 + random(3)]
      heads.set(channel, last)
      await log.append([{ channel, body: body(...range(first, last)) }])
    }
    let tabs: { page: Page; channels: readonly string[] }[] = []
    const join = async (): Promise<void> => {
      const { channels } = wish()
      tabs.push({ page: await open(context, cable.url, { channels }), channels })
    }
    for (const _ of range(1, 4)) await join()
    for (const _ of range(1, 10)) {
      for (const _ of range(1, 5)) await append()
      const leader = await leaderOf(tabs.map(({ page }) => page))
      await append()
      await Promise.all([leader.close(), append().then(append)])
      tabs = tabs.filter(({ page }) => page !== leader)
      await append()
      const joining = join()
      for (const _ of range(1, 5)) await append()
      await joining
      for (const { page, channels } of tabs)
        for (const channel of channels) await told(page, channel, range(1, heads.get(channel)!))
    }
    expect((await Promise.all(tabs.map(({ page }) => tabOf(page)))).flatMap(({ wrong }) => wrong)).toEqual([])
  }, 240_000)

  test('a tab that was asking while another one began to lead is rung by that one', async () => {
    const { server, cable, context } = await begin()
    const { url, log } = server
    await press(url, false)
    for (const channel of ['a', 'b']) await log.append([{ channel, body: body(1) }])
    const first = await open(context, cable.url, { channels: ['a'] })
    await leaderOf([first])
    const second = await open(context, cable.url, { channels: ['a'] })
    await told(second, 'a', [1])
    const third = await open(context, cable.url, { channels: ['b'] })
    await told(third, 'b', [1])
    let asked = false
    let goOn = (): void => {}
    const held = new Promise<void>((resolve) => {
      goOn = resolve
    })
    await third.route('**/v1/poll', async (route) => {
      asked = true
      await held
      await route.continue()
    })
    await log.append([{ channel: 'b', body: body(2) }])
    await expect.poll(() => asked, { timeout: RUNG_MS }).toBe(true)
    await first.close()
    await leaderOf([second])
    goOn()
    await told(third, 'b', [1, 2])
    await log.append([{ channel: 'b', body: body(3) }])
    await told(third, 'b', [1, 2, 3])
  }, 120_000)

  test('a channel that the leader does not follow, and another history of it, are rung', async () => {
    const { server, cable, context } = await begin()
    const { url, log } = server
    await press(url, false)
    await log.append([{ channel: 'a', body: body(1) }])
    await log.append([{ channel: 'b', body: body(...range(1, 5)) }])
    const first = await open(context, cable.url, { channels: ['a'] })
    await told(first, 'a', [1])
    await leaderOf([first])
    const second = await open(context, cable.url, { channels: ['b', 'none'] })
    await told(second, 'b', range(1, 5))
    for (const n of range(6, 15)) {
      await log.append([{ channel: 'b', body: body(n) }])
      await told(second, 'b', range(1, n))
    }
    await log.append([{ channel: 'none', body: body(1) }])
    await told(second, 'none', [1])
    expect((await tabOf(second)).waiting).toBe(0)
    await log.delete('b')
    await log.append([{ channel: 'b', body: body(1, 2) }])
    await until(
      'the new history',
      async () => (await tabOf(second)).told.b!.slice(15).filter((one) => one !== 'reset'),
      (seen) => seen.join() === '1,2',
    )
    expect((await tabOf(second)).told.b).toContain('reset')
  }, 60_000)

  test('what comes after a tab reached its head, and before the leader heard of it, is rung', async () => {
    const { server, cable, context } = await begin()
    const { url, log } = server
    await press(url, false)
    await log.append([{ channel: 'a', body: body(1) }])
    const first = await open(context, cable.url, { channels: ['a'] })
    await told(first, 'a', [1])
    await leaderOf([first])
    // What the second tab says is held back until the leader knows more than the second tab.
    await context.addInitScript(() => {
      const held: [BroadcastChannel, unknown][] = []
      const { postMessage } = BroadcastChannel.prototype
      BroadcastChannel.prototype.postMessage = function (message) {
        held.push([this, message])
      }
      const release = (): void => {
        BroadcastChannel.prototype.postMessage = postMessage
        for (const [channel, message] of held) channel.postMessage(message)
      }
      Object.assign(globalThis, { held, release })
    })
    const second = await open(context, cable.url, { channels: ['a'] })
    await told(second, 'a', [1])
    await until(
      'what it wants',
      () => second.evaluate('globalThis.held.length') as Promise<number>,
      (count) => count > 0,
    )
    await log.append([{ channel: 'a', body: body(2) }])
    await told(first, 'a', [1, 2])
    expect((await tabOf(second)).told.a).toEqual([1])
    await second.evaluate('globalThis.release()')
    await told(second, 'a', [1, 2])
  }, 60_000)

  test('a leader that got a socket leaves its place to one that has none', async () => {
    const { server, cable, context } = await begin()
    const { url, log } = server
    await press(url, false)
    const first = await open(context, cable.url, { channels: ['a'] })
    await leaderOf([first])
    const second = await open(context, cable.url, { channels: ['b'], isPolling: true })
    await log.append([{ channel: 'b', body: body(1) }])
    await told(second, 'b', [1])
    await press(url, true)
    await until(
      'the socket',
      () => tabOf(first),
      ({ state }) => state === 'open',
    )
    await leaderOf([first, second])
    expect((await tabOf(second)).waiting).toBe(1)
    await log.append([{ channel: 'b', body: body(2) }])
    await told(second, 'b', [1, 2])
  }, 60_000)

  test('each tab hears of the switch, whatever was on its way when it was turned', async () => {
    const random = dice(SEED)
    console.log(`seed ${SEED}`)
    const { server, cable, context } = await begin()
    const { url, log } = server
    // What goes out and what comes back takes its time.
    await context.addInitScript((most) => {
      const plain = globalThis.fetch
      const late = () => new Promise((resolve) => setTimeout(resolve, Math.random() * most))
      globalThis.fetch = async (...request) => {
        await late()
        const response = await plain(...request)
        await late()
        return response
      }
    }, 60)
    await press(url, false)
    const pages: Page[] = []
    for (const channels of [['a'], ['a', 'b'], ['b']]) pages.push(await open(context, cable.url, { channels }))
    for (const n of range(1, 8)) {
      await press(url, false)
      for (const page of pages)
        await until(
          'polls',
          () => tabOf(page),
          ({ state }) => state === 'polling',
        )
      if (random(3) > 0) await leaderOf(pages)
      await Promise.all([
        log.append([{ channel: n % 2 ? 'a' : 'b', body: body(n) }]),
        new Promise((resolve) => setTimeout(resolve, random(60))).then(() => press(url, true)),
      ])
      for (const page of pages)
        await until(
          'the socket',
          () => tabOf(page),
          ({ state }) => state === 'open',
        )
    }
    await told(pages[1]!, 'a', range(1, 4))
    await told(pages[1]!, 'b', range(1, 4))
  }, 240_000)
})
