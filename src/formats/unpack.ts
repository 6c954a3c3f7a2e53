/**
 * A strict MessagePack reader: what JSON could not give back as it came is refused, never changed. Depth, lengths and
 * text are checked before anything is made of them.
 */
import { refuse, type Word, wordAt } from './json.ts'

/** What stands at a place. Scalars are null, booleans and numbers. */
const SCALAR = 0
const TEXT = 1
const BYTES = 2
const LIST = 3
const MAP = 4
type Kind = typeof SCALAR | typeof TEXT | typeof BYTES | typeof LIST | typeof MAP

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** Every read throws `bad-request` where the bytes are not what it asks for. `room` is how deep a value may nest. */
export class Reader {
  readonly bytes: Uint8Array
  /** Where the text or the bytes lie that were looked at last. */
  start = 0
  end = 0
  #views: DataView | undefined
  /** Every byte as one character: where texts are ASCII they are cut out of it. */
  #characters: string | undefined
  /** Where it goes on. */
  at = 0
  /** Of the head that was read last: a length, or a number of items. */
  #size = 0
  /** Of the head that was read last. */
  #scalar: null | boolean | number = null
  /** Structure is all that is looked at now. */
  #isSkipping = false

  constructor(bytes: Uint8Array) {
    this.bytes = bytes
  }

  get #view(): DataView {
    this.#views ??= new DataView(this.bytes.buffer, this.bytes.byteOffset, this.bytes.length)
    return this.#views
  }

  get #latin1(): string {
    this.#characters ??= Buffer.from(this.bytes.buffer, this.bytes.byteOffset, this.bytes.length).toString('latin1')
    return this.#characters
  }

  /** Nothing may stand behind the value. */
  finish(): void {
    if (this.at !== this.bytes.length) refuse('Bytes stand behind the MessagePack value', { at: this.at })
  }

  atList(): boolean {
    const code = this.bytes[this.at]!
    return code >> 4 === 9 || code === 0xdc || code === 0xdd
  }

  /** Whether bytes come next; then they are looked at. */
  bytesAhead(): boolean {
    const code = this.bytes[this.at]!
    return code >= 0xc4 && code <= 0xc6 && this.#look()
  }

  /** Whether a text comes next; then it is looked at. Its UTF-8 is not. */
  textAhead(): boolean {
    const code = this.bytes[this.at]!
    return (code >> 5 === 5 || (code >= 0xd9 && code <= 0xdb)) && this.#look()
  }

  #look(): true {
    const before = this.at
    this.#head()
    this.start = this.at
    this.end = this.at + this.#size
    this.at = before
    return true
  }

  /** Passes over what was looked at. */
  pass(): void {
    this.at = this.end
  }

  /** Reads the name of a field: which of `words` it is; −1 for none of them. */
  nameIn(words: readonly Word[]): number {
    if (this.#head() !== TEXT) refuse('The names of a map are text', { at: this.at })
    this.start = this.#skip(this.#size)
    this.end = this.at
    return wordAt(words, this.bytes, this.start, this.end)
  }

  /** The name that was read last. */
  nameText(): string {
    return this.#textAt(this.start)
  }

  /** Items of the list that begins here; −1, and nothing read, when there is none. */
  listSize(): number {
    if (!this.atList()) return -1
    this.#head()
    return this.#size
  }

  /** Fields of the map that begins here; −1, and nothing read, when there is none. */
  mapSize(): number {
    const code = this.bytes[this.at]!
    if (code >> 4 !== 8 && code !== 0xde && code !== 0xdf) return -1
    this.#head()
    return this.#size
  }

  /** The name of a field. */
  name(): string {
    if (this.#head() !== TEXT) refuse('The names of a map are text', { at: this.at })
    return this.#text()
  }

  /** A decoded value: bins are views, maps are objects in which any name is an own property. */
  value(room: number): unknown {
    switch (this.#head()) {
      case SCALAR:
        return this.#scalar
      case TEXT:
        return this.#text()
      case BYTES:
        return this.#take(this.#size)
      case LIST: {
        const inner = this.#deeper(room)
        const list: unknown[] = []
        for (let left = this.#size; left > 0; left--) list.push(this.value(inner))
        return list
      }
      case MAP:
        return this.map(this.#size, room)
    }
  }

  /** A map of `size` fields as an object. `read` may read a field's value itself. */
  map(size: number, room: number, read?: (name: string) => unknown): Record<string, unknown> {
    const inner = this.#deeper(room)
    const map: Record<string, unknown> = {}
    for (let left = size; left > 0; left--) {
      const name = this.name()
      if (Object.hasOwn(map, name)) refuse(`The field ${JSON.stringify(name)} is given twice`, { field: name })
      const value = read?.(name) ?? this.value(inner)
      // Assigning this one name would set the prototype.
      if (name === '__proto__') Object.defineProperty(map, name, { value, enumerable: true })
      else map[name] = value
    }
    return map
  }

  /** A value as JSON text. */
  json(room: number): string {
    switch (this.#head()) {
      case SCALAR:
        return String(this.#scalar)
      case TEXT:
        return this.#jsonText()
      case BYTES:
        return refuse('Bytes are data as a whole, they do not stand inside it', { field: 'data' })
      case LIST: {
        const inner = this.#deeper(room)
        let text = '['
        for (let left = this.#size; left > 0; left--) {
          if (text.length > 1) text += ','
          text += this.json(inner)
        }
        return `${text}]`
      }
      case MAP: {
        const inner = this.#deeper(room)
        let text = '{'
        for (let left = this.#size; left > 0; left--) {
          if (text.length > 1) text += ','
          if (this.#head() !== TEXT) refuse('The names of a map are text', { at: this.at })
          text += `${this.#jsonText()}:${this.json(inner)}`
        }
        return `${text}}`
      }
    }
  }

  /**
   * Passes over a value, looking at its structure only: what it may not hold, and how deep, is found when it is read.
   * Returns its bytes.
   */
  skip(): Uint8Array {
    const start = this.at
    this.#isSkipping = true
    for (let left = 1; left > 0; left--) {
      const kind = this.#head()
      if (kind === LIST || kind === MAP) left += this.#items(kind)
      else if (kind !== SCALAR) this.#skip(this.#size)
    }
    this.#isSkipping = false
    return this.bytes.subarray(start, this.at)
  }

  #deeper(room: number): number {
    return room > 0 ? room - 1 : refuse('The MessagePack value nests too deep', { at: this.at })
  }

  /** Reads what stands before a text, bytes, list or map, or a whole scalar. */
  #head(): Kind {
    if (this.at >= this.bytes.length) refuse('The MessagePack value is cut', { at: this.at })
    const code = this.bytes[this.at++]!
    if (code < 0x80) return this.#is(code)
    if (code < 0x90) return this.#sized(MAP, code & 15)
    if (code < 0xa0) return this.#sized(LIST, code & 15)
    if (code < 0xc0) return this.#sized(TEXT, code & 31)
    if (code >= 0xe0) return this.#is(code - 0x100)
    switch (code) {
      case 0xc0:
        return this.#is(null)
      case 0xc2:
        return this.#is(false)
      case 0xc3:
        return this.#is(true)
      case 0xc4:
      case 0xc5:
      case 0xc6:
        return this.#sized(BYTES, this.#uint(1 << (code - 0xc4)))
      case 0xca:
        return this.#float(this.#view.getFloat32(this.#skip(4)))
      case 0xcb:
        return this.#float(this.#view.getFloat64(this.#skip(8)))
      case 0xcc:
      case 0xcd:
      case 0xce:
        return this.#is(this.#uint(1 << (code - 0xcc)))
      case 0xcf:
        return this.#exact(this.#view.getBigUint64(this.#skip(8)))
      case 0xd0:
        return this.#is(this.#view.getInt8(this.#skip(1)))
      case 0xd1:
        return this.#is(this.#view.getInt16(this.#skip(2)))
      case 0xd2:
        return this.#is(this.#view.getInt32(this.#skip(4)))
      case 0xd3:
        return this.#exact(this.#view.getBigInt64(this.#skip(8)))
      case 0xd9:
      case 0xda:
      case 0xdb:
        return this.#sized(TEXT, this.#uint(1 << (code - 0xd9)))
      case 0xdc:
      case 0xdd:
        return this.#sized(LIST, this.#uint(2 << (code - 0xdc)))
      case 0xde:
      case 0xdf:
        return this.#sized(MAP, this.#uint(2 << (code - 0xde)))
      default:
        return this.#extension(code)
    }
  }

  #extension(code: number): Kind {
    if (!this.#isSkipping || code === 0xc1) return refuse('MessagePack extensions are not taken', { at: this.at - 1 })
    const size = code >= 0xd4 ? 1 << (code - 0xd4) : this.#uint(1 << (code - 0xc7))
    // Its type is one byte more.
    return this.#sized(BYTES, size + 1)
  }

  #is(scalar: null | boolean | number): Kind {
    this.#scalar = scalar
    return SCALAR
  }

  /** Whatever has a size takes that many bytes at least: a false claim is refused before the walk. */
  #sized(kind: Kind, size: number): Kind {
    this.#size = size
    if (this.#items(kind) > this.bytes.length - this.at) refuse('The MessagePack value is cut', { at: this.at })
    return kind
  }

  /** Bytes of a text or bin, values of a list or map. */
  #items(kind: Kind): number {
    return kind === MAP ? this.#size * 2 : this.#size
  }

  /** Passes over `length` bytes; returns where they begin. */
  #skip(length: number): number {
    const start = this.at
    if (length > this.bytes.length - start) refuse('The MessagePack value is cut', { at: start })
    this.at = start + length
    return start
  }

  #take(length: number): Uint8Array {
    return this.bytes.subarray(this.#skip(length), this.at)
  }

  /** An unsigned integer of 1, 2 or 4 bytes. */
  #uint(width: number): number {
    const start = this.#skip(width)
    let value = 0
    for (let i = start; i < this.at; i++) value = value * 256 + this.bytes[i]!
    return value
  }

  #exact(value: bigint): Kind {
    const number = Number(value)
    return this.#isSkipping || Number.isSafeInteger(number) ? this.#is(number) : this.#inexact()
  }

  #float(value: number): Kind {
    if (this.#isSkipping) return this.#is(value)
    if (!Number.isFinite(value)) refuse('JSON has no NaN and no Infinity', { at: this.at })
    // From 1e21 on JSON writes an exponent; below, it would write an integer literal, which JSON appends may not hold.
    if (Number.isInteger(value) && !Number.isSafeInteger(value) && Math.abs(value) < 1e21) this.#inexact()
    return this.#is(value)
  }

  #inexact(): never {
    return refuse('An integer beyond 2^53 − 1 can not be kept exactly: send it as a string', { at: this.at })
  }

  /** The text whose head was just read. */
  #text(): string {
    return this.#textAt(this.#skip(this.#size))
  }

  /** The text from `start` to here. */
  #textAt(start: number): string {
    let seen = 0
    for (let i = start; i < this.at; i++) seen |= this.bytes[i]!
    if (seen < 0x80) return this.#latin1.slice(start, this.at)
    try {
      return utf8.decode(this.bytes.subarray(start, this.at))
    } catch {
      return refuse('A text is not UTF-8', { at: start })
    }
  }

  /** The text whose head was just read, in quotes. */
  #jsonText(): string {
    const end = this.at + this.#size
    for (let i = this.at; i < end; i++) {
      const c = this.bytes[i]!
      if (c < 0x20 || c > 0x7e || c === 0x22 || c === 0x5c) return JSON.stringify(this.#text())
    }
    return `"${this.#latin1.slice(this.#skip(this.#size), end)}"`
  }
}
