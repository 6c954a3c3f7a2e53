/**
 * What the server counts, for `/metrics`. Labels are words of this file and codes of the error table, never a
 * channel or a client: their number is not ours to bound.
 */
import { Counter, collectDefaultMetrics, Gauge, Histogram, type Metric, Registry } from 'prom-client'
import type { ErrorCode } from '../errors.ts'
import type { Log } from '../log/log.ts'
import type { FiguresJson, GroupsJson } from '../wire.ts'

/** Ways in: an HTTP append, an append on a socket. */
export type AppendDoor = 'http' | 'stream'
/** Ways out: reads and polls, server-sent events, sockets. */
export type ReadDoor = 'poll' | 'sse' | 'stream'

const APPEND_DOORS: readonly AppendDoor[] = ['http', 'stream']
const READ_DOORS: readonly ReadDoor[] = ['poll', 'sse', 'stream']
const STATES = ['ok', 'reopening', 'full', 'read-only', 'closed'] as const
/** Upper bounds, seconds: from one fast fsync to an append that waited for a reopened store. */
const APPEND_SECONDS = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10]
/** Upper bounds, events of one append. */
const APPEND_EVENTS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000]

/** Of the figures, what is counted here. */
type CountedJson = Pick<
  FiguresJson,
  | 'appends'
  | 'appendedEvents'
  | 'appendedBytes'
  | 'deliveredEvents'
  | 'deliveredBytes'
  | 'failures'
  | 'groups'
  | 'followers'
>

/** Upper bounds, appends and other changes that shared one write. */
const GROUP_TASKS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 5_000]

/**
 * Figures of the log's writes. Made before the log is opened, given to it as `onGroup`, and to the server:
 * `openLog({ dir, onGroup: figures.add })`, `startServer(log, { groupFigures: figures })`.
 */
export class GroupFigures {
  readonly #seconds = new Histogram({
    name: 'tidemark_group_seconds',
    help: 'One write of the log with its fsync, shared by a group of appends',
    buckets: APPEND_SECONDS,
    registers: [],
  })
  readonly #tasks = new Histogram({
    name: 'tidemark_group_changes',
    help: 'Appends and other changes that shared one write',
    buckets: GROUP_TASKS,
    registers: [],
  })
  readonly #bytes = new Counter({ name: 'tidemark_group_bytes_total', help: 'Bytes of those writes', registers: [] })

  readonly add = ({ seconds, tasks, bytes }: { seconds: number; tasks: number; bytes: number }): void => {
    this.#seconds.observe(seconds)
    this.#tasks.observe(tasks)
    this.#bytes.inc(bytes)
  }

  async figures(): Promise<GroupsJson> {
    const [times, tasks, bytes] = await Promise.all([this.#seconds, this.#tasks, this.#bytes].map(valuesOf))
    const named = (values: Values, name: string) => values.filter(({ metricName }) => metricName?.endsWith(name))
    const upTo = named(times!, '_bucket').map(({ value }) => value)
    return {
      seconds: total(named(times!, '_sum')),
      count: total(named(times!, '_count')),
      changes: total(named(tasks!, '_sum')),
      bytes: total(bytes!),
      bounds: APPEND_SECONDS,
      counts: upTo.map((count, i) => count - (upTo[i - 1] ?? 0)),
    }
  }

  register(registry: Registry): void {
    for (const metric of [this.#seconds, this.#tasks, this.#bytes]) registry.registerMetric(metric as Metric)
  }
}

/** How many values lie up to each bound: plain numbers, for hot calls. */
class Tally {
  readonly #bounds: readonly number[]
  /** One more than bounds: the last is for all beyond them. */
  readonly #counts: number[]
  #sum = 0

  constructor(bounds: readonly number[]) {
    this.#bounds = bounds
    this.#counts = new Array<number>(bounds.length + 1).fill(0)
  }

  add(value: number): void {
    let i = 0
    while (i < this.#bounds.length && value > this.#bounds[i]!) i++
    this.#counts[i]!++
    this.#sum += value
  }

  /** As Prometheus tells a histogram. */
  values(name: string, labels: Readonly<Record<string, string>>) {
    let count = 0
    const buckets = this.#counts.map((n, i) => {
      count += n
      return { metricName: `${name}_bucket`, labels: { le: this.#bounds[i] ?? '+Inf', ...labels }, value: count }
    })
    return [
      ...buckets,
      { metricName: `${name}_sum`, labels, value: this.#sum },
      { metricName: `${name}_count`, labels, value: count },
    ]
  }
}

/** What was appended through one door; the metrics ask for it when they are read. */
class AppendCounts {
  appends = 0
  events = 0
  bytes = 0
  readonly seconds = new Tally(APPEND_SECONDS)
  readonly sizes = new Tally(APPEND_EVENTS)
}

/** What was given out through one door, and how many follow there now. */
interface Deliveries {
  events: number
  bytes: number
  followers: number
}

/** A histogram whose counts are kept elsewhere. */
class TallyHistogram extends Histogram<'door'> {
  readonly #told: { readonly name: string; readonly help: string }
  readonly #tallies: Readonly<Record<string, Tally>>

  constructor(name: string, help: string, registers: Registry[], tallies: Readonly<Record<string, Tally>>) {
    super({ name, help, labelNames: ['door'], registers })
    this.#told = { name, help }
    this.#tallies = tallies
  }

  override get(): ReturnType<Histogram<'door'>['get']> {
    const { name, help } = this.#told
    const values = Object.entries(this.#tallies).flatMap(([door, tally]) => tally.values(name, { door }))
    const told = { name, help, type: 'histogram', aggregator: 'sum', values }
    return Promise.resolve(told) as unknown as ReturnType<Histogram<'door'>['get']>
  }

  /** What the registry calls for its text. */
  getForPromString(): ReturnType<Histogram<'door'>['get']> {
    return this.get()
  }
}

const perDoor = <Door extends string, Child>(doors: readonly Door[], child: (door: Door) => Child) =>
  Object.fromEntries(doors.map((door) => [door, child(door)])) as Record<Door, Child>

/** One per server, with a registry of its own. The doors tell it what they did; it is cheap enough for hot calls. */
export class Metrics {
  readonly #registry = new Registry()
  readonly #groupFigures: GroupFigures | undefined
  readonly #failures: Counter<'door' | 'code'>
  readonly #appends: Record<AppendDoor, AppendCounts> = perDoor(APPEND_DOORS, () => new AppendCounts())
  readonly #deliveries: Record<ReadDoor, Deliveries> = perDoor(READ_DOORS, () => ({
    events: 0,
    bytes: 0,
    followers: 0,
  }))

  constructor(log: Log, version = '0', groupFigures?: GroupFigures) {
    const registers = [this.#registry]
    groupFigures?.register(this.#registry)
    this.#groupFigures = groupFigures
    const build = { name: 'tidemark_build_info', help: 'The version that runs, always 1', labelNames: ['version'] }
    new Gauge({ ...build, registers }).set({ version }, 1)
    collectDefaultMetrics({ register: this.#registry })
    const counter = <Label extends string>(name: string, help: string, labelNames: readonly Label[]) =>
      new Counter<Label>({ name: `tidemark_${name}`, help, labelNames: [...labelNames], registers })

    const counts = this.#appends
    const appended = (name: string, help: string, value: (of: AppendCounts) => number): void => {
      new Counter({
        name: `tidemark_${name}`,
        help,
        labelNames: ['door'],
        registers,
        collect() {
          this.reset()
          for (const door of APPEND_DOORS) this.inc({ door }, value(counts[door]))
        },
      })
    }
    appended('appends_total', 'Appends that were answered as durable', (of) => of.appends)
    appended('appended_events_total', 'Events of those appends', (of) => of.events)
    appended('appended_bytes_total', 'Bytes of their bodies as they are kept', (of) => of.bytes)
    new TallyHistogram(
      'tidemark_append_seconds',
      'From a whole append at the door to its durable answer: waiting for the group, the write and its fsync',
      registers,
      perDoor(APPEND_DOORS, (door) => counts[door].seconds),
    )
    new TallyHistogram(
      'tidemark_append_events',
      'Events of one append',
      registers,
      perDoor(APPEND_DOORS, (door) => counts[door].sizes),
    )

    const deliveries = this.#deliveries
    const delivered = (name: string, help: string, value: (of: Deliveries) => number): void => {
      new Counter({
        name: `tidemark_${name}`,
        help,
        labelNames: ['door'],
        registers,
        collect() {
          this.reset()
          for (const door of READ_DOORS) this.inc({ door }, value(deliveries[door]))
        },
      })
    }
    delivered('delivered_events_total', 'Events given to readers', (of) => of.events)
    delivered('delivered_bytes_total', 'Bytes of the answers and frames that held them', (of) => of.bytes)
    new Gauge({
      name: 'tidemark_followers',
      help: 'Waiting polls, open SSE streams and open sockets',
      labelNames: ['door'],
      registers,
      collect() {
        for (const door of READ_DOORS) this.set({ door }, deliveries[door].followers)
      },
    })
    this.#failures = counter('failures_total', 'Refused or failed calls, by the code that was answered', [
      'door',
      'code',
    ])
    watchLog(log, registers)
  }

  /** An append that was answered as durable. @param bytes of the body as kept. @param ms since it was whole. */
  appended(door: AppendDoor, events: number, bytes: number, ms: number): void {
    const counts = this.#appends[door]
    counts.appends++
    counts.events += events
    counts.bytes += bytes
    counts.seconds.add(ms / 1_000)
    counts.sizes.add(events)
  }

  /** An answer or frame with events that was handed to a connection. */
  delivered(door: ReadDoor, events: number, bytes: number): void {
    const counts = this.#deliveries[door]
    counts.events += events
    counts.bytes += bytes
  }

  /** A poll began to wait, a stream or socket was opened; call what is returned once when it is over. */
  follows(door: ReadDoor): () => void {
    const counts = this.#deliveries[door]
    counts.followers++
    return () => void counts.followers--
  }

  /** A call or operation that was answered with an error, or ended by one. */
  failed(door: 'http' | 'sse' | 'stream', code: ErrorCode): void {
    this.#failures.inc({ door, code })
  }

  /** What a watching page makes its charts of. */
  async figures(): Promise<CountedJson> {
    const sum = async (name: string) => total(await valuesOf(this.#registry.getSingleMetric(`tidemark_${name}`)))
    const [appends, appendedEvents, appendedBytes, deliveredEvents, deliveredBytes, failures, followers, groups] =
      await Promise.all([
        sum('appends_total'),
        sum('appended_events_total'),
        sum('appended_bytes_total'),
        sum('delivered_events_total'),
        sum('delivered_bytes_total'),
        sum('failures_total'),
        valuesOf(this.#registry.getSingleMetric('tidemark_followers')),
        this.#groupFigures?.figures(),
      ])
    const following = (door: ReadDoor) =>
      total(followers.filter(({ labels }) => (labels as { door: ReadDoor }).door === door))
    return {
      ...{ appends, appendedEvents, appendedBytes, deliveredEvents, deliveredBytes, failures },
      ...(groups && { groups }),
      followers: perDoor(READ_DOORS, following),
    }
  }

  /** The Prometheus text and its content type. */
  async text(): Promise<{ text: string; contentType: string }> {
    return { text: await this.#registry.metrics(), contentType: this.#registry.contentType }
  }
}

/** The values of a metric. */
type Values = readonly { readonly value: number; readonly metricName?: string; readonly labels: object }[]

const valuesOf = async (metric: unknown): Promise<Values> => (await (metric as Metric).get()).values

const total = (values: Values): number => values.reduce((sum, { value }) => sum + value, 0)

/** Gauges that ask the log when they are read. */
function watchLog(log: Log, registers: Registry[]): void {
  const gauge = (name: string, help: string, value: () => number) =>
    new Gauge({
      name: `tidemark_${name}`,
      help,
      registers,
      collect() {
        this.set(value())
      },
    })
  gauge('pending_appends', 'Appends that wait for a write', () => log.health().pendingAppends)
  gauge('pending_bytes', 'Bytes of those appends', () => log.health().pendingBytes)
  new Gauge({
    name: 'tidemark_log_state',
    help: '1 for the state that the log is in',
    labelNames: ['state'],
    registers,
    collect() {
      const { state } = log.health()
      for (const each of STATES) this.set({ state: each }, each === state ? 1 : 0)
    },
  })
}
