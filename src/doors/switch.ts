/**
 * The streamer's switch, kept as events of the system channel `_streamer`: so it survives restarts, and every gateway
 * of one log follows the same events and agrees. The newest event decides; no event is on.
 */
import { setMaxListeners } from 'node:events'
import type { Logger } from 'pino'
import { decodeBlock } from '../block.ts'
import { encodeBody } from '../body.ts'
import { hasCode, TidemarkError } from '../errors.ts'
import type { Event } from '../event.ts'
import { infoOrNone } from '../log/follow.ts'
import type { Log, Place } from '../log/log.ts'

export interface StreamerSwitch {
  readonly on: boolean
  /** When this server saw `on` change, ms since 1970; 0 while it is as it was at the start. */
  readonly changedAt: number
  /** Durable, and seen by this server, when it resolves. */
  set(on: boolean): Promise<void>
  /** Resolves when `on` is another one than at the call. Rejects with the signal's reason when it aborts. */
  changed(signal: AbortSignal): Promise<void>
}

export const STREAMER_CHANNEL = '_streamer'
const STREAMER_TYPE = 'streamer.switched'
const NEWEST = { events: 1, bytes: 1 } as const
/** Pause before the log is asked again after it failed. */
const RETRY_MS = 1_000

const utf8 = new TextEncoder()
const text = new TextDecoder()

export class LogSwitch implements StreamerSwitch {
  readonly #log: Log
  readonly #logger: Logger
  readonly #closing = new AbortController()
  /** Aborted and replaced at each change: what `changed` waits for. */
  #next = new AbortController()
  #on = true
  #changedAt = 0
  /** The newest event that was taken up. */
  #place: Place = { after: 0 }
  #following: Promise<void> = Promise.resolve()
  /** Settles with the last `set`, whose own caller hears of a failure. */
  #setting: Promise<void> = Promise.resolve()

  private constructor(log: Log, logger: Logger) {
    this.#log = log
    this.#logger = logger
    setMaxListeners(0, this.#next.signal)
  }

  /** Reads where the switch stands and follows it from there until `close`. */
  static async open(log: Log, logger: Logger): Promise<LogSwitch> {
    const opened = new LogSwitch(log, logger)
    const { place, on } = await opened.#newest()
    opened.#place = place
    opened.#on = on
    opened.#following = opened.#follow()
    return opened
  }

  get on(): boolean {
    return this.#on
  }

  get changedAt(): number {
    return this.#changedAt
  }

  /** One after another, so that the last one called is the one that stays. */
  set(on: boolean): Promise<void> {
    const done = this.#setting.then(() => this.#set(on))
    this.#setting = done.catch(() => undefined)
    return done
  }

  async #set(on: boolean): Promise<void> {
    if (on === this.#on) return
    const body = encodeBody([
      {
        type: STREAMER_TYPE,
        key: null,
        id: null,
        contentType: null,
        data: utf8.encode(JSON.stringify({ on })),
        to: null,
      },
    ])
    const [appended] = await this.#log.append([{ channel: STREAMER_CHANNEL, body }])
    const { epoch, last } = appended!
    this.#take({ epoch, after: last }, on)
    // Only the newest event means anything. Another gateway's newer one stays: it lies above this one.
    await this.#log.trim(STREAMER_CHANNEL, last - 1)
  }

  async changed(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted()
    const next = this.#next.signal
    await new Promise<void>((resolve, reject) => {
      const over = new AbortController()
      const settle = (then: () => void) => () => {
        over.abort()
        then()
      }
      next.addEventListener('abort', settle(resolve), { signal: over.signal })
      signal.addEventListener(
        'abort',
        settle(() => reject(signal.reason)),
        { signal: over.signal },
      )
    })
  }

  /** Stops following. The log stays open. */
  async close(): Promise<void> {
    this.#closing.abort()
    await this.#following
  }

  #take(place: Place, on: boolean): void {
    // An append of ours and the follower may tell the same events in either order.
    if (place.epoch === this.#place.epoch && place.after <= this.#place.after) return
    this.#place = place
    if (on === this.#on) return
    this.#on = on
    this.#changedAt = Date.now()
    const told = this.#next
    this.#next = new AbortController()
    setMaxListeners(0, this.#next.signal)
    told.abort()
  }

  async #follow(): Promise<void> {
    const { signal } = this.#closing
    while (!signal.aborted)
      try {
        await this.#log.changed(STREAMER_CHANNEL, this.#place, signal)
        const { place, on } = await this.#newest()
        this.#take(place, on)
      } catch (error) {
        if (signal.aborted || this.#log.health().state === 'closed') return
        this.#logger.warn({ err: error, channel: STREAMER_CHANNEL }, 'The streamer switch can not be followed now')
        await pause(RETRY_MS, signal)
      }
  }

  /** What the newest event says, and its place. */
  async #newest(): Promise<{ place: Place; on: boolean }> {
    for (;;) {
      const info = await infoOrNone(this.#log, STREAMER_CHANNEL)
      if (info === undefined) return { place: { after: 0 }, on: true }
      const { epoch, head, trimmed } = info
      if (head === trimmed) return { place: { epoch, after: head }, on: true }
      try {
        const page = await this.#log.read(STREAMER_CHANNEL, { epoch, after: head - 1 }, NEWEST)
        const event = page.blocks.flatMap((block) => decodeBlock(block, head - 1)).at(-1)
        return { place: { epoch, after: page.last }, on: event === undefined || isOn(event) }
      } catch (error) {
        if (hasCode(error, 'data-loss')) {
          // The switch stays as it is, and the next `set` is heard: damage here costs nobody a connection.
          this.#logger.error({ err: error, channel: STREAMER_CHANNEL }, 'The streamer switch is damaged on disk')
          return { place: { epoch, after: head }, on: this.#on }
        }
        // Trimmed or made anew between the two calls: ask again.
        if (!hasCode(error, 'gap') && !hasCode(error, 'epoch-changed') && !hasCode(error, 'no-channel')) throw error
      }
    }
  }
}

function isOn(event: Event): boolean {
  const said: unknown = JSON.parse(text.decode(event.data ?? utf8.encode('null')))
  const on = said !== null && typeof said === 'object' && 'on' in said ? said.on : undefined
  if (typeof on !== 'boolean')
    throw new TidemarkError('data-loss', `Event ${event.seq} of ${STREAMER_CHANNEL} is not a switch`)
  return on
}

/** Waits so long, or until the signal aborts. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const over = () => {
      clearTimeout(timer)
      signal.removeEventListener('abort', over)
      resolve()
    }
    const timer = setTimeout(over, ms).unref()
    signal.addEventListener('abort', over)
  })
}
