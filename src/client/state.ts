/**
 * State reads: the newest event of each key of a channel over HTTP, as it is true at one seq, and following from exactly
 * there. One part, loaded when it is asked for.
 */
import type { TidemarkError } from '../errors.ts'
import type { EventJson, PageJson } from '../wire.ts'
import { newBackoff, pause } from './backoff.ts'
import type { FollowOptions, Items, Loop, Source } from './follow.ts'
import type { Http } from './http.ts'
import { errorOf, hintOf, isPassing } from './refusal.ts'
import type { ChannelEvent, Item } from './subscription.ts'

/** Longest wait for an answer, ms: the first question goes over the whole channel. */
const STATE_MS = 120_000
/** Most events of an answer. */
const STATE_EVENTS = 10_000
/** A state that was no longer kept before all of it was here is begun anew so often. */
const TRIES = 3

export interface StateOptions {
  /** Keys that begin with it. Default: all. */
  readonly prefix?: string | undefined
  readonly signal?: AbortSignal | undefined
}

/** A channel by key, as it is true at one seq. To go on from there: `follow({ epoch, after: at })`. */
export interface ChannelState {
  readonly channel: string
  readonly epoch: string
  readonly at: number
  readonly head: number
  readonly trimmed: number
  /** The newest event of each key, by seq. */
  readonly events: readonly ChannelEvent[]
}

/** @throws no-channel, too-large, too-many, data-loss, unavailable …; the signal's reason */
export async function readState(
  http: Http,
  channel: string,
  { prefix, signal }: StateOptions = {},
): Promise<ChannelState> {
  const ask = async (place: { epoch?: string; at?: number; after?: number }): Promise<PageJson & { at: number }> => {
    // Without what is undefined.
    const asked = JSON.parse(JSON.stringify({ prefix, limit: STATE_EVENTS, ...place }))
    const path = `channels/${channel}/state?${new URLSearchParams(asked)}`
    const { value } = await http.call<PageJson & { at?: number }>({ path, signal, timeout: STATE_MS })
    if (!value.events || value.at === undefined) throw errorOf({ code: 'unavailable', detail: 'No state' })
    return value as PageJson & { at: number }
  }
  const all = async (): Promise<ChannelState> => {
    const events: EventJson[] = []
    let page = await ask({})
    for (;;) {
      const { epoch, at, head, trimmed, last } = page
      for (const event of page.events) events.push({ ...event, channel })
      if (last >= at) return { channel, epoch, at, head, trimmed, events: events as ChannelEvent[] }
      page = await ask({ epoch, at, after: last })
    }
  }
  for (let tries = 1; ; tries++)
    try {
      return await all()
    } catch (error) {
      if (!isOver(error) || tries === TRIES) throw error
    }
}

/** This state is no longer kept, or the history is another one. */
const isOver = (error: unknown): boolean => /^(gap|epoch-changed)$/.test((error as TidemarkError | null)?.code ?? '')

/** What a loop takes its items from. */
export interface StateFeed {
  readonly isLeft: boolean
  /** Undefined when it is over. */
  take(): Promise<Item | undefined>
  leave(): void
}

/**
 * The state of the channel as one batch, whose `last` is the seq at which it is true; then what comes, from there. After
 * a `reset` the state comes anew; where events are gone that were not given out, that is a reset, too.
 * @param life Of the client. @param follow From a place of the log. @throws bad-request
 */
export function newFeed(
  http: Http,
  channel: string,
  { signal, after, cursor, epoch }: FollowOptions,
  life: AbortSignal,
  follow: <T>(from: FollowOptions, make: (source: Source) => Loop<T>) => Loop<T>,
  newItems: (source: Source) => Items,
): StateFeed {
  if (after !== undefined || cursor || epoch)
    throw errorOf({ code: 'bad-request', detail: 'A loop begins with the state, or elsewhere' })
  const over = new AbortController()
  const end = (): void => over.abort()
  const ends = [signal, life]
  for (const each of ends) each?.addEventListener('abort', end)
  if (ends.some((each) => each?.aborted)) end()

  /** Tries again until somebody answers. Undefined while there is no such channel, and when it is over. */
  const state = async (): Promise<ChannelState | undefined> => {
    const backoff = newBackoff()
    for (;;)
      try {
        return await readState(http, channel, { signal: over.signal })
      } catch (error) {
        const { code } = error as Partial<TidemarkError>
        if (over.signal.aborted || code === 'no-channel') return undefined
        if (!isPassing(error) && !isOver(error)) throw error
        await pause(backoff.next(isPassing(error) ? hintOf(error) : undefined), over.signal)
      }
  }

  const run = async function* (): AsyncGenerator<Item, undefined> {
    try {
      while (!over.signal.aborted) {
        const first = await state()
        if (over.signal.aborted) break
        if (first) {
          const { epoch, at, events } = first
          yield { is: 'events', channel, epoch, after: 0, last: at, at, events }
        }
        // One that is not there yet is waited for.
        const from = first ? { epoch: first.epoch, after: first.at } : { after: 'earliest' }
        for await (const item of follow({ ...from, signal: over.signal }, newItems)) {
          const isGap = item.is === 'gap'
          const { epoch, trimmed } = item as Extract<Item, { is: 'gap' }>
          yield isGap ? { is: 'reset', channel, epoch, trimmed, head: trimmed } : item
          if (isGap || item.is === 'reset') break
        }
      }
    } finally {
      for (const each of ends) each?.removeEventListener('abort', end)
    }
    return undefined
  }
  const items = run()
  return {
    get isLeft() {
      return over.signal.aborted
    },
    take: async () => (await items.next()).value,
    leave: () => {
      // Also when somebody waits for an item.
      end()
      void items.return(undefined)
    },
  }
}
