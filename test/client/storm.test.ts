/**
 * Ten storms in Node and three in Chromium; `SEAM_RUNS=200` for the long tier (as many in Node, a tenth in Chromium).
 */
import type { Browser } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { CHROMIUM, launch } from '../chromium.ts'
import { range, SEED } from '../parts.ts'
import { CHANNEL_NAMES, CLIENT, EVENTS, type Follow, inNode, storm } from './storm.ts'

const LONG = Number(process.env.SEAM_RUNS ?? 0)
const NODE_RUNS = LONG || 10
const PAGE_RUNS = LONG ? Math.ceil(LONG / 10) : 3
/** Of each, ms: a machine that does much else takes so long. */
const RUN_MS = 60_000
/** Storms that run side by side. */
const AT_ONCE = 5

async function runs(count: number, first: number, follow: Follow): Promise<void> {
  const all = { cuts: 0, switches: 0, kills: 0 }
  const seeds = range(first, first + count - 1)
  const run = async (): Promise<void> => {
    for (let seed = seeds.shift(); seed !== undefined; seed = seeds.shift())
      try {
        const { cuts, switches, kills } = await storm(seed, follow)
        all.cuts += cuts
        all.switches += switches
        all.kills += kills
      } catch (error) {
        console.log(`seed ${seed} fails: TEST_SEED=${seed} SEAM_RUNS=1`)
        throw error
      }
  }
  // Most of a storm is waiting, for a server that starts or for a client that rests.
  await Promise.all(range(1, AT_ONCE).map(run))
  const { cuts, switches, kills } = all
  console.log(
    `seed ${first}: ${count} storms of ${EVENTS} events: ${cuts} cuts, ${switches} switches, ${kills} kills; each event once, in order`,
  )
  expect(kills).toBeGreaterThanOrEqual(count)
}

test(
  `${NODE_RUNS} storms: nothing is missed, doubled, reordered or committed ahead, in Node`,
  () => runs(NODE_RUNS, SEED, inNode),
  RUN_MS * Math.max(2, NODE_RUNS),
)

/** Client name, subprotocol, channels. */
type Asked = [string, 'json' | 'msgpack', readonly string[]]

/** What the page keeps for us. */
interface PageState {
  handled: Record<string, number>
  wrong: string[]
  hold(still: boolean, after: number): void
  close(): Promise<void>
}

/** Runs in the page, which was loaded from the server itself. */
async function followInPage([client, subprotocol, channels]: Asked): Promise<void> {
  const { Tidemark } = (globalThis as unknown as { client: typeof import('../../src/client/browser.ts') }).client
  const tidemark = new Tidemark(location.origin, { client, subprotocol })
  const handled: Record<string, number> = {}
  const wrong: string[] = []
  const passes = new Map<string, number>()
  let still: Promise<void> | undefined
  let goOn: (() => void) | undefined
  const hold = (wanted: boolean, after: number): void => {
    goOn?.()
    for (const channel of channels) passes.set(channel, after)
    still = wanted
      ? new Promise((resolve) => {
          goOn = resolve
        })
      : undefined
  }
  const follow = async (channel: string): Promise<void> => {
    handled[channel] = 0
    for await (const { seq, data } of tidemark.channel(channel).follow({ cursor: true })) {
      if (seq !== handled[channel]! + 1 || data !== seq) wrong.push(`${channel}: ${seq} after ${handled[channel]}`)
      if (still && (passes.get(channel) ?? 0) <= 0) await still
      passes.set(channel, (passes.get(channel) ?? 0) - 1)
      handled[channel] = seq
    }
  }
  for (const channel of channels) follow(channel).catch((error) => wrong.push(String(error)))
  Object.assign(globalThis, { followers: { handled, wrong, hold, close: () => tidemark.close() } satisfies PageState })
}

describe.skipIf(!CHROMIUM)('in Chromium', () => {
  let browser: Browser
  beforeAll(async () => {
    browser = await launch()
  })
  afterAll(() => browser?.close())

  const inPage: Follow = async (url, random) => {
    const page = await browser.newPage()
    onTestFinished(() => page.close())
    await page.goto(`${url}/livez`)
    // As text: the test's compiler has an import of its own.
    await page.evaluate("import('/client.js').then((client) => Object.assign(globalThis, { client }) && null)")
    const subprotocol = random(2) === 0 ? 'json' : 'msgpack'
    await page.evaluate(followInPage, [CLIENT, subprotocol, CHANNEL_NAMES] as Asked)
    const state = <T>(read: (state: PageState) => T): Promise<T> =>
      page.evaluate(`(${read})(globalThis.followers)`) as Promise<T>
    return {
      handled: () => state(({ handled }) => ({ ...handled })),
      hold: (still, after) =>
        page.evaluate((asked) => Reflect.get(globalThis, 'followers').hold(...asked), [still, after] as const),
      wrong: () => state(({ wrong }) => wrong),
      close: async () => {
        await state((followers) => followers.close())
        await page.close()
      },
    }
  }

  test(
    `${PAGE_RUNS} storms: nothing is missed, doubled, reordered or committed ahead, in a page`,
    () => runs(PAGE_RUNS, SEED + 1_000_000, inPage),
    RUN_MS * Math.max(2, PAGE_RUNS),
  )
})
