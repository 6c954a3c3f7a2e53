/**
 * The newest event of each key of one channel, and for a while those in place of which they stand: so that a state is
 * read page after page as it was at one seq, while the channel goes on.
 */
import { crc32 } from 'node:zlib'
import { buildBlock, type Span, walkBlock } from '../block.ts'
import { FLAG } from '../body.ts'
import { APPEND_EVENTS_MAX } from '../event.ts'
import type { ReadLimits } from './log.ts'
import type { StateRow } from './state-rows.ts'

/** What an event takes in memory beyond its own bytes and those of its key. */
const VERSION_BYTES = 200
/** Overwritten ones are kept up to what the newest take, or up to so many bytes; then half of them go. */
const OLD_BYTES = 4 * 1024 * 1024
/** Looked at for one page, however few of them are in it. */
const LOOKED_MAX = 65_536
/** Blocks of a page are made up to this size; a larger event has one of its own. */
const BLOCK_BYTES = 64 * 1024
const U32_MAX = 0xffffffff
const I32_MAX = 0x7fffffff

/** Key and event are texts of V8: they take less room, and less time, than so many arrays. */
interface Version extends StateRow {
  /** The seq of the event that came in its place. */
  until: number
}

/** A part of a state: its events, and the position behind it. */
export interface Portion {
  readonly spans: readonly Span[]
  readonly last: number
}

export class Versions {
  /** By seq. */
  #all: Version[] = []
  readonly #newest = new Map<string, Version>()
  /** Overwritten ones, by `until`. */
  #old: Version[] = []
  #newestBytes = 0
  #oldBytes = 0
  #floor = 0

  /** About what it takes in memory. */
  get bytes(): number {
    return this.#newestBytes + this.#oldBytes
  }

  /** States before this seq are not known any more. */
  get floor(): number {
    return this.#floor
  }

  /** Takes the events of a block with after < seq ≤ last; blocks come in their order. */
  take(block: Uint8Array, after: number, last: number): void {
    keyedIn(block, after, last, (key, seq, row) => {
      const replaced = this.#newest.get(key)
      if (replaced) this.#replace(replaced, seq)
      if (row) this.#add(row)
      else if (replaced) this.#newest.delete(key)
    })
    if (this.#oldBytes > Math.max(this.#newestBytes, OLD_BYTES)) this.#forget(this.#oldBytes / 2)
  }

  /** Takes rows of one state, in whatever order; `begun` ends it. Nothing else was taken before. */
  begin(rows: readonly StateRow[]): void {
    for (const row of rows) this.#add(row)
  }

  /** All rows are there. */
  begun(): void {
    this.#all.sort((a, b) => a.seq - b.seq)
  }

  #add({ seq, time, key, event }: StateRow): void {
    const version: Version = { seq, time, key, event, until: Number.POSITIVE_INFINITY }
    this.#all.push(version)
    this.#newest.set(key, version)
    this.#newestBytes += costOf(version)
  }

  #replace(version: Version, seq: number): void {
    version.until = seq
    this.#old.push(version)
    const cost = costOf(version)
    this.#newestBytes -= cost
    this.#oldBytes += cost
  }

  /** Of the overwritten ones those stay that were overwritten last, up to so many bytes. */
  #forget(bytes: number): void {
    let gone = 0
    while (gone < this.#old.length && this.#oldBytes > bytes) {
      const version = this.#old[gone++]!
      this.#oldBytes -= costOf(version)
      this.#floor = version.until
    }
    if (gone === 0) return
    this.#old = this.#old.slice(gone)
    this.#all = this.#all.filter(({ until }) => until > this.#floor)
  }

  /** Nothing but the newest is kept. */
  settle(): void {
    this.#forget(0)
  }

  trim(trimmed: number): void {
    const gone = this.#behind(trimmed)
    if (gone === 0) return
    for (const version of this.#all.slice(0, gone)) {
      const cost = costOf(version)
      if (version.until < Number.POSITIVE_INFINITY) this.#oldBytes -= cost
      else {
        this.#newestBytes -= cost
        this.#newest.delete(version.key)
      }
    }
    this.#all = this.#all.slice(gone)
    this.#old = this.#old.filter(({ seq }) => seq > trimmed)
  }

  /** The state at a seq that is not below the floor, from behind a position. @param prefix as `Version.key` */
  read(at: number, after: number, limits: ReadLimits, prefix: string): Portion {
    const spans: Span[] = []
    const first = this.#behind(after)
    let bytes = 0
    for (let i = first; i < this.#all.length; i++) {
      const { seq, time, key, event, until } = this.#all[i]!
      if (seq > at) break
      if (i - first === LOOKED_MAX) return { spans, last: seq - 1 }
      if (until <= at || !key.startsWith(prefix)) continue
      bytes += event.length
      if (spans.length > 0 && (spans.length === limits.events || bytes > limits.bytes)) return { spans, last: seq - 1 }
      spans.push({ seq, time, bytes: Buffer.from(event, 'latin1'), flags: FLAG.keyed })
    }
    return { spans, last: at }
  }

  /** The place in #all of the first one behind a seq. */
  #behind(seq: number): number {
    let [low, high] = [0, this.#all.length]
    while (low < high) {
      const middle = (low + high) >> 1
      if (this.#all[middle]!.seq > seq) high = middle
      else low = middle + 1
    }
    return low
  }
}

const costOf = ({ key, event }: Version): number => key.length + event.length + VERSION_BYTES

/** The events with keys of a block with after < seq ≤ last, in their order; a tombstone has no row. */
export function keyedIn(
  block: Uint8Array,
  after: number,
  last: number,
  visit: (key: string, seq: number, row: StateRow | undefined) => void,
): void {
  if (!(block[1]! & FLAG.keyed)) return
  const bytes = Buffer.from(block.buffer, block.byteOffset, block.length)
  walkBlock(block, after, last, (seq, time, { fields, key: from, keyEnd, data, dataEnd, to }) => {
    // What has an audience has no key; if it had, it would not be for everybody who reads a state.
    if (from < 0 || to !== null) return true
    const key = bytes.toString('latin1', from, keyEnd)
    const event = data < 0 ? undefined : bytes.toString('latin1', fields - 1, dataEnd + 1)
    visit(key, seq, event === undefined ? undefined : { key, seq, time, event })
    return true
  })
}

/** Blocks over (after, last] that hold these events and no other one. */
export function blocksOf(channel: string, after: number, { spans, last }: Portion): Uint8Array[] {
  const blocks: Uint8Array[] = []
  let open: Span[] = []
  let from = after
  let bytes = 0
  const close = (upTo: number): void => {
    if (upTo === from) return
    // Offsets were looked at as they came.
    const range = { after: from, last: upTo, time: open[0]?.time ?? 0 }
    blocks.push(buildBlock(channel, range, open, crc32) as Uint8Array)
    open = []
    from = upTo
    bytes = 0
  }
  for (const span of spans) {
    const [first = span] = open
    bytes += span.bytes.length
    const isFull = bytes > BLOCK_BYTES || open.length === APPEND_EVENTS_MAX
    const isFar = span.seq - from > U32_MAX || Math.abs(span.time - first.time) > I32_MAX
    if (isFull || isFar) {
      // Alone it takes no table, and so has the room that it had in the log.
      close(open.at(-1)?.seq ?? from)
      if (span.bytes.length > BLOCK_BYTES || span.seq - from > U32_MAX) close(span.seq - 1)
      bytes = span.bytes.length
    }
    open.push(span)
  }
  close(open.length > 0 && bytes > BLOCK_BYTES ? open[0]!.seq : last)
  close(last)
  return blocks
}
