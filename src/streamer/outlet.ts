/**
 * The way out of one socket: every byte after the handshake passes here in order. Frames are whole and written in one
 * piece, so they never mix with the one that `ws` sends itself (the close frame), which is written whole too.
 */
import type { Duplex } from 'node:stream'
import { WebSocket } from 'ws'
import type { Queue, Turn } from '../doors/rounds.ts'
import { pongFrame } from '../formats/frames.ts'

/** Answers that wait in a socket's buffer beyond this stop the reading of that socket: 256 KiB. */
const REPLY_BYTES_MAX = 256 * 1024

/** When room is needed, a socket that took no byte for this long is stalled; ms. */
const STILL_MS = 2_000

/**
 * What all sockets of a server have been given and not taken, bounded: without room no page is read for a reader that
 * is behind, and the sockets that have stood still longest are cut. A frame that many share counts for each of them.
 */
export class Backlog {
  readonly #limit: number
  readonly #queue: Queue
  #bytes = 0
  /** Pages that are being read. */
  #reserved = 0
  /** Outlets with untaken bytes; the one that moved last is the last. */
  readonly #behind = new Set<Outlet>()
  /** Those who were refused room, in that order. */
  readonly #waiting = new Set<Turn>()
  #toFlush: Outlet[] = []

  /** @param limit bytes @param queue where those who waited for room get their turn */
  constructor(limit: number, queue: Queue) {
    this.#limit = limit
    this.#queue = queue
  }

  /** Bytes given and not taken. */
  get bytes(): number {
    return this.#bytes
  }

  /** More than half of the room is taken: pages are to be small. */
  get isTight(): boolean {
    return (this.#bytes + this.#reserved) * 2 > this.#limit
  }

  get #hasRoom(): boolean {
    return this.#bytes + this.#reserved < this.#limit
  }

  /** Room for a page that is about to be read, until `release`; without it, `member` gets a turn when there is some. */
  reserve(bytes: number, member: Turn): boolean {
    if (!this.#hasRoom) this.#cutStalled()
    if (!this.#hasRoom) {
      this.#waiting.add(member)
      return false
    }
    this.#reserved += bytes
    return true
  }

  release(bytes: number): void {
    this.#reserved -= bytes
    this.#admit()
  }

  account(outlet: Outlet, before: number, after: number): void {
    this.#bytes += after - before
    if (after === 0) this.#behind.delete(outlet)
    else if (before === 0) this.#behind.add(outlet)
    if (after < before) this.#admit()
    else if (!this.#hasRoom) this.#cutStalled()
  }

  /** Looked at from time to time: those who wait for room get it from those who stand still. */
  sweep(): void {
    if (this.#waiting.size === 0) return
    this.#cutStalled()
    this.#admit()
  }

  #admit(): void {
    for (const member of this.#waiting) {
      if (!this.#hasRoom) return
      this.#waiting.delete(member)
      this.#queue.join(member)
    }
  }

  #cutStalled(): void {
    const now = clock()
    for (const outlet of this.#behind) {
      if (this.#hasRoom || outlet.standstill(now) < STILL_MS) return
      outlet.cut()
    }
  }

  /** Some of its bytes were taken. */
  moved(outlet: Outlet): void {
    if (this.#behind.delete(outlet)) this.#behind.add(outlet)
  }

  /** Flushes it when the answers that are being made now are made: many answers, one write. */
  flushSoon(outlet: Outlet): void {
    this.#toFlush.push(outlet)
    if (this.#toFlush.length === 1) process.nextTick(this.#flush)
  }

  readonly #flush = (): void => {
    const outlets = this.#toFlush
    this.#toFlush = []
    for (const outlet of outlets) outlet.flush()
  }
}

/** Whole milliseconds, for waits: small integers, so that the clocks of a socket take no number object each. */
export const clock = (): number => Math.round(performance.now())

export class Outlet {
  readonly #ws: WebSocket
  readonly #socket: Duplex
  readonly #backlog: Backlog
  /** Ends the session; its bytes are needed elsewhere. */
  readonly #onCut: { stalled(): void }
  #replies: Buffer[] | undefined
  /** Answers behind those, whole frames too: each character is a byte. Text is joined faster than buffers are. */
  #text = ''
  /** Bytes of answers in the buffer since it was empty. */
  #replyBytes = 0
  /** Answers the newest PING, once for all that came since the last one was answered. */
  #pong: Buffer | undefined
  #unsent = 0
  /** Bytes given so far, and how many of them had left the last time they were counted. */
  #given = 0
  #taken = 0
  #movedAt = 0
  /** When a frame was last given; as clock(). */
  sentAt = 0
  /** When the buffer became full, as clock(); undefined while it is not. */
  #fullAt: number | undefined

  constructor(ws: WebSocket, socket: Duplex, backlog: Backlog, onCut: { stalled(): void }) {
    this.#ws = ws
    this.#socket = socket
    this.#backlog = backlog
    this.#onCut = onCut
    this.sentAt = clock()
  }

  /** The socket takes less than it is given, or nothing ever more: nothing is read for it until it has drained. */
  get isFull(): boolean {
    return this.#isFilled || this.#isShut
  }

  /** What is given in pieces needs a `drain` for Node even where all of it has left at once. */
  get #isFilled(): boolean {
    return this.#socket.writableNeedDrain && this.#socket.writableLength > 0
  }

  /** After a close frame there is nothing to say, and ws has sent it by then. */
  get #isShut(): boolean {
    return this.#ws.readyState !== WebSocket.OPEN || this.#socket.destroyed
  }

  /** Bytes that have left since the beginning. */
  get taken(): number {
    return this.#given - this.#socket.writableLength
  }

  /** Something it was given has not left yet. */
  get isBehind(): boolean {
    return this.#socket.writableLength > 0
  }

  /** The client asks and does not read the answers. */
  get isClogged(): boolean {
    return this.#replyBytes > REPLY_BYTES_MAX
  }

  /** An answer; goes out with others that are made at the same time. */
  reply(frame: Buffer): void {
    this.#begin().push(frame)
    this.#replyBytes += frame.length
  }

  /** As `reply`, frames; each character of theirs is a byte. */
  replyText(frames: string): void {
    if (!this.#replies) this.#begin()
    this.#text += frames
    this.#replyBytes += frames.length
  }

  /**
   * Answers a PING, when the socket has room: of PINGs that come faster than PONGs are taken the newest is answered, as
   * RFC 6455 allows (5.5.3).
   */
  pong(payload: Buffer): void {
    this.#pong = pongFrame(payload)
    if (!this.isFull) this.#begin()
  }

  /** The answers so far, behind which another one goes out. */
  #begin(): Buffer[] {
    if (!this.#replies) {
      this.#replies = []
      this.#backlog.flushSoon(this)
    }
    if (this.#text !== '') {
      this.#replies.push(Buffer.from(this.#text, 'latin1'))
      this.#text = ''
    }
    return this.#replies
  }

  /** A frame, in one piece or more, that goes out now, behind the answers so far. Returns its length. */
  write(pieces: readonly Buffer[]): number {
    this.flush()
    return this.#write(pieces)
  }

  flush(): void {
    if (!this.#replies) return
    const replies = this.#begin()
    this.#replies = undefined
    // Applications are shown no PONG: one alone does not stand for a heartbeat.
    const sentAt = replies.length === 0 ? this.sentAt : undefined
    if (this.#pong && !this.isFull) {
      replies.push(this.#pong)
      this.#pong = undefined
    }
    if (replies.length === 0) return
    this.#write(replies.length === 1 ? replies : [Buffer.concat(replies)])
    if (sentAt !== undefined) this.sentAt = sentAt
    if (this.#unsent === 0) this.#replyBytes = 0
  }

  #write(pieces: readonly Buffer[]): number {
    let length = 0
    for (const piece of pieces) length += piece.length
    if (this.#isShut) return length
    this.#given += length
    const now = clock()
    this.sentAt = now
    this.#give(pieces)
    if (this.#isFilled) this.#fullAt ??= now
    this.#count(now)
    return length
  }

  /** Pieces leave together: nothing comes between them. */
  #give(pieces: readonly Buffer[]): void {
    const socket = this.#socket
    if (pieces.length === 1) {
      socket.write(pieces[0])
      return
    }
    socket.cork()
    for (const piece of pieces) socket.write(piece)
    socket.uncork()
  }

  /** The socket's buffer is empty again. Returns how long it was full, ms; undefined when it was not. */
  drained(): number | undefined {
    const now = clock()
    const ms = this.#fullAt === undefined ? undefined : now - this.#fullAt
    this.#fullAt = undefined
    this.#replyBytes = 0
    this.#count(now)
    if (this.#pong) this.#begin()
    return ms
  }

  #count(now: number): void {
    const unsent = this.#socket.destroyed ? 0 : this.#socket.writableLength
    if (unsent === this.#unsent) return
    const before = this.#unsent
    this.#unsent = unsent
    if (before === 0) {
      this.#movedAt = now
      this.#taken = this.#given - untaken(this.#socket)
    }
    this.#backlog.account(this, before, unsent)
  }

  /** How long not one byte was taken while some waited, ms; 0 when none waits. */
  standstill(now: number): number {
    this.#count(now)
    if (this.#unsent === 0) {
      // Small answers leave without a word, and what left is not unread.
      if (!this.#replies) this.#replyBytes = 0
      return 0
    }
    const taken = this.#given - untaken(this.#socket)
    if (taken > this.#taken) {
      this.#taken = taken
      this.#movedAt = now
      this.#backlog.moved(this)
    }
    return now - this.#movedAt
  }

  cut(): void {
    this.#onCut.stalled()
    this.#socket.destroy()
    this.over()
  }

  /** The socket is gone. */
  over(): void {
    this.#replies = undefined
    this.#pong = undefined
    this.#text = ''
    const before = this.#unsent
    this.#unsent = 0
    this.#backlog.account(this, before, 0)
  }
}

/**
 * Falls as the kernel takes bytes, also in the middle of a large write, which `writableLength` counts until its end.
 * `writeQueueSize` is what Node's own idle timeout looks at; a stream without it is measured by whole writes.
 */
function untaken(socket: Duplex & { _handle?: { writeQueueSize?: number } | null }): number {
  return socket.writableLength + (socket._handle?.writeQueueSize ?? 0)
}
