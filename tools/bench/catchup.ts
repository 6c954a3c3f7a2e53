/** W4: one reader that has nothing reads everything that is stored. */
import { Child } from './child.ts'
import type { DrainOptions, DrainReport } from './drive.ts'
import type { Count, Measure } from './figures.ts'
import { type Filled, fill, fillBy, headCount } from './fill.ts'
import { grouped, type Lab, type Server } from './lab.ts'
import { rawWritesLimit, rawWritesName } from './limits.ts'
import type { Peer } from './peer.ts'
import { compiled } from './programs.ts'
import { pollRequest, subscription } from './requests.ts'
import { storeOf } from './target.ts'

/** What `clientReads` reads. */
export const CHANNEL = 'bench'
const SCAN = 'LevelDB scan of the same store'
/** Most events of a poll's answer: the most that the server gives. */
const POLL_LIMIT = 10_000

type Reader = Omit<DrainOptions, 'port' | 'connections'>

/** Rows of Node clients (reader.ts), and what they are told. */
const clients = [
  { name: 'tidemark/client MessagePack', kind: 'msgpack' },
  { name: 'tidemark/client JSON', kind: 'json' },
  { name: 'tidemark/client, read() in a loop', kind: 'poll' },
] as const

const readers: readonly { readonly name: string; open(port: number): Reader }[] = [
  {
    name: 'WebSocket MessagePack',
    open: (port) => ({ mode: 'ws', opening: subscription(port, 'msgpack', CHANNEL, 0) }),
  },
  { name: 'WebSocket JSON', open: (port) => ({ mode: 'ws', opening: subscription(port, 'json', CHANNEL, 0) }) },
  { name: 'poll MessagePack', open: (port) => poll(port, 'application/msgpack') },
  { name: 'poll JSON', open: (port) => poll(port, 'application/json') },
  { name: 'SSE', open: (port) => ({ mode: 'stream', opening: stream(port) }) },
]

const poll = (port: number, accept: string): Reader => ({
  mode: 'poll',
  opening: pollRequest(port, CHANNEL, accept, POLL_LIMIT),
})

const stream = (port: number): Uint8Array =>
  Buffer.from(
    `GET /v1/channels/${CHANNEL}/events?after=0 HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nAccept: text/event-stream\r\n\r\n`,
  )

export const title = (lab: Lab): string => `W4  catch-up: one reader, ${grouped(lab.scale.stored)} stored events`

export async function* run(lab: Lab): AsyncGenerator<Measure> {
  const wanted = readers.filter(({ name }) => lab.wants(name))
  const reading = clients.filter(({ name }) => lab.wants(name))
  const raw = rawWritesName(lab, lab.scale.batch, 1)
  if (wanted.length > 0 || reading.length > 0 || lab.wants(SCAN)) {
    const server = await lab.fresh()
    const filled = await fill(lab, server, CHANNEL, lab.scale.stored)
    for (const { name, open } of wanted) {
      const row = { name, subject: 'tidemark', limits: [SCAN, raw], work: 'receivers' } as const
      const read = await readAll(lab, server, filled, row, () => open(server.port))
      yield { ...read, counts: [await headCount(server, CHANNEL, filled.events, 'events in the log'), ...read.counts] }
    }
    for (const { name, kind } of reading) yield await clientReads(server, filled, { name, subject: 'tidemark' }, kind)
    await server.child.stop()
    if (lab.wants(SCAN)) yield await scan(server, filled)
    await server.stop()
  }
  if (lab.wants(raw)) yield await rawWritesLimit(lab, lab.scale.batch, 1)
  for (const peer of lab.peersIn('W4')) yield* peerRows(lab, peer)
}

async function* peerRows(lab: Lab, peer: Peer): AsyncGenerator<Measure> {
  const clientName = `${peer.name}, its client for Node`
  const reader = lab.wants(clientName) ? peer.reader : undefined
  if (!lab.wants(peer.name) && reader === undefined) return
  yield* lab.ofPeer(peer, async function* (server) {
    const filled = await fillBy(lab, server, peer.sending(lab.scale.batch)!, lab.scale.stored)
    const row = { name: peer.name, subject: 'peer', work: 'receivers' } as const
    if (lab.wants(peer.name)) yield await readAll(lab, server, filled, row, () => peer.receiving(server))
    if (reader) {
      const { kind, modules } = reader
      yield await clientReads(server, filled, { name: clientName, subject: 'peer' }, kind, modules)
    }
  })
}

/** A client in a process of its own reads everything; its CPU time is that of the client. */
export async function clientReads(
  server: Server,
  filled: Filled,
  row: Pick<Measure, 'name' | 'subject'>,
  kind: string,
  modules = '',
): Promise<Measure> {
  const flags = { kind, modules, port: String(server.port), channel: CHANNEL, events: String(filled.events) }
  const words = Object.entries(flags).flatMap(([name, value]) => [`--${name}`, value])
  const child = Child.start('reader', [...compiled('tools/bench/reader.js'), ...words])
  const got = await child.json<{ events: number; seconds: number; cpu: number }>('events')
  await child.ended()
  return {
    ...row,
    work: 'clients for Node',
    figure: got.events / got.seconds,
    unit: 'events/s',
    durability: server.durability,
    cpu: (got.cpu / got.events) * 1e6,
    counts: [{ what: 'events delivered', wanted: filled.events, got: got.events }],
  }
}

/** One receiver reads everything twice; the second time is the figure. */
export async function readAll(
  lab: Lab,
  server: Server,
  filled: Filled,
  row: Pick<Measure, 'name' | 'subject' | 'limits' | 'work'>,
  open: () => Reader,
): Promise<Measure & { readonly counts: readonly Count[] }> {
  const read = async (): Promise<{ got: DrainReport; rate: number; cpu: number | undefined }> => {
    const before = server.child.usage()
    const drain = await lab.drive.drain({ port: server.port, connections: 1, ...open() })
    const got = await drain.exactly(filled.events)
    const after = server.child.usage()
    await drain.stop()
    const cpu = before && after ? ((after.cpu - before.cpu) / got.events) * 1e6 : undefined
    return { got, rate: (got.events / (got.last - got.asked)) * 1e6, cpu }
  }
  const cold = await read()
  const warm = await (row.subject === 'tidemark'
    ? lab.watched(server, row.name, read, ({ got }) => ({ 'event read': got.events }))
    : read())
  return {
    ...row,
    figure: warm.rate,
    unit: 'events/s',
    durability: server.durability,
    cpu: warm.cpu,
    counts: [
      ...[cold, warm].flatMap(({ got }) => [
        { what: 'events delivered', wanted: filled.events, got: got.events },
        { what: 'sum of their stamps', wanted: filled.sum, got: got.sum },
      ]),
    ],
    facts: {
      firstReadPerSecond: cold.rate,
      firstByteMs: (warm.got.first - warm.got.asked) / 1e3,
      bytesPerEvent: warm.got.bytes / warm.got.events,
      filledPerSecond: filled.perSecond,
    },
  }
}

/** Reads the store of a server that has stopped. */
async function scan(server: Server, filled: Filled): Promise<Measure> {
  const child = Child.start('scan', [...compiled('tools/bench/scan.js'), '--dir', storeOf(server.data)])
  const got = await child.json<{ events: number; blocks: number; bytes: number; seconds: number }>('events')
  await child.ended()
  return {
    name: SCAN,
    subject: 'limit',
    figure: got.events / got.seconds,
    unit: 'events/s',
    durability: '-',
    // With the event of the channel `probe`.
    counts: [{ what: 'events in the store', wanted: filled.events + 1, got: got.events }],
    facts: { eventsPerBlock: got.events / got.blocks, bytesPerEvent: got.bytes / got.events },
  }
}
