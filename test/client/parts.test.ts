/** Parts of the client that do not come at once, in Chromium: appends keep their order, and polls come in the end. */
import type { Browser, Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { encodeBody } from '../../src/body.ts'
import { CHROMIUM, launch } from '../chromium.ts'
import { event, range } from '../parts.ts'
import { startTestServer, type TestServer } from '../server/serve.ts'

/** Tries of a part that fail. */
const FAILING = 3

describe.skipIf(!CHROMIUM)('parts', () => {
  let browser: Browser
  beforeAll(async () => {
    browser = await launch()
  })
  afterAll(() => browser?.close())

  /** A page to which a part does not come so often; the addresses by which it asked. */
  async function open(part: string): Promise<{ server: TestServer; page: Page; asked: string[] }> {
    const server = await startTestServer()
    const page = await browser.newPage()
    onTestFinished(() => page.close())
    const asked: string[] = []
    await page.route(`**/client-${part}.js*`, (route) => {
      asked.push(new URL(route.request().url()).search)
      return asked.length > FAILING ? route.continue() : route.abort()
    })
    await page.goto(`${server.url}/livez`)
    await page.evaluate("import('/client.js').then((client) => Object.assign(globalThis, { client }) && null)")
    return { server, page, asked }
  }

  /** The seq of the first event of a channel, for a page that gets no socket. */
  async function firstByPoll(page: Page): Promise<number> {
    return page.evaluate(async () => {
      class NoSocket {
        constructor() {
          // biome-ignore lint/suspicious/noExplicitAny: as a browser's, refused
          setTimeout(() => (this as any).onclose?.({ code: 1006, reason: '' }))
        }
        close() {}
      }
      // biome-ignore lint/suspicious/noExplicitAny: what the page imported
      const tidemark = new (globalThis as any).client.Tidemark(location.origin, { WebSocket: NoSocket })
      for await (const event of tidemark.channel('a').follow()) return event.seq
    })
  }

  test('appends wait for the part that sends them: none is lost or doubled, and they keep their order', async () => {
    const { server, page, asked } = await open('append')
    const seqs = await page.evaluate(async () => {
      // biome-ignore lint/suspicious/noExplicitAny: what the page imported
      const tidemark = new (globalThis as any).client.Tidemark(location.origin)
      const gone = new AbortController()
      const given = tidemark.channel('a').append({ data: 'given up' }, { signal: gone.signal })
      gone.abort()
      await given.catch(() => {})
      const event = { data: 0 }
      const answers = Array.from({ length: 100 }, (_, i) => {
        // As it is now, whatever becomes of the object.
        event.data = i + 1
        return tidemark.channel('a').append(event)
      })
      return Promise.all(answers.map(async (answer) => (await answer).first))
    })
    expect(seqs).toEqual(range(1, 100))
    const { events } = (await (await fetch(`${server.url}/v1/channels/a/events?limit=1000`)).json()) as {
      events: { data: number }[]
    }
    expect(events.map(({ data }) => data)).toEqual(range(1, 100))
    expect(asked.length).toBeGreaterThan(FAILING)
    expect(new Set(asked.slice(1)).size).toBeGreaterThan(1)
  })

  test('a page that has to poll follows as soon as the part that polls has come', async () => {
    const { server, page, asked } = await open('poll')
    await server.log.append([{ channel: 'a', body: encodeBody([event(1)]) }])
    expect(await firstByPoll(page)).toBe(1)
    expect(asked.length).toBeGreaterThan(FAILING)
  })

  test('a part that came by another address is asked for no more', async () => {
    const { page, asked } = await open('poll')
    // As a browser that remembers by its address that a file failed.
    await page.route('**/client-poll.js', (route) => {
      asked.push('')
      return route.abort()
    })
    await page.evaluate(async () => {
      // biome-ignore lint/suspicious/noExplicitAny: what the page imported
      const tidemark = new (globalThis as any).client.Tidemark(location.origin)
      for (let i = 0; i < 20; i++)
        await tidemark
          .channel('a')
          .read()
          .catch(() => {})
    })
    expect(asked.length).toBeLessThanOrEqual(2 * (FAILING + 1))
  })

  test('a page that has the client from an address with a query waits out what passes, as any other', async () => {
    const { server, page } = await open('none')
    await server.log.append([{ channel: 'a', body: encodeBody([event(1)]) }])
    let refused = 0
    await page.route('**/v1/poll', (route) =>
      ++refused > 2 ? route.continue() : route.fulfill({ status: 502, body: '<html>bad gateway</html>' }),
    )
    // As a host of files gives it, for which a query is none of its business.
    await page.route('**/client.js?v=2', async (route) =>
      route.fulfill({ response: await route.fetch({ url: `${server.url}/client.js` }) }),
    )
    await page.evaluate("import('/client.js?v=2').then((client) => Object.assign(globalThis, { client }) && null)")
    expect(await firstByPoll(page)).toBe(1)
    expect(refused).toBeGreaterThan(2)
  })

  test("a listener that throws is told as the page's own error, and nothing else stops", async () => {
    const { server, page } = await open('none')
    const errors: string[] = []
    page.on('pageerror', ({ message }) => errors.push(message))
    await server.log.append([{ channel: 'a', body: encodeBody([event(1)]) }])
    const states = await page.evaluate(async () => {
      // biome-ignore lint/suspicious/noExplicitAny: what the page imported
      const tidemark = new (globalThis as any).client.Tidemark(location.origin)
      const states: string[] = []
      tidemark.onState((state: string) => {
        throw new Error(`told ${state}`)
      })
      tidemark.onState((state: string) => states.push(state))
      for await (const _ of tidemark.channel('a').follow()) break
      await tidemark.close()
      return states
    })
    expect(states).toEqual(['connecting', 'open', 'closed'])
    await expect.poll(() => errors).toEqual(['told connecting', 'told open', 'told closed'])
  })
})
