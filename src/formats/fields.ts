/**
 * The fields of a new event as a door collects them, from whatever it was written in, and the rules that join data
 * and content type. Names and sizes are checked by event.ts.
 */
import type { EventParts, Part } from '../body.ts'
import { TidemarkError } from '../errors.ts'
import {
  APPEND_EVENTS_MAX,
  type Audience,
  checkAudience,
  checkContentType,
  checkId,
  checkJoined,
  checkKey,
  checkType,
  ID_BYTES_MAX,
  isPlain,
  isType,
  KEY_BYTES_MAX,
} from '../event.ts'
import { jsonLine, jsonValue, onOneLine, refuse, wordsOf } from './json.ts'

/** What `dataBase64` and a MessagePack bin are when nothing is said. */
export const BYTES_TYPE = 'application/octet-stream'

/** The fields of an event, as wordAt numbers them. */
export const FIELDS = wordsOf(['data', 'type', 'key', 'id', 'contentType', 'dataBase64', 'to'])
export const DATA = 0
const TYPE = 1
const KEY = 2
const ID = 3
const CONTENT_TYPE = 4
const DATA_BASE64 = 5
export const TO = 6

const NO_BYTES = new Uint8Array()
const utf8 = new TextEncoder()

class Place implements Part {
  bytes: Uint8Array = NO_BYTES
  start = -1
  end = -1

  set(bytes: Uint8Array, start = 0, end = bytes.length): void {
    this.bytes = bytes
    this.start = start
    this.end = end
  }

  clear(): void {
    this.set(NO_BYTES, -1, -1)
  }
}

/** A content type as it was written last, and as it is kept (null: JSON): most events are of one. */
let writtenType: Uint8Array = NO_BYTES
let keptType: Uint8Array | null = NO_BYTES

function keepType(written: string): Uint8Array | null {
  const kept = checkContentType(written)
  writtenType = utf8.encode(written)
  keptType = kept === null ? null : utf8.encode(kept)
  return keptType
}

/** Used for one event after another: `clear` comes first. */
export class EventFields implements EventParts {
  readonly type = new Place()
  readonly key = new Place()
  readonly id = new Place()
  readonly contentType = new Place()
  readonly data = new Place()
  to: Audience | null = null
  /** Bits of the fields that were given. */
  #given = 0
  /** As it was written, where it is not the one before. */
  #contentType: string | undefined
  /** Whether JSON data may hold line breaks between its tokens. */
  #lineBreaks = false

  clear(): void {
    if (this.#given === 0) return
    this.type.clear()
    this.key.clear()
    this.id.clear()
    this.contentType.clear()
    this.data.clear()
    this.to = null
    this.#given = 0
    this.#contentType = undefined
    this.#lineBreaks = false
  }

  /**
   * Takes a text where it lies, if nothing has to be decoded to know that it is as it should be and written without
   * escapes; otherwise it is for `set`.
   */
  takes(field: number, bytes: Uint8Array, start: number, end: number): boolean {
    if (this.#given & (1 << field)) return false
    switch (field) {
      case TYPE:
        if (!isType(bytes, start, end)) return false
        this.type.set(bytes, start, end)
        break
      case KEY:
        if (!isPlain(bytes, start, end, KEY_BYTES_MAX)) return false
        this.key.set(bytes, start, end)
        break
      case ID:
        if (!isPlain(bytes, start, end, ID_BYTES_MAX)) return false
        this.id.set(bytes, start, end)
        break
      case CONTENT_TYPE: {
        const { length } = writtenType
        if (end - start !== length || length === 0) return false
        for (let i = 0; i < length; i++) if (bytes[start + i] !== writtenType[i]) return false
        break
      }
      default:
        return false
    }
    this.#given |= 1 << field
    return true
  }

  /** Takes any field but `data`, as a decoded value. @throws bad-request */
  set(name: string, value: unknown): void {
    switch (name) {
      case 'type':
        this.#once(TYPE, name)
        this.type.set(utf8.encode(checkType(value)))
        return
      case 'key':
        this.#once(KEY, name)
        this.key.set(utf8.encode(checkKey(value)))
        return
      case 'id':
        this.#once(ID, name)
        this.id.set(utf8.encode(checkId(value)))
        return
      case 'contentType':
        this.#once(CONTENT_TYPE, name)
        this.#contentType = text(name, value)
        return
      case 'dataBase64':
        this.#once(DATA_BASE64, name)
        this.data.set(base64(text(name, value)))
        this.#isBytes()
        return
      case 'to':
        this.#once(TO, name)
        this.to = checkAudience(value)
        return
      default:
        refuse(`An event has no field ${JSON.stringify(name)}`, { field: name })
    }
  }

  /** Takes `data` as a checked JSON value. */
  setJson(bytes: Uint8Array, start: number, end: number, lineBreaks: boolean): void {
    this.#once(DATA, 'data')
    this.data.set(bytes, start, end)
    this.#lineBreaks = lineBreaks
  }

  /** Takes `data` as bytes. */
  setBytes(bytes: Uint8Array, start: number, end: number): void {
    this.#once(DATA, 'data')
    this.data.set(bytes, start, end)
    this.#isBytes()
  }

  #isBytes(): void {
    this.#given |= IS_BYTES
  }

  #once(field: number, name: string): void {
    if (this.#given & (1 << field)) refuse(`The field ${name} is given twice`, { field: name })
    this.#given |= 1 << field
    if ((this.#given & BOTH_DATA) === BOTH_DATA) refuse('An event has data or dataBase64, not both', { field: name })
  }

  /** Joins what was given: the event's parts, until `clear`. @throws bad-request */
  finish(): EventParts {
    if (this.#given & (IS_BYTES | (1 << CONTENT_TYPE))) this.#join()
    else if (this.#lineBreaks) this.data.set(onOneLine(this.#view()))
    checkJoined(this.type.start >= 0, this.key.start >= 0, this.data.start >= 0, this.to !== null)
    return this
  }

  #join(): void {
    const contentType = this.#kept()
    const isJson = contentType === null
    if (this.#given & IS_BYTES) {
      if (isJson) this.data.set(jsonLine(this.#view()))
    } else {
      if (this.data.start < 0) refuse('contentType stands beside data', { field: 'contentType' })
      this.data.set(isJson ? onOneLine(this.#view()) : textData(this.#view()))
    }
    if (!isJson) this.contentType.set(contentType)
  }

  /** The content type as it is kept; null is JSON. */
  #kept(): Uint8Array | null {
    if (!(this.#given & (1 << CONTENT_TYPE))) return BYTES_TYPE_BYTES
    return this.#contentType === undefined ? keptType : keepType(this.#contentType)
  }

  #view(): Uint8Array {
    const { bytes, start, end } = this.data
    return bytes.subarray(start, end)
  }
}

const BYTES_TYPE_BYTES = utf8.encode(BYTES_TYPE)
/** Beside the bits of the fields: data are bytes, not a JSON value. */
const IS_BYTES = 1 << 8
const BOTH_DATA = (1 << DATA) | (1 << DATA_BASE64)

function text(field: string, value: unknown): string {
  return typeof value === 'string' ? value : refuse(`${field} is a string`, { field })
}

/** Strict base64: the alphabet with + and /, padded, nothing else. */
function base64(text: string): Uint8Array {
  const bytes = Buffer.from(text, 'base64')
  if (bytes.toString('base64') !== text) refuse('dataBase64 is base64 with padding', { field: 'dataBase64' })
  return bytes
}

const QUOTE = 0x22
const BACKSLASH = 0x5c

/** The UTF-8 bytes of a JSON string. */
function textData(json: Uint8Array): Uint8Array {
  if (json[0] !== QUOTE)
    return refuse('With this contentType data is a string; bytes stand in dataBase64', { field: 'data' })
  if (!json.includes(BACKSLASH)) return json.subarray(1, -1)
  const text = jsonValue(json, { start: 0, end: json.length }) as string
  if (/\p{Surrogate}/u.test(text)) refuse('data holds half a character', { field: 'data' })
  return Buffer.from(text)
}

export const noEvents = (): never => refuse('An append has at least one event')

export const tooMany = (): never => {
  throw new TidemarkError('too-large', `An append holds at most ${APPEND_EVENTS_MAX} events`, {
    limit: APPEND_EVENTS_MAX,
  })
}

/** The same refusal, with the place of the event that it speaks of. */
export function placed(error: unknown, place: Readonly<Record<string, number>>): unknown {
  if (!(error instanceof TidemarkError)) return error
  return new TidemarkError(error.code, error.message, { ...error.details, ...place }, { cause: error.cause })
}
