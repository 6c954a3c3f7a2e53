/** The live folder as its reader has it: the real program, real files, real Chromium. */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import type { Browser, Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { CHROMIUM, launch } from '../chromium.ts'
import { SEED, tempDir } from '../parts.ts'
import { disturb, onDisk, plant, randomFrom } from './disk.ts'
import { Program, type Surroundings, serving } from './program.ts'

/** How long requests are counted in each mode, ms; the figures of the record: `DEMO_SECONDS=60 npx vitest run … test/tools/demo.test.ts`. */
const WINDOW_MS = Number(process.env.DEMO_SECONDS ?? 2) * 1_000
/** How long the last change may take to reach the page, ms. */
const SETTLED_MS = 10_000

interface Demo extends Program {
  readonly url: string
  /** The server below it. */
  readonly server: string
}

const demo = (args: readonly string[], options: Surroundings = {}) =>
  new Program(args, { program: 'tools/demo/demo.js', ...options })

async function showing(folder: string, ...args: string[]): Promise<Demo> {
  // It is killed at the end, so what it makes for itself has to be ours to remove.
  const program = demo([folder, ...args], { env: { TMPDIR: tempDir() } })
  const url = await program.until(() => /: (http:\S+)$/m.exec(program.out)?.[1])
  return Object.assign(program, { url, server: /serving (http:\/\/[\w.:]+)/.exec(program.err)![1]! })
}

/** What the browser's network log holds of calls to the server: their kinds and how many. */
interface Traffic {
  sockets: number
  polls: number
  preflights: number
  others: number
}

const NONE: Traffic = { sockets: 0, polls: 0, preflights: 0, others: 0 }

async function trafficOf(page: Page): Promise<Traffic> {
  const traffic: Traffic = { ...NONE }
  const network = await page.context().newCDPSession(page)
  await network.send('Network.enable')
  network.on('Network.webSocketCreated', () => void traffic.sockets++)
  network.on('Network.requestWillBeSent', ({ request }) => {
    if (!request.url.includes('/v1/')) return
    if (request.method === 'OPTIONS') traffic.preflights++
    else if (request.url.endsWith('/v1/poll')) traffic.polls++
    else traffic.others++
  })
  return traffic
}

async function during(traffic: Traffic, what: () => Promise<unknown>): Promise<Traffic> {
  const before = { ...traffic }
  await what()
  const since = (kind: keyof Traffic) => traffic[kind] - before[kind]
  return { sockets: since('sockets'), polls: since('polls'), preflights: since('preflights'), others: since('others') }
}

/** Opens every folder, and reads the rows: path → kind, size. */
async function told(page: Page): Promise<Map<string, string>> {
  await page.evaluate(async () => {
    for (;;) {
      const closed = document.querySelectorAll<HTMLElement>('[aria-expanded=false]:not([aria-hidden])')
      if (closed.length === 0) return
      for (const row of closed) row.click()
      await new Promise(requestAnimationFrame)
    }
  })
  const rows = await page.evaluate(() =>
    [...document.querySelectorAll<HTMLElement>('[role=treeitem]:not([aria-hidden])')].map(({ dataset, children }) => [
      dataset.path!,
      dataset.kind === 'file' ? `file ${children[2]!.textContent}` : dataset.kind!,
    ]),
  )
  return new Map((rows as [string, string][]).sort())
}

/** The same from the disk; files of these tests are smaller than a KiB. */
const truth = (folder: string): Map<string, string> =>
  new Map(
    [...onDisk(folder)]
      .map(([path, text]) => [path, text.split(' ')] as const)
      .map(([path, [kind, size]]) => [path, kind === 'file' ? `file ${size} B` : kind!] as const)
      .sort() as [string, string][],
  )

async function settled(page: Page, folder: string): Promise<void> {
  const until = Date.now() + SETTLED_MS
  for (;;) {
    const is = await told(page)
    const should = truth(folder)
    if (is.size === should.size && [...should].every(([path, text]) => is.get(path) === text)) return
    if (Date.now() > until) return expect(is).toEqual(should)
  }
}

const shown = (page: Page, what: string) => page.locator(`[data-shows=${what}]`)
const isTransport = (page: Page, transport: string): Promise<void> =>
  expect.poll(() => shown(page, 'transport').textContent(), { timeout: SETTLED_MS }).toBe(transport)

/** The strip tells what is so: each event once, the channel's head, the paths of the disk, what the network log holds. */
async function expectStrip(page: Page, traffic: Traffic, folder: string, server: string): Promise<void> {
  const counts = async () => {
    const numbers = ['seq', 'events', 'paths', 'requests', 'sockets'].map(async (what) => {
      const text = (await shown(page, what).textContent())!
      return [what, Number(text.replaceAll(/\D/g, ''))] as const
    })
    return Object.fromEntries(await Promise.all(numbers))
  }
  const should = async () => {
    const { head } = (await (await fetch(`${server}/v1/channels/files`)).json()) as { head: number }
    const requests = traffic.polls + traffic.others
    return { seq: head, events: head, paths: truth(folder).size, requests, sockets: traffic.sockets }
  }
  const wrong = async () => {
    const is = await counts()
    return Object.entries(await should())
      .filter(([what, number]) => is[what] !== number)
      .map(([what, number]) => `${what} ${is[what]}, not ${number}`)
  }
  await expect.poll(wrong, { timeout: SETTLED_MS }).toEqual([])
}

describe.skipIf(!CHROMIUM)('the live folder', () => {
  let browser: Browser
  beforeAll(async () => {
    browser = await launch()
  })
  afterAll(() => browser?.close())

  async function open(url: string): Promise<{ page: Page; traffic: Traffic; complaints: string[] }> {
    // Tall enough for every row: only what is in sight is in the document.
    const page = await browser.newPage({ viewport: { width: 1_000, height: 12_000 } })
    onTestFinished(() => page.close())
    const complaints: string[] = []
    page.on('pageerror', (error) => complaints.push(String(error)))
    page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()))
    const traffic = await trafficOf(page)
    await page.goto(url)
    return { page, traffic, complaints }
  }

  test(
    'is equal to the disk while files change and the streamer is switched; polls without it, one socket with it',
    async () => {
      console.log(`seed ${SEED}`)
      const random = randomFrom(SEED)
      const folder = tempDir()
      plant(folder, 80, random)
      mkdirSync(join(folder, 'moves', 'inner'), { recursive: true })
      writeFileSync(join(folder, 'moves', 'inner', 'leaf.txt'), 'leaf')
      writeFileSync(join(folder, 'grows.txt'), '1')
      writeFileSync(join(folder, '<img src=x onerror=alert(1)>'), 'no markup')
      const { url, server } = await showing(folder)
      const { page, traffic, complaints } = await open(url)
      const streamer = page.getByRole('switch', { name: 'Streamer' })

      await isTransport(page, 'WebSocket')
      await settled(page, folder)
      expect(traffic).toMatchObject({ sockets: 1, polls: 0 })
      await expectStrip(page, traffic, folder, server)

      // Without a reload: a row appears, one changes, a folder moves with what is open in it, one vanishes.
      await page.evaluate(() => Object.assign(document.body.dataset, { untouched: 'yes' }))
      writeFileSync(join(folder, 'new.txt'), 'new')
      writeFileSync(join(folder, 'grows.txt'), '12345')
      await settled(page, folder)
      const leaf = (of: string) => page.locator(`[role=treeitem][data-path="${of}/inner/leaf.txt"]`)
      const id = await leaf('moves').getAttribute('id')
      renameSync(join(folder, 'moves'), join(folder, 'moved'))
      await leaf('moved').waitFor({ timeout: SETTLED_MS })
      expect(await leaf('moved').getAttribute('id')).toBe(id)
      unlinkSync(join(folder, 'new.txt'))
      await settled(page, folder)
      renameSync(join(folder, 'grows.txt'), join(folder, 'grown.txt'))
      await page.getByText('grown.txt renamed from grows.txt').waitFor({ timeout: SETTLED_MS })
      renameSync(join(folder, 'grown.txt'), join(folder, 'grows.txt'))
      await settled(page, folder)

      const change = (name: string, text: string) => writeFileSync(join(folder, name), text)
      /** A change each second, so that there is something to ask for. */
      const rest = () => page.waitForTimeout(WINDOW_MS)
      const changing = async () => {
        for (let at = 0; at < WINDOW_MS; at += 1_000) {
          change('grows.txt', 'x'.repeat(at / 1_000 + 1))
          await page.waitForTimeout(1_000)
        }
      }
      const bySocket = { changing: await during(traffic, changing), rest: await during(traffic, rest) }
      expect(bySocket).toEqual({ changing: NONE, rest: NONE })

      /** Everything at once, before and after the press. */
      const press = async (on: boolean) => {
        for (let i = 0; i < 25; i++) disturb(folder, random, 20)
        await streamer.click()
        for (let i = 0; i < 25; i++) disturb(folder, random, 20)
        await isTransport(page, on ? 'WebSocket' : 'long poll')
        expect(await streamer.getAttribute('aria-checked')).toBe(String(on))
        await settled(page, folder)
      }
      await press(false)
      const byPoll = { changing: await during(traffic, changing), rest: await during(traffic, rest) }
      expect(byPoll.changing).toMatchObject({ sockets: 0, polls: expect.toSatisfy((polls: number) => polls > 0) })
      // One poll for each change; what the browser asks before the first one, it asks once.
      expect(byPoll.changing.polls).toBeLessThanOrEqual((WINDOW_MS / 1_000) * 2)
      expect(byPoll.changing.preflights).toBe(0)
      expect(await during(traffic, () => press(true))).toMatchObject({ sockets: 1 })
      await expectStrip(page, traffic, folder, server)
      expect(await page.evaluate(() => document.body.dataset.untouched)).toBe('yes')
      const seconds = WINDOW_MS / 1_000
      console.log(
        `network log, ${seconds} s with a change each second: on ${line(bySocket.changing)}; off ${line(byPoll.changing)}`,
      )
      console.log(`network log, ${seconds} s at rest: on ${line(bySocket.rest)}; off ${line(byPoll.rest)}`)

      // Whoever comes later sees the same.
      const later = await open(url)
      await isTransport(later.page, 'WebSocket')
      await settled(later.page, folder)
      // It begins with the newest event of each path, however much happened before.
      const number = async (what: string) =>
        Number((await shown(later.page, what).textContent())!.replaceAll(/\D/g, ''))
      expect(await number('events')).toBeLessThan(await number('seq'))
      expect([...complaints, ...later.complaints]).toEqual([])
    },
    40_000 + 5 * WINDOW_MS,
  )

  const line = ({ sockets, polls, preflights, others }: Traffic) =>
    `${polls} polls, ${sockets} sockets, ${preflights} preflights, ${others} others`

  test('keys open, close and go through the folder', async () => {
    const folder = tempDir()
    mkdirSync(join(folder, 'a', 'b'), { recursive: true })
    for (const name of ['a/b/c.txt', 'a/d.txt', 'e.txt']) writeFileSync(join(folder, name), name)
    const { url } = await showing(folder)
    const { page } = await open(url)
    await page.locator('[data-path="e.txt"]').waitFor()
    const tree = page.getByRole('tree')
    /** The rows from the top, and the active one. */
    const seen = (): string => {
      const rows = [...document.querySelectorAll<HTMLElement>('[role=treeitem]')]
      const top = (row: HTMLElement) => row.getBoundingClientRect().top
      const active = document.querySelector('[role=tree]')!.getAttribute('aria-activedescendant')!
      const paths = rows.sort((a, b) => top(a) - top(b)).map(({ dataset }) => dataset.path)
      return `${paths} at ${document.getElementById(active)?.dataset.path}`
    }
    const expectAfter = async (keys: string[], what: string): Promise<void> => {
      for (const key of keys) await tree.press(key)
      await expect.poll(() => page.evaluate(seen), { timeout: SETTLED_MS }).toBe(what)
    }
    await expectAfter(['Home'], 'a,e.txt at a')
    await expectAfter(['ArrowRight', 'ArrowDown'], 'a,a/b,a/d.txt,e.txt at a/b')
    await expectAfter(['*', 'ArrowRight'], 'a,a/b,a/b/c.txt,a/d.txt,e.txt at a/b/c.txt')
    await expectAfter(['ArrowLeft', 'ArrowLeft'], 'a,a/b,a/d.txt,e.txt at a/b')
    await expectAfter(['ArrowLeft', 'Enter'], 'a,e.txt at a')
    await expectAfter(['End'], 'a,e.txt at e.txt')
    await expectAfter(['a', 'Space'], 'a,a/b,a/d.txt,e.txt at a')
  })

  test('a page made of the snippet in the README shows events as they are appended', async () => {
    const readme = readFileSync(new URL('../../README.md', import.meta.url), 'utf8')
    const snippet = /```html\n(<!doctype html>[\s\S]*?)```/.exec(readme)![1]!
    const site = createServer((_, res) => res.setHeader('content-type', 'text/html').end(snippet))
    await new Promise<void>((resolve) => site.listen(0, '127.0.0.1', resolve))
    onTestFinished(() => void site.close())
    const { port } = site.address() as AddressInfo
    const origin = /--origin (http:\/\/[\w.:]+)/.exec(readme)![1]!
    const server = await serving(['--origin', origin])
    const append = (data: unknown) =>
      fetch(`${server.url}/v1/channels/orders/events`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ type: 'order.placed', data }),
      })
    await append({ total: 42 })
    // The addresses stay as they are written; the browser finds them at our ports.
    const mapped = await launch(
      `--host-resolver-rules=MAP ${new URL(origin).host} 127.0.0.1:${port},MAP 127.0.0.1:7070 ${new URL(server.url).host}`,
    )
    onTestFinished(() => mapped.close())
    const page = await mapped.newPage()
    await page.goto(origin)
    await page.getByText('42').waitFor()
    await append({ total: 43 })
    await page.getByText('43').waitFor()
  })
})

test('Ctrl-C ends everything and leaves nothing behind; npm may pass it on once more', async () => {
  const [folder, temporary] = [tempDir(), tempDir()]
  const program = demo([folder], { env: { TMPDIR: temporary } })
  const url = await program.until(() => /: (http:\S+)$/m.exec(program.out)?.[1])
  expect(readdirSync(temporary)).toHaveLength(1)
  const server = /serving (\S+)/.exec(program.err)![1]!
  // A connection that is kept makes its end last longer than the time between the two signals.
  await (await fetch(server)).text()
  program.child.kill('SIGINT')
  await new Promise((resolve) => setTimeout(resolve, 20))
  expect(await program.kill('SIGINT')).toBe(0)
  expect(readdirSync(temporary)).toEqual([])
  for (const gone of [url, server]) await expect(fetch(gone)).rejects.toThrow('fetch failed')
})

test('--data keeps the log; what can not be done is told with its exit code', async () => {
  const [folder, data] = [tempDir(), join(tempDir(), 'kept')]
  writeFileSync(join(folder, 'a.txt'), 'a')
  const first = await showing(folder, '--data', data)
  await first.until(() => first.out.includes('in step'))
  const busy = demo([folder, '--port', new URL(first.url).port])
  expect([await busy.ended(), busy.err]).toEqual([69, expect.stringContaining('is taken by another program')])
  const locked = demo([folder, '--data', data])
  expect([await locked.ended(), locked.err]).toEqual([75, expect.stringContaining(String(first.child.pid))])
  expect(await first.kill('SIGINT')).toBe(0)
  expect(existsSync(data)).toBe(true)
  rmSync(join(folder, 'a.txt'))
  const missing = demo([join(folder, 'missing')])
  expect([await missing.ended(), missing.err]).toEqual([2, expect.stringContaining('can not be watched (ENOENT)')])
})
