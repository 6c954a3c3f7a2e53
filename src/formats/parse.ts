/**
 * New events out of JSON text: bytes become the body of an append in one walk, every refusal coded.
 *
 * An event's `data` is never parsed: it is checked where it stands and copied as the sender wrote it. MessagePack
 * and raw bytes end in the same EventFields, so that all doors take the same events.
 */
import { BODY_BYTES_MAX, type Body, BodyWriter } from '../body.ts'
import { TidemarkError } from '../errors.ts'
import { APPEND_EVENTS_MAX, AUDIENCE_NAMES_MAX } from '../event.ts'
import { DATA, EventFields, FIELDS, noEvents, placed, tooMany } from './fields.ts'
import { Gather } from './gather.ts'
import {
  asBuffer,
  checkEnd,
  checkUtf8,
  jsonItems,
  jsonString,
  jsonValue,
  knownFields,
  lineBreaksPassed,
  refuse,
  type Span,
  skipColon,
  skipComma,
  skipName,
  skipSpace,
  skipValue,
  wordAt,
} from './json.ts'

// Whoever takes events takes them from here.
export { jsonFields } from './json.ts'
export { parseMsgpackBody } from './msgpack.ts'

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
  const start = skipSpace(bytes, 0)
  let end: number
  if (bytes[start] === OPEN_LIST) end = readList(bytes, start, writer)
  else {
    end = readEvent(bytes, start, FIELDS_READ)
    writer.addParts(FIELDS_READ.finish())
  }
  checkEnd(bytes, end, bytes.length)
  return writer.finish()
}

/** The list `events` inside a bigger JSON text, at a span that jsonFields gave out. @throws bad-request, too-large */
export const parseJsonEvents = (bytes: Uint8Array, span: Span): Body => readJsonEvents(bytes, span.start).body

/**
 * The list `events` that begins at `start` of a text that nobody has looked at, and the place behind it. What it throws
 * may be of one event only: whether the rest is JSON is not known then. @throws bad-request, too-large
 */
export function readJsonEvents(bytes: Uint8Array, start: number): { readonly body: Body; readonly end: number } {
  if (bytes[start] !== OPEN_LIST) refuse('events is a list of new events', { field: 'events' })
  const writer = new BodyWriter(Math.min(bytes.length - start, BODY_BYTES_MAX))
  const end = readList(bytes, start, writer)
  return { body: writer.finish(), end }
}

/** The string that stands there; undefined when the value is no string. */
const stringAt = (bytes: Uint8Array, start: number, end: number): string | undefined =>
  bytes[start] === QUOTE ? jsonString(bytes, start, end) : undefined

/** A list is read in one go, event by event: nobody else reads meanwhile. */
const FIELDS_READ = new EventFields()

function readList(bytes: Uint8Array, start: number, writer: BodyWriter): number {
  let at = skipSpace(bytes, start + 1)
  if (bytes[at] === CLOSE_LIST) noEvents()
  for (;;) {
    if (writer.count === APPEND_EVENTS_MAX) tooMany()
    try {
      at = readEvent(bytes, at, FIELDS_READ)
      writer.addParts(FIELDS_READ.finish())
    } catch (error) {
      throw placed(error, { event: writer.count })
    }
    at = skipSpace(bytes, at)
    if (bytes[at] === CLOSE_LIST) return at + 1
    at = skipComma(bytes, at)
  }
}

/** Reads the event that begins at `at` into `fields`; returns the place behind it. */
function readEvent(bytes: Uint8Array, at: number, fields: EventFields): number {
  fields.clear()
  if (bytes[at] !== OPEN_OBJECT) return refuse('An event is an object')
  at = skipSpace(bytes, at + 1)
  for (let first = true; !first || bytes[at] !== CLOSE_OBJECT; first = false) {
    const nameEnd = skipName(bytes, at)
    const start = skipColon(bytes, nameEnd)
    const breaks = lineBreaksPassed()
    const end = skipValue(bytes, start)
    const field = wordAt(FIELDS, bytes, at + 1, nameEnd - 1)
    if (field === DATA) fields.setJson(bytes, start, end, lineBreaksPassed() !== breaks)
    else if (bytes[start] !== QUOTE || !fields.takes(field, bytes, start + 1, end - 1))
      setField(fields, stringAt(bytes, at, nameEnd)!, bytes, start, end, lineBreaksPassed() !== breaks)
    at = skipSpace(bytes, end)
    if (bytes[at] === CLOSE_OBJECT) break
    at = skipComma(bytes, at)
  }
  return at + 1
}

function setField(
  fields: EventFields,
  name: string,
  bytes: Uint8Array,
  start: number,
  end: number,
  hasLineBreaks: boolean,
): void {
  if (name === 'data') fields.setJson(bytes, start, end, hasLineBreaks)
  else if (name === 'to') fields.set(name, readAudience(bytes, { start, end }))
  else fields.set(name, stringAt(bytes, start, end))
}

function readAudience(bytes: Uint8Array, span: Span): unknown {
  // A name given twice must not silently lose a reader.
  const lists = knownFields(bytes, span, ['users', 'groups'], 'to/')
  for (const list of lists.values()) if (bytes[list.start] === OPEN_LIST) jsonItems(bytes, list, AUDIENCE_NAMES_MAX)
  return jsonValue(bytes, span)
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
  readonly #fields = new EventFields()
  #writer = new BodyWriter()
  /** The beginning of a line whose end has not come. */
  readonly #rest = new Gather()
  #line = 0

  constructor(lineMax: number) {
    this.#lineMax = lineMax
  }

  /** Takes the next bytes; gives out each piece that became full. @throws bad-request { line }, too-large { line } */
  *push(bytes: Uint8Array): Generator<Body> {
    const chunk = asBuffer(bytes)
    let start = 0
    for (let end = chunk.indexOf(LF); end >= 0; end = chunk.indexOf(LF, start)) {
      this.#bound(end - start)
      let read: boolean
      if (this.#rest.length === 0) read = this.#read(chunk, start, end)
      else {
        this.#rest.add(chunk.subarray(start, end))
        const line = this.#rest.take()
        read = this.#read(line, 0, line.length)
      }
      start = end + 1
      if (!read) continue
      if (!this.#fits()) yield this.#cut()
      this.#add()
    }
    this.#bound(chunk.length - start)
    if (start < chunk.length) this.#rest.add(chunk.subarray(start))
  }

  /** After the last bytes: what is left, if anything. */
  *finish(): Generator<Body> {
    const line = this.#rest.take()
    if (line.length > 0 && this.#read(line, 0, line.length)) {
      if (!this.#fits()) yield this.#cut()
      this.#add()
    }
    if (this.#writer.count > 0) yield this.#cut()
  }

  /** A line goes on by so many bytes. */
  #bound(bytes: number): void {
    if (this.#rest.length + bytes <= this.#lineMax) return
    const facts = { line: this.#line + 1, limit: this.#lineMax }
    throw new TidemarkError('too-large', `A line holds at most ${this.#lineMax} bytes`, facts)
  }

  /** Reads a line as the next event; false for one that is empty. */
  #read(bytes: Buffer, start: number, end: number): boolean {
    this.#line++
    const line = bytes.subarray(start, end)
    const at = skipSpace(line, 0)
    if (at === line.length) return false
    try {
      checkUtf8(line)
      checkEnd(line, readEvent(line, at, this.#fields), line.length)
      this.#fields.finish()
      return true
    } catch (error) {
      throw placed(error, { line: this.#line })
    }
  }

  #fits(): boolean {
    const { type, key, id, contentType, data, to } = this.#fields
    let size = EVENT_OVERHEAD
    for (const part of [type, key, id, contentType, data]) size += part.end - part.start
    if (to) for (const name of [...to.users, ...to.groups]) size += name.length * 3 + 3
    const { count } = this.#writer
    return count === 0 || (count < APPEND_EVENTS_MAX && this.#writer.size + size <= BODY_BYTES_MAX)
  }

  #add(): void {
    try {
      this.#writer.addParts(this.#fields)
    } catch (error) {
      throw placed(error, { line: this.#line })
    }
  }

  #cut(): Body {
    const body = this.#writer.finish()
    this.#writer = new BodyWriter()
    return body
  }
}
