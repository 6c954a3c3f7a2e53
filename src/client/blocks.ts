/** Blocks of events, read for the app: the msgpack subprotocol's frames (msgpack.ts) carry them. */
import { readHeader, walkBlock } from '../block.ts'
import { TidemarkError } from '../errors.ts'
import { formatTime, isTextType } from '../event.ts'
import { type Parts, textAt } from '../walk.ts'
import type { ChannelEvent } from './subscription.ts'

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** A text that is often the same from event to event. */
class Repeated {
  #bytes = new Uint8Array()
  #text = ''

  /** As `textAt`, where there is one. */
  read(bytes: Uint8Array, start: number, end: number): string {
    const known = this.#bytes
    let at = end - start === known.length ? start : end + 1
    while (at < end && bytes[at] === known[at - start]) at++
    if (at !== end) {
      this.#text = textAt(bytes, start, end)!
      // A copy: a view would hold its frame.
      this.#bytes = bytes.slice(start, end)
    }
    return this.#text
  }
}

/** The newest time that was written out; the events of a block share theirs. */
let newestTime = { ms: -1, text: '' }

function timeText(ms: number): string {
  if (newestTime.ms !== ms) newestTime = { ms, text: formatTime(ms) }
  return newestTime.text
}

/** The events with from < seq ≤ last of blocks that follow each other, as the JSON doors show them. @throws data-loss */
export function eventsOf(run: Uint8Array, channel: string, from: number, last: number): ChannelEvent[] {
  const events: ChannelEvent[] = []
  const values = new Values()
  for (let at = 0; at < run.length; ) {
    const { length } = readHeader(run, at)
    const block = run.subarray(at, at + length)
    walkBlock(block, from, last, (seq, time, parts) => {
      const event = eventOf(block, parts, { channel, seq, time: timeText(time) })
      if (parts.data >= 0 && parts.contentType < 0) values.add(event, block, parts.data, parts.dataEnd)
      if (parts.to !== null) event.to = parts.to
      events.push(event)
      return true
    })
    at += length
  }
  values.read()
  return events
}

const types = new Repeated()
const keys = new Repeated()
const contentTypes = new Repeated()

/** All but `to` and the value of JSON data, which is read later: it gets its place. */
function eventOf(block: Uint8Array, parts: Parts, event: ChannelEvent): ChannelEvent {
  const { data, dataEnd } = parts
  if (parts.type >= 0) event.type = types.read(block, parts.type, parts.typeEnd)
  if (parts.key >= 0) event.key = keys.read(block, parts.key, parts.keyEnd)
  if (parts.id >= 0) event.id = textAt(block, parts.id, parts.idEnd)!
  if (data < 0) {
    if (parts.key >= 0) event.tombstone = true
  } else if (parts.contentType < 0) event.data = undefined
  else {
    event.contentType = contentTypes.read(block, parts.contentType, parts.contentTypeEnd)
    const bytes = block.subarray(data, dataEnd)
    const shown = isTextType(event.contentType) ? decoded(bytes) : undefined
    if (shown === undefined) event.dataBase64 = base64(bytes)
    else event.data = shown
  }
  return event
}

function decoded(data: Uint8Array): string | undefined {
  try {
    return utf8.decode(data)
  } catch {
    // Not UTF-8: shown as base64.
    return undefined
  }
}

function base64(bytes: Uint8Array): string {
  let binary = ''
  for (let at = 0; at < bytes.length; at += 8_192) binary += String.fromCharCode(...bytes.subarray(at, at + 8_192))
  return btoa(binary)
}

/** JSON data are read together up to so much text, bytes; a longer text is a matter of its own pages of memory. */
const TEXT_BYTES = 32 * 1024
const text = new Uint8Array(TEXT_BYTES)
/** Stands between two values that are read together: a number that nobody else knows. */
const MARK = 2 ** 29 + Math.floor(Math.random() * 2 ** 29)
const MARKED = new TextEncoder().encode(`,${MARK},`)
/** The bracket at either end. */
const [OPENED, CLOSED] = [0x5b, 0x5d]

/**
 * Reads the JSON data of many events in one go, as `[data,MARK,data,MARK,data]`. When every mark stands at its place in
 * the list, there is exactly one value before and behind each: what the same text is when it is read alone.
 */
class Values {
  readonly #events: ChannelEvent[] = []
  /** Where each one's text ends. */
  readonly #ends: number[] = []
  #at = 1

  /** The data of an event: bytes[start] … bytes[end − 1]. */
  add(event: ChannelEvent, bytes: Uint8Array, start: number, end: number): void {
    const data = bytes.subarray(start, end)
    if (this.#at + data.length + MARKED.length > TEXT_BYTES) this.read()
    if (1 + data.length + MARKED.length > TEXT_BYTES) {
      event.data = parsed(data, event)
      return
    }
    text.set(data, this.#at)
    this.#at += data.length
    this.#events.push(event)
    this.#ends.push(this.#at)
    for (let i = 0; i < MARKED.length; i++) text[this.#at++] = MARKED[i]!
  }

  /** Gives each event that was added its value. @throws data-loss when one is not JSON */
  read(): void {
    const events = this.#events
    const values = this.#values()
    for (let i = 0; i < events.length; i++) events[i]!.data = values === undefined ? this.#alone(i) : values[2 * i]
    this.#events.length = this.#ends.length = 0
    this.#at = 1
  }

  /** The values with the marks between them; undefined when one of the texts is not what it should be. */
  #values(): unknown[] | undefined {
    const count = this.#events.length
    if (count === 0) return undefined
    const end = this.#ends[count - 1]!
    text[0] = OPENED
    text[end] = CLOSED
    let values: unknown[]
    try {
      values = JSON.parse(utf8.decode(text.subarray(0, end + 1)))
    } catch {
      return undefined
    }
    if (values.length !== 2 * count - 1) return undefined
    for (let i = 1; i < values.length; i += 2) if (values[i] !== MARK) return undefined
    return values
  }

  /** To find the one that is not JSON. */
  #alone(i: number): unknown {
    const start = i === 0 ? 1 : this.#ends[i - 1]! + MARKED.length
    return parsed(text.subarray(start, this.#ends[i]), this.#events[i]!)
  }
}

function parsed(data: Uint8Array, { seq }: ChannelEvent): unknown {
  try {
    return JSON.parse(utf8.decode(data))
  } catch (cause) {
    throw new TidemarkError('data-loss', `The data of ${seq} are not JSON`, { after: seq - 1, upTo: seq }, { cause })
  }
}
