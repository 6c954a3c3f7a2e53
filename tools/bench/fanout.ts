/** W2: what is appended to one channel is delivered to many sockets. Events are counted at the receivers. */
import type { Drain, DrainReport, LoadOptions, LoadReport } from './drive.ts'
import type { Count, Measure } from './figures.ts'
import { grouped, type Lab, type Server } from './lab.ts'
import { rawWritesLimit, rawWritesName } from './limits.ts'
import type { Peer } from './peer.ts'
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

/** Who publishes how, who receives, and in which order all of them get it. */
export interface Delivery {
  readonly load: Pick<LoadOptions, 'port' | 'requests' | 'protocol' | 'lines' | 'size' | 'connections' | 'rate'>
  open(sockets: number): Promise<Drain>
  readonly reorders?: boolean | undefined
}

export const title = (): string =>
  'W2  fan-out: events delivered to all sockets; published over HTTP JSON, to peers in their own protocol'

export async function* run(lab: Lab): AsyncGenerator<Measure> {
  const most = Math.max(...lab.scale.fanout)
  for (const sockets of lab.scale.fanout)
    for (const publishing of publishings(lab.scale)) {
      const bareName = `bare node:http + fsync + frames, ${nameOf(sockets, publishing)}`
      const limits = [bareName, rawWritesName(lab, publishing.perWrite, sockets)]
      for (const wire of ['msgpack', 'json'] as const) {
        const name = `${wire === 'json' ? 'JSON' : 'MessagePack'}, ${nameOf(sockets, publishing)}`
        if (!lab.wants(name)) continue
        const server = await lab.tidemark(`${CHANNEL}-${wire}`)
        const delivery = ownDelivery(lab, server, wire, `${CHANNEL}-${wire}`, publishing)
        const work = nameOf(sockets, publishing)
        yield await fanOut(lab, server, delivery, sockets, { name, subject: 'tidemark', limits, work })
        await server.stop()
      }
      if (lab.wants(bareName)) {
        const server = await lab.bare('http')
        const delivery = ownDelivery(lab, server, 'json', `${CHANNEL}-json`, publishing)
        yield await fanOut(lab, server, delivery, sockets, { name: bareName, subject: 'limit' })
        await server.stop()
      }
      if (lab.wants(limits[1]!)) yield await rawWritesLimit(lab, publishing.perWrite, sockets)
      if (sockets === most) yield* peerRows(lab, sockets, publishing)
    }
}

const nameOf = (sockets: number, publishing: Publishing): string =>
  `${grouped(sockets)} ${sockets === 1 ? 'socket' : 'sockets'}, ${publishing.name}`

async function* peerRows(lab: Lab, sockets: number, publishing: Publishing): AsyncGenerator<Measure> {
  const work = nameOf(sockets, publishing)
  for (const peer of lab.peersIn('W2')) {
    const name = `${peer.name}, ${work}`
    if (!lab.wants(name) || peer.sending(publishing.size) === undefined) continue
    yield* lab.ofPeer(peer, async function* (server) {
      const delivery = peerDelivery(lab, server, peer, publishing)
      yield await fanOut(lab, server, delivery, sockets, { name, subject: 'peer', work })
    })
  }
}

/** Tidemark, or a bare server that looks like it. */
export function ownDelivery(
  lab: Lab,
  server: Server,
  wire: Wire,
  channel: string,
  publishing: Pick<Publishing, 'publishers' | 'size'>,
): Delivery {
  const requests = httpAppends(server.port, channel, 'json', publishing.size)
  return {
    load: { port: server.port, requests, protocol: 'http', connections: publishing.publishers },
    open: (sockets) => subscribers(lab, server, wire, channel, sockets),
  }
}

export function peerDelivery(
  lab: Lab,
  server: Server,
  peer: Peer,
  publishing: Pick<Publishing, 'publishers' | 'size'>,
): Delivery {
  const sending = peer.sending(publishing.size)!
  return {
    load: { port: server.port, ...sending, connections: publishing.publishers },
    open: (connections) => lab.drive.drain({ port: server.port, connections, ...peer.receiving(server) }),
    reorders: peer.reorders && publishing.publishers > 1,
  }
}

/** Publishes for the time of a row, and counts what each socket gets. */
export async function fanOut(
  lab: Lab,
  server: Server,
  { load, open, reorders }: Delivery,
  sockets: number,
  row: Pick<Measure, 'name' | 'subject' | 'limits' | 'work'>,
): Promise<Measure> {
  const drain = await open(sockets)
  const { seconds, warm } = lab.scale
  const warmed = await lab.drive.load(server.child, { ...load, seconds: warm })
  await drain.arrived(warmed.total * sockets)
  await drain.reset()
  const before = server.child.usage()
  const work = async () => {
    const sent = await lab.drive.load(server.child, { ...load, seconds })
    return { sent, got: await drain.exactly(sent.total * sockets) }
  }
  const { sent, got } = await (row.subject !== 'tidemark' ? work() : lab.watched(server, row.name, work, delivered))
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
    counts: deliveryCounts(sent, got, sockets, reorders),
    facts: { ...deliveryFacts(sent, got), total: warmed.total + sent.total },
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

/** Every socket got every event once, all in one order (where that is promised), and no socket was closed. */
export function deliveryCounts(
  sent: LoadReport,
  got: DrainReport,
  sockets: number,
  reorders = false,
): readonly Count[] {
  const order = { what: 'sockets with the same events in the same order', wanted: sockets, got: got.agree }
  const least = { what: 'fewest events of a socket', wanted: sent.total, got: got.least }
  return [
    { what: 'events delivered', wanted: sent.total * sockets, got: got.events },
    reorders ? least : order,
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
