/**
 * The body of a block: events as concatenated MessagePack arrays.
 *
 *   event := [ type|nil, key|nil, id|nil, contentType|nil, data(bin)|nil, [users, groups]|nil ]
 *
 * Plain MessagePack that any decoder reads; written and read by hand here because every event passes through it.
 */
import { putU32 } from './bytes.ts'
import { TidemarkError } from './errors.ts'
import { type Audience, BLOCK_BYTES_MAX, type Event, type NewEvent } from './event.ts'

/** Bytes of a block's header. */
export const HEADER_BYTES = 36
/** Largest body of an append, so that its block stays within BLOCK_BYTES_MAX. */
export const BODY_BYTES_MAX = BLOCK_BYTES_MAX - HEADER_BYTES
/** All bodies of one append to several channels: 4 MiB, what a group holds. */
export const BODIES_BYTES_MAX = 4 * 1024 * 1024

/** What a block's flags say. */
export const FLAG = {
  /** The table tells each event's seq: compaction or an audience filter left some out. */
  holes: 1,
  /** The table tells each event's time. */
  times: 2,
  /** Some event has `to`: the block never leaves whole to a caller who may not read all of it. */
  addressed: 4,
  /** Some event has a key. */
  keyed: 8,
} as const

/** The events of one append, encoded once at the door; the writer gives them seqs. */
export interface Body {
  readonly bytes: Uint8Array
  readonly count: number
  /** `addressed` and `keyed` of FLAG. */
  readonly flags: number
}

const utf8 = new TextEncoder()
const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** What is wrong with bytes that should be a block. */
export const damaged = (why: string, details: Record<string, unknown> = {}): never => {
  throw new TidemarkError('data-loss', `A block is damaged: ${why}`, details)
}

/** Encodes events as a body. Throws `too-large` beyond BODY_BYTES_MAX. */
export function encodeBody(events: readonly NewEvent[]): Body {
  const writer = new BodyWriter()
  for (const event of events) writer.add(event)
  return writer.finish()
}

const SLAB_BYTES = 64 * 1024
let slab = new Uint8Array(SLAB_BYTES)
let slabAt = 0

/** Small bodies share an array: making one costs more than filling it. */
function allocate(bytes: number): Uint8Array {
  if (bytes > SLAB_BYTES / 16) return new Uint8Array(bytes)
  if (slabAt + bytes > SLAB_BYTES) {
    slab = new Uint8Array(SLAB_BYTES)
    slabAt = 0
  }
  slabAt += bytes
  return slab.subarray(slabAt - bytes, slabAt)
}

/** Grows as events come, so that a door encodes while it parses. */
export class BodyWriter {
  #bytes: Uint8Array
  #at = 0
  #count = 0
  #flags = 0

  /** `room`: how many bytes the body will have, about. */
  constructor(room = 4_096) {
    this.#bytes = allocate(room)
  }

  get count(): number {
    return this.#count
  }

  /** Bytes so far. */
  get size(): number {
    return this.#at
  }

  add(event: NewEvent): void {
    this.#room(16)
    this.#bytes[this.#at++] = 0x96
    this.#text(event.type)
    this.#text(event.key)
    this.#text(event.id)
    this.#text(event.contentType)
    this.#data(event.data)
    this.#audience(event.to)
    this.#count++
    if (event.key !== null) this.#flags |= FLAG.keyed
    if (event.to !== null) this.#flags |= FLAG.addressed
    if (this.#at > BODY_BYTES_MAX)
      throw new TidemarkError('too-large', `An append holds at most ${BODY_BYTES_MAX} bytes`, { limit: BODY_BYTES_MAX })
  }

  /** The body so far. Nothing is added after that. */
  finish(): Body {
    const wasted = this.#bytes.length - this.#at
    const bytes = wasted > this.#at ? this.#bytes.slice(0, this.#at) : this.#bytes.subarray(0, this.#at)
    return { bytes, count: this.#count, flags: this.#flags }
  }

  #room(bytes: number): void {
    if (this.#at + bytes <= this.#bytes.length) return
    const grown = allocate(Math.max(this.#bytes.length * 2, this.#at + bytes))
    grown.set(this.#bytes.subarray(0, this.#at))
    this.#bytes = grown
  }

  #text(text: string | null): void {
    if (text === null) {
      this.#room(1)
      this.#bytes[this.#at++] = 0xc0
      return
    }
    // Short ASCII, the common case, is written without a call out of JavaScript.
    this.#room(5 + text.length * 3)
    if (text.length < 256 && this.#ascii(text)) return
    const encoded = utf8.encode(text)
    this.#head(encoded.length, 0xa0, 32, 0xd9)
    this.#bytes.set(encoded, this.#at)
    this.#at += encoded.length
  }

  #ascii(text: string): boolean {
    const bytes = this.#bytes
    const { length } = text
    const start = this.#at + (length < 32 ? 1 : 2)
    for (let i = 0; i < length; i++) {
      const c = text.charCodeAt(i)
      if (c > 127) return false
      bytes[start + i] = c
    }
    if (length < 32) bytes[this.#at] = 0xa0 | length
    else {
      bytes[this.#at] = 0xd9
      bytes[this.#at + 1] = length
    }
    this.#at = start + length
    return true
  }

  #data(data: Uint8Array | null): void {
    if (data === null) {
      this.#room(1)
      this.#bytes[this.#at++] = 0xc0
      return
    }
    this.#room(5 + data.length)
    this.#head(data.length, 0, 0, 0xc4)
    this.#bytes.set(data, this.#at)
    this.#at += data.length
  }

  /** A MessagePack length: in the first byte below `fix`, else 8, 16 or 32 bits behind `code`, `code`+1, `code`+2. */
  #head(length: number, base: number, fix: number, code: number): void {
    const bytes = this.#bytes
    if (length < fix) bytes[this.#at++] = base | length
    else if (length < 0x100) {
      bytes[this.#at++] = code
      bytes[this.#at++] = length
    } else if (length < 0x10000) {
      bytes[this.#at++] = code + 1
      bytes[this.#at++] = length >> 8
      bytes[this.#at++] = length & 255
    } else {
      bytes[this.#at++] = code + 2
      putU32(bytes, this.#at, length)
      this.#at += 4
    }
  }

  #audience(to: Audience | null): void {
    this.#room(1)
    if (to === null) {
      this.#bytes[this.#at++] = 0xc0
      return
    }
    this.#bytes[this.#at++] = 0x92
    for (const names of [to.users, to.groups]) {
      this.#room(3)
      if (names.length < 16) this.#bytes[this.#at++] = 0x90 | names.length
      else {
        this.#bytes[this.#at++] = 0xdc
        this.#bytes[this.#at++] = names.length >> 8
        this.#bytes[this.#at++] = names.length & 255
      }
      for (const name of names) this.#text(name)
    }
  }
}

/**
 * Where the parts of an event lie in the bytes that it was read from; a start of −1 where there is none. Written anew
 * for each event.
 */
export class Parts {
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

  event(seq: number, time: number): Event {
    if (this.#byte() !== 0x96) damaged('an event is not an array of six')
    return {
      seq,
      time,
      type: this.#text(),
      key: this.#text(),
      id: this.#text(),
      contentType: this.#text(),
      data: this.#data(),
      to: this.#audience(),
    }
  }

  /** Reads one event as places, without a copy of anything. */
  parts(parts: Parts): void {
    if (this.#byte() !== 0x96) damaged('an event is not an array of six')
    parts.type = this.#place(this.#textLength())
    parts.typeEnd = this.at
    parts.key = this.#place(this.#textLength())
    parts.keyEnd = this.at
    parts.id = this.#place(this.#textLength())
    parts.idEnd = this.at
    parts.contentType = this.#place(this.#textLength())
    parts.contentTypeEnd = this.at
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

  /** Passes over one event; returns its FLAG bits. */
  skip(): number {
    if (this.#byte() !== 0x96) damaged('an event is not an array of six')
    this.#skipText()
    const flags = this.#skipText() ? FLAG.keyed : 0
    this.#skipText()
    this.#skipText()
    this.#data()
    return this.#audience() === null ? flags : flags | FLAG.addressed
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

  /** The next `length` bytes, as a view. */
  #take(length: number): Uint8Array {
    if (length > this.#end - this.at) return damaged('an event is cut')
    const start = this.at
    this.at += length
    return this.#bytes.subarray(start, this.at)
  }

  /** Length of the text that follows, or −1 for nil. */
  #textLength(): number {
    const code = this.#byte()
    if (code === 0xc0) return -1
    if (code >> 5 === 5) return code & 31
    if (code >= 0xd9 && code <= 0xdb) return this.#length(1 << (code - 0xd9))
    return damaged('a field of an event is not text')
  }

  #text(): string | null {
    const length = this.#textLength()
    return length < 0 ? null : this.#string(length)
  }

  #skipText(): boolean {
    const length = this.#textLength()
    if (length >= 0) this.#take(length)
    return length >= 0
  }

  #string(length: number): string {
    const bytes = this.#take(length)
    if (length <= 24) {
      let ascii = ''
      for (let i = 0; i < length; i++) {
        const c = bytes[i]!
        if (c > 127) return decodeText(bytes)
        ascii += String.fromCharCode(c)
      }
      return ascii
    }
    return decodeText(bytes)
  }

  /** Length of the bin that follows, or −1 for nil. */
  #dataLength(): number {
    const code = this.#byte()
    if (code === 0xc0) return -1
    if (code < 0xc4 || code > 0xc6) return damaged('the data of an event is not bin')
    return this.#length(1 << (code - 0xc4))
  }

  #data(): Uint8Array | null {
    const length = this.#dataLength()
    return length < 0 ? null : this.#take(length)
  }

  #audience(): Audience | null {
    const code = this.#byte()
    if (code === 0xc0) return null
    if (code !== 0x92) return damaged('the audience of an event is not a pair')
    const names = (): string[] => {
      const size = this.#byte()
      const length =
        size >> 4 === 9 ? size & 15 : size === 0xdc ? this.#length(2) : damaged('an audience is not a list')
      return Array.from({ length }, () => this.#text() ?? damaged('a name of an audience is nil'))
    }
    return { users: names(), groups: names() }
  }
}

function decodeText(bytes: Uint8Array): string {
  try {
    return text.decode(bytes)
  } catch (cause) {
    throw new TidemarkError('data-loss', 'A block is damaged: a text is not UTF-8', {}, { cause })
  }
}
