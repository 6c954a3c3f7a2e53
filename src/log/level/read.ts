/**
 * Pages from disk. LevelDB's own checksums are off and can't be switched on, and its iterators pass over damaged
 * blocks without a word, so every page is checked here before a byte of it leaves: the crc of each block, and that
 * neighbours touch.
 *
 * A reader that is behind takes page after page: the iterator of its last page stays open for a moment, and from the
 * second such page on it reads ahead while the page before is on its way out.
 */
import { crc32 } from 'node:zlib'
import { checkBlock, type Header } from '../../block.ts'
import { TidemarkError } from '../../errors.ts'
import { Page, type ReadLimits } from '../log.ts'
import { type Channel, rangeText } from './channels.ts'
import type { Db } from './db.ts'
import { blockRange, lastOfBlockKey } from './keys.ts'

const ROWS_AT_ONCE = 256
/** Read from LevelDB in one piece: enough for a turn of its thread, and little enough to stay in the processor's cache. */
const PIECE_BYTES = 256 * 1024
/** What an event of a page is taken for before any is read. Where a few are asked for, not many more are read than that. */
const EVENT_BYTES = 256
/** Most iterators that are kept for the next page of their reader. Each holds up to two pieces, each with up to a block more. */
const KEPT_MAX = 32
/**
 * An iterator is made anew after this, ms, however often it is gone on with: it holds on to LevelDB's files and tables in
 * memory as they were, and to every row that was removed since.
 */
const SCAN_MS = 2_000

type Row = readonly [key: Uint8Array, block: Uint8Array]
interface Iterator {
  nextv(size: number): Promise<readonly Row[]>
  close(): Promise<void>
}

/** Rows of one channel from a place on, as they were when it was made. */
class Scan {
  readonly db: Db
  readonly channel: number
  /** The channel's head then: it reads no further. */
  readonly upTo: number
  readonly #step: number
  readonly pieceBytes: number
  readonly #iterator: Iterator
  #rows: readonly Row[] = []
  #at = 0
  #coming: Promise<readonly Row[]> | undefined
  readonly #made = performance.now()
  /** It went on from one page to the next: what comes next is read before it is asked for. */
  goesOn = false
  /** Its view of the disk is not to be gone on with by anyone else. */
  isForgotten = false
  #over = (): void => {}
  /** Resolves when it holds on to nothing any more. */
  readonly closed = new Promise<void>((resolve) => {
    this.#over = resolve
  })

  constructor(db: Db, channel: Channel, after: number, limits: ReadLimits, step: number) {
    this.db = db
    this.channel = channel.number
    this.upTo = channel.head
    this.#step = step
    this.pieceBytes = pieceOf(limits)
    const range = blockRange(channel.number, after + 1, channel.head)
    this.#iterator = db.iterator({ ...range, highWaterMarkBytes: this.pieceBytes })
  }

  get isOld(): boolean {
    return performance.now() - this.#made > SCAN_MS
  }

  /** The row that comes next, if it was read already. */
  get row(): Row | undefined {
    return this.#rows[this.#at]
  }

  pass(): void {
    this.#at++
  }

  /** Reads on; undefined at the end. @param ahead more than this piece will be asked for */
  async more(ahead: boolean): Promise<Row | undefined> {
    const coming = this.#coming ?? this.#iterator.nextv(this.#step)
    this.#coming = undefined
    this.#rows = await coming
    this.#at = 0
    if (this.#rows.length > 0 && (ahead || this.goesOn)) this.readAhead()
    return this.row
  }

  readAhead(): void {
    if (this.#coming) return
    const coming = this.#iterator.nextv(this.#step)
    // A failure is told to whoever goes on here.
    coming.catch(() => {})
    this.#coming = coming
  }

  async close(): Promise<void> {
    this.#rows = []
    try {
      await this.#iterator.close()
    } finally {
      this.#over()
    }
  }
}

/** The channel may have changed meanwhile: the place is to be judged anew, and read so many rows at once. */
export interface Anew {
  readonly step: number
}

const pieceOf = ({ events, bytes }: ReadLimits): number => Math.min(bytes, events * EVENT_BYTES, PIECE_BYTES)

export class Pages {
  /** By channel and the place where they stand; the one that was kept longest is the first. */
  readonly #kept = new Map<string, Scan>()
  /** Those that a page is being read from. */
  readonly #inUse = new Set<Scan>()
  /** Those that were forgotten and are not closed yet. */
  readonly #leaving = new Set<Scan>()
  /** Pages that are being read, by all that says what will be in them. */
  readonly #coming = new Map<string, Promise<Page | Anew>>()
  #timer: NodeJS.Timeout | undefined

  /**
   * Blocks that continue `after`, up to the head of `channel`; a new iterator sees the same moment as `channel`, because
   * it is made in the same turn of the event loop, a kept one an earlier moment. Blocks are removed only after `trimmed`
   * has moved past them, or others stand in their place; then none that sees the old ones is gone on with. `Anew` when a kept one does not go on here, or LevelDB fails to read many rows at once.
   * Who asks for the same before it is read, of a channel that has not changed, is given the same page.
   * @throws data-loss { after, upTo }: reading on from `upTo` is what accepts the loss.
   */
  read(
    db: Db,
    channel: Channel,
    epoch: string,
    after: number,
    limits: ReadLimits,
    step = ROWS_AT_ONCE,
  ): Promise<Page | Anew> {
    const { number, head, trimmed } = channel
    const asked = `${placeOf(number, after)} ${epoch} ${trimmed} ${head} ${limits.events} ${limits.bytes} ${step}`
    const coming = this.#coming.get(asked)
    if (coming) return coming
    const read = this.#read(db, channel, epoch, after, limits, step).finally(() => {
      if (this.#coming.get(asked) === read) this.#coming.delete(asked)
    })
    this.#coming.set(asked, read)
    return read
  }

  async #read(
    db: Db,
    channel: Channel,
    epoch: string,
    after: number,
    limits: ReadLimits,
    step: number,
  ): Promise<Page | Anew> {
    const { name, head, trimmed } = channel
    const blocks: Uint8Array[] = []
    let position = after
    let events = 0
    let bytes = 0
    let full = false
    let keep = false
    const loss = (upTo: number, why: string): TidemarkError =>
      new TidemarkError('data-loss', `${rangeText(position, upTo)} of ${name}, damaged or missing: ${why}`, {
        ...{ channel: name, epoch, trimmed, head },
        after: position,
        upTo,
      })
    const isLong = (): boolean => {
      const each = events > 0 ? bytes / events : EVENT_BYTES
      return Math.min(limits.bytes - bytes, (limits.events - events) * each) > scan.pieceBytes
    }
    const page = (): Page => new Page({ channel: name, epoch, after, last: position, head, trimmed, blocks })
    const kept = this.#take(db, channel, after, limits)
    const scan = kept ?? new Scan(db, channel, after, limits, step)
    this.#inUse.add(scan)
    try {
      while (!full && position < scan.upTo) {
        const row = scan.row ?? (await scan.more(isLong()))
        if (row === undefined) break
        const [key, block] = row
        const last = lastOfBlockKey(key)
        const header = check(name, block, last)
        const chains = header && (blocks.length === 0 ? header.after <= position : header.after === position)
        if (!chains) {
          // What stands before the damage is whole; the next read begins at the damage and tells it.
          if (blocks.length > 0) return page()
          if (kept) return { step }
          if (header) throw loss(header.after, 'no block continues this position')
          // A key that is damaged too may stand among another channel's: the next whole block tells what is lost.
          scan.pass()
          continue
        }
        full = blocks.length > 0 && (bytes + block.length > limits.bytes || events >= limits.events)
        if (full) break
        scan.pass()
        blocks.push(block)
        events += Math.min(header.count, header.last - position)
        bytes += block.length
        position = header.last
        if (events >= limits.events || bytes >= limits.bytes) full = true
      }
      keep = full && position < scan.upTo && !scan.isOld && !scan.isForgotten
    } catch (error) {
      // LevelDB found damage of its own where it reads with checks: index, footer, compressed blocks.
      if ((error as { code?: string }).code !== 'LEVEL_CORRUPTION') throw error
      // Rows behind the damage come one by one; among many at once its error takes them along.
      if (blocks.length === 0 && (kept || step > 1)) return { step: kept ? step : 1 }
    } finally {
      this.#inUse.delete(scan)
      if (keep) this.#keep(channel, position, scan)
      else await scan.close()
    }
    if (position > after) return page()
    if (kept) return { step }
    throw loss(head, 'nothing stands between here and the head')
  }

  #take(db: Db, { number }: Channel, after: number, limits: ReadLimits): Scan | undefined {
    const place = placeOf(number, after)
    const scan = this.#kept.get(place)
    // Small pages come before large ones, which are not read in small pieces.
    if (scan === undefined || scan.db !== db || scan.pieceBytes !== pieceOf(limits)) return undefined
    this.#kept.delete(place)
    scan.goesOn = true
    return scan
  }

  #keep({ number }: Channel, position: number, scan: Scan): void {
    const place = placeOf(number, position)
    this.#drop(place)
    this.#kept.set(place, scan)
    if (this.#kept.size > KEPT_MAX) this.#drop(this.#kept.keys().next().value!)
    if (scan.goesOn) scan.readAhead()
    this.#timer ??= setInterval(this.#sweep, SCAN_MS / 2).unref()
  }

  #drop(place: string): void {
    const scan = this.#kept.get(place)
    if (!scan) return
    this.#kept.delete(place)
    scan.close().catch(() => {})
  }

  /** Closes those that nobody went on with; without any left it is not called again. */
  readonly #sweep = (): void => {
    for (const [place, scan] of this.#kept) if (scan.isOld) this.#drop(place)
    if (this.#kept.size > 0) return
    clearInterval(this.#timer)
    this.#timer = undefined
  }

  /** Keeps nothing of this channel, nor what is being read of it now: some of it is gone. */
  forget(channel: number): void {
    for (const scan of [...this.#inUse, ...this.#kept.values()]) if (scan.channel === channel) this.#leave(scan)
    for (const place of this.#kept.keys()) if (place.startsWith(`${channel}/`)) this.#drop(place)
    // Who begins now sees what is there now.
    for (const asked of this.#coming.keys()) if (asked.startsWith(`${channel}/`)) this.#coming.delete(asked)
  }

  #leave(scan: Scan): void {
    scan.isForgotten = true
    this.#leaving.add(scan)
    void scan.closed.then(() => this.#leaving.delete(scan))
  }

  /** Resolves when none of those that were forgotten holds on to what is gone. */
  async left(): Promise<void> {
    await Promise.all([...this.#leaving].map(({ closed }) => closed))
  }

  clear(): void {
    this.#coming.clear()
    for (const place of this.#kept.keys()) this.#drop(place)
  }
}

const placeOf = (channel: number, position: number): string => `${channel}/${position}`

/** Undefined when the block is not whole, or not the one that its key says. */
export function check(name: string, block: Uint8Array, last: number): Header | undefined {
  try {
    const header = checkBlock(name, block, crc32)
    return header.last === last ? header : undefined
  } catch (error) {
    if (error instanceof TidemarkError && error.code === 'data-loss') return undefined
    throw error
  }
}
