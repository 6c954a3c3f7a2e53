/**
 * Gives space back: of events that were trimmed, and of channels that were deleted. What carries an idempotency key
 * stays in NATS for as long as the key is remembered, because it holds the answer; a reader never sees it again.
 */
import { LRUCache } from 'lru-cache'
import { hasCode } from '../../errors.ts'
import type { Channels } from './channels.ts'
import type { Cursors } from './cursors.ts'
import { isUnreachable } from './failures.ts'
import type { Link } from './link.ts'
import type { Pages } from './pages.ts'
import type { ChannelRecord } from './record.ts'

/** How often it looks for what is due, ms. */
const LOOK_MS = 1_000
/** The last message of a deleted channel stays for so long, ms: longer than anybody takes for known what is not. */
const MARK_MS = 600_000
const RETRY_MS = 10_000
/** Channels of which it is remembered up to where they were cleared; about 150 bytes each. */
const CLEARED_MAX = 100_000
/** Channels that others left behind are looked after so many at a look. */
const LEFT_AT_ONCE = 20
/** One that is older than this, ms, was left behind; much longer than clocks differ. */
const LEFT_MS = 3_600_000

interface Due {
  readonly name: string
  /** The history, and up to where it was trimmed. */
  readonly state: string
  readonly subject: string
  /** What stands before it goes. */
  readonly seq: number
  readonly at: number
}

export class Janitor {
  readonly #link: Link
  readonly #channels: Channels
  readonly #cursors: Cursors
  readonly #pages: Pages
  readonly #notice: (message: string, why: string) => void
  /** By channel, the one that is due next; true where there is more by now. */
  readonly #trimmed = new Map<string, { due: Due; more: boolean }>()
  readonly #marks: Pick<Due, 'subject' | 'seq' | 'at'>[] = []
  /** By channel, what was cleared of it last. */
  readonly #cleared = new LRUCache<string, string>({ max: CLEARED_MAX })
  /** Channels that may hold what others trimmed and did not clear. */
  readonly #left = new Set<string>()
  readonly #timer: NodeJS.Timeout
  /** What is under way. */
  readonly #works = new Set<Promise<void>>()
  #isClosed = false
  #isLooking = false

  constructor(
    link: Link,
    channels: Channels,
    cursors: Cursors,
    pages: Pages,
    notice: (message: string, why: string) => void,
  ) {
    this.#link = link
    this.#channels = channels
    this.#cursors = cursors
    this.#pages = pages
    this.#notice = notice
    this.#timer = setInterval(() => void this.#look(), LOOK_MS).unref()
  }

  /** Ends the work; what is left does the gateway that keeps retention, or whoever finds the mark of what was deleted. */
  async close(): Promise<void> {
    this.#isClosed = true
    clearInterval(this.#timer)
    while (this.#works.size > 0) await Promise.all(this.#works)
  }

  /** Events of this channel were trimmed. */
  trimmed(name: string): void {
    const waiting = this.#trimmed.get(name)
    if (waiting) waiting.more = true
    else this.#quietly(() => this.#plan(name))
  }

  /** A channel ended with this message. */
  deleted(name: string, life: string, seq: number): void {
    const subject = this.#link.subjectOf(name)
    this.#quietly(async () => {
      await this.#link.purge(subject, seq)
      await this.#cursors.clear({ name, life })
      this.#marks.push({ subject, seq: seq + 1, at: performance.now() + MARK_MS })
    })
  }

  /** A channel as the one sees it who keeps them all: whoever trimmed it may have ended before it was cleared. */
  listed(name: string, record: ChannelRecord): void {
    if (record.trimmed === 0 || this.#trimmed.has(name) || this.#left.size >= CLEARED_MAX) return
    if (this.#cleared.get(name) !== stateOf(record)) this.#left.add(name)
  }

  /** The last message of a channel that was deleted: where it is an old one, the gateway that wrote it has ended since. */
  found({ subject, seq, storedAt }: { subject: string; seq: number; storedAt: number }): void {
    if (Date.now() - storedAt > LEFT_MS) this.#quietly(() => this.#link.purge(subject, seq + 1))
  }

  /** Nothing that stands before this message is of the channel any more. */
  begunAnew(name: string, life: string, seq: number): void {
    void this.#quietly(async () => {
      await this.#link.purge(this.#link.subjectOf(name), seq)
      await this.#cursors.clear({ name, life })
    })
  }

  async #plan(name: string): Promise<void> {
    const channel = await this.#channels.fresh(name)
    if (!channel || channel.trimmed === 0) return
    const seq = await this.#pages.keptFrom(channel)
    const at = performance.now() + this.#link.facts.idWindow
    const due = { name, state: stateOf(channel), subject: this.#link.subjectOf(name), seq, at }
    this.#trimmed.set(name, { due, more: false })
  }

  async #look(): Promise<void> {
    if (this.#isLooking) return
    this.#isLooking = true
    const now = performance.now()
    for (const [name, { due, more }] of this.#trimmed) {
      if (this.#isClosed) break
      if (due.at > now) continue
      this.#trimmed.delete(name)
      await this.#quietly(() => this.#clear(due))
      if (more) await this.#quietly(() => this.#plan(name))
    }
    for (const name of [...this.#left].slice(0, LEFT_AT_ONCE)) {
      if (this.#isClosed) break
      this.#left.delete(name)
      await this.#quietly(() => this.#plan(name))
    }
    while (!this.#isClosed && this.#marks[0] && this.#marks[0].at <= now) {
      const { subject, seq } = this.#marks.shift()!
      await this.#quietly(() => this.#link.purge(subject, seq))
    }
    this.#isLooking = false
  }

  async #clear({ name, state, subject, seq }: Due): Promise<void> {
    await this.#link.purge(subject, seq)
    this.#cleared.set(name, state)
  }

  #quietly(work: () => Promise<void>, isAgain = false): Promise<void> {
    const done = this.#try(work, isAgain).finally(() => this.#works.delete(done))
    this.#works.add(done)
    return done
  }

  /** What fails is tried once more a little later, and then by whoever lists the channel to keep it. */
  async #try(work: () => Promise<void>, isAgain: boolean): Promise<void> {
    try {
      await work()
    } catch (error) {
      if (!isUnreachable(error) && !hasCode(error, 'no-channel')) this.#notice('Space is not given back', String(error))
      else if (!isAgain && !this.#isClosed) setTimeout(() => this.#quietly(work, true), RETRY_MS).unref()
    }
  }
}

const stateOf = ({ life, trimmed }: Pick<ChannelRecord, 'life' | 'trimmed'>): string => `${life}/${trimmed}`
