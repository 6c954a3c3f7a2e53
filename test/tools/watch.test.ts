import { mkdirSync, renameSync, rmSync, unlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import type { EventJson, PageJson } from '../../src/wire.ts'
import { Tree } from '../../tools/watch/tree.ts'
import { SEED, tempDir, tempLog } from '../parts.ts'
import { startTestServer } from '../server/serve.ts'
import { disturb, nodeText, onDisk, plant, randomFrom } from './disk.ts'
import { byKilledCursor, byLongPoll, bySocket, bySse } from './followers.ts'
import { here, starting } from './here.ts'
import { Program, serving } from './program.ts'
import { losingAnswers } from './proxy.ts'

/** A larger tree by hand: `WATCH_FILES=5000 WATCH_ROUNDS=100 npx vitest run … test/tools/watch.test.ts`. */
const FILES = Number(process.env.WATCH_FILES ?? 400)
const ROUNDS = Number(process.env.WATCH_ROUNDS ?? 12)
/** How long the last change may take to reach the channel, ms; a test that never gets there shows what is missing. */
const SETTLED_MS = 20_000
const MINUTES = 60_000

const watchLine = (dir: string, url: string, ...args: string[]) => ['watch', dir, '--url', url, '--json', ...args]

/** As a process of its own. */
const watching = (dir: string, url: string) => new Program(watchLine(dir, url))

const inStep = (program: { readonly values: Record<string, unknown>[] }) =>
  program.values.findLast((value) => 'inStep' in value)

async function readAll(url: string, channel = 'files'): Promise<EventJson[]> {
  const events: EventJson[] = []
  for (let after = 0; ; ) {
    const response = await fetch(`${url}/v1/channels/${channel}/events?after=${after}&limit=10000`)
    if (response.status === 404) return []
    const page = (await response.json()) as PageJson
    events.push(...page.events)
    after = page.last
    if (page.caughtUp) return events
  }
}

/** What the channel says stands at each path, whoever wrote it. */
async function told(url: string): Promise<Map<string, string>> {
  const tree = new Tree()
  for (const event of await readAll(url)) tree.apply(event)
  const nodes = [...tree.below('')].map((path) => [path, nodeText(tree.get(path)!)] as const)
  return new Map([...nodes, ...[...tree.strange].map((key) => [key, 'strange'] as const)].sort())
}

const truth = (root: string) => new Map([...onDisk(root)].sort())

/** Resolves when the channel is equal to the disk, or fails showing the difference. */
async function settled(root: string, now: () => Promise<Map<string, string>> | Map<string, string>): Promise<void> {
  const until = Date.now() + SETTLED_MS
  for (;;) {
    const [is, should] = [await now(), truth(root)]
    const equal = is.size === should.size && [...should].every(([path, text]) => is.get(path) === text)
    if (equal || Date.now() > until) return expect(is).toEqual(should)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

test(
  `${FILES} files that change at random: followers by WebSocket, SSE, long poll and a killed cursor all end equal to the disk`,
  async () => {
    console.log(`seed ${SEED}`)
    const random = randomFrom(SEED)
    const [root, data] = [tempDir(), tempDir()]
    plant(root, FILES, random)
    let server = await serving([], data)
    const { url } = server
    let watch = watching(root, url)
    const followers = [
      bySocket(url, 'files'),
      bySse(url, 'files', () => random(200) === 0),
      byLongPoll(url, 'files'),
      byKilledCursor(url, 'files', 'pages-1', () => 1 + random(5 * FILES)),
    ]
    const poll = followers[2]!.copy
    for (let round = 0; round < ROUNDS; round++) {
      for (let i = random(30); i >= 0; i--) {
        disturb(root, random, 300)
        if (random(4) === 0) await new Promise(setImmediate)
      }
      // A burst of a thousand, the watch killed amid it, the server killed: each once.
      if (round === Math.floor(ROUNDS / 4)) {
        mkdirSync(join(root, 'burst'))
        for (let i = 0; i < 1_000; i++) writeFileSync(join(root, 'burst', `b-${i}`), `${i}`)
        renameSync(join(root, 'burst'), join(root, 'burst moved'))
      }
      if (round === Math.floor(ROUNDS / 2)) {
        await watch.kill('SIGKILL')
        for (let i = 0; i < 10; i++) disturb(root, random, 50)
        watch = watching(root, url)
      }
      if (round === Math.floor((ROUNDS * 3) / 4)) {
        await server.kill('SIGKILL')
        for (let i = 0; i < 10; i++) disturb(root, random, 50)
        server = await serving([], data, Number(new URL(url).port))
      }
      // Some rounds meet a watch in step, others one at work.
      if (random(2) === 0) {
        const before = watch.lines.length
        await watch.until(() => watch.lines.length > before || inStep(watch))
      }
    }
    await settled(root, () => poll.sorted)
    for (const { name, copy } of followers) {
      await copy.reaches(poll.seq)
      expect(copy.sorted, `${name}, seed ${SEED}`).toEqual(truth(root))
    }
    const events = await readAll(url)
    expectOrder(events)
    console.log(`${truth(root).size} paths on disk, ${events.length} events, head ${poll.seq}`)
    expect(await watch.kill('SIGTERM')).toBe(0)
  },
  Math.max(2, FILES / 500) * MINUTES,
)

/** A parent is added before its child and removed after it; nothing is added twice or removed twice. */
function expectOrder(events: readonly EventJson[]): void {
  const below = new Map<string, number>([['', 0]])
  for (const { type, key, seq } of events) {
    const path = key!
    const parent = path.slice(0, Math.max(path.lastIndexOf('/'), 0))
    if (type === 'node.added') {
      expect([seq, path, below.has(path), below.has(parent)]).toEqual([seq, path, false, true])
      below.set(path, 0)
      below.set(parent, below.get(parent)! + 1)
    } else if (type === 'node.removed') {
      expect([seq, path, below.get(path)]).toEqual([seq, path, 0])
      below.delete(path)
      below.set(parent, below.get(parent)! - 1)
    } else expect([seq, path, below.has(path)]).toEqual([seq, path, true])
  }
}

test('a watch that starts again appends only what changed meanwhile', async () => {
  const root = tempDir()
  const { url } = await serving()
  plant(root, 100, randomFrom(1))
  mkdirSync(join(root, 'd'))
  for (const name of ['a', 'b', 'd/c']) writeFileSync(join(root, name), name)
  const first = watching(root, url)
  await first.until(() => inStep(first))
  expect(await first.kill('SIGTERM')).toBe(0)
  const { length } = await readAll(url)
  expect(length).toBe(onDisk(root).size)

  writeFileSync(join(root, 'a'), 'a longer text')
  unlinkSync(join(root, 'b'))
  renameSync(join(root, 'd'), join(root, 'e'))
  const second = watching(root, url)
  await second.until(() => inStep(second))
  const events = (await readAll(url)).slice(length).map(({ type, key }) => `${type} ${key}`)
  expect(events).toEqual([
    'node.removed d/c',
    'node.removed d',
    'node.removed b',
    'node.changed a',
    'node.added e',
    'node.added e/c',
  ])
  expect(await second.kill('SIGINT')).toBe(0)
  const third = watching(root, url)
  await third.until(() => inStep(third))
  expect(third.values).toEqual([expect.objectContaining({ inStep: length + events.length })])
})

test('a server that is not there is waited for, and nothing that happened meanwhile is lost', async () => {
  const [root, data] = [tempDir(), tempDir()]
  const random = randomFrom(SEED)
  const gone = await serving([], data)
  const port = Number(new URL(gone.url).port)
  await gone.kill('SIGTERM')
  plant(root, 60, random)
  const watch = watching(root, gone.url)
  await watch.until(() => watch.err.includes('trying again'))
  for (let i = 0; i < 30; i++) disturb(root, random, 20)
  const { url } = await serving([], data, port)
  await settled(root, () => told(url))
  expect(watch.err).toContain('answers again')
})

test('appends whose answers get lost are there once', async () => {
  const root = tempDir()
  const random = randomFrom(SEED)
  const { url } = await startTestServer()
  plant(root, 1_500, random)
  const watch = starting(watchLine(root, await losingAnswers(url, () => random(3) > 0)))
  await watch.until(() => inStep(watch) !== undefined)
  for (let i = 0; i < 30; i++) disturb(root, random, 20)
  await settled(root, () => told(url))
  expectOrder(await readAll(url))
})

test('another writer in the channel is put right, whatever it writes', async () => {
  const root = tempDir()
  const random = randomFrom(SEED)
  console.log(`seed ${SEED}`)
  const { url } = await startTestServer()
  plant(root, 60, random)
  const watch = starting(watchLine(root, url))
  await watch.until(() => inStep(watch) !== undefined)
  const write = async (event: object) => {
    const response = await fetch(`${url}/v1/channels/files/events`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(event),
    })
    expect(response.status).toBe(201)
  }
  for (let i = 0; i < 40; i++) {
    disturb(root, random, 20)
    const paths = [...onDisk(root).keys()]
    const key = paths[random(paths.length)] ?? 'nothing'
    const foreign = [
      { key },
      { key, type: 'note', data: 'mine' },
      { key, type: 'node.added', data: { kind: 'file', size: 1, mtime: 1 } },
      { key: `${key}/below`, type: 'node.added', data: { kind: 'dir' } },
      { key: `/${key}`, data: 1 },
      { key: '../../etc/passwd', type: 'node.changed', data: { kind: 'file' } },
      { data: 'without a key' },
    ]
    await write(foreign[random(foreign.length)]!)
  }
  // What others wrote is met by the next append, long before the next full look.
  writeFileSync(join(root, 'the last one'), '')
  await settled(root, () => told(url))
})

test('a channel that is deleted, and one that is made anew by somebody else, is filled again', async () => {
  const root = tempDir()
  plant(root, 30, randomFrom(2))
  const { url } = await startTestServer()
  const watch = starting(watchLine(root, url, '--rescan', '1s'))
  await watch.until(() => inStep(watch) !== undefined)
  const channel = `${url}/v1/channels/files`
  expect((await fetch(channel, { method: 'DELETE' })).status).toBe(204)
  await settled(root, () => told(url))
  await fetch(channel, { method: 'DELETE' })
  await fetch(`${channel}/events?key=other`, { method: 'POST', body: 'x', headers: { 'content-type': 'text/plain' } })
  writeFileSync(join(root, 'new'), '')
  await settled(root, () => told(url))
})

test('names that can be no key are left out, told and counted', async () => {
  const root = tempDir()
  const { url } = await startTestServer()
  writeFileSync(Buffer.concat([Buffer.from(`${root}/`), Buffer.from([0x66, 0xff])]), '')
  writeFileSync(join(root, 'line\nbreak'), '')
  writeFileSync(join(root, 'good'), '')
  const watch = starting(watchLine(root, url))
  await watch.until(() => inStep(watch) !== undefined)
  expect(inStep(watch)).toMatchObject({ inStep: 1, paths: 1, leftOut: 2 })
  expect(watch.err).toContain('line\\u000abreak')
  expect((await readAll(url)).map(({ key }) => key)).toEqual(['good'])
})

test('what is ignored stays out, and so does the log of a server that lives in the tree', async () => {
  const root = tempDir()
  const { url } = await startTestServer({ log: await tempLog({ dir: join(root, 'log') }) })
  mkdirSync(join(root, 'node_modules/x'), { recursive: true })
  writeFileSync(join(root, 'node_modules/x/f'), '')
  writeFileSync(join(root, 'a'), '')
  const watch = starting(
    watchLine(root, url, '--ignore', 'node_modules', '--ignore', '*.tmp', '--data', join(root, 'log')),
  )
  await watch.until(() => inStep(watch) !== undefined)
  writeFileSync(join(root, 'x.tmp'), '')
  writeFileSync(join(root, 'b'), '')
  await watch.until(() => inStep(watch)?.paths === 2)
  expect((await readAll(url)).map(({ key }) => key)).toEqual(['a', 'b'])
})

test('a directory that goes away is not told as removed, and is taken up again when it is back', async () => {
  const parent = tempDir()
  const root = join(parent, 'tree')
  mkdirSync(root)
  writeFileSync(join(root, 'a'), '')
  const { url } = await startTestServer()
  const watch = starting(watchLine(root, url, '--rescan', '1s'))
  await watch.until(() => inStep(watch) !== undefined)
  renameSync(root, join(parent, 'away'))
  await watch.until(() => watch.err.includes('nothing is told as removed'))
  expect(await readAll(url)).toHaveLength(1)
  mkdirSync(root)
  writeFileSync(join(root, 'b'), '')
  await settled(root, () => told(url))
  rmSync(join(parent, 'away'), { recursive: true })
})

test('a directory that is none and a channel that is not ours end with their codes', async () => {
  const root = tempDir()
  const { url } = await startTestServer()
  writeFileSync(join(root, 'file'), '')
  expect((await here(['watch', join(root, 'nowhere'), '--url', url])).code).toBe(2)
  expect((await here(['watch', join(root, 'file'), '--url', url])).code).toBe(2)
  expect((await here(['watch', root, '--url', url, '--channel', '_system'])).code).toBe(77)
  expect((await here(['watch', root, '--url', url, '--rescan', '5'])).code).toBe(2)
})
