import { setTimeout as delay } from 'node:timers/promises'
import { jetstreamManager } from '@nats-io/jetstream'
import { connect, type NatsConnection } from '@nats-io/transport-node'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { Channels } from '../../src/log/jetstream/channels.ts'
import { Link } from '../../src/log/jetstream/link.ts'
import { Pages } from '../../src/log/jetstream/pages.ts'
import { decodeRecord } from '../../src/log/jetstream/record.ts'
import type { Log } from '../../src/log/log.ts'
import { type LogOptions, type NatsOptions, openLog } from '../../src/log/open.ts'
import { Tail } from '../../src/log/tail.ts'
import { verifyLog } from '../../src/log/verify.ts'
import { Waiters } from '../../src/log/waiters.ts'
import { bigBody, body, range } from '../parts.ts'
import { Line } from './line.ts'
import { type NatsServer, type NatsSettings, natsOfFile } from './nats.ts'
import { ALL, append, list, never, readAll, refusal, valueIn, watched } from './reading.ts'

const nats = await natsOfFile()

let places = 0
const newPlace = (): string => `f${++places}`

async function opened(options: Partial<NatsOptions> = {}, more: Partial<LogOptions> = {}): Promise<Log> {
  const servers = [nats!.url]
  const log = await openLog({ dir: 'nowhere', ...more, nats: { servers, namespace: newPlace(), ...options } })
  onTestFinished(() => log.close())
  return log
}

/** Another server, for what the shared one is not. */
async function serverOf(settings: NatsSettings): Promise<NatsServer> {
  const server = nats!.another(settings)
  onTestFinished(() => server.end())
  await server.start()
  return server
}

/** NATS itself, as an operator has it. */
async function operator(url = nats!.url): Promise<NatsConnection> {
  const nc = await connect({ servers: [url] })
  onTestFinished(() => nc.close())
  return nc
}

const subjectOf = (namespace: string, channel: string): string =>
  `tidemark.${namespace}.e.${Buffer.from(channel).toString('base64url')}`

describe.skipIf(!nats)('a NATS that does its worst', () => {
  test('Pages leave no subscription behind', async () => {
    const link = await Link.open({ servers: [nats!.url], namespace: newPlace() }, {})
    const channels = new Channels(link, new Tail(0), new Waiters())
    onTestFinished(async () => {
      channels.close()
      await link.nc.close()
    })
    const log = await opened({ namespace: `f${places}` }, { tailBytes: 0 })
    for (const i of range(1, 20)) await append(log, 'c', [i])
    const pages = new Pages(link)
    const channel = await channels.need('c')
    const held = () =>
      (link.nc as unknown as { protocol: { subscriptions: { size(): number } } }).protocol.subscriptions.size()
    const before = held()
    for (const after of range(0, 18)) await pages.read(channel, after, { events: 1, bytes: 1 }, async () => channel)
    expect(held()).toBe(before)
  })

  test('A listing takes nothing from a replica that has not come as far as the leader was', async () => {
    const namespace = newPlace()
    const log = await opened({ namespace })
    for (const channel of ['a', 'b']) await append(log, channel, [1])
    const link = await Link.open({ servers: [nats!.url], namespace }, {})
    onTestFinished(() => link.nc.close())
    const { subjects, asOf } = await link.subjects(link.allEvents)
    const heads = async (asOf: number) =>
      (await list(link.lasts(subjects, asOf))).flat().map(({ record }) => decodeRecord(record)?.head)
    // The only server stands for a replica that lacks what comes next, or what never comes.
    const listings = [heads(asOf), heads(asOf + 1), heads(asOf + 1_000)]
    await listings[0]
    await append(log, 'a', [2])
    expect(await Promise.all(listings)).toEqual([
      [1, 1],
      [2, 1],
      [2, 1],
    ])
  })

  test('A read whose page breaks off goes on with the connection', async () => {
    const line = new Line(nats!.url)
    const namespace = newPlace()
    const log = await opened({ namespace, servers: [await line.open()] }, { tailBytes: 0 })
    for (const i of range(1, 20)) await log.append([{ channel: 'c', body: bigBody(`${i}`, 40_000) }])
    line.passes = 200_000
    expect((await readAll(log, 'c')).map(({ id }) => id)).toEqual(range(1, 20).map(String))
  })

  test('A read under way is over when the log closes', async () => {
    const line = new Line(nats!.url)
    const log = await opened({ servers: [await line.open()] }, { tailBytes: 0 })
    for (const i of range(1, 20)) await log.append([{ channel: 'c', body: bigBody(`${i}`, 40_000) }])
    line.ends = 'silent'
    line.passes = 200_000
    const reading = watched(refusal(log.read('c', { after: 0 }, ALL)))
    await vi.waitFor(() => expect(line.passes).toBe(0))
    await log.close()
    expect(await reading.promise).toMatchObject({ code: 'unavailable' })
  })

  test('A page never holds events of another history than it says', async () => {
    const namespace = newPlace()
    const log = await opened({ namespace })
    const { epoch } = await append(log, 'c', [1, 2])
    await append(log, 'c', [3, 4])
    const link = await Link.open({ servers: [nats!.url], namespace }, {})
    const channels = new Channels(link, new Tail(0), new Waiters())
    onTestFinished(async () => {
      channels.close()
      await link.nc.close()
    })
    // A reader that was told where the channel is, and that asks for its events when even the mark of its end is gone.
    const before = await channels.need('c')
    await log.delete('c')
    await append(log, 'c', ['another', 'history', 'here'])
    const jsm = await jetstreamManager(await operator())
    await jsm.streams.purge(`TIDEMARK_${namespace}`, { filter: subjectOf(namespace, 'c'), keep: 1 })
    const read = (after: number) => new Pages(link).read(before, after, ALL, ({ name }) => channels.need(name))
    expect(before.epoch).toBe(epoch)
    expect(await refusal(read(0))).toMatchObject({ code: 'epoch-changed' })
    expect(await refusal(read(2))).toMatchObject({ code: 'epoch-changed' })
  })

  test('A message that is none of ours costs its own channel, and no other', async () => {
    const namespace = newPlace()
    const notices: string[] = []
    const log = await opened({ namespace }, { onNotice: (_, message) => void notices.push(message) })
    const { epoch } = await append(log, 'bad', [1])
    await append(log, 'good', [1])
    const bad = watched(refusal(log.changed('bad', { epoch, after: 1 }, never())))
    const good = watched(log.changed('good', { after: 1 }, never()))
    await delay(300)
    const nc = await operator()
    const { seq } = JSON.parse((await nc.request(subjectOf(namespace, 'bad'), 'hello')).string()) as { seq: number }
    await append(log, 'good', [2])
    await good.promise
    expect(await bad.promise).toMatchObject({ code: 'data-loss', channel: 'bad' })
    expect(await refusal(log.info('bad'))).toMatchObject({ code: 'data-loss' })
    expect(await refusal(append(log, 'bad', [2]))).toMatchObject({ code: 'data-loss' })
    const damaged: string[] = []
    const whole = await list(log.channels('', '', (channel) => void damaged.push(channel)))
    expect([whole.map(({ channel }) => channel), damaged]).toEqual([['good'], ['bad']])
    expect(await verifyLog(log)).toMatchObject({ whole: false, findings: [{ channel: 'bad' }] })
    expect((await readAll(log, 'good')).map(valueIn)).toEqual([1, 2])
    expect(notices).toEqual([])
    // An operator who takes it away has the channel back.
    await (await jetstreamManager(nc)).streams.deleteMessage(`TIDEMARK_${namespace}`, seq)
    expect(await append(log, 'bad', [2])).toMatchObject({ first: 2, epoch })
    await log.changed('bad', { epoch, after: 1 }, never())
  })

  test.for(['account', 'stream'])('No room (%s) is storage-full, at once', async (limit) => {
    const server = await serverOf({
      jetstream: `sync_interval: always, max_file_store: ${limit === 'account' ? 4 : 64}MB`,
    })
    const namespace = newPlace()
    const log = await opened({ servers: [server.url], namespace })
    await append(log, 'c', [1])
    if (limit === 'stream') {
      const jsm = await jetstreamManager(await operator(server.url))
      await jsm.streams.update(`TIDEMARK_${namespace}`, { max_bytes: 4_000_000, discard: 'new' } as never)
    }
    const refused = await refusal(
      (async () => {
        for (const i of range(1, 40)) await log.append([{ channel: 'c', body: bigBody(`${i}`, 300_000) }])
      })(),
    )
    expect(refused).toMatchObject({ code: 'storage-full', retryAfter: expect.any(Number) })
    expect(refused.outcome).toBeUndefined()
    expect((await readAll(log, 'c')).length).toBeGreaterThan(1)
  })

  test.for([
    ['is found where it is', { max_msgs: 1, discard: 'new' }],
    ['stays unknown', { sealed: true }],
  ] as const)('What was sent and not answered %s, whatever is refused by then: %o', async ([, config]) => {
    const line = new Line(nats!.url)
    const namespace = newPlace()
    const log = await opened({ namespace, servers: [await line.open()] })
    await append(log, 'c', [1])
    line.ends = 'silent'
    line.passes = 0
    const outcome = log.append([{ channel: 'c', body: body(2) }]).catch((error) => error)
    const other = await opened({ namespace })
    await vi.waitFor(async () => expect((await other.info('c')).head).toBe(2))
    const jsm = await jetstreamManager(await operator())
    await jsm.streams.update(`TIDEMARK_${namespace}`, config as never)
    line.heal()
    if ('sealed' in config)
      expect(await outcome).toMatchObject({ code: 'unavailable', details: { outcome: 'unknown' } })
    else expect(await outcome).toMatchObject([{ first: 2 }])
  })

  test('NATS that comes back as it was before, and went on without us, is gone on with as it is', async () => {
    const line = new Line(nats!.url)
    const namespace = newPlace()
    const log = await opened({ namespace, servers: [await line.open()] })
    for (const i of range(1, 4)) await append(log, 'c', [i])
    const { epoch } = await append(log, 'c', ['lost', 'lost'])
    await log.commit('web', 'c', { seq: 3 })
    // It follows the channel.
    void watched(log.changed('c', { epoch, after: 6 }, never()))
    expect((await readAll(log, 'c')).length).toBe(6)
    line.cut()
    await vi.waitFor(() => expect(log.health().state).toBe('reopening'))
    // An operator puts both streams back from a copy that lacks the newest message of each.
    const nc = await operator()
    const jsm = await jetstreamManager(nc)
    for (const name of [`TIDEMARK_${namespace}`, `KV_TIDEMARK_${namespace}_CURSORS`]) {
      const { config, state } = await jsm.streams.info(name)
      const copies = []
      for (const seq of range(1, state.last_seq - 1)) copies.push((await jsm.streams.getMessage(name, { seq }))!)
      await jsm.streams.delete(name)
      await jsm.streams.add(config)
      for (const { subject, data, header } of copies) {
        for (const key of header.keys()) if (key.startsWith('Nats-')) header.delete(key)
        await nc.request(subject, data, { headers: header, timeout: 2_000 })
      }
    }
    const other = await opened({ namespace })
    expect(await append(other, 'c', ['another'])).toMatchObject({ first: 5, last: 5 })
    await other.commit('web', 'c', { seq: 5 })
    line.isDown = false
    await vi.waitFor(() => expect(log.health().state).toBe('ok'), { timeout: 5_000 })
    expect(await append(log, 'c', ['next'])).toMatchObject({ first: 6 })
    for (const each of [log, other])
      expect((await readAll(each, 'c')).map(valueIn)).toEqual([1, 2, 3, 4, 'another', 'next'])
    expect(await log.commit('web', 'c', { seq: 4 })).toMatchObject({ seq: 5 })
    expect(await other.cursor('web', 'c')).toMatchObject({ seq: 5 })
  })

  test('A log that closes right after a delete has given its space back', async () => {
    const namespace = newPlace()
    const log = await opened({ namespace })
    for (const i of range(1, 5)) await append(log, 'c', [i])
    await log.commit('web', 'c', { seq: 1 })
    await log.delete('c')
    await log.close()
    const jsm = await jetstreamManager(await operator())
    expect((await jsm.streams.info(`TIDEMARK_${namespace}`)).state.messages).toBe(1)
    expect((await jsm.streams.info(`KV_TIDEMARK_${namespace}_CURSORS`)).state.messages).toBe(0)
  })

  test('A key of a channel that another gateway deleted is free, also when what it was used for has gone', async () => {
    const namespace = newPlace()
    const [a, b] = [await opened({ namespace }), await opened({ namespace })]
    const jsm = await jetstreamManager(await operator())
    const first = await append(b, 'c', [1], { idempotencyKey: 'k' })
    // The other one is not told: it does not follow the channel.
    await a.delete('c')
    await vi.waitFor(async () => expect((await jsm.streams.info(`TIDEMARK_${namespace}`)).state.messages).toBe(1))
    const anew = await append(b, 'c', [2], { idempotencyKey: 'k' })
    expect(anew).toMatchObject({ first: 1 })
    expect(anew.duplicate).toBeUndefined()
    expect(anew.epoch).not.toBe(first.epoch)
  })

  test('Refused credentials after a reconnect are not for ever', async () => {
    const users = (password: string) => `authorization { user: u, password: ${password} }`
    const server = await serverOf({ more: users('old') })
    const log = await opened({ servers: [server.url], user: 'u', password: 'old' })
    await append(log, 'c', [1])
    await server.restart(users('new'))
    await vi.waitFor(() => expect(log.health().state).toBe('reopening'))
    await delay(3_000)
    expect((await refusal(append(log, 'c', [2]))).code).toBe('unavailable')
    await server.restart(users('old'))
    await vi.waitFor(async () => expect(await append(log, 'c', [2])).toMatchObject({ first: 2 }), { timeout: 10_000 })
  })

  test('A NATS that is there and does not answer is told, and that it answers again', { timeout: 40_000 }, async () => {
    const server = await serverOf({})
    const log = await opened({ servers: [server.url] })
    await append(log, 'c', [1])
    server.pause(true)
    await vi.waitFor(
      () =>
        expect(log.health()).toMatchObject({ state: 'reopening', reason: expect.stringMatching(/not answer|no conn/) }),
      { timeout: 15_000 },
    )
    server.pause(false)
    await vi.waitFor(() => expect(log.health().state).toBe('ok'), { timeout: 10_000 })
    expect(await append(log, 'c', [2])).toMatchObject({ first: 2 })
  })

  test('A stream that is changed so that it loses events is told', async () => {
    const namespace = newPlace()
    const log = await opened({ namespace })
    const jsm = await jetstreamManager(await operator())
    await jsm.streams.update(`TIDEMARK_${namespace}`, { max_age: 3_600_000_000_000 })
    const told = { state: 'reopening', reason: expect.stringContaining('drops events') }
    await vi.waitFor(() => expect(log.health()).toMatchObject(told), { timeout: 10_000 })
    await jsm.streams.update(`TIDEMARK_${namespace}`, { max_age: 0 })
    await vi.waitFor(() => expect(log.health().state).toBe('ok'), { timeout: 10_000 })
  })

  test('Credentials that are none are refused in words', async () => {
    const server = await serverOf({ more: 'authorization { user: u, password: p }' })
    const open = (options: Partial<NatsOptions>) => refusal(opened({ servers: [server.url], ...options }))
    expect(await open({})).toMatchObject({ code: 'wrong-config' })
    expect(await open({ user: 'u', password: 'x' })).toMatchObject({ code: 'wrong-config' })
    expect(await open({ credentials: Buffer.from('rubbish') })).toMatchObject({ code: 'wrong-config' })
    expect(await open({ servers: ['no server at all'] })).toMatchObject({
      code: expect.stringMatching(/wrong-config|unavailable/),
    })
  })

  test('A server whose messages are too small for a block is refused', async () => {
    const server = await serverOf({ more: 'max_payload: 65536' })
    expect(await refusal(opened({ servers: [server.url] }))).toMatchObject({ code: 'wrong-config' })
  })

  test.for([
    { max_age: 3_600_000_000_000 },
    { max_msgs: 1_000 },
    { max_bytes: 1_000_000 },
    { max_msgs_per_subject: 10 },
    { republish: undefined },
    { deny_purge: true },
    { max_msg_size: 1_000 },
  ])('A stream that loses events, or is not told of, is refused: %o', async (config) => {
    const namespace = newPlace()
    const first = await opened({ namespace })
    await first.close()
    const jsm = await jetstreamManager(await operator())
    const name = `TIDEMARK_${namespace}`
    const now = (await jsm.streams.info(name)).config
    await jsm.streams.delete(name)
    await jsm.streams.add({ ...now, ...config } as never)
    expect(await refusal(opened({ namespace }))).toMatchObject({ code: 'wrong-config' })
  })

  test('Moves of one cursor that arrive together are few writes', async () => {
    const namespace = newPlace()
    const log = await opened({ namespace })
    await append(log, 'c', range(1, 500))
    const cursors = await Promise.all(range(1, 500).map((seq) => log.commit('web', 'c', { seq })))
    expect(cursors.map(({ seq }) => seq)).toEqual(range(1, 500))
    const jsm = await jetstreamManager(await operator())
    const { state } = await jsm.streams.info(`KV_TIDEMARK_${namespace}_CURSORS`)
    expect(state.last_seq).toBeLessThan(20)
  })
})
