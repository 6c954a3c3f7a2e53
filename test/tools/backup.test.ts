/** Backup, wipe, restore; imports that are killed: the built program, real servers, and who was there before. */
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, renameSync, rmSync, statfsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { encodeBody } from '../../src/body.ts'
import { connect } from '../../src/client/node.ts'
import type { Event } from '../../src/event.ts'
import type { Log } from '../../src/log/log.ts'
import { openLog, verifyStopped } from '../../src/log/open.ts'
import { list, readAll } from '../log/reading.ts'
import { event, range, SEED, tempDir } from '../parts.ts'
import { call } from '../server/calls.ts'
import { randomFrom } from './disk.ts'
import { Program, run, serving } from './program.ts'

/** Processes are started again and again, on a machine that may have other work, too. */
vi.setConfig({ testTimeout: 150_000 })

/** More of them are killed more often: `BACKUP_CHANNELS=2000` for the long form. */
const LONG = process.env.BACKUP_CHANNELS
const SMALL_CHANNELS = Number(LONG ?? 100)
/** The first kill falls when a program has hardly begun, ms; each later one when it has had so many times as long. */
const FIRST_KILL_MS = 150
const LATER = LONG ? 1.2 : 1.5

/** Opens a stopped log for a look, and closes it. */
async function look<T>(dir: string, at: (log: Log) => Promise<T>): Promise<T> {
  const log = await openLog({ dir, create: false })
  try {
    return await at(log)
  } finally {
    await log.close()
  }
}

const factsOf = ({ seq, time, type, key, id, contentType, to, data }: Event) => [
  ...[seq, time, type, key, id, contentType, JSON.stringify(to)],
  data && Buffer.from(data).toString('hex'),
]

const eventsOf = async (log: Log, channel: string): Promise<unknown[]> =>
  (await readAll(log, channel, { after: (await log.info(channel)).trimmed })).map(factsOf)

/** A thousand events a block, `blocks` of them, in each of `channels`. */
async function fill(dir: string, channels: readonly string[], blocks: number): Promise<void> {
  const log = await openLog({ dir })
  for (const channel of channels) {
    for (const i of range(1, blocks))
      await log.append([{ channel, body: encodeBody(range(1, 500).map((j) => event(`${i} ${j} ${'x'.repeat(900)}`))) }])
    for (const j of range(1, 20)) await log.commit(`c-${j}`, channel, { seq: j })
  }
  await log.close()
}

/** Many channels of two events and a cursor each. */
async function fillSmall(dir: string, count: number): Promise<readonly string[]> {
  const names = range(1, count).map((i) => `small/${i}`)
  await look(dir, (log) =>
    Promise.all(
      names.map(async (channel) => {
        await log.append([{ channel, body: encodeBody([event(1), event(channel)]) }])
        await log.commit('web', channel, { seq: 1 })
      }),
    ),
  )
  return names
}

test('A running server is backed up, wiped and restored: what comes back is what was there, and whoever was there is told', async () => {
  const home = tempDir()
  const dir = join(home, 'log')
  await fill(dir, ['orders', 'files'], 3)
  await look(dir, async (log) => {
    await log.trim('files', 700)
    await log.configure('files', { note: 'kept' })
  })
  let server = await serving([], home)
  const { url } = server
  const port = Number(new URL(url).port)
  const tidemark = connect(url, { client: 'web' })
  onTestFinished(() => tidemark.close())
  const items = tidemark.channel('orders').followItems({ after: 1_490 })
  const old = (await call(`${url}/v1/channels/orders`)).json.epoch
  await call(`${url}/v1/channels/orders/cursors/web`, 'PUT', { seq: 1_500 })
  const post = (data: unknown) => call(`${url}/v1/channels/orders/events`, 'POST', { data })
  // While it goes on.
  let isOver = false
  const writing = (async () => {
    for (let i = 1; !isOver; i++) expect((await post(i)).status).toBe(201)
  })()
  const file = join(tempDir(), 'all.tidemark')
  const ran = await run(['backup', file, '--url', url, '--json'])
  expect([ran.code, ran.err]).toEqual([0, expect.any(String)])
  isOver = true
  await writing
  for (const i of range(1, 5)) await post(`behind ${i}`)
  const { head } = (await call(`${url}/v1/channels/orders`)).json
  for (let seen = 0; seen < head; ) {
    const { value: item } = await items.next()
    if (item?.is === 'events') seen = item.last
  }
  expect(await server.kill('SIGTERM')).toBe(0)

  const before = join(home, 'before')
  renameSync(dir, before)
  expect(await run(['restore', file, '--data', dir])).toMatchObject({ code: 0 })
  expect(readdirSync(home).sort()).toEqual(['before', 'log'])
  expect(await run(['verify', '--data', dir])).toMatchObject({ code: 0 })
  await look(before, (was) =>
    look(dir, async (log) => {
      const infos = await list(log.channels(''))
      expect(infos.map(({ channel }) => channel)).toEqual((await list(was.channels(''))).map(({ channel }) => channel))
      for (const { channel, trimmed, settings, head } of infos) {
        const then = await was.info(channel)
        expect({ trimmed, settings }).toEqual({ trimmed: then.trimmed, settings: then.settings })
        expect(await eventsOf(log, channel)).toEqual((await eventsOf(was, channel)).slice(0, head - trimmed))
        expect(await list(log.cursors({ channel }))).toEqual(
          (await list(was.cursors({ channel }))).filter(({ seq }) => seq <= head),
        )
        // What was answered before the backup began is there.
        expect(head).toBeGreaterThanOrEqual(1_500)
      }
    }),
  )

  server = await serving([], home, port)
  const { epoch, head: restored } = (await call(`${url}/v1/channels/orders`)).json
  expect(epoch).not.toBe(old)
  expect(restored).toBeLessThan(head)
  // The one who was following: told, and then all of what there is.
  const told = [(await items.next()).value!]
  while (told.at(-1)!.is !== 'reset') told.push((await items.next()).value!)
  expect(told.filter(({ is }) => is === 'events')).toEqual([])
  expect(told.at(-1)).toMatchObject({ epoch, trimmed: 0, head: restored })
  const seqs: number[] = []
  while (seqs.at(-1) !== restored) {
    const item = (await items.next()).value!
    if (item.is === 'events') seqs.push(...item.events.map(({ seq }) => seq))
  }
  expect(seqs).toEqual(range(1, restored))
  // Cursors, and positions that are held elsewhere.
  const asked = await call(`${url}/v1/channels/orders/events?client=web`)
  expect([asked.status, asked.json.code]).toEqual([409, 'epoch-changed'])
  for (const after of [0, 5, restored, head]) {
    const late = await call(`${url}/v1/channels/orders/events?after=${after}&epoch=${old}`)
    expect([late.status, late.json.code, late.json.epoch]).toEqual([409, 'epoch-changed', epoch])
  }
  const polled = await call(`${url}/v1/poll`, 'POST', { client: 'web', channels: { orders: {} }, limit: 1 })
  expect(polled.json.pages[0]).toMatchObject({ reset: true, epoch })
})

/** Kills a command when it has done some of its work; false when it came to its end before. */
async function killAmid(args: readonly string[], ms: number): Promise<boolean> {
  const program = new Program(args)
  const timer = setTimeout(() => program.child.kill('SIGKILL'), ms)
  const code = await program.ended()
  clearTimeout(timer)
  return code === -1
}

for (const kind of ['directory', 'server'] as const)
  test(`An import into a ${kind} that is killed again and again is gone on with, and comes to the same`, async () => {
    const random = randomFrom(SEED)
    console.log(`seed ${SEED}`)
    const source = join(tempDir(), 'log')
    const channels = ['a', 'b', 'c']
    await fill(source, channels, 12)
    const file = join(tempDir(), 'all')
    expect(await run(['export', '--data', source, '-o', file])).toMatchObject({ code: 0 })
    const home = tempDir()
    const into = join(home, 'log')
    // One that was killed before may have made the directory alone.
    const isMade = () => existsSync(join(into, 'store', 'CURRENT'))
    const server = kind === 'server' ? await serving([], home) : undefined
    const to = server ? ['--url', server.url] : ['--data', into]
    let kills = 0
    for (let ms = FIRST_KILL_MS; await killAmid(['import', file, ...to], ms); ms *= LATER + random(3) / 10) {
      kills++
      const told = server ? await call(`${server.url}/v1/channels`) : undefined
      const names = told
        ? told.json.channels.map(({ channel }: { channel: string }) => channel)
        : isMade()
          ? await look(into, async (log) => (await list(log.channels(''))).map(({ channel }) => channel))
          : []
      // What is there is there whole: a channel at a time.
      expect(channels.slice(0, names.length)).toEqual(names)
      for (const channel of names) {
        const head = told
          ? (await call(`${server!.url}/v1/channels/${channel}`)).json.head
          : await look(into, async (log) => (await log.info(channel)).head)
        expect(head).toBe(6_000)
      }
      if (!server && isMade()) expect(await verifyStopped(into)).toMatchObject({ whole: true })
    }
    expect(kills).toBeGreaterThan(0)
    console.log(`${kills} kills`)
    await server?.kill('SIGTERM')
    expect(await verifyStopped(into)).toMatchObject({ whole: true, events: expect.any(Number) })
    await look(source, (was) =>
      look(into, async (log) => {
        for (const channel of channels) {
          expect(await eventsOf(log, channel)).toEqual(await eventsOf(was, channel))
          const cursors = async (of: Log) =>
            (await list(of.cursors({ channel }))).map(({ epoch: _, ...cursor }) => cursor)
          expect(await cursors(log)).toEqual(await cursors(was))
          for (const { epoch } of await list(log.cursors({ channel })))
            expect(epoch).toBe((await log.info(channel)).epoch)
        }
      }),
    )
  })

test('A server that is killed amid an import has what was answered, and the import goes on', async () => {
  const source = join(tempDir(), 'log')
  await fill(source, ['a', 'b'], 15)
  const file = join(tempDir(), 'all')
  await run(['export', '--data', source, '-o', file])
  const home = tempDir()
  const from = await look(source, async (log) => (await log.info('a')).epoch)
  const came: number[] = []
  for (const enough of [1, 2_500, 5_500]) {
    const server = await serving([], home)
    const importing = new Program(['import', file, '--url', server.url, '--patience', '0s'])
    // A piece without anything tells how far it came.
    const piece = { channel: 'a', from, head: 7_500, trimmed: 0 }
    for (let head = 0; head < enough; ) head = (await call(`${server.url}/v1/admin/import`, 'POST', piece)).json.head
    await server.kill('SIGKILL')
    expect([0, 69]).toContain(await importing.ended())
    came.push(await look(join(home, 'log'), async (log) => (await log.arrive!('a', piece)).head))
    expect(came.at(-1)).toBeGreaterThanOrEqual(enough)
  }
  console.log(`it came to ${came.join(', ')}`)
  const server = await serving([], home)
  expect(await run(['import', file, '--url', server.url])).toMatchObject({ code: 0 })
  await server.kill('SIGTERM')
  await look(source, (was) =>
    look(join(home, 'log'), async (log) => {
      for (const channel of ['a', 'b']) expect(await eventsOf(log, channel)).toEqual(await eventsOf(was, channel))
    }),
  )
  expect(await verifyStopped(join(home, 'log'))).toMatchObject({ whole: true })
})

test('A backup and a restore that are killed leave nothing under their names, and are gone on with', async () => {
  const home = tempDir()
  await fill(join(home, 'log'), ['a', 'b'], 15)
  const names = ['a', 'b', ...(await fillSmall(join(home, 'log'), SMALL_CHANNELS))]
  const server = await serving([], home)
  const file = join(tempDir(), 'all')
  let kills = 0
  for (let ms = FIRST_KILL_MS; await killAmid(['backup', file, '--url', server.url], ms); ms *= LATER) {
    kills++
    if (!existsSync(file)) continue
    // Killed behind its work: what has the name is whole.
    expect(await run(['import', file, '--check'])).toMatchObject({ code: 0 })
    break
  }
  const back = join(tempDir(), 'log')
  for (let ms = FIRST_KILL_MS; await killAmid(['restore', file, '--data', back], ms); ms *= LATER) {
    kills++
    if (!existsSync(back)) continue
    expect(await verifyStopped(back)).toMatchObject({ whole: true })
    break
  }
  console.log(`${kills} kills`)
  expect(kills).toBeGreaterThan(1)
  await server.kill('SIGTERM')
  await look(join(home, 'log'), (was) =>
    look(back, async (log) => {
      for (const channel of names) {
        expect(await eventsOf(log, channel)).toEqual(await eventsOf(was, channel))
        expect(await list(log.cursors({ channel }))).toEqual(await list(was.cursors({ channel })))
      }
    }),
  )
  expect(await run(['restore', file, '--data', back])).toMatchObject({ code: 73 })
})

const mayMount = process.platform === 'linux' && process.getuid?.() === 0
if (!mayMount) console.warn('NO ROOT HERE: the tests of a full disk are SKIPPED')

describe.skipIf(!mayMount)('a disk that is full', () => {
  test('ends an export with its code and no archive, and the same command goes on when there is room', async () => {
    const disk = tempDir()
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=48m', 'tmpfs', disk])
    onTestFinished(() => void execFileSync('umount', ['-l', disk]))
    const source = join(tempDir(), 'log')
    await fill(source, ['a'], 40)
    const filler = join(disk, 'filler')
    const { bavail, bsize } = statfsSync(disk)
    writeFileSync(filler, Buffer.alloc(bavail * bsize - 8 * 1024 * 1024))
    const file = join(disk, 'all')
    const full = await run(['export', '--data', source, '-o', file])
    expect([full.code, full.err]).toEqual([74, expect.stringContaining('(storage-full)')])
    expect(existsSync(file)).toBe(false)
    expect(readFileSync(`${file}.part`).length).toBeGreaterThan(1024 * 1024)
    rmSync(filler)
    expect(await run(['export', '--data', source, '-o', file])).toMatchObject({ code: 0 })
    expect(await run(['import', file, '--check'])).toMatchObject({ code: 0 })
    // A log of it, too, comes to be when there is room.
    const left = statfsSync(disk)
    writeFileSync(filler, Buffer.alloc(left.bavail * left.bsize - 20 * 1024 * 1024))
    const back = join(disk, 'log')
    const { code, err } = await run(['restore', file, '--data', back])
    expect([code, err]).toEqual([74, expect.stringContaining('(storage-full)')])
    expect(err).toContain('holds what came; the same command goes on')
    expect(existsSync(back)).toBe(false)
    rmSync(filler)
    expect(await run(['restore', file, '--data', back])).toMatchObject({ code: 0 })
  })
})
