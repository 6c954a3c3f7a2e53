/**
 * How the client is joined to the server: by one WebSocket for all channels, or by long polls while there is none.
 *
 *           first loop               welcome
 *     idle ────────────▶ connecting ─────────▶ open
 *      ▲                  ▲   │  │              │ │
 *      │     after backoff│   │  │try again     │ │lost: 1001 1006 1011 1012 1013 4408 4429
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
import { CLOSE, CLOSE_RETRIED, POLL_CHANNELS_MAX, retryOf, type ServerMessage, SUBPROTOCOL } from '../wire.ts'
import { Backoff } from './backoff.ts'
import { type Codec, jsonCodec } from './codec.ts'
import { type Http, hintOf, isPassing } from './http.ts'
import { Poller } from './poll.ts'
import { Line, type SocketClass } from './socket.ts'
import { Stream } from './stream.ts'
import type { Subscription } from './subscription.ts'

export type State = 'idle' | 'connecting' | 'open' | 'polling' | 'waiting' | 'closed'

/** A socket that lived so long, or brought events, was a good one: its loss is the first again, ms. */
const STABLE_MS = 10_000
/** Between sockets that are tried beside the polls, while the streamer is on and they fail, ms. */
const SOCKET_AGAIN_MS = 2_000
const SOCKET_AGAIN_MAX_MS = 60_000

export interface ConnectionOptions {
  readonly http: Http
  readonly socketUrl: string
  readonly client: string | undefined
  readonly WebSocket: SocketClass | undefined
  readonly subprotocol: 'json' | 'msgpack'
  /** `error`: why every loop was ended. */
  onState(state: State, error?: TidemarkError): void
}

export class Connection {
  readonly #options: ConnectionOptions
  readonly #subscriptions = new Map<string, Subscription>()
  readonly #backoff = new Backoff()
  readonly #socketBackoff = new Backoff(SOCKET_AGAIN_MS, SOCKET_AGAIN_MAX_MS)
  #state: State = 'idle'
  /** The wish for a socket, while its token and its decoder are fetched. */
  #opening: symbol | undefined
  #line: Line | undefined
  #stream: Stream | undefined
  #openedAt = 0
  #poller: Poller | undefined
  /** The one thing that is planned: back from waiting, or a socket beside the polls. */
  #timer: ReturnType<typeof setTimeout> | undefined
  /** The token of the newest hello. */
  #token: string | undefined
  /** 4401 came with one token; with the next one it is final. */
  #wasRefused = false
  /** What the newest poll said. */
  #isStreamerOff = false
  /** When to begin polling after the streamer was turned off, ms. */
  #switchDelay = 0

  constructor(options: ConnectionOptions) {
    this.#options = options
  }

  get state(): State {
    return this.#state
  }

  /** The conversation on the open socket. */
  get stream(): Stream | undefined {
    return this.#stream
  }

  /** @throws bad-request (this client follows the channel already), too-many, unavailable (closed) */
  add(subscription: Subscription): void {
    const { channel } = subscription
    if (this.#state === 'closed') throw new TidemarkError('unavailable', 'This client is closed')
    if (this.#subscriptions.get(channel)?.isOver === false)
      throw new TidemarkError(
        'bad-request',
        `This client follows ${channel} already; a second loop needs its own client`,
      )
    if (this.#subscriptions.size >= POLL_CHANNELS_MAX)
      throw new TidemarkError('too-many', `A client follows at most ${POLL_CHANNELS_MAX} channels`)
    this.#subscriptions.set(channel, subscription)
    if (this.#state === 'idle') this.#connect()
    else if (this.#stream) this.#stream.join(subscription)
    else this.#poller?.wake()
  }

  remove(subscription: Subscription): void {
    const { channel } = subscription
    subscription.end()
    if (this.#subscriptions.get(channel) !== subscription) return
    this.#subscriptions.delete(channel)
    this.#stream?.leave(channel)
  }

  /** The app took enough of what this subscription holds. */
  madeRoom(subscription: Subscription): void {
    this.#stream?.madeRoom(subscription)
    this.#poller?.madeRoom(subscription)
  }

  /** Ends it for good. Loops end as if they had been left. */
  close(): void {
    for (const subscription of this.#stop('closed')) subscription.end()
  }

  /** Nothing more can come of this: every loop throws. The next one starts anew. */
  #fail(error: unknown): void {
    const why =
      error instanceof TidemarkError ? error : new TidemarkError('internal', String(error), {}, { cause: error })
    for (const subscription of this.#stop('idle', why)) subscription.end(why)
  }

  #stop(state: State, error?: TidemarkError): Iterable<Subscription> {
    const line = this.#line
    this.#gone()
    line?.close()
    this.#stopPolling()
    this.#wasRefused = false
    const subscriptions = [...this.#subscriptions.values()]
    this.#subscriptions.clear()
    this.#turn(state, error)
    return subscriptions
  }

  #turn(state: State, error?: TidemarkError): void {
    if (this.#state === state && error === undefined) return
    this.#state = state
    this.#options.onState(state, error)
  }

  #plan(what: () => void, ms: number): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => {
      this.#timer = undefined
      what()
    }, ms)
  }

  #planNothing(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
  }

  // ── The socket ─────────────────────────────────────────────────────────────────────────────────────────────────

  #connect(): void {
    const { WebSocket } = this.#options
    if (this.#subscriptions.size === 0) this.#turn('idle')
    else if (WebSocket === undefined) this.#poll(0)
    else {
      this.#turn('connecting')
      void this.#open(WebSocket)
    }
  }

  /** Opens a socket, beside the polls if there are some. */
  async #open(WebSocket: SocketClass): Promise<void> {
    if (this.#opening !== undefined || this.#line !== undefined) return
    const opening = Symbol('opening')
    this.#opening = opening
    try {
      const { http, client, socketUrl: url, subprotocol } = this.#options
      const codecs = await codecsOf(subprotocol)
      const token = await http.token.get()
      if (this.#opening !== opening) return
      this.#token = token
      const line: Line = new Line({
        url,
        WebSocket,
        codecs,
        token,
        client,
        onWelcome: () => this.#welcomed(line),
        onMessage: (message, size) => this.#message(message, size),
        onClose: (code, reason) => this.#lost(code, reason),
      })
      this.#line = line
      this.#opening = undefined
    } catch (error) {
      if (this.#opening === opening) this.#fail(error)
    }
  }

  #welcomed(line: Line): void {
    this.#stopPolling()
    this.#wasRefused = false
    this.#openedAt = Date.now()
    this.#socketBackoff.reset()
    this.#stream = new Stream(line, this.#subscriptions)
    this.#turn('open')
  }

  #message(message: ServerMessage, size: number): void {
    // The close that follows does not repeat the delay that is meant for us.
    if (message.op === 'switch') this.#switchDelay = message.retryAfter
    else this.#stream?.message(message, size)
  }

  #lost(code: number, reason: string): void {
    const stream = this.#stream
    this.#gone()
    const hint = retryOf(reason)
    const { token } = this.#options.http
    if (code === CLOSE.unauthorized && token.isRenewable && !this.#wasRefused) {
      this.#wasRefused = true
      token.drop(this.#token)
      this.#comeBack(hint)
    } else if (!CLOSE_RETRIED.includes(code)) this.#fail(closed(code, reason))
    else if (this.#poller === undefined && code === CLOSE.streamerOff) this.#poll(hint ?? this.#switchDelay)
    // Nobody answered: a proxy that knows no WebSocket, or no server at all. A poll will tell.
    else if (this.#poller === undefined && stream === undefined && (code === 1006 || code === CLOSE.timeout))
      this.#poll(0)
    else {
      if (stream && (stream.hasDelivered || Date.now() - this.#openedAt > STABLE_MS)) this.#backoff.reset()
      this.#comeBack(hint)
    }
    this.#switchDelay = 0
  }

  /** The line is no more, whoever ended it. */
  #gone(): void {
    const stream = this.#stream
    this.#line = undefined
    this.#stream = undefined
    this.#opening = undefined
    stream?.end()
  }

  #comeBack(hint: number | undefined): void {
    if (this.#poller === undefined) this.#wait(hint)
    else this.#trySocket(this.#socketBackoff.next(hint))
  }

  #wait(hint: number | undefined): void {
    this.#turn('waiting')
    this.#plan(() => this.#connect(), this.#backoff.next(hint))
  }

  // ── Polls ──────────────────────────────────────────────────────────────────────────────────────────────────────

  #poll(delay: number): void {
    const { http, client } = this.#options
    this.#poller = new Poller({
      http,
      client,
      subscriptions: this.#subscriptions,
      delay,
      onStreamer: (isOn, within) => this.#streamer(isOn, within),
      onFailed: (error) => this.#pollFailed(error),
    })
    this.#turn('polling')
    void this.#poller.run()
  }

  #stopPolling(): void {
    this.#poller?.stop()
    this.#poller = undefined
    this.#planNothing()
  }

  /** A poll was answered, and said whether the streamer is on. `within`: spread the return over so many ms. */
  #streamer(isOn: boolean, within = 0): void {
    this.#backoff.reset()
    const wasOff = this.#isStreamerOff
    this.#isStreamerOff = !isOn
    if (!isOn) {
      this.#planNothing()
      this.#socketBackoff.reset()
    } else if (wasOff) this.#trySocket(Math.random() * within)
    else if (this.#timer === undefined && this.#line === undefined) this.#trySocket(this.#socketBackoff.next())
  }

  /** Plans a socket beside the polls. */
  #trySocket(ms: number): void {
    const { WebSocket } = this.#options
    if (WebSocket === undefined || this.#line !== undefined || this.#opening !== undefined) return
    this.#plan(() => void this.#open(WebSocket), ms)
  }

  #pollFailed(error: TidemarkError): void {
    this.#poller = undefined
    if (!isPassing(error)) this.#fail(error)
    else if (this.#line !== undefined || this.#opening !== undefined) this.#turn('connecting')
    else this.#wait(hintOf(error))
  }
}

async function codecsOf(subprotocol: 'json' | 'msgpack'): Promise<ReadonlyMap<string, Codec>> {
  const json: [string, Codec] = [SUBPROTOCOL.json, jsonCodec]
  if (subprotocol === 'json') return new Map([json])
  const { msgpackCodec } = await import('./msgpack.ts')
  return new Map([[SUBPROTOCOL.msgpack, msgpackCodec], json])
}

/** What a close says that is never retried. */
function closed(code: number, reason: string): TidemarkError {
  const codes: Record<number, ErrorCode> = {
    1008: 'forbidden',
    [CLOSE.tooBig]: 'too-large',
    [CLOSE.unauthorized]: 'unauthorized',
    [CLOSE.forbidden]: 'forbidden',
  }
  const details = { close: code, reason }
  return new TidemarkError(codes[code] ?? 'bad-request', `The server closed the socket: ${code} ${reason}`, details)
}
