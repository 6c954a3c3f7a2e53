/**
 * `/metrics`: what the doors count and the log knows, as Prometheus reads it. Nothing is kept here; each metric asks
 * when it is read. Labels are words of ours and codes of the error table, never a channel or a client: their number is
 * not ours to bound.
 */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import { APPEND_DOORS, type Counts, READ_DOORS, type Tally } from '../doors/counts.ts'
import type { Kept } from '../log/keeper.ts'
import type { Log } from '../log/log.ts'

const STATES = ['ok', 'reopening', 'full', 'read-only', 'closed'] as const

type Labels = Readonly<Record<string, string>>

/** A value for each set of labels. */
type Read<Value> = () => Iterable<readonly [Labels, Value]>

/** A histogram whose counts are kept elsewhere. */
class TallyHistogram extends Histogram {
  readonly #told: { readonly name: string; readonly help: string }
  readonly #read: Read<Tally>

  constructor(told: { name: string; help: string; labelNames: string[]; registers: Registry[] }, read: Read<Tally>) {
    super(told)
    this.#told = told
    this.#read = read
  }

  override get(): ReturnType<Histogram['get']> {
    const { name, help } = this.#told
    const values = [...this.#read()].flatMap(([labels, tally]) => valuesOf(name, labels, tally))
    const told = { name, help, type: 'histogram', aggregator: 'sum', values }
    return Promise.resolve(told) as unknown as ReturnType<Histogram['get']>
  }

  /** What the registry calls for its text. */
  getForPromString(): ReturnType<Histogram['get']> {
    return this.get()
  }
}

function valuesOf(name: string, labels: Labels, { bounds, counts, sum }: Tally) {
  let count = 0
  const buckets = counts.map((n, i) => {
    count += n
    return { metricName: `${name}_bucket`, labels: { le: bounds[i] ?? '+Inf', ...labels }, value: count }
  })
  return [
    ...buckets,
    { metricName: `${name}_sum`, labels, value: sum },
    { metricName: `${name}_count`, labels, value: count },
  ]
}

export class Metrics {
  readonly #registry = new Registry()

  constructor(log: Log, counts: Counts, kept: Readonly<Kept>, version: string) {
    const build = { name: 'tidemark_build_info', help: 'The version that runs, always 1', labelNames: ['version'] }
    new Gauge({ ...build, registers: [this.#registry] }).set({ version }, 1)
    collectDefaultMetrics({ register: this.#registry })
    this.#addAppends(counts)
    this.#addReads(counts)
    this.#addLog(log, counts)
    this.#addRetention(kept)
  }

  /** The Prometheus text and its content type. */
  async text(): Promise<{ text: string; contentType: string }> {
    return { text: await this.#registry.metrics(), contentType: this.#registry.contentType }
  }

  #addAppends({ appends, failures }: Counts): void {
    const read =
      <Value>(pick: (counts: Counts['appends']['http']) => Value): Read<Value> =>
      () =>
        APPEND_DOORS.map((door) => [{ door }, pick(appends[door])])
    const door = ['door']
    this.#counter(
      'appends_total',
      'Appends that were answered as durable',
      door,
      read((of) => of.appends),
    )
    this.#counter(
      'appended_events_total',
      'Events of those appends',
      door,
      read((of) => of.events),
    )
    this.#counter(
      'appended_bytes_total',
      'Bytes of their bodies as they are kept',
      door,
      read((of) => of.bytes),
    )
    this.#histogram(
      'append_seconds',
      'From a whole append at the door to its durable answer: waiting for the group, the write and its fsync',
      door,
      read((of) => of.seconds),
    )
    this.#histogram(
      'append_events',
      'Events of one append',
      door,
      read((of) => of.sizes),
    )
    this.#counter('failures_total', 'Refused or failed calls, by the code that was answered', ['door', 'code'], () =>
      [...failures].flatMap(([door, codes]) => [...codes].map(([code, count]) => [{ door, code }, count] as const)),
    )
  }

  #addReads({ reads }: Counts): void {
    const read =
      (pick: (counts: Counts['reads']['poll']) => number): Read<number> =>
      () =>
        READ_DOORS.map((door) => [{ door }, pick(reads[door])])
    const door = ['door']
    this.#counter(
      'delivered_events_total',
      'Events given to readers',
      door,
      read((of) => of.events),
    )
    this.#counter(
      'delivered_bytes_total',
      'Bytes of the answers and frames that held them',
      door,
      read((of) => of.bytes),
    )
    this.#gauge(
      'followers',
      'Waiting polls, open SSE streams and open sockets',
      door,
      read((of) => of.followers),
    )
  }

  #addLog(log: Log, { groups }: Counts): void {
    const one =
      <Value>(value: () => Value): Read<Value> =>
      () => [[{}, value()]]
    this.#gauge(
      'pending_appends',
      'Appends that wait for a write; those of one socket that came together count once',
      [],
      one(() => log.health().pendingAppends),
    )
    this.#gauge(
      'pending_bytes',
      'Bytes of those appends',
      [],
      one(() => log.health().pendingBytes),
    )
    this.#gauge('log_state', '1 for the state that the log is in', ['state'], () => {
      const now = log.health().state
      return STATES.map((state) => [{ state }, state === now ? 1 : 0])
    })
    if (groups === undefined) return
    const seconds = 'One write of the log with its fsync, shared by a group of appends'
    this.#histogram(
      'group_seconds',
      seconds,
      [],
      one(() => groups.seconds),
    )
    this.#histogram(
      'group_changes',
      'Appends and other changes that shared one write; appends of one socket that came together count once',
      [],
      one(() => groups.tasks),
    )
    this.#counter(
      'group_bytes_total',
      'Bytes of those writes',
      [],
      one(() => groups.bytes),
    )
  }

  #addRetention(kept: Readonly<Kept>): void {
    const one = (name: string, help: string, value: () => number): void =>
      this.#counter(`retention_${name}_total`, help, [], () => [[{}, value()]])
    one('trims', 'Trims of channels that were beyond their retention', () => kept.trims)
    one('trimmed_events', 'Seqs that those trims dropped', () => kept.events)
    one('forgotten_cursors', 'Cursors that were silent for too long', () => kept.cursors)
    one('failures', 'Times that retention was put off by a failure', () => kept.failures)
    one('looks', 'Looks at all channels', () => kept.looks)
    this.#gauge('retention_look_seconds', 'The last look at all channels, with its rests', [], () => [
      [{}, kept.lookSeconds],
    ])
  }

  #told(name: string, help: string, labelNames: readonly string[]) {
    return { name: `tidemark_${name}`, help, labelNames: [...labelNames], registers: [this.#registry] }
  }

  #counter(name: string, help: string, labelNames: readonly string[], read: Read<number>): void {
    new Counter({
      ...this.#told(name, help, labelNames),
      collect() {
        this.reset()
        for (const [labels, value] of read()) this.inc(labels, value)
      },
    })
  }

  #gauge(name: string, help: string, labelNames: readonly string[], read: Read<number>): void {
    new Gauge({
      ...this.#told(name, help, labelNames),
      collect() {
        for (const [labels, value] of read()) this.set(labels, value)
      },
    })
  }

  #histogram(name: string, help: string, labelNames: readonly string[], read: Read<Tally>): void {
    new TallyHistogram(this.#told(name, help, labelNames), read)
  }
}
