/**
 * All that one socket follows: its subscriptions take turns, page by page, while the socket has room. Nothing waits
 * here: events stay in the log until their turn.
 */
import { forbidden } from '../access/principal.ts'
import type { Turn } from '../doors/rounds.ts'
import { sameHistory } from '../epoch.ts'
import { TidemarkError, toTidemarkError } from '../errors.ts'
import { formatTime } from '../event.ts'
import type { CommitRequest, SubscribeRequest } from '../formats/intake.ts'
import { refuse } from '../formats/json.ts'
import { Follower, type From, type Item } from '../log/follow.ts'
import type { Source } from '../log/seen.ts'
import { StateFirst } from '../log/state-first.ts'
import { CLOSE, type Ref } from '../wire.ts'
import type { Session } from './session.ts'
import { type Outcome, Subscription } from './subscription.ts'

/** Pages begin small, and grow while the socket takes them. */
const PAGE_BYTES = 64 * 1024
const PAGE_BYTES_MAX = 1024 * 1024
const PAGE_GROWTH = 4
/** At the head all share one page, which is in memory once: it may be larger than the first page of a backlog. */
const LIVE_BYTES = 256 * 1024
/** A full socket that had drained after QUICK_MS gets larger pages; one that took SLOW_MS, smaller ones. */
const QUICK_MS = 250
const SLOW_MS = 1_000
/** So many pages that left at once are more than the kernel keeps for a client that reads nothing: they may be larger. */
const PAGES_AT_ONCE = 32
/** Most turns of one socket in a row, and bytes after which others are looked at. */
const TURNS_MAX = 64
const BYTES_IN_A_ROW = 256 * 1024

export class Following implements Turn {
  readonly #session: Session
  readonly #subscriptions = new Map<string, Subscription>()
  /** Subscriptions that were asked for and are not made yet. */
  #opening = 0
  /** The row of those with something to read, first and last; each knows the one behind it. */
  #first: Subscription | undefined
  #last: Subscription | undefined
  /** The disk is being read, or what was read waits for its turn. */
  #isServing = false
  #goOn: (() => void) | undefined
  #isBehind = false
  #pageBytes = PAGE_BYTES
  /** What the socket had taken when #pageBytes was last changed. */
  #takenBefore = 0
  /** Epochs of channels that were followed before; commits for them may still come. */
  #past: Map<string, string> | undefined

  constructor(session: Session) {
    this.#session = session
  }

  /** Channels that are followed. */
  get size(): number {
    return this.#subscriptions.size
  }

  channels(): Iterable<string> {
    return this.#subscriptions.keys()
  }

  // ── Requests ───────────────────────────────────────────────────────────────────────────────────────────────────

  /** Until `subscribed` is told, an older subscription to the channel goes on. @throws bad-request, too-many, … */
  async subscribe({ ref, channel, after, state, epoch }: SubscribeRequest): Promise<void> {
    const session = this.#session
    const { limits } = session.host
    if (!this.#subscriptions.has(channel) && this.#subscriptions.size + this.#opening >= limits.subscriptions)
      throw new TidemarkError('too-many', `A socket follows at most ${limits.subscriptions} channels`, {
        limit: limits.subscriptions,
      })
    const from: From = after === undefined ? { client: session.needCursor(), epoch } : { after, epoch }
    this.#opening++
    const first = state ? new StateFirst(session.source, session.host.doors.states) : undefined
    const { follower, opened } = await open(first ?? session.source, channel, from, first).finally(
      () => this.#opening--,
    )
    if (!session.isOpen) return
    // It may have lost its right meanwhile.
    session.who.need('read', channel)
    this.#drop(channel)
    const subscription = new Subscription(this, session, follower, opened.epoch, first)
    if (epoch !== undefined && opened.epoch !== null && !sameHistory(epoch, opened.epoch)) subscription.wasReset = true
    this.#subscriptions.set(channel, subscription)
    this.#past?.delete(channel)
    session.tell({ op: 'subscribed', ref, ...opened })
    // Requests that came together with this one are taken up before its first page: they know nothing of it.
    this.#enqueue(subscription)
    session.host.queue.join(this)
  }

  unsubscribe(channel: string, ref: Ref | undefined): void {
    this.#drop(channel)
    this.#session.tell({ op: 'unsubscribed', ref, channel })
  }

  /** Ends the channel's subscription, if there is one; its last commit is kept and its epoch remembered. */
  #drop(channel: string): void {
    const subscription = this.#subscriptions.get(channel)
    if (!subscription) return
    subscription.stop()
    this.flushCommit(subscription)
    this.#subscriptions.delete(channel)
    if (subscription.epoch === null) return
    this.#past ??= new Map()
    this.#past.set(channel, subscription.epoch)
    for (const [oldest] of this.#past) {
      if (this.#past.size <= this.#session.host.limits.subscriptions) break
      this.#past.delete(oldest)
    }
  }

  dropAll(): void {
    for (const channel of [...this.#subscriptions.keys()]) this.#drop(channel)
    this.#first = undefined
    this.#last = undefined
  }

  /** Ends what may no longer be read. */
  recheck(): void {
    const { who } = this.#session
    for (const [channel, subscription] of [...this.#subscriptions])
      if (!who.may('read', channel)) this.ended(subscription, forbidden('read', channel))
  }

  /** The log ended it. */
  ended(subscription: Subscription, error: TidemarkError): void {
    const { channel } = subscription
    this.#drop(channel)
    this.#session.host.doors.failed('stream', error, { channel })
    this.#session.tell({ ...error.details, op: 'ended', channel, code: error.code, detail: error.message })
    this.#session.closeFor(error)
  }

  /** It can't be read or waited for. */
  failed(subscription: Subscription, error: unknown): void {
    if (subscription.isOver) return
    const failure = toTidemarkError(error)
    if (failure.code === 'unavailable') this.#session.finish(CLOSE.tryAgain, this.#session.host.retryReason())
    else this.ended(subscription, failure)
  }

  // ── Commits ────────────────────────────────────────────────────────────────────────────────────────────────────

  /** @throws bad-request, epoch-changed; and as Log.commit when the commit is to be answered */
  commit({ ref, channel, seq, epoch: given }: CommitRequest): Promise<void> | void {
    const client = this.#session.needCursor()
    const subscription = this.#subscriptions.get(channel)
    const epoch = given ?? (subscription ? subscription.epochOf(seq) : this.#past?.get(channel))
    if (!subscription && epoch === undefined) refuse(`${channel} is not followed on this socket`, { field: 'channel' })
    if (ref !== undefined || !subscription) return this.#commitNow(client, channel, { seq, epoch }, ref)
    subscription.commitLater({ seq, epoch: epoch ?? noHistory(channel) })
    this.#session.host.commitSoon(this)
  }

  async #commitNow(
    client: string,
    channel: string,
    { seq, epoch }: { readonly seq: number; readonly epoch: string | undefined },
    ref?: Ref,
  ): Promise<void> {
    const { log, census } = this.#session.host.doors
    // It may have waited, and its caller have shown another token since.
    this.#session.who.stillNeed('commit', channel)
    const room = census.roomForCursor(this.#session.who, client, channel)
    if (room) await room
    const cursor = await log.commit(client, channel, epoch === undefined ? { seq } : { seq, epoch })
    if (ref === undefined) return
    const { head } = await log.info(channel)
    const lag = Math.max(head - cursor.seq, 0)
    // The name that this client gave it.
    const own = { client: this.#session.client ?? cursor.client, time: formatTime(cursor.time) }
    this.#session.tell({ op: 'committed', ref, ...cursor, lag, ...own })
  }

  /** Commits that nobody waits for, the newest of each channel. */
  flushCommits(): void {
    for (const subscription of this.#subscriptions.values()) this.flushCommit(subscription)
  }

  flushCommit(subscription: Subscription): void {
    const commit = subscription.takeCommit()
    if (!commit) return
    const { channel } = subscription
    const session = this.#session
    session.begun(0)
    const work = this.#commitNow(session.needCursor(), channel, commit)
      .catch((error: unknown) => session.refuse(error, undefined, channel))
      .then(() => session.ended(0, 1))
    session.host.background(work)
  }

  // ── Turns ──────────────────────────────────────────────────────────────────────────────────────────────────────

  /** This subscription may have something to read. */
  ready(subscription: Subscription): void {
    if (subscription.isOver) return
    this.#enqueue(subscription)
    if (!this.#isServing) this.#serve()
  }

  #enqueue(subscription: Subscription): void {
    if (this.#last) this.#last.next = subscription
    else this.#first = subscription
    this.#last = subscription
  }

  #dequeue(): Subscription | undefined {
    const first = this.#first
    if (!first) return undefined
    this.#first = first.next
    if (!first.next) this.#last = undefined
    first.next = undefined
    return first
  }

  turn(): void {
    const goOn = this.#goOn
    if (goOn) {
      this.#goOn = undefined
      this.#isServing = false
      goOn()
    }
    if (!this.#isServing) this.#serve()
  }

  /**
   * One page for each subscription in turn, while the socket takes them and there is room for them. A read of the disk
   * is waited for; what is in memory goes out within this call.
   */
  #serve(): void {
    const { backlog, queue } = this.#session.host
    const { outlet } = this.#session
    const start = outlet.taken
    let turns = 0
    let denied: Subscription | undefined
    for (let next = this.#next(); next; next = this.#next()) {
      if (next.isOver) continue
      const wanted = next.isLive ? LIVE_BYTES : this.#pageBytes
      const bytes = backlog.isTight ? PAGE_BYTES : wanted
      // At the head pages are shared.
      const room = next.isLive ? 0 : bytes
      if (room > 0 && !backlog.reserve(room, this)) {
        // Others of this socket may be at the head; when none is left, this goes on when there is room.
        this.#enqueue(next)
        if (next === denied) break
        denied ??= next
        continue
      }
      denied = undefined
      if (!this.#take(next, bytes, room)) return
      if (++turns < TURNS_MAX && outlet.taken - start < BYTES_IN_A_ROW) continue
      queue.join(this)
      return
    }
  }

  /** False when the disk has to be read. */
  #take(subscription: Subscription, bytes: number, room: number): boolean {
    let item: Item | undefined | Promise<Item | undefined>
    try {
      item = subscription.look(bytes)
    } catch (error) {
      this.#fail(subscription, error, room)
      return true
    }
    if (item instanceof Promise) this.#waitFor(subscription, item, room)
    else this.#give(subscription, item, room)
    return !this.#isServing
  }

  /** Pages that were read while others had their turn come together; each goes out in a turn of its own. */
  #waitFor(subscription: Subscription, reading: Promise<Item | undefined>, room: number): void {
    this.#isServing = true
    const inTurn = (goOn: () => void): void => {
      this.#goOn = goOn
      this.#session.host.queue.join(this)
    }
    reading.then(
      (item) => inTurn(() => this.#give(subscription, item, room)),
      (error: unknown) => inTurn(() => this.#fail(subscription, error, room)),
    )
  }

  #give(subscription: Subscription, item: Item | undefined, room: number): void {
    let outcome: Outcome
    try {
      outcome = subscription.give(item)
    } catch (error) {
      this.#fail(subscription, error, room)
      return
    }
    this.#took(subscription, outcome, room)
  }

  #fail(subscription: Subscription, error: unknown, room: number): void {
    this.failed(subscription, error)
    this.#took(subscription, 'over', room)
  }

  #took(subscription: Subscription, outcome: Outcome, room: number): void {
    const { backlog, watches } = this.#session.host
    if (!subscription.isOver && outcome === 'head') watches.join(subscription)
    else if (!subscription.isOver && outcome === 'more') this.#enqueue(subscription)
    if (room > 0) backlog.release(room)
    const isBehind = this.#first !== undefined
    if (isBehind !== this.#isBehind) this.#size(PAGE_BYTES)
    else if (isBehind && this.#session.outlet.taken - this.#takenBefore >= this.#pageBytes * PAGES_AT_ONCE)
      this.#size(this.#pageBytes * PAGE_GROWTH)
    this.#isBehind = isBehind
  }

  #next(): Subscription | undefined {
    return this.#session.isOpen && !this.#session.outlet.isFull ? this.#dequeue() : undefined
  }

  /** Sets the size of the next pages. */
  #size(bytes: number): void {
    this.#pageBytes = Math.min(Math.max(bytes, PAGE_BYTES), PAGE_BYTES_MAX)
    this.#takenBefore = this.#session.outlet.taken
  }

  /** The socket was full and has taken all it was given, in this time. */
  drained(ms: number): void {
    if (ms > SLOW_MS) this.#size(this.#pageBytes / PAGE_GROWTH)
    else if (this.#isBehind && ms < QUICK_MS) this.#size(this.#pageBytes * PAGE_GROWTH)
    if (this.#first) this.#session.host.queue.join(this)
  }
}

/** Before a follower is told to begin, its state is made: its pages are then as near as any other. */
async function open(source: Source, channel: string, from: From, state: StateFirst | undefined) {
  await state?.open(channel)
  return Follower.open(source, channel, from)
}

const noHistory = (channel: string): never => {
  throw new TidemarkError('no-channel', `There is no channel ${channel} yet`, { channel })
}
