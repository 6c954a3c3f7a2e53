/**
 * How the client is joined to the server: by one WebSocket for all channels, or by long polls while there is none.
 *
 *           first loop               welcome
 *     idle ────────────▶ connecting ─────────▶ open
 *      ▲                  ▲   │  │              │ │
 *      │     after backoff│   │  │try again     │ │lost
 *      │                  │   │  ▼              │ │
 *      │                waiting ◀───────────────┼─┘
 *      │                  ▲   │                 │
 *      │       poll failed│   │refused, never opening, 4503
 *      │                  │   ▼                 │
 *      │                 polling ◀──────────────┘ streamer off: 4503
 *      │                    │
 *      │                    └─ while polls say that the streamer is on, a socket is tried beside them now and then;
 *      │                       its welcome ends them (→ open)
 *      │
 *      ├─ no loop is left, from waiting
 *      └─ from anywhere: a close that is never retried (1002 1003 1007 1008 1009 4400 4403; 4401 twice) or a refused
 *         poll; each loop throws why, and the next one starts anew
 *     closed: close(), from anywhere, for good
 *
 * At either seam each subscription starts at its own place and drops what it has, so a late answer does no harm.
 */
import { type ErrorCode, TidemarkError } from '../errors.ts'
import { CLOSE_FINAL, CLOSE_STREAMER_OFF, CLOSE_UNAUTHORIZED, POLL_CHANNELS_MAX } from '../wire.ts'
import { newBackoff } from './backoff.ts'
import { jsonCodec } from './codec.ts'
import type { Http } from './http.ts'
import { load, loadPolls } from './parts.ts'
import type { NewBell, Poller } from './poll.ts'
import { hintOf, isPassing } from './refusal.ts'
import { newStream, type SocketClass, type Stream } from './stream.ts'
import type { Subscription } from './subscription.ts'
import type { Tokens } from './token.ts'

export type State = 'idle' | 'connecting' | 'open' | 'polling' | 'waiting' | 'closed'

/** Between sockets that are tried beside the polls, while the streamer is on and they fail, ms. */
const SOCKET_AGAIN_MS = 2_000
const SOCKET_AGAIN_MAX_MS = 60_000

/** What a close means that is never retried. */
const CODES: Record<number, ErrorCode> = {
  1008: 'forbidden',
  1009: 'too-large',
  [CLOSE_UNAUTHORIZED]: 'unauthorized',
  4403: 'forbidden',
}

export interface Connection {
  readonly state: State
  /** The open socket. */
  readonly stream: Stream | undefined
  /** @throws bad-request (this client follows the channel already), too-many, unavailable (closed) */
  add(subscription: Subscription): void
  remove(subscription: Subscription): void
  /** The app took enough of what this subscription holds. */
  madeRoom(subscription: Subscription): void
  /** Ends it for good. Loops end as if they had been left. */
  close(): void
}

/**
 * @param onState Told about each new state. `error`: why every loop was ended, or what is waited out.
 * @param newBell As startPolling's.
 */
export function newConnection(
  http: Http,
  tokens: Tokens,
  url: string,
  client: string | undefined,
  WebSocket: SocketClass | undefined,
  subprotocol: 'json' | 'msgpack' = 'json',
  onState: (state: State, error?: TidemarkError) => void,
  newBell: NewBell | undefined,
): Connection {
  const subscriptions = new Map<string, Subscription>()
  const backoff = newBackoff()
  const socketBackoff = newBackoff(SOCKET_AGAIN_MS, SOCKET_AGAIN_MAX_MS)
  let state: State = 'idle'
  /** The socket that is wished for, opening or open. */
  let line: { stream?: Stream } | undefined
  /** The same once it is open. */
  let open: Stream | undefined
  /** Empty while its part is loaded. */
  let poller: Partial<Poller> | undefined
  /** The one thing that is planned: back from waiting, or a socket beside the polls. */
  let timer: ReturnType<typeof setTimeout> | undefined
  /** 4401 came with one token; with the next one it is final. */
  let wasRefused = false

  const turn = (next: State, error?: TidemarkError): void => {
    if (state === next && !error) return
    state = next
    onState(state, error)
  }

  const plan = (what?: () => void, ms?: number): void => {
    clearTimeout(timer)
    timer =
      what &&
      setTimeout(() => {
        timer = undefined
        what()
      }, ms)
  }

  const stopPolling = (): void => {
    poller?.stop?.()
    poller = undefined
    plan()
  }

  /** Ends every loop: with an error each one throws it, and the next one starts anew. */
  const stop = (next: State, error?: TidemarkError): void => {
    const all = [...subscriptions.values()]
    const stream = line?.stream
    subscriptions.clear()
    line = open = undefined
    stream?.close()
    stopPolling()
    wasRefused = false
    turn(next, error)
    for (const subscription of all) subscription.end(error)
  }

  const fail = (error: unknown): void =>
    stop(
      'idle',
      (error as TidemarkError).details
        ? (error as TidemarkError)
        : new TidemarkError('internal', `${error}`, {}, { cause: error }),
    )

  // ── The socket ─────────────────────────────────────────────────────────────────────────────────────────────────

  const connect = (): void => {
    if (!subscriptions.size) turn('idle')
    else if (!WebSocket) void poll()
    else {
      turn('connecting')
      void openSocket()
    }
  }

  /** Opens a socket, beside the polls if there are some. */
  const openSocket = async (): Promise<void> => {
    if (line) return
    const mine: { stream?: Stream } = {}
    line = mine
    try {
      const codec =
        subprotocol === 'msgpack' ? (await load('msgpack', () => import('./msgpack.ts'))).msgpackCodec : jsonCodec
      const hello = { token: await tokens.token(), client }
      if (line !== mine) return
      const socket = new WebSocket!(url, [`tidemark.v1.${subprotocol}`])
      // A browser's; `ws` gives views without a copy under its own default.
      if (socket.binaryType === 'blob') socket.binaryType = 'arraybuffer'
      mine.stream = newStream(
        socket,
        codec,
        hello,
        tokens,
        subscriptions,
        () => {
          stopPolling()
          wasRefused = false
          socketBackoff.reset()
          open = mine.stream
          turn('open')
        },
        (code, reason, hint, isGood) => {
          if (line === mine) lost(code, reason, hint, isGood, hello.token)
        },
      )
    } catch (error) {
      if (line !== mine) return
      // A part that can not be loaded: there may be no server at all.
      if (isPassing(error)) lost(1006)
      else fail(error)
    }
  }

  const lost = (code: number, reason?: string, hint?: number, isGood?: boolean, token?: string): void => {
    const wasOpen = open
    line = open = undefined
    const isRefused = code === CLOSE_UNAUTHORIZED
    if (isRefused ? wasRefused || !tokens.renew(token) : CLOSE_FINAL.includes(code)) {
      fail(new TidemarkError(CODES[code] ?? 'bad-request', `Closed: ${code} ${reason}`, { close: code, reason }))
      return
    }
    wasRefused ||= isRefused
    if (isGood) backoff.reset()
    if (poller) trySocket(socketBackoff.next(hint))
    else if (code === CLOSE_STREAMER_OFF) void poll(hint)
    // Nobody answered: a proxy that knows no WebSocket, or no server at all. A poll will tell.
    else if (code === 1006 && !wasOpen) void poll()
    else wait(hint)
  }

  const wait = (hint: number | undefined, error?: TidemarkError): void => {
    turn('waiting', error)
    plan(connect, backoff.next(hint))
  }

  // ── Polls ──────────────────────────────────────────────────────────────────────────────────────────────────────

  const poll = async (delay = 0): Promise<void> => {
    turn('polling')
    const mine: Partial<Poller> = {}
    poller = mine
    const failed = (error: unknown): void => {
      if (poller !== mine) return
      poller = undefined
      if (!isPassing(error)) fail(error)
      else if (line) turn('connecting')
      else wait(hintOf(error), error)
    }
    try {
      const { startPolling } = await loadPolls()
      if (poller === mine)
        Object.assign(mine, startPolling(http, client, subscriptions, delay, polled, failed, newBell))
    } catch (error) {
      failed(error)
    }
  }

  /** A poll was answered. */
  const polled = (isOn: boolean, within: number | undefined): void => {
    backoff.reset()
    if (!isOn) {
      plan()
      socketBackoff.reset()
    } else if (within !== undefined) trySocket(Math.random() * within)
    else if (!timer && !line) trySocket(socketBackoff.next())
  }

  /** Plans a socket beside the polls. */
  const trySocket = (ms: number): void => {
    if (WebSocket && !line) plan(openSocket, ms)
  }

  return {
    get state() {
      return state
    },
    get stream() {
      return open
    },
    add(subscription) {
      const { channel } = subscription
      if (state === 'closed') throw new TidemarkError('unavailable', 'Closed')
      if (subscriptions.get(channel)?.isOver === false)
        throw new TidemarkError('bad-request', `${channel} is followed already`)
      if (subscriptions.size >= POLL_CHANNELS_MAX) throw new TidemarkError('too-many', 'Too many')
      subscriptions.set(channel, subscription)
      if (state === 'idle') connect()
      else if (open) open.join(subscription)
      else poller?.wake?.()
    },
    remove(subscription) {
      const { channel } = subscription
      subscription.end()
      if (subscriptions.get(channel) !== subscription) return
      subscriptions.delete(channel)
      open?.leave(channel)
    },
    madeRoom(subscription) {
      if (subscription.stage !== 'full') open?.release()
      else if (open) open.join(subscription)
      else poller?.wake?.()
    },
    close: () => stop('closed'),
  }
}
