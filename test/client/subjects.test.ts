/**
 * Tabs of one origin whose tokens are of different subjects, in Chromium: what is addressed to one of them alone rings
 * for that one, and tabs of one subject share one waiting poll whatever tokens they have.
 */
import type { Browser, BrowserContext, Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { encodeBody } from '../../src/body.ts'
import { CHROMIUM, launch } from '../chromium.ts'
import { event, range } from '../parts.ts'
import { startGuarded } from '../server/guarded.ts'

const CHANNEL = 'orders/1'
/** Less than the fallback of a tab that nobody rings, ms. */
const RUNG_MS = 15_000

/** Runs in the page. */
function followInPage(channel: string): void {
  // biome-ignore lint/suspicious/noExplicitAny: what the page imported
  const { client, tokenOfPage } = globalThis as any
  const seqs: number[] = []
  const tidemark = new client.Tidemark(location.origin, { token: tokenOfPage })
  tidemark.channel(channel).follow({}, ({ seq }: { seq: number }) => seqs.push(seq))
  Object.assign(globalThis, { seqs })
}

describe.skipIf(!CHROMIUM)('tabs of different subjects', () => {
  let browser: Browser
  beforeAll(async () => {
    browser = await launch()
  })
  afterAll(() => browser?.close())

  async function open(context: BrowserContext, url: string, token: () => Promise<string>): Promise<Page> {
    const page = await context.newPage()
    await page.exposeFunction('tokenOfPage', token)
    await page.goto(`${url}/livez`)
    // As text: the test's compiler has an import of its own.
    await page.evaluate("import('/client.js').then((client) => Object.assign(globalThis, { client }) && null)")
    await page.evaluate(followInPage, CHANNEL)
    return page
  }

  test('what is addressed to one of them rings for that one', { timeout: 120_000 }, async () => {
    const server = await startGuarded()
    const { url, log } = server
    const asAdmin = { ...server.headers('admin'), 'content-type': 'application/json' }
    await fetch(`${url}/v1/admin/streamer`, { method: 'PUT', headers: asAdmin, body: '{"on":false}' })
    const waiting = async (): Promise<number> => {
      const figures = await fetch(`${url}/v1/admin/figures`, { headers: asAdmin })
      return ((await figures.json()) as { followers: { poll: number } }).followers.poll
    }
    const append = (user: string) =>
      log.append([{ channel: CHANNEL, body: encodeBody([event(1, { to: { users: [user], groups: [] } })]) }])
    const rung = (look: () => unknown) => expect.poll(look, { timeout: RUNG_MS })
    const context = await browser.newContext()
    onTestFinished(() => context.close())
    let lives = 600
    // A token of its own at each call.
    const tokenOf = (sub: string) => () => server.token(sub, undefined, undefined, lives++)
    const anna = await open(context, url, tokenOf('anna'))
    await rung(waiting).toBe(1)
    const bert = await open(context, url, tokenOf('bert'))
    const again = await open(context, url, tokenOf('anna'))
    const came = (page: Page) => () => page.evaluate('globalThis.seqs')
    for (const n of range(1, 5)) {
      // Whoever leads for anna is told nothing of it.
      await append('bert')
      await rung(came(bert)).toEqual(range(1, n).map((i) => 2 * i - 1))
      await append('anna')
      for (const page of [anna, again]) await rung(came(page)).toEqual(range(1, n).map((i) => 2 * i))
    }
    await rung(waiting).toBe(2)
    const names = (await anna.evaluate(
      'navigator.locks.query().then(({ held }) => held.map(({ name }) => name))',
    )) as string[]
    expect(new Set(names).size).toBe(2)
    for (const name of names) expect(name).toMatch(/^tidemark\/1 http:\S+\/v1\/ [0-9a-f]{16}$/)
  })
})
