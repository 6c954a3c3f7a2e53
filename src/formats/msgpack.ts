/**
 * New events out of MessagePack, straight from the bytes: data given as a bin are those bytes, any other value
 * becomes JSON text.
 */
import { BODY_BYTES_MAX, type Body, BodyWriter, type EventParts } from '../body.ts'
import { APPEND_EVENTS_MAX, DEPTH_MAX } from '../event.ts'
import { DATA, EventFields, FIELDS, noEvents, placed, tooMany } from './fields.ts'
import { LEVELS_AROUND, refuse } from './json.ts'
import { Reader } from './unpack.ts'

/** One new event (a map) or up to APPEND_EVENTS_MAX of them (a list). @throws bad-request, too-large */
export function parseMsgpackBody(bytes: Uint8Array): Body {
  const reader = new Reader(bytes)
  const writer = new BodyWriter(Math.min(bytes.length, BODY_BYTES_MAX))
  const count = reader.listSize()
  if (count < 0) writer.addParts(readEvent(reader))
  else readEvents(reader, count, writer)
  reader.finish()
  return writer.finish()
}

/**
 * `events` of a message that decodeMsgpack gave out.
 * @throws bad-request, too-large
 */
export function msgpackEvents(value: unknown): Body {
  if (!(value instanceof PackedEvents)) return refuse('events is a list of new events', { field: 'events' })
  const reader = new Reader(value.bytes)
  const writer = new BodyWriter(Math.min(value.bytes.length, BODY_BYTES_MAX))
  readEvents(reader, reader.listSize(), writer)
  return writer.finish()
}

/** A list of new events that was not looked into yet. */
class PackedEvents {
  readonly bytes: Uint8Array
  constructor(bytes: Uint8Array) {
    this.bytes = bytes
  }
}

/**
 * Decodes one whole MessagePack value. Maps become objects (any name is an own property), bins become views. A list
 * `events` of the outermost map is left packed, for msgpackEvents.
 * @throws bad-request: depth, ext, names that are not text or come twice, numbers that JSON can't hold, bad UTF-8,
 * bytes behind the value
 */
export function decodeMsgpack(bytes: Uint8Array): unknown {
  const reader = new Reader(bytes)
  const size = reader.mapSize()
  const value = size < 0 ? reader.value(ROOM) : reader.map(size, ROOM, (name) => packedEvents(reader, name))
  reader.finish()
  return value
}

function packedEvents(reader: Reader, name: string): PackedEvents | undefined {
  if (name !== 'events' || !reader.atList()) return undefined
  return new PackedEvents(reader.skip())
}

/** Levels of the one field beside `data` that nests: `to`. */
const AUDIENCE_LEVELS = 2
/** Levels that a whole message may nest. */
const ROOM = LEVELS_AROUND + DEPTH_MAX

/** A list is read in one go, event by event: nobody else reads meanwhile. */
const FIELDS_READ = new EventFields()

function readEvents(reader: Reader, count: number, writer: BodyWriter): void {
  if (count === 0) noEvents()
  if (count > APPEND_EVENTS_MAX) tooMany()
  while (writer.count < count) {
    try {
      writer.addParts(readEvent(reader))
    } catch (error) {
      throw placed(error, { event: writer.count })
    }
  }
}

/** The next event; until the one after it is read. */
function readEvent(reader: Reader): EventParts {
  const fields = FIELDS_READ
  fields.clear()
  const size = reader.mapSize()
  if (size < 0) return refuse('An event is a map')
  for (let i = 0; i < size; i++) {
    const field = reader.nameIn(FIELDS)
    if (field === DATA) readData(reader, fields)
    else if (reader.textAhead() && fields.takes(field, reader.bytes, reader.start, reader.end)) reader.pass()
    else fields.set(field < 0 ? reader.nameText() : FIELDS[field]!.text, reader.value(AUDIENCE_LEVELS))
  }
  return fields.finish()
}

function readData(reader: Reader, fields: EventFields): void {
  if (reader.bytesAhead()) {
    reader.pass()
    fields.setBytes(reader.bytes, reader.start, reader.end)
    return
  }
  const json = Buffer.from(reader.json(DEPTH_MAX))
  fields.setJson(json, 0, json.length, false)
}
