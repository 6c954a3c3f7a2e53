/**
 * What is known of each channel, and who waits for it to change.
 *
 * What is known may be old: another gateway writes, too. A write finds out (it names the message that it follows); a
 * read that must be of now asks the leader (`fresh`); and a channel that somebody follows here is told by NATS message
 * by message. NATS may lose such a message, but not unseen: each names the one before it, a reconnect asks anew, and
 * so does a walk over all followed channels for the last one.
 */
import { crc32 } from 'node:zlib'
import { LRUCache } from 'lru-cache'
import { checkBlock } from '../../block.ts'
import { sameHistory } from '../../epoch.ts'
import { hasCode, TidemarkError, wholeOr } from '../../errors.ts'
import type { ChannelInfo, Place } from '../log.ts'
import type { Tail } from '../tail.ts'
import type { Waiters } from '../waiters.ts'
import type { Link } from './link.ts'
import { type ChannelRecord, decodeRecord, epochOf, isArriving, type Known } from './record.ts'
import type { Stored } from './stored.ts'

/** Channels kept in memory beyond those that are followed; about 500 bytes each. */
const CACHED_CHANNELS = 20_000
/** What was known for longer than this, ms, is not gone on from: a deleted channel's last message is kept for longer. */
const KNOWN_MS = 300_000
/** Messages that are caught up with one by one; behind by more, only the newest is read. */
const STEPS = 8
/** A channel that nobody waits for is followed for so long, ms. */
const LINGER_MS = 60_000
/** How often followed channels are looked after, ms, and how many of them at most. */
const SWEEP_MS = 250
const SWEPT_AT_ONCE = 256
/** A followed channel is asked for again after this, ms: so long a wake-up that NATS lost may take. */
const SWEEP_EVERY_MS = 5_000

/** A channel that there is. */
export interface Channel extends Omit<ChannelRecord, 'epoch'> {
  readonly name: string
  /** Its place in the tail: one for each history. */
  readonly number: number
  /** Its newest message. */
  readonly seq: number
  readonly epoch: string
}

interface Entry {
  readonly name: string
  known: Known | undefined
  channel: Channel | undefined
  /** When the leader said so, ms of the process. */
  checkedAt: number
  checking: Promise<void> | undefined
  /** Who asks while a check is on its way may not take its answer: it may be from before. */
  next: Promise<void> | undefined
  /** Ends the following; undefined when it is not followed. */
  unfollow: (() => void) | undefined
  /** All that was stored up to now is known, as far as NATS tells. */
  isLive: boolean
  /** Its newest message is damaged: why nobody knows what the channel is. */
  damage: unknown
  waitedAt: number
}

export class Channels {
  readonly #link: Link
  readonly #tail: Tail
  readonly #waiters: Waiters
  readonly #cache = new LRUCache<string, Entry>({ max: CACHED_CHANNELS })
  readonly #followed = new Map<string, Entry>()
  readonly #sweeper: NodeJS.Timeout
  #sweeping = false
  #numbers = 0

  constructor(link: Link, tail: Tail, waiters: Waiters) {
    this.#link = link
    this.#tail = tail
    this.#waiters = waiters
    this.#sweeper = setInterval(() => void this.#sweep(), SWEEP_MS).unref()
  }

  close(): void {
    clearInterval(this.#sweeper)
  }

  /** What is known, if anything is: good enough for a write. */
  known(name: string): Known | undefined {
    const entry = this.#peek(name)
    return entry !== undefined && performance.now() - entry.checkedAt < KNOWN_MS ? entry.known : undefined
  }

  /** The channel, where NATS tells each of its messages. */
  live(name: string): Channel | undefined {
    const entry = this.#followed.get(name)
    return entry?.isLive ? entry.channel : undefined
  }

  /** As it was at some moment after this call; undefined when there is no such channel. */
  async fresh(name: string): Promise<Channel | undefined> {
    const entry = this.#entry(name)
    await this.#freshen(entry)
    return entry.channel
  }

  /** As `fresh`: what a write follows. */
  async freshKnown(name: string): Promise<Known> {
    const entry = this.#entry(name)
    await this.#freshen(entry)
    return entry.known ?? { name, seq: 0, record: undefined }
  }

  /** @throws no-channel */
  async need(name: string): Promise<Channel> {
    return (await this.fresh(name)) ?? noChannel(name)
  }

  #peek(name: string): Entry | undefined {
    return this.#followed.get(name) ?? this.#cache.get(name)
  }

  #entry(name: string): Entry {
    const there = this.#peek(name)
    if (there) return there
    const nothing = {
      damage: undefined,
      known: undefined,
      channel: undefined,
      checking: undefined,
      next: undefined,
      unfollow: undefined,
    }
    const entry: Entry = { name, ...nothing, checkedAt: 0, isLive: false, waitedAt: 0 }
    this.#cache.set(name, entry)
    return entry
  }

  #freshen(entry: Entry): Promise<void> {
    entry.next ??= this.#afterwards(entry)
    return entry.next
  }

  async #afterwards(entry: Entry): Promise<void> {
    await entry.checking?.catch(() => undefined)
    entry.checking = this.#check(entry)
    entry.next = undefined
    try {
      await entry.checking
    } finally {
      entry.checking = undefined
    }
  }

  async #check(entry: Entry): Promise<void> {
    const started = performance.now()
    const subject = this.#link.subjectOf(entry.name)
    const isRecent = started - entry.checkedAt < KNOWN_MS
    for (let step = 0; isRecent && step < STEPS && entry.known !== undefined && entry.known.seq > 0; step++) {
      const next = await this.#link.next(subject, entry.known.seq + 1)
      if (next === undefined) return this.#checked(entry, started)
      this.#take(entry, next, entry.known.seq)
    }
    const seq = entry.known?.seq ?? -1
    const last = await this.#link.last(subject)
    // Less than there was: a deleted channel was cleared away, or NATS lost what it had taken, or was put back from a
    // copy. It may have gone on from there since: after a while without it, nor is the same place the same message.
    const isLess = isRecent ? (last?.seq ?? 0) < seq : (last?.seq ?? 0) <= seq
    if (isLess && entry.known?.seq === seq) entry.known = undefined
    if (last) this.#take(entry, last, -1)
    else if (entry.known === undefined) this.#leave(entry, { name: entry.name, seq: 0, record: undefined })
    this.#checked(entry, started)
  }

  #checked(entry: Entry, at: number): void {
    entry.checkedAt = at
    entry.damage = undefined
    if (!entry.unfollow || entry.isLive) return
    entry.isLive = true
    this.#waiters.wake(entry.name, this.hasChanged)
  }

  /** A message that this gateway stored. */
  stored(name: string, message: Stored, follows: number): void {
    const entry = this.#entry(name)
    if (entry.known === undefined) entry.checkedAt = performance.now()
    this.#take(entry, message, follows)
  }

  /** A message of this channel; with what stood before it known, nothing is missing in between. */
  #take(entry: Entry, message: Stored, follows: number): void {
    const before = entry.known
    if (before !== undefined && message.seq <= before.seq) return
    const record = this.#recordIn(entry, message)
    const isNext = before !== undefined && before.seq === follows
    if (!isNext && entry.channel) this.#tail.forget(entry.channel.number)
    this.#leave(entry, { name: entry.name, seq: message.seq, record }, message.data)
  }

  /** @throws data-loss, which those who wait for the channel are told too */
  #recordIn(entry: Entry, { record }: Stored): ChannelRecord | undefined {
    try {
      return decodeRecord(record)
    } catch (cause) {
      if (!hasCode(cause, 'data-loss')) throw cause
      const { name } = entry
      const damage = new TidemarkError(
        'data-loss',
        `${(cause as Error).message} (channel ${name})`,
        { channel: name },
        { cause },
      )
      entry.damage = damage
      entry.checkedAt = performance.now()
      this.#waiters.wake(name, this.hasChanged)
      throw damage
    }
  }

  /** A message that NATS tells; who waits was told of one that is damaged. */
  #told(entry: Entry, message: Stored, follows: number): void {
    wholeOr(undefined, () => this.#take(entry, message, follows))
  }

  /** Memory follows NATS; then readers wake. */
  #leave(entry: Entry, known: Known, block?: Uint8Array): void {
    const was = entry.channel
    const { name, seq, record } = known
    entry.known = known
    entry.damage = undefined
    const isSame = was !== undefined && was.life === record?.life
    if (was && !isSame) this.#tail.forget(was.number)
    entry.channel =
      record === undefined || isArriving(record)
        ? undefined
        : {
            ...record,
            name,
            seq,
            number: isSame ? was.number : ++this.#numbers,
            epoch: epochOf(this.#link.facts.life, record),
          }
    const channel = entry.channel
    if (channel && isSame && channel.trimmed > was.trimmed) this.#tail.trim(channel.number, channel.trimmed)
    if (channel && block && block.length > 0) this.#keep(channel, block)
    this.#waiters.wake(name, this.hasChanged)
  }

  #keep({ name, number }: Channel, block: Uint8Array): void {
    try {
      const { after, last, count } = checkBlock(name, block, crc32)
      // A copy: what came over the network is a part of a larger piece.
      this.#tail.push(number, [{ after, last, count, bytes: new Uint8Array(block) }])
    } catch (error) {
      // Who reads it from the stream is told of the damage.
      if (!hasCode(error, 'data-loss')) throw error
      this.#tail.forget(number)
    }
  }

  /** True when a read from this place would give something else than an empty page, as far as is known. @throws data-loss */
  readonly hasChanged = (name: string, from: Place): boolean => {
    const entry = this.#peek(name)
    if (entry?.damage !== undefined) throw entry.damage
    // Nothing is known yet: whoever waits is woken when it is.
    if (entry?.known === undefined) return false
    const { channel } = entry
    if (!channel) return from.epoch !== undefined
    if (from.epoch !== undefined && isOver(channel, { epoch: from.epoch, seq: from.after })) return true
    return channel.head !== from.after || channel.trimmed > from.after
  }

  /** Has NATS tell each message of this channel, from soon on. */
  follow(name: string): void {
    const entry = this.#entry(name)
    entry.waitedAt = performance.now()
    if (entry.unfollow) return
    this.#followed.set(name, entry)
    this.#cache.delete(name)
    entry.unfollow = this.#link.follow(name, (message, follows) => this.#told(entry, message, follows))
    void this.#look(entry)
  }

  /** Asks for a followed channel in the background; what fails is tried again by the sweep. */
  async #look(entry: Entry): Promise<void> {
    try {
      await this.#freshen(entry)
    } catch {
      entry.isLive = false
    }
  }

  /** NATS was away: what it told meanwhile is missing, and it may have come back as another. */
  disconnected(): void {
    this.#cache.clear()
    for (const entry of this.#followed.values()) {
      entry.isLive = false
      entry.checkedAt = Number.NEGATIVE_INFINITY
    }
  }

  async #sweep(): Promise<void> {
    if (this.#sweeping || !this.#link.isConnected) return
    this.#sweeping = true
    const now = performance.now()
    const due: Promise<void>[] = []
    for (const entry of [...this.#followed.values()]) {
      if (this.#waiters.isWaitedFor(entry.name)) entry.waitedAt = now
      else if (now - entry.waitedAt > LINGER_MS) this.#unfollow(entry)
      if (!entry.unfollow || ((entry.isLive || entry.damage) && now - entry.checkedAt < SWEEP_EVERY_MS)) continue
      if (due.length === SWEPT_AT_ONCE) break
      // Those that are looked after stand behind the others.
      this.#followed.delete(entry.name)
      this.#followed.set(entry.name, entry)
      due.push(this.#look(entry))
    }
    await Promise.all(due)
    this.#sweeping = false
  }

  #unfollow(entry: Entry): void {
    entry.unfollow?.()
    entry.unfollow = undefined
    entry.isLive = false
    this.#followed.delete(entry.name)
    this.#cache.set(entry.name, entry)
  }
}

export function infoOf({ name, epoch, head, trimmed, time, settings }: Channel): ChannelInfo {
  return { channel: name, epoch, head, trimmed, time, settings }
}

/**
 * Nothing, when a reader may go on from this place.
 * @throws epoch-changed, ahead-of-head, gap
 */
export function judge(channel: Channel, { epoch, after }: Place): void {
  const { name, head, trimmed } = channel
  const facts = { channel: name, epoch: channel.epoch, trimmed, head }
  if (epoch !== undefined && isOver(channel, { epoch, seq: after }))
    throw new TidemarkError('epoch-changed', `The epoch of ${name} is ${channel.epoch}, not ${epoch}`, facts)
  if (after > head) throw new TidemarkError('ahead-of-head', `The head of ${name} is ${head}, before ${after}`, facts)
  if (after < trimmed)
    throw new TidemarkError('gap', `Events after ${after} up to ${trimmed} of ${name}: trimmed`, { ...facts, after })
}

/** A place of another history, or of an older run of this one whose reader may have missed a tombstone that is gone. */
export function isOver({ epoch, cleaned = 0 }: Channel, of: { readonly epoch: string; readonly seq: number }): boolean {
  if (of.epoch === epoch) return false
  if (!sameHistory(of.epoch, epoch)) return true
  return of.seq > 0 && of.seq < cleaned
}

/** @throws epoch-changed when another history is meant */
export function checkEpoch({ name, epoch, head, trimmed }: Channel, meant: string | undefined): void {
  if (meant === undefined || sameHistory(meant, epoch)) return
  throw new TidemarkError('epoch-changed', `The epoch of ${name} is ${epoch}, not ${meant}`, {
    ...{ channel: name, epoch, trimmed, head },
  })
}

export function noChannel(name: string): never {
  throw new TidemarkError('no-channel', `There is no channel ${name}`, { channel: name })
}
