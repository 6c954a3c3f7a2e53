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
import { sameHistory } from '../epoch.ts'
import { TidemarkError } from '../errors.ts'
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
      /** Of a state: the seq at which it is true. All that was known by key before is void. */
      readonly at?: number
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

type Told<Op> = Extract<ServerMessage, { op: Op }>

export interface Subscription {
  readonly channel: string
  stage: 'apart' | 'joining' | 'live' | 'full' | 'over'
  /** The `subscribe` that is waited for; frames before its `subscribed` belong to an older one. */
  ref: unknown
  /** The end of what arrived; undefined while only the server knows where the start is. */
  readonly place: Place | undefined
  /** What to ask for, on any door: our own place as soon as there is one. */
  readonly start: Start
  readonly isFull: boolean
  readonly isOver: boolean
  /** Over because the app left, so that nothing more is given out. */
  readonly isLeft: boolean
  /** False while everything up to the head has arrived. */
  readonly isBehind: boolean
  /** The history that the socket's commits count for, once that is certain. */
  readonly socketEpoch: string | null | undefined

  // From the doors:
  subscribed(answer: Pick<Told<'subscribed'>, 'epoch' | 'after'>): void
  /** The server answered from this place, so nothing is told before it. */
  opened(epoch: string | null, after: number): void
  /** Takes what continues our place. False when the frame does not: then the caller joins again from `start`. */
  events(frame: Frame): boolean
  gap(to: { readonly trimmed: number }): void
  reset(to: Pick<Told<'reset'>, 'epoch' | 'trimmed' | 'head'>): void
  caughtup(at: { readonly seq: number }): void
  /** The door is gone: the next one starts at `start`. */
  detach(): void
  /** With an error: what arrived is still given out, then the error. Without: it is over at once. */
  end(error?: TidemarkError): void

  // To the app:
  /**
   * The next item, as soon as there is one; undefined when the subscription is over.
   * @throws what ended it, after everything that arrived before was taken.
   */
  take(): Promise<Item | undefined>
}

interface Held {
  /** How much of its bound a subscription is filled by this. */
  readonly weight: number
  open(): Item
}

/** @param onRoom Told when the app made room again. */
export function newSubscription(
  channel: string,
  from: Start,
  onRoom: (subscription: Subscription) => void,
): Subscription {
  const held: Held[] = []
  let place: Place | undefined =
    typeof from.after === 'number' ? { epoch: from.epoch ?? null, after: from.after } : undefined
  /** A place that the server named where a `reset` may come first; the next frame settles it. */
  let unsettled: Place | undefined
  /** Where the app was told, in its row, that it is caught up. */
  let told: number | undefined
  let broken = 0
  let filled = 0
  let failed: TidemarkError | undefined
  let wake: (() => void) | undefined

  const settled = (): Place | undefined => {
    place = unsettled ?? place
    unsettled = undefined
    return place
  }

  const hold = (events: number, bytes: number, open: () => Item): void => {
    if (self.isOver) return
    const weight = Math.max((events || 1) / HELD_EVENTS_MAX, bytes / HELD_BYTES_MAX)
    held.push({ weight, open })
    filled += weight
    wake?.()
  }

  const tell = (item: Item): void => hold(1, 0, () => item)

  const self: Subscription = {
    channel,
    stage: 'apart',
    ref: undefined,
    get place() {
      return place
    },
    get start() {
      return place ? { after: place.after, epoch: place.epoch ?? undefined } : from
    },
    get isFull() {
      return filled >= 1
    },
    get isOver() {
      return self.stage === 'over'
    },
    get isLeft() {
      return self.isOver && !failed
    },
    get isBehind() {
      return !place || told !== place.after
    },
    get socketEpoch() {
      return self.stage === 'live' && !unsettled ? place?.epoch : undefined
    },

    subscribed({ epoch, after }) {
      const { start } = self
      self.stage = 'live'
      // When the server starts elsewhere than asked, a `reset` follows. To take its place before the reset arrived
      // would forget the reset for good if the socket is lost in between.
      const isAsked = typeof start.after === 'number' ? start.after === after : !start.cursor
      if (isAsked && (start.epoch ?? epoch) === epoch) place = { epoch, after }
      else unsettled = { epoch, after }
    },
    opened(epoch, after) {
      if (!place?.epoch) place = { epoch, after: place?.after ?? after }
    },
    events(frame) {
      const { epoch, after: begin, last } = frame
      const { epoch: known, after } = settled() ?? { epoch, after: begin }
      if ((known && !sameHistory(known, epoch)) || begin > after || !frame.isWhole) {
        if (++broken >= BROKEN_MAX)
          self.end(
            new TidemarkError('data-loss', `${channel}: broken`, {
              channel,
              epoch,
              after,
              upTo: begin,
            }),
          )
        return false
      }
      broken = 0
      if (last > after)
        hold(frame.count, frame.bytes, () => ({
          is: 'events',
          channel,
          epoch,
          after,
          last,
          events: frame.events(channel, after),
        }))
      place = { epoch, after: Math.max(after, last) }
      return true
    },
    gap({ trimmed }) {
      const { epoch, after } = settled() ?? { epoch: null, after: 0 }
      if (trimmed <= after) return
      place = { epoch, after: trimmed }
      tell({ is: 'gap', channel, epoch, after, trimmed })
    },
    reset({ epoch, trimmed, head }) {
      unsettled = told = undefined
      place = { epoch, after: trimmed }
      tell({ is: 'reset', channel, epoch, trimmed, head })
    },
    caughtup({ seq }) {
      const { epoch } = settled() ?? { epoch: null }
      if (seq === told) return
      told = seq
      // A channel that nobody made yet has no head to be caught up with.
      if (epoch) tell({ is: 'caughtup', channel, epoch, seq })
    },
    detach() {
      if (!self.isOver) self.stage = 'apart'
      unsettled = undefined
    },
    end(error) {
      if (self.isOver) return
      self.stage = 'over'
      failed = error
      if (!error) held.length = 0
      wake?.()
    },
    async take() {
      for (;;) {
        const next = held.shift()
        if (next) {
          // Sums of fractions drift.
          filled = held.length && filled - next.weight
          if (filled <= 1 / 4) onRoom(self)
          return next.open()
        }
        if (failed) throw failed
        if (self.isOver) return undefined
        await new Promise<void>((resolve) => {
          wake = resolve
        })
      }
    },
  }
  return self
}

/** The events of a JSON frame or page. */
export function jsonFrame(
  page: { epoch: string; after: number; last: number; events: readonly EventJson[] },
  bytes: number,
): Frame {
  const { after, last, events } = page
  const rises = ({ seq }: EventJson, i: number): boolean => seq > (events[i - 1]?.seq ?? after) && seq <= last
  return {
    ...page,
    bytes,
    count: events.length,
    isWhole: events.every(rises),
    events: (channel, from) => {
      const taken = events.filter(({ seq }) => seq > from) as ChannelEvent[]
      for (const event of taken) event.channel = channel
      return taken
    },
  }
}
