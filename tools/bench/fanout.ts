/** W2: what is appended to one channel is delivered to many sockets. Events are counted at the receivers. */
import type { Drain, DrainReport, LoadReport } from './drive.ts'
import type { Count, Measure } from './figures.ts'
import { grouped, type Lab, type Server } from './lab.ts'
import { rawWritesLimit, rawWritesName } from './limits.ts'
import { httpAppends, subscription, type Wire } from './requests.ts'

export interface Publishing {
  readonly name: string
  readonly publishers: number
  /** Events of an append. */
  readonly size: number
  /** Events in one write of the raw limit that it is compared with. */
  readonly perWrite: number
}

const CHANNEL = 'bench'

function publishings({ publishers, batch }: Lab['scale']): readonly Publishing[] {
  return [
    { name: '1 publisher', publishers: 1, size: 1, perWrite: 1 },
    { name: `${publishers} publishers`, publishers, size: 1, perWrite: publishers },
    { name: `1 publisher, batches of ${batch}`, publishers: 1, size: batch, perWrite: batch },
  ]
}

export const title = (): string => 'W2  fan-out: events delivered to all sockets; published over HTTP JSON'

export async function* run(lab: Lab): AsyncGenerator<Measure> {
  for (const sockets of lab.scale.fanout)
    for (const publishing of publishings(lab.scale)) {
      const bareName = `bare node:http + fsync + frames, ${nameOf(sockets, publishing)}`
      const limits = [bareName, rawWritesName(lab, publishing.perWrite, sockets)]
      for (const wire of ['msgpack', 'json'] as const) {
        const name = `${wire === 'json' ? 'JSON' : 'MessagePack'}, ${nameOf(sockets, publishing)}`
        if (!lab.wants(name)) continue
        const server = await lab.tidemark(`${CHANNEL}-${wire}`)
        yield await measure(lab, server, wire, sockets, publishing, { name, subject: 'tidemark', limits })
        await server.stop()
      }
      if (lab.wants(bareName)) {
        const server = await lab.bare('http')
        yield await measure(lab, server, 'json', sockets, publishing, { name: bareName, subject: 'limit' })
        await server.stop()
      }
      if (lab.wants(limits[1]!)) yield await rawWritesLimit(lab, publishing.perWrite, sockets)
    }
}

const nameOf = (sockets: number, publishing: Publishing): string =>
  `${grouped(sockets)} ${sockets === 1 ? 'socket' : 'sockets'}, ${publishing.name}`

async function measure(
  lab: Lab,
  server: Server,
  wire: Wire,
  sockets: number,
  publishing: Publishing,
  row: Pick<Measure, 'name' | 'subject' | 'limits'>,
): Promise<Measure> {
  const channel = `${CHANNEL}-${wire}`
  const drain = await subscribers(lab, server, wire, channel, sockets)
  const { seconds, warm } = lab.scale
  const load = {
    port: server.port,
    requests: httpAppends(server.port, channel, 'json', publishing.size),
    protocol: 'http',
    connections: publishing.publishers,
  } as const
  const warmed = await lab.drive.load(server.child, { ...load, seconds: warm })
  await drain.arrived(warmed.total * sockets)
  await drain.reset()
  const before = server.child.usage()
  const work = async () => {
    const sent = await lab.drive.load(server.child, { ...load, seconds })
    return { sent, got: await drain.exactly(sent.total * sockets) }
  }
  const { sent, got } = await (row.subject === 'limit' ? work() : lab.watched(server, row.name, work, delivered))
  const after = server.child.usage()
  await drain.stop()
  return {
    ...row,
    figure: (got.events / (got.last - got.first)) * 1e6,
    unit: 'events/s',
    durability: server.durability,
    cpu: before && after ? ((after.cpu - before.cpu) / got.events) * 1e6 : undefined,
    p50: got.p50us / 1e3,
    p99: got.p99us / 1e3,
    counts: deliveryCounts(sent, got, sockets),
    facts: deliveryFacts(sent, got),
  }
}

/** What was done is told for each appended event and for each delivery. */
export const delivered = ({ sent, got }: { sent: LoadReport; got: DrainReport }): Readonly<Record<string, number>> => ({
  'appended event': sent.total,
  delivery: got.events,
})

/** Opens subscribers at the head; resolves when all of them have caught up. */
export function subscribers(lab: Lab, server: Server, wire: Wire, channel: string, sockets: number): Promise<Drain> {
  const opening = subscription(server.port, wire, channel, 'head')
  return lab.drive.drain({ port: server.port, connections: sockets, mode: 'ws', opening, ready: 'caughtup' })
}

/** Every socket got every event once, all in one order, and no socket was closed. */
export function deliveryCounts(sent: LoadReport, got: DrainReport, sockets: number): readonly Count[] {
  return [
    { what: 'events delivered', wanted: sent.total * sockets, got: got.events },
    { what: 'sockets with the same events in the same order', wanted: sockets, got: got.agree },
    { what: 'sum of their stamps', wanted: sent.sum, got: got.sum },
    { what: 'closed sockets', wanted: 0, got: got.closed },
  ]
}

export function deliveryFacts(sent: LoadReport, got: DrainReport): Readonly<Record<string, number>> {
  const { events, frames, bytes } = got
  return {
    published: sent.total,
    publishedPerSecond: sent.events / sent.seconds,
    ackP50: sent.p50us / 1e3,
    ackP99: sent.p99us / 1e3,
    late: sent.late,
    eventsPerFrame: frames > 0 ? events / frames : 0,
    bytesPerEvent: events > 0 ? bytes / events : 0,
    receiversCpuSeconds: got.cpu,
  }
}
