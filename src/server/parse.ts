/**
 * New events out of JSON text: bytes become the body of an append in one walk, every refusal coded.
 *
 * An event's `data` is never parsed: it is checked where it stands and copied as the sender wrote it. MessagePack
 * and raw bytes end in the same EventFields, so that all doors take the same events.
 */
import { isAscii } from 'node:buffer'
import { BODY_BYTES_MAX, type Body, BodyWriter } from '../body.ts'
import { TidemarkError } from '../errors.ts'
import { APPEND_EVENTS_MAX, type NewEvent } from '../event.ts'
import { EventFields, noEvents, placed, tooMany } from './fields.ts'
import { Gather } from './gather.ts'
import {
  checkEnd,
  checkUtf8,
  hasLineBreak,
  jsonFields,
  jsonValue,
  refuse,
  type Span,
  skipComma,
  skipName,
  skipSpace,
  skipString,
  skipValue,
} from './json.ts'

// Whoever takes events takes them from here.
export { jsonFields, jsonItems, jsonValue } from './json.ts'
export { decodeMsgpack, msgpackEvents, parseMsgpackBody } from './msgpack.ts'

const OPEN_LIST = 0x5b
const CLOSE_LIST = 0x5d
const OPEN_OBJECT = 0x7b
const CLOSE_OBJECT = 0x7d
const QUOTE = 0x22

/**
 * One new event (an object) or up to APPEND_EVENTS_MAX of them (a list), as JSON.
 * @throws bad-request, too-large
 */
export function parseJsonBody(bytes: Uint8Array): Body {
  checkUtf8(bytes)
  const writer = new BodyWriter(Math.min(bytes.length, BODY_BYTES_MAX))
  const source = new Source(bytes, 0, bytes.length)
  const start = skipSpace(bytes, 0)
  const end = bytes[start] === OPEN_LIST ? readList(source, start, writer) : readEvent(source, start, writer)
  checkEnd(bytes, end, bytes.length)
  return writer.finish()
}

/** The list `events` inside a bigger JSON text, at a span that jsonFields gave out. @throws bad-request, too-large */
export function parseJsonEvents(bytes: Uint8Array, span: Span): Body {
  if (bytes[span.start] !== OPEN_LIST) refuse('events is a list of new events', { field: 'events' })
  const writer = new BodyWriter(Math.min(span.end - span.start, BODY_BYTES_MAX))
  readList(new Source(bytes, span.start, span.end), span.start, writer)
  return writer.finish()
}

/** A JSON text with its values as strings at hand: one decode of the whole where it is ASCII. */
class Source {
  readonly bytes: Buffer
  readonly lineBreaks: boolean
  readonly #start: number
  readonly #ascii: string | undefined

  constructor(bytes: Uint8Array, start: number, end: number) {
    this.bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
    const part = this.bytes.subarray(start, end)
    this.lineBreaks = hasLineBreak(part)
    this.#start = start
    this.#ascii = isAscii(part) ? part.toString('latin1') : undefined
  }

  /** The string whose quotes stand at `start` and before `end`; undefined when the value is no string. */
  string(start: number, end: number): string | undefined {
    if (this.bytes[start] !== QUOTE) return undefined
    const text =
      this.#ascii === undefined
        ? this.bytes.toString('utf8', start + 1, end - 1)
        : this.#ascii.slice(start + 1 - this.#start, end - 1 - this.#start)
    return text.includes('\\') ? (JSON.parse(`"${text}"`) as string) : text
  }
}

function readList(source: Source, start: number, writer: BodyWriter): number {
  const { bytes } = source
  let at = skipSpace(bytes, start + 1)
  if (bytes[at] === CLOSE_LIST) noEvents()
  for (;;) {
    if (writer.count === APPEND_EVENTS_MAX) tooMany()
    try {
      at = readEvent(source, at, writer)
    } catch (error) {
      throw placed(error, { event: writer.count })
    }
    at = skipSpace(bytes, at)
    if (bytes[at] === CLOSE_LIST) return at + 1
    at = skipComma(bytes, at)
  }
}

/** Reads the event that begins at `at`; returns the place behind it. */
function readEvent(source: Source, at: number, sink: Sink): number {
  const { bytes } = source
  const event = new EventFields()
  if (bytes[at] !== OPEN_OBJECT) return refuse('An event is an object')
  at = skipSpace(bytes, at + 1)
  for (let first = true; !first || bytes[at] !== CLOSE_OBJECT; first = false) {
    const start = skipName(bytes, at)
    const name = source.string(at, skipString(bytes, at))!
    const end = skipValue(bytes, start)
    if (name === 'data') event.setJson(bytes.subarray(start, end), source.lineBreaks)
    else if (name === 'to') event.set(name, readAudience(bytes, { start, end }))
    else event.set(name, source.string(start, end))
    at = skipSpace(bytes, end)
    if (bytes[at] === CLOSE_OBJECT) break
    at = skipComma(bytes, at)
  }
  sink.add(event.finish())
  return at + 1
}

function readAudience(bytes: Uint8Array, span: Span): unknown {
  // A name given twice must not silently lose a reader.
  jsonFields(bytes, span.start, span.end)
  return jsonValue(bytes, span)
}

interface Sink {
  add(event: NewEvent): void
}

// ── Many lines ───────────────────────────────────────────────────────────────────────────────────────────────────

/** What an event takes beside its strings and data, at most; audiences aside. */
const EVENT_OVERHEAD = 48
const LF = 0x0a

/**
 * NDJSON of any length, as it comes: one new event a line, empty lines passed over, cut into pieces that each fit one
 * append. Where the cuts fall depends on the lines alone, never on how the network cut them.
 */
export class NdjsonReader {
  /** Longest line, bytes. */
  readonly #lineMax: number
  #writer = new BodyWriter()
  /** The beginning of a line whose end has not come. */
  readonly #rest = new Gather()
  #line = 0

  constructor(lineMax: number) {
    this.#lineMax = lineMax
  }

  /** Takes the next bytes; gives out each piece that became full. @throws bad-request { line }, too-large { line } */
  *push(chunk: Uint8Array): Generator<Body> {
    let start = 0
    for (let end = chunk.indexOf(LF); end >= 0; end = chunk.indexOf(LF, start)) {
      const part = chunk.subarray(start, end)
      start = end + 1
      this.#bound(part)
      if (this.#rest.length === 0) yield* this.#take(part)
      else {
        this.#rest.add(part)
        yield* this.#take(this.#rest.take())
      }
    }
    const rest = chunk.subarray(start)
    this.#bound(rest)
    if (rest.length > 0) this.#rest.add(rest)
  }

  /** After the last bytes: what is left, if anything. */
  *finish(): Generator<Body> {
    if (this.#rest.length > 0) yield* this.#take(this.#rest.take())
    if (this.#writer.count > 0) yield this.#cut()
  }

  #bound(part: Uint8Array): void {
    if (this.#rest.length + part.length <= this.#lineMax) return
    const facts = { line: this.#line + 1, limit: this.#lineMax }
    throw new TidemarkError('too-large', `A line holds at most ${this.#lineMax} bytes`, facts)
  }

  *#take(line: Uint8Array): Generator<Body> {
    this.#line++
    const start = skipSpace(line, 0)
    if (start === line.length) return
    const event = this.#parse(line, start)
    if (this.#writer.count > 0 && !this.#fits(event)) yield this.#cut()
    try {
      this.#writer.add(event)
    } catch (error) {
      throw placed(error, { line: this.#line })
    }
  }

  #parse(line: Uint8Array, start: number): NewEvent {
    try {
      checkUtf8(line)
      let read: NewEvent | undefined
      const end = readEvent(new Source(line, 0, line.length), start, { add: (event) => (read = event) })
      checkEnd(line, end, line.length)
      return read!
    } catch (error) {
      throw placed(error, { line: this.#line })
    }
  }

  #fits(event: NewEvent): boolean {
    const { type, key, id, contentType, data, to } = event
    const texts = [type, key, id, contentType, ...(to?.users ?? []), ...(to?.groups ?? [])]
    let size = EVENT_OVERHEAD + (data?.length ?? 0)
    for (const text of texts) if (text !== null) size += text.length * 3 + 3
    return this.#writer.count < APPEND_EVENTS_MAX && this.#writer.size + size <= BODY_BYTES_MAX
  }

  #cut(): Body {
    const body = this.#writer.finish()
    this.#writer = new BodyWriter()
    return body
  }
}
