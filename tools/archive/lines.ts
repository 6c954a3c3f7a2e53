/**
 * The archive as NDJSON, for people and other programs: one record a line, each event a line of its own, as it is read
 * over HTTP. JSON data stands as its sender wrote it.
 */
import { crc32 } from 'node:zlib'
import { buildBlock, readHeader, type Span } from '../../src/block.ts'
import { HEADER_BYTES } from '../../src/body.ts'
import { TidemarkError } from '../../src/errors.ts'
import { APPEND_EVENTS_MAX, BLOCK_BYTES_MAX, checkSeq, checkTime } from '../../src/event.ts'
import { jsonFields, parseJsonBody } from '../../src/formats/parse.ts'
import { render } from '../../src/formats/render.ts'
import { recordFrom } from './check.ts'
import { type ArchiveRecord, type Codec, cut, type Entry, type Input } from './record.ts'

/** Longest line, bytes: a block of text, each of its characters escaped. */
const LINE_MAX = 8 * 1024 * 1024
const READ_BYTES = 1024 * 1024
const LF = 0x0a
/** What an event takes of a block beside its bytes: its place in the table. */
const TABLE_ENTRY = 8
/** The furthest that two times of one block are apart, ms. */
const TIMES_APART = 2 ** 31 - 1

export const linesCodec: Codec = { name: 'lines', encode, decode }

function encode(record: ArchiveRecord): Uint8Array {
  if (record.is !== 'blocks') return Buffer.from(`${JSON.stringify(record)}\n`)
  const { blocks } = record
  if (blocks.length === 0) return Buffer.of()
  const page = { channel: '', blocks, after: readHeader(blocks[0]!).after, last: readHeader(blocks.at(-1)!).last }
  return render(page, { withTo: true }, { behind: (to) => to.ascii('\n') }).bytes
}

function* decode(input: Input): Generator<Entry> {
  const events = new Events()
  for (const { line, at } of linesIn(input)) {
    const found = readAt(line, at)
    if ('span' in found) {
      if (!events.fits(found.span)) yield* events.upTo(events.last)
      events.add(found.span, line, at)
      continue
    }
    const { record } = found
    // What compaction left out behind the last event belongs to a block, too.
    if (record.is === 'lost') yield* events.upTo(record.after)
    else if (record.is === 'cursors' || record.is === 'end') yield* events.upTo(events.head)
    else yield* events.upTo(events.last)
    events.pass(record)
    yield { record, bytes: line }
  }
  yield* events.upTo(events.last)
}

/** Events on their way into a block. */
class Events {
  #channel = ''
  #spans: Span[] = []
  #lines: Uint8Array[] = []
  #size = HEADER_BYTES
  /** Where the first of them stands. */
  #at = 0
  /** Where the block begins that they will be. */
  #after = 0
  #time = 0
  /** Of the channel. */
  head = 0

  /** The seq of the newest one. */
  get last(): number {
    return this.#spans.at(-1)?.seq ?? this.#after
  }

  fits({ bytes, time }: Span): boolean {
    const first = this.#spans[0]
    if (!first) return true
    const size = this.#size + bytes.length + TABLE_ENTRY
    return this.#spans.length < APPEND_EVENTS_MAX && size <= BLOCK_BYTES_MAX && time - first.time <= TIMES_APART
  }

  add(span: Span, line: Uint8Array, at: number): void {
    if (this.#spans.length === 0) this.#at = at
    this.#spans.push(span)
    this.#lines.push(line)
    this.#size += span.bytes.length + TABLE_ENTRY
    this.#time = span.time
  }

  /** What a record says of where the next events are. */
  pass(record: ArchiveRecord): void {
    if (record.is === 'channel') {
      this.#channel = record.channel
      this.#after = record.trimmed
      this.head = record.head
      this.#time = 0
    } else if (record.is === 'grown') this.head = record.head
    else if (record.is === 'lost' || record.is === 'trimmed') this.#after = record.upTo
  }

  /** The block that ends there. */
  *upTo(last: number): Generator<Entry> {
    if (last <= this.#after) return
    const range = { after: this.#after, last, time: this.#spans[0]?.time ?? this.#time }
    const block = buildBlock(this.#channel, range, this.#spans, crc32)
    if (!block) throw cut(this.#at, `seqs or times of ${this.#channel} lie too far apart behind ${range.after}`)
    const bytes = Buffer.concat(this.#lines)
    this.#spans = []
    this.#lines = []
    this.#size = HEADER_BYTES
    this.#after = last
    yield { record: { is: 'blocks', blocks: [block] }, bytes }
  }
}

/** Fields of an event as it is read that are not of the event as it was appended. */
const NOT_APPENDED = new Set(['seq', 'time', 'tombstone'])

/** @param at where the line stands @throws data-loss */
function readAt(line: Buffer, at: number): { readonly record: ArchiveRecord } | { readonly span: Span } {
  try {
    const fields = jsonFields(line)
    if (fields.has('is')) return { record: recordFrom(line.toString(), at) }
    const textOf = (name: string): string => {
      const field = fields.get(name)
      return field ? line.toString('utf8', field.start, field.end) : 'null'
    }
    const appended = [...fields.keys()].filter((name) => !NOT_APPENDED.has(name))
    const event = appended.map((name) => `${JSON.stringify(name)}:${textOf(name)}`)
    const { bytes, flags } = parseJsonBody(Buffer.from(`{${event.join(',')}}`))
    return {
      span: { seq: checkSeq(JSON.parse(textOf('seq'))), time: checkTime(JSON.parse(textOf('time'))), bytes, flags },
    }
  } catch (error) {
    if (!(error instanceof TidemarkError)) throw error
    throw cut(at, error.message)
  }
}

/** Whole lines, each with its line break. @throws data-loss when the last one has none */
function* linesIn(input: Input): Generator<{ readonly line: Buffer; readonly at: number }> {
  let rest: Buffer = Buffer.of()
  let at = 0
  for (let piece = input.take(READ_BYTES); piece.length > 0; piece = input.take(READ_BYTES)) {
    const bytes = rest.length > 0 ? Buffer.concat([rest, piece]) : piece
    let start = 0
    for (let end = bytes.indexOf(LF); end >= 0; end = bytes.indexOf(LF, start)) {
      const line = bytes.subarray(start, end + 1)
      yield { line, at }
      at += line.length
      start = end + 1
    }
    rest = bytes.subarray(start)
    if (rest.length > LINE_MAX) throw cut(at, `a line holds at most ${LINE_MAX} bytes`)
  }
  if (rest.length > 0) throw cut(at, 'the last line is cut')
}
