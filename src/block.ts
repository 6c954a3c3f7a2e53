/**
 * The block: the events of one append or one group, the unit on disk, in the engine and on the wire.
 *
 *   block  := header [table] body                     covers (after, last]
 *   header := format u8 | flags u8 | count u16 | length u32 | crc32 u32 | after u64 | last u64 | time u64     big-endian
 *             0           1          2           4            8           12          20         28        36
 *   table  := count × ( seq − after u32 [, time − header.time i32] )     with flag holes or times
 *   body   := event*                                                     concatenated MessagePack arrays
 *
 * `length` is of the whole block; `crc32` is over channel name ‖ header with crc 0 ‖ table ‖ body, so a block
 * under another channel's name fails too. A dense block (no table) derives seqs: its events are after + 1 … last.
 * A position p is continued by a block exactly when block.after ≤ p < block.last. PROTOCOL.md holds hex examples.
 */
import { type Body, FLAG, HEADER_BYTES } from './body.ts'
import { getU32, getU64, putU32, putU64 } from './bytes.ts'
import { type Event, SEQ_MAX, TIME_MAX } from './event.ts'
import { BodyReader, damaged, Parts, textAt } from './walk.ts'

export const FORMAT = 1
const FLAGS_KNOWN = 15

export interface Header {
  readonly flags: number
  readonly count: number
  /** Bytes of the whole block. */
  readonly length: number
  readonly crc: number
  readonly after: number
  readonly last: number
  /** Milliseconds since 1970. */
  readonly time: number
}

/** `crc32(bytes, seed)`, as `zlib.crc32`. The browser has none and checks the chain only. */
export type Crc32 = (bytes: Uint8Array, seed?: number) => number

// ── Writing ──────────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * Seals bodies that follow each other into one dense block over (after, after + events].
 * The caller keeps within APPEND_EVENTS_MAX and BLOCK_BYTES_MAX.
 */
export function sealBlock(
  channel: string,
  bodies: readonly Body[],
  at: { readonly after: number; readonly time: number },
  crc32: Crc32,
): Uint8Array {
  let length = HEADER_BYTES
  let count = 0
  let flags = 0
  for (const body of bodies) {
    length += body.bytes.length
    count += body.count
    flags |= body.flags
  }
  const block = new Uint8Array(length)
  let offset = HEADER_BYTES
  for (const body of bodies) {
    block.set(body.bytes, offset)
    offset += body.bytes.length
  }
  putHeader(block, { flags, count, after: at.after, last: at.after + count, time: at.time })
  return stamp(block, channel, crc32)
}

/** One event of a block, still encoded. */
export interface Span {
  readonly seq: number
  readonly time: number
  /** The event's MessagePack array. */
  readonly bytes: Uint8Array
  /** FLAG bits of this event alone: `addressed`, `keyed`. */
  readonly flags: number
}

/**
 * Builds a block over (after, last] from spans: dense when the spans fill the range at one time, else with a table.
 * Returns undefined where the table can't express an offset (a merge that must not be made).
 */
export function buildBlock(
  channel: string,
  range: { readonly after: number; readonly last: number; readonly time: number },
  spans: readonly Span[],
  crc32: Crc32,
): Uint8Array | undefined {
  const times = spans.some((span) => span.time !== range.time)
  const holes = spans.length !== range.last - range.after
  const entry = holes || times ? (times ? 8 : 4) : 0
  let length = HEADER_BYTES + entry * spans.length
  let flags = (holes ? FLAG.holes : 0) | (times ? FLAG.times : 0)
  for (const span of spans) {
    length += span.bytes.length
    flags |= span.flags
  }
  const block = new Uint8Array(length)
  const view = new DataView(block.buffer)
  let at = HEADER_BYTES
  if (entry > 0)
    for (const span of spans) {
      const offset = span.seq - range.after
      const delta = span.time - range.time
      if (offset > 0xffffffff || delta !== (delta | 0)) return undefined
      view.setUint32(at, offset)
      if (times) view.setInt32(at + 4, delta)
      at += entry
    }
  for (const span of spans) {
    block.set(span.bytes, at)
    at += span.bytes.length
  }
  putHeader(block, { flags, count: spans.length, ...range })
  return stamp(block, channel, crc32)
}

/** The part of a block within (after, last], as a block of its own over that range. The whole block if it lies inside. */
export function sliceBlock(
  channel: string,
  block: Uint8Array,
  range: { readonly after: number; readonly last: number },
  crc32: Crc32,
): Uint8Array {
  const header = readHeader(block)
  if (header.after >= range.after && header.last <= range.last) return block
  const spans = spansOf(block).filter((span) => span.seq > range.after && span.seq <= range.last)
  const after = Math.max(header.after, range.after)
  const last = Math.min(header.last, range.last)
  // Offsets only shrink in a slice, so it can always be expressed.
  return buildBlock(channel, { after, last, time: header.time }, spans, crc32) as Uint8Array
}

function putHeader(block: Uint8Array, h: Pick<Header, 'flags' | 'count' | 'after' | 'last' | 'time'>): void {
  block[0] = FORMAT
  block[1] = h.flags
  block[2] = h.count >> 8
  block[3] = h.count & 255
  putU32(block, 4, block.length)
  putU64(block, 12, h.after)
  putU64(block, 20, h.last)
  putU64(block, 28, h.time)
}

function stamp(block: Uint8Array, channel: string, crc32: Crc32): Uint8Array {
  putU32(block, 8, crcOf(block, channel, crc32))
  return block
}

const utf8 = new TextEncoder()
/** The start of a header, its crc 0. */
const start = new Uint8Array(12)
/** Blocks of one channel come in a row: what their crc begins with. */
let named: { readonly channel: string; readonly crc32: Crc32; readonly crc: number } | undefined

function crcOf(block: Uint8Array, channel: string, crc32: Crc32): number {
  if (named?.channel !== channel || named.crc32 !== crc32) named = { channel, crc32, crc: crc32(utf8.encode(channel)) }
  for (let i = 0; i < 8; i++) start[i] = block[i]!
  return crc32(block.subarray(12), crc32(start, named.crc))
}

// ── Reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

/** Reads the header at `at` without touching the body. Throws `data-loss` when it can't be a block. */
export function readHeader(bytes: Uint8Array, at = 0): Header {
  if (bytes.length - at < HEADER_BYTES) return damaged('it is shorter than a header')
  if (bytes[at] !== FORMAT) return damaged(`its format is ${bytes[at]}, not ${FORMAT}`)
  const header: Header = {
    flags: bytes[at + 1]!,
    count: (bytes[at + 2]! << 8) | bytes[at + 3]!,
    length: getU32(bytes, at + 4),
    crc: getU32(bytes, at + 8),
    after: getU64(bytes, at + 12),
    last: getU64(bytes, at + 20),
    time: getU64(bytes, at + 28),
  }
  const { flags, count, length, after, last, time } = header
  if (flags > FLAGS_KNOWN) return damaged(`its flags are ${flags}`)
  if (length < HEADER_BYTES || length > bytes.length - at) return damaged(`its length is ${length}`)
  if (last > SEQ_MAX || after >= last) return damaged(`it covers (${after}, ${last}]`)
  if (time > TIME_MAX) return damaged(`its time is ${time}`)
  if (tableEntry(flags) === 0 ? count !== last - after : count > last - after)
    return damaged(`it counts ${count} events`)
  return header
}

/** Header, length and crc of one whole block. Throws `data-loss`. */
export function checkBlock(channel: string, block: Uint8Array, crc32: Crc32): Header {
  const header = readHeader(block)
  if (header.length !== block.length) return damaged(`its length is ${header.length}, it has ${block.length} bytes`)
  if (crcOf(block, channel, crc32) !== header.crc)
    return damaged('its crc differs', { after: header.after, upTo: header.last })
  return header
}

/** Cuts a run of whole blocks (a page on the wire) into its blocks. */
export function splitBlocks(bytes: Uint8Array): Uint8Array[] {
  const blocks: Uint8Array[] = []
  for (let at = 0; at < bytes.length; ) {
    const { length } = readHeader(bytes, at)
    blocks.push(bytes.subarray(at, at + length))
    at += length
  }
  return blocks
}

/** The events of a block with after < seq ≤ last (all, if no range is given). Data are views into the block. */
export function decodeBlock(block: Uint8Array, after = 0, last = SEQ_MAX): Event[] {
  const events: Event[] = []
  const header = readHeader(block)
  const table = new Table(block, header)
  const reader = table.body()
  const parts = new Parts()
  for (let i = 0; i < header.count; i++) {
    const seq = table.seq(i)
    if (seq > last) break
    reader.parts(parts)
    if (seq > after) events.push(eventOf(block, seq, table.time(i), parts))
  }
  if (last === SEQ_MAX) reader.end()
  return events
}

function eventOf(block: Uint8Array, seq: number, time: number, parts: Parts): Event {
  return {
    seq,
    time,
    type: textAt(block, parts.type, parts.typeEnd),
    key: textAt(block, parts.key, parts.keyEnd),
    id: textAt(block, parts.id, parts.idEnd),
    contentType: textAt(block, parts.contentType, parts.contentTypeEnd),
    data: parts.data < 0 ? null : block.subarray(parts.data, parts.dataEnd),
    to: parts.to,
  }
}

/** Shows the parts of each event with after < seq ≤ last, in order, until `visit` returns false. */
export function walkBlock(
  block: Uint8Array,
  after: number,
  last: number,
  visit: (seq: number, time: number, parts: Parts) => boolean,
): void {
  const header = readHeader(block)
  const table = new Table(block, header)
  const reader = table.body()
  const parts = new Parts()
  for (let i = 0; i < header.count; i++) {
    const seq = table.seq(i)
    if (seq > last) return
    reader.parts(parts)
    if (seq > after && !visit(seq, table.time(i), parts)) return
  }
}

/** The events of a block, still encoded. */
export function spansOf(block: Uint8Array): Span[] {
  const header = readHeader(block)
  const table = new Table(block, header)
  const reader = table.body()
  const parts = new Parts()
  const spans: Span[] = []
  for (let i = 0; i < header.count; i++) {
    const start = reader.at
    reader.parts(parts)
    const flags = (parts.key < 0 ? 0 : FLAG.keyed) | (parts.to === null ? 0 : FLAG.addressed)
    spans.push({ seq: table.seq(i), time: table.time(i), bytes: block.subarray(start, reader.at), flags })
  }
  reader.end()
  return spans
}

const tableEntry = (flags: number): number => (flags & FLAG.times ? 8 : flags & FLAG.holes ? 4 : 0)

/** Seqs and times of a block's events; asked once for each event, in order. */
class Table {
  readonly #bytes: Uint8Array
  readonly #header: Header
  readonly #entry: number
  #previous: number

  constructor(bytes: Uint8Array, header: Header) {
    this.#bytes = bytes
    this.#header = header
    this.#entry = tableEntry(header.flags)
    this.#previous = header.after
  }

  body(): BodyReader {
    return new BodyReader(this.#bytes, HEADER_BYTES + this.#entry * this.#header.count, this.#header.length)
  }

  seq(i: number): number {
    if (this.#entry === 0) return this.#header.after + i + 1
    const seq = this.#header.after + getU32(this.#bytes, HEADER_BYTES + this.#entry * i)
    if (seq <= this.#previous || seq > this.#header.last) return damaged('the seqs of its table do not rise')
    this.#previous = seq
    return seq
  }

  time(i: number): number {
    if (!(this.#header.flags & FLAG.times)) return this.#header.time
    const time = this.#header.time + (getU32(this.#bytes, HEADER_BYTES + this.#entry * i + 4) | 0)
    return time > TIME_MAX ? damaged(`the time of an event is ${time}`) : time
  }
}
