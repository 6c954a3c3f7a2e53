/**
 * Events out: pages become JSON in which each event's data stands as its sender wrote it, never parsed.
 *
 * Inside, text is *binary*: one character for each byte of its UTF-8, so that a block is decoded once, whatever it
 * holds, and its events' data are cut out of that. What leaves is bytes, or text made of those bytes.
 */
import { isAscii, isUtf8 } from 'node:buffer'
import { crc32 } from 'node:zlib'
import { Packr } from 'msgpackr'
import { decodeBlock, readHeader, sliceBlock } from '../block.ts'
import { type Event, formatTime, isTextType, isTombstone } from '../event.ts'
import { Page } from '../log/log.ts'
import type { AudienceJson, PageJson } from '../wire.ts'

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

/** The page's event objects with commas between them (without the list's brackets), as UTF-8. */
export function eventsBytes(page: Page, options: RenderOptions = {}): Rendered {
  return render(page, options, (json) => json, { between: ',' })
}

/** As eventsBytes, as text. */
export function eventsJson(
  page: Page,
  limit?: number,
  options: RenderOptions = {},
): { readonly text: string; readonly last: number; readonly count: number } {
  const { bytes, last, count } = eventsBytes(page, limit === undefined ? options : { ...options, limit })
  return { text: bytes.toString(isAscii(bytes) ? 'latin1' : 'utf8'), last, count }
}

/** A read's whole answer: what is known of the channel, and the events. */
export function pageJson(page: Page, options: RenderOptions = {}): Rendered {
  const fields = JSON.stringify(pageFields(page, lastWithin(page, options.limit ?? Number.POSITIVE_INFINITY)))
  const frame = { begin: `${fields.slice(0, -1)},"events":[`, between: ',', end: () => ']}' }
  return render(page, options, (json) => json, frame)
}

/** What is known of a channel beside a page of its events that ends at `last`. */
export function pageFields(page: Page, last: number): Omit<PageJson, 'events'> {
  const { channel, epoch, after, head, trimmed } = page
  return { channel, epoch, after, last, head, trimmed, caughtUp: last >= head }
}

/** One event a line. */
export function eventLines(page: Page, options: RenderOptions = {}): Rendered {
  return render(page, options, (json) => `${json}\n`)
}

/** What stands around and between events, as binary text. `end` is asked when the events are written. */
export interface Frame {
  readonly begin?: string
  readonly between?: string
  readonly end?: () => string
}

/** Each event of a page as `wrap` makes it of its JSON; both are binary text. */
export function render(
  page: Page,
  options: RenderOptions,
  wrap: (json: string, event: Event) => string,
  { begin = '', between = '', end = () => '' }: Frame = {},
): Rendered {
  const limit = options.limit ?? Number.POSITIVE_INFINITY
  const channel = options.withChannel ? page.channel : undefined
  let text = begin
  let count = 0
  let { last } = page
  for (const block of page.blocks) {
    const events = eventsOf(page, block, limit - count)
    const source = new Source(block, events)
    for (const event of events) {
      if (count++ > 0) text += between
      text += wrap(json(event, source, channel, options.withTo), event)
    }
    if (count < limit) continue
    // A reader goes on from here; what compaction left out behind it costs an empty answer at most.
    last = events.at(-1)?.seq ?? last
    break
  }
  text += end()
  // Kept with its page, it must not keep a shared slab of memory with it.
  const bytes = Buffer.allocUnsafeSlow(text.length)
  bytes.write(text, 'latin1')
  return { bytes, last, count, length: bytes.length }
}

/** The first `most` events of a block that are the page's. */
function eventsOf(page: Page, block: Uint8Array, most: number): Event[] {
  const header = readHeader(block)
  // Only where seqs are left out it is not known by counting where to stop.
  const dense = header.count === header.last - header.after
  const end = dense ? Math.min(page.last, Math.max(header.after, page.after) + most) : page.last
  const events = decodeBlock(block, page.after, end)
  return events.length > most ? events.slice(0, most) : events
}

/** One event as JSON. */
export function eventJson(event: Event, extra: { readonly channel?: string; readonly withTo?: boolean } = {}): string {
  const source = new Source(event.data ?? new Uint8Array(0), [event])
  return Buffer.from(json(event, source, extra.channel, extra.withTo), 'latin1').toString()
}

/** The stretch of a block that holds its events' data, decoded once as binary text. */
class Source {
  readonly #text: string
  /** Where #text begins in the block's memory. */
  readonly #start: number
  #time = Number.NaN
  #timeText = ''

  constructor(block: Uint8Array, events: readonly Event[]) {
    let start = Number.POSITIVE_INFINITY
    let end = 0
    for (const { data } of events) {
      if (data === null) continue
      if (data.byteOffset < start) start = data.byteOffset
      if (data.byteOffset + data.length > end) end = data.byteOffset + data.length
    }
    this.#start = start
    this.#text = end > start ? Buffer.from(block.buffer, start, end - start).toString('latin1') : ''
  }

  data(data: Uint8Array): string {
    const at = data.byteOffset - this.#start
    return this.#text.slice(at, at + data.length)
  }

  /** Most events of a block have one time. */
  time(ms: number): string {
    if (ms !== this.#time) {
      this.#time = ms
      this.#timeText = formatTime(ms)
    }
    return this.#timeText
  }
}

/** An event as JSON, binary. */
function json(event: Event, source: Source, channel: string | undefined, withTo: boolean | undefined): string {
  const { seq, time, type, key, id, data, to } = event
  let text = channel === undefined ? '{"seq":' : `{"channel":"${channel}","seq":`
  text += `${seq},"time":"${source.time(time)}"`
  if (type !== null) text += `,"type":${quote(type)}`
  if (key !== null) text += `,"key":${quote(key)}`
  if (id !== null) text += `,"id":${quote(id)}`
  if (withTo && to !== null) text += `,"to":${binary(JSON.stringify(audienceJson(to)))}`
  if (data === null) return isTombstone(event) ? `${text},"tombstone":true}` : `${text}}`
  if (event.contentType === null) return `${text},"data":${source.data(data)}}`
  text += `,"contentType":${quote(event.contentType)}`
  if (isTextType(event.contentType) && isUtf8(data)) return `${text},"data":${quoteBytes(data)}}`
  return `${text},"dataBase64":"${bufferOf(data).toString('base64')}"}`
}

function audienceJson({ users, groups }: NonNullable<Event['to']>): AudienceJson {
  return { ...(users.length > 0 && { users }), ...(groups.length > 0 && { groups }) }
}

/** Text that stands in JSON as it is. */
const PLAIN = /^[ !#-[\]-~]*$/

const quote = (text: string): string => (PLAIN.test(text) ? `"${text}"` : binary(JSON.stringify(text)))

const quoteBytes = (utf8: Uint8Array): string => binary(JSON.stringify(bufferOf(utf8).toString()))

const binary = (text: string): string => Buffer.from(text).toString('latin1')

const bufferOf = (bytes: Uint8Array): Buffer => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)

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
      const events = eventsOf(page, block, left)
      if (events.length === left) return events.at(-1)!.seq
      left -= events.length
    }
  }
  return page.last
}

const packr = new Packr({ useRecords: false, variableMapSize: true })
/** The name `blocks` and the beginning of a bin with 32 bits of length. */
const BLOCKS = Buffer.from([0xa6, ...Buffer.from('blocks'), 0xc6])

/** A MessagePack map of at most 14 fields and one more: `blocks`, a bin of whole blocks, copied once. */
export function blocksMap(fields: object, blocks: readonly Uint8Array[]): Buffer {
  const head = packr.pack(fields)
  // Up to 15 fields are counted in the map's first byte.
  head[0]! += 1
  let length = 0
  for (const block of blocks) length += block.length
  const size = Buffer.alloc(4)
  size.writeUInt32BE(length)
  return Buffer.concat([head, BLOCKS, size, ...blocks])
}
