/** W3: from the moment at which an event is due to be appended until it arrived at a subscriber, at a steady rate. */
import { type Delivery, deliveryCounts, deliveryFacts, ownDelivery, peerDelivery } from './fanout.ts'
import type { Measure } from './figures.ts'
import { grouped, type Lab, type Server } from './lab.ts'
import { fsyncLimit } from './limits.ts'
import { httpAppends, subscription, type Wire } from './requests.ts'
import { neverReading } from './stalled.ts'

const FSYNC = 'write + fdatasync, 4 KiB, ms'
const BARE = 'bare node:http + fsync + frames'

export const title = (lab: Lab): string =>
  `W3  latency at ${grouped(lab.scale.rate)} events/s, ${lab.scale.subscribers} subscribers, ${lab.scale.publishers} publishers over HTTP JSON`

export async function* run(lab: Lab): AsyncGenerator<Measure> {
  const publishing = { publishers: lab.scale.publishers, size: 1 }
  const own = (server: Server, wire: Wire): Delivery => ownDelivery(lab, server, wire, wire, publishing)
  for (const wire of ['msgpack', 'json'] as const) {
    const name = wire === 'json' ? 'JSON' : 'MessagePack'
    if (!lab.wants(name)) continue
    const server = await lab.tidemark(wire)
    yield* measure(lab, server, own(server, wire), { name, subject: 'tidemark', limits: [BARE] })
    await server.stop()
    // The same once more beside sockets that never read: what they cost the others, and the server's memory.
    const stalled = `${name}, beside ${grouped(lab.scale.stalled)} that never read`
    const other = await lab.tidemark(wire)
    yield residentMemory(other, `${stalled}, memory before`)
    // More than a socket's buffers hold, so that each of them stands still before anything is measured.
    const backlog = httpAppends(other.port, wire, 'json', lab.scale.batch)
    await lab.drive.load(other.child, {
      port: other.port,
      requests: backlog,
      protocol: 'http',
      connections: 1,
      count: BACKLOG,
    })
    const end = await neverReading(other.port, subscription(other.port, wire, wire, 0), lab.scale.stalled)
    await atRest(other)
    yield* measure(lab, other, own(other, wire), { name: stalled, subject: 'tidemark', limits: [BARE] })
    yield residentMemory(other, `${stalled}, memory after`)
    end()
    await other.stop()
  }
  if (lab.wants(BARE)) {
    const server = await lab.bare('http')
    yield* measure(lab, server, own(server, 'json'), { name: BARE, subject: 'limit' })
    await server.stop()
  }
  for (const peer of lab.peersIn('W3')) {
    if (!lab.wants(peer.name)) continue
    const row = { name: peer.name, subject: 'peer' } as const
    yield* lab.ofPeer(peer, (server) => measure(lab, server, peerDelivery(lab, server, peer, publishing), row))
  }
  if (lab.wants(FSYNC)) {
    const limit = fsyncLimit(FSYNC, lab)
    yield { ...limit, figure: limit.p50!, unit: 'ms' }
  }
}

/** Appends of `batch` events: some 8 MB, more than the kernel keeps for a socket that does not read. */
const BACKLOG = 300

/** Resolves when the server has nothing more to do. */
async function atRest(server: Server): Promise<void> {
  const cpu = (): number => server.child.usage()?.cpu ?? 0
  for (let before = -1; cpu() - before > 0.05; ) {
    before = cpu()
    await new Promise((resolve) => setTimeout(resolve, 500))
  }
}

function residentMemory(server: Server, name: string): Measure {
  const bytes = server.child.usage()?.rss ?? Number.NaN
  return { name, subject: 'tidemark', figure: bytes / 2 ** 20, unit: 'MiB', durability: '-' }
}

async function* measure(
  lab: Lab,
  server: Server,
  { load: publish, open, reorders }: Delivery,
  row: { name: string; subject: Measure['subject']; limits?: readonly string[] },
): AsyncGenerator<Measure> {
  const { subscribers: sockets, rate, seconds, warm } = lab.scale
  const drain = await open(sockets)
  const load = { ...publish, rate }
  const warmed = await lab.drive.load(server.child, { ...load, seconds: warm })
  await drain.arrived(warmed.total * sockets)
  await drain.reset()
  const work = () => lab.drive.load(server.child, { ...load, seconds })
  const sent = await (row.subject !== 'tidemark'
    ? work()
    : lab.watched(server, row.name, work, ({ total }) => ({ 'appended event': total, delivery: total * sockets })))
  const got = await drain.exactly(sent.total * sockets)
  await drain.stop()
  const common = { subject: row.subject, unit: 'ms', durability: server.durability } as const
  const limits = (kind: string): readonly string[] => (row.limits ?? []).map((limit) => `${limit}, ${kind}`)
  yield {
    ...common,
    name: `${row.name}, delivery`,
    work: 'delivery',
    limits: limits('delivery'),
    figure: got.p50us / 1e3,
    p99: got.p99us / 1e3,
    cpu: sent.serverCpu === undefined ? undefined : (sent.serverCpu / (sent.events * sockets)) * 1e6,
    counts: deliveryCounts(sent, got, sockets, reorders),
    facts: { ...deliveryFacts(sent, got), serverCores: (sent.serverCpu ?? 0) / sent.seconds },
  }
  yield {
    ...common,
    name: `${row.name}, answer`,
    work: 'answer',
    limits: limits('answer'),
    figure: sent.p50us / 1e3,
    p99: sent.p99us / 1e3,
    cpu: sent.serverCpu === undefined ? undefined : (sent.serverCpu / sent.events) * 1e6,
    facts: { reached: sent.events / sent.seconds, serverCores: (sent.serverCpu ?? 0) / sent.seconds },
  }
}
