/**
 * Appends that have no answer yet: how many there may be, and how each may end before its answer. Who sends them
 * (append.ts) is loaded with the first one; they are handed over in the order in which they were given.
 */
import { TidemarkError } from '../errors.ts'
import type { AppendedJson, NewEventJson } from '../wire.ts'
import type { Pending, Sender } from './append.ts'
import { pause } from './backoff.ts'
import { FLUSH_MS, persist } from './commit.ts'

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

export interface Outbox {
  append(
    channel: string,
    events: NewEventJson | readonly NewEventJson[],
    options?: AppendOptions,
  ): Promise<AppendedJson>
  /** The socket opened: what waits may be sent, and what rests after a failure need not rest longer. */
  pump(): void
  /** Takes no more, and waits for the answers that are due, at most FLUSH_MS; then what has none fails, its outcome unknown. */
  close(): Promise<void>
}

/** @param loadSender May fail with `unavailable`; it is then called again. */
export function newOutbox(loadSender: () => Promise<Sender>): Outbox {
  const pendings = new Set<Pending>()
  let characters = 0
  let isClosed = false
  /** Aborted when nothing waits in a closed client. */
  const empty = new AbortController()
  let loading: Promise<Sender> | undefined
  let sender: Sender | undefined

  return {
    append: (channel, given, { expectedSeq, idempotencyKey = randomKey(), signal } = {}) =>
      new Promise((resolve, reject) => {
        const events = JSON.stringify([given].flat())
        if (isClosed) throw unanswered()
        if (pendings.size >= PENDING_APPENDS_MAX || characters + events.length > PENDING_CHARACTERS_MAX)
          throw new TidemarkError('too-many', 'Too many')
        signal?.throwIfAborted()
        const life = new AbortController()
        const last =
          <T>(settle: (value: T) => void) =>
          (value: T): void => {
            if (!pendings.delete(pending)) return
            signal?.removeEventListener('abort', giveUp)
            life.abort()
            characters -= events.length
            if (isClosed && !pendings.size) empty.abort()
            settle(value)
          }
        const pending: Pending = {
          ...{ channel, events, expectedSeq, idempotencyKey, life: life.signal },
          ...{ resolve: last(resolve), reject: last(reject) },
        }
        const giveUp = (): void => pending.reject(signal!.reason)
        signal?.addEventListener('abort', giveUp)
        pendings.add(pending)
        characters += events.length
        loading ??= persist(loadSender, empty.signal)
        loading.then((loaded) => {
          sender = loaded
          loaded.send(pending)
        }, pending.reject)
      }),
    pump: () => sender?.pump(),
    close: async () => {
      isClosed = true
      if (pendings.size) await pause(FLUSH_MS, empty.signal)
      for (const { reject } of pendings) reject(unanswered())
      empty.abort()
    },
  }
}

/** 128 random bits. `crypto.randomUUID` is missing in pages that were not loaded over TLS. */
const randomKey = (): string => `${crypto.getRandomValues(new Uint32Array(4))}`

/** Nobody knows whether the events are there. */
const unanswered = (): TidemarkError => new TidemarkError('unavailable', 'Closed', { outcome: 'unknown' })
