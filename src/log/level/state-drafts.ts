/** Places of state rows in a group: as the group leaves them, and what of the rows it voids. */
import type { Settings } from '../log.ts'
import type { Channels } from './channels.ts'
import { clearingKey, decodePlace, encodeClearing, encodePlace, type PlaceRow, placeKey } from './keys.ts'
import { newLife, type Store } from './store.ts'

/** What is asked of a channel here. */
export interface Followed {
  readonly name: string
  readonly number: number
  readonly epoch: string
  readonly trimmed: number
  readonly settings: Settings
}

interface Rows {
  put(key: Uint8Array, value: Uint8Array): void
  del(key: Uint8Array): void
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
  /** The channels' names where rows are to be cleared; undefined where they are by now. */
  readonly #clearing = new Map<number, string | undefined>()
  /** Whose rows this group voids, also where there are none that count. */
  readonly #voided = new Set<number>()

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

  setPlace(number: number, row: PlaceRow): void {
    this.#places.set(number, row)
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
  }

  /** The rows count no more. */
  drop({ name, number }: Pick<Followed, 'name' | 'number'>): void {
    this.#voided.add(number)
    if (!this.#has(number)) return
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
  write(rows: Rows, gone: ReadonlySet<number>): void {
    for (const [number, row] of this.#places) {
      const key = placeKey(number)
      if (row && !gone.has(number)) rows.put(key, encodePlace(key, row))
      else rows.del(key)
    }
    for (const [number, channel] of this.#clearing) {
      const key = clearingKey(number)
      if (channel !== undefined && !gone.has(number)) rows.put(key, encodeClearing(key, { channel }))
      else rows.del(key)
    }
  }

  /** Also of a place that can not be read: what it stands for is to go. */
  #has(number: number): boolean {
    return this.#places.has(number)
      ? this.#places.get(number) !== undefined
      : this.#store.db.getSync(placeKey(number)) !== undefined
  }
}
