import { jetstreamManager } from '@nats-io/jetstream'
import { connect } from '@nats-io/transport-node'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { Keeper } from '../../src/log/keeper.ts'
import type { Log } from '../../src/log/log.ts'
import { type NatsOptions, openLog } from '../../src/log/open.ts'
import { bigBody, tempDir } from '../parts.ts'
import { natsOfFile } from './nats.ts'
import { append, readAll, refusal, valueIn } from './reading.ts'

const MIB = 1024 * 1024

const nats = await natsOfFile({ jetstream: 'max_file_store: 256MB' })

let places = 0
const newPlace = (): string => `r${++places}`

async function opened(options: Partial<NatsOptions>): Promise<Log> {
  const log = await openLog({ dir: 'nowhere', idWindow: 1_000, nats: { servers: [nats!.url], ...options } })
  onTestFinished(() => log.close())
  return log
}

/** Appends until there is no room for one, and then for none at all. */
async function fill(log: Log, bytes: number): Promise<Record<string, unknown>> {
  const refused = await refusal(
    (async () => {
      for (let i = 1; ; i++) await log.append([{ channel: `c${i % 3}`, body: bigBody(`${i}`, bytes) }])
    })(),
  )
  return bytes > 1 ? fill(log, Math.floor(bytes / 10)) : refused
}

describe.skipIf(!nats)('a NATS that fills up', () => {
  test.for([
    ['small appends', 3_000],
    ['large appends', 600_000],
  ] as const)('Appends are refused before it is full, and what frees space goes on: %s', async ([, bytes]) => {
    const namespace = newPlace()
    const logs = [await opened({ namespace, maxBytes: 8 * MIB }), await opened({ namespace })]
    const log = logs[0]!
    const { epoch } = await append(log, 'c0', ['first'])
    const refused = await Promise.all(logs.map((each) => fill(each, bytes)))
    for (const each of refused) {
      expect(each).toMatchObject({ code: 'storage-full', retryAfter: expect.any(Number) })
      expect(each.outcome).toBeUndefined()
    }
    for (const each of logs)
      expect(each.health()).toMatchObject({ state: 'full', reason: expect.stringMatching(/room/) })
    // All that needs no room, or gives some back.
    expect(await log.commit('web', 'c0', { seq: 1 })).toMatchObject({ seq: 1 })
    const { head } = await log.info('c0')
    expect(await log.trim('c0', head)).toMatchObject({ trimmed: head, epoch })
    await log.delete('c1')
    await log.configure('c2', { retention: { maxEvents: 1 } })
    const keeper = new Keeper(logs[1]!, { pace: { restTimes: 0 } })
    await vi.waitFor(async () => {
      await keeper.look()
      expect((await log.info('c2')).trimmed).toBeGreaterThan(0)
    })
    // What was trimmed goes when its keys are forgotten.
    for (const each of logs)
      await vi.waitFor(
        async () => {
          expect(each.health().state).toBe('ok')
          await each.append([{ channel: 'c0', body: bigBody('again', bytes) }])
        },
        { timeout: 10_000 },
      )
    expect((await readAll(log, 'c0', { after: head })).map(({ id }) => id)).toEqual(['again', 'again'])
  })

  test('A limit by number of messages is one as well', async () => {
    const namespace = newPlace()
    const made = await opened({ namespace })
    const nc = await connect({ servers: [nats!.url] })
    onTestFinished(() => nc.close())
    const jsm = await jetstreamManager(nc)
    await jsm.streams.update(`TIDEMARK_${namespace}`, { max_msgs: 40, discard: 'new' } as never)
    await made.close()
    // A limit is asked for when the log is opened, and by every pulse.
    const log = await opened({ namespace })
    await vi.waitFor(async () => expect((await refusal(append(log, 'c', [1]))).code).toBe('storage-full'), {
      timeout: 10_000,
    })
    const { head } = await log.info('c')
    expect(head).toBeLessThan(40)
    expect(await log.trim('c', head)).toMatchObject({ trimmed: head })
    await vi.waitFor(async () => expect(await append(log, 'c', ['next'])).toMatchObject({ first: head + 1 }), {
      timeout: 10_000,
    })
    expect((await readAll(log, 'c', { after: head })).map(valueIn)).toEqual(['next'])
  })

  test('A limit that only the server has: nothing is stored beyond it, what is there is read, and all goes on when it is raised', async () => {
    const dir = tempDir()
    const limited = (size: string) => `jetstream { store_dir: "${dir}", max_file_store: ${size} }`
    const server = nats!.another({ jetstream: null, more: limited('8MB') })
    onTestFinished(() => server.end())
    await server.start()
    const log = await opened({ servers: [server.url] })
    await append(log, 'c0', ['first'])
    expect(await fill(log, 600_000)).toMatchObject({ code: 'storage-full', retryAfter: expect.any(Number) })
    expect(log.health()).toMatchObject({ state: 'full', reason: expect.stringMatching(/no limit/) })
    expect(await refusal(log.trim('c0', 1))).toMatchObject({ code: 'storage-full' })
    const before = await readAll(log, 'c0')
    expect(valueIn(before[0]!)).toBe('first')
    await server.restart(limited('64MB'))
    await vi.waitFor(async () => expect(await log.trim('c0', 1)).toMatchObject({ trimmed: 1 }), { timeout: 10_000 })
    expect(await append(log, 'c0', ['next'])).toMatchObject({ first: before.length + 1 })
  })
})
