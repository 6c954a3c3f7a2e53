/**
 * Long polls for all channels of a client, one request at a time, while there is no socket. Nothing is kept between
 * two polls but the places of the subscriptions, so a poll may be cut off at any moment.
 */
import { TidemarkError } from '../errors.ts'
import type { PageJson, PollJson, PollPageJson } from '../wire.ts'
import { Backoff, pause } from './backoff.ts'
import { asErrorCode, type Http, isPassing, REQUEST_MS } from './http.ts'
import { jsonFrame, type Place, type Subscription } from './subscription.ts'

/** How long the server holds a poll that has nothing to say, seconds. */
export const POLL_SECONDS = 25
/** Most events of one poll. */
export const POLL_EVENTS = 1_000
/** A poll that says nothing is not repeated sooner, ms: a server that is stopping answers at once. */
const EMPTY_MS = 1_000
/** An answer larger than this may have been cut, characters; then a channel without a page need not be at its head. */
const UNCUT_SIZE = 256 * 1024
/** Most starting places that are asked for at the same time. */
const OPENING_MAX = 6

export interface PollerOptions {
  readonly http: Http
  readonly client: string | undefined
  readonly subscriptions: ReadonlyMap<string, Subscription>
  /** Before the first poll, ms. */
  readonly delay: number
  /** After each answer. `within`: the streamer was just turned on, come back within so many ms. */
  onStreamer(isOn: boolean, within: number | undefined): void
  /** The polls are over: nobody answered, or the answer was a refusal. */
  onFailed(error: TidemarkError): void
}

export class Poller {
  readonly #options: PollerOptions
  readonly #life = new AbortController()
  /** One round of asking; aborted when there is something else to ask. */
  #round = new AbortController()
  /** Those whose history was asked for. */
  readonly #opened = new WeakSet<Subscription>()
  /** Those whose start is a word (`head`, a time) that a poll left without an answer. */
  readonly #unplaced = new WeakSet<Subscription>()
  readonly #atHead = new WeakSet<Subscription>()
  /** Left out of the poll on its way: the app has not taken what they hold. */
  #full = new Set<Subscription>()
  readonly #backoff = new Backoff()

  constructor(options: PollerOptions) {
    this.#options = options
  }

  stop(): void {
    this.#life.abort()
    this.#round.abort()
  }

  /** There is something new to ask for. */
  wake(): void {
    this.#round.abort()
  }

  madeRoom(subscription: Subscription): void {
    if (this.#full.has(subscription)) this.wake()
  }

  async run(): Promise<void> {
    const { signal } = this.#life
    await pause(this.#options.delay, signal)
    while (!signal.aborted) {
      this.#round = new AbortController()
      const round = this.#round.signal
      try {
        await this.#ask(round)
      } catch (error) {
        if (round.aborted) continue
        this.#life.abort()
        this.#options.onFailed(
          error instanceof TidemarkError ? error : new TidemarkError('internal', String(error), {}, { cause: error }),
        )
      }
    }
  }

  async #ask(round: AbortSignal): Promise<void> {
    const all = [...this.#options.subscriptions.values()]
    this.#full = new Set(all.filter((subscription) => subscription.isFull))
    const asked = all.filter((subscription) => !this.#full.has(subscription))
    await this.#open(asked, round)
    const ready = new Map(asked.filter(({ isOver }) => !isOver).map((sub) => [sub.channel, sub]))
    if (ready.size === 0) return pause(POLL_SECONDS * 1_000, round)

    const isWaiting = [...ready.values()].every((subscription) => this.#atHead.has(subscription))
    const wait = isWaiting ? POLL_SECONDS : 0
    const channels = Object.fromEntries([...ready].map(([channel, { start }]) => [channel, start]))
    const asking = Date.now()
    const { value, size } = await this.#options.http.call<PollJson>({
      method: 'POST',
      path: 'poll',
      body: JSON.stringify({ channels, wait, limit: POLL_EVENTS }),
      signal: round,
      timeout: REQUEST_MS + wait * 1_000,
    })
    // A socket took over, or a channel was left: our places may be elsewhere by now.
    if (round.aborted) return
    if (!Array.isArray(value.pages)) throw new TidemarkError('unavailable', 'The answer is not that of a poll')
    const rest = this.#take(value.pages, ready, size)
    this.#options.onStreamer(value.streamer !== 'off', value.streamerRetryAfter)
    if (rest === 'failed') await pause(this.#backoff.next(), round)
    else if (rest === 'nothing' && (wait > 0 || !this.#areAtHead(ready)))
      await pause(Math.max(0, asking + EMPTY_MS - Date.now()), round)
  }

  #areAtHead(asked: ReadonlyMap<string, Subscription>): boolean {
    return [...asked.values()].every((subscription) => this.#atHead.has(subscription))
  }

  #take(
    pages: readonly PollPageJson[],
    asked: ReadonlyMap<string, Subscription>,
    size: number,
  ): 'moved' | 'nothing' | 'failed' {
    let rest: 'moved' | 'nothing' | 'failed' = 'nothing'
    const silent = new Map(asked)
    let events = 0
    for (const page of pages) {
      const subscription = asked.get(page.channel)
      if (subscription === undefined || subscription.isOver) continue
      silent.delete(page.channel)
      if ('error' in page) {
        const error = errorOf(page)
        if (isPassing(error)) rest = 'failed'
        else subscription.end(error)
        continue
      }
      events += page.events.length
      if (this.#turn(subscription, page, Math.ceil(size / pages.length)) && rest === 'nothing') rest = 'moved'
    }
    if (events < POLL_EVENTS && size < UNCUT_SIZE) for (const subscription of silent.values()) this.#said(subscription)
    if (rest !== 'failed') this.#backoff.reset()
    return rest
  }

  /** One channel's page. True when it brought something. */
  #turn(subscription: Subscription, page: Exclude<PollPageJson, { error: unknown }>, size: number): boolean {
    const { epoch, after, last, events, trimmed, head } = page
    if (subscription.place === undefined) subscription.opened({ epoch, after: page.gap?.after ?? after }, head)
    this.#opened.add(subscription)
    if (page.reset) subscription.reset({ epoch, trimmed, head })
    else if (page.gap) subscription.gap(page.gap.trimmed)
    const moves = epoch !== null && last > after
    if (moves) subscription.events(jsonFrame({ epoch, after, last, events }, size))
    if (page.caughtUp && !subscription.isOver) this.#isAtHead(subscription, last)
    else {
      this.#atHead.delete(subscription)
      subscription.fellBehind()
    }
    return moves || page.reset === true || page.gap !== undefined
  }

  /** A channel without a page has nothing new, or does not answer to words. */
  #said(subscription: Subscription): void {
    if (subscription.place === undefined) this.#unplaced.add(subscription)
    else this.#isAtHead(subscription, subscription.place.after)
  }

  #isAtHead(subscription: Subscription, seq: number): void {
    this.#atHead.add(subscription)
    // A channel that nobody made yet has no head to be caught up with.
    if (subscription.isBehind && subscription.place?.epoch) subscription.caughtUp(seq)
  }

  // ── Starting places ────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Asks where a cursor stands, and of which history a seq is that came without an epoch: a poll would say so only
   * when the channel moves. A poll answers each start that is a word; one that did not is asked for here, lest it
   * slides along with the head.
   */
  async #open(asked: readonly Subscription[], round: AbortSignal): Promise<void> {
    const unknown = asked.filter((subscription) => {
      if (this.#opened.has(subscription)) return false
      const { place, start } = subscription
      return place ? place.epoch === null : start.cursor || this.#unplaced.has(subscription)
    })
    for (let i = 0; i < unknown.length; i += OPENING_MAX)
      await Promise.all(unknown.slice(i, i + OPENING_MAX).map((subscription) => this.#openOne(subscription, round)))
  }

  async #openOne(subscription: Subscription, round: AbortSignal): Promise<void> {
    const { after, cursor, epoch } = subscription.start
    const query = new URLSearchParams({ limit: '1' })
    if (cursor) query.set('client', this.#options.client ?? '')
    else if (after !== undefined) query.set('after', String(after))
    if (epoch !== undefined) query.set('epoch', epoch)
    const path = `channels/${subscription.channel}/events?${query}`
    try {
      const { value } = await this.#options.http.call<PageJson>({ path, signal: round })
      if (!round.aborted) subscription.opened({ epoch: value.epoch, after: value.after }, value.head)
    } catch (error) {
      if (!(error instanceof TidemarkError) || isPassing(error) || round.aborted) throw error
      refused(subscription, error)
    }
    this.#opened.add(subscription)
  }
}

/** The server has no page for a start: what that means. */
function refused(subscription: Subscription, error: TidemarkError): void {
  const { epoch, trimmed, head } = error.details as { epoch: string; trimmed: number; head: number }
  const { start, place } = subscription
  switch (error.code) {
    case 'epoch-changed':
    case 'ahead-of-head':
      subscription.reset({ epoch, trimmed, head })
      break
    case 'gap':
      // The poll will tell the gap; here only the history was learned.
      subscription.opened({ epoch, after: place?.after ?? 0 }, head)
      break
    case 'no-channel':
      if (start.epoch !== undefined) subscription.reset({ epoch: null, trimmed: 0, head: 0 })
      else subscription.opened(place ?? NOWHERE, 0)
      break
    default:
      subscription.end(error)
  }
}

const NOWHERE: Place = { epoch: null, after: 0 }

function errorOf({ channel, error }: Extract<PollPageJson, { error: unknown }>): TidemarkError {
  const { status: _status, code, detail, ...details } = error
  return new TidemarkError(asErrorCode(code), String(detail), { channel, ...details })
}
