/**
 * Events out: pages as JSON, in whatever stands around events on each door, and pages that are cut at a limit.
 */
import { crc32 } from 'node:zlib'
import { Packr } from 'msgpackr'
import { readHeader, sliceBlock, walkBlock } from '../block.ts'
import { Page } from '../log/log.ts'
import type { Parts } from '../walk.ts'
import type { PageJson } from '../wire.ts'
import { Scribe } from './scribe.ts'

export interface RenderOptions {
  /** Most events; default all. */
  readonly limit?: number
  /** Tell whom an event is addressed to: for callers who may read everything. */
  readonly withTo?: boolean
  /** Name the channel in each event. */
  readonly withChannel?: boolean
}

/** Events of a page in some form, and where the limit cut: the reader's position after them. */
export interface Rendered {
  readonly bytes: Buffer
  /** Of `bytes`, as Page.form counts it. */
  readonly length: number
  readonly last: number
  readonly count: number
}

/** Bytes that are written one piece behind the other. */
export type Pieces = readonly Buffer[]

/** Pieces below this, on average, are copied together: each costs the kernel something. */
const PIECE_BYTES = 4_096

/** Whether they are better left where they are than copied together. */
export const areLarge = (pieces: readonly Uint8Array[]): boolean => bytesIn(pieces) >= PIECE_BYTES * pieces.length

export function bytesIn(pieces: readonly Uint8Array[]): number {
  let length = 0
  for (const piece of pieces) length += piece.length
  return length
}

/** The same bytes. */
export const bufferOf = (bytes: Uint8Array): Buffer => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)

/** The page's event objects with commas between them (without the list's brackets), as UTF-8. */
export function eventsBytes(page: Page, options: RenderOptions = {}): Rendered {
  return render(page, options, LIST)
}

/**
 * As `eventsBytes` with whom events are for, in pieces to be written together: of blocks that the engine keeps, what was
 * made of them once for all who read them.
 */
export function eventsPieces(page: Page): Buffer[] {
  if (!page.hasBlockForms) return [eventsBytes(page, { withTo: true }).bytes]
  const pieces: Buffer[] = []
  page.blocks.forEach((block, i) => {
    const { after, last } = readHeader(block)
    const isWhole = after >= page.after && last <= page.last
    const piece = isWhole ? page.blockForm(i, 'json', blockEvents) : blockEvents(block, page)
    // The first one begins without its comma.
    if (piece.length > 0) pieces.push(pieces.length > 0 ? piece : piece.subarray(1))
  })
  return pieces
}

/** The event objects of a block with a comma before each, those with after < seq ≤ last. */
function blockEvents(block: Uint8Array, { after, last }: { after: number; last: number } = readHeader(block)): Buffer {
  const before = (to: Scribe): void => to.ascii(',')
  return render({ channel: '', blocks: [block], after, last }, { withTo: true }, { before }).bytes
}

/** A read's whole answer: what is known of the channel, and the events. */
export function pageJson(page: Page, options: RenderOptions = {}): Rendered {
  const fields = JSON.stringify(pageFields(page, lastWithin(page, options.limit ?? Number.POSITIVE_INFINITY)))
  const begin = `${fields.slice(0, -1)},"events":[`
  return render(page, options, { ...LIST, begin: (to) => to.text(begin), end: (to) => to.ascii(']}') })
}

/** As `pageJson` without a limit, with whom events are for: in pieces, as `eventsPieces` gives them. */
export function pageJsonPieces(page: Page): Pieces {
  const fields = JSON.stringify(pageFields(page, page.last))
  const begin = Buffer.from(`${fields.slice(0, -1)},"events":[`)
  return [begin, ...eventsPieces(page), END]
}

/** The end of the list and of what it stands in. */
export const END = Buffer.from(']}')

/** What is known of a channel beside a page of its events that ends at `last`. */
export function pageFields(page: Page, last: number): Omit<PageJson, 'events'> {
  const { channel, epoch, after, head, trimmed, at } = page
  const fields = { channel, epoch, after, last, head, trimmed, caughtUp: last >= head }
  return at === undefined ? fields : { ...fields, at }
}

/** How many events a page gives; of one that is no state's, its positions. */
export function eventsOn({ at, after, last, blocks }: Page): number {
  return at === undefined ? last - after : blocks.reduce((sum, block) => sum + readHeader(block).count, 0)
}

/** The events with after < seq ≤ last that are there. */
export function countOn({ after, last, blocks }: Pick<Page, 'after' | 'last' | 'blocks'>): number {
  return blocks.reduce((sum, block) => {
    const header = readHeader(block)
    if (header.after >= after && header.last <= last) return sum + header.count
    let count = 0
    walkBlock(block, after, last, () => {
      count++
      return true
    })
    return sum + count
  }, 0)
}

/** One event a line. */
export function eventLines(page: Page, options: RenderOptions = {}): Rendered {
  return render(page, options, { behind: (to) => to.ascii('\n') })
}

/** What is written around events. */
export interface Around {
  readonly begin?: (to: Scribe) => void
  /** Before each event; `count` stand before it. */
  readonly before?: (to: Scribe, count: number, seq: number, parts: Parts) => void
  readonly behind?: (to: Scribe) => void
  readonly end?: (to: Scribe) => void
}

const LIST: Around = {
  before: (to, count) => {
    if (count > 0) to.ascii(',')
  },
}

/** One for all pages: a page is written in one go. */
const scribe = new Scribe()

/** The events of a page as JSON, with what stands around each of them. */
export function render(
  page: Pick<Page, 'channel' | 'blocks' | 'after' | 'last'>,
  options: RenderOptions,
  { begin, before, behind, end }: Around,
): Rendered {
  const { limit = Number.POSITIVE_INFINITY, withTo = false } = options
  const channel = options.withChannel ? page.channel : undefined
  let count = 0
  let { last } = page
  try {
    begin?.(scribe)
    for (const block of page.blocks) {
      scribe.from(block)
      walkBlock(block, page.after, page.last, (seq, time, parts) => {
        before?.(scribe, count, seq, parts)
        scribe.event(seq, time, parts, channel, withTo)
        behind?.(scribe)
        count++
        // A reader goes on from here; what compaction left out behind it costs an empty answer at most.
        if (count === limit) last = seq
        return count < limit
      })
      if (count === limit) break
    }
    end?.(scribe)
    const bytes = scribe.take()
    return { bytes, last, count, length: bytes.length }
  } catch (error) {
    scribe.drop()
    throw error
  }
}

// ── Pages ────────────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * At most `limit` events of a page, in blocks that hold exactly (after, last]: sliced at both edges where they reach
 * beyond. The page itself where it is so already.
 */
export function cutPage(page: Page, limit: number): Page {
  const last = lastWithin(page, limit)
  const range = { after: page.after, last }
  const blocks = page.blocks
    .filter((block) => readHeader(block).after < last)
    .map((block) => sliceBlock(page.channel, block, range, crc32))
  if (last === page.last && blocks.every((block, i) => block === page.blocks[i])) return page
  const { channel, epoch, after, head, trimmed } = page
  return new Page({ channel, epoch, after, last, head, trimmed, blocks })
}

/** The position after the first `limit` events of a page. */
export function lastWithin(page: Page, limit: number): number {
  if (page.last - page.after <= limit) return page.last
  let left = limit
  for (const block of page.blocks) {
    const { after, last, count } = readHeader(block)
    const dense = count === last - after
    const from = Math.max(after, page.after)
    if (dense && last - from < left) left -= last - from
    else if (dense) return Math.min(from + left, page.last)
    else {
      let [seen, at] = [0, 0]
      scribe.from(block)
      walkBlock(block, page.after, page.last, (seq) => {
        at = seq
        return ++seen < left
      })
      if (seen === left) return at
      left -= seen
    }
  }
  return page.last
}

const packr = new Packr({ useRecords: false, variableMapSize: true })
/** The name `blocks` and the beginning of a bin with 32 bits of length. */
const BLOCKS = Buffer.from([0xa6, ...Buffer.from('blocks'), 0xc6])

/** A MessagePack map of at most 14 fields and one more, `blocks`, a bin of whole blocks: what stands before those. */
export function blocksHead(fields: object, blocks: readonly Uint8Array[]): Buffer {
  const head = packr.pack(fields)
  // Up to 15 fields are counted in the map's first byte.
  head[0]! += 1
  const size = Buffer.alloc(4)
  size.writeUInt32BE(bytesIn(blocks))
  return Buffer.concat([head, BLOCKS, size])
}
