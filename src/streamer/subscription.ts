/**
 * One channel followed on one socket: a position and nothing else. While it is behind it takes turns with the socket's
 * other subscriptions, one page a turn; at the head it stands in a watch until the channel has changed.
 */

import type { Watcher } from '../doors/watches.ts'
import { sameHistory } from '../epoch.ts'
import { TidemarkError } from '../errors.ts'
import { eventsOn } from '../formats/render.ts'
import { type Follower, type Item, UNREAD } from '../log/follow.ts'
import type { CursorMove, Place } from '../log/log.ts'
import type { StateFirst } from '../log/state-first.ts'
import { READ_EVENTS_MAX } from '../wire.ts'
import type { Following } from './following.ts'
import type { Session } from './session.ts'

/** After a turn: there is more to read · it is at the head · it comes back by itself · it is over. */
export type Outcome = 'more' | 'head' | 'waiting' | 'over'

export class Subscription implements Watcher {
  readonly channel: string
  readonly #following: Following
  readonly #session: Session
  readonly #follower: Follower
  /** The state of the channel comes first, also after a reset. */
  readonly #state: StateFirst | undefined
  /** The history that the client was told last; commits count for it. Null until there is one. */
  #epoch: string | null
  /** The client knows that it is at the head. */
  #isLive = false
  /** A commit beyond what was sent since a reset speaks of the history before it. */
  wasReset = false
  #isOver = false
  /** The newest commit that nobody waits for. */
  #commit: Required<CursorMove> | undefined
  watch: Watcher['watch']
  /** Behind it in its socket's row; kept by Following. */
  next: Subscription | undefined

  constructor(
    following: Following,
    session: Session,
    follower: Follower,
    epoch: string | null,
    state: StateFirst | undefined,
  ) {
    this.channel = follower.channel
    this.#following = following
    this.#session = session
    this.#follower = follower
    this.#epoch = epoch
    this.#state = state
  }

  get place(): Place {
    return this.#follower.place
  }

  get epoch(): string | null {
    return this.#epoch
  }

  /** It was at the head the last time it looked, and its client knows. */
  get isLive(): boolean {
    return this.#isLive
  }

  get isOver(): boolean {
    return this.#isOver
  }

  /** No frame of it leaves after this, whatever it is reading now. */
  stop(): void {
    this.#isOver = true
    this.#session.host.watches.leave(this)
  }

  /** What comes next, a page of about `bytes` at most: at once when that is in memory, as it is at the head. @throws unavailable */
  look(bytes: number): Item | undefined | Promise<Item | undefined> {
    const limits = { events: READ_EVENTS_MAX, bytes }
    const item = this.#follower.recent(limits)
    return item === UNREAD ? this.#follower.next(limits) : item
  }

  /** Writes it. */
  give(item: Item | undefined): Outcome {
    if (this.#isOver) return 'over'
    const { channel } = this
    const session = this.#session
    switch (item?.is) {
      case undefined:
        return 'head'
      case 'page': {
        const { page } = item
        const pieces = session.frames.page(page)
        // A later run only says so with the next reset: what was sent before it may be committed after it.
        this.#epoch ??= page.epoch
        const bytes = session.outlet.write(pieces)
        session.host.delivered(eventsOn(page), bytes)
        if (!page.caughtUp) this.#isLive = false
        return this.#isLive ? 'head' : 'more'
      }
      case 'caughtup':
        this.#isLive = true
        session.tell({ op: 'caughtup', channel, seq: item.seq })
        return 'head'
      case 'gap':
        this.#isLive = false
        session.tell({ op: 'gap', channel, after: item.after, trimmed: item.trimmed })
        return 'more'
      case 'reset':
        this.#following.flushCommit(this)
        this.#epoch = item.epoch
        this.#isLive = false
        this.wasReset = true
        session.tell({ op: 'reset', channel, epoch: item.epoch, trimmed: item.trimmed, head: item.head })
        return this.#state ? this.#anew(this.#state) : 'more'
      case 'ended':
        this.#following.ended(this, item.error)
        return 'over'
    }
  }

  /** The state is made while the socket's other subscriptions go on; what keeps it from being made, its read tells. */
  #anew(state: StateFirst): Outcome {
    const ready = (): void => this.#following.ready(this)
    void state.open(this.channel).then(ready, ready)
    return 'waiting'
  }

  /** The watch: a round of live delivery is next. */
  changed(): void {
    this.#session.host.rounds.join(this)
  }

  /** The watch: the log can't be waited for. */
  failed(error: unknown): void {
    this.#following.failed(this, error)
  }

  /** The round. */
  turn(): void {
    this.#following.ready(this)
  }

  // ── Commits ────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * The history that a commit of `seq` counts for; undefined while there is none.
   * @throws epoch-changed when it can only speak of the history before the reset
   */
  epochOf(seq: number): string | undefined {
    if (this.wasReset && seq > this.place.after)
      throw new TidemarkError('epoch-changed', `Seq ${seq} of ${this.channel} was not sent since its reset`, {
        epoch: this.#epoch,
      })
    return this.#epoch ?? undefined
  }

  /** Keeps a commit that nobody waits for, together with those that follow it soon. */
  commitLater({ seq, epoch }: Required<CursorMove>): void {
    if (this.#commit && !sameHistory(this.#commit.epoch, epoch)) this.#following.flushCommit(this)
    if (seq >= (this.#commit?.seq ?? 0)) this.#commit = { epoch, seq }
  }

  /** Gives the kept commit out, once. */
  takeCommit(): Required<CursorMove> | undefined {
    const commit = this.#commit
    this.#commit = undefined
    return commit
  }
}
