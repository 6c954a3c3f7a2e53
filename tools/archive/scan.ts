/** Archives read: every checksum and sum of one, and whether a log could keep what it holds. */
import { createHash, type Hash } from 'node:crypto'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { readHeader } from '../../src/block.ts'
import { sameHistory } from '../../src/epoch.ts'
import { hasCode, TidemarkError } from '../../src/errors.ts'
import { checkEvents } from '../../src/formats/kept.ts'
import { type ArrivalPiece, checkPiece, type Progress, progressWith } from '../../src/log/arrival.ts'
import { type Piece, type Sum, Summing } from '../../src/log/carry.ts'
import type { Begun } from '../../src/log/give.ts'
import type { ChannelInfo } from '../../src/log/log.ts'
import { blocksCodec, isBlocks } from './blocks.ts'
import { linesCodec } from './lines.ts'
import { type Codec, cut, type Entry, type Head, reading, type Tail } from './record.ts'

/** What an archive, or a part of one, holds. */
export interface Contents {
  readonly codec: Codec
  readonly head: Head
  /** Undefined in one that is cut. */
  readonly tail: Tail | undefined
  /** Channels with an end, and how many seqs they go over. */
  readonly channels: ReadonlyMap<string, number>
  /** Places among the channels of the file, from 0, of those that count for nothing. */
  readonly voids: ReadonlySet<number>
  /** The channel that has no end. */
  readonly begun: Begun | undefined
  /** Bytes up to which it can be gone on with, and their hash. */
  readonly length: number
  readonly hash: Hash
  readonly totals: Totals
}

/** Of the channels that have an end. */
export type Totals = { -readonly [Field in keyof Omit<Tail, 'is' | 'sha256'>]: number }

export const noTotals = (): Totals => ({ channels: 0, events: 0, cursors: 0, lost: 0, lostCursors: 0 })

/** Counts a channel that has its end. */
export function addTo(totals: Totals, { events, cursors, lost, lostCursors }: Sum): void {
  totals.channels++
  totals.events += events
  totals.cursors += cursors
  totals.lost += lost
  totals.lostCursors += lostCursors
}

/** Who reads a file gives way to other work, a Ctrl-C too, after so many bytes. */
const TURN_BYTES = 4 * 1024 * 1024

export interface ScanOptions {
  /** Of one that is cut, what is whole. */
  readonly unfinished?: boolean
  readonly signal?: AbortSignal
  /** Told how many bytes were read. */
  readonly onProgress?: (bytes: number) => void
}

/**
 * Reads a whole archive, every checksum and sum of it.
 * @throws data-loss { offset }, bad-request for another file, not-found, io-error; the signal's reason
 */
export async function scan(path: string, { unfinished, signal, onProgress }: ScanOptions = {}): Promise<Contents> {
  const codec = codecOf(path)
  const scanned = new Scan(codec)
  let turn = 0
  try {
    for (const entry of reading(path, codec.decode)) {
      scanned.add(entry)
      if (scanned.offset < turn) continue
      turn = scanned.offset + TURN_BYTES
      onProgress?.(scanned.offset)
      await nextTurn()
      signal?.throwIfAborted()
    }
    if (!unfinished && !scanned.tail) throw cut(scanned.offset, 'its last record is missing')
  } catch (error) {
    if (!unfinished || !hasCode(error, 'data-loss')) throw error
  }
  return scanned.contents()
}

/** @throws bad-request */
function codecOf(path: string): Codec {
  const [start] = reading(path, function* (input) {
    yield input.take(8)
  })
  if (isBlocks(start!)) return blocksCodec
  if (start![0] === '{'.charCodeAt(0)) return linesCodec
  throw new TidemarkError('bad-request', `${path} is no archive`)
}

class Scan {
  offset = 0
  tail: Tail | undefined
  readonly #codec: Codec
  readonly #hash = createHash('sha256')
  #head: Head | undefined
  readonly #channels = new Map<string, number>()
  readonly #voids = new Set<number>()
  #count = 0
  #open: OpenChannel | undefined
  #length = 0
  #lengthHash = this.#hash
  readonly #totals = noTotals()

  constructor(codec: Codec) {
    this.#codec = codec
  }

  add({ record, bytes }: Entry): void {
    if (this.tail) throw cut(this.offset, 'something stands behind its last record')
    if (record.is === 'whole') this.#end(record)
    else if (record.is === 'archive') this.#begin(record)
    else this.#told(record)
    this.offset += bytes.length
    this.#hash.update(bytes)
    // It is gone on with before the cursors of a channel, and before the last record.
    if (this.#open?.hasCursors || this.tail) return
    this.#length = this.offset
    this.#lengthHash = this.#hash.copy()
  }

  #begin(head: Head): void {
    if (this.#head) throw cut(this.offset, 'its first record comes again')
    this.#head = head
  }

  /** @throws data-loss { offset } where no log could take it in */
  #told(piece: Piece): void {
    try {
      this.#piece(piece)
    } catch (error) {
      if (error instanceof TidemarkError && error.details.offset === undefined) throw cut(this.offset, error.message)
      throw error
    }
  }

  #piece(piece: Piece): void {
    if (!this.#head) throw cut(this.offset, 'its first record is missing')
    if (piece.is === 'channel') {
      if (this.#open) throw cut(this.offset, `${this.#open.info.channel} has no end`)
      if (this.#channels.has(piece.channel)) throw cut(this.offset, `${piece.channel} was there already`)
      const { is: _, ...info } = piece
      this.#open = new OpenChannel(info)
      this.#count++
      return
    }
    const open = this.#open
    if (!open) throw cut(this.offset, 'a record belongs to no channel')
    if (piece.is === 'void') {
      this.#voids.add(this.#count - 1)
      this.#open = undefined
    } else if (piece.is === 'end') {
      open.needEnd(piece.sum)
      const { channel, head, trimmed } = open.info
      addTo(this.#totals, piece.sum)
      this.#channels.set(channel, head - trimmed)
      this.#open = undefined
    } else open.add(piece)
  }

  #end(tail: Tail): void {
    if (this.#open) throw cut(this.offset, `${this.#open.info.channel} has no end`)
    if (this.#hash.copy().digest('hex') !== tail.sha256) throw cut(this.offset, 'its checksum is another')
    const told = Object.keys(this.#totals) as (keyof Totals)[]
    for (const what of told)
      if (tail[what] !== this.#totals[what]) throw cut(this.offset, `it holds ${this.#totals[what]} ${what}`)
    this.tail = tail
  }

  contents(): Contents {
    if (!this.#head) throw cut(0, 'its first record is missing')
    return {
      ...{ codec: this.#codec, head: this.#head, tail: this.tail, channels: this.#channels, voids: this.#voids },
      ...{ begun: this.#open?.begun(), length: this.#length, hash: this.#lengthHash, totals: this.#totals },
    }
  }
}

/** A channel whose end is still to come: it is as a log would take it. */
class OpenChannel {
  info: ChannelInfo
  hasCursors = false
  readonly #summing = new Summing()
  #progress: Progress

  constructor(info: ChannelInfo) {
    this.info = info
    this.#progress = { head: info.trimmed, trimmed: info.trimmed, time: 0 }
  }

  /** What is left of it is given as from there; its cursors come anew. */
  begun(): Begun {
    this.#summing.forgetCursors()
    return { info: this.info, after: this.#progress.head, summing: this.#summing }
  }

  /** @throws what a log would throw */
  add(piece: Exclude<Piece, { is: 'channel' | 'end' | 'void' }>): void {
    if (piece.is === 'cursors') {
      this.hasCursors = true
      this.#needKept(piece)
    } else if (piece.is === 'grown') {
      if (piece.head < this.info.head) throw wrong(`its head falls to ${piece.head}`)
      this.info = { ...this.info, head: piece.head, time: piece.time }
    } else if (piece.is === 'blocks') {
      this.#needChain(piece.blocks)
      this.#goOn({ blocks: piece.blocks })
      for (const block of piece.blocks) checkEvents(this.info.channel, block)
    } else {
      const { head } = this.#progress
      if (piece.is === 'lost' ? piece.after !== head || piece.upTo <= head : piece.upTo < head)
        throw wrong(`it goes on at ${head}, not at ${piece.upTo}`)
      this.#goOn(piece.is === 'lost' ? { lostUpTo: piece.upTo } : { trimmed: piece.upTo })
    }
    this.#summing.add(piece)
  }

  #goOn(more: Partial<ArrivalPiece>): void {
    const { channel, epoch: from, head } = this.info
    const piece = { from, head, trimmed: this.#progress.trimmed, ...more }
    this.#progress = progressWith(channel, this.#progress, piece, checkPiece(channel, piece).blocks)
  }

  /** A log passes over what it has; in an archive nothing comes twice. */
  #needChain(blocks: readonly Uint8Array[]): void {
    let { head } = this.#progress
    for (const block of blocks) {
      const { after, last } = readHeader(block)
      if (after !== head) throw wrong(`a block follows ${after}, not ${head}`)
      head = last
    }
  }

  #needKept({ cursors }: Extract<Piece, { is: 'cursors' }>): void {
    const { epoch, head } = this.info
    for (const cursor of cursors)
      if (cursor.seq > head && sameHistory(cursor.epoch, epoch))
        throw wrong(`the cursor of ${cursor.client} is beyond its head ${head}`)
  }

  needEnd(sum: Sum): void {
    const { channel, head } = this.info
    const { head: at } = this.#progress
    if (at !== head) throw wrong(`${channel} ends at ${at}, not at its head ${head}`)
    const found = this.#summing.sum()
    for (const what of Object.keys(found) as (keyof Sum)[])
      if (found[what] !== sum[what]) throw wrong(`the sum of ${channel} is another: ${what}`)
  }
}

const wrong = (why: string): TidemarkError => new TidemarkError('data-loss', why)

/** The pieces of an archive that count. @param wanted whether a channel is asked for @throws as scan */
export async function* piecesOf(
  path: string,
  { codec, voids }: Contents,
  wanted: (channel: string) => boolean,
): AsyncGenerator<Piece> {
  let place = -1
  let isWanted = false
  let since = 0
  for (const { record, bytes } of reading(path, codec.decode)) {
    since += bytes.length
    if (since > TURN_BYTES) {
      since = 0
      await nextTurn()
    }
    if (record.is === 'archive' || record.is === 'whole') continue
    if (record.is === 'channel') {
      place++
      isWanted = !voids.has(place) && wanted(record.channel)
    }
    if (isWanted) yield record
  }
}
