/** Reads the body of a block (body.ts), event by event, as places in its bytes. */
import { TidemarkError } from './errors.ts'
import type { Audience } from './event.ts'

const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** What is wrong with bytes that should be a block. */
export const damaged = (why: string, details: Record<string, unknown> = {}): never => {
  throw new TidemarkError('data-loss', `A block is damaged: ${why}`, details)
}

/**
 * Where the parts of an event lie in the bytes that it was read from; a start of −1 where there is none. Written anew
 * for each event.
 */
export class Parts {
  /** From the type to the content type, as they are encoded. */
  fields = -1
  fieldsEnd = -1
  type = -1
  typeEnd = -1
  key = -1
  keyEnd = -1
  id = -1
  idEnd = -1
  contentType = -1
  contentTypeEnd = -1
  data = -1
  dataEnd = -1
  to: Audience | null = null
}

/** Walks a body. Every read is bounds-checked: a block from a network may claim anything. */
export class BodyReader {
  at: number
  readonly #bytes: Uint8Array
  readonly #end: number

  constructor(bytes: Uint8Array, start: number, end: number) {
    this.#bytes = bytes
    this.#end = end
    this.at = start
    if (start > end) damaged('its table is cut')
  }

  /** Reads one event as places, without a copy of anything. */
  parts(parts: Parts): void {
    if (this.#byte() !== 0x96) damaged('an event is not an array of six')
    parts.fields = this.at
    parts.type = this.#place(this.#textLength())
    parts.typeEnd = this.at
    parts.key = this.#place(this.#textLength())
    parts.keyEnd = this.at
    parts.id = this.#place(this.#textLength())
    parts.idEnd = this.at
    parts.contentType = this.#place(this.#textLength())
    parts.contentTypeEnd = this.at
    parts.fieldsEnd = this.at
    parts.data = this.#place(this.#dataLength())
    parts.dataEnd = this.at
    parts.to = this.#audience()
  }

  /** Passes over `length` bytes; where they begin, −1 for nil. */
  #place(length: number): number {
    if (length < 0) return -1
    if (length > this.#end - this.at) return damaged('an event is cut')
    const start = this.at
    this.at += length
    return start
  }

  end(): void {
    if (this.at !== this.#end) damaged('bytes stand after its last event')
  }

  #byte(): number {
    if (this.at >= this.#end) return damaged('an event is cut')
    return this.#bytes[this.at++]!
  }

  #length(width: number): number {
    let length = 0
    for (let i = 0; i < width; i++) length = length * 256 + this.#byte()
    return length
  }

  /** Length of the text that follows, or −1 for nil. */
  #textLength(): number {
    const code = this.#byte()
    if (code === 0xc0) return -1
    if (code >> 5 === 5) return code & 31
    if (code >= 0xd9 && code <= 0xdb) return this.#length(1 << (code - 0xd9))
    return damaged('a field of an event is not text')
  }

  /** Length of the bin that follows, or −1 for nil. */
  #dataLength(): number {
    const code = this.#byte()
    if (code === 0xc0) return -1
    if (code < 0xc4 || code > 0xc6) return damaged('the data of an event is not bin')
    return this.#length(1 << (code - 0xc4))
  }

  #audience(): Audience | null {
    const code = this.#byte()
    if (code === 0xc0) return null
    if (code !== 0x92) return damaged('the audience of an event is not a pair')
    const names = (): string[] => {
      const size = this.#byte()
      const length =
        size >> 4 === 9 ? size & 15 : size === 0xdc ? this.#length(2) : damaged('an audience is not a list')
      return Array.from({ length }, () => {
        const start = this.#place(this.#textLength())
        return textAt(this.#bytes, start, this.at) ?? damaged('a name of an audience is nil')
      })
    }
    return { users: names(), groups: names() }
  }
}

/** The text in bytes[start] … bytes[end − 1]; null where there is none. @throws data-loss when it is not UTF-8 */
export function textAt(bytes: Uint8Array, start: number, end: number): string | null {
  if (start < 0) return null
  if (end - start <= 24) {
    let ascii = ''
    let at = start
    while (at < end && bytes[at]! < 128) ascii += String.fromCharCode(bytes[at++]!)
    if (at === end) return ascii
  }
  try {
    return text.decode(bytes.subarray(start, end))
  } catch (cause) {
    throw new TidemarkError('data-loss', 'A block is damaged: a text is not UTF-8', {}, { cause })
  }
}
