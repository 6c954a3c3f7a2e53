/** What an app loops over: the items of a channel, or its events alone. */
import { TidemarkError } from '../errors.ts'
import type { Committer } from './commit.ts'
import type { ChannelEvent, Item, Place, Start, Subscription } from './subscription.ts'

export interface FollowOptions extends Start {
  /**
   * The last seq you have, `earliest` (the default), `head`, `head-50` or `time:<RFC 3339>`. With a number, give the
   * `epoch` too if you have it: it tells you when the history is another one.
   */
  readonly after?: number | string | undefined
  /** From this client's cursor on the server, in place of `after`. Needs the client's name. */
  readonly cursor?: true | undefined
  readonly epoch?: string | undefined
  /** With `cursor`. `auto`, the default: what the loop body has finished is committed. `manual`: `channel.commit()`. */
  readonly commit?: 'auto' | 'manual' | undefined
  /** Ends the loop, as `break` does. */
  readonly signal?: AbortSignal | undefined
}

export type Gap = Extract<Item, { is: 'gap' }>
export type Reset = Extract<Item, { is: 'reset' }>

export interface EventOptions extends FollowOptions {
  /** Events are gone that this loop asked for. Without it the loop throws `gap`. Returning goes on after the gap. */
  readonly onGap?: ((gap: Gap) => void | Promise<void>) | undefined
  /** The history is another one: forget what was built from it. Without it the loop throws `epoch-changed`. */
  readonly onReset?: ((reset: Reset) => void | Promise<void>) | undefined
}

/** What a loop needs of the client. */
export interface Source {
  readonly subscription: Subscription
  /** Present when what the body has finished is committed by itself. */
  readonly committer?: Committer | undefined
  /** Ends the subscription on the server. */
  leave(): void
}

/** Items of one channel, for those who keep a state of their own. One loop, one follower. */
export class Items implements AsyncIterableIterator<Item, undefined> {
  readonly #source: Source
  #given: Item | undefined
  #place: Place | undefined
  #over = false
  /** Calls of `next` take turns, as an async generator's do. */
  #turn: Promise<unknown> | undefined

  constructor(source: Source) {
    this.#source = source
    this.#place = source.subscription.place
  }

  /** The place after the newest item that was given out: to be stored, and given as `epoch` and `after` another day. */
  get place(): Place | undefined {
    return this.#place
  }

  next(): Promise<IteratorResult<Item, undefined>> {
    const turn = this.#turn === undefined ? this.#next() : this.#turn.then(this.#next, this.#next)
    this.#turn = turn
    return turn
  }

  readonly #next = async (): Promise<IteratorResult<Item, undefined>> => {
    this.#finished()
    if (this.#over) return { value: undefined, done: true }
    let item: Item | undefined
    try {
      item = await this.#source.subscription.take()
    } catch (error) {
      // A last commit that fails too says less than this.
      await Promise.allSettled([this.return()])
      throw error
    }
    if (item === undefined) return this.return()
    this.#given = item
    this.#place = placeAfter(item, this.#place)
    return { value: item, done: false }
  }

  /** The body asked for the next item, so it is done with this one. */
  #finished(): void {
    const item = this.#given
    this.#given = undefined
    if (item === undefined || item.is === 'caughtup') return
    if (item.is === 'reset') this.#source.committer?.drop()
    this.commitTo(item.epoch, item.is === 'events' ? item.last : item.trimmed)
  }

  commitTo(epoch: string | null, after: number): void {
    if (epoch !== null) this.#source.committer?.want({ epoch, after })
  }

  /**
   * Ends the loop and sends the commit of what was finished. The event that a `break` or a `throw` left in the middle
   * is not finished: it comes again, unless you commit it.
   */
  async return(): Promise<IteratorResult<Item, undefined>> {
    if (!this.#over) {
      this.#over = true
      this.#source.leave()
      await this.#source.committer?.flush()
    }
    return { value: undefined, done: true }
  }

  [Symbol.asyncIterator](): this {
    return this
  }
}

function placeAfter(item: Item, place: Place | undefined): Place {
  const { epoch } = item
  if (item.is === 'events') return { epoch, after: item.last }
  if (item.is === 'caughtup') return { epoch, after: Math.max(item.seq, place?.after ?? 0) }
  return { epoch, after: item.trimmed }
}

/** Events of one channel, one at a time: the loop body is awaited before the next one. */
export class Events implements AsyncIterableIterator<ChannelEvent, undefined> {
  readonly #items: Items
  readonly #subscription: Subscription
  readonly #options: EventOptions
  #events: readonly ChannelEvent[] = []
  #epoch: string | null = null
  #at = 0
  #over = false
  /** A call of `next` that waits; those that come meanwhile take turns, as an async generator's do. */
  #waits: Promise<IteratorResult<ChannelEvent, undefined>> | undefined

  constructor(source: Source, options: EventOptions) {
    this.#items = new Items(source)
    this.#subscription = source.subscription
    this.#options = options
  }

  /** The place after the newest event that was given out: to be stored, and given as `epoch` and `after` another day. */
  get place(): Place | undefined {
    if (!this.#isAmid) return this.#items.place
    return { epoch: this.#epoch, after: this.#events[this.#at - 1]!.seq }
  }

  get #isAmid(): boolean {
    return this.#at > 0 && this.#at < this.#events.length
  }

  next(): Promise<IteratorResult<ChannelEvent, undefined>> {
    if (this.#waits === undefined) return this.#next()
    return this.#wait(this.#waits.then(this.#next, this.#next))
  }

  readonly #next = (): Promise<IteratorResult<ChannelEvent, undefined>> => {
    const events = this.#events
    if (this.#at >= events.length || this.#over || this.#subscription.isLeft) return this.#wait(this.#more())
    // The event before this one is finished. The last one of a batch is committed with its batch.
    if (this.#at > 0) this.#items.commitTo(this.#epoch, events[this.#at - 1]!.seq)
    return Promise.resolve({ value: events[this.#at++]!, done: false })
  }

  #wait<T extends Promise<IteratorResult<ChannelEvent, undefined>>>(waits: T): T {
    this.#waits = waits
    const done = () => {
      if (this.#waits === waits) this.#waits = undefined
    }
    waits.then(done, done)
    return waits
  }

  async #more(): Promise<IteratorResult<ChannelEvent, undefined>> {
    if (this.#over) return { value: undefined, done: true }
    if (this.#isAmid) {
      // Left in the middle of a batch: only what the body has finished counts, not the whole batch.
      this.#items.commitTo(this.#epoch, this.#events[this.#at - 1]!.seq)
      return this.return()
    }
    for (;;) {
      const { value: item, done } = await this.#items.next()
      if (done) return { value: undefined, done: true }
      if (item.is === 'events') {
        if (item.events.length === 0) continue
        this.#events = item.events
        this.#epoch = item.epoch
        this.#at = 1
        return { value: item.events[0]!, done: false }
      }
      try {
        await this.#turnTo(item)
      } catch (error) {
        await Promise.allSettled([this.return()])
        throw error
      }
    }
  }

  /** Tells the app what is not an event, or throws where the app has no answer to it. */
  async #turnTo(item: Item): Promise<void> {
    const { onGap, onReset } = this.#options
    const { is, ...facts } = item
    if (item.is === 'gap') {
      if (!onGap) throw new TidemarkError('gap', `${item.channel}: events up to ${item.trimmed} are gone`, facts)
      await onGap(item)
    } else if (item.is === 'reset') {
      if (!onReset) throw new TidemarkError('epoch-changed', `${item.channel}: the history is another one`, facts)
      await onReset(item)
    }
  }

  /** As of Items. */
  async return(): Promise<IteratorResult<ChannelEvent, undefined>> {
    this.#over = true
    await this.#items.return()
    return { value: undefined, done: true }
  }

  [Symbol.asyncIterator](): this {
    return this
  }
}
