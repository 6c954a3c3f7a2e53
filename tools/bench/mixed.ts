/**
 * W8: a server as its days go: thousands of sockets over hundreds of channels, a steady rate of appends, some sockets that
 * are cut and resume each minute, some that never read. Delivery and its latency, memory over time, CPU. Once with
 * publishers over a WebSocket, as the client for Node appends, once with publishers over HTTP.
 */
import { Child } from './child.ts'
import type { Drain, DrainReport } from './drive.ts'
import { BYTES_AFTER_STAMP } from './events.ts'
import type { Count, Measure } from './figures.ts'
import { fill, fillChannels } from './fill.ts'
import { grouped, type Lab, type Server } from './lab.ts'
import { fsyncLimit } from './limits.ts'
import { compiled } from './programs.ts'
import { httpAppends, inTurn, streamAppends, subscription } from './requests.ts'
import { Histogram, type Slots } from './sockets.ts'
import { headsOf } from './target.ts'

const PREFIX = 'mixed'
/** What those that never read stand still in: appends of `batch` events, more than the kernel keeps for a socket. */
const BACKLOG = 'mixed-backlog'
const BACKLOG_APPENDS = 300
/** How a publisher appends, and what stands in front of the rows of that run. */
const WAYS = { ws: 'WebSocket', http: 'HTTP' } as const
type Way = keyof typeof WAYS
/** All rows of a way come from one run. */
const ROWS = [
  ...['delivery', 'append', 'memory, after minute', 'memory without mapped tables, after minute', 'memory, at the end'],
  ...['CPU of the server', 'CPU of the receivers', 'CPU of those that come back'],
  'delay of the event loop: the worst of all p99',
]
const rowOf = (way: Way, row: string): string => `${WAYS[way]} publishers: ${row}`
const FSYNC = 'write + fdatasync, 4 KiB'
/** What is cut in a minute is cut in so many moments of it, as people come and go, and not all at once. */
const MOMENTS = 20
/** Memory is judged after this, or after a quarter of a shorter run, minutes. */
const SETTLED_MINUTES = 5
/** Node's own measurement ticks this often (prom-client), ms: less can't be seen, and is taken off. */
const LOOP_TICK_MS = 10
/** Longest wait for the last deliveries, ms. */
const ARRIVAL_MS = 30_000

/** What roam.ts prints. */
interface RoamReport {
  readonly events: number
  readonly frames: number
  readonly holes: number
  readonly told: number
  readonly closed: number
  readonly resumed: number
  readonly agree: number
  readonly sum: string
  readonly order: number
  readonly p50us: number
  readonly p99us: number
  readonly maxus: number
  readonly late: number
  readonly cpu: number
  readonly slots: Slots
}

interface Sample {
  readonly minutes: number
  readonly residentMiB: number
  readonly ownMiB: number
  readonly loopP50: number
  readonly loopP99: number
}

export const title = (lab: Lab): string => {
  const { sockets, channels, rate, roaming, cut, stalled, minutes, minuteSeconds } = lab.scale.mixed
  return `W8  ${grouped(sockets)} sockets over ${grouped(channels)} channels, ${grouped(rate)} events/s for ${minutes} minutes${minuteSeconds === 60 ? '' : ` of ${minuteSeconds} s`}: ${grouped(roaming)} sockets of which ${grouped(cut)} are cut and resume each minute, ${grouped(stalled)} never read`
}

export async function* run(lab: Lab): AsyncGenerator<Measure> {
  for (const way of ['ws', 'http'] as const) if (ROWS.some((row) => lab.wants(rowOf(way, row)))) yield* mixed(lab, way)
  if (lab.wants(FSYNC)) yield fsyncLimit(FSYNC, lab)
}

async function* mixed(lab: Lab, way: Way): AsyncGenerator<Measure> {
  const { sockets, channels, rate, roaming, cut, stalled, minutes, minuteSeconds } = lab.scale.mixed
  const server = await lab.fresh()
  await fillChannels(lab, server, PREFIX, channels, 1)
  await fill(lab, server, BACKLOG, lab.scale.batch * BACKLOG_APPENDS)
  const live = sockets - stalled
  const staying = live - roaming
  const drain = await startDrain(lab, server.port, staying, channels)
  const roam = await startRoam({ port: server.port, connections: roaming, channels, stalled })
  const seconds = minutes * minuteSeconds
  const requests =
    way === 'ws'
      ? streamAppends(server.port, inTurn(PREFIX), 'json')
      : httpAppends(server.port, inTurn(PREFIX), 'json', 1)
  const { producers: connections, warm } = lab.scale
  const load = { port: server.port, requests, protocol: way, connections, channels, rate } as const
  const idle = { stay: await drain.report(), roam: await roam.report() }
  const before = server.child.usage()
  const started = performance.now()
  const samples: Sample[] = []
  const work = async () => {
    const over = new AbortController()
    const beside = Promise.all([
      eachTime(lab.scale.mixed.sampleSeconds, over.signal, async () => {
        samples.push(await sample(server, (performance.now() - started) / (minuteSeconds * 1_000)))
      }),
      eachTime(minuteSeconds / MOMENTS, over.signal, (moment) => roam.cut(share(cut, moment), share(stalled, moment))),
    ])
    const warmed = (): Promise<void> => {
      roam.resetLatency()
      return drain.resetLatency()
    }
    const sent = await lab.drive.load(server.child, { ...load, seconds, warm }, warmed)
    over.abort()
    await beside
    return sent
  }
  const sent = await lab.watched(server, 'the whole time', work, ({ total }) => ({ 'appended event': total }))
  const wanted = wantedEvents(await headsOf(server.port, `${PREFIX}-0`), live)
  const [stay, back] = await arrived(wanted, drain, roam)
  const after = server.child.usage()
  const took = (performance.now() - started) / 1_000
  await Promise.all([drain.stop(), roam.stop()])
  await server.stop()
  const cpu = before && after ? after.cpu - before.cpu : undefined
  const row = (name: string) => rowOf(way, name)
  const common = { subject: 'tidemark', durability: server.durability } as const
  const both = (pick: 'events' | 'agree' | 'holes' | 'told' | 'closed'): number => stay[pick] + back[pick]
  const counts: readonly Count[] = [
    { what: 'events delivered', wanted, got: both('events') },
    { what: 'sockets with the same events as others of their channel', wanted: live, got: both('agree') },
    { what: 'sum of the stamps, each channel once', wanted: sent.sum, got: stay.sum },
    { what: 'the same, of sockets that come back', wanted: sent.sum, got: back.sum },
    { what: 'order of the events of each channel, of sockets that come back', wanted: stay.order, got: back.order },
    { what: 'frames that did not go on where the last one ended', wanted: 0, got: both('holes') },
    { what: 'gaps, resets and ended subscriptions', wanted: 0, got: both('told') },
    { what: 'sockets closed by the server', wanted: 0, got: both('closed') },
  ]
  const events = both('events')
  const latency = Histogram.of(stay, back)
  const [p50, p99] = [latency.at(0.5) / 1e3, latency.at(0.99) / 1e3]
  yield {
    ...common,
    name: row('delivery'),
    figure: p50,
    unit: 'ms',
    p50,
    p99,
    cpu: cpu === undefined ? undefined : (cpu / events) * 1e6,
    counts,
    facts: {
      published: sent.total,
      late: sent.late,
      resumed: back.resumed,
      eventsPerFrame: events / (stay.frames + back.frames),
      maxMs: latency.max / 1e3,
      stayingP50: stay.p50us / 1e3,
      stayingP99: stay.p99us / 1e3,
      roamingP50: back.p50us / 1e3,
      roamingP99: back.p99us / 1e3,
      roamingLoopP99: back.late,
      loadCpuSeconds: sent.cpu,
    },
  }
  yield {
    ...common,
    name: row('append'),
    figure: sent.p50us / 1e3,
    unit: 'ms',
    p50: sent.p50us / 1e3,
    p99: sent.p99us / 1e3,
  }
  const settled = samples.filter((each) => each.minutes >= Math.min(SETTLED_MINUTES, minutes / 4))
  const grows = (of: (sample: Sample) => number): number =>
    slope(settled.map((each) => [each.minutes, of(each)] as const))
  const resident = grows((each) => each.residentMiB)
  yield { ...common, name: row(`memory, after minute ${short(settled)}`), figure: resident, unit: 'MiB/min' }
  const own = grows((each) => each.ownMiB)
  yield {
    ...common,
    name: row(`memory without mapped tables, after minute ${short(settled)}`),
    figure: own,
    unit: 'MiB/min',
  }
  yield { ...common, name: row('memory, at the end'), figure: samples.at(-1)?.residentMiB ?? Number.NaN, unit: 'MiB' }
  yield { ...common, name: row('CPU of the server'), figure: (cpu ?? Number.NaN) / took, unit: 'cores' }
  const cores = { ...common, unit: 'cores', durability: '-' } as const
  yield { ...cores, name: row('CPU of the receivers'), figure: (stay.cpu - idle.stay.cpu) / took }
  yield { ...cores, name: row('CPU of those that come back'), figure: (back.cpu - idle.roam.cpu) / took }
  const delays = samples.map((each) => each.loopP99).toSorted((a, b) => a - b)
  yield {
    ...common,
    name: row('delay of the event loop: the worst of all p99'),
    figure: delays.at(-1) ?? Number.NaN,
    unit: 'ms',
    p50: samples.map((each) => each.loopP50).toSorted((a, b) => a - b)[samples.length >> 1] ?? Number.NaN,
    p99: delays[delays.length >> 1] ?? Number.NaN,
  }
}

const short = (settled: readonly Sample[]): string => (settled[0]?.minutes ?? 0).toFixed(1)

/** Every socket gets what its channel got after the one event that each held at first. */
function wantedEvents(heads: readonly number[], sockets: number): number {
  let events = 0
  for (let i = 0; i < sockets; i++) events += heads[i % heads.length]! - 1
  return events
}

/** Of so many a minute, those of one moment. */
const share = (count: number, moment: number): number =>
  Math.floor((count * ((moment % MOMENTS) + 1)) / MOMENTS) - Math.floor((count * (moment % MOMENTS)) / MOMENTS)

/** Does it every so often until the signal; one after another. */
async function eachTime(seconds: number, until: AbortSignal, work: (nth: number) => Promise<unknown>): Promise<void> {
  const over = new Promise<void>((resolve) => until.addEventListener('abort', () => resolve(), { once: true }))
  let nth = 0
  for (let next = performance.now() + seconds * 1_000; ; next += seconds * 1_000) {
    let timer: NodeJS.Timeout | undefined
    const due = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, Math.max(0, next - performance.now()))
    })
    await Promise.race([due, over])
    clearTimeout(timer)
    if (until.aborted) return
    await work(nth++)
  }
}

async function sample(server: Server, minutes: number): Promise<Sample> {
  const text = await (await fetch(`http://127.0.0.1:${server.port}/metrics`)).text()
  const loop = (name: string): number => {
    const seconds = Number(new RegExp(`^nodejs_eventloop_lag_${name}_seconds ([\\d.e+-]+)`, 'm').exec(text)?.[1])
    return Math.max(0, seconds * 1_000 - LOOP_TICK_MS)
  }
  const { rss = Number.NaN, own = Number.NaN } = server.child.usage() ?? {}
  return { minutes, residentMiB: rss / 2 ** 20, ownMiB: own / 2 ** 20, loopP50: loop('p50'), loopP99: loop('p99') }
}

/** Of the line with the least squares. */
function slope(points: readonly (readonly [number, number])[]): number {
  const n = points.length
  const mean = (pick: 0 | 1): number => points.reduce((sum, point) => sum + point[pick], 0) / n
  const [x, y] = [mean(0), mean(1)]
  const over = points.reduce((sum, point) => sum + (point[0] - x) * (point[1] - y), 0)
  return over / points.reduce((sum, point) => sum + (point[0] - x) ** 2, 0)
}

/** Those that stay: each goes on where its last frame ended, after the one event that its channel holds. */
async function startDrain(lab: Lab, port: number, connections: number, channels: number): Promise<Drain> {
  const opening = subscription(port, 'json', inTurn(PREFIX), 1)
  const drain = await lab.drive.drain({ port, connections, mode: 'ws', opening, channels, from: 1, ready: 'caughtup' })
  await drain.reset()
  return drain
}

async function startRoam(options: { port: number; connections: number; channels: number; stalled: number }) {
  const given = { ...options, prefix: PREFIX, from: 1, backlog: BACKLOG, skip: BYTES_AFTER_STAMP }
  const flags = Object.entries(given).flatMap(([name, value]) => [`--${name}`, String(value)])
  const child = Child.start('roam', [...compiled('tools/bench/roam.js'), ...flags])
  await child.json('ready')
  return {
    report: (): Promise<RoamReport> => {
      child.send('report')
      return child.json<RoamReport>('holes')
    },
    async cut(count: number, renewed: number): Promise<void> {
      if (count + renewed === 0) return
      child.send(`cut ${count} ${renewed}`)
      await child.json('cut')
    },
    resetLatency: (): void => child.send('latency'),
    stop: (): Promise<void> => child.stop('SIGKILL'),
  }
}

/** What both got when that many events came, or after ARRIVAL_MS. */
async function arrived(
  events: number,
  drain: Drain,
  roam: Awaited<ReturnType<typeof startRoam>>,
): Promise<readonly [DrainReport, RoamReport]> {
  const reports = (): Promise<[DrainReport, RoamReport]> => Promise.all([drain.report(), roam.report()])
  for (const end = Date.now() + ARRIVAL_MS; Date.now() < end; ) {
    const [stay, back] = await reports()
    if (stay.events + back.events >= events) break
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
  // What comes now would be too much.
  await new Promise((resolve) => setTimeout(resolve, 500))
  return reports()
}
