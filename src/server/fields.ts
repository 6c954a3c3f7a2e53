/**
 * The fields of a new event as a door collects them, from whatever it was written in, and the rules that join data
 * and content type. Names and sizes are checked by event.ts.
 */
import { TidemarkError } from '../errors.ts'
import {
  APPEND_EVENTS_MAX,
  type Audience,
  checkAudience,
  checkContentType,
  checkEvent,
  checkId,
  checkKey,
  checkType,
  type NewEvent,
} from '../event.ts'
import { jsonLine, jsonValue, onOneLine, refuse } from './json.ts'

/** What `dataBase64` and a MessagePack bin are when nothing is said. */
export const BYTES_TYPE = 'application/octet-stream'

/** A field's bit, to tell one that is given twice. */
const BIT = { data: 1, type: 2, key: 4, id: 8, contentType: 16, dataBase64: 32, to: 64 } as const

export class EventFields {
  #given = 0
  #type: string | null = null
  #key: string | null = null
  #id: string | null = null
  #to: Audience | null = null
  #contentType: string | undefined
  #json: Uint8Array | undefined
  /** Whether #json may hold line breaks between its tokens. */
  #lineBreaks = false
  #bytes: Uint8Array | undefined

  /** Takes any field but `data`, as a decoded value. @throws bad-request */
  set(name: string, value: unknown): void {
    switch (name) {
      case 'type':
        this.#once(BIT.type, name)
        this.#type = checkType(value)
        return
      case 'key':
        this.#once(BIT.key, name)
        this.#key = checkKey(value)
        return
      case 'id':
        this.#once(BIT.id, name)
        this.#id = checkId(value)
        return
      case 'contentType':
        this.#once(BIT.contentType, name)
        this.#contentType = text(name, value)
        return
      case 'dataBase64':
        this.#once(BIT.dataBase64, name)
        this.#bytes = base64(text(name, value))
        return
      case 'to':
        this.#once(BIT.to, name)
        this.#to = checkAudience(value)
        return
      default:
        refuse(`An event has no field ${JSON.stringify(name)}`, { field: name })
    }
  }

  /** Takes `data` as a checked JSON value. */
  setJson(json: Uint8Array, lineBreaks: boolean): void {
    this.#once(BIT.data, 'data')
    this.#json = json
    this.#lineBreaks = lineBreaks
  }

  /** Takes `data` as bytes. */
  setBytes(bytes: Uint8Array): void {
    this.#once(BIT.data, 'data')
    this.#bytes = bytes
  }

  #once(bit: number, field: string): void {
    if (this.#given & bit) refuse(`The field ${field} is given twice`, { field })
    this.#given |= bit
    if ((this.#given & BOTH_DATA) === BOTH_DATA) refuse('An event has data or dataBase64, not both', { field })
  }

  /** Joins what was given. @throws bad-request */
  finish(): NewEvent {
    const type = this.#type
    const key = this.#key
    const id = this.#id
    const to = this.#to
    if (this.#contentType === undefined && this.#bytes === undefined) {
      const json = this.#json ?? null
      return checkEvent({
        type,
        key,
        id,
        contentType: null,
        data: json && this.#lineBreaks ? onOneLine(json) : json,
        to,
      })
    }
    const contentType = checkContentType(this.#contentType ?? BYTES_TYPE)
    return checkEvent({ type, key, id, contentType, data: this.#data(contentType), to })
  }

  #data(contentType: string | null): Uint8Array {
    if (this.#bytes !== undefined) return contentType === null ? jsonLine(this.#bytes) : this.#bytes
    if (this.#json === undefined) return refuse('contentType stands beside data', { field: 'contentType' })
    return contentType === null ? onOneLine(this.#json) : textData(this.#json)
  }
}

const BOTH_DATA = BIT.data | BIT.dataBase64

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
