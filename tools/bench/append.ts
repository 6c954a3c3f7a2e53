/** W1: appends of many producers to one channel, in every form that a client may send; and to many channels. */
import { appendsOverChannels } from './channels.ts'
import type { LoadOptions } from './drive.ts'
import type { Measure } from './figures.ts'
import { appendedOnly, appendMeasure, type Lab, type Server } from './lab.ts'
import { fsyncLimit } from './limits.ts'
import { type Form, httpAppends, streamAppends, type Wire } from './requests.ts'
import { channelState } from './target.ts'

export type How =
  | { readonly over: 'http'; readonly form: Form; readonly size: number }
  | { readonly over: 'ws'; readonly wire: Wire; readonly depth: number }

interface Kind {
  readonly name: string
  readonly how: How
  /** The bare server to measure; without it, Tidemark. */
  readonly bare?: 'http' | 'net' | 'ws'
  readonly limits?: readonly string[]
  /** Measured over many channels too. */
  readonly spread?: true
  /** What peers are asked to do as well. */
  readonly work?: Work
}

/** Requests of one event, of a batch, of one event with many in flight; from each producer. */
type Work = 'one' | 'batch' | 'in flight'

const CHANNEL = 'bench'
const FSYNC = 'write + fdatasync, 4 KiB'

/** In the order in which they are measured: each limit close to what it limits. */
function kindsOf({ batch, inFlight }: Lab['scale']): readonly Kind[] {
  const batches = `batches of ${batch}`
  const http = (form: Form, size: number): How => ({ over: 'http', form, size })
  const ws = (wire: Wire, depth: number): How => ({ over: 'ws', wire, depth })
  const one = ['bare node:http + fsync', 'bare net + fsync', FSYNC]
  const many = ['bare node:http + fsync, batches', 'bare net + fsync, batches']
  const pipelined = ['bare ws + fsync, pipelined']
  return [
    { name: 'HTTP JSON, 1 event', how: http('json', 1), limits: one, work: 'one', spread: true },
    { name: 'bare node:http + fsync', bare: 'http', how: http('json', 1), limits: [FSYNC] },
    { name: 'bare net + fsync', bare: 'net', how: http('json', 1), limits: [FSYNC] },
    { name: 'HTTP MessagePack, 1 event', how: http('msgpack', 1), limits: one, work: 'one' },
    { name: `HTTP JSON, ${batches}`, how: http('json', batch), limits: many, work: 'batch', spread: true },
    { name: `HTTP NDJSON, ${batches}`, how: http('ndjson', batch), limits: many, work: 'batch' },
    { name: 'bare node:http + fsync, batches', bare: 'http', how: http('json', batch) },
    { name: 'bare net + fsync, batches', bare: 'net', how: http('json', batch) },
    { name: `HTTP MessagePack, ${batches}`, how: http('msgpack', batch), limits: many, work: 'batch' },
    { name: `HTTP MessagePack, opaque, ${batches}`, how: http('opaque', batch), limits: many, work: 'batch' },
    { name: 'WebSocket JSON, 1 in flight', how: ws('json', 1), limits: ['bare ws + fsync', FSYNC], work: 'one' },
    { name: 'bare ws + fsync', bare: 'ws', how: ws('json', 1), limits: [FSYNC] },
    { name: `WebSocket JSON, ${inFlight} in flight`, how: ws('json', inFlight), limits: pipelined, work: 'in flight' },
    { name: 'bare ws + fsync, pipelined', bare: 'ws', how: ws('json', inFlight) },
    {
      name: `WebSocket MessagePack, ${inFlight} in flight`,
      how: ws('msgpack', inFlight),
      limits: pipelined,
      work: 'in flight',
    },
  ]
}

export const title = (lab: Lab): string =>
  `W1  append, ${lab.scale.producers} producers, one channel, if not named otherwise`

export async function* run(lab: Lab): AsyncGenerator<Measure> {
  const kinds = kindsOf(lab.scale)
  if (lab.wants(FSYNC)) yield fsyncLimit(FSYNC, lab)
  for (const [i, kind] of kinds.entries()) {
    if (lab.wants(kind.name)) yield kind.bare ? await bareAppends(lab, kind, kind.bare) : await appends(lab, kind, i)
    if (kind.spread && kind.how.over === 'http')
      yield* appendsOverChannels(lab, kind.how.form, kind.how.size, kind.name)
    if (kind.work && kind === kinds.findLast(({ work }) => work === kind.work)) yield* peerAppends(lab, kind.work)
  }
}

/** Row `i`: a channel of its own, also where rows share a server. */
async function appends(lab: Lab, { name, how, limits = [], work }: Kind, i: number): Promise<Measure> {
  const channel = `${CHANNEL}-${i}`
  const server = await lab.tidemark(channel)
  const row = { name, subject: 'tidemark', durability: server.durability, limits, work } as const
  const measure = await appendsTo(lab, server, channel, how, row)
  await server.stop()
  return measure
}

/** Appends in one form to a channel that is there, and counts what the log holds. */
export async function appendsTo(
  lab: Lab,
  server: Server,
  channel: string,
  how: How,
  row: Parameters<typeof appendMeasure>[0],
): Promise<Measure> {
  const before = await channelState(server.port, channel)
  const load = loadOf(lab, server.port, channel, how)
  const report = await lab.watched(server, row.name, () => lab.drive.load(server.child, load), appendedOnly)
  const after = await channelState(server.port, channel)
  return appendMeasure(row, report, [
    { what: 'events in the log', wanted: report.total, got: after.head - before.head },
  ])
}

async function* peerAppends(lab: Lab, work: Work): AsyncGenerator<Measure> {
  const { producers: connections, batch, inFlight, seconds, warm } = lab.scale
  const label = { one: '1 event', batch: `batches of ${batch}`, 'in flight': `${inFlight} in flight` }[work]
  for (const peer of lab.peersIn('W1')) {
    const name = `${peer.name}, ${label}`
    const sending = peer.sending(work === 'batch' ? batch : 1)
    // Where there is HTTP and nothing else, requests wait for answers.
    if (sending === undefined || !lab.wants(name) || (work === 'in flight' && sending.protocol === 'http')) continue
    const depth = work === 'in flight' ? inFlight : 1
    yield* lab.ofPeer(peer, async function* (server) {
      const load = { ...sending, port: server.port, connections, depth, seconds, warm }
      const report = await lab.drive.load(server.child, load)
      const got = await peer.stored?.(server.port)
      const counts = got === undefined ? [] : [{ what: 'events in the log', wanted: report.total, got }]
      yield appendMeasure({ name, subject: 'peer', durability: server.durability, work }, report, counts)
    })
  }
}

async function bareAppends(lab: Lab, { name, how, limits = [] }: Kind, mode: 'http' | 'net' | 'ws'): Promise<Measure> {
  const server = await lab.bare(mode)
  const report = await lab.drive.load(server.child, loadOf(lab, server.port, CHANNEL, how))
  await server.stop()
  return appendMeasure({ name, subject: 'limit', durability: server.durability, limits }, report, [])
}

/** All producers of a row. */
export function loadOf(lab: Lab, port: number, channel: string, how: How): LoadOptions {
  const { producers: connections, seconds, warm } = lab.scale
  const common = { port, connections, seconds, warm }
  return how.over === 'http'
    ? { ...common, protocol: 'http', requests: httpAppends(port, channel, how.form, how.size) }
    : { ...common, protocol: 'ws', depth: how.depth, requests: streamAppends(port, channel, how.wire) }
}
