/** W9: two gateways that append to one channel, beside one gateway and beside two that append to a channel each. */

import { loadOf } from './append.ts'
import type { LoadReport } from './drive.ts'
import type { Count, Measure } from './figures.ts'
import { type Gateway, type Gateways, messagesOf, syncName, triesOf } from './gateways.ts'
import { appendedOnly, appendMeasure, type Lab, type Server } from './lab.ts'
import type { Sync } from './nats.ts'
import { subscription } from './requests.ts'
import { channelState, makeChannel } from './target.ts'

/** Rows so far, of all runs: each has channels of its own, also where rows share servers. */
let rows = 0

const SHAPES = [
  { name: '1 gateway, 1 channel', gateways: 1, channels: 1 },
  { name: '2 gateways, 1 channel', gateways: 2, channels: 1 },
  { name: '2 gateways, 2 channels', gateways: 2, channels: 2 },
] as const

const nameOf = (shape: string, sync: Sync): string => `${shape}, HTTP JSON, 1 event, ${syncName(sync)}`

export async function* races(lab: Lab, gateways: Gateways): AsyncGenerator<Measure> {
  for (const sync of lab.scale.syncs)
    for (const shape of SHAPES) {
      const name = nameOf(shape.name, sync)
      if (!lab.wants(name)) continue
      const channels = Array.from({ length: shape.channels }, (_, i) => `race-${rows}-${i}`)
      rows++
      const first = await gateways.gateway(channels[0]!, sync)
      const others = shape.gateways === 1 ? [] : [await gateways.second(first, sync)]
      for (const channel of channels) await makeChannel(first.port, channel)
      const limits = SHAPES.filter((other) => other !== shape).map((other) => nameOf(other.name, sync))
      yield* race(lab, first, [first, ...others], channels, { name, limits })
      for (const other of others) await other.stop()
      await first.stop()
    }
}

/** All producers, shared among the gateways; each gateway appends to the channel of its number. */
async function* race(
  lab: Lab,
  { nats, durability }: Gateway,
  servers: readonly Server[],
  channels: readonly string[],
  { name, limits }: Required<Pick<Measure, 'name' | 'limits'>>,
): AsyncGenerator<Measure> {
  const of = (i: number): string => channels[i % channels.length]!
  const tries = async (): Promise<number> => {
    const each = await Promise.all(servers.map((server, i) => triesOf(server, nats, `tries-${of(i)}-${i}`)))
    return each.reduce((sum, n) => sum + n, 0)
  }
  const heads = async (server: Server): Promise<number[]> =>
    Promise.all(channels.map(async (channel) => (await channelState(server.port, channel)).head))
  const triedBefore = await tries()
  const [headsBefore, storedBefore] = [await heads(servers[0]!), await messagesOf(nats)]
  const connections = lab.scale.producers / servers.length
  const work = (): Promise<LoadReport[]> =>
    Promise.all(
      servers.map((server, i) =>
        lab.drive.load(server.child, {
          ...loadOf(lab, server.port, of(i), { over: 'http', form: 'json', size: 1 }),
          connections,
        }),
      ),
    )
  const reports = await lab.watched(servers[0]!, name, work, (all) => appendedOnly(joined(all)))
  const stored = (await messagesOf(nats)) - storedBefore
  // What each gateway tried in between, without the write by which it was asked.
  const tried = (await tries()) - triedBefore - servers.length
  const report = joined(reports)
  const counts: Count[] = []
  for (const server of servers)
    for (const [i, head] of (await heads(server)).entries()) {
      const wanted = totalOf(reports.filter((_, n) => of(n) === channels[i]))
      counts.push({ what: 'seqs that the channel rose by', wanted, got: head - headsBefore[i]! })
    }
  for (const [i, channel] of channels.entries()) {
    const sent = joined(reports.filter((_, n) => of(n) === channel))
    counts.push(...(await readBack(lab, servers.at(-1)!, channel, headsBefore[i]!, sent)))
  }
  yield appendMeasure({ name, subject: 'tidemark', durability, limits }, report, counts)
  yield {
    name: `${name}: tries of a write`,
    subject: 'tidemark',
    figure: tried / stored,
    unit: 'tries/write',
    durability,
    facts: { tried, stored, eventsPerWrite: report.total / stored },
  }
}

/** One reader of one gateway gets what was appended through all, each event once. */
async function readBack(lab: Lab, server: Server, channel: string, after: number, sent: LoadReport): Promise<Count[]> {
  const opening = subscription(server.port, 'msgpack', channel, after)
  const drain = await lab.drive.drain({ port: server.port, connections: 1, mode: 'ws', opening })
  const got = await drain.exactly(sent.total)
  await drain.stop()
  return [
    { what: 'events read', wanted: sent.total, got: got.events },
    { what: 'sum of their stamps', wanted: sent.sum, got: got.sum },
  ]
}

const totalOf = (reports: readonly LoadReport[]): number => reports.reduce((sum, { total }) => sum + total, 0)

/** Loads that ran beside each other, as one. */
function joined(reports: readonly LoadReport[]): LoadReport {
  const sumOf = (pick: (report: LoadReport) => number): number => reports.reduce((sum, each) => sum + pick(each), 0)
  const mostOf = (pick: (report: LoadReport) => number): number => Math.max(...reports.map(pick))
  const cpu = reports.map(({ serverCpu }) => serverCpu).filter((seconds) => seconds !== undefined)
  return {
    answered: sumOf((report) => report.answered),
    events: sumOf((report) => report.events),
    seconds: mostOf((report) => report.seconds),
    p50us: mostOf((report) => report.p50us),
    p99us: mostOf((report) => report.p99us),
    total: totalOf(reports),
    sum: String(
      BigInt.asUintN(
        64,
        reports.reduce((sum, each) => sum + BigInt(each.sum), 0n),
      ),
    ),
    errors: sumOf((report) => report.errors),
    late: sumOf((report) => report.late),
    cpu: sumOf((report) => report.cpu),
    serverCpu: cpu.length === reports.length ? cpu.reduce((sum, seconds) => sum + seconds, 0) : undefined,
  }
}
