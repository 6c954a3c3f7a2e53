/**
 * New events out of MessagePack, straight from the bytes: data given as a bin are those bytes, any other value
 * becomes JSON text.
 */
import { BODY_BYTES_MAX, type Body, BodyWriter, type EventParts } from '../body.ts'
import { APPEND_EVENTS_MAX, DEPTH_MAX } from '../event.ts'
import { DATA, EventFields, FIELDS, noEvents, placed, tooMany } from './fields.ts'
import { type KnownTexts, LEVELS_AROUND, refuse, type Word } from './json.ts'
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

/** The fields of one message. */
export interface MsgpackFields {
  names(): readonly string[]
  /** Undefined when it is not given. */
  value(name: string): unknown
  /** @throws bad-request, too-large */
  events(): Body
}

/**
 * Reads a message, one whole MessagePack map. Maps in it become objects (any name is an own property), bins become
 * views; events in a list are encoded where they are met, and what is wrong with one of them is told when they are
 * asked for.
 * @param words names of fields that it may have @param known learns the channel
 * @throws bad-request: depth, ext, names that are not text or come twice, numbers that JSON can't hold, bad UTF-8,
 * bytes behind the value
 */
export function msgpackFields(bytes: Uint8Array, words: readonly Word[], known: KnownTexts): MsgpackFields {
  const reader = new Reader(bytes)
  const size = reader.mapSize()
  if (size < 0) refuse('not one MessagePack map')
  const values = new Map<string, unknown>()
  for (let left = size; left > 0; left--) {
    const word = reader.nameIn(words)
    const name = word < 0 ? reader.nameText() : words[word]!.text
    if (values.has(name)) refuse(`The field ${JSON.stringify(name)} is given twice`, { field: name })
    values.set(name, name === 'events' && reader.atList() ? readBody(reader) : readField(reader, name, known))
  }
  reader.finish()
  return {
    names: () => [...values.keys()],
    value: (name) => values.get(name),
    events: () => {
      const events = values.get('events')
      if (events instanceof Fault) throw events.error
      return events instanceof ReadBody ? events.body : refuse('events is a list of new events', { field: 'events' })
    },
  }
}

/** Nothing that is decoded is one of these. */
class ReadBody {
  readonly body: Body
  constructor(body: Body) {
    this.body = body
  }
}

class Fault {
  readonly error: unknown
  constructor(error: unknown) {
    this.error = error
  }
}

function readBody(reader: Reader): ReadBody | Fault {
  const { at } = reader
  const writer = new BodyWriter(Math.min(reader.bytes.length - at, BODY_BYTES_MAX))
  try {
    readEvents(reader, reader.listSize(), writer)
    return new ReadBody(writer.finish())
  } catch (error) {
    // What is no MessagePack at all is told before what is wrong with one event.
    reader.at = at
    reader.skip()
    return new Fault(error)
  }
}

function readField(reader: Reader, name: string, known: KnownTexts): unknown {
  if (!reader.textAhead()) return reader.value(ROOM - 1)
  const { bytes, start, end } = reader
  const text = known.at(bytes, start, end)
  if (text === undefined) {
    const value = reader.value(ROOM - 1) as string
    if (name === 'channel') known.learn(value, bytes, start, end)
    return value
  }
  reader.pass()
  return text
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
