/**
 * How appends are sent: over the socket while it is open, else over HTTP, and again under the same idempotency key until
 * somebody answers. What one channel is given in order is sent in order. Loaded with the first append.
 */
import type { AppendedJson } from '../wire.ts'
import { type Backoff, newBackoff, pause } from './backoff.ts'
import type { AppendText } from './codec.ts'
import type { Connection } from './connection.ts'
import type { Http } from './http.ts'
import { errorOf, hintOf, isPassing } from './refusal.ts'

/** An append that has no answer yet. */
export interface Pending extends AppendText {
  /** Aborted when it is over, however it ended. */
  readonly life: AbortSignal
  resolve(answer: AppendedJson): void
  reject(error: unknown): void
}

export interface Sender {
  send(pending: Pending): void
  /** The socket opened: what waits may be sent, and what rests after a failure need not rest longer. */
  pump(): void
}

interface Row {
  readonly pending: Pending
  isSent: boolean
  /** It fits no frame, so it takes HTTP. */
  isLarge: boolean
}

/** The appends of one channel. */
interface Lane {
  /** What has no answer, in order. */
  readonly rows: Row[]
  /** One is on its way over HTTP: what went over the socket now could come before it. */
  isOverHttp: boolean
  readonly backoff: Backoff
  /** Ends the rest after a refusal. */
  rest: AbortController | undefined
}

/** Its events are text already. */
const jsonAppend = (ref: number, { channel, events, expectedSeq, idempotencyKey }: AppendText): string =>
  `${JSON.stringify({ op: 'append', ref, channel, expectedSeq, idempotencyKey }).slice(0, -1)},"events":${events}}`

export function newSender(http: Http, connection: Pick<Connection, 'stream'>): Sender {
  const lanes = new Map<string, Lane>()

  const pump = (lane: Lane): void => {
    for (const row of lane.rows) {
      if (lane.rest || lane.isOverHttp) return
      if (row.isSent) continue
      const { stream } = connection
      let answer = row.isLarge ? undefined : stream?.append(row.pending, jsonAppend)
      if (!answer) {
        row.isLarge = stream !== undefined
        // Over HTTP one after the other, so that a channel keeps its order.
        if (lane.rows[0] !== row) return
        lane.isOverHttp = true
        answer = overHttp(row.pending).finally(() => {
          lane.isOverHttp = false
        })
      }
      row.isSent = true
      void take(lane, row, answer)
    }
  }

  const take = async (lane: Lane, row: Row, answer: Promise<AppendedJson>): Promise<void> => {
    try {
      row.pending.resolve(await answer)
      lane.backoff.reset()
    } catch (error) {
      if (!isPassing(error)) row.pending.reject(error)
      else {
        row.isSent = false
        // A lost socket is no refusal: another door may be open.
        if (!error.details.lost && !lane.rest) {
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
      signal: life,
    })
    // A portal's page, say.
    if (!value.last) throw errorOf({ code: 'unavailable', detail: 'No answer', outcome: 'unknown' })
    return value
  }

  return {
    send: (pending) => {
      const { channel, life } = pending
      // Given up before there was anybody to send it.
      if (life.aborted) return
      const lane = lanes.get(channel) ?? { rows: [], isOverHttp: false, backoff: newBackoff(), rest: undefined }
      lanes.set(channel, lane)
      const row = { pending, isSent: false, isLarge: false }
      life.addEventListener('abort', () => {
        lane.rows.splice(lane.rows.indexOf(row), 1)
        if (lane.rows.length) return
        lanes.delete(channel)
        lane.rest?.abort()
      })
      lane.rows.push(row)
      pump(lane)
    },
    pump: () => {
      for (const lane of lanes.values()) {
        lane.rest?.abort()
        pump(lane)
      }
    },
  }
}
