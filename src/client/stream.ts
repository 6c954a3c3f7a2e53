/**
 * The conversation on one open socket: which channels are joined on it, what comes for them, and which questions
 * have no answer yet. It begins with the welcome and dies with the socket; places outlive it, in the subscriptions.
 */
import { TidemarkError } from '../errors.ts'
import type { AppendedJson, ServerMessage } from '../wire.ts'
import { Backoff } from './backoff.ts'
import type { AppendText, Codec } from './codec.ts'
import { asErrorCode, hintOf, isPassing } from './http.ts'
import type { Line } from './socket.ts'
import type { Place, Subscription } from './subscription.ts'

/** An app that holds full pages makes us stop reading so long, ms; one that needs longer leaves its channel for a while. */
export const PAUSE_MS = 250
/** A subscription that the server can't serve now is asked for again after a random time below this, ms. */
const REJOIN_MS = 2_000
/** Most questions without an answer. */
const ASKED_MAX = 20_000

type About<Op> = Extract<ServerMessage, { op: Op }>

interface Asked {
  resolve(answer: ServerMessage): void
  reject(error: TidemarkError): void
}

export class Stream {
  readonly #line: Line
  readonly #subscriptions: Map<string, Subscription>
  readonly #asked = new Map<number, Asked>()
  #refs = 1
  #isOver = false
  #hasDelivered = false
  /** Of subscriptions that are asked for again. */
  readonly #rejoins = new Set<ReturnType<typeof setTimeout>>()
  /** Set while the socket is not read. */
  #pause: ReturnType<typeof setTimeout> | undefined

  constructor(line: Line, subscriptions: Map<string, Subscription>) {
    this.#line = line
    this.#subscriptions = subscriptions
    for (const subscription of subscriptions.values()) this.join(subscription)
  }

  /** True when it brought at least one frame that was taken. */
  get hasDelivered(): boolean {
    return this.#hasDelivered
  }

  /** The socket is gone. Every question fails with `unavailable`, its outcome unknown. */
  end(): void {
    this.#isOver = true
    clearTimeout(this.#pause)
    this.#pause = undefined
    for (const timer of this.#rejoins) clearTimeout(timer)
    this.#rejoins.clear()
    for (const subscription of this.#subscriptions.values()) subscription.detach()
    const asked = [...this.#asked.values()]
    this.#asked.clear()
    for (const { reject } of asked)
      reject(new TidemarkError('unavailable', 'The socket was lost before the answer', { ...LOST, outcome: 'unknown' }))
  }

  // ── Channels ───────────────────────────────────────────────────────────────────────────────────────────────────

  join(subscription: Subscription): void {
    const { after, cursor, epoch } = subscription.start
    subscription.stage = 'joining'
    subscription.ref = this.#refs++
    this.#send({
      op: 'subscribe',
      ref: subscription.ref,
      channel: subscription.channel,
      ...(cursor ? { cursor } : after === undefined ? {} : { after }),
      ...(epoch === undefined ? {} : { epoch }),
    })
  }

  leave(channel: string): void {
    this.#send({ op: 'unsubscribe', channel })
  }

  /** The app fell behind: stop what comes, for a moment by not reading, then by leaving the channel for a while. */
  #hold(subscription: Subscription): void {
    if (!this.#line.canPause) this.#leaveFull(subscription)
    if (!this.#line.canPause || this.#pause !== undefined) return
    this.#line.pause()
    this.#pause = setTimeout(() => {
      // Not for longer: other channels, answers and heartbeats wait behind what is not read.
      for (const held of this.#subscriptions.values()) if (held.isFull) this.#leaveFull(held)
      this.#read()
    }, PAUSE_MS)
  }

  #leaveFull(subscription: Subscription): void {
    if (subscription.stage !== 'live') return
    subscription.stage = 'full'
    this.leave(subscription.channel)
  }

  #read(): void {
    clearTimeout(this.#pause)
    this.#pause = undefined
    this.#line.resume()
  }

  /** The app took enough of what this subscription holds. */
  madeRoom(subscription: Subscription): void {
    if (subscription.stage === 'full') this.join(subscription)
    else if (this.#pause !== undefined && !this.#isHeldUp()) this.#read()
  }

  /** True when more may come for a channel that is full. */
  #isHeldUp(): boolean {
    for (const { stage, isFull } of this.#subscriptions.values()) if (stage === 'live' && isFull) return true
    return false
  }

  // ── Questions ──────────────────────────────────────────────────────────────────────────────────────────────────

  /** Undefined when it is larger than the server takes in one frame. */
  append(append: AppendText): Promise<AppendedJson> | undefined {
    const ref = this.#refs++
    const frame = this.#line.codec.encodeAppend(ref, append)
    if (isLonger(frame, this.#line.welcome?.limits.frameBytes ?? 0)) return undefined
    return this.#ask(ref, frame).then((answer) => {
      const { op: _op, ref: _ref, ...appended } = answer as About<'appended'>
      return appended
    })
  }

  /** True when a commit of this place would count for the right history. */
  canCommit(channel: string, { epoch }: Place): boolean {
    return epoch !== null && this.#subscriptions.get(channel)?.socketEpoch === epoch
  }

  commit(channel: string, { after: seq }: Place): Promise<unknown> {
    const ref = this.#refs++
    return this.#ask(ref, this.#line.codec.encode({ op: 'commit', ref, channel, seq }))
  }

  /** @throws the server's error; `unavailable` when the socket is lost before the answer. */
  #ask(ref: number, frame: string | Uint8Array): Promise<ServerMessage> {
    if (this.#asked.size >= ASKED_MAX)
      return Promise.reject(new TidemarkError('too-many', `${ASKED_MAX} operations have no answer yet`))
    return new Promise((resolve, reject) => {
      this.#asked.set(ref, { resolve, reject })
      this.#line.send(frame)
    })
  }

  #send(message: Parameters<Codec['encode']>[0]): void {
    this.#line.send(this.#line.codec.encode(message))
  }

  // ── Messages ───────────────────────────────────────────────────────────────────────────────────────────────────

  message(message: ServerMessage, size: number): void {
    switch (message.op) {
      case 'appended':
      case 'committed':
        this.#answered(message.ref)?.resolve(message)
        break
      case 'subscribed':
        this.#subscribed(message)
        break
      case 'error':
        this.#refused(message)
        break
      case 'events':
      case 'caughtup':
      case 'gap':
      case 'reset':
      case 'ended': {
        // What comes before `subscribed` belongs to an older subscription of this channel.
        const subscription = this.#subscriptions.get(message.channel)
        if (subscription?.stage === 'live') this.#tell(subscription, message, size)
      }
    }
  }

  #subscribed(message: About<'subscribed'>): void {
    const subscription = this.#subscriptions.get(message.channel)
    if (subscription?.stage !== 'joining' || subscription.ref !== message.ref) return
    subscription.stage = 'live'
    subscription.subscribed(message)
  }

  #tell(
    subscription: Subscription,
    message: About<'events' | 'caughtup' | 'gap' | 'reset' | 'ended'>,
    size: number,
  ): void {
    switch (message.op) {
      case 'events':
        this.#events(subscription, message, size)
        break
      case 'caughtup':
        subscription.caughtUp(message.seq)
        break
      case 'gap':
        subscription.gap(message.trimmed)
        break
      case 'reset':
        subscription.reset(message)
        break
      case 'ended':
        this.#ended(subscription, errorOf(message))
    }
  }

  #events(subscription: Subscription, message: About<'events'>, size: number): void {
    const continues = subscription.events(this.#line.codec.frame(message, size))
    if (continues) this.#hasDelivered = true
    if (continues && subscription.isFull) this.#hold(subscription)
    // Asked for again from our own place, unless that was tried often enough.
    else if (!continues && !subscription.isOver) this.join(subscription)
    else if (!continues) this.leave(subscription.channel)
  }

  #refused(message: About<'error'>): void {
    const error = errorOf(message)
    const asked = this.#answered(message.ref)
    const subscription = this.#subscriptions.get(message.channel ?? '')
    if (asked) asked.reject(error)
    else if (subscription?.stage === 'joining' && subscription.ref === message.ref) this.#ended(subscription, error)
  }

  /** The server gave up this subscription: for now, or for good. */
  #ended(subscription: Subscription, error: TidemarkError): void {
    subscription.detach()
    // Too many channels stay too many, unless the server says until when.
    if (!isPassing(error) || (error.code === 'too-many' && hintOf(error) === undefined)) {
      this.#subscriptions.delete(subscription.channel)
      subscription.end(error)
      return
    }
    const rejoin = () => {
      this.#rejoins.delete(timer)
      if (!this.#isOver && subscription.stage === 'apart') this.join(subscription)
    }
    const timer = setTimeout(rejoin, new Backoff(REJOIN_MS).next(hintOf(error)))
    this.#rejoins.add(timer)
  }

  #answered(ref: unknown): Asked | undefined {
    if (typeof ref !== 'number') return undefined
    const asked = this.#asked.get(ref)
    this.#asked.delete(ref)
    return asked
  }
}

const LOST = { lost: 'socket' } as const

/** True when an operation failed only because its socket is gone. */
export const isLost = (error: TidemarkError): boolean => error.details.lost === LOST.lost

function isLonger(frame: string | Uint8Array, bytes: number): boolean {
  if (typeof frame !== 'string') return frame.length > bytes
  // A character takes at most three bytes, so most frames need no counting.
  return frame.length * 3 > bytes && new TextEncoder().encode(frame).length > bytes
}

function errorOf(message: About<'error' | 'ended'>): TidemarkError {
  const { op: _op, ref: _ref, code, detail, ...details } = message as Record<string, unknown>
  return new TidemarkError(asErrorCode(code), String(detail), details)
}
