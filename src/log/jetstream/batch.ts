/**
 * Many messages in answer to one request to a stream. The library's own call keeps its subscription for 5 s after the
 * last of them, and waits for ever where the connection is closed in between.
 */
import { randomBytes } from 'node:crypto'
import type { Msg, NatsConnection } from '@nats-io/transport-node'
import { isUnreachable } from './failures.ts'

/** After so long without another message the rest does not come, ms. */
const SILENCE_MS = 2_000
const END = 204
const NOTHING = 404

/** One of `next_by_subj` with a place to begin at, and `multi_last`. */
export interface Query {
  readonly seq?: number
  readonly next_by_subj?: string
  readonly multi_last?: readonly string[]
  readonly batch: number
  readonly max_bytes?: number
}

export interface Answers {
  /** All of them, in their order; none where there are none. */
  readonly messages: readonly Msg[]
  /** The last message in the stream that the replica knew of that answered; only of `multi_last`, where there are any. */
  readonly upTo: number
}

/** @throws as a request does */
export function askMany(nc: NatsConnection, stream: string, query: Query): Promise<Answers> {
  return new Promise((resolve, reject) => {
    const messages: Msg[] = []
    const reply = `_INBOX.${randomBytes(16).toString('hex')}`
    const failed = (name: string, message: string, code?: number): void =>
      finish(() => reject(Object.assign(new Error(message), { name, code })))
    const subscription = nc.subscribe(reply, {
      callback: (error, message) => {
        if (error) return finish(() => reject(error))
        const code = message.headers?.code ?? 0
        if (code === END || code === NOTHING) {
          const upTo = Number(message.headers?.get('Nats-UpTo-Sequence') ?? 0)
          return finish(() => resolve({ messages, upTo }))
        }
        if (code !== 0) return failed('RequestError', `NATS answered ${code} ${message.headers?.description}`, code)
        messages.push(message)
        silence.refresh()
      },
    })
    const silence = setTimeout(() => failed('TimeoutError', 'NATS broke off in the middle of a batch'), SILENCE_MS)
    const finish = (settle: () => void): void => {
      clearTimeout(silence)
      subscription.unsubscribe()
      settle()
    }
    void subscription.closed.then(() => failed('ClosedConnectionError', 'The connection was closed'))
    nc.publish(`$JS.API.DIRECT.GET.${stream}`, JSON.stringify(query), { reply })
  })
}

/** A replica that says nothing has nothing. @throws what it says */
export function unlessSilent(error: unknown): Answers {
  if (isUnreachable(error)) return { messages: [], upTo: 0 }
  throw error
}
