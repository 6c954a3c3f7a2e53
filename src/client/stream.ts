/**
 * One WebSocket from opening to close: hello and welcome, which channels are joined on it, what comes for them, which
 * questions have no answer yet, and the watch over a line that has gone silent. It never comes back by itself;
 * connection.ts decides what follows. Places outlive it, in the subscriptions.
 */
import { TidemarkError } from '../errors.ts'
import { type AppendedJson, CLOSE_BAD_FRAME, type ClientMessage, retryOf, type ServerMessage } from '../wire.ts'
import { newBackoff, pause } from './backoff.ts'
import type { AppendText, Codec } from './codec.ts'
import { errorOf, hintOf, isPassing } from './refusal.ts'
import type { Place, Subscription } from './subscription.ts'
import type { Tokens } from './token.ts'

/** What we use of a WebSocket; a browser's has it, and so has NodeSocket. */
export interface Socket {
  binaryType: string
  readonly protocol: string
  onopen: ((event: never) => void) | null
  onmessage: ((event: never) => void) | null
  onclose: ((event: never) => void) | null
  send(data: Bytes): void
  close(code?: number): void
  /** Only outside browsers: stops reading for a moment, then calls `isLong` and reads on. */
  hold?(isLong: () => void): void
  /** Reads on at once. */
  release?(): void
}

type Bytes = string | Uint8Array<ArrayBuffer>

export type SocketClass = new (url: string, protocols: string[]) => Socket

/** A socket that brought no `welcome` after so long is none; one that lived so long was a good one, ms. */
const STABLE_MS = 10_000
/** Heartbeats without any frame, until we ask with a ping; half a heartbeat later the line counts as dead. */
const SILENT_PING = 2
/** A subscription that the server can't serve now is asked for again after a random time below this, ms. */
const REJOIN_MS = 2_000
/** A credential is renewed after 80 to 90 % of its time, but after so long at the latest, ms: timers know no month. */
const RENEW_MS_MAX = 24 * 3_600_000
/** Our close of a line that is no good: nobody waits for its goodbye. */
export const GIVEN_UP = 3_000

export interface Stream {
  join(subscription: Subscription): void
  leave(channel: string): void
  /** The app took enough of what a subscription holds. */
  release(): void
  /** Undefined when it may be larger than the server takes in one frame. */
  append(append: AppendText, asJson: (ref: number, append: AppendText) => string): Promise<AppendedJson> | undefined
  /** Undefined when a commit of this place would not count for the right history. */
  commit(channel: string, place: Place): Promise<unknown> | undefined
  /** Every question fails with `unavailable`, its outcome unknown. */
  close(): void
}

interface Asked {
  resolve(answer: never): void
  reject(error: TidemarkError): void
}

const HELLO_REF = 0

/**
 * The conversation on a socket that is opening. Once it is welcomed, every subscription is joined on it.
 * @param hello Its token is the one that was shown last.
 * @param onClose Called once, whoever ended it; code 1006 where the line died or never opened. `hint`: when to come
 *   back, ms. `isGood`: its loss is the first again.
 */
export function newStream(
  socket: Socket,
  codec: Codec,
  hello: { token: string | undefined; readonly client: string | undefined },
  tokens: Tokens,
  subscriptions: Map<string, Subscription>,
  onWelcome: () => void,
  onClose: (code: number, reason: string, hint: number, isGood: boolean) => void,
): Stream {
  const life = new AbortController()
  const { signal } = life
  const asked = new Map<unknown, Asked>()
  let refs = HELLO_REF + 1
  /** Largest frame from us, bytes; known when we are welcome. */
  let frameBytes = 0
  let heard = 0
  let isGood = false
  /** The close that follows a `switch` does not repeat the delay that is meant for us. */
  let switchDelay = 0

  const send = (message: Parameters<Codec['encode']>[0]): void => socket.send(codec.encode(message) as Bytes)

  const end = (code: number, reason = ''): void => {
    if (signal.aborted) return
    life.abort()
    socket.onmessage = null
    socket.close(code ? GIVEN_UP : 1000)
    for (const subscription of subscriptions.values()) subscription.detach()
    for (const { reject } of asked.values()) reject(new TidemarkError('unavailable', 'Lost', LOST))
    onClose(code, reason, retryOf(reason) ?? switchDelay, isGood)
  }

  /**
   * A timer that comes late (a tab in the background, a machine that slept) proves nothing about the line: so a
   * silent server is asked once and has half a heartbeat to answer.
   */
  const watch = async (heartbeat: number): Promise<void> => {
    let pinged = 0
    for (;;) {
      await pause(heartbeat / 2, signal)
      if (signal.aborted) return
      // A clock that was set back proves nothing, either.
      if (Math.abs(Date.now() - heard) < SILENT_PING * heartbeat) continue
      if (pinged === heard) return end(1006)
      pinged = heard
      send({ op: 'ping' })
    }
  }

  /** The socket outlives its credential: another one is shown before it ends. */
  const renewWithin = async (ms: number): Promise<void> => {
    await pause(Math.min(ms, RENEW_MS_MAX) * (0.8 + Math.random() / 10), signal)
    if (signal.aborted || !tokens.renew(hello.token)) return
    try {
      hello.token = await tokens.token()
      if (!signal.aborted) send({ op: 'refresh', token: hello.token! })
    } catch {
      // Whoever gives no other one now is asked again when this one has ended.
    }
  }

  // ── Channels ───────────────────────────────────────────────────────────────────────────────────────────────────

  const join = (subscription: Subscription): void => {
    const { channel, start } = subscription
    if (subscription.isOver) return
    subscription.stage = 'joining'
    subscription.ref = refs
    send({ op: 'subscribe', ref: refs++, channel, ...start } as ClientMessage & { op: 'subscribe' })
  }

  const leave = (channel: string): void => send({ op: 'unsubscribe', channel })

  /** The app fell behind for longer than a moment. */
  const leaveFull = (): void => {
    for (const subscription of subscriptions.values())
      if (subscription.stage === 'live' && subscription.isFull) {
        subscription.stage = 'full'
        leave(subscription.channel)
      }
  }

  /** The server gave up this subscription: for now, or for good. */
  const ended = (subscription: Subscription, error: TidemarkError): void => {
    const hint = hintOf(error)
    subscription.detach()
    // Too many channels stay too many, unless the server says until when.
    if (isPassing(error) && (error.code !== 'too-many' || hint))
      void pause(newBackoff(REJOIN_MS).next(hint), signal).then(() => {
        if (!signal.aborted && subscription.stage === 'apart') join(subscription)
      })
    else subscription.end(error)
  }

  // ── Messages ───────────────────────────────────────────────────────────────────────────────────────────────────

  const take = (message: ServerMessage, size: number): void => {
    const { op, ref, channel, expiresIn, ...facts } = message as ServerMessage & {
      ref?: unknown
      channel?: string
      expiresIn?: number
    }
    // Of `welcome` and `refreshed`.
    if (expiresIn) void renewWithin(expiresIn)
    const subscription = subscriptions.get(channel!)
    const isJoining = subscription?.stage === 'joining' && subscription.ref === ref
    // What comes before `subscribed` belongs to an older subscription of this channel.
    const live = subscription?.stage === 'live' ? subscription : undefined
    const question = asked.get(ref)
    switch (message.op) {
      case 'welcome':
        frameBytes = message.limits.frameBytes
        void watch(message.heartbeat)
        subscriptions.forEach(join)
        onWelcome()
        break
      case 'switch':
        switchDelay = message.retryAfter
        break
      case 'appended':
      case 'committed':
        asked.delete(ref)
        question?.resolve({ channel, ...facts } as never)
        break
      case 'error':
        asked.delete(ref)
        if (ref === HELLO_REF) end(CLOSE_BAD_FRAME, message.detail)
        else if (question) question.reject(errorOf(message))
        else if (isJoining) ended(subscription, errorOf(message))
        break
      case 'subscribed':
        if (isJoining) subscription.subscribed(message)
        break
      case 'events':
        if (live?.events(codec.frame(message, size))) {
          isGood = true
          if (!live.isFull) return
          // In Node, where it can be, by not reading for a moment: most apps need no more to catch up.
          if (socket.hold) socket.hold(leaveFull)
          else leaveFull()
        }
        // Asked for again from our own place, unless that was tried often enough.
        else if (live) {
          if (live.isOver) leave(live.channel)
          join(live)
        }
        break
      case 'gap':
      case 'reset':
      case 'caughtup':
        live?.[message.op](message as never)
        break
      case 'ended':
        if (live) ended(live, errorOf(message))
    }
  }

  /** @throws the server's error; `unavailable` when the socket is lost before the answer. */
  const ask = <T>(frame: string | Uint8Array): Promise<T> =>
    new Promise((resolve, reject) => {
      asked.set(refs++, { resolve, reject })
      socket.send(frame as Bytes)
    })

  socket.onopen = () => send({ op: 'hello', ref: HELLO_REF, ...hello } as ClientMessage & { op: 'hello' })
  socket.onmessage = ({ data }: { data: string | ArrayBuffer }) => {
    heard = Date.now()
    try {
      take(codec.decode(data), (data as string).length ?? (data as ArrayBuffer).byteLength)
    } catch (error) {
      // Also of a message whose fields are not what they should be: nothing that a server sends ends the app.
      end(1007, `${error}`)
    }
  }
  socket.onclose = ({ code, reason }: { code: number; reason: string }) => end(code, reason)
  void pause(STABLE_MS, signal).then(() => {
    if (frameBytes) isGood = true
    else end(1006)
  })

  return {
    join,
    leave,
    release: () => {
      // Unless more may come for another channel that is full.
      if (![...subscriptions.values()].some(({ stage, isFull }) => stage === 'live' && isFull)) socket.release?.()
    },
    append: (append, asJson) => {
      const frame = (codec.encodeAppend ?? asJson)(refs, append)
      // A character is at most three bytes; what may be too large takes the other door.
      return frame.length * 3 > frameBytes ? undefined : ask(frame)
    },
    commit: (channel, { epoch, after: seq }) =>
      epoch && subscriptions.get(channel)?.socketEpoch === epoch
        ? ask(codec.encode({ op: 'commit', ref: refs, channel, seq }))
        : undefined,
    close: () => end(0),
  }
}

const LOST = { lost: true, outcome: 'unknown' } as const

/** True when an operation failed only because its socket is gone. */
export const isLost = (error: TidemarkError): boolean => error.details.lost === true
