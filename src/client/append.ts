/**
 * Appends: sent over the socket while it is open, else over HTTP, and sent again under the same idempotency key until
 * somebody answers. What one channel is given in order is sent in order.
 */
import { TidemarkError } from '../errors.ts'
import type { AppendedJson, NewEventJson } from '../wire.ts'
import { Backoff, pause } from './backoff.ts'
import { type AppendText, eventsText } from './codec.ts'
import type { Connection } from './connection.ts'
import { type Http, hintOf, isPassing } from './http.ts'
import { isLost } from './stream.ts'

/** Most appends without an answer, and their most characters; beyond it `append` refuses with `too-many`. */
export const PENDING_APPENDS_MAX = 10_000
export const PENDING_CHARACTERS_MAX = 32 * 1024 * 1024

export interface AppendOptions {
  /** The head that you believe in; another one is `seq-conflict`. */
  readonly expectedSeq?: number | undefined
  /** Of your own, where the same append may be made again later, by another process perhaps. Default: a random one. */
  readonly idempotencyKey?: string | undefined
  /** Gives up; whether the events were appended is not known then. */
  readonly signal?: AbortSignal | undefined
}

interface Pending extends AppendText {
  /** Its turn among all appends. */
  readonly number: number
  /** It fits no frame, so it takes HTTP. */
  isLarge: boolean
  /** Ends its HTTP call. */
  cancel: (() => void) | undefined
  resolve(answer: AppendedJson): void
  reject(error: unknown): void
}

/** The appends of one channel. */
interface Lane {
  /** Not sent, in order. */
  readonly waiting: Pending[]
  readonly sent: Set<Pending>
  /** One is on its way over HTTP: what went over the socket now could come before it. */
  isOverHttp: boolean
  readonly backoff: Backoff
  /** Ends the rest after a refusal. */
  rest: AbortController | undefined
}

export class Appender {
  readonly #http: Http
  readonly #connection: Connection
  readonly #lanes = new Map<string, Lane>()
  #isClosed = false
  #count = 0
  #characters = 0
  #numbers = 0
  #onEmpty: (() => void) | undefined

  constructor(http: Http, connection: Connection) {
    this.#http = http
    this.#connection = connection
  }

  append(
    channel: string,
    events: NewEventJson | readonly NewEventJson[],
    options: AppendOptions = {},
  ): Promise<AppendedJson> {
    const text = eventsText(events)
    const { expectedSeq, idempotencyKey = randomKey(), signal } = options
    if (this.#isClosed) return Promise.reject(unanswered('This client is closed'))
    if (this.#count >= PENDING_APPENDS_MAX || this.#characters + text.length > PENDING_CHARACTERS_MAX)
      return Promise.reject(new TidemarkError('too-many', 'Too many appends have no answer yet'))
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason)
      let isDone = false
      const done = () => {
        if (isDone) return
        isDone = true
        signal?.removeEventListener('abort', giveUp)
        pending.cancel?.()
        this.#count--
        this.#characters -= text.length
        this.#drop(pending)
      }
      const pending: Pending = {
        number: this.#numbers++,
        isLarge: false,
        cancel: undefined,
        channel,
        events: text,
        expectedSeq,
        idempotencyKey,
        resolve: (answer) => {
          done()
          resolve(answer)
        },
        reject: (error) => {
          done()
          reject(error)
        },
      }
      const giveUp = () => pending.reject(signal?.reason)
      signal?.addEventListener('abort', giveUp)
      this.#count++
      this.#characters += text.length
      const lane = this.#lane(channel)
      lane.waiting.push(pending)
      this.#pump(lane)
    })
  }

  /** The socket opened: what waits may be sent, and what rests after a failure need not rest longer. */
  pump(): void {
    for (const lane of this.#lanes.values()) {
      lane.rest?.abort()
      this.#pump(lane)
    }
  }

  /** Waits for the answers that are due, at most so long, ms; what has none then fails, its outcome unknown. */
  async close(ms: number): Promise<void> {
    this.#isClosed = true
    if (this.#count > 0)
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, ms)
        this.#onEmpty = () => {
          clearTimeout(timer)
          resolve()
        }
      })
    for (const { waiting, sent } of [...this.#lanes.values()])
      for (const pending of [...sent, ...waiting]) pending.reject(unanswered('The client was closed before the answer'))
  }

  #lane(channel: string): Lane {
    let lane = this.#lanes.get(channel)
    if (lane === undefined) {
      lane = { waiting: [], sent: new Set(), isOverHttp: false, backoff: new Backoff(), rest: undefined }
      this.#lanes.set(channel, lane)
    }
    return lane
  }

  #drop(pending: Pending): void {
    const lane = this.#lanes.get(pending.channel)
    if (lane === undefined) return
    if (!lane.sent.delete(pending)) {
      const at = lane.waiting.indexOf(pending)
      if (at >= 0) lane.waiting.splice(at, 1)
    }
    if (lane.sent.size === 0 && lane.waiting.length === 0) this.#lanes.delete(pending.channel)
    if (this.#count === 0) this.#onEmpty?.()
  }

  #pump(lane: Lane): void {
    while (lane.rest === undefined && !lane.isOverHttp && lane.waiting.length > 0) {
      const pending = lane.waiting[0]!
      const { stream } = this.#connection
      const overSocket = pending.isLarge ? undefined : stream?.append(pending)
      if (overSocket === undefined) {
        pending.isLarge = stream !== undefined
        // Over HTTP one after the other, so that a channel keeps its order.
        if (lane.sent.size > 0) return
      }
      lane.waiting.shift()
      lane.sent.add(pending)
      if (overSocket === undefined) lane.isOverHttp = true
      const overHttp = () =>
        this.#overHttp(pending).finally(() => {
          lane.isOverHttp = false
        })
      void this.#answer(lane, pending, overSocket ?? overHttp())
    }
  }

  async #answer(lane: Lane, pending: Pending, answer: Promise<AppendedJson>): Promise<void> {
    try {
      pending.resolve(await answer)
      lane.backoff.reset()
    } catch (error) {
      // Given up meanwhile, it is in no row any more.
      if (!isPassing(error)) pending.reject(error)
      else if (lane.sent.delete(pending)) {
        const later = lane.waiting.findIndex(({ number }) => number > pending.number)
        lane.waiting.splice(later < 0 ? lane.waiting.length : later, 0, pending)
        // A lost socket is no refusal: another door may be open.
        if (!isLost(error)) await this.#rest(lane, hintOf(error))
      }
    }
    this.#pump(lane)
  }

  async #rest(lane: Lane, hint: number | undefined): Promise<void> {
    if (lane.rest !== undefined) return
    const rest = new AbortController()
    lane.rest = rest
    await pause(lane.backoff.next(hint), rest.signal)
    lane.rest = undefined
  }

  async #overHttp(pending: Pending): Promise<AppendedJson> {
    const { channel, events, expectedSeq, idempotencyKey } = pending
    const life = new AbortController()
    pending.cancel = () => life.abort()
    const query = expectedSeq === undefined ? '' : `?expectedSeq=${expectedSeq}`
    const { value } = await this.#http.call<AppendedJson>({
      method: 'POST',
      path: `channels/${channel}/events${query}`,
      headers: { 'idempotency-key': idempotencyKey },
      body: events,
      signal: life.signal,
    })
    if (typeof value?.last !== 'number') throw unanswered('The answer is not that of an append')
    return value
  }
}

/** 128 random bits. `crypto.randomUUID` is missing in pages that were not loaded over TLS. */
function randomKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('')
}

const unanswered = (why: string): TidemarkError => new TidemarkError('unavailable', why, { outcome: 'unknown' })
