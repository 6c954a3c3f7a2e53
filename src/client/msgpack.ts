/**
 * The msgpack subprotocol: binary frames that carry whole blocks. Loaded only by a client that asks for it.
 *
 * The frames are small maps of plain values, written and read here; the events are in blocks (blocks.ts). JSON data
 * goes out as its text, so what a server stores is the same whichever door a retry takes.
 */
import { type Header, readHeader } from '../block.ts'
import { TidemarkError } from '../errors.ts'
import type { NewEventJson, ServerMessage } from '../wire.ts'
import { eventsOf } from './blocks.ts'
import type { Codec, EventsMessage } from './codec.ts'
import type { Frame } from './subscription.ts'

/** Deepest nesting of a frame from the server. */
const FRAME_DEPTH_MAX = 16

const utf8 = new TextEncoder()
const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

export const msgpackCodec: Codec = {
  encode: (message) => encode(message),
  encodeAppend: (ref, { channel, events, expectedSeq, idempotencyKey }) =>
    encode({
      op: 'append',
      ref,
      channel,
      events: (JSON.parse(events) as NewEventJson[]).map(withTextData),
      expectedSeq,
      idempotencyKey,
    }),
  decode: (data) => new Decoder(data instanceof Uint8Array ? data : new Uint8Array(data as ArrayBuffer)).message(),
  frame: (message, size) => blocksFrame(message as Extract<EventsMessage, { blocks: unknown }>, size),
}

/** JSON data as the bytes of its text. */
function withTextData(event: NewEventJson): Record<string, unknown> {
  if (event.data === undefined || event.contentType !== undefined) return { ...event }
  return { ...event, data: utf8.encode(JSON.stringify(event.data)), contentType: 'application/json' }
}

// ── Events ───────────────────────────────────────────────────────────────────────────────────────────────────────

/** Blocks are checked to follow each other when they arrive, and decoded when the app takes them. */
function blocksFrame(message: Extract<EventsMessage, { blocks: unknown }>, bytes: number): Frame {
  const { epoch, after, last, blocks } = message
  // Node's Buffer makes views slowly.
  const run = new Uint8Array(blocks.buffer, blocks.byteOffset, blocks.length)
  const count = countOf(run, after, last)
  const isWhole = count !== undefined
  const events: Frame['events'] = (channel, from) => (isWhole ? eventsOf(run, channel, from, last) : [])
  return { epoch, after, last, bytes, count: count ?? 0, isWhole, events }
}

/** The events of a run of blocks that continues `after` and reaches `last`; undefined when it is none. */
function countOf(run: Uint8Array, after: number, last: number): number | undefined {
  let count = 0
  let end = after
  for (let at = 0; at < run.length; ) {
    const header = headerAt(run, at)
    // The first block may begin before the place; from then on each begins where the one before it ended.
    if (header === undefined || (at === 0 ? header.after > end : header.after !== end)) return undefined
    count += header.count
    end = header.last
    at += header.length
  }
  return run.length > 0 && end < last ? undefined : count
}

function headerAt(run: Uint8Array, at: number): Header | undefined {
  try {
    return readHeader(run, at)
  } catch (error) {
    if (error instanceof TidemarkError) return undefined
    throw error
  }
}

// ── Maps out ─────────────────────────────────────────────────────────────────────────────────────────────────────

/** Encodes strings, whole numbers, booleans, null, bytes, lists and maps; fields that are `undefined` are left out. */
export function encode(value: unknown): Uint8Array<ArrayBuffer> {
  const parts: Uint8Array[] = []
  write(parts, value)
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    bytes.set(part, at)
    at += part.length
  }
  return bytes
}

function write(parts: Uint8Array[], value: unknown): void {
  if (value === null) parts.push(Uint8Array.of(0xc0))
  else if (typeof value === 'boolean') parts.push(Uint8Array.of(value ? 0xc3 : 0xc2))
  else if (typeof value === 'number') parts.push(number(value))
  else if (typeof value === 'string') {
    const bytes = utf8.encode(value)
    parts.push(head(bytes.length, 0xa0, 32, 0xd9), bytes)
  } else if (value instanceof Uint8Array) parts.push(head(value.length, 0, 0, 0xc4), value)
  else if (Array.isArray(value)) {
    parts.push(head(value.length, 0x90, 16, 0xdb))
    for (const item of value) write(parts, item)
  } else {
    const fields = Object.entries(value as object).filter(([, field]) => field !== undefined)
    parts.push(head(fields.length, 0x80, 16, 0xdd))
    for (const [name, field] of fields) {
      write(parts, name)
      write(parts, field)
    }
  }
}

/** A length: in the first byte below `small`, else 8, 16 or 32 bits behind `code`, `code` + 1, `code` + 2. */
function head(length: number, base: number, small: number, code: number): Uint8Array {
  if (length < small) return Uint8Array.of(base | length)
  // Lists and maps have no 8-bit form: their `code` stands one below the 16-bit one.
  if (length < 0x100 && code !== 0xdb && code !== 0xdd) return Uint8Array.of(code, length)
  if (length < 0x10000) return Uint8Array.of(code + 1, length >> 8, length & 255)
  return Uint8Array.of(code + 2, length >>> 24, (length >> 16) & 255, (length >> 8) & 255, length & 255)
}

function number(value: number): Uint8Array {
  if (Number.isInteger(value) && value >= 0 && value < 128) return Uint8Array.of(value)
  const bytes = new Uint8Array(9)
  const view = new DataView(bytes.buffer)
  if (Number.isInteger(value) && value >= 0 && value < 2 ** 32) {
    bytes[0] = 0xce
    view.setUint32(1, value)
    return bytes.subarray(0, 5)
  }
  if (Number.isSafeInteger(value)) {
    bytes[0] = 0xd3
    view.setBigInt64(1, BigInt(value))
  } else {
    bytes[0] = 0xcb
    view.setFloat64(1, value)
  }
  return bytes
}

// ── Maps in ──────────────────────────────────────────────────────────────────────────────────────────────────────

/** Reads one frame. Bytes are views into it. Throws RangeError or TypeError where it is none. */
class Decoder {
  readonly #bytes: Uint8Array
  readonly #view: DataView
  #at = 0

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  }

  message(): ServerMessage {
    const value = this.#value(0)
    if (this.#at !== this.#bytes.length) throw new RangeError('bytes stand after the message')
    if (typeof value !== 'object' || value === null || !('op' in value)) throw new TypeError('it is no message')
    return value as ServerMessage
  }

  #value(depth: number): unknown {
    if (depth > FRAME_DEPTH_MAX) throw new RangeError('it is nested too deep')
    const code = this.#uint(1)
    if (code < 0x80) return code
    if (code < 0x90) return this.#map(code & 15, depth)
    if (code < 0xa0) return this.#list(code & 15, depth)
    if (code < 0xc0) return text.decode(this.#take(code & 31))
    if (code >= 0xe0) return code - 0x100
    switch (code) {
      case 0xc0:
        return null
      case 0xc2:
        return false
      case 0xc3:
        return true
      case 0xc4:
      case 0xc5:
      case 0xc6:
        return this.#take(this.#uint(1 << (code - 0xc4)))
      case 0xca:
        return this.#view.getFloat32(this.#skip(4))
      case 0xcb:
        return this.#view.getFloat64(this.#skip(8))
      case 0xcc:
      case 0xcd:
      case 0xce:
      case 0xcf:
        return this.#uint(1 << (code - 0xcc))
      case 0xd0:
        return this.#view.getInt8(this.#skip(1))
      case 0xd1:
        return this.#view.getInt16(this.#skip(2))
      case 0xd2:
        return this.#view.getInt32(this.#skip(4))
      case 0xd3:
        return Number(this.#view.getBigInt64(this.#skip(8)))
      case 0xd9:
      case 0xda:
      case 0xdb:
        return text.decode(this.#take(this.#uint(1 << (code - 0xd9))))
      case 0xdc:
      case 0xdd:
        return this.#list(this.#uint(code === 0xdc ? 2 : 4), depth)
      case 0xde:
      case 0xdf:
        return this.#map(this.#uint(code === 0xde ? 2 : 4), depth)
    }
    throw new TypeError(`0x${code.toString(16)} is not used here`)
  }

  #skip(length: number): number {
    const at = this.#at
    if (length > this.#bytes.length - at) throw new RangeError('it is cut')
    this.#at += length
    return at
  }

  #take(length: number): Uint8Array {
    const at = this.#skip(length)
    return this.#bytes.subarray(at, at + length)
  }

  #uint(width: number): number {
    let value = 0
    for (const byte of this.#take(width)) value = value * 256 + byte
    return value
  }

  #list(length: number, depth: number): unknown[] {
    const list: unknown[] = []
    for (let i = 0; i < length; i++) list.push(this.#value(depth + 1))
    return list
  }

  #map(length: number, depth: number): Record<string, unknown> {
    const map: Record<string, unknown> = Object.create(null)
    for (let i = 0; i < length; i++) {
      const name = this.#value(depth + 1)
      if (typeof name !== 'string') throw new TypeError('a name is not text')
      map[name] = this.#value(depth + 1)
    }
    return map
  }
}
