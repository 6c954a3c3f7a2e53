/**
 * What is known of each channel, and who waits for it to change.
 *
 * A Channel is a value of one moment, replaced whole when a write is on disk; whoever holds one sees epoch, trimmed and
 * head that belong together. The cache may forget any of them: memory is spent on active channels only.
 */
import { LRUCache } from 'lru-cache'
import { sameHistory } from '../../epoch.ts'
import { hasCode, TidemarkError } from '../../errors.ts'
import { type RetentionRule, type StateInForce, stateOf } from '../../retention.ts'
import type { Appended, ChannelInfo, Place, Settings } from '../log.ts'
import { blockRange, decodeHead, decodeName, epochOf, type HeadRow, headKey, nameKey } from './keys.ts'
import type { Store } from './store.ts'

export interface Channel extends HeadRow {
  readonly name: string
  readonly number: number
  readonly settings: Settings
}

/** Channels kept in memory beyond those in use; about 300 bytes each. */
const CACHED_CHANNELS = 20_000

const NOTHING = { channel: undefined, epoch: '' }

export class Channels {
  readonly #store: Store
  /** The channel that was judged last, and its epoch. */
  #judged: { readonly channel: Channel | undefined; readonly epoch: string } = NOTHING
  readonly #cache = new LRUCache<string, Channel>({ max: CACHED_CHANNELS })

  readonly #rules: readonly RetentionRule[]

  /** @param rules of which channels rows of states are asked for */
  constructor(store: Store, rules: readonly RetentionRule[] = []) {
    this.#store = store
    this.#rules = rules
  }

  /** Whether rows of its state are asked for, and by whom. */
  stateOf(name: string, settings: Settings): StateInForce | undefined {
    return stateOf(this.#rules, name, settings)
  }

  /** Patterns ask for rows. */
  get hasStateRules(): boolean {
    return this.#rules.some(({ state }) => state === true)
  }

  /** The channel as it is on disk; undefined when there is none. Two small reads when it is not cached. */
  get(name: string): Channel | undefined {
    const cached = this.#cache.get(name)
    if (cached) return cached
    const channel = loadChannel(this.#store, name)
    if (channel) this.#cache.set(name, channel)
    return channel
  }

  /** As `get`, for a listing: it drives nothing out of memory. */
  listed(name: string): Channel | undefined {
    return this.#cache.size < CACHED_CHANNELS
      ? this.get(name)
      : (this.#cache.peek(name) ?? loadChannel(this.#store, name))
  }

  /** The channel, if it is in memory. */
  cached(name: string): Channel | undefined {
    return this.#cache.get(name)
  }

  /** @throws no-channel */
  need(name: string): Channel {
    return this.get(name) ?? noChannel(name)
  }

  /** About what the blocks of a channel take in tables, bytes. @throws no-channel */
  bytes(name: string): Promise<number> {
    const { gte, lte } = blockRange(this.need(name).number, 0)
    return this.#store.db.approximateSize(gte, lte)
  }

  set(channel: Channel): void {
    this.#cache.set(channel.name, channel)
  }

  forget(name: string): void {
    this.#cache.delete(name)
  }

  clear(): void {
    this.#cache.clear()
    this.#judged = NOTHING
  }

  epoch(channel: Pick<HeadRow, 'life' | 'run'>): string {
    return epochOf(this.#store.life, channel)
  }

  /** As `epoch`: the readers of one channel come one after the other. */
  #epochOf(channel: Channel): string {
    if (channel !== this.#judged.channel) this.#judged = { channel, epoch: this.epoch(channel) }
    return this.#judged.epoch
  }

  info(channel: Channel): ChannelInfo {
    const { name, head, trimmed, time, settings } = channel
    return { channel: name, epoch: this.epoch(channel), head, trimmed, time, settings }
  }

  /** Answers of appends with the heads of now. */
  withHeads(answers: readonly Omit<Appended, 'head'>[]): readonly Appended[] {
    return answers.map((answer) => ({ ...answer, head: Math.max(this.get(answer.channel)?.head ?? 0, answer.last) }))
  }

  /**
   * The channel's epoch, if a reader may go on from this place.
   * @throws epoch-changed, ahead-of-head, gap
   */
  judge(channel: Channel, from: Place): string {
    const epoch = this.#epochOf(channel)
    const { name, head, trimmed } = channel
    const facts = { channel: name, epoch, trimmed, head }
    if (from.epoch !== undefined && this.isOver(channel, epoch, { epoch: from.epoch, seq: from.after }))
      throw new TidemarkError('epoch-changed', `The epoch of ${name} is ${epoch}, not ${from.epoch}`, facts)
    if (from.after > head)
      throw new TidemarkError('ahead-of-head', `The head of ${name} is ${head}, before ${from.after}`, facts)
    if (from.after < trimmed)
      throw new TidemarkError('gap', `${rangeText(from.after, trimmed)} of ${name}: trimmed`, {
        ...facts,
        after: from.after,
      })
    return epoch
  }

  /** The epoch of a channel that is about to be written. @throws epoch-changed when another history is meant */
  checkEpoch(channel: HeadRow & { readonly name: string }, meant: string | undefined): string {
    const { name, head, trimmed } = channel
    const epoch = this.epoch(channel)
    if (meant === undefined || sameHistory(meant, epoch)) return epoch
    throw new TidemarkError('epoch-changed', `The epoch of ${name} is ${epoch}, not ${meant}`, {
      ...{ channel: name, epoch, trimmed, head },
    })
  }

  /** True when a read from this place would give something else than an empty page. */
  hasChanged(name: string, from: Place): boolean {
    const channel = this.get(name)
    if (!channel) return from.epoch !== undefined
    if (from.epoch !== undefined && this.isOver(channel, this.epoch(channel), { epoch: from.epoch, seq: from.after }))
      return true
    return channel.head !== from.after || channel.trimmed > from.after
  }

  /** A place of another history, or of an older run of this one whose reader may have missed a tombstone that is gone. */
  isOver({ cleaned }: HeadRow, epoch: string, of: { readonly epoch: string; readonly seq: number }): boolean {
    if (of.epoch === epoch) return false
    if (!sameHistory(of.epoch, epoch)) return true
    return of.seq > 0 && of.seq < cleaned
  }
}

/** The events after a seq, up to another one, in words. */
export const rangeText = (after: number, last: number): string =>
  last === after + 1 ? `Event ${last}` : `Events ${after + 1}–${last}`

export function noChannel(name: string): never {
  throw new TidemarkError('no-channel', `There is no channel ${name}`, { channel: name })
}

function loadChannel(store: Store, name: string): Channel | undefined {
  const key = nameKey(name)
  const row = store.db.getSync(key)
  if (row === undefined) return undefined
  try {
    const { channel: number, settings } = decodeName(key, row)
    const headRow = store.db.getSync(headKey(number))
    if (headRow === undefined) throw new TidemarkError('data-loss', 'The head row is missing', { row: 'head' })
    return { name, number, settings, ...decodeHead(headKey(number), headRow) }
  } catch (cause) {
    if (!hasCode(cause, 'data-loss')) throw cause
    const { message, details } = cause as TidemarkError
    throw new TidemarkError('data-loss', `${message} (channel ${name})`, { ...details, channel: name }, { cause })
  }
}
