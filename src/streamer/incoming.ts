/**
 * The way in of one socket: whole data frames of one piece, PINGs and PONGs are read here, straight from the bytes that
 * came, and unmasked in place. Everything else (data frames that are cut, fragments, close frames, whatever is wrong)
 * goes to `ws` as it came and in its order; `ws` only ever begins at the beginning of a frame.
 */
import { isUtf8 } from 'node:buffer'
import type { Duplex, Writable } from 'node:stream'
import { WebSocket } from 'ws'

/** Largest frame from a client: 1 MiB. */
export const FRAME_BYTES_MAX = 1024 * 1024

const FIN_TEXT = 0x81
const FIN_BINARY = 0x82
const FIN_PING = 0x89
const FIN_PONG = 0x8a
const MASKED = 0x80
const OPCODE = 0x0f

/** Where whole messages go; text is UTF-8. */
export interface Receiver {
  message(payload: Buffer, binary: boolean): void
  /** Those that came together were told. */
  taken(): void
  /** The newest PING of those that came together, behind the messages among which it stood. */
  ping(payload: Buffer): void
  pong(): void
  /** There is no room for what came of a message that is not whole. */
  crowded(): void
}

/** What came of messages that are not whole yet, of all sockets together. */
export class Unfinished {
  readonly #limit: number
  #bytes = 0

  constructor(limit: number) {
    this.#limit = limit
  }

  get bytes(): number {
    return this.#bytes
  }

  get isTooMuch(): boolean {
    return this.#bytes > this.#limit
  }

  account(before: number, after: number): void {
    this.#bytes += after - before
  }
}

/** The listener that `ws` has on the connection: takes bytes as they came. */
export type Feed = (this: Duplex, bytes: Buffer) => void

/** Of a frame: where its payload begins and ends, counted from its first byte. */
interface Extent {
  start: number
  end: number
}

export class Incoming {
  readonly #ws: WebSocket
  /** What `ws` reads frames with; it takes nothing after a close frame or a wrong one. */
  readonly #reader: Writable
  readonly #socket: Duplex
  readonly #feed: Feed
  readonly #receiver: Receiver
  readonly #unfinished: Unfinished
  /** Bytes that `ws` keeps of a message that is not whole. */
  #held = 0
  /** The beginning of a header, or of a PING or PONG, whose end has not come. */
  #rest: Buffer | undefined
  /** Bytes that `ws` is still to get of the frame that it has begun. */
  #owed = 0
  /** The frames of a message in several pieces go to `ws`, and so does everything once it is not our business. */
  #isFragmented = false
  #isGivenUp = false
  /** Where the payload of the newest PING begins and ends, in what is being taken. */
  #ping: Extent | undefined
  /** What comes behind a close frame or a wrong one is thrown away, as `ws` by itself does: it tells of it only later. */
  #isOver = false

  constructor(ws: WebSocket, reader: Writable, socket: Duplex, feed: Feed, receiver: Receiver, unfinished: Unfinished) {
    this.#ws = ws
    this.#reader = reader
    this.#socket = socket
    this.#feed = feed
    this.#receiver = receiver
    this.#unfinished = unfinished
  }

  /** Takes what the connection gave; it is overwritten. */
  take(chunk: Buffer): void {
    const bytes = this.#rest ? Buffer.concat([this.#rest, chunk]) : chunk
    this.#rest = undefined
    this.#read(bytes)
    this.#receiver.taken()
    if (!this.#ping) return
    const { start, end } = this.#ping
    this.#ping = undefined
    const payload = bytes.subarray(start, end)
    unmask(payload, bytes, start - 4)
    this.#receiver.ping(payload)
  }

  #read(bytes: Buffer): void {
    const owed = Math.min(this.#owed, bytes.length)
    this.#owed -= owed
    if (owed > 0) this.#give(bytes.subarray(0, owed))
    let at = owed
    while (at < bytes.length && !this.#isOver) {
      if (this.#isGivenUp || this.#ws.readyState !== WebSocket.OPEN) {
        this.#isGivenUp = true
        this.#give(bytes.subarray(at))
        return
      }
      const extent = readExtent(bytes, at)
      const isControl = extent !== undefined && isPingOrPong(bytes, at, extent)
      if (!extent || (isControl && at + extent.end > bytes.length)) {
        // A copy: it may wait long, and what it came with is large.
        this.#rest = Buffer.from(bytes.subarray(at))
        return
      }
      const end = at + extent.end
      if (isControl) this.#beat(bytes, at, extent)
      else if (!this.#isOurs(bytes, at, extent)) this.#pass(bytes, at, extent)
      else if (!this.#deliver(bytes, at, extent)) continue
      at = end
    }
  }

  /** The connection ends: gives what has not been given to anyone. */
  flush(): void {
    if (this.#rest) this.#give(this.#rest)
    this.#rest = undefined
    this.#hold(0)
  }

  #give(bytes: Buffer): void {
    if (this.#isOver) return
    this.#feed.call(this.#socket, bytes)
    this.#isOver = !this.#reader.writable
    // What it keeps when it is left to itself stays counted until the connection ends.
    if (this.#isGivenUp) return
    const isWhole = this.#owed === 0 && !this.#isFragmented
    this.#hold(isWhole ? 0 : this.#held + bytes.length)
    if (!isWhole && this.#unfinished.isTooMuch) this.#receiver.crowded()
  }

  #hold(bytes: number): void {
    this.#unfinished.account(this.#held, bytes)
    this.#held = bytes
  }

  #isOurs(bytes: Buffer, at: number, { start, end }: Extent): boolean {
    const first = bytes[at]!
    return (
      (first === FIN_TEXT || first === FIN_BINARY) &&
      !this.#isFragmented &&
      (bytes[at + 1]! & MASKED) !== 0 &&
      end - start <= FRAME_BYTES_MAX &&
      at + end <= bytes.length
    )
  }

  /** They may stand between the pieces of a message, of which `ws` needs not to know them. */
  #beat(bytes: Buffer, at: number, { start, end }: Extent): void {
    if (bytes[at] === FIN_PONG) this.#receiver.pong()
    else this.#ping = { start: at + start, end: at + end }
  }

  /** A frame, or as much of it as there is, for `ws`. */
  #pass(bytes: Buffer, at: number, { end }: Extent): void {
    const first = bytes[at]!
    const opcode = first & OPCODE
    if (opcode < 8) this.#isFragmented = first < MASKED
    const here = Math.min(at + end, bytes.length)
    this.#owed = at + end - here
    this.#give(bytes.subarray(at, here))
  }

  /** False when the text is not UTF-8: `ws` is to say so, to the frame as it came. */
  #deliver(bytes: Buffer, at: number, { start, end }: Extent): boolean {
    const binary = bytes[at] === FIN_BINARY
    const payload = bytes.subarray(at + start, at + end)
    const seen = unmask(payload, bytes, at + start - 4)
    if (!binary && seen >= 0x80 && !isUtf8(payload)) {
      unmask(payload, bytes, at + start - 4)
      this.#isGivenUp = true
      return false
    }
    this.#receiver.message(payload, binary)
    return true
  }
}

/** The extent of the frame that begins at `at`; undefined when its header is cut. */
function readExtent(bytes: Buffer, at: number): Extent | undefined {
  const left = bytes.length - at
  if (left < 2) return undefined
  const second = bytes[at + 1]!
  const mask = second & MASKED ? 4 : 0
  const length = second & 0x7f
  if (length < 126) return left < 2 + mask ? undefined : { start: 2 + mask, end: 2 + mask + length }
  const wide = length === 126 ? 4 : 10
  if (left < wide + mask) return undefined
  const size = length === 126 ? bytes.readUInt16BE(at + 2) : Number(bytes.readBigUInt64BE(at + 2))
  return { start: wide + mask, end: wide + mask + size }
}

/** Where the payload begins of a frame that is masked and whose length has one byte, as all PINGs and PONGs have. */
const SHORT_MASKED = 6

/** Whether a PING or PONG begins at `at`, as RFC 6455 asks of one: of any other `ws` says what is wrong. */
const isPingOrPong = (bytes: Buffer, at: number, { start }: Extent): boolean =>
  (bytes[at] === FIN_PING || bytes[at] === FIN_PONG) && start === SHORT_MASKED

/** Unmasks in place, or masks again. Returns all bytes joined by OR: below 0x80 they are ASCII. */
function unmask(payload: Buffer, source: Buffer, maskAt: number): number {
  const m0 = source[maskAt]!
  const m1 = source[maskAt + 1]!
  const m2 = source[maskAt + 2]!
  const m3 = source[maskAt + 3]!
  const { length } = payload
  let seen = 0
  let i = 0
  for (; i + 3 < length; i += 4) {
    const b0 = payload[i]! ^ m0
    const b1 = payload[i + 1]! ^ m1
    const b2 = payload[i + 2]! ^ m2
    const b3 = payload[i + 3]! ^ m3
    payload[i] = b0
    payload[i + 1] = b1
    payload[i + 2] = b2
    payload[i + 3] = b3
    seen |= b0 | b1 | b2 | b3
  }
  for (; i < length; i++) {
    const byte = payload[i]! ^ source[maskAt + (i & 3)]!
    payload[i] = byte
    seen |= byte
  }
  return seen
}
