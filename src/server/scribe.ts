/**
 * Writes events as JSON, straight from the bytes of their blocks: each event's data stands as its sender wrote it, never
 * parsed, and nothing becomes a string on the way that need not.
 */
import { isUtf8 } from 'node:buffer'
import { type Audience, formatTime, isTextType } from '../event.ts'
import type { Parts } from '../walk.ts'
import type { AudienceJson } from '../wire.ts'

/** What is kept to write in; a larger page gives its memory back. */
const KEPT_BYTES = 1024 * 1024
/** Shorter runs are copied byte by byte: a call out of JavaScript costs more. */
const SHORT_BYTES = 48

export class Scribe {
  #bytes: Buffer = Buffer.allocUnsafeSlow(KEPT_BYTES)
  #at = 0
  #time = Number.NaN
  #timeText = ''

  /** What was written since the last time, as bytes of its own: kept for long, it keeps nothing else. */
  take(): Buffer {
    const taken = Buffer.allocUnsafeSlow(this.#at)
    this.#bytes.copy(taken, 0, 0, this.#at)
    this.#at = 0
    if (this.#bytes.length > KEPT_BYTES) this.#bytes = Buffer.allocUnsafeSlow(KEPT_BYTES)
    return taken
  }

  /** Throws away what was written since the last `take`. */
  drop(): void {
    this.#at = 0
  }

  #room(bytes: number): void {
    if (this.#at + bytes <= this.#bytes.length) return
    const grown = Buffer.allocUnsafeSlow(Math.max(this.#bytes.length * 2, this.#at + bytes))
    this.#bytes.copy(grown, 0, 0, this.#at)
    this.#bytes = grown
  }

  /** Text of ASCII alone. */
  ascii(text: string): void {
    const { length } = text
    this.#room(length)
    const bytes = this.#bytes
    const at = this.#at
    if (length < SHORT_BYTES) for (let i = 0; i < length; i++) bytes[at + i] = text.charCodeAt(i)
    else bytes.write(text, at, 'latin1')
    this.#at = at + length
  }

  text(text: string): void {
    this.#room(text.length * 3)
    this.#at += this.#bytes.write(text, this.#at)
  }

  /** A whole number from 0. */
  number(value: number): void {
    if (value > 0xffffffff) {
      this.ascii(String(value))
      return
    }
    this.#room(10)
    let digits = 1
    for (let limit = 10; digits < 10 && value >= limit; limit *= 10) digits++
    const bytes = this.#bytes
    let rest = value >>> 0
    for (let at = this.#at + digits - 1; at >= this.#at; at--) {
      const tenth = Math.floor(rest / 10)
      bytes[at] = 48 + rest - tenth * 10
      rest = tenth
    }
    this.#at += digits
  }

  copy(source: Uint8Array, start: number, end: number): void {
    const length = end - start
    this.#room(length)
    if (length < SHORT_BYTES) for (let i = 0; i < length; i++) this.#bytes[this.#at + i] = source[start + i]!
    else this.#bytes.set(source.subarray(start, end), this.#at)
    this.#at += length
  }

  /** UTF-8 as a JSON string. */
  quoted(source: Uint8Array, start: number, end: number): void {
    this.#room(end - start + 2)
    const bytes = this.#bytes
    let at = this.#at
    bytes[at++] = 0x22
    for (let i = start; i < end; i++) {
      const byte = source[i]!
      if (byte < 0x20 || byte === 0x22 || byte === 0x5c) {
        this.text(JSON.stringify(bufferOf(source).toString('utf8', start, end)))
        return
      }
      bytes[at++] = byte
    }
    bytes[at++] = 0x22
    this.#at = at
  }

  /** One event as an object. @param channel named in it, unless undefined @param withTo tells whom it is for */
  event(
    source: Uint8Array,
    seq: number,
    time: number,
    parts: Parts,
    channel: string | undefined,
    withTo: boolean,
  ): void {
    if (channel === undefined) this.ascii('{"seq":')
    else this.ascii(`{"channel":"${channel}","seq":`)
    this.number(seq)
    this.ascii(',"time":"')
    this.ascii(this.#timeOf(time))
    this.ascii('"')
    if (parts.type >= 0) this.#field(',"type":', source, parts.type, parts.typeEnd)
    if (parts.key >= 0) this.#field(',"key":', source, parts.key, parts.keyEnd)
    if (parts.id >= 0) this.#field(',"id":', source, parts.id, parts.idEnd)
    if (withTo && parts.to !== null) this.text(`,"to":${JSON.stringify(audienceJson(parts.to))}`)
    this.#data(source, parts)
    this.ascii('}')
  }

  #data(source: Uint8Array, parts: Parts): void {
    const { data, dataEnd, contentType, contentTypeEnd } = parts
    if (data < 0) {
      if (parts.key >= 0) this.ascii(',"tombstone":true')
    } else if (contentType < 0) {
      this.ascii(',"data":')
      this.copy(source, data, dataEnd)
    } else {
      this.#field(',"contentType":', source, contentType, contentTypeEnd)
      const bytes = bufferOf(source).subarray(data, dataEnd)
      if (isTextType(bufferOf(source).toString('latin1', contentType, contentTypeEnd)) && isUtf8(bytes))
        this.#field(',"data":', source, data, dataEnd)
      else this.ascii(`,"dataBase64":"${bytes.toString('base64')}"`)
    }
  }

  #field(name: string, source: Uint8Array, start: number, end: number): void {
    this.ascii(name)
    this.quoted(source, start, end)
  }

  /** Most events of a page have one time. */
  #timeOf(ms: number): string {
    if (ms !== this.#time) {
      this.#time = ms
      this.#timeText = formatTime(ms)
    }
    return this.#timeText
  }
}

function audienceJson({ users, groups }: Audience): AudienceJson {
  return { ...(users.length > 0 && { users }), ...(groups.length > 0 && { groups }) }
}

const bufferOf = (bytes: Uint8Array): Buffer => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
