/**
 * Pages from the stream. A message is found by its place in the stream, a reader's place is a seq of the channel: where
 * the last pages ended is kept, anything else is searched for, a message at a time. Every block is checked, and that
 * neighbours touch, before a byte of it leaves.
 */
import { crc32 } from 'node:zlib'
import { LRUCache } from 'lru-cache'
import { checkBlock, type Header } from '../../block.ts'
import { TidemarkError, wholeOr } from '../../errors.ts'
import { Page, type ReadLimits } from '../log.ts'
import { type Channel, judge } from './channels.ts'
import { isUnreachable } from './failures.ts'
import type { Link } from './link.ts'
import { decodeRecord } from './record.ts'
import type { Stored } from './stored.ts'

/** Ends of pages whose place in the stream is kept; about 100 bytes each. */
const KEPT_PLACES = 50_000
/** Messages that are asked for at once. */
const BATCH = 256

/** What is read of a channel is asked for again with what it has become. */
export type Again = (channel: Channel) => Promise<Channel>

export class Pages {
  readonly #link: Link
  /** By history and seq: the place of the message that ends there. */
  readonly #places = new LRUCache<string, number>({ max: KEPT_PLACES })

  constructor(link: Link) {
    this.#link = link
  }

  /**
   * Blocks that continue `after`, up to the head of `channel`. @param again the channel as its leader knows it now
   * @throws data-loss { after, upTo }: reading on from `upTo` is what accepts the loss; gap, epoch-changed, no-channel
   */
  async read(channel: Channel, after: number, limits: ReadLimits, again: Again): Promise<Page> {
    const building = new Building(channel, after, limits)
    try {
      await this.#fill(building, await this.#placeOf(channel, after), (subject, from) =>
        this.#link.batch(subject, from, Math.min(BATCH, limits.events), limits.bytes),
      )
    } catch (error) {
      if (!isUnreachable(error)) throw error
    }
    if (building.isStuck) {
      // A trim may have taken it away meanwhile, or a replica lags or stands still. The leader has the last word.
      const now = await again(channel)
      judge(now, { epoch: channel.epoch, after: Math.max(after, building.position) })
      building.again()
      await this.#fill(building, await this.#search(channel, building.position), (subject, from) =>
        this.#oneByOne(subject, from),
      )
    }
    const page = building.page()
    this.#places.set(keyOf(channel, page.last), building.place)
    return page
  }

  /** Adds messages until the page is full, is at the head, or does not go on. */
  async #fill(
    building: Building,
    from: number,
    messages: (subject: string, from: number) => AsyncIterable<Stored>,
  ): Promise<void> {
    const subject = this.#link.subjectOf(building.channel.name)
    for (let at = from; ; ) {
      const start = at
      for await (const message of messages(subject, at)) {
        at = message.seq + 1
        if (!building.add(message)) return
      }
      if (at === start) return
    }
  }

  async *#oneByOne(subject: string, from: number): AsyncIterable<Stored> {
    for (let at = from; ; ) {
      const message = await this.#link.next(subject, at)
      if (!message) return
      yield message
      at = message.seq + 1
    }
  }

  async #placeOf(channel: Channel, after: number): Promise<number> {
    const known = this.#places.get(keyOf(channel, after))
    return known === undefined ? this.#search(channel, after) : known + 1
  }

  /** The place of the first message that goes beyond `after`, which is below the head. */
  async #search(channel: Channel, after: number): Promise<number> {
    const subject = this.#link.subjectOf(channel.name)
    const first = await this.#link.next(subject, channel.base + 1)
    if (!first || endOf(first) > after) return first?.seq ?? channel.base + 1
    let low = { seq: first.seq, end: endOf(first) }
    let high = { seq: channel.seq, end: channel.head }
    let found = channel.seq
    for (let halve = false; high.seq - low.seq > 1; halve = !halve) {
      // Where it would be if all were of one size, and halfway, in turn.
      const part = halve ? 0.5 : (after - low.end) / Math.max(1, high.end - low.end)
      const middle = Math.min(high.seq - 1, low.seq + 1 + Math.floor((high.seq - low.seq - 1) * part))
      const message = await this.#link.next(subject, middle)
      if (message && endOf(message) <= after) low = { seq: message.seq, end: endOf(message) }
      else {
        found = Math.min(found, message?.seq ?? channel.seq)
        high = { seq: middle, end: message ? endOf(message) : channel.head }
      }
    }
    return found
  }

  /** Where the blocks begin that hold more than what was trimmed: what stands before may go. */
  async keptFrom(channel: Channel): Promise<number> {
    return channel.trimmed >= channel.head ? channel.seq : this.#search(channel, channel.trimmed)
  }
}

const keyOf = ({ number }: Channel, seq: number): string => `${number}/${seq}`

/** The seq up to which a channel goes with this message. */
const endOf = ({ record }: Stored): number => decodeRecord(record)?.head ?? 0

/** A page as it grows. */
class Building {
  readonly channel: Channel
  readonly #after: number
  readonly #limits: ReadLimits
  readonly #blocks: Uint8Array[] = []
  position: number
  /** Of the message that ends at `position`. */
  place = 0
  #events = 0
  #bytes = 0
  #isFull = false
  /** Blocks that are not whole stand here, up to the next that is. */
  #damage: number | undefined

  constructor(channel: Channel, after: number, limits: ReadLimits) {
    this.channel = channel
    this.#after = after
    this.#limits = limits
    this.position = after
  }

  /** It ended below the head, and not because it is full. */
  get isStuck(): boolean {
    return !this.#isFull && this.position < this.channel.head
  }

  /** What was damaged may be whole where it is asked for now. */
  again(): void {
    this.#damage = undefined
  }

  /** False when nothing more is to be added. */
  add({ seq, data, record: text }: Stored): boolean {
    const { name, head, life } = this.channel
    if (this.position >= head || this.#damage !== undefined) return false
    const record = wholeOr('damaged' as const, () => decodeRecord(text))
    // Deleted: what follows is another history, whose blocks may well touch those of this one.
    if (record !== 'damaged' && record?.life !== life) return false
    // Trimmed, given settings: no events.
    if (data.length === 0) return true
    const header = record === 'damaged' ? undefined : check(name, data)
    if (header && header.last <= this.position) return true
    const chains =
      header && (this.#blocks.length === 0 ? header.after <= this.position : header.after === this.position)
    if (!chains) {
      // What stands before the damage is whole; the next read begins at the damage and tells it.
      if (this.#blocks.length > 0) return false
      if (header) this.#damage = header.after
      return true
    }
    const { events, bytes } = this.#limits
    this.#isFull = this.#blocks.length > 0 && (this.#bytes + data.length > bytes || this.#events >= events)
    if (this.#isFull) return false
    this.#blocks.push(data)
    this.#events += Math.min(header.count, header.last - this.position)
    this.#bytes += data.length
    this.position = header.last
    this.place = seq
    this.#isFull = this.#events >= events || this.#bytes >= bytes
    return !this.#isFull && this.position < head
  }

  /** @throws data-loss */
  page(): Page {
    const { name, epoch, head, trimmed } = this.channel
    if (this.#blocks.length === 0) {
      const upTo = this.#damage ?? head
      const what = `Events ${this.position + 1}–${upTo} of ${name}`
      throw new TidemarkError('data-loss', `${what}, damaged or missing in NATS`, {
        ...{ channel: name, epoch, trimmed, head, after: this.position, upTo },
      })
    }
    const after = this.#after
    return new Page({ channel: name, epoch, after, last: this.position, head, trimmed, blocks: this.#blocks })
  }
}

/** Undefined when the block is not whole. */
const check = (name: string, block: Uint8Array): Header | undefined =>
  wholeOr(undefined, () => checkBlock(name, block, crc32))
