/**
 * The body of a block: events as concatenated MessagePack arrays.
 *
 *   event := [ type|nil, key|nil, id|nil, contentType|nil, data(bin)|nil, [users, groups]|nil ]
 *
 * Plain MessagePack that any decoder reads; written by hand here and read by hand in walk.ts because every event passes through both.
 */
import { putU32 } from './bytes.ts'
import { TidemarkError } from './errors.ts'
import { type Audience, BLOCK_BYTES_MAX, type NewEvent } from './event.ts'

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
const NO_BYTES = new Uint8Array()
/** More than this is copied by a call. */
const COPIED_BYTES = 64

/** Encodes events as a body. Throws `too-large` beyond BODY_BYTES_MAX. */
export function encodeBody(events: readonly NewEvent[]): Body {
  const writer = new BodyWriter()
  for (const event of events) writer.add(event)
  return writer.finish()
}

/** Bodies that follow each other as one; not copied where they lie one behind the other, as those do that were written so. */
export function joinBodies(bodies: readonly Body[]): Body {
  const [first] = bodies
  if (bodies.length === 1) return first!
  const { buffer, byteOffset } = first!.bytes
  let length = 0
  let count = 0
  let flags = 0
  let isOnePiece = true
  for (const body of bodies) {
    const { bytes } = body
    isOnePiece &&= bytes.buffer === buffer && bytes.byteOffset === byteOffset + length
    length += bytes.length
    count += body.count
    flags |= body.flags
  }
  if (isOnePiece) return { bytes: new Uint8Array(buffer, byteOffset, length), count, flags }
  const joined = new Uint8Array(length)
  let at = 0
  for (const { bytes } of bodies) {
    joined.set(bytes, at)
    at += bytes.length
  }
  return { bytes: joined, count, flags }
}

const SLAB_BYTES = 64 * 1024
let slab = new Uint8Array(SLAB_BYTES)
let slabAt = 0

/** Bytes of a part of an event that lie somewhere; a start of −1 where there is none. */
export interface Part {
  readonly bytes: Uint8Array
  readonly start: number
  readonly end: number
}

/** An event as a door holds it: checked, its texts UTF-8 bytes that are still where they were found. */
export interface EventParts {
  readonly type: Part
  readonly key: Part
  readonly id: Part
  readonly contentType: Part
  readonly data: Part
  readonly to: Audience | null
}

/** Grows as events come, so that a door encodes while it parses. */
export class BodyWriter {
  /** Small bodies share an array: making one costs more than filling it. */
  #bytes: Uint8Array
  /** Where this body begins, where it goes on, and how far it may go, in #bytes. */
  #start: number
  #at: number
  #end: number
  #count = 0
  #flags = 0

  /** `room`: how many bytes the body will have, about. */
  constructor(room = 4_096) {
    this.#bytes = slab
    this.#start = this.#at = this.#end = 0
    this.#claim(room)
  }

  get count(): number {
    return this.#count
  }

  /** Bytes so far. */
  get size(): number {
    return this.#at - this.#start
  }

  add(event: NewEvent): void {
    this.#room(16)
    this.#bytes[this.#at++] = 0x96
    this.#text(event.type)
    this.#text(event.key)
    this.#text(event.id)
    this.#text(event.contentType)
    const { data } = event
    this.#bin(data ?? NO_BYTES, data ? 0 : -1, data ? data.length : -1)
    this.#audience(event.to)
    this.#added(event.key !== null, event.to !== null)
  }

  /** As `add`; the parts are copied. */
  addParts({ type, key, id, contentType, data, to }: EventParts): void {
    this.#room(
      64 + type.end - type.start + key.end - key.start + id.end - id.start + contentType.end - contentType.start,
    )
    this.#bytes[this.#at++] = 0x96
    this.#textPart(type)
    this.#textPart(key)
    this.#textPart(id)
    this.#textPart(contentType)
    this.#bin(data.bytes, data.start, data.end)
    this.#audience(to)
    this.#added(key.start >= 0, to !== null)
  }

  #added(hasKey: boolean, hasAudience: boolean): void {
    this.#count++
    if (hasKey) this.#flags |= FLAG.keyed
    if (hasAudience) this.#flags |= FLAG.addressed
    if (this.size > BODY_BYTES_MAX)
      throw new TidemarkError('too-large', `An append holds at most ${BODY_BYTES_MAX} bytes`, { limit: BODY_BYTES_MAX })
  }

  /** The body so far. Nothing is added after that. */
  finish(): Body {
    // What was claimed in vain is the next body's.
    if (this.#bytes === slab && this.#end === slabAt) slabAt = this.#at
    const wasted = this.#end - this.#at
    const isOwn = this.#start === 0 && this.#end === this.#bytes.length
    const bytes =
      isOwn && wasted > this.size
        ? this.#bytes.slice(this.#start, this.#at)
        : this.#bytes.subarray(this.#start, this.#at)
    return { bytes, count: this.#count, flags: this.#flags }
  }

  /** Makes room for `bytes` more. */
  #room(bytes: number): void {
    if (this.#at + bytes > this.#end) this.#claim(Math.max((this.#end - this.#start) * 2, this.size + bytes))
  }

  /** Goes on in a place with room for so many bytes in all. */
  #claim(bytes: number): void {
    const from = this.#bytes
    const start = this.#start
    const size = this.size
    if (bytes > SLAB_BYTES / 16) {
      this.#bytes = new Uint8Array(bytes)
      this.#start = 0
    } else {
      if (slabAt + bytes > SLAB_BYTES) {
        slab = new Uint8Array(SLAB_BYTES)
        slabAt = 0
      }
      this.#bytes = slab
      this.#start = slabAt
      slabAt += bytes
    }
    this.#at = this.#start + size
    this.#end = this.#start + bytes
    if (size > 0) this.#bytes.set(from.subarray(start, start + size), this.#start)
  }

  #text(text: string | null): void {
    if (text === null) {
      this.#room(1)
      this.#bytes[this.#at++] = 0xc0
      return
    }
    const encoded = utf8.encode(text)
    this.#room(5 + encoded.length)
    this.#head(encoded.length, 0xa0, 32, 0xd9)
    this.#copy(encoded, 0, encoded.length)
  }

  /** Within the room that there is. */
  #textPart({ bytes, start, end }: Part): void {
    if (start < 0) {
      this.#bytes[this.#at++] = 0xc0
      return
    }
    this.#head(end - start, 0xa0, 32, 0xd9)
    this.#copy(bytes, start, end)
  }

  #bin(bytes: Uint8Array, start: number, end: number): void {
    if (start < 0) {
      this.#room(1)
      this.#bytes[this.#at++] = 0xc0
      return
    }
    this.#room(5 + end - start)
    this.#head(end - start, 0, 0, 0xc4)
    this.#copy(bytes, start, end)
  }

  #copy(from: Uint8Array, start: number, end: number): void {
    const bytes = this.#bytes
    let at = this.#at
    this.#at += end - start
    // A call out of JavaScript and a view cost as much as some dozen bytes.
    if (end - start > COPIED_BYTES) bytes.set(new Uint8Array(from.buffer, from.byteOffset + start, end - start), at)
    else while (start < end) bytes[at++] = from[start++]!
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
