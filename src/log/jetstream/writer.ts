/**
 * Writes to channels. A write names the message that it follows: NATS stores it only if that one is still the newest
 * of its subject. So whatever is planned here was planned for the channel as it is, however many gateways write.
 *
 *   plan on what is known ── stored ──▶ memory follows, answer
 *     ▲        │        └── another message was there ──▶ ask the leader, plan anew
 *     │        └── no answer ──▶ the same again, until it is stored or another message is: only one can follow the other
 *     └────────────── what was sent before is not there
 */
import { randomBytes } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { LRUCache } from 'lru-cache'
import { TidemarkError } from '../../errors.ts'
import type { Channels } from './channels.ts'
import {
  isConflict,
  isNoRoom,
  isOneOnItsWay,
  isSameInBatch,
  isSameOnItsWay,
  isUnreachable,
  isUnsent,
  told,
  unavailable,
} from './failures.ts'
import type { Draft, Link } from './link.ts'
import { type ChannelRecord, encodeReceipt, encodeRecord, type Known, type Receipt } from './record.ts'
import type { Room } from './room.ts'
import type { Stored } from './stored.ts'

/** A write is tried for so long, ms: longer than a cluster takes to elect a leader. */
const WRITE_MS = 12_000
/** Between tries while NATS does not answer, ms. */
const RETRY_MS = 100
/** A write that lost to other gateways so often asks them for way … */
const LOST_TRIES = 3
/** … which they give for so long, ms, before their next write to that channel. */
const WAY_MS = 50
/** Channels for which way is asked at once. */
const WAYS_MAX = 1_000

/** What a write makes of a channel. */
export interface Plan {
  readonly record: ChannelRecord
  /** The channel ends with it. */
  readonly gone?: boolean
  readonly block?: Uint8Array
  readonly receipt?: Receipt
  /** Stored once for as long as NATS remembers ids. */
  readonly messageId?: string | undefined
}

/** Nothing is written; with an id only after it was asked for: what was stored under it is the outcome then. */
export interface Refusal {
  readonly refused: TidemarkError
  readonly messageId?: string | undefined
}

/** To be asked again with what the leader says. */
export const ASK_LEADER = Symbol('ask the leader')

/** @param isFresh it is what the leader said just now: a refusal stands. Undefined: there is nothing to write */
export type Planner = (known: Known, isFresh: boolean) => Plan | Refusal | typeof ASK_LEADER | undefined

/** `earlier`: a message of the same id was stored before, and this one was not. */
export type Outcome = { readonly earlier?: Stored } | undefined

/** What was sent, and may be stored. */
interface Sent {
  readonly plans: readonly Plan[]
  readonly drafts: readonly Draft[]
  readonly attempt: string
  /** There was a try whose outcome nobody told. */
  doubtful: boolean
  /** Another message stands where it was to stand, or an earlier try of it. */
  isRefused: boolean
}

/** What was sent before stays unknown for now. */
class Disconnected extends Error {
  override readonly name = 'ConnectionError'
}

export class Writer {
  readonly #link: Link
  readonly #channels: Channels
  readonly #room: Pick<Room, 'refused'>
  /** Of this gateway, then a number for each try. */
  readonly #mark = randomBytes(6).toString('base64url')
  #attempts = 0
  /** Until when way is given to other gateways, by channel. */
  readonly #ways = new LRUCache<string, number>({ max: WAYS_MAX })
  /** Channels for which this gateway asked for way: it gives none meanwhile. */
  readonly #asking = new Set<string>()

  constructor(link: Link, channels: Channels, room: Pick<Room, 'refused'>) {
    this.#link = link
    this.#channels = channels
    this.#room = room
    link.heedWay((name, who) => {
      if (who !== this.#mark && !this.#asking.has(name)) this.#ways.set(name, performance.now() + WAY_MS)
    })
  }

  /** Writes what is planned to one channel. @throws what the plan refuses; unavailable, storage-full */
  write(name: string, plan: Planner): Promise<Outcome> {
    return this.writeAll([name], ([known], isFresh) => {
      const planned = plan(known!, isFresh)
      return planned === undefined || planned === ASK_LEADER || 'refused' in planned ? planned : [planned]
    })
  }

  /** Writes to several channels, to all or none. */
  async writeAll(
    names: readonly string[],
    plan: (known: readonly Known[], isFresh: boolean) => readonly Plan[] | Refusal | typeof ASK_LEADER | undefined,
  ): Promise<Outcome> {
    try {
      return await this.#writeAll(names, plan)
    } finally {
      for (const name of names) this.#asking.delete(name)
    }
  }

  async #writeAll(
    names: readonly string[],
    plan: (known: readonly Known[], isFresh: boolean) => readonly Plan[] | Refusal | typeof ASK_LEADER | undefined,
  ): Promise<Outcome> {
    const until = performance.now() + WRITE_MS
    let isFresh = false
    let sent: Sent | undefined
    for (let lost = 0; ; ) {
      try {
        // What was never sent is not waited for while there is nobody to send it to.
        if (!this.#link.isConnected) throw sent?.doubtful ? new Disconnected() : unavailable('disconnected')
        if (sent?.isRefused) {
          if (sent.doubtful && (await this.#isThere(sent))) return {}
          sent = undefined
        }
        if (sent === undefined) {
          await this.#giveWay(names)
          const known = await this.#known(names, isFresh)
          const planned = plan(known.all, known.isFresh)
          if (planned === undefined) {
            await this.#link.sure()
            return undefined
          }
          if (planned === ASK_LEADER) {
            isFresh = true
            continue
          }
          if ('refused' in planned) return await this.#refuse(known.all[0]!, planned)
          sent = this.#draft(known.all, planned)
        }
        const outcome = await this.#send(sent)
        if (outcome !== ASK_LEADER) return outcome
        sent = undefined
        isFresh = true
      } catch (error) {
        // What is on its way may be an earlier try of this one: it is stored yet, or another one is.
        const isWaiting = sent?.doubtful === true && isOneOnItsWay(error)
        const isTaken = isConflict(error) || (sent?.doubtful === true && isSameInBatch(error))
        if (isTaken && sent && !isWaiting) {
          if (performance.now() > until) throw unavailable(error, sent.doubtful)
          sent.isRefused = true
          isFresh = true
          if (++lost >= LOST_TRIES) this.#askWay(names)
          continue
        }
        if (isNoRoom(error)) this.#room.refused()
        // A refusal of now says nothing of an earlier try.
        if (!isUnreachable(error) && !isWaiting) throw sent?.doubtful ? unavailable(error, true) : told(error)
        // What is on its way under the same id was there before this try.
        if (sent && !isUnsent(error) && !isSameOnItsWay(error)) sent.doubtful = true
        if (performance.now() > until || this.#link.nc.isClosed()) throw unavailable(error, sent?.doubtful)
        await delay(RETRY_MS)
      }
    }
  }

  /** Who writes on without a pause is always ahead of who has to ask first what was written. */
  #askWay(names: readonly string[]): void {
    for (const name of names) {
      this.#asking.add(name)
      this.#link.askWay(name, this.#mark)
    }
  }

  async #giveWay(names: readonly string[]): Promise<void> {
    for (const name of names) {
      const until = this.#ways.get(name)
      if (until === undefined) continue
      this.#ways.delete(name)
      const left = until - performance.now()
      if (left > 0) await delay(left)
    }
  }

  async #known(names: readonly string[], isFresh: boolean): Promise<{ all: readonly Known[]; isFresh: boolean }> {
    const all = isFresh ? [] : names.map((name) => this.#channels.known(name))
    if (!isFresh && all.every((known) => known !== undefined)) return { all: all as Known[], isFresh }
    return { all: await Promise.all(names.map((name) => this.#channels.freshKnown(name))), isFresh: true }
  }

  #draft(known: readonly Known[], plans: readonly Plan[]): Sent {
    const attempt = `${this.#mark}.${++this.#attempts}`
    const drafts = plans.map(({ record, gone, block, receipt, messageId }, i): Draft => {
      const { name, seq } = known[i]!
      return {
        subject: this.#link.subjectOf(name),
        data: block ?? new Uint8Array(),
        expected: seq,
        record: encodeRecord(record, gone),
        receipt: receipt && encodeReceipt(receipt),
        attempt,
        messageId,
      }
    })
    return { plans, drafts, attempt, doubtful: false, isRefused: false }
  }

  async #send({ plans, drafts, attempt }: Sent): Promise<Outcome | typeof ASK_LEADER> {
    if (drafts.length > 1) {
      const last = await this.#link.publishAll(drafts)
      // One behind the other: where they were not, the next write is told so.
      for (const [i, draft] of drafts.entries()) this.#follow(draft, last - drafts.length + 1 + i)
      return {}
    }
    const draft = drafts[0]!
    const { seq, duplicate } = await this.#link.publish(draft)
    if (!duplicate) {
      this.#follow(draft, seq)
      return {}
    }
    const earlier = await this.#link.at(seq)
    if (earlier?.attempt === attempt) {
      this.#follow(draft, seq)
      return {}
    }
    // An id is one of a history: of one that is over it says nothing, also when its message has gone.
    const { record } = await this.#channels.freshKnown(this.#link.channelOf(draft.subject))
    if (record?.life !== plans[0]!.record.life) return ASK_LEADER
    // Its events are kept for as long as its id, so that its answer is.
    if (earlier === undefined)
      throw new TidemarkError('unavailable', 'The first append under this key is gone', { outcome: 'unknown' })
    return { earlier }
  }

  /** Whether what was sent is stored: what follows the message that it named can only be one of them. */
  async #isThere({ drafts, attempt }: Sent): Promise<boolean> {
    const [draft] = drafts
    const next = await this.#link.next(draft!.subject, draft!.expected + 1)
    if (next?.attempt !== attempt) return false
    await Promise.all(drafts.map(({ subject }) => this.#channels.freshKnown(this.#link.channelOf(subject))))
    return true
  }

  async #refuse(known: Known, { refused, messageId }: Refusal): Promise<Outcome> {
    const asked = messageId && (await this.earlier(this.#link.subjectOf(known.name), messageId))
    if (asked) return { earlier: asked }
    // A leader that is cut off knows neither what was appended since, nor its keys.
    await this.#link.sure()
    throw refused
  }

  /** The message that was stored under an id. */
  async earlier(subject: string, messageId: string): Promise<Stored | undefined> {
    const seq = await this.#link.placeOf(subject, messageId)
    return seq === undefined ? undefined : this.#link.at(seq)
  }

  #follow({ subject, data, expected, record = '', attempt = '' }: Draft, seq: number): void {
    const name = this.#link.channelOf(subject)
    const stored = { seq, subject, data, record, receipt: '', attempt, storedAt: 0, operation: '' }
    this.#channels.stored(name, stored, expected)
  }
}
