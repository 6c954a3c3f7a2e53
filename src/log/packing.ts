/**
 * Small blocks, and those that have lost events, become larger ones: block after block of a channel goes in, and
 * stretches come out in which others are to stand in their place. What is whole and large stays as it is.
 */
import { crc32 } from 'node:zlib'
import { buildBlock, type Header, type Span } from '../block.ts'
import { HEADER_BYTES } from '../body.ts'
import { APPEND_EVENTS_MAX, BLOCK_BYTES_MAX } from '../event.ts'

/** Blocks are merged up to this size. */
const MERGE_BYTES = 64 * 1024
/** A block that is so large, or holds so many events, is not worth writing again for being merged. */
const LARGE_BYTES = MERGE_BYTES / 2
const LARGE_EVENTS = APPEND_EVENTS_MAX / 2
/** Blocks that are replaced in one write, their bytes, and those of what comes in their place, at most; each with a block more. */
const STRETCH_BLOCKS = 1_024
const STRETCH_BYTES = 16 * 1024 * 1024
const STRETCH_NEW_BYTES = 1024 * 1024
/** Of an entry in the table of a block. */
const ENTRY_BYTES = 8
const U32_MAX = 0xffffffff
const I32_MAX = 0x7fffffff

export interface Stretch {
  readonly replaced: readonly Header[]
  readonly blocks: readonly Uint8Array[]
  /** `trimmed` when its first block was read. */
  readonly trimmed: number
  /** Of the replaced blocks that the packing was told of. */
  readonly dropped: number
}

export class Packing {
  readonly #channel: string
  /** The stretch so far. */
  #done: Header[] = []
  #blocks: Uint8Array[] = []
  #oldBytes = 0
  #newBytes = 0
  #dropped = 0
  #trimmed = 0
  /** Blocks that will be one. */
  #open: Header[] = []
  #spans: Span[] = []
  #bytes = 0
  #openDropped = 0
  #openTrimmed = 0

  constructor(channel: string) {
    this.#channel = channel
  }

  /** Whether a block of which nothing goes stays as it is, so that its events need not be cut out. */
  static isLarge({ length, count }: Header): boolean {
    return length >= LARGE_BYTES || count >= LARGE_EVENTS
  }

  /**
   * The next block.
   * @param spans of its events that stay @param dropped how many do not @param trimmed when it was read
   */
  add(header: Header, spans: readonly Span[], dropped: number, trimmed: number): Stretch | undefined {
    const bytes = spans.reduce((sum, span) => sum + span.bytes.length + ENTRY_BYTES, 0)
    const ready = this.#open.length > 0 && !this.#fits(header, spans, bytes) ? this.#close() : undefined
    if (this.#open.length === 0) this.#openTrimmed = trimmed
    this.#open.push(header)
    this.#spans.push(...spans)
    this.#bytes += bytes
    this.#openDropped += dropped
    this.#oldBytes += header.length
    const isFull = this.#done.length + this.#open.length >= STRETCH_BLOCKS || this.#oldBytes >= STRETCH_BYTES
    return ready ?? (isFull ? this.flush() : undefined)
  }

  /** What is ready, because nothing more comes, or a block that stays as it is. */
  flush(): Stretch | undefined {
    return this.#close() ?? this.#take()
  }

  /** Everything that was added and not given out is forgotten. */
  clear(): void {
    this.#take()
    this.#reopen()
  }

  #fits(header: Header, spans: readonly Span[], bytes: number): boolean {
    const { after, time } = this.#open[0]!
    const last = spans.at(-1)
    return (
      HEADER_BYTES + this.#bytes + bytes <= MERGE_BYTES &&
      this.#spans.length + spans.length <= APPEND_EVENTS_MAX &&
      header.last - after <= U32_MAX &&
      (last?.time ?? time) - time <= I32_MAX
    )
  }

  /** Ends the block that is open; a stretch, when this one does not go on in it or is long enough. */
  #close(): Stretch | undefined {
    const [first] = this.#open
    if (first === undefined) return undefined
    if (this.#open.length === 1 && this.#openDropped === 0 && this.#spans.length === first.count) {
      // Nothing would be another one.
      const bytes = first.length
      this.#reopen()
      this.#oldBytes -= bytes
      return this.#take()
    }
    if (this.#done.length === 0) this.#trimmed = this.#openTrimmed
    const range = { after: first.after, last: this.#open.at(-1)!.last, time: first.time }
    const blocks = blocksOver(this.#channel, range, this.#spans)
    this.#done.push(...this.#open)
    this.#blocks.push(...blocks)
    this.#newBytes += blocks.reduce((sum, block) => sum + block.length, 0)
    this.#dropped += this.#openDropped
    this.#reopen()
    return this.#newBytes >= STRETCH_NEW_BYTES ? this.#take() : undefined
  }

  #reopen(): void {
    this.#open = []
    this.#spans = []
    this.#bytes = this.#openDropped = 0
  }

  #take(): Stretch | undefined {
    const [replaced, blocks, trimmed, dropped] = [this.#done, this.#blocks, this.#trimmed, this.#dropped]
    this.#done = []
    this.#blocks = []
    this.#oldBytes = this.#newBytes = this.#dropped = 0
    return replaced.length > 0 ? { replaced, blocks, trimmed, dropped } : undefined
  }
}

/** One block over a range, or more where the table of one makes it larger than a block may be. */
export function blocksOver(
  channel: string,
  range: { readonly after: number; readonly last: number; readonly time: number },
  spans: readonly Span[],
): Uint8Array[] {
  const block = buildBlock(channel, range, spans, crc32)
  if (block !== undefined && block.length <= BLOCK_BYTES_MAX) return [block]
  // One event alone fits: it was in a block with no more than this one needs.
  const half = spans.length >> 1
  const cut = spans[half - 1]!.seq
  return [
    ...blocksOver(channel, { ...range, last: cut }, spans.slice(0, half)),
    ...blocksOver(channel, { after: cut, last: range.last, time: spans[half]!.time }, spans.slice(half)),
  ]
}
