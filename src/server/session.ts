/**
 * One socket: its hello, its requests, their answers, its end.
 *
 *   greeting ──hello──▶ open ──finish──▶ closing ──everything answered──▶ over
 *      └──────────────────┴───────── close, or the socket is gone ──────────▲
 */
import type { Duplex } from 'node:stream'
import type { WebSocket } from 'ws'
import { ERRORS, TidemarkError, toTidemarkError } from '../errors.ts'
import { APPEND_EVENTS_MAX } from '../event.ts'
import { CLOSE, type Ref, type ServerMessage } from '../wire.ts'
import type { Doors } from './doors.ts'
import { Flights } from './flights.ts'
import { Following } from './following.ts'
import { type Frames, PING } from './frames.ts'
import { FRAME_BYTES_MAX } from './incoming.ts'
import { BadFrame, type Refused, type Request, readRequest } from './intake.ts'
import { refuse } from './json.ts'
import { type Backlog, clock, Outlet } from './outlet.ts'
import type { Queue, Rounds } from './rounds.ts'
import type { Watches } from './watches.ts'

/** Requests of one socket that are under way, bytes: beyond this it is not read until answers went out. */
const UNDER_WAY_BYTES_MAX = 1024 * 1024
/** What a request counts beside the bytes of its frame. */
const REQUEST_BYTES = 256
/** Requests that were taken before a stop are answered within this time, or not at all; ms. */
const ANSWERS_MS = 4_000

export interface StreamLimits {
  /** A socket without another frame for this long gets a `heartbeat`; each gets a PING this often. ms */
  readonly heartbeat: number
  /** Time for the `hello`, ms. */
  readonly helloMs: number
  /** A socket that takes no byte for this long while some wait is closed, ms. */
  readonly stalledMs: number
  /** Most channels of one socket. */
  readonly subscriptions: number
}

/** What the sessions of one server share. */
export interface Host {
  readonly doors: Doors
  readonly limits: StreamLimits
  readonly backlog: Backlog
  readonly watches: Watches
  readonly rounds: Rounds
  readonly queue: Queue
  delivered(events: number, bytes: number): void
  /** Calls `flushCommits` within a second. */
  commitSoon(following: Following): void
  /** Work that goes on when the socket is gone. */
  background(work: Promise<void>): void
  /** `retry=1234`, random within the server's window. */
  retryReason(): string
  gone(session: Session): void
}

export class Session {
  readonly host: Host
  readonly frames: Frames
  readonly outlet: Outlet
  readonly following: Following
  readonly #ws: WebSocket
  #state: 'greeting' | 'open' | 'closing' | 'over' = 'greeting'
  /** When this state began, as clock(). */
  #since = clock()
  #client: string | null = null
  /** Requests about one channel are taken up one after the other. */
  #turns: Map<string, Promise<void>> | undefined
  #flights: Flights | undefined
  /** Requests under way, and their bytes. */
  #underWay = 0
  #underWayBytes = 0
  #isPaused = false
  #ending: { readonly code: number; readonly reason: string } | undefined
  #pingAt = this.#since
  #awaitsPong = false

  constructor(ws: WebSocket, socket: Duplex, frames: Frames, host: Host) {
    this.#ws = ws
    this.host = host
    this.frames = frames
    this.outlet = new Outlet(ws, socket, host.backlog, this)
    this.following = new Following(this)
  }

  get isOpen(): boolean {
    return this.#state === 'open'
  }

  /** The name that hello gave. */
  get client(): string | null {
    return this.#client
  }

  /** The name of this socket's client. @throws bad-request when hello gave none */
  needClient(): string {
    return this.#client ?? refuse('This socket has no client: hello gives its name', { field: 'client' })
  }

  // ── Requests ───────────────────────────────────────────────────────────────────────────────────────────────────

  message(bytes: Buffer, binary: boolean): void {
    if (this.#state === 'closing' || this.#state === 'over') return
    this.#awaitsPong = false
    if (binary !== this.frames.binary) {
      this.close(CLOSE.unsupported, `${this.frames.subprotocol} has ${binary ? 'text' : 'binary'} frames`)
      return
    }
    const request = this.#read(bytes, binary)
    if (!request) return
    if (this.#state === 'greeting') this.#greet(request)
    else this.#perform(request, bytes.length)
    this.#regulate()
  }

  #read(bytes: Buffer, binary: boolean): Request | undefined {
    try {
      return readRequest(bytes, binary)
    } catch (error) {
      if (error instanceof BadFrame) this.close(CLOSE.badFrame, error.message)
      else {
        this.host.doors.failed('stream', error)
        this.close(CLOSE.internal, 'internal')
      }
      return undefined
    }
  }

  #greet(request: Request): void {
    if (request.op === 'refused' && request.of === 'hello') {
      this.refuse(request.error, request.ref)
      return
    }
    if (request.op !== 'hello') {
      this.close(CLOSE.badFrame, 'hello comes first')
      return
    }
    const { doors, limits } = this.host
    this.#enter('open')
    this.#client = request.client
    this.tell({
      op: 'welcome',
      ref: request.ref,
      server: doors.settings.server,
      client: request.client,
      heartbeat: limits.heartbeat,
      limits: {
        frameBytes: FRAME_BYTES_MAX,
        subscriptions: limits.subscriptions,
        appendEvents: APPEND_EVENTS_MAX,
      },
    })
  }

  #perform(request: Request, bytes: number): void {
    const { ref } = request
    switch (request.op) {
      case 'append':
        this.#appends.begin(request, bytes)
        break
      case 'subscribe':
        this.#inTurn(request, bytes, () => this.following.subscribe(request))
        break
      case 'unsubscribe':
        this.#inTurn(request, bytes, () => this.following.unsubscribe(request.channel, ref))
        break
      case 'commit':
        this.#inTurn(request, bytes, () => this.following.commit(request))
        break
      case 'ping':
        this.tell({ op: 'pong', ref })
        break
      case 'refresh':
        // Nobody's token ends on a server without keys: the new one is as good as the old one.
        this.tell({ op: 'refreshed', ref })
        break
      case 'hello':
        this.refuse(new TidemarkError('bad-request', 'hello is said once'), ref)
        break
      case 'refused':
        this.#refused(request, bytes)
        break
    }
  }

  /** An idle socket keeps no list of them. */
  get #appends(): Flights {
    this.#flights ??= new Flights(this)
    return this.#flights
  }

  /** Every append is answered. */
  landed(): void {
    this.#flights = undefined
  }

  /** A refusal that may be an append's stands in the row of their answers. */
  #refused({ of, ref, channel, error }: Refused, bytes: number): void {
    if (of !== undefined && of !== 'append') {
      this.refuse(error, ref, channel)
      return
    }
    this.#appends.refuse(this.failure(error, ref, channel), bytes)
  }

  /** Begins `work` when the requests before it about the same channel are done, and tells its failure. */
  #inTurn(
    { ref, channel }: { readonly ref: Ref | undefined; readonly channel: string },
    bytes: number,
    work: () => Promise<void> | void,
  ): void {
    const before = this.#turns?.get(channel)
    let begun: Promise<void> | void
    try {
      begun = before ? before.then(work) : work()
    } catch (error) {
      this.refuse(error, ref, channel)
      return
    }
    if (!begun) return
    this.#turns ??= new Map()
    const turns = this.#turns
    const done = this.begin(bytes)
    const turn = begun
      .catch((error: unknown) => this.refuse(error, ref, channel))
      .then(() => {
        if (turns.get(channel) === turn) turns.delete(channel)
        // An idle socket keeps no empty map.
        if (turns.size === 0 && this.#turns === turns) this.#turns = undefined
        done()
      })
    turns.set(channel, turn)
  }

  // ── Answers ────────────────────────────────────────────────────────────────────────────────────────────────────

  tell(message: ServerMessage): void {
    if (this.#state !== 'over') this.outlet.reply(this.frames.message(message))
  }

  /** A whole frame, each character a byte. */
  tellText(frame: string): void {
    if (this.#state !== 'over') this.outlet.replyText(frame)
  }

  /** Answers a request, or speaks of a channel, with an error. */
  refuse(error: unknown, ref: Ref | undefined, channel?: string): void {
    this.tell(this.failure(error, ref, channel))
    this.closeFor(toTidemarkError(error))
  }

  failure(error: unknown, ref: Ref | undefined, channel: string | undefined): ServerMessage {
    this.host.doors.failed('stream', error, channel === undefined ? {} : { channel })
    const { code, message, details } = toTidemarkError(error)
    return { channel, ...details, op: 'error', ref, code, detail: message }
  }

  /** Some failures are the whole socket's. */
  closeFor({ code }: TidemarkError): void {
    const { ws } = ERRORS[code]
    if (typeof ws === 'number') this.finish(ws, code)
  }

  /** A request is under way until what is returned is called. */
  begin(bytes: number): () => void {
    this.begun(bytes)
    return () => this.ended(bytes)
  }

  begun(bytes: number): void {
    this.#underWay++
    this.#underWayBytes += bytes + REQUEST_BYTES
  }

  ended(bytes: number): void {
    this.#underWay--
    this.#underWayBytes -= bytes + REQUEST_BYTES
    if (this.#ending && this.#underWay === 0) this.close(this.#ending.code, this.#ending.reason)
    else this.#regulate()
  }

  /** Stops reading while too much is under way or unread, and for good when no more is taken. */
  #regulate(): void {
    const pause = this.#state === 'closing' || this.#underWayBytes > UNDER_WAY_BYTES_MAX || this.outlet.isClogged
    if (pause === this.#isPaused || this.#state === 'over') return
    this.#isPaused = pause
    if (pause) this.#ws.pause()
    else this.#ws.resume()
  }

  // ── Life ───────────────────────────────────────────────────────────────────────────────────────────────────────

  #enter(state: 'open' | 'closing' | 'over'): void {
    this.#state = state
    this.#since = clock()
  }

  pong(): void {
    this.#awaitsPong = false
  }

  /** The socket has taken all it was given. */
  drained(): void {
    this.outlet.drained()
    this.following.drained(clock() - this.outlet.fullAt)
    this.#regulate()
  }

  /** Looks after the clocks of this socket. @param now as clock() @param tick until it is looked at again */
  sweep(now: number, tick: number): void {
    if (this.#state === 'over') return
    const { heartbeat, helloMs, stalledMs } = this.host.limits
    const age = now - this.#since
    if (this.#state === 'greeting' && age >= helloMs) this.close(CLOSE.timeout, 'no hello')
    else if (this.#ending && age >= ANSWERS_MS) this.close(this.#ending.code, this.#ending.reason)
    else if (this.outlet.standstill(now) >= stalledMs) this.stalled()
    else if (this.#state === 'open') this.#beat(now, heartbeat, tick)
  }

  #beat(now: number, heartbeat: number, tick: number): void {
    this.#regulate()
    if (now - this.outlet.sentAt >= heartbeat - tick) this.outlet.reply(this.frames.heartbeat)
    // A PING or PONG that stands behind what waits says nothing about the client.
    if (this.#awaitsPong && (this.outlet.isBehind || this.#isPaused)) this.#pingAt = now
    if (now - this.#pingAt < heartbeat) return
    if (this.#awaitsPong) {
      this.close(CLOSE.timeout, 'no pong')
      return
    }
    this.#pingAt = now
    this.#awaitsPong = true
    this.outlet.reply(PING)
  }

  stalled(): void {
    this.close(CLOSE.timeout, 'stalled')
  }

  /** All sockets together have sent more of messages that are not whole than is kept. */
  crowded(): void {
    this.close(CLOSE.tryAgain, this.host.retryReason())
  }

  /** Stops reading, answers what was taken, then closes. */
  finish(code: number, reason: string, last?: ServerMessage): void {
    if (this.#state === 'closing' || this.#state === 'over') return
    if (last) this.tell(last)
    this.#enter('closing')
    this.#ending = { code, reason }
    this.following.dropAll()
    this.#regulate()
    if (this.#underWay === 0) this.close(code, reason)
  }

  /** Closes at once; answers that are made already go out first. */
  close(code: number, reason: string): void {
    if (this.#state === 'over') return
    this.following.dropAll()
    this.outlet.flush()
    this.#enter('over')
    this.#ws.close(code, reason)
    // The close frame of the other side has to be read.
    this.#ws.resume()
  }

  /** The socket is gone. */
  gone(): void {
    this.following.dropAll()
    this.#enter('over')
    this.outlet.over()
    this.host.gone(this)
  }
}
