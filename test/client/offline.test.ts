/** A page that is offline for a while, in Chromium: two clients of it, whose tokens come over the same network. */
import type { Browser } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { CHROMIUM, launch } from '../chromium.ts'
import { body, range } from '../parts.ts'
import { startGuarded } from '../server/guarded.ts'
import { Cable } from './cable.ts'

const CHANNEL = 'orders/1'
/** Of a token, seconds: it ends while the page is offline. */
const SECONDS = 3

/** Runs in the page. */
function followInPage(channel: string): void {
  // biome-ignore lint/suspicious/noExplicitAny: what the page imported
  const page = globalThis as any
  const clients = [0, 1].map((n) => {
    const told = { seqs: [] as number[], states: [] as string[], wrong: [] as string[], appended: 0, failed: 0 }
    const tidemark = new page.client.Tidemark(location.origin, {
      client: `tab-${n}`,
      token: async () => {
        try {
          return await (await fetch('/livez')).text().then(() => page.tokenOfPage())
        } catch (error) {
          told.failed++
          throw error
        }
      },
    })
    tidemark.onState((state: string) => told.states.push(state))
    const stop = (error: unknown) => told.wrong.push(String(error))
    tidemark
      .channel(channel)
      .follow({ cursor: true }, ({ seq }: { seq: number }) => told.seqs.push(seq))
      .catch(stop)
    page.appendTo = (data: number) =>
      tidemark
        .channel(`${channel}/own`)
        .append({ data })
        .then(() => told.appended++)
        .catch(stop)
    return told
  })
  Object.assign(globalThis, { clients })
}

describe.skipIf(!CHROMIUM)('offline', () => {
  let browser: Browser
  beforeAll(async () => {
    browser = await launch()
  })
  afterAll(() => browser?.close())

  test('what came meanwhile comes once, in order, and what was appended is there', { timeout: 120_000 }, async () => {
    const server = await startGuarded()
    const cable = await Cable.start(server.port)
    const context = await browser.newContext()
    onTestFinished(() => context.close())
    const page = await context.newPage()
    const errors: string[] = []
    page.on('pageerror', ({ message }) => errors.push(message))
    await page.exposeFunction('tokenOfPage', () => server.token('anna', undefined, undefined, SECONDS))
    await page.goto(`${cable.url}/livez`)
    // As text: the test's compiler has an import of its own.
    await page.evaluate("import('/client.js').then((client) => Object.assign(globalThis, { client }) && null)")
    await page.evaluate(followInPage, CHANNEL)
    interface Told {
      readonly seqs: number[]
      readonly states: string[]
      readonly wrong: string[]
      readonly appended: number
      readonly failed: number
    }
    const clients = () => page.evaluate('globalThis.clients') as Promise<Told[]>
    const both = <T>(what: (told: Told) => T) =>
      expect.poll(async () => (await clients()).map(what), { timeout: 60_000 })
    await server.log.append([{ channel: CHANNEL, body: body(...range(1, 5)) }])
    await both(({ seqs }) => seqs).toEqual([range(1, 5), range(1, 5)])

    // The socket still stands when its token is to be renewed, and nobody gives one.
    await page.route('**/livez', (route) => route.abort())
    await both(({ failed }) => failed > 0).toEqual([true, true])
    await context.setOffline(true)
    cable.target = 0
    cable.cut()
    // Not waited for: its answer comes when the page is online again.
    await page.evaluate('void appendTo(1)')
    await server.log.append([{ channel: CHANNEL, body: body(...range(6, 9)) }])
    await both(({ failed }) => failed > 2).toEqual([true, true])
    await both(({ states }) => states.includes('waiting')).toEqual([true, true])

    cable.target = server.port
    await page.unroute('**/livez')
    await context.setOffline(false)
    await both(({ seqs }) => seqs).toEqual([range(1, 9), range(1, 9)])
    await both(({ appended }) => appended).toEqual([0, 1])
    expect((await clients()).flatMap(({ wrong }) => wrong)).toEqual([])
    expect(errors).toEqual([])
    expect((await server.log.info(`${CHANNEL}/own`)).head).toBe(1)
  })
})
