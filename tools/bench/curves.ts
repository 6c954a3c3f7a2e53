/**
 * Cost curves: what append, read and fan-out cost as there are more channels, more subscribers, more stored events;
 * each as a ratio to its first point.
 */
import { delivered, deliveryCounts, subscribers } from './fanout.ts'
import type { Count, Measure } from './figures.ts'
import { fill, fillChannels, fillQuickly, headsCount } from './fill.ts'
import { appendedOnly, appendMeasure, grouped, type Lab, type Server } from './lab.ts'
import { fsyncLimit } from './limits.ts'
import { httpAppends, httpReads, inTurn, nameInTurn } from './requests.ts'

const FSYNC = 'write + fdatasync, 4 KiB'
/** Events of a channel, where there are many; half of them make a page. */
const EVENTS_EACH = 20
/** Events of a channel that is said to hold none, of each kind: so that there are pages. */
const EVENTS_LEAST = 1_000
/** Events of a page of a channel that holds many, and different places in its middle half. */
const PAGE = 100
const PLACES = 997

/** Points so far, of all runs: each has channels of its own, also where they share a server. */
let points = 0

/** What is measured at a point, and on what. */
interface Point {
  /** Behind the names of its rows: `10,000 channels`. */
  readonly at: string
  readonly server: Server
  /** Of appends and reads, with {turn} where there are many. */
  readonly channel: string
  readonly channels: number
  /** Where pages begin: the newest page, and pages from the middle. */
  readonly head: number
  readonly middle: readonly number[]
  readonly page: number
  readonly fanout: { readonly channel: string; readonly sockets: number }
  /** Afterwards, when this many events were appended to `channel`. */
  counts(appended: number): Promise<readonly Count[]>
}

/** Sets a point up; `first` is the label of the first point of its axis. */
type Axis = { readonly first: string; readonly points: readonly { readonly at: string; set(): Promise<Point> }[] }

export const title = (lab: Lab): string =>
  `Cost curves: ratios to the first point; ${lab.scale.producers} producers and readers, appends over HTTP JSON, fan-out to ${lab.scale.curves.sockets} sockets if not named otherwise`

export async function* run(lab: Lab): AsyncGenerator<Measure> {
  for (const { first, points } of [channelsAxis(lab), socketsAxis(lab), storedAxis(lab)])
    for (const { at, set } of points) {
      if (!KINDS.some((kind) => lab.wants(`${kind}, ${at}`))) continue
      const point = await set()
      yield* measure(lab, point, first)
      await point.server.stop()
    }
  if (lab.wants(FSYNC)) yield fsyncLimit(FSYNC, lab)
}

// ── The points ───────────────────────────────────────────────────────────────────────────────────────────────────

function channelsAxis(lab: Lab): Axis {
  const label = (n: number): string => (n === 1 ? '1 channel' : `${grouped(n)} channels`)
  const { channels, sockets } = lab.scale.curves
  const set = async (n: number): Promise<Point> => {
    const prefix = `curve-${points++}`
    const server = await lab.tidemark(`${prefix}.fanout`)
    await fillChannels(lab, server, prefix, n, EVENTS_EACH, 'json')
    return {
      ...{ at: label(n), server, channel: inTurn(prefix), channels: n },
      ...{ head: EVENTS_EACH / 2, middle: [EVENTS_EACH / 4], page: EVENTS_EACH / 2 },
      fanout: { channel: `${prefix}.fanout`, sockets },
      counts: (appended) => headsCount(server, prefix, n, n * EVENTS_EACH + appended),
    }
  }
  return { first: label(channels[0]!), points: channels.map((n) => ({ at: label(n), set: () => set(n) })) }
}

/** A channel of its own that holds `stored` events, on a server with others. */
async function oneChannel(lab: Lab, at: string, stored: number, sockets: number): Promise<Point> {
  const prefix = `curve-${points++}`
  const channel = nameInTurn(prefix, 0)
  const server = await lab.tidemark(`${prefix}.fanout`)
  // The newest page is JSON; below it lies what is quickly stored, in blocks of one size at every point.
  const quick = Math.max(stored - EVENTS_LEAST, EVENTS_LEAST)
  await fillQuickly(lab, server, channel, quick)
  await fill(lab, server, channel, EVENTS_LEAST)
  const held = quick + EVENTS_LEAST
  const middle = Array.from({ length: PLACES }, (_, i) => Math.floor(quick / 4 + (i * quick) / 2 / PLACES))
  return {
    ...{ at, server, channel, channels: 1, head: held - PAGE, middle, page: PAGE },
    fanout: { channel: `${prefix}.fanout`, sockets },
    counts: (appended) => headsCount(server, prefix, 1, held + appended),
  }
}

function socketsAxis(lab: Lab): Axis {
  const label = (n: number): string => (n === 1 ? '1 socket' : `${grouped(n)} sockets`)
  const { subscribers } = lab.scale.curves
  const point = (n: number) => ({ at: label(n), set: () => oneChannel(lab, label(n), 0, n) })
  return { first: label(subscribers[0]!), points: subscribers.map(point) }
}

function storedAxis(lab: Lab): Axis {
  const label = (n: number): string => `${grouped(n)} stored events`
  const { stored, sockets } = lab.scale.curves
  const point = (n: number) => ({ at: label(n), set: () => oneChannel(lab, label(n), n, sockets) })
  return { first: label(stored[0]!), points: stored.map(point) }
}

// ── The rows of a point ──────────────────────────────────────────────────────────────────────────────────────────

const KINDS = ['read the newest page', 'read from the middle', 'append', 'append batches', 'fan-out'] as const
type Kind = (typeof KINDS)[number]

/** Sockets follow while all of it is measured; reads come first, before appends move the head. */
async function* measure(lab: Lab, point: Point, first: string): AsyncGenerator<Measure> {
  const { server, at, fanout } = point
  const { seconds, warm } = lab.scale.curves
  const row = (kind: Kind) => ({
    name: `${kind}, ${at}`,
    subject: 'tidemark' as const,
    durability: server.durability,
    limits: at === first ? [] : [`${kind}, ${first}`],
  })
  const common = { port: server.port, protocol: 'http', seconds, warm, channels: point.channels } as const
  const connections = lab.scale.producers
  const drain = await subscribers(lab, server, 'msgpack', fanout.channel, fanout.sockets)

  for (const [kind, places] of [
    ['read the newest page', [point.head]],
    ['read from the middle', point.middle],
  ] as const) {
    if (!lab.wants(row(kind).name)) continue
    const requests = httpReads(server.port, point.channel, places, point.page)
    const load = { ...common, connections, requests }
    const work = () => lab.drive.load(server.child, load)
    const report = await lab.watched(server, row(kind).name, work, ({ total }) => ({ page: total }))
    const measured = appendMeasure(row(kind), report, [await pageCount(point, places[0]!)])
    yield { ...measured, unit: 'pages/s', durability: '-' }
  }

  let appended = 0
  for (const [kind, size] of [
    ['append', 1],
    ['append batches', lab.scale.batch],
  ] as const) {
    if (!lab.wants(row(kind).name)) continue
    const requests = httpAppends(server.port, point.channel, 'json', size)
    const load = { ...common, connections, requests }
    const report = await lab.watched(server, row(kind).name, () => lab.drive.load(server.child, load), appendedOnly)
    appended += report.total
    yield appendMeasure(row(kind), report, await point.counts(appended))
  }

  if (lab.wants(row('fan-out').name)) yield await fanOut(lab, point, drain, row('fan-out'))
  await drain.stop()
}

/** The page that a reader gets holds as many events as it asks for. */
async function pageCount(point: Point, after: number): Promise<Count> {
  const channel = point.channel.replace('{turn}', '000000')
  const url = `http://127.0.0.1:${point.server.port}/v1/channels/${channel}/events?after=${after}&limit=${point.page}`
  const page = (await (await fetch(url)).json()) as { events: readonly object[] }
  return { what: 'events of a page', wanted: point.page, got: page.events.length }
}

async function fanOut(
  lab: Lab,
  { server, fanout }: Point,
  drain: Awaited<ReturnType<typeof subscribers>>,
  row: Pick<Measure, 'name' | 'subject' | 'durability' | 'limits'>,
): Promise<Measure> {
  const requests = httpAppends(server.port, fanout.channel, 'json', 1)
  const { seconds, warm } = lab.scale.curves
  const load = { port: server.port, requests, protocol: 'http', connections: lab.scale.publishers } as const
  const warmed = await lab.drive.load(server.child, { ...load, seconds: warm })
  await drain.arrived(warmed.total * fanout.sockets)
  await drain.reset()
  const before = server.child.usage()
  const work = async () => {
    const sent = await lab.drive.load(server.child, { ...load, seconds })
    return { sent, got: await drain.exactly(sent.total * fanout.sockets) }
  }
  const { sent, got } = await lab.watched(server, row.name, work, delivered)
  const after = server.child.usage()
  return {
    ...row,
    figure: (got.events / (got.last - got.first)) * 1e6,
    unit: 'events/s',
    cpu: before && after ? ((after.cpu - before.cpu) / got.events) * 1e6 : undefined,
    p50: got.p50us / 1e3,
    p99: got.p99us / 1e3,
    counts: deliveryCounts(sent, got, fanout.sockets),
  }
}
