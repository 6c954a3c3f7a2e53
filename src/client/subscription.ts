/**
 * One followed channel: its place on the wire, the check that every frame continues it, and what the app has not
 * taken yet. Socket and poll feed the same subscription, so changing from one to the other can lose or double nothing.
 *
 *        join              subscribed              too much held
 *   apart ────▶ joining ──────────────▶ live ─────────────────────▶ full
 *     ▲            ▲ chain broken        │                            │
 *     │            └─────────────────────┤      the app took enough   │
 *     │◀──── socket lost, or poll ───────┘◀───── (join, from place) ──┘
 *   any ── leave, abort, refusal ──▶ over
 *
 * `place` is the end of what arrived, and where every joining starts; what the app has handled is the follower's.
 */
import { TidemarkError } from '../errors.ts'
import { sameHistory } from '../event.ts'
import type { EventJson, ServerMessage } from '../wire.ts'

/** An event as an app gets it. */
export type ChannelEvent = EventJson & { channel: string }

/** What comes next on a channel, in order. */
export type Item =
  | {
      readonly is: 'events'
      readonly channel: string
      readonly epoch: string
      /** The place before these events. */
      readonly after: number
      /** The place after them; beyond the last event where events are withheld, erased or compacted. */
      readonly last: number
      readonly events: readonly ChannelEvent[]
    }
  /** Events after `after`, up to `trimmed`, are gone; the stream goes on after `trimmed`. */
  | {
      readonly is: 'gap'
      readonly channel: string
      readonly epoch: string | null
      readonly after: number
      readonly trimmed: number
    }
  /** Another history began, or compaction passed this place: what was built from events is void. `epoch` null: the channel is gone. */
  | {
      readonly is: 'reset'
      readonly channel: string
      readonly epoch: string | null
      readonly trimmed: number
      readonly head: number
    }
  /** Everything up to the head was given out; told again after each time behind. */
  | { readonly is: 'caughtup'; readonly channel: string; readonly epoch: string | null; readonly seq: number }

export interface Place {
  /** Null until the channel's history is known. */
  readonly epoch: string | null
  readonly after: number
}

/** Where to start. */
export interface Start {
  readonly after?: number | string | undefined
  readonly cursor?: true | undefined
  readonly epoch?: string | undefined
}

/** The events of one frame or page, perhaps not decoded yet. */
export interface Frame {
  readonly epoch: string
  readonly after: number
  readonly last: number
  readonly count: number
  /** About how much memory it takes. */
  readonly bytes: number
  /** False when its own parts do not follow each other within (after, last]. */
  readonly isWhole: boolean
  /** The events with after < seq ≤ last. */
  events(channel: string, after: number): ChannelEvent[]
}

/** A subscription holds about this many events that the app has not taken; then it stops asking for more. */
export const HELD_EVENTS_MAX = 4_096
/** … or this many bytes of frames, whichever is first. One frame more may be on its way. */
export const HELD_BYTES_MAX = 1024 * 1024
/** A frame that does not continue our place is asked for again; so often without progress, then it is `data-loss`. */
const BROKEN_MAX = 3

type Held = Exclude<Item, { is: 'events' }> | { is: 'frame'; frame: Frame; after: number; last: number }
type Stage = 'apart' | 'joining' | 'live' | 'full' | 'over'
type Told<Op> = Extract<ServerMessage, { op: Op }>

export class Subscription {
  readonly channel: string
  readonly #start: Start
  stage: Stage = 'apart'
  /** The `subscribe` that is waited for; frames before its `subscribed` belong to an older one. */
  ref: number | undefined
  #place: Place | undefined
  /** A place that the server named where a `reset` may come first; the next frame settles it. */
  #unsettled: Place | undefined
  #told = -1
  #behind = true
  #broken = 0
  readonly #held: Held[] = []
  #heldEvents = 0
  #heldBytes = 0
  #failed: TidemarkError | undefined
  #wake: (() => void) | undefined
  /** Told when the app made room again. */
  readonly #onRoom: (subscription: Subscription) => void

  constructor(channel: string, start: Start, onRoom: (subscription: Subscription) => void) {
    this.channel = channel
    this.#start = start
    this.#onRoom = onRoom
    if (typeof start.after === 'number') this.#place = { epoch: start.epoch ?? null, after: start.after }
  }

  /** The end of what arrived; undefined while only the server knows where the start is. */
  get place(): Place | undefined {
    return this.#place
  }

  /** What to ask for, on any door: our own place as soon as there is one. */
  get start(): Start {
    const place = this.#place
    if (place === undefined) return this.#start
    return place.epoch === null ? { after: place.after } : { after: place.after, epoch: place.epoch }
  }

  get isFull(): boolean {
    return this.#heldEvents >= HELD_EVENTS_MAX || this.#heldBytes >= HELD_BYTES_MAX
  }

  get isOver(): boolean {
    return this.stage === 'over'
  }

  /** The history that the socket's commits count for, once that is certain. */
  get socketEpoch(): string | undefined {
    if (this.stage !== 'live' || this.#unsettled !== undefined) return undefined
    return this.#place?.epoch ?? undefined
  }

  /** Over because the app left, so that nothing more is given out. */
  get isLeft(): boolean {
    return this.stage === 'over' && this.#failed === undefined
  }

  /** False while everything up to the head has arrived. */
  get isBehind(): boolean {
    return this.#behind
  }

  // ── From the doors ─────────────────────────────────────────────────────────────────────────────────────────────

  subscribed({ epoch, after, head }: Pick<Told<'subscribed'>, 'epoch' | 'after' | 'head'>): void {
    const named = { epoch, after }
    const asked = this.start
    // When the server starts elsewhere than asked, a `reset` follows. To take its place before the reset arrived
    // would forget the reset for good if the socket is lost in between.
    const sameEpoch = asked.epoch === undefined || asked.epoch === epoch
    const sameAfter = asked.cursor === undefined && (typeof asked.after !== 'number' || asked.after === after)
    if (sameEpoch && sameAfter) this.#place = named
    else this.#unsettled = named
    if (head > after) this.#behind = true
  }

  /** The server answered from this place, so nothing is told before it. */
  opened(place: Place, head: number): void {
    this.#place = place
    if (head > place.after) this.#behind = true
  }

  /** Takes what continues our place. False when the frame does not: then the caller joins again from `start`. */
  events(frame: Frame): boolean {
    this.#settle()
    const place = this.#place ?? { epoch: null, after: frame.after }
    if (place.epoch !== null && !sameHistory(place.epoch, frame.epoch)) return this.#isBroken(place, frame)
    if (frame.after > place.after || !frame.isWhole) return this.#isBroken(place, frame)
    this.#broken = 0
    this.#place = { epoch: frame.epoch, after: Math.max(place.after, frame.last) }
    if (frame.last <= place.after) return true
    this.#hold({ is: 'frame', frame, after: place.after, last: frame.last }, frame.count, frame.bytes)
    return true
  }

  #isBroken(place: Place, frame: Frame): false {
    if (++this.#broken >= BROKEN_MAX)
      this.end(
        new TidemarkError('data-loss', `${this.channel}: what the server sends does not continue ${place.after}`, {
          channel: this.channel,
          epoch: frame.epoch,
          after: place.after,
          upTo: frame.after,
        }),
      )
    return false
  }

  gap(trimmed: number): void {
    this.#settle()
    const { epoch, after } = this.#place ?? { epoch: null, after: 0 }
    if (trimmed <= after) return
    this.#place = { epoch, after: trimmed }
    this.#behind = true
    this.#hold({ is: 'gap', channel: this.channel, epoch, after, trimmed }, 1, 0)
  }

  reset({ epoch, trimmed, head }: Pick<Told<'reset'>, 'epoch' | 'trimmed' | 'head'>): void {
    this.#unsettled = undefined
    this.#place = { epoch, after: trimmed }
    this.#told = -1
    this.#behind = true
    this.#hold({ is: 'reset', channel: this.channel, epoch, trimmed, head }, 1, 0)
  }

  caughtUp(seq: number): void {
    this.#settle()
    if (!this.#behind && seq === this.#told) return
    this.#behind = false
    this.#told = seq
    this.#hold({ is: 'caughtup', channel: this.channel, epoch: this.#place?.epoch ?? null, seq }, 1, 0)
  }

  fellBehind(): void {
    this.#behind = true
  }

  /** The door is gone: the next one starts at `start`. */
  detach(): void {
    if (this.stage === 'over') return
    this.stage = 'apart'
    this.ref = undefined
    this.#unsettled = undefined
  }

  #settle(): void {
    if (this.#unsettled === undefined) return
    this.#place = this.#unsettled
    this.#unsettled = undefined
  }

  #hold(item: Held, events: number, bytes: number): void {
    if (this.stage === 'over') return
    const newest = this.#held.at(-1)
    // Positions that pass without an event are one item, however many frames they took.
    if (item.is === 'frame' && isEmpty(item.frame) && newest?.is === 'frame' && isEmpty(newest.frame)) {
      newest.frame = item.frame
      newest.last = item.last
    } else {
      this.#held.push(item)
      this.#heldEvents += Math.max(events, 1)
      this.#heldBytes += bytes
    }
    this.#wake?.()
  }

  // ── To the app ─────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * The next item, as soon as there is one; undefined when the subscription is over.
   * @throws what ended it, after everything that arrived before was taken.
   */
  async take(): Promise<Item | undefined> {
    for (;;) {
      const held = this.#held.shift()
      if (held) return this.#open(held)
      if (this.#failed) throw this.#failed
      if (this.stage === 'over') return undefined
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
      this.#wake = undefined
    }
  }

  #open(held: Held): Item {
    const frame = held.is === 'frame' ? held.frame : undefined
    this.#heldEvents -= Math.max(frame?.count ?? 1, 1)
    this.#heldBytes -= frame?.bytes ?? 0
    if (this.#heldEvents <= HELD_EVENTS_MAX / 4 && this.#heldBytes <= HELD_BYTES_MAX / 4) this.#onRoom(this)
    if (held.is !== 'frame') return held
    const { channel } = this
    const { after, last } = held
    return { is: 'events', channel, epoch: held.frame.epoch, after, last, events: held.frame.events(channel, after) }
  }

  /** With an error: what arrived is still given out, then the error. Without: it is over at once. */
  end(error?: TidemarkError): void {
    if (this.stage === 'over') return
    this.stage = 'over'
    this.#failed = error
    if (error === undefined) this.#held.length = 0
    this.#wake?.()
  }
}

const isEmpty = (frame: Frame): boolean => frame.count === 0

/** The events of a JSON frame or page. */
export function jsonFrame(
  page: { epoch: string; after: number; last: number; events: readonly EventJson[] },
  bytes: number,
): Frame {
  const { epoch, after, last, events } = page
  return {
    epoch,
    after,
    last,
    bytes,
    count: events.length,
    isWhole: doRise(events, after, last),
    events: (channel, from) => {
      const taken = from > after ? events.filter((event) => event.seq > from) : events
      for (const event of taken) event.channel = channel
      return taken as ChannelEvent[]
    },
  }
}

function doRise(events: readonly EventJson[], after: number, last: number): boolean {
  let previous = after
  for (const { seq } of events) {
    if (!(seq > previous)) return false
    previous = seq
  }
  return previous <= last
}
