/**
 * The WebSocket door, `GET /v1/stream`: takes upgrades, keeps all sockets, and holds what they share. PROTOCOL.md says
 * what goes over a socket; session.ts does it.
 */
import type { IncomingMessage } from 'node:http'
import type { Duplex, Writable } from 'node:stream'
import { type RawData, type ServerOptions, WebSocket, WebSocketServer } from 'ws'
import type { From } from '../doors/callers.ts'
import { type Doors, retryAfter } from '../doors/doors.ts'
import { type Queue, Rounds } from '../doors/rounds.ts'
import type { Watches } from '../doors/watches.ts'
import { TidemarkError } from '../errors.ts'
import { type Frames, JSON_FRAMES, MSGPACK_FRAMES } from '../formats/frames.ts'
import type { Sign } from '../log/signs.ts'
import { CLOSE } from '../wire.ts'
import type { Following } from './following.ts'
import type { Host, StreamLimits } from './host.ts'
import { type Feed, FRAME_BYTES_MAX, Incoming, Unfinished } from './incoming.ts'
import { Backlog, clock } from './outlet.ts'
import { Session } from './session.ts'

/** Of all connections so many may be sockets; further ones are closed 4429, so that calls still get in. */
const SOCKETS_SHARE = 0.9
/** What all sockets together have not taken, bytes: 128 MiB. Beyond it those that stand still are cut, the longest first. */
const UNSENT_BYTES_MAX = 128 * 1024 * 1024
/** What came of messages that are not whole, of all sockets, bytes: 128 MiB. Beyond it who sends more of one is closed 1013. */
const UNFINISHED_BYTES_MAX = 128 * 1024 * 1024
const HELLO_MS = 5_000
const STALLED_MS = 60_000
/** Most frames of one message, and most pieces in which a frame may arrive. */
const FRAGMENTS_MAX = 64
const CHUNKS_MAX = 1_024
/** Time for the other side to answer a close frame, ms. */
const CLOSE_MS = 2_000
/** Commits that nobody waits for are written after this, ms; they are promised within a second. */
const COMMIT_MS = 500
/** The clocks of all sockets are looked at this often, ms. */
const SWEEP_MS = 1_000
/** Clients that the switch sends away go on by polling within this, ms. */
const SWITCH_RETRY_MS = 1_000

export interface StreamerOptions extends Partial<StreamLimits> {
  /** Most sockets. */
  readonly sockets?: number
  /** Most bytes that all sockets together have not taken. */
  readonly unsentBytes?: number
  /** Most bytes of messages that are not whole, of all sockets together. */
  readonly unfinishedBytes?: number
}

const FRAMES: ReadonlyMap<string, Frames> = new Map(
  [JSON_FRAMES, MSGPACK_FRAMES].map((frames) => [frames.subprotocol, frames]),
)

/** How its listeners find the session of a socket: one function for all of them, no closure for each. */
const SESSION = Symbol('session')
const INCOMING = Symbol('incoming')
interface Held {
  [SESSION]?: Session
  [INCOMING]?: Incoming
}

class StreamSocket extends WebSocket {
  /** Where `ws` reads frames: its types do not tell of it. */
  declare readonly _receiver: Writable;
  [SESSION]: Session | undefined = undefined
}

export class Streamer implements Host {
  readonly doors: Doors
  readonly limits: StreamLimits
  readonly backlog: Backlog
  readonly watches: Watches
  readonly rounds = new Rounds()
  readonly queue: Queue
  readonly #socketsMax: number
  readonly unfinished: Unfinished
  readonly #server: WebSocketServer
  readonly #sessions = new Map<Session, () => void>()
  readonly #tick: number
  readonly #sweeper: NodeJS.Timeout
  #committing = new Set<Following>()
  #commitTimer: NodeJS.Timeout | undefined
  /** Commits under way of sockets that may be gone. */
  #background = 0
  readonly #closing = new AbortController()
  /** Resolves `close`. */
  #whenEmpty: (() => void) | undefined

  constructor(doors: Doors, options: StreamerOptions = {}) {
    this.doors = doors
    this.queue = doors.pages.queue
    this.limits = {
      heartbeat: options.heartbeat ?? doors.settings.heartbeat,
      helloMs: options.helloMs ?? HELLO_MS,
      stalledMs: options.stalledMs ?? STALLED_MS,
      subscriptions: options.subscriptions ?? doors.settings.limits.subscriptionsPerSocket,
    }
    this.backlog = new Backlog(options.unsentBytes ?? UNSENT_BYTES_MAX, this.queue)
    this.watches = doors.waits.watches
    this.unfinished = new Unfinished(options.unfinishedBytes ?? UNFINISHED_BYTES_MAX)
    this.#socketsMax = options.sockets ?? Math.ceil(doors.settings.limits.maxConnections * SOCKETS_SHARE)
    this.#server = new WebSocketServer(SOCKET_OPTIONS)
    // Within `handleUpgrade`, so that the front answers it as everything else that it refuses.
    this.#server.on('wsClientError', ({ message }) => {
      throw new TidemarkError('bad-request', message)
    })
    const { heartbeat, helloMs, stalledMs } = this.limits
    this.#tick = Math.min(SWEEP_MS, Math.max(10, Math.min(heartbeat, helloMs, stalledMs) / 5))
    this.#sweeper = setInterval(() => this.#sweep(), this.#tick)
    this.#sweeper.unref()
    doors.keyring.onChange(() => {
      for (const session of this.#sessions.keys()) session.recheck()
    })
    void this.#followSwitch()
  }

  /** Open sockets. */
  get sockets(): number {
    return this.#sessions.size
  }

  /** The clients of open sockets, by the whole names of their cursors, with each channel that they follow. */
  *present(): Iterable<Sign> {
    for (const session of this.#sessions.keys()) {
      if (!session.isOpen || session.client === null) continue
      const cursor = session.needCursor()
      for (const channel of session.following.channels()) yield [cursor, channel]
    }
  }

  /** What there is to tell of a connection that became a socket. */
  about(socket: Duplex): { client: string | null; subscriptions: number } {
    const session = (socket as Duplex & Held)[SESSION]
    return { client: session?.client ?? null, subscriptions: session?.following.size ?? 0 }
  }

  /** Takes over an upgrade whose access was checked. @throws bad-request for a handshake that is none */
  upgrade(req: IncomingMessage, socket: Duplex, head: Buffer, from: From): void {
    this.#server.handleUpgrade(req, socket, head, (ws) => this.#open(ws as StreamSocket, socket, from))
  }

  #open(ws: StreamSocket, socket: Duplex & Held, from: From): void {
    // What is wrong with a frame closes the socket within ws; what is wrong with the connection is its `close`.
    ws.on('error', nothing)
    const refusal = this.#refusal()
    if (refusal) {
      ws.close(refusal.code, refusal.reason)
      return
    }
    const session = new Session(ws, socket, FRAMES.get(ws.protocol) ?? JSON_FRAMES, this, from)
    ws[SESSION] = session
    socket[SESSION] = session
    ws.on('message', onMessage)
    this.#takeOver(ws, socket, session)
    ws.on('close', onClose)
    socket.on('drain', onDrain)
    this.#sessions.set(session, this.doors.metrics.follows('stream'))
  }

  /** Whole messages are read past `ws`, which gets the rest by the listener that it has put there itself. */
  #takeOver(ws: StreamSocket, socket: Duplex & Held, session: Session): void {
    const feed = socket.listeners('data')[0] as Feed
    socket[INCOMING] = new Incoming(ws, ws._receiver, socket, feed, session, this.unfinished)
    socket.off('data', feed)
    socket.on('data', onData)
    socket.prependListener('close', onEnd)
  }

  /** Browsers are told nothing of a refused handshake: an upgrade is accepted and closed with the reason. */
  #refusal(): { code: number; reason: string } | undefined {
    if (this.doors.stopping.aborted) return { code: CLOSE.goingAway, reason: this.retryReason() }
    if (!this.doors.switch.on) return { code: CLOSE.streamerOff, reason: `retry=${switchRetry(this.doors)}` }
    if (this.#sessions.size >= this.#socketsMax) return { code: CLOSE.tooMany, reason: this.retryReason() }
    return undefined
  }

  // ── For all sessions ───────────────────────────────────────────────────────────────────────────────────────────

  delivered(events: number, bytes: number): void {
    this.doors.metrics.delivered('stream', events, bytes)
    this.rounds.gave(events, bytes)
  }

  commitSoon(following: Following): void {
    this.#committing.add(following)
    if (this.#committing.size === 1) this.#commitTimer = setTimeout(this.#commit, COMMIT_MS)
  }

  readonly #commit = (): void => {
    const all = this.#committing
    this.#committing = new Set()
    for (const following of all) following.flushCommits()
  }

  background(work: Promise<void>): void {
    this.#background++
    void work.finally(() => {
      this.#background--
      this.#checkEmpty()
    })
  }

  retryReason(): string {
    return `retry=${retryAfter(this.doors)}`
  }

  gone(session: Session): void {
    this.#sessions.get(session)?.()
    this.#sessions.delete(session)
    this.#checkEmpty()
  }

  #sweep(): void {
    const now = clock()
    for (const session of this.#sessions.keys()) session.sweep(now, this.#tick)
    this.backlog.sweep()
  }

  async #followSwitch(): Promise<void> {
    const { signal } = this.#closing
    while (!signal.aborted) {
      if (!this.doors.switch.on) this.#turnedOff()
      try {
        await this.doors.switch.changed(signal)
      } catch (error) {
        if (signal.aborted) return
        this.doors.failed('stream', error)
        return
      }
    }
  }

  #turnedOff(): void {
    for (const session of this.#sessions.keys()) {
      const after = switchRetry(this.doors)
      session.finish(CLOSE.streamerOff, `retry=${after}`, { op: 'switch', streamer: 'off', retryAfter: after })
    }
  }

  /** Answers what was taken, closes all sockets 1001, and refuses new ones. Resolves when the last one is gone. */
  async close(): Promise<void> {
    this.#closing.abort()
    this.#server.close()
    for (const session of this.#sessions.keys()) session.finish(CLOSE.goingAway, this.retryReason())
    await new Promise<void>((resolve) => {
      this.#whenEmpty = resolve
      this.#checkEmpty()
    })
    clearInterval(this.#sweeper)
    clearTimeout(this.#commitTimer)
  }

  #checkEmpty(): void {
    if (this.#sessions.size === 0 && this.#background === 0) this.#whenEmpty?.()
  }
}

const SOCKET_OPTIONS: ServerOptions<typeof StreamSocket> & { closeTimeout: number; autoPong: boolean } = {
  noServer: true,
  clientTracking: false,
  WebSocket: StreamSocket,
  perMessageDeflate: false,
  maxPayload: FRAME_BYTES_MAX,
  maxFragments: FRAGMENTS_MAX,
  maxBufferedChunks: CHUNKS_MAX,
  // PINGs are answered by the session.
  autoPong: false,
  skipUTF8Validation: false,
  closeTimeout: CLOSE_MS,
  handleProtocols: (offered) => [...offered].find((name) => FRAMES.has(name)) ?? false,
}

const switchRetry = (doors: Doors): number =>
  Math.floor(Math.random() * Math.min(doors.settings.retryWindow, SWITCH_RETRY_MS))

function nothing(): void {}

function onMessage(this: WebSocket, data: RawData, binary: boolean): void {
  const session = (this as StreamSocket)[SESSION]!
  session.message(data as Buffer, binary)
  session.taken()
}

function onData(this: Duplex & Held, bytes: Buffer): void {
  this[INCOMING]!.take(bytes)
}

function onEnd(this: Duplex & Held): void {
  this[INCOMING]!.flush()
}

function onClose(this: WebSocket): void {
  ;(this as StreamSocket)[SESSION]!.gone()
}

function onDrain(this: Duplex & Held): void {
  this[SESSION]!.drained()
}
