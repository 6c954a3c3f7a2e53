/**
 * One socket: its hello, its requests, their answers, its end.
 *
 *   greeting ──hello──▶ open ──finish──▶ closing ──everything answered──▶ over
 *      └──────────────────┴───────── close, or the socket is gone ──────────▲
 */
import type { Duplex } from 'node:stream'
import type { WebSocket } from 'ws'
import type { Principal } from '../access/principal.ts'
import type { From } from '../doors/callers.ts'
import { ERRORS, TidemarkError, toTidemarkError } from '../errors.ts'
import { APPEND_EVENTS_MAX } from '../event.ts'
import { type Frames, PING } from '../formats/frames.ts'
import { BadFrame, type Refused, type Request, readRequest } from '../formats/intake.ts'
import { refuse } from '../formats/json.ts'
import { type Source, seenBy } from '../log/seen.ts'
import { CLOSE, type Ref, type ServerMessage } from '../wire.ts'
import { Flights } from './flights.ts'
import { Following } from './following.ts'
import type { Host } from './host.ts'
import { FRAME_BYTES_MAX } from './incoming.ts'
import { clock, Outlet } from './outlet.ts'
import { Speaker } from './speaker.ts'
import { Turns } from './turns.ts'

/** Requests of one socket that are under way, bytes: beyond this it is not read until answers went out. */
const UNDER_WAY_BYTES_MAX = 1024 * 1024
/** What a request counts beside the bytes of its frame. */
const REQUEST_BYTES = 256
/** Largest frame of nobody: a hello with the longest token has room. */
const HELLO_BYTES_MAX = 16 * 1024
/** Requests that were taken before a stop are answered within this time, or not at all; ms. */
const ANSWERS_MS = 4_000

export class Session {
  readonly host: Host
  readonly frames: Frames
  readonly outlet: Outlet
  readonly following: Following
  readonly #ws: WebSocket
  readonly #speaker: Speaker
  #state: 'greeting' | 'open' | 'closing' | 'over' = 'greeting'
  /** When this state began, as clock(). */
  #since = clock()
  #client: string | null = null
  readonly #turns: Turns
  #flights: Flights | undefined
  /** Requests under way, and their bytes. */
  #underWay = 0
  #underWayBytes = 0
  #isPaused = false
  #ending: { readonly code: number; readonly reason: string } | undefined
  #pingAt = this.#since
  #awaitsPong = false

  constructor(ws: WebSocket, socket: Duplex, frames: Frames, host: Host, from: From) {
    this.#ws = ws
    this.#speaker = new Speaker(host.doors, from)
    this.host = host
    this.frames = frames
    this.outlet = new Outlet(ws, socket, host.backlog, this)
    this.following = new Following(this)
    this.#turns = new Turns(this)
  }

  get isOpen(): boolean {
    return this.#state === 'open'
  }

  /** The name that hello gave. */
  get client(): string | null {
    return this.#client
  }

  get who(): Principal {
    return this.#speaker.who
  }

  /** The log as this caller may see it, also with a token that it shows later. */
  get source(): Source {
    const { log } = this.host.doors
    return this.who.reader ? seenBy(log, () => this.who.reader) : log
  }

  /** The whole name of this socket's cursors. @throws bad-request when hello gave none */
  needCursor(): string {
    return this.who.cursor(
      this.#client ?? refuse('This socket has no client: hello gives its name', { field: 'client' }),
    )
  }

  // ── Requests ───────────────────────────────────────────────────────────────────────────────────────────────────

  message(bytes: Buffer, binary: boolean): void {
    if (this.#state === 'closing' || this.#state === 'over') return
    this.#awaitsPong = false
    if (this.who.isNobody && bytes.length > HELLO_BYTES_MAX) {
      this.close(CLOSE.tooBig, 'a hello is smaller')
      return
    }
    if (this.#speaker.isHeld) return void this.#speaker.hold(bytes, binary)
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

  /** What came together was told: appends among it wait for no more. */
  taken(): void {
    this.#flights?.depart()
  }

  #read(bytes: Buffer, binary: boolean): Request | undefined {
    try {
      return readRequest(bytes, binary)
    } catch (error) {
      if (error instanceof BadFrame) this.close(CLOSE.badFrame, error.message)
      else {
        this.#speaker.failed(error)
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
    const { ref, token, client } = request
    if (token === undefined) this.#welcome(ref, client, this.who)
    else this.#identify(token, (who) => this.#welcome(ref, client, who))
  }

  /** Nothing more is read until it is known who that is: requests keep their order. */
  #identify(credential: string, found: (who: Principal) => void): void {
    const told = (who: Principal): void => {
      found(who)
      this.#regulate()
    }
    this.#speaker.identify(credential, told, this)
  }

  #welcome(ref: Ref | undefined, client: string | null, who: Principal): void {
    if (this.#state !== 'greeting') return
    const { doors, limits } = this.host
    try {
      if (!this.#speaker.greet(who, client)) {
        this.#expire()
        return
      }
    } catch (error) {
      this.refuse(error, ref)
      return
    }
    this.#enter('open')
    this.#client = client
    this.tell({
      op: 'welcome',
      ref,
      server: doors.settings.server,
      client,
      heartbeat: limits.heartbeat,
      limits: { frameBytes: FRAME_BYTES_MAX, subscriptions: limits.subscriptions, appendEvents: APPEND_EVENTS_MAX },
      expiresIn: this.#speaker.expiresIn,
    })
  }

  #perform(request: Request, bytes: number): void {
    const { ref } = request
    // Requests keep their order.
    if (request.op !== 'append') this.#flights?.depart()
    const refused = this.#speaker.refusal(request)
    if (refused) {
      this.#refused(refused, bytes)
      return
    }
    switch (request.op) {
      case 'append':
        this.#appends.begin(request, bytes)
        break
      case 'subscribe':
        this.#turns.take(request, bytes, () => this.following.subscribe(request))
        break
      case 'unsubscribe':
        this.#turns.take(request, bytes, () => this.following.unsubscribe(request.channel, ref))
        break
      case 'commit':
        this.#turns.take(request, bytes, () => this.following.commit(request))
        break
      case 'ping':
        this.tell({ op: 'pong', ref })
        break
      case 'refresh':
        this.#identify(request.token, (who) => this.#refresh(ref, who))
        break
      case 'hello':
        this.refuse(new TidemarkError('bad-request', 'hello is said once'), ref)
        break
      case 'refused':
        this.#refused(request, bytes)
        break
    }
  }

  /** What is followed is looked at again, under what the new token grants. */
  #refresh(ref: Ref | undefined, who: Principal): void {
    if (this.#state !== 'open') return
    try {
      this.#speaker.renew(who)
    } catch (error) {
      this.refuse(error, ref)
      return
    }
    this.following.recheck()
    this.tell({ op: 'refreshed', ref, expiresIn: this.#speaker.expiresIn })
  }

  /** The keys have changed. */
  recheck(): void {
    if (this.#state === 'over' || this.#state === 'closing') return
    if (this.who.isOver()) this.#expire()
    else if (this.#state === 'open') this.following.recheck()
  }

  #expire(): void {
    this.finish(...this.#speaker.dismiss())
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

  // ── Answers ────────────────────────────────────────────────────────────────────────────────────────────────────

  tell(message: ServerMessage): void {
    if (this.#state !== 'over') this.outlet.reply(this.frames.message(message))
  }

  /** Whole frames, each character a byte. */
  tellText(frames: string): void {
    if (this.#state !== 'over') this.outlet.replyText(frames)
  }

  /** Answers a request, or speaks of a channel, with an error. */
  refuse(error: unknown, ref: Ref | undefined, channel?: string): void {
    this.tell(this.failure(error, ref, channel))
    this.closeFor(toTidemarkError(error))
  }

  failure(error: unknown, ref: Ref | undefined, channel: string | undefined): ServerMessage {
    this.#speaker.failed(error, channel === undefined ? {} : { channel })
    const { code, message, details } = toTidemarkError(error)
    return { channel, ...details, op: 'error', ref, code, detail: message }
  }

  /** Some failures are the whole socket's. */
  closeFor({ code }: TidemarkError): void {
    const { ws } = ERRORS[code]
    if (typeof ws === 'number') this.finish(ws, code)
  }

  begun(bytes: number): void {
    this.#underWay++
    this.#underWayBytes += bytes + REQUEST_BYTES
  }

  ended(bytes: number, requests: number): void {
    this.#underWay -= requests
    this.#underWayBytes -= bytes + requests * REQUEST_BYTES
    if (this.#ending && this.#underWay === 0) this.close(this.#ending.code, this.#ending.reason)
    else this.#regulate()
  }

  /** Stops reading while too much is under way or unread, and for good when no more is taken. */
  #regulate(): void {
    const isHeld = this.#state === 'closing' || this.#speaker.isHeld
    const pause = isHeld || this.#underWayBytes > UNDER_WAY_BYTES_MAX || this.outlet.isClogged
    if (pause === this.#isPaused || this.#state === 'over') return
    this.#isPaused = pause
    if (pause) this.#ws.pause()
    else this.#ws.resume()
  }

  // ── Life ───────────────────────────────────────────────────────────────────────────────────────────────────────

  #enter(state: 'open' | 'closing' | 'over'): void {
    this.#state = state
    if (state === 'over') this.#speaker.over()
    this.#since = clock()
  }

  ping(payload: Buffer): void {
    if (this.#state !== 'over') this.outlet.pong(payload)
  }

  pong(): void {
    this.#awaitsPong = false
  }

  /** The socket has taken all it was given. */
  drained(): void {
    const ms = this.outlet.drained()
    if (ms !== undefined) this.following.drained(ms)
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
    else if (this.#speaker.hasEnded) this.#expire()
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
