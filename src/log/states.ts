/**
 * States: the newest event of each key of a channel, as it is true at one seq. A state follows the log: the first who
 * asks has it made by one walk over the channel, from where its rows stand if it has some (state-rows.ts), else over all
 * of it; who asks later has it brought to the head, and after a while without anybody it is forgotten.
 */
import { setImmediate as nextTurn } from 'node:timers/promises'
import { sameHistory } from '../epoch.ts'
import { hasCode, TidemarkError } from '../errors.ts'
import { PAGE } from './background.ts'
import { type ChannelInfo, type Log, Page, type ReadLimits } from './log.ts'
import { blocksOf, Versions } from './versions.ts'

/** All states together take so much memory at most unless configured, bytes. */
const STATES_BYTES = 256 * 1024 * 1024
/** A state that nobody asked for in this time is forgotten, ms. */
const IDLE_MS = 600_000
/** One that was asked for in this time is not given up for that of another channel, ms. */
const HELD_MS = 60_000
/** Channels that are gone over at once, beyond the first page of each. */
const WALKS_AT_ONCE = 2
/** Seqs of one channel at which its state is kept. */
const PLACES_MAX = 1_000

/** At which seq of which history a state is true. */
export interface StateAt {
  readonly epoch: string
  readonly at: number
}

export interface StatesOptions {
  /** In place of STATES_BYTES. */
  readonly bytes?: number
  /** Ends every walk. */
  readonly signal?: AbortSignal
}

/** What is kept of one channel. */
class Kept {
  versions = new Versions()
  /** The history that it is of; undefined before the first page. */
  epoch: string | undefined
  /** Everything up to this seq is in it. */
  after = 0
  /** Its rows were begun with, or there are none to begin with. */
  isBegun = false
  /**
   * Seqs at which it was told, rising, each with the epoch of then: who goes on from there is told what went since. Of
   * others it says nothing: compaction may have taken what they held before it was read here.
   */
  readonly places = new Map<number, string>()
  askedAt = 0
  /** The walk that brings it on, and how far somebody wants it. */
  walk: Promise<void> | undefined
  wanted = 0
  /** It does not fit; known until it is forgotten. */
  failure: TidemarkError | undefined

  /** Nothing of it counts any more. */
  clear(): void {
    this.versions = new Versions()
    this.epoch = undefined
    this.after = 0
    this.places.clear()
  }

  has({ epoch, at }: StateAt): boolean {
    return this.epoch !== undefined && sameHistory(this.epoch, epoch) && this.places.has(at)
  }
}

export class States {
  readonly #log: Log
  readonly #limit: number
  readonly #signal: AbortSignal | undefined
  /** By channel, the one that was asked for last at the end. */
  readonly #kept = new Map<string, Kept>()
  #bytes = 0
  #walks = 0
  readonly #waiting: (() => void)[] = []
  #timer: NodeJS.Timeout | undefined

  constructor(log: Log, { bytes = STATES_BYTES, signal }: StatesOptions = {}) {
    this.#log = log
    this.#limit = bytes
    this.#signal = signal
  }

  /**
   * The newest place at which the state of a channel can be told; all that is in the log now is before it.
   * @throws no-channel, too-large, too-many, data-loss, unavailable
   */
  async open(channel: string): Promise<StateAt> {
    let info = await this.#log.info(channel)
    for (;;) {
      const kept = this.#of(channel)
      if (kept.failure) throw kept.failure
      const { epoch } = kept
      const isOther = epoch !== undefined && !sameHistory(epoch, info.epoch)
      if (epoch !== undefined && !isOther && kept.after >= info.head) return this.#tell(kept, epoch)
      kept.wanted = Math.max(kept.wanted, info.head)
      kept.walk ??= this.#walk(channel, kept).finally(() => {
        kept.walk = undefined
        kept.wanted = 0
      })
      await kept.walk
      // Deleted and made anew meanwhile, before or after the walk.
      if (kept.epoch === undefined || !sameHistory(kept.epoch, info.epoch)) info = await this.#log.info(channel)
    }
  }

  /**
   * The next page of a state that `open` told: events with seq > after, as they were at that seq, and what is trimmed by
   * now left out.
   * @throws no-channel, epoch-changed; gap when that state is no longer kept
   */
  async page(channel: string, place: StateAt, after: number, limits: ReadLimits, prefix = ''): Promise<Page> {
    const info = await this.#log.info(channel)
    checkState(info, place)
    const kept = this.#kept.get(channel)
    const { at } = place
    if (!kept?.has(place))
      throw new TidemarkError('gap', `The state of ${channel} at ${at} is no longer kept`, { ...factsOf(info), at })
    this.#of(channel)
    const { head, trimmed } = info
    const beginning = Buffer.from(prefix).toString('latin1')
    const portion = kept.versions.read(at, Math.max(after, Math.min(trimmed, at)), limits, beginning)
    const blocks = after < at ? blocksOf(channel, after, portion) : []
    const last = Math.max(after, portion.last)
    return new Page({ channel, epoch: kept.places.get(at)!, after, last, head, trimmed, at, blocks })
  }

  /** Somebody asks for it. */
  #of(channel: string): Kept {
    const kept = this.#kept.get(channel) ?? new Kept()
    this.#kept.delete(channel)
    this.#kept.set(channel, kept)
    if (!kept.failure) kept.askedAt = Date.now()
    this.#timer ??= setTimeout(() => this.#look(), HELD_MS).unref()
    return kept
  }

  #tell(kept: Kept, epoch: string): StateAt {
    const { after: at, places, versions } = kept
    places.set(at, epoch)
    for (const [oldest] of places) {
      if (places.size <= PLACES_MAX && oldest >= versions.floor) break
      places.delete(oldest)
    }
    return { epoch, at }
  }

  /** Frees what was kept of a channel: it is gone, or not what it was. */
  forget(channel: string): void {
    const kept = this.#kept.get(channel)
    if (!kept) return
    this.#kept.delete(channel)
    this.#bytes -= kept.versions.bytes
    kept.clear()
  }

  #look(): void {
    this.#timer = undefined
    const since = Date.now() - IDLE_MS
    for (const [channel, { askedAt, walk }] of [...this.#kept]) if (!walk && askedAt <= since) this.forget(channel)
    if (this.#kept.size > 0) this.#timer = setTimeout(() => this.#look(), HELD_MS).unref()
  }

  // ── The walk ───────────────────────────────────────────────────────────────────────────────────────────────────

  /** Goes on from where it was, until everything is in it that somebody wants. */
  async #walk(channel: string, kept: Kept): Promise<void> {
    let leave: (() => void) | undefined
    try {
      if (!kept.isBegun && (await this.#hasRows(channel, kept))) {
        leave = await this.#enter()
        await this.#begin(channel, kept)
      }
      while (!(await this.#step(channel, kept)))
        if (leave) await nextTurn()
        else leave = await this.#enter()
    } finally {
      leave?.()
    }
  }

  async #hasRows(channel: string, kept: Kept): Promise<boolean> {
    try {
      kept.isBegun = (await this.#log.stateRows?.place(channel)) === undefined
    } catch (error) {
      if (!hasCode(error, 'data-loss')) throw error
      kept.isBegun = true
    }
    return !kept.isBegun
  }

  /** Takes what its rows hold, if it has some that are whole. @throws as #makeRoom; unavailable */
  async #begin(channel: string, kept: Kept): Promise<void> {
    try {
      const place = await this.#log.stateRows!.read(channel, (rows) => {
        if (this.#kept.get(channel) !== kept) return false
        const before = kept.versions.bytes
        kept.versions.begin(rows)
        this.#bytes += kept.versions.bytes - before
        this.#makeRoom(channel, kept)
        return true
      })
      kept.isBegun = true
      if (!place) return
      kept.versions.begun()
      kept.epoch = place.epoch
      kept.after = place.at
    } catch (error) {
      if (this.#kept.get(channel) === kept) this.#bytes -= kept.versions.bytes
      kept.clear()
      // They are made anew in the background; the log has all of it.
      if (!hasCode(error, 'data-loss')) throw error
      kept.isBegun = true
    }
  }

  /** One page; true when that is all, or when it was forgotten meanwhile. */
  async #step(channel: string, kept: Kept): Promise<boolean> {
    if (this.#kept.get(channel) !== kept) return true
    if (this.#signal?.aborted) throw new TidemarkError('unavailable', 'The server is stopping')
    const { epoch, after } = kept
    const before = kept.versions.bytes
    try {
      const place = epoch === undefined ? { after } : { epoch, after }
      const page = this.#log.recent(channel, place, PAGE) ?? (await this.#log.read(channel, place, PAGE))
      kept.versions.trim(page.trimmed)
      for (const block of page.blocks) kept.versions.take(block, page.after, page.last)
      kept.epoch = page.epoch
      kept.after = page.last
    } catch (error) {
      // All that was kept is trimmed, and nothing that is left can be about it.
      if (hasCode(error, 'gap')) {
        const { trimmed } = (error as TidemarkError).details as { trimmed: number }
        kept.versions.trim(trimmed)
        kept.after = trimmed
      } else if (hasCode(error, 'epoch-changed') || hasCode(error, 'ahead-of-head')) kept.clear()
      else throw error
    } finally {
      // Unless it was forgotten while it was read.
      if (this.#kept.get(channel) === kept) this.#bytes += kept.versions.bytes - before
    }
    this.#makeRoom(channel, kept)
    return kept.epoch !== undefined && kept.after >= kept.wanted
  }

  /** A walk waits for its turn; gives how to end it. */
  async #enter(): Promise<() => void> {
    if (this.#walks === WALKS_AT_ONCE) await new Promise<void>((resolve) => this.#waiting.push(resolve))
    else this.#walks++
    return () => {
      const next = this.#waiting.shift()
      if (next) next()
      else this.#walks--
    }
  }

  /** @throws too-large, too-many */
  #makeRoom(channel: string, mine: Kept): void {
    if (this.#bytes <= this.#limit) return
    const since = Date.now() - HELD_MS
    for (const [other, kept] of [...this.#kept])
      if (this.#bytes > this.#limit && kept !== mine && !kept.walk && kept.askedAt < since) this.forget(other)
    if (this.#bytes <= this.#limit) return
    const { bytes } = mine.versions
    mine.versions.settle()
    this.#bytes -= bytes - mine.versions.bytes
    if (this.#bytes <= this.#limit) return
    const isTooLarge = mine.versions.bytes > this.#limit
    this.#bytes -= mine.versions.bytes
    mine.clear()
    if (!isTooLarge) {
      this.#kept.delete(channel)
      throw new TidemarkError('too-many', 'There is no room for another state', { retryAfter: HELD_MS })
    }
    const limit = this.#limit
    mine.failure = new TidemarkError('too-large', `The state of ${channel} takes more than ${limit} bytes`, { limit })
    throw mine.failure
  }
}

const factsOf = ({ channel, epoch, head, trimmed }: ChannelInfo) => ({ channel, epoch, head, trimmed })

/** @throws epoch-changed */
export function checkState(info: ChannelInfo, { epoch }: Pick<StateAt, 'epoch'>): void {
  if (sameHistory(info.epoch, epoch)) return
  throw new TidemarkError('epoch-changed', `The epoch of ${info.channel} is ${info.epoch}, not ${epoch}`, factsOf(info))
}
