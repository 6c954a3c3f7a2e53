/** Rows of states and their places in a group: as the group leaves them, and what of them it voids. */
import { sameHistory } from '../../epoch.ts'
import { hasCode } from '../../errors.ts'
import type { Settings } from '../log.ts'
import type { ErasedEvents } from '../state-rows.ts'
import type { Channels } from './channels.ts'
import {
  clearingKey,
  crcOfRow,
  decodePlace,
  decodeState,
  encodeClearing,
  encodePlace,
  type PlaceRow,
  placeKey,
  stateKey,
} from './keys.ts'
import { newLife, type Store } from './store.ts'

/** What is asked of a channel here. */
export interface Followed {
  readonly name: string
  readonly number: number
  readonly epoch: string
  readonly trimmed: number
  readonly settings: Settings
}

type Row = Uint8Array | undefined

interface Batch {
  put(key: Uint8Array, value: Uint8Array): void
  del(key: Uint8Array): void
}

/** Number and sum of rows when some of them are others. @param before in whose place `after` stand, none where there is none */
export function counted(
  { rows, sum }: Pick<PlaceRow, 'rows' | 'sum'>,
  before: readonly Row[],
  after: readonly Row[],
): Pick<PlaceRow, 'rows' | 'sum'> {
  let [count, all] = [rows, sum]
  for (const [side, by] of [
    [before, -1],
    [after, 1],
  ] as const)
    for (const row of side) {
      if (!row) continue
      count += by
      all ^= crcOfRow(row)
    }
  return { rows: count, sum: all >>> 0 }
}

/** The place of rows of which there are none yet. */
export const beginning = ({ name, epoch, trimmed }: Omit<Followed, 'number' | 'settings'>): PlaceRow => ({
  ...{ channel: name, set: newLife(), epoch, at: trimmed, trimmed, rows: 0, sum: 0 },
})

export class StateDrafts {
  readonly #store: Store
  readonly #channels: Channels
  /** By the channel's number, as `#clearing`. */
  readonly #places = new Map<number, PlaceRow | undefined>()
  /** Rows as this group leaves them, by their keys, each byte a character. */
  readonly #rows = new Map<string, { readonly key: Uint8Array; readonly row: Row }>()
  /** The channels' names where rows are to be cleared; undefined where they are by now. */
  readonly #clearing = new Map<number, string | undefined>()
  /** Channels of which this group erases events, or voids the rows, also where there are none that count. */
  readonly #voided = new Set<number>()
  readonly #begun = new Set<string>()

  constructor(store: Store, channels: Channels) {
    this.#store = store
    this.#channels = channels
  }

  isAsked({ name, settings }: Pick<Followed, 'name' | 'settings'>): boolean {
    return this.#channels.stateOf(name, settings)?.state === true
  }

  /** Undefined when there are none, or none that count. */
  place(number: number): PlaceRow | undefined {
    if (this.#places.has(number)) return this.#places.get(number)
    const key = placeKey(number)
    const row = this.#store.db.getSync(key)
    return row === undefined ? undefined : decodePlace(key, row)
  }

  /** Rows and their place change together. @param rows by key; undefined where there is none any more */
  change(number: number, place: PlaceRow, rows: Iterable<readonly [key: Uint8Array, row: Row]>): void {
    this.#places.set(number, place)
    for (const [key, row] of rows) this.#rows.set(idOf(key), { key, row })
  }

  #row(key: Uint8Array): Row {
    const planned = this.#rows.get(idOf(key))
    return planned ? planned.row : this.#store.db.getSync(key)
  }

  /** What was read of these before may hold what this group erases. */
  get voided(): ReadonlySet<number> {
    return this.#voided
  }

  /** There are rows now that are to be cleared. */
  get isVoiding(): boolean {
    return [...this.#clearing.values()].some((channel) => channel !== undefined)
  }

  /** Events are left out for which no newer one stands. */
  erase(channel: Followed, erased: ErasedEvents): void {
    this.#voided.add(channel.number)
    try {
      if (erased === true || !this.#take(channel, erased)) this.drop(channel)
    } catch (error) {
      if (!hasCode(error, 'data-loss')) throw error
      this.drop(channel)
    }
  }

  /** Takes the row of an erased event out, or finds that there is none; false when that is not all there is to do. @throws data-loss */
  #take({ number, epoch }: Followed, { key, upTo, isAll }: Exclude<ErasedEvents, true>): boolean {
    const place = this.place(number)
    if (!place) return true
    // What they hold may be in no block of this history.
    if (!sameHistory(place.epoch, epoch)) return false
    const at = stateKey(number, key)
    const row = this.#row(at)
    if (!row) return true
    const newest = decodeState(at, row)
    // Appended since: it stays.
    if (newest.seq > upTo) return true
    // An older one may be gone from the log because this one came: compaction did not know of rows that were not so far.
    if (!isAll) return false
    this.change(number, { ...place, ...counted(place, [row], []) }, [[at, undefined]])
    return true
  }

  isClearing(number: number): boolean {
    if (this.#clearing.has(number)) return this.#clearing.get(number) !== undefined
    return this.#store.db.getSync(clearingKey(number)) !== undefined
  }

  /** The channel's settings, or the rules, are others: rows are begun, or go. */
  configured(channel: Followed): void {
    if (!this.isAsked(channel)) this.drop(channel)
    else if (!this.#has(channel.number) && !this.isClearing(channel.number)) this.begin(channel)
  }

  begin(channel: Followed): void {
    this.#places.set(channel.number, beginning(channel))
    this.#begun.add(channel.name)
  }

  /** Names of the channels whose rows this group begins. */
  get begun(): ReadonlySet<string> {
    return this.#begun
  }

  /** The rows count no more. */
  drop({ name, number }: Pick<Followed, 'name' | 'number'>): void {
    if (!this.#has(number)) return
    this.#voided.add(number)
    this.#places.set(number, undefined)
    this.#clearing.set(number, name)
  }

  /**
   * None that was to be cleared is left. Not in a write that voids them, too: while memory has not followed it, events
   * that it erases could be read and kept from the beginning that this makes.
   */
  cleared(number: number, channel: Followed | undefined): void {
    if (!this.isClearing(number) || this.#voided.has(number)) return
    this.#clearing.set(number, undefined)
    if (channel?.number === number && this.isAsked(channel)) this.begin(channel)
  }

  /** @param gone numbers of channels that are deleted */
  write(batch: Batch, gone: ReadonlySet<number>): void {
    for (const { key, row } of this.#rows.values())
      if (row) batch.put(key, row)
      else batch.del(key)
    for (const [number, row] of this.#places) {
      const key = placeKey(number)
      if (row && !gone.has(number)) batch.put(key, encodePlace(key, row))
      else batch.del(key)
    }
    for (const [number, channel] of this.#clearing) {
      const key = clearingKey(number)
      if (channel !== undefined && !gone.has(number)) batch.put(key, encodeClearing(key, { channel }))
      else batch.del(key)
    }
  }

  /** Also of a place that can not be read: what it stands for is to go. */
  #has(number: number): boolean {
    return this.#places.has(number)
      ? this.#places.get(number) !== undefined
      : this.#store.db.getSync(placeKey(number)) !== undefined
  }
}

const idOf = (key: Uint8Array): string => Buffer.from(key.buffer, key.byteOffset, key.length).toString('latin1')
