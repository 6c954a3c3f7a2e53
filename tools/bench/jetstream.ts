/**
 * W9: the log on NATS JetStream. Append, fan-out and catch-up through a gateway, beside the same nats-server driven
 * directly and the level engine; two gateways on one channel; many channels.
 */
import { HOME } from '../../src/server/home.ts'
import { appendsTo, type How } from './append.ts'
import { CHANNEL, clientReads, readAll } from './catchup.ts'
import { appendsInTurn } from './channels.ts'
import { holding } from './crowd.ts'
import { type Delivery, fanOut, subscribers } from './fanout.ts'
import type { Measure } from './figures.ts'
import { fill, fillBy, fillChannels, headCount } from './fill.ts'
import { type Gateway, Gateways, messagesOf, syncName } from './gateways.ts'
import { appendMeasure, grouped, type Lab, type Server } from './lab.ts'
import { CONSUMING, messagesIn, publishing, SUBSCRIBER, type Sync } from './nats.ts'
import type { Receiving, Sending } from './peer.ts'
import { races } from './racing.ts'
import { httpAppends, subscription } from './requests.ts'

/** Appends: in which form to Tidemark, and as how many publishes at once, how many times at once, to NATS. */
interface Kind {
  readonly work: string
  readonly name: string
  readonly how: How
  readonly size: number
  readonly depth: number
}

const FANNED = 'w9-fan-out'
const LEVEL = 'level engine'
const over = (sync: Sync): string => `over NATS, ${syncName(sync)}`
const byClient = (sync: Sync): string => `NATS alone by its Node client, ${syncName(sync)}`
const byProtocol = (sync: Sync): string => `NATS alone from C, ${syncName(sync)}`

function kindsOf({ batch, inFlight }: Lab['scale']): readonly Kind[] {
  return [
    { work: '1 event', name: 'HTTP JSON, 1 event', how: { over: 'http', form: 'json', size: 1 }, size: 1, depth: 1 },
    {
      work: `batches of ${batch}`,
      name: `HTTP JSON, batches of ${batch}`,
      how: { over: 'http', form: 'json', size: batch },
      size: batch,
      depth: 1,
    },
    {
      work: `${inFlight} in flight`,
      name: `WebSocket MessagePack, ${inFlight} in flight`,
      how: { over: 'ws', wire: 'msgpack', depth: inFlight },
      size: 1,
      depth: inFlight,
    },
  ]
}

export const title = (lab: Lab): string =>
  `W9  over NATS JetStream, one nats-server, files: ${lab.scale.producers} producers, one channel, one gateway, if not named otherwise`

export async function* run(lab: Lab): AsyncGenerator<Measure> {
  const gateways = await Gateways.open(lab)
  if (gateways === undefined) return
  try {
    for (const kind of kindsOf(lab.scale)) yield* appends(lab, gateways, kind)
    yield* spread(lab, gateways)
    yield* races(lab, gateways)
    yield* fanOuts(lab, gateways)
    yield* catchUps(lab, gateways)
    yield* holding(lab, gateways)
  } finally {
    await gateways.end()
  }
}

/** A row of a gateway, then what it asked of the nats-server below it, the warm-up included. */
async function* withNats({ nats }: Gateway, measure: () => Promise<Measure>): AsyncGenerator<Measure> {
  const [blocksBefore, before] = [await messagesOf(nats), nats.child.usage()]
  const measured = await measure()
  const [after, blocksAfter] = [nats.child.usage(), await messagesOf(nats)]
  yield measured
  const { name, durability, facts } = measured
  const blocks = blocksAfter - blocksBefore
  const row = { subject: 'tidemark', durability } as const
  yield { ...row, name: `${name}: events in a block`, figure: facts!.total! / blocks, unit: 'events/block' }
  if (!before || !after) return
  const figure = ((after.cpu - before.cpu) / blocks) * 1e6
  yield { ...row, name: `${name}: CPU of nats-server`, figure, unit: 'µs/block' }
}

async function* appends(lab: Lab, gateways: Gateways, { name, work, how, size, depth }: Kind): AsyncGenerator<Measure> {
  const level = `${name}, ${LEVEL}`
  const channel = `w9-${work.replaceAll(' ', '-')}`
  if (lab.wants(level)) {
    const server = await lab.tidemark(channel)
    yield await appendsTo(lab, server, channel, how, {
      name: level,
      subject: 'tidemark',
      durability: server.durability,
    })
    await server.stop()
  }
  for (const sync of lab.scale.syncs) {
    const [own, client, protocol] = [
      `${name}, ${over(sync)}`,
      `${work}, ${byClient(sync)}`,
      `${work}, ${byProtocol(sync)}`,
    ]
    if (lab.wants(own)) {
      const gateway = await gateways.gateway(channel, sync)
      const limits = [client, protocol, level]
      const row = { name: own, subject: 'tidemark', durability: gateway.durability, limits } as const
      yield* withNats(gateway, () => appendsTo(lab, gateway, channel, how, row))
      await gateway.stop()
    }
    if (lab.wants(client)) yield await publishes(lab, gateways, sync, client, { protocol: 'nats', size }, depth)
    // A batch from each connection, and an fsync for each message: none would be whole within the time of a row.
    const isWhole = size === 1 || sync === 'default'
    if (lab.wants(protocol) && lab.language === 'C' && isWhole)
      yield await publishes(lab, gateways, sync, protocol, publishing(size), depth)
  }
}

/** Rows so far, of all runs: each has channels of its own, also where rows share servers. */
let spreads = 0

/** Single events to many channels: a block each, since blocks hold events of one channel. */
async function* spread(lab: Lab, gateways: Gateways): AsyncGenerator<Measure> {
  const { work, name: form } = kindsOf(lab.scale)[0]!
  const channels = lab.scale.channels.at(-1)!
  for (const sync of lab.scale.syncs) {
    const onOne = `${form}, ${over(sync)}`
    const name = `${onOne}, ${grouped(channels)} channels`
    if (!lab.wants(name)) continue
    const prefix = `w9-many-${spreads++}`
    const gateway = await gateways.gateway('w9', sync)
    const made = await fillChannels(lab, gateway, prefix, channels, 1)
    const limits = [`${work}, ${byClient(sync)}`, `${work}, ${byProtocol(sync)}`, onOne]
    const row = { name, subject: 'tidemark', durability: gateway.durability, limits } as const
    const filled = { prefix, channels, made }
    yield* withNats(gateway, () => appendsInTurn(lab, gateway, filled, { form: 'json', size: 1 }, row))
    await gateway.stop()
  }
}

/** Appends of all producers to a nats-server alone. */
async function publishes(
  lab: Lab,
  gateways: Gateways,
  sync: Sync,
  name: string,
  sending: Sending,
  depth: number,
): Promise<Measure> {
  const server = await gateways.direct(sync)
  const { producers: connections, seconds, warm } = lab.scale
  const load = { ...sending, port: server.port, connections, depth, seconds, warm }
  const report = await lab.drive.load(server.child, load)
  const counts = [{ what: 'events in the log', wanted: report.total, got: await messagesIn(server.port) }]
  await server.stop()
  return appendMeasure({ name, subject: 'limit', durability: server.durability }, report, counts)
}

async function* fanOuts(lab: Lab, gateways: Gateways): AsyncGenerator<Measure> {
  const { publishers: connections } = lab.scale
  const sockets = Math.max(...lab.scale.fanout)
  const work = `fan-out, ${grouped(sockets)} sockets, ${connections} publishers`
  const own = (server: Server): Delivery => ({
    load: {
      ...{ port: server.port, protocol: 'http', connections },
      requests: httpAppends(server.port, FANNED, 'json', 1),
    },
    open: (n) => subscribers(lab, server, 'msgpack', FANNED, n),
  })
  const level = `${work}, ${LEVEL}`
  if (lab.wants(level)) {
    const server = await lab.tidemark(FANNED)
    yield await fanOut(lab, server, own(server), sockets, { name: level, subject: 'tidemark' })
    await server.stop()
  }
  for (const sync of lab.scale.syncs) {
    const [name, direct] = [`${work}, ${over(sync)}`, `${work}, ${byClient(sync)}`]
    if (lab.wants(name)) {
      const gateway = await gateways.gateway(FANNED, sync)
      const row = { name, subject: 'tidemark', limits: [direct, level] } as const
      yield* withNats(gateway, () => fanOut(lab, gateway, own(gateway), sockets, row))
      await gateway.stop()
    }
    if (lab.wants(direct) && lab.language === 'C') {
      const server = await gateways.direct(sync)
      const load = { port: server.port, protocol: 'nats', size: 1, connections } as const
      const open = (n: number) => lab.drive.drain({ port: server.port, connections: n, ...SUBSCRIBER })
      yield await fanOut(lab, server, { load, open }, sockets, { name: direct, subject: 'limit' })
      await server.stop()
    }
  }
}

/** Readers ask nothing of the disk that `sync_interval` would change: NATS has its default here. */
async function* catchUps(lab: Lab, gateways: Gateways): AsyncGenerator<Measure> {
  const { stored, batch } = lab.scale
  const work = `catch-up, ${grouped(stored)} events`
  const name = (reader: 'WebSocket MessagePack' | 'tidemark/client', side: string) => `${work}, ${reader}, ${side}`
  const [levelName, levelClient] = [name('WebSocket MessagePack', LEVEL), name('tidemark/client', LEVEL)]
  const [ownName, ownClient] = [name('WebSocket MessagePack', 'over NATS'), name('tidemark/client', 'over NATS')]
  const [direct, client] = [`${work}, NATS alone, push consumer`, `${work}, NATS alone, its Node client`]
  const rows = async function* (server: Server, names: readonly [string, string], limits: [string, string][]) {
    const filled = await fill(lab, server, CHANNEL, stored)
    const held = await headCount(server, CHANNEL, filled.events, 'events in the log')
    const open = (): Receiving => ({ mode: 'ws', opening: subscription(server.port, 'msgpack', CHANNEL, 0) })
    for (const [i, name] of names.entries()) {
      if (!lab.wants(name)) continue
      const row = { name, subject: 'tidemark', limits: limits.map((pair) => pair[i]!) } as const
      const read = i === 0 ? readAll(lab, server, filled, row, open) : clientReads(server, filled, row, 'msgpack')
      const measure = await read
      yield { ...measure, counts: [held, ...measure.counts!] }
    }
  }
  // Where nothing is measured, W4 has shown that it counts.
  if (!lab.shares && (lab.wants(levelName) || lab.wants(levelClient))) {
    const server = await lab.fresh()
    yield* rows(server, [levelName, levelClient], [])
    await server.stop()
  }
  if (lab.wants(ownName) || lab.wants(ownClient)) {
    const gateway = await gateways.gateway('w9', 'default')
    yield* rows(
      gateway,
      [ownName, ownClient],
      [
        [direct, client],
        [levelName, levelClient],
      ],
    )
    await gateway.stop()
  }
  if (!lab.wants(direct) && !lab.wants(client)) return
  const server = await gateways.direct('default')
  const sending: Sending = lab.language === 'C' ? publishing(batch) : { protocol: 'nats', size: batch }
  const filled = await fillBy(lab, server, sending, stored)
  if (lab.wants(direct) && lab.language === 'C')
    yield await readAll(lab, server, filled, { name: direct, subject: 'limit' }, () => CONSUMING)
  if (lab.wants(client)) yield await clientReads(server, filled, { name: client, subject: 'limit' }, 'nats', HOME)
  await server.stop()
}
