/**
 * Appends: sent over the socket while it is open, else over HTTP, and sent again under the same idempotency key until
 * somebody answers. What one channel is given in order is sent in order.
 */
import { TidemarkError } from '../errors.ts'
import type { AppendedJson, NewEventJson } from '../wire.ts'
import { type Backoff, newBackoff, pause } from './backoff.ts'
import type { AppendText } from './codec.ts'
import { FLUSH_MS } from './commit.ts'
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

export type Append = (
  channel: string,
  events: NewEventJson | readonly NewEventJson[],
  options?: AppendOptions,
) => Promise<AppendedJson>

export interface Appender {
  readonly append: Append
  /** The socket opened: what waits may be sent, and what rests after a failure need not rest longer. */
  pump(): void
  /** Takes no more, and waits for the answers that are due, at most FLUSH_MS; then what has none fails, its outcome unknown. */
  close(): Promise<void>
}

interface Pending extends AppendText {
  isSent: boolean
  /** It fits no frame, so it takes HTTP. */
  isLarge: boolean
  /** Ends its HTTP call. */
  readonly life: AbortController
  resolve(answer: AppendedJson): void
  reject(error: unknown): void
}

/** The appends of one channel. */
interface Lane {
  /** What has no answer, in order. */
  readonly row: Pending[]
  /** One is on its way over HTTP: what went over the socket now could come before it. */
  isOverHttp: boolean
  readonly backoff: Backoff
  /** Ends the rest after a refusal. */
  rest: AbortController | undefined
}

export function newAppender(http: Http, connection: Pick<Connection, 'stream'>): Appender {
  const lanes = new Map<string, Lane>()
  const pendings = new Set<Pending>()
  let characters = 0
  let isClosed = false
  /** Aborted when nothing waits in a closed client. */
  const empty = new AbortController()

  const append: Append = async (channel, events, { expectedSeq, idempotencyKey = randomKey(), signal } = {}) => {
    const text = JSON.stringify(Array.isArray(events) ? events : [events])
    if (isClosed) throw unanswered('Closed')
    if (pendings.size >= PENDING_APPENDS_MAX || characters + text.length > PENDING_CHARACTERS_MAX)
      throw new TidemarkError('too-many', 'Too many appends')
    signal?.throwIfAborted()
    const lane = lanes.get(channel) ?? { row: [], isOverHttp: false, backoff: newBackoff(), rest: undefined }
    lanes.set(channel, lane)
    return new Promise((resolve, reject) => {
      const last =
        <T>(settle: (value: T) => void) =>
        (value: T): void => {
          if (!pendings.delete(pending)) return
          signal?.removeEventListener('abort', giveUp)
          life.abort()
          characters -= text.length
          lane.row.splice(lane.row.indexOf(pending), 1)
          if (!lane.row.length) lanes.delete(channel)
          if (isClosed && !pendings.size) empty.abort()
          settle(value)
        }
      const life = new AbortController()
      const pending: Pending = {
        ...{ channel, events: text, expectedSeq, idempotencyKey, isSent: false, isLarge: false, life },
        ...{ resolve: last(resolve), reject: last(reject) },
      }
      const giveUp = (): void => pending.reject(signal!.reason)
      signal?.addEventListener('abort', giveUp)
      pendings.add(pending)
      characters += text.length
      lane.row.push(pending)
      pump(lane)
    })
  }

  const pump = (lane: Lane): void => {
    for (const pending of lane.row) {
      if (lane.rest || lane.isOverHttp) return
      if (pending.isSent) continue
      const { stream } = connection
      let answer = pending.isLarge ? undefined : stream?.append(pending)
      if (!answer) {
        pending.isLarge = stream !== undefined
        // Over HTTP one after the other, so that a channel keeps its order.
        if (lane.row[0] !== pending) return
        lane.isOverHttp = true
        answer = overHttp(pending).finally(() => {
          lane.isOverHttp = false
        })
      }
      pending.isSent = true
      void take(lane, pending, answer)
    }
  }

  const take = async (lane: Lane, pending: Pending, answer: Promise<AppendedJson>): Promise<void> => {
    try {
      pending.resolve(await answer)
      lane.backoff.reset()
    } catch (error) {
      if (!isPassing(error)) pending.reject(error)
      else {
        pending.isSent = false
        // A lost socket is no refusal: another door may be open.
        if (!isLost(error) && !lane.rest) {
          lane.rest = new AbortController()
          await pause(lane.backoff.next(hintOf(error)), lane.rest.signal)
          lane.rest = undefined
        }
      }
    }
    pump(lane)
  }

  const overHttp = async ({ channel, events, expectedSeq, idempotencyKey, life }: Pending): Promise<AppendedJson> => {
    const { value } = await http.call<AppendedJson>({
      method: 'POST',
      path: `channels/${channel}/events${expectedSeq === undefined ? '' : `?expectedSeq=${expectedSeq}`}`,
      headers: { 'idempotency-key': idempotencyKey },
      body: events,
      signal: life.signal,
    })
    // A portal's page, say.
    if (!value.last) throw unanswered('No answer')
    return value
  }

  return {
    append,
    pump: () => {
      for (const lane of lanes.values()) {
        lane.rest?.abort()
        pump(lane)
      }
    },
    close: async () => {
      isClosed = true
      if (pendings.size) await pause(FLUSH_MS, empty.signal)
      for (const { reject } of pendings) reject(unanswered('Closed'))
    },
  }
}

/** 128 random bits. `crypto.randomUUID` is missing in pages that were not loaded over TLS. */
const randomKey = (): string => `${crypto.getRandomValues(new Uint32Array(4))}`

const unanswered = (why: string): TidemarkError => new TidemarkError('unavailable', why, { outcome: 'unknown' })
