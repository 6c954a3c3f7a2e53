/**
 * What the doors count: plain numbers, cheap enough for hot calls. `/metrics` (metrics.ts) and the console's figures are
 * made of them when somebody asks.
 */
import type { ErrorCode } from '../errors.ts'
import type { FiguresJson, GroupsJson } from '../wire.ts'

/** Ways in: an HTTP append, an append on a socket. */
export type AppendDoor = 'http' | 'stream'
/** Ways out: reads and polls, server-sent events, sockets. */
export type ReadDoor = 'poll' | 'sse' | 'stream'
/** Where a failure was told. */
export type FailedDoor = 'http' | 'sse' | 'stream'

export const APPEND_DOORS: readonly AppendDoor[] = ['http', 'stream']
export const READ_DOORS: readonly ReadDoor[] = ['poll', 'sse', 'stream']
/** Upper bounds, seconds: from one fast fsync to an append that waited for a reopened store. */
const APPEND_SECONDS = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10]
/** Upper bounds, events of one append. */
const APPEND_EVENTS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000]
/** Upper bounds, appends and other changes that shared one write. */
const GROUP_TASKS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 5_000]

/** How many values lie up to each bound. */
export class Tally {
  readonly bounds: readonly number[]
  /** One more than bounds: the last is for all beyond them. */
  readonly counts: number[]
  sum = 0
  count = 0

  constructor(bounds: readonly number[]) {
    this.bounds = bounds
    this.counts = new Array<number>(bounds.length + 1).fill(0)
  }

  add(value: number, times = 1): void {
    let i = 0
    while (i < this.bounds.length && value > this.bounds[i]!) i++
    this.counts[i]! += times
    this.sum += value * times
    this.count += times
  }
}

/**
 * Figures of the log's writes. Made before the log is opened, given to it as `onGroup`, and to the server:
 * `openLog({ dir, onGroup: figures.add })`, `startServer(log, { groupFigures: figures })`.
 */
export class GroupFigures {
  readonly seconds = new Tally(APPEND_SECONDS)
  readonly tasks = new Tally(GROUP_TASKS)
  bytes = 0

  readonly add = ({ seconds, tasks, bytes }: { seconds: number; tasks: number; bytes: number }): void => {
    this.seconds.add(seconds)
    this.tasks.add(tasks)
    this.bytes += bytes
  }

  figures(): GroupsJson {
    const { seconds, tasks, bytes } = this
    const { bounds, counts } = seconds
    return { seconds: seconds.sum, count: seconds.count, changes: tasks.sum, bytes, bounds, counts: [...counts] }
  }
}

/** What was appended through one door. */
class AppendCounts {
  appends = 0
  events = 0
  bytes = 0
  readonly seconds = new Tally(APPEND_SECONDS)
  readonly sizes = new Tally(APPEND_EVENTS)
}

/** What was given out through one door, and who follows there. */
class ReadCounts {
  events = 0
  bytes = 0
  followers = 0
}

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

const perDoor = <Door extends string, Value>(doors: readonly Door[], value: (door: Door) => Value) =>
  Object.fromEntries(doors.map((door) => [door, value(door)])) as Record<Door, Value>

/** One per server. */
export class Counts {
  readonly groups: GroupFigures | undefined
  readonly appends = perDoor(APPEND_DOORS, () => new AppendCounts())
  readonly reads = perDoor(READ_DOORS, () => new ReadCounts())
  /** By door and code. */
  readonly failures = new Map<FailedDoor, Map<ErrorCode, number>>()

  constructor(groups?: GroupFigures) {
    this.groups = groups
  }

  /** An append that was answered as durable. @param bytes of the body as kept. @param ms since it was whole. */
  appended(door: AppendDoor, events: number, bytes: number, ms: number): void {
    this.appendedTogether(door, [events], bytes, ms)
  }

  /** Appends that came together. @param sizes events of each @param bytes of all of them */
  appendedTogether(door: AppendDoor, sizes: readonly number[], bytes: number, ms: number): void {
    const counts = this.appends[door]
    counts.appends += sizes.length
    counts.bytes += bytes
    counts.seconds.add(ms / 1_000, sizes.length)
    for (const events of sizes) {
      counts.events += events
      counts.sizes.add(events)
    }
  }

  /** An answer or frame with events that was handed to a connection. */
  delivered(door: ReadDoor, events: number, bytes: number): void {
    const counts = this.reads[door]
    counts.events += events
    counts.bytes += bytes
  }

  /** A poll began to wait, a stream or socket was opened; call what is returned once when it is over. */
  follows(door: ReadDoor): () => void {
    const counts = this.reads[door]
    counts.followers++
    return () => {
      counts.followers--
    }
  }

  /** A call or operation that was answered with an error, or ended by one. */
  failed(door: FailedDoor, code: ErrorCode): void {
    const codes = this.failures.get(door) ?? new Map<ErrorCode, number>()
    this.failures.set(door, codes)
    codes.set(code, (codes.get(code) ?? 0) + 1)
  }

  /** What a watching page makes its charts of. */
  figures(): CountedJson {
    const appends = Object.values(this.appends)
    const reads = Object.values(this.reads)
    const failures = [...this.failures.values()].flatMap((codes) => [...codes.values()])
    return {
      appends: sum(appends.map((counts) => counts.appends)),
      appendedEvents: sum(appends.map(({ events }) => events)),
      appendedBytes: sum(appends.map(({ bytes }) => bytes)),
      deliveredEvents: sum(reads.map(({ events }) => events)),
      deliveredBytes: sum(reads.map(({ bytes }) => bytes)),
      failures: sum(failures),
      ...(this.groups && { groups: this.groups.figures() }),
      followers: perDoor(READ_DOORS, (door) => this.reads[door].followers),
    }
  }
}

const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0)
