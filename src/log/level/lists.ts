/**
 * Channels and cursors, listed: their rows are read in pieces with no iterator held open between them, so that a slow
 * caller pins nothing and appends go on. A damaged row is left out and noticed, and costs the others nothing.
 */
import { hasCode } from '../../errors.ts'
import { lagOf, Worst } from '../lag.ts'
import type { ChannelInfo, Cursor, CursorName, CursorsOf, Lagging } from '../log.ts'
import type { Channels } from './channels.ts'
import {
  type CursorRow,
  channelOfClientKey,
  channelOfKey,
  clientOfCursorKey,
  clientRange,
  clientsRange,
  cursorKey,
  cursorRange,
  decodeCursor,
  decodeHead,
  decodeName,
  type HeadRow,
  headKey,
  nameKey,
  nameOfKey,
  nameRange,
  rangeOf,
} from './keys.ts'
import type { Notice, Store } from './store.ts'

/** Rows of a listing that are read at once: as many more take no less time, and hold up appends for longer. */
const LIST_ROWS = 100
/** Keys that are counted at once. */
const COUNTED_KEYS = 1_000

type Row = readonly [key: Uint8Array, row: Uint8Array]

/** A cursor before its channel has a name. */
interface Behind {
  readonly lag: number
  readonly channel: number
  readonly client: string
  readonly cursor: CursorRow
  readonly head: HeadRow
}

export class Lists {
  readonly #store: Store
  readonly #channels: Channels
  readonly #notice: Notice
  readonly #opened: () => Promise<void>

  /** @param opened resolves when the store can be read */
  constructor(store: Store, channels: Channels, notice: Notice, opened: () => Promise<void>) {
    this.#store = store
    this.#channels = channels
    this.#notice = notice
    this.#opened = opened
  }

  async *channels(prefix: string, after?: string, onDamaged?: (channel: string) => void): AsyncIterable<ChannelInfo> {
    await this.#opened()
    const { gte, lte } = nameRange(prefix)
    const start = after !== undefined && Buffer.compare(nameKey(after), gte) >= 0 ? { gt: nameKey(after) } : { gte }
    for await (const [key] of this.rows({ ...start, lte })) {
      const name = nameOfKey(key)
      const channel = this.#whole(
        () => this.#channels.listed(name),
        () => onDamaged?.(name),
      )
      if (channel) yield this.#channels.info(channel)
    }
  }

  async *cursors(of: CursorsOf, onDamaged?: (cursor: CursorName) => void): AsyncIterable<Cursor> {
    await this.#opened()
    if ('channel' in of) {
      const { number } = this.#channels.need(of.channel)
      for await (const [key, row] of this.rows(cursorRange(number))) {
        const name = { client: clientOfCursorKey(key), channel: of.channel }
        const cursor = this.#whole(
          () => decodeCursor(key, row),
          () => onDamaged?.(name),
        )
        if (cursor) yield { ...name, ...cursor }
      }
      return
    }
    for await (const [key] of this.rows(clientRange(of.client))) {
      await this.#opened()
      const name = channelOfClientKey(key)
      const cursor = this.#whole(
        () => {
          const channel = this.#channels.get(name)
          // A deleted channel's cursors are cleared a little later than its name.
          return channel && this.cursor(of.client, channel)
        },
        () => onDamaged?.({ client: of.client, channel: name }),
      )
      if (cursor) yield cursor
    }
  }

  /** One cursor. @throws data-loss when its row is damaged */
  cursor(client: string, { name: channel, number }: { name: string; number: number }): Cursor | undefined {
    const key = cursorKey(number, client)
    const row = this.#store.db.getSync(key)
    return row && { client, channel, ...decodeCursor(key, row) }
  }

  /** One walk over the rows of cursors with the heads of their channels, then one over names, for those that are told. */
  async lagging(most: number, channel?: string): Promise<Lagging> {
    await this.#opened()
    const range = channel === undefined ? rangeOf('c') : cursorRange(this.#channels.need(channel).number)
    const worst = new Worst<Behind>(most, (a, b) => b.lag - a.lag || a.channel - b.channel)
    let found = 0
    for await (const rows of this.#pieces(range)) {
      const heads = await this.#headsOf(rows)
      for (const [key, row] of rows) {
        const channel = channelOfKey(key)
        const head = heads.get(channel)
        const cursor = head && this.#whole(() => decodeCursor(key, row))
        // A deleted channel's cursors are cleared a little later than its head.
        if (!head || !cursor) continue
        found++
        const lag = lagOf(cursor, { epoch: this.#channels.epoch(head), head: head.head, trimmed: head.trimmed })
        worst.add({ lag, channel, client: clientOfCursorKey(key), cursor, head })
      }
    }
    const behind = worst.sorted()
    const infos = await this.#infosOf(behind)
    const cursors = behind.flatMap(({ channel: number, client, cursor }) => {
      const info = infos.get(number)
      return info ? [{ cursor: { client, channel: info.channel, ...cursor }, info }] : []
    })
    return { cursors, found }
  }

  async count(what: 'channels' | 'cursors', beginning: string, most: number): Promise<number> {
    const range = what === 'channels' ? nameRange(beginning) : clientsRange(beginning)
    let found = 0
    for (let start: { gt?: Uint8Array; gte?: Uint8Array } = { gte: range.gte }; found < most; ) {
      await this.#opened()
      const limit = Math.min(COUNTED_KEYS, most - found)
      const keys = await this.#store.db.keys({ ...start, lte: range.lte, limit }).all()
      found += keys.length
      if (keys.length < limit) break
      start = { gt: keys.at(-1)! }
    }
    return found
  }

  async #headsOf(rows: readonly Row[]): Promise<Map<number, HeadRow>> {
    const keys = [...new Set(rows.map(([key]) => channelOfKey(key)))].map(headKey)
    await this.#opened()
    const values = await this.#store.db.getMany(keys)
    const heads = new Map<number, HeadRow>()
    for (const [i, key] of keys.entries()) {
      const row = values[i]
      const head = row && this.#whole(() => decodeHead(key, row))
      if (head) heads.set(channelOfKey(key), head)
    }
    return heads
  }

  /** The channels of these, by number: as they were when their lag was told. */
  async #infosOf(behind: readonly Behind[]): Promise<Map<number, ChannelInfo>> {
    const sought = new Map(behind.map(({ channel, head }) => [channel, head]))
    const infos = new Map<number, ChannelInfo>()
    if (sought.size === 0) return infos
    for await (const [key, row] of this.rows(rangeOf('n'))) {
      const named = this.#whole(() => decodeName(key, row))
      const head = named && sought.get(named.channel)
      if (!head) continue
      infos.set(named.channel, this.#channels.info({ name: nameOfKey(key), number: named.channel, ...named, ...head }))
      if (infos.size === sought.size) break
    }
    return infos
  }

  /** Rows of a range, one after the other. */
  async *rows(range: { gt?: Uint8Array; gte?: Uint8Array; lte: Uint8Array }): AsyncIterable<Row> {
    for await (const rows of this.#pieces(range)) yield* rows
  }

  async *#pieces(range: { gt?: Uint8Array; gte?: Uint8Array; lte: Uint8Array }): AsyncIterable<readonly Row[]> {
    for (let start: typeof range = range; ; ) {
      await this.#opened()
      const rows = await this.#store.db.iterator({ ...start, limit: LIST_ROWS }).all()
      yield rows
      const end = rows.at(-1)
      if (!end || rows.length < LIST_ROWS) return
      start = { gt: end[0], lte: range.lte }
    }
  }

  /** What is read of one row; a damaged one is left out. */
  #whole<T>(read: () => T, onDamaged?: () => void): T | undefined {
    try {
      return read()
    } catch (error) {
      if (!hasCode(error, 'data-loss')) throw error
      this.#notice('error', 'A listing leaves out a damaged row', { why: (error as Error).message })
      onDamaged?.()
      return undefined
    }
  }
}
