/**
 * W7: what is appended is delivered to many clients that wait in long polls, each of which asks again from its new
 * position at once. Events are counted at the clients.
 */
import type { DrainOptions, DrainReport, LoadReport } from './drive.ts'
import { delivered, deliveryCounts, deliveryFacts } from './fanout.ts'
import type { Measure } from './figures.ts'
import { grouped, type Lab, type Server } from './lab.ts'
import type { Sending } from './peer.ts'
import { httpAppends, inTurn, manyWaitRequest, nameInTurn, waitRequest } from './requests.ts'
import { makeChannel } from './target.ts'

const JSON_TYPE = 'application/json'
/** Less can't be told by the clock of /proc, seconds. */
const CPU_SECONDS_MIN = 0.01

/** Rows so far, of all runs. */
let rows = 0

type Asking = Pick<DrainOptions, 'opening' | 'from'>

interface Pace {
  readonly name: string
  /** Events a second; as fast as they are answered without it. */
  readonly rate?: number
}

interface Kind {
  readonly name: string
  /** Channels of a request. */
  readonly channels: number
  asking(port: number, prefix: string): Asking
}

export const title = (lab: Lab): string =>
  `W7  ${grouped(lab.scale.waiting)} clients in long polls, one publisher over HTTP JSON`

const paces = ({ waitingRate }: Lab['scale']): readonly Pace[] => [
  { name: `${waitingRate} events/s`, rate: waitingRate },
  { name: 'as fast as answered' },
]

const BARE = 'bare node:http + fsync, long poll'

const kinds = ({ polledChannels }: Lab['scale']): readonly Kind[] => [
  { name: 'GET JSON', channels: 1, asking: (port, prefix) => waiting(port, nameInTurn(prefix, 0), JSON_TYPE, 1) },
  {
    name: 'GET MessagePack',
    channels: 1,
    asking: (port, prefix) => waiting(port, nameInTurn(prefix, 0), 'application/msgpack', 1),
  },
  {
    name: `POST /v1/poll, ${polledChannels} channels`,
    channels: polledChannels,
    asking: (port, prefix) => ({ opening: manyWaitRequest(port, namesOf(prefix, polledChannels)), from: 1 }),
  },
]

const waiting = (port: number, channel: string, accept: string, from: number): Asking => ({
  opening: waitRequest(port, channel, accept),
  from,
})

const namesOf = (prefix: string, n: number): string[] => Array.from({ length: n }, (_, i) => nameInTurn(prefix, i))

export async function* run(lab: Lab): AsyncGenerator<Measure> {
  for (const pace of paces(lab.scale)) {
    const bareName = `${BARE}, ${pace.name}`
    for (const kind of kinds(lab.scale)) {
      const name = `${kind.name}, ${pace.name}`
      if (!lab.wants(name)) continue
      // Channels of its own, also where rows and runs share a server: each holds one event.
      const prefix = `wait-${rows++}`
      const channels = namesOf(prefix, kind.channels)
      const server = await lab.tidemark(channels[0]!)
      for (const channel of channels.slice(1)) await makeChannel(server.port, channel)
      const row = {
        name,
        subject: 'tidemark',
        limits: [bareName],
        work: kind.channels > 1 ? undefined : pace.name,
      } as const
      yield* measure(lab, server, row, kind.asking(server.port, prefix), { prefix, pace, channels: kind.channels })
      await server.stop()
    }
    if (lab.wants(bareName)) {
      const server = await lab.freshBare('http')
      const asking = waiting(server.port, 'any', JSON_TYPE, 0)
      yield* measure(lab, server, { name: bareName, subject: 'limit' }, asking, { prefix: 'any', pace, channels: 1 })
      await server.stop()
    }
    for (const peer of lab.peersIn('W7')) {
      const name = `${peer.name}, ${pace.name}`
      if (!lab.wants(name)) continue
      const row = { name, subject: 'peer', work: pace.name } as const
      const publishing = { prefix: '', pace, channels: 1, sending: peer.sending(1) }
      yield* lab.ofPeer(peer, (server) => measure(lab, server, row, peer.receiving(server), publishing))
    }
  }
}

interface Publishing {
  /** Of the channels' names. */
  readonly prefix: string
  readonly channels: number
  readonly pace: Pace
  /** Of a peer. */
  readonly sending?: Sending | undefined
}

async function* measure(
  lab: Lab,
  server: Server,
  row: Pick<Measure, 'name' | 'subject' | 'limits' | 'work'>,
  asking: Asking,
  { prefix, channels, pace, sending }: Publishing,
): AsyncGenerator<Measure> {
  const { waiting: clients, seconds, warm } = lab.scale
  const drain = await lab.drive.drain({ port: server.port, connections: clients, ...asking, mode: 'longpoll' })
  const load = {
    ...(sending ?? { protocol: 'http', requests: httpAppends(server.port, inTurn(prefix), 'json', 1) }),
    port: server.port,
    connections: 1,
    channels,
    ...(pace.rate !== undefined && { rate: pace.rate }),
  } as const
  const warmed = await lab.drive.load(server.child, { ...load, seconds: warm })
  await drain.arrived(warmed.total * clients)
  await drain.reset()
  const before = server.child.usage()
  const work = async (): Promise<{ sent: LoadReport; got: DrainReport }> => {
    const sent = await lab.drive.load(server.child, { ...load, seconds })
    return { sent, got: await drain.exactly(sent.total * clients) }
  }
  const { sent, got } = await (row.subject !== 'tidemark' ? work() : lab.watched(server, row.name, work, delivered))
  const after = server.child.usage()
  await drain.stop()
  const cpu = before && after ? Math.max(after.cpu - before.cpu, CPU_SECONDS_MIN) : Number.NaN
  yield {
    ...row,
    figure: got.events / cpu,
    unit: 'deliveries/CPU s',
    durability: server.durability,
    cpu: (cpu / got.events) * 1e6,
    p50: got.p50us / 1e3,
    p99: got.p99us / 1e3,
    counts: [
      ...deliveryCounts(sent, got, clients),
      { what: 'pages that did not go on where they were asked to', wanted: 0, got: got.holes },
    ],
    facts: {
      ...deliveryFacts(sent, got),
      deliveriesPerSecond: (got.events / (got.last - got.first)) * 1e6,
      serverCores: (cpu / (got.last - got.first)) * 1e6,
    },
  }
  yield {
    name: `${row.name}, requests`,
    subject: row.subject,
    work: row.work && `${row.work}, requests`,
    figure: got.frames / got.events,
    unit: 'per delivery',
    durability: '-',
  }
}
