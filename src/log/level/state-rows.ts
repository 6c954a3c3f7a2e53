/**
 * The rows of states in LevelDB, as state-rows.ts of the port says.
 *
 * Rows and their place change in one write, at the writer's turn and only from the place that was known before it. What
 * was read of them before that turn is still so then: whoever else changes them makes the place another one. So does an
 * erased event, whose blocks may have been read in the moment before: it leaves the place on disk as it is where it has
 * no row, so what is told of a place also counts the erasings that memory has followed. LevelDB
 * passes over rows that it can not read, and may find an older one in their stead: that the rows are all there is told
 * by their number, and that each is the newest by the sum of their crcs.
 */
import { hasCode, TidemarkError, wholeOr } from '../../errors.ts'
import type { StateInForce } from '../../retention.ts'
import { CHANGE_BYTES } from '../entries.ts'
import type { Settings } from '../log.ts'
import type { StateChange, StatePlace, StateRow, StateRows } from '../state-rows.ts'
import { isCorruption, orUnavailable } from './cause.ts'
import { type Channels, noChannel } from './channels.ts'
import type { Db } from './db.ts'
import type { Group } from './group.ts'
import {
  channelOfKey,
  clearingKey,
  crcOfRow,
  decodeName,
  decodePlace,
  decodeState,
  encodeState,
  keyOfStateKey,
  nameOfKey,
  type PlaceRow,
  placeKey,
  rangeOf,
  stateKey,
  stateRange,
} from './keys.ts'
import type { Lists } from './lists.ts'
import { reclaimBetween } from './reclaiming.ts'
import { counted } from './state-drafts.ts'
import type { Notice, Store } from './store.ts'
import type { Sweeper } from './sweep.ts'
import type { Writer } from './writer.ts'

type Moment = ReturnType<Db['snapshot']>

/** Channels whose rows were begun that are told at once, at most. */
const BEGUN_MAX = 1_000
/** Rows that are read at once, at most. */
const ROWS_AT_ONCE = 500
/** And so many bytes of them, but for the last one. */
const PIECE_BYTES = 256 * 1024

/** What the rows of a state need of their engine. */
export interface StateRowsParts {
  readonly store: Store
  readonly channels: Channels
  readonly writer: Writer
  readonly lists: Lists
  readonly sweeper: Sweeper
  readonly notice: Notice
  /** Resolves when the store can be read. */
  readonly opened: () => Promise<void>
}

export class LevelStateRows implements StateRows {
  readonly #parts: StateRowsParts
  /** Reads under way, by the channel's number: each sees what was there when it began. */
  readonly #reading = new Map<Promise<unknown>, number>()
  /** Writes that erased events or voided rows, by the channel's number, since the store was opened. */
  readonly #voids = new Map<number, number>()
  readonly #begun = new Set<string>()
  /** How often the store was opened again: what a write that failed has erased is not known. */
  #openings = 0

  constructor(parts: StateRowsParts) {
    this.#parts = parts
  }

  async *channels(): AsyncIterable<string> {
    const { lists, opened } = this.#parts
    await opened()
    const damaged = new Set<number>()
    for await (const [key, row] of lists.rows(rangeOf('p'))) {
      const place = wholeOr(undefined, () => decodePlace(key, row))
      if (place) yield place.channel
      else damaged.add(channelOfKey(key))
    }
    if (damaged.size === 0) return
    for await (const [key, row] of lists.rows(rangeOf('n')))
      if (damaged.has(wholeOr(undefined, () => decodeName(key, row))?.channel ?? 0)) yield nameOfKey(key)
  }

  begun(): readonly string[] {
    const begun = [...this.#begun]
    this.#begun.clear()
    return begun
  }

  asked(name: string, settings: Settings): StateInForce | undefined {
    return this.#parts.channels.stateOf(name, settings)
  }

  async *unsettled(): AsyncIterable<string> {
    const { channels, lists, store } = this.#parts
    const isAsked = (name: string, settings: Settings): boolean => this.asked(name, settings)?.state === true
    // A damaged one costs no other its rows.
    const listed = (name: string) => wholeOr(undefined, () => channels.listed(name))
    for await (const name of this.channels()) {
      const channel = listed(name)
      if (channel && !isAsked(name, channel.settings)) yield name
    }
    // What settings ask for was begun with their write.
    if (!channels.hasStateRules) return
    for await (const { channel: name, settings } of lists.channels('')) {
      const number = isAsked(name, settings) ? listed(name)?.number : undefined
      if (number === undefined) continue
      const has = [placeKey, clearingKey].some((keyOf) => store.db.getSync(keyOf(number)) !== undefined)
      if (!has) yield name
    }
  }

  settle(name: string): Promise<void> {
    return this.#change((group) => group.states.configured(group.find(name) ?? noChannel(name)))
  }

  async place(name: string): Promise<StatePlace | undefined> {
    await this.#parts.opened()
    return this.#orVoid(name, async () => {
      const { number } = this.#parts.channels.need(name)
      const found = this.#placeOf(number)
      return found && this.#told(found, number)
    })
  }

  /** Memory has followed this write. */
  written({ voided, begun }: Pick<Group['states'], 'voided' | 'begun'>): void {
    for (const number of voided) this.#voids.set(number, (this.#voids.get(number) ?? 0) + 1)
    for (const name of begun) if (this.#begun.size < BEGUN_MAX) this.#begun.add(name)
  }

  /** The store was opened again. */
  reopened(): void {
    this.#openings++
    this.#voids.clear()
  }

  #told({ set, epoch, at, trimmed, rows }: PlaceRow, number: number): StatePlace {
    return { set: `${set}.${this.#openings}.${this.#voids.get(number) ?? 0}`, epoch, at, trimmed, rows }
  }

  /** As it is on disk, or was at a moment. @throws data-loss */
  #placeOf(number: number, snapshot?: Moment): PlaceRow | undefined {
    const key = placeKey(number)
    const row = this.#parts.store.db.getSync(key, { snapshot })
    return row === undefined ? undefined : decodePlace(key, row)
  }

  async read(
    name: string,
    visit: (rows: readonly StateRow[]) => boolean | Promise<boolean>,
  ): Promise<StatePlace | undefined> {
    await this.#parts.opened()
    const { number } = this.#parts.channels.need(name)
    const reading = this.#orVoid(name, () => this.#read(number, visit))
    // Who asked for it is told how it ended.
    const over: Promise<unknown> = reading.then(
      () => this.#reading.delete(over),
      () => this.#reading.delete(over),
    )
    this.#reading.set(over, number)
    return reading
  }

  async #read(
    number: number,
    visit: (rows: readonly StateRow[]) => boolean | Promise<boolean>,
  ): Promise<StatePlace | undefined> {
    const { db } = this.#parts.store
    // Rows and place of one moment.
    const snapshot = db.snapshot()
    const iterator = db.iterator({ ...stateRange(number), highWaterMarkBytes: PIECE_BYTES, snapshot })
    let [count, sum] = [0, 0]
    try {
      const place = this.#placeOf(number, snapshot)
      if (!place) return undefined
      const told = this.#told(place, number)
      for (;;) {
        const rows = await iterator.nextv(ROWS_AT_ONCE)
        if (rows.length === 0) break
        const read = rows.map(([key, row]) => ({ key: keyOfStateKey(key), ...decodeState(key, row) }))
        for (const [, row] of rows) sum ^= crcOfRow(row)
        count += rows.length
        if (!(await visit(read))) return told
      }
      if (count === place.rows && sum >>> 0 === place.sum) return told
      const why = `There are ${count} rows of the state, not the ${place.rows} that were written`
      throw new TidemarkError('data-loss', why)
    } finally {
      await Promise.all([iterator.close(), snapshot.close()])
    }
  }

  async keep(name: string, from: StatePlace, change: StateChange): Promise<StatePlace | undefined> {
    const { channels, opened, store, writer } = this.#parts
    await opened()
    const { number } = channels.need(name)
    return this.#orVoid(name, async () => {
      const known = this.#placeOf(number)
      if (!known || this.#told(known, number).set !== from.set || known.at !== from.at) return undefined
      const { epoch, at, trimmed, rows } = change
      const keys = [...rows.keys()].map((key) => stateKey(number, key))
      const before = await oldRows(store.db, keys)
      const after = [...rows.values()].map((row, i) => row && encodeState(keys[i]!, row))
      const next = { ...known, epoch, at, trimmed, ...counted(known, before, after) }
      const bytes = after.reduce((sum, row, i) => sum + keys[i]!.length + (row?.length ?? 0), CHANGE_BYTES)
      return writer.submitEvents(bytes, (group) => {
        const isKnown = group.find(name)?.number === number && isSame(group.states.place(number), known)
        const isVoid = group.states.voided.has(number) || this.#told(known, number).set !== from.set
        if (!isKnown || isVoid) return () => undefined
        const changed = keys.map((key, i) => [key, after[i]] as const)
        group.states.change(
          number,
          next,
          changed.filter(([, row], i) => row ?? before[i]),
        )
        return () => this.#told(next, number)
      })
    })
  }

  drop(name: string): Promise<void> {
    return this.#change((group) => group.states.drop(group.find(name) ?? noChannel(name)))
  }

  /** Begins or voids rows at the writer's turn. */
  #change(change: (group: Group) => void): Promise<void> {
    return this.#parts.writer.submit(CHANGE_BYTES, (group: Group) => {
      change(group)
      return () => {}
    })
  }

  async reclaim(name: string): Promise<void> {
    const { channels, opened, store, sweeper, writer } = this.#parts
    await opened()
    const { number } = channels.need(name)
    await sweeper.clearState(number, name)
    const { gte, lte } = stateRange(number)
    await Promise.all([...this.#reading].filter(([, of]) => of === number).map(([over]) => over))
    // Also where there is no row by now: of few that were once, LevelDB tells no size.
    await reclaimBetween(store, writer, [gte, lte]).catch(orUnavailable)
  }

  /** What can not be believed counts no more: it is made anew. */
  async #orVoid<T>(channel: string, work: () => Promise<T>): Promise<T> {
    try {
      return await work()
    } catch (error) {
      if (!hasCode(error, 'data-loss') && !isCorruption(error)) return orUnavailable(error)
      const why = (error as Error).message
      this.#parts.notice('error', 'Rows of a state are damaged; they are made anew', { channel, why })
      await this.drop(channel)
      throw hasCode(error, 'data-loss') ? error : new TidemarkError('data-loss', why, { channel }, { cause: error })
    }
  }
}

const isSame = (a: PlaceRow | undefined, b: PlaceRow): boolean =>
  a !== undefined && a.set === b.set && a.at === b.at && a.rows === b.rows && a.sum === b.sum

/** Rows as they stand, each believed by its crc. @throws data-loss */
async function oldRows(db: Db, keys: readonly Uint8Array[]): Promise<readonly (Uint8Array | undefined)[]> {
  const rows = await db.getMany([...keys])
  for (const [i, row] of rows.entries()) if (row) decodeState(keys[i]!, row)
  return rows
}
