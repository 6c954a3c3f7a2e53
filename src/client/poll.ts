/**
 * Long polls for all channels of a client, one request at a time, while there is no socket. Nothing is kept between
 * two polls but the places of the subscriptions, so a poll may be cut off at any moment.
 *
 * With all else that goes over HTTP it is one part, which is loaded when it is needed.
 */
import { TidemarkError } from '../errors.ts'
import type { PollJson, PollPageJson } from '../wire.ts'
import { newBackoff, pause } from './backoff.ts'
import type { Bell } from './bell.ts'
import { type Http, REQUEST_MS } from './http.ts'
import { errorOf, isPassing } from './refusal.ts'
import { jsonFrame, type Subscription } from './subscription.ts'

export { newHttp } from './http.ts'
export { commit, read } from './read.ts'

/** How long the server holds a poll that has nothing to say, seconds. */
const POLL_SECONDS = 25
/** Most events of one poll. */
const POLL_EVENTS = 1_000
/** A poll that says nothing is not repeated sooner, ms: a server that is stopping answers at once. */
const EMPTY_MS = 1_000
/** @param wake Ends the round of asking: there is something else to ask. */
export type NewBell = (wake: () => void) => Promise<Bell>

export interface Poller {
  stop(): void
  /** There is something new to ask for. */
  wake(): void
}

/**
 * @param delay Before the first poll, ms.
 * @param onAnswer Told after each answer. `within`: the streamer was just turned on, come back within so many ms.
 * @param onFailed The polls are over: nobody answered, or the answer was a refusal.
 * @param newBell How tabs share one waiting poll; everybody waits where there is none.
 */
export function startPolling(
  http: Http,
  client: string | undefined,
  subscriptions: ReadonlyMap<string, Subscription>,
  delay: number,
  onAnswer: (isStreamerOn: boolean, within: number | undefined) => void,
  onFailed: (error: unknown) => void,
  newBell: NewBell | undefined,
): Poller {
  const life = new AbortController()
  const backoff = newBackoff()
  /** One round of asking; aborted when there is something else to ask. */
  let round = new AbortController()
  /** As the newest answer said. Told to the server, whose wait would else begin with the switch turned unheard. */
  let streamer: PollJson['streamer'] | undefined
  let bell: Bell | undefined

  const ask = async (signal: AbortSignal): Promise<void> => {
    const asked = new Map<string, Subscription>()
    for (const [channel, subscription] of subscriptions) {
      if (subscription.isOver) continue
      // Left out: the app has not taken what it holds.
      subscription.stage = subscription.isFull ? 'full' : 'apart'
      if (subscription.stage === 'apart') asked.set(channel, subscription)
    }
    const mayWait = bell?.leads ?? true
    const others = mayWait && bell?.others(asked)
    if (!asked.size && !Object.keys(others || {}).length) return pause(POLL_SECONDS * 1_000, signal)
    const areBehind = (): boolean => [...asked.values()].some(({ isBehind }) => isBehind)
    // Nobody waits before every channel is known to be at its head, and the server has spoken of the streamer.
    const wait = mayWait && streamer && !areBehind() ? POLL_SECONDS : 0
    const asking = performance.now()
    const { value, size } = await http.call<PollJson>({
      method: 'POST',
      path: 'poll',
      body: JSON.stringify({
        client,
        channels: {
          ...others,
          ...Object.fromEntries(
            [...asked].map(([channel, { start, isBehind }]) => [
              channel,
              { after: start.after, epoch: start.epoch, tell: isBehind },
            ]),
          ),
        },
        wait,
        limit: POLL_EVENTS,
        streamer,
      }),
      signal,
      timeout: REQUEST_MS + wait * 1_000,
    })
    // A socket took over, or a channel was left: our places may be elsewhere by now.
    if (signal.aborted) return
    const { pages, streamerRetryAfter } = value
    if (!pages) throw new TidemarkError('unavailable', 'No poll')
    let hasMoved = false
    let hasFailed = false
    for (const page of pages) {
      const subscription = asked.get(page.channel)
      if (!subscription || subscription.isOver) continue
      if ('error' in page) {
        const error = errorOf({ channel: page.channel, ...page.error })
        if (isPassing(error)) hasFailed = true
        else subscription.end(error)
      } else if (take(subscription, page, size / pages.length)) hasMoved = true
    }
    if (bell?.answered(value, asked)) hasMoved = true
    const wasOff = streamer === 'off'
    streamer = value.streamer
    const isOn = streamer !== 'off'
    onAnswer(isOn, isOn && wasOff ? (streamerRetryAfter ?? 0) : undefined)
    if (hasFailed) return pause(backoff.next(), signal)
    backoff.reset()
    if (!hasMoved && (wait || areBehind())) await pause(asking + EMPTY_MS - performance.now(), signal)
    if (bell && !bell.leads && !areBehind()) await bell.rings(asked, signal)
  }

  const run = async (): Promise<void> => {
    await pause(delay, life.signal)
    try {
      bell = await newBell?.(wake)
    } catch {
      // Its file is not to be had now: we wait as if we were alone.
    }
    if (life.signal.aborted) bell?.stop()
    while (!life.signal.aborted) {
      round = new AbortController()
      try {
        await ask(round.signal)
      } catch (error) {
        if (round.signal.aborted) continue
        stop()
        onFailed(error)
      }
    }
  }
  const wake = (): void => round.abort()
  const stop = (): void => {
    life.abort()
    wake()
    bell?.stop()
  }
  void run()
  return { wake, stop }
}

/** One channel's page. True when it brought something. */
function take(subscription: Subscription, page: Exclude<PollPageJson, { error: unknown }>, size: number): boolean {
  const { epoch, after, last, events, gap, reset } = page
  subscription.opened(epoch, gap?.after ?? after)
  if (reset) subscription.reset(page)
  else if (gap) subscription.gap(gap)
  const moves = epoch !== null && last > after
  // What does not continue our place is asked for again.
  if (moves && !subscription.events(jsonFrame({ epoch, after, last, events }, size))) return false
  if (page.caughtUp) subscription.caughtup({ seq: last })
  return moves || reset === true || gap !== undefined
}
