/**
 * Writes events as JSON, straight from the bytes of their blocks: each event's data stands as its sender wrote it, never
 * parsed, and nothing becomes a string on the way that need not.
 */
import { isUtf8 } from 'node:buffer'
import { type Audience, formatTime, isTextType } from '../event.ts'
import type { Parts } from '../walk.ts'
import type { AudienceJson } from '../wire.ts'

/** What is kept to write in: a whole page and a block. A larger page gives its memory back. */
const KEPT_BYTES = 4 * 1024 * 1024
/** Shorter runs are copied byte by byte: a call out of JavaScript costs more. */
const SHORT_BYTES = 24

export class Scribe {
  /**
   * What is written, up to #at, and, from #source to the end, the block that it is written from: to move bytes within one
   * array costs a third of what it costs between two.
   */
  #bytes: Buffer = Buffer.allocUnsafeSlow(KEPT_BYTES)
  #at = 0
  #source = KEPT_BYTES
  #time = Number.NaN
  #timeText = ''
  /** What stood between seq and data of an event of this block, and which of its bytes that was written from. */
  #fields = { time: Number.NaN, from: 0, to: 0, at: 0, end: 0 }

  /** What was written since the last time, as bytes of its own: kept for long, it keeps nothing else. */
  take(): Buffer {
    const taken = Buffer.allocUnsafeSlow(this.#at)
    this.#bytes.copy(taken, 0, 0, this.#at)
    this.drop()
    return taken
  }

  /** Throws away what was written since the last `take`. */
  drop(): void {
    if (this.#bytes.length > KEPT_BYTES) this.#bytes = Buffer.allocUnsafeSlow(KEPT_BYTES)
    this.#at = 0
    this.#source = this.#bytes.length
    this.#fields.time = Number.NaN
  }

  /** What is copied from now on is of this block. */
  from(block: Uint8Array): void {
    this.#source = this.#bytes.length
    this.#room(block.length)
    this.#source = this.#bytes.length - block.length
    this.#bytes.set(block, this.#source)
    this.#fields.time = Number.NaN
  }

  #room(bytes: number): void {
    if (this.#at + bytes <= this.#source) return
    const block = this.#bytes.length - this.#source
    const grown = Buffer.allocUnsafeSlow(Math.max(this.#bytes.length * 2, this.#at + bytes + block))
    this.#bytes.copy(grown, 0, 0, this.#at)
    this.#bytes.copy(grown, grown.length - block, this.#source)
    this.#bytes = grown
    this.#source = grown.length - block
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

  /** A run of the block. */
  copy(start: number, end: number): void {
    this.#room(end - start)
    this.#move(this.#source + start, this.#source + end)
  }

  /** Bytes that stand here already, once more. */
  #move(start: number, end: number): void {
    const length = end - start
    const bytes = this.#bytes
    const at = this.#at
    if (length < SHORT_BYTES) for (let i = 0; i < length; i++) bytes[at + i] = bytes[start + i]!
    else bytes.copyWithin(at, start, end)
    this.#at = at + length
  }

  /** UTF-8 of the block as a JSON string. */
  quoted(start: number, end: number): void {
    this.#room(end - start + 2)
    const bytes = this.#bytes
    const source = this.#source
    let at = this.#at
    bytes[at++] = 0x22
    for (let i = start; i < end; i++) {
      const byte = bytes[source + i]!
      if (byte < 0x20 || byte === 0x22 || byte === 0x5c) {
        this.text(JSON.stringify(bytes.toString('utf8', source + start, source + end)))
        return
      }
      bytes[at++] = byte
    }
    bytes[at++] = 0x22
    this.#at = at
  }

  /** One event of the block as an object. @param channel named in it, unless undefined @param withTo tells whom it is for */
  event(seq: number, time: number, parts: Parts, channel: string | undefined, withTo: boolean): void {
    if (channel === undefined) this.ascii('{"seq":')
    else this.ascii(`{"channel":"${channel}","seq":`)
    this.number(seq)
    if (parts.to === null && parts.data >= 0 && parts.contentType < 0) this.#plain(time, parts)
    else {
      this.#facts(time, parts, withTo)
      this.#data(parts)
    }
    this.ascii('}')
  }

  /** JSON for everyone. What stands before its data is often that of the event before: written once, then copied. */
  #plain(time: number, parts: Parts): void {
    const fields = this.#fields
    if (time === fields.time && this.#isSame(parts.fields, parts.fieldsEnd)) {
      this.#room(fields.end - fields.at)
      this.#move(fields.at, fields.end)
    } else {
      const at = this.#at
      this.#facts(time, parts, false)
      this.ascii(',"data":')
      fields.time = time
      fields.from = parts.fields
      fields.to = parts.fieldsEnd
      fields.at = at
      fields.end = this.#at
    }
    this.copy(parts.data, parts.dataEnd)
  }

  /** The block has the same bytes here as where #fields were written from. */
  #isSame(start: number, end: number): boolean {
    const { from, to } = this.#fields
    if (end - start !== to - from) return false
    const bytes = this.#bytes
    const source = this.#source
    const shift = from - start
    for (let i = source + start; i < source + end; i++) if (bytes[i] !== bytes[i + shift]) return false
    return true
  }

  #facts(time: number, parts: Parts, withTo: boolean): void {
    this.ascii(',"time":"')
    this.ascii(this.#timeOf(time))
    this.ascii('"')
    if (parts.type >= 0) this.#field(',"type":', parts.type, parts.typeEnd)
    if (parts.key >= 0) this.#field(',"key":', parts.key, parts.keyEnd)
    if (parts.id >= 0) this.#field(',"id":', parts.id, parts.idEnd)
    if (withTo && parts.to !== null) this.text(`,"to":${JSON.stringify(audienceJson(parts.to))}`)
  }

  #data(parts: Parts): void {
    const { data, dataEnd, contentType, contentTypeEnd } = parts
    if (data < 0) {
      if (parts.key >= 0) this.ascii(',"tombstone":true')
    } else if (contentType < 0) {
      this.ascii(',"data":')
      this.copy(data, dataEnd)
    } else {
      this.#field(',"contentType":', contentType, contentTypeEnd)
      const type = this.#bytes.toString('latin1', this.#source + contentType, this.#source + contentTypeEnd)
      const bytes = this.#bytes.subarray(this.#source + data, this.#source + dataEnd)
      if (isTextType(type) && isUtf8(bytes)) this.#field(',"data":', data, dataEnd)
      else this.ascii(`,"dataBase64":"${bytes.toString('base64')}"`)
    }
  }

  #field(name: string, start: number, end: number): void {
    this.ascii(name)
    this.quoted(start, end)
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
