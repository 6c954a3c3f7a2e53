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
  /**
   * In place of `after`: the newest event of each key first, as one batch, then every event from exactly there. After a
   * `reset` the state comes anew; where events are gone, that is a reset.
   */
  readonly state?: true | undefined
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
  readonly subscription: Pick<Subscription, 'take'> & {
    readonly place?: Place | undefined
    readonly isLeft?: boolean | undefined
  }
  /** Present when what the body has finished is committed by itself. */
  readonly committer?: Committer | undefined
  /** Ends the subscription on the server. */
  leave(): void
}

/** What an app loops over; one loop, one follower. Calls of `next` take turns, as an async generator's do. */
export interface Loop<T> extends AsyncIterableIterator<T, undefined> {
  /** The place after what was given out last: to be stored, and given as `epoch` and `after` another day. */
  readonly place: Place | undefined
  next(): Promise<IteratorResult<T, undefined>>
  /**
   * Ends the loop and sends the commit of what was finished. The event that a `break` or a `throw` left in the middle
   * is not finished: it comes again, unless you commit it.
   */
  return(): Promise<IteratorResult<T, undefined>>
  [Symbol.asyncIterator](): this
}

/** Items of one channel, for those who keep a state of their own. */
export type Items = Loop<Item>
/** Events of one channel, one at a time: the loop body is awaited before the next one. */
export type Events = Loop<ChannelEvent>

/** Gives out items, and commits each as the next one is asked for. */
export function newItems({ subscription, committer, leave }: Source): Items {
  let { place } = subscription
  const run = async function* (): AsyncGenerator<Item, undefined> {
    try {
      for (let item = await subscription.take(); item; item = await subscription.take()) {
        place = placeAfter(item)
        yield item
        // The body asked for the next item, so it is done with this one.
        if (item.is === 'reset') committer?.drop()
        if (item.is !== 'caughtup') commitTo(committer, place)
      }
    } catch (error) {
      // A last commit that fails too says less than this.
      await Promise.allSettled([committer?.flush()])
      throw error
    } finally {
      leave()
      await committer?.flush()
    }
  }
  const items = run()
  return {
    get place() {
      return place
    },
    next: () => items.next(),
    return: () => {
      // Also when it never began, or when somebody waits for an item.
      leave()
      return items.return(undefined)
    },
    [Symbol.asyncIterator]() {
      return this
    },
  }
}

function placeAfter(item: Item): Place {
  const { epoch, last, trimmed, seq } = item as { epoch: string | null; last?: number; trimmed?: number; seq?: number }
  return { epoch, after: last ?? trimmed ?? seq! }
}

/** A channel that is gone has no cursor to move. */
const commitTo = (committer: Committer | undefined, place: Place): void => {
  if (place.epoch) committer?.want(place)
}

/** Not a generator: an event that is there already is given out at once. */
export function newEvents(source: Source, { onGap, onReset }: EventOptions): Events {
  const { subscription, committer } = source
  const items = newItems(source)
  let events: readonly ChannelEvent[] = []
  let epoch: string | null = null
  let at = 0
  let isOver = false
  let busy = 0
  let turn: Promise<unknown> = Promise.resolve()

  /** While the body is amid a batch: the place after the event that it has. */
  const amid = (): Place | undefined =>
    at > 0 && at < events.length ? { epoch, after: events[at - 1]!.seq } : undefined

  const now = (): IteratorResult<ChannelEvent, undefined> | undefined => {
    const place = amid()
    if (!place || isOver || subscription.isLeft) return undefined
    // The event before this one is finished. The last one of a batch is committed with its batch.
    commitTo(committer, place)
    return { value: events[at++]!, done: false }
  }

  const end = (): ReturnType<Events['return']> => {
    isOver = true
    return items.return() as ReturnType<Events['return']>
  }

  const more: Events['next'] = async () => {
    for (;;) {
      const step = now()
      if (step) return step
      const place = amid()
      if (place) {
        // Left in the middle of a batch: only what the body has finished counts, not the whole batch.
        if (!isOver) commitTo(committer, place)
        return end()
      }
      const { value: item } = await items.next()
      if (!item) return end()
      if (item.is === 'events') {
        if (!item.events.length) continue
        ;({ events, epoch } = item)
        at = 1
        return { value: events[0]!, done: false }
      }
      try {
        if (item.is !== 'caughtup') await told(item, item.is === 'gap' ? onGap : onReset)
      } catch (error) {
        await Promise.allSettled([end()])
        throw error
      }
    }
  }

  return {
    get place() {
      return amid() ?? items.place
    },
    next: () => {
      const step = busy ? undefined : now()
      if (step) return Promise.resolve(step)
      busy++
      turn = turn.then(more, more).finally(() => {
        busy--
      })
      return turn as ReturnType<Events['next']>
    },
    return: end,
    [Symbol.asyncIterator]() {
      return this
    },
  }
}

/** Tells the app what is not an event, or throws where the app has no answer to it. */
async function told(item: Gap | Reset, on?: (item: never) => void | Promise<void>): Promise<void> {
  const { is, ...facts } = item
  if (!on) throw new TidemarkError(is === 'gap' ? is : 'epoch-changed', `${item.channel}: ${is}`, facts)
  await on(item as never)
}
