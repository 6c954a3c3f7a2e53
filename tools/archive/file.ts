/**
 * An archive's file. It is written beside its name, as `NAME.part`, and has its name only when all of it is there, on
 * disk, and was read back. What a run that was stopped left there is gone on with.
 */
import { createHash, type Hash } from 'node:crypto'
import {
  closeSync,
  constants,
  existsSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  renameSync,
  statSync,
  writeSync,
} from 'node:fs'
import { dirname, resolve } from 'node:path'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { readHeader } from '../../src/block.ts'
import { hasCode, TidemarkError } from '../../src/errors.ts'
import { isSame, type Piece, type Sum, Summing } from '../../src/log/carry.ts'
import type { Begun } from '../../src/log/give.ts'
import type { ChannelInfo } from '../../src/log/log.ts'
import { lockFile } from '../../src/log/open.ts'
import { blocksCodec, isBlocks } from './blocks.ts'
import { linesCodec } from './lines.ts'
import {
  type ArchiveRecord,
  type Asked,
  type Codec,
  cut,
  type Entry,
  failing,
  type Head,
  reading,
  type Tail,
} from './record.ts'

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
type Totals = { -readonly [Field in keyof Omit<Tail, 'is' | 'sha256'>]: number }

const noTotals = (): Totals => ({ channels: 0, events: 0, cursors: 0, lost: 0, lostCursors: 0 })

function addTo(totals: Totals, { events, cursors, lost, lostCursors }: Sum): void {
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
  #open: { info: ChannelInfo; after: number; summing: Summing; hasCursors: boolean } | undefined
  #length = 0
  #lengthHash = this.#hash
  readonly #totals = noTotals()

  constructor(codec: Codec) {
    this.#codec = codec
  }

  add({ record, bytes }: Entry): void {
    if (this.tail) throw cut(this.offset, 'something stands behind its last record')
    if (record.is === 'whole') this.#end(record)
    else if (record.is === 'archive') this.#head = record
    else this.#piece(record)
    this.offset += bytes.length
    this.#hash.update(bytes)
    // It is gone on with before the cursors of a channel, and before the last record.
    if (this.#open?.hasCursors || this.tail) return
    this.#length = this.offset
    this.#lengthHash = this.#hash.copy()
  }

  #piece(piece: Piece): void {
    if (!this.#head) throw cut(this.offset, 'its first record is missing')
    if (piece.is === 'channel') {
      if (this.#open) throw cut(this.offset, `${this.#open.info.channel} has no end`)
      const { is: _, ...info } = piece
      this.#open = { info, after: info.trimmed, summing: new Summing(), hasCursors: false }
      this.#count++
      return
    }
    const open = this.#open
    if (!open) throw cut(this.offset, 'a record belongs to no channel')
    if (piece.is === 'void') {
      this.#voids.add(this.#count - 1)
      this.#open = undefined
    } else if (piece.is === 'end') {
      const { channel, head } = open.info
      if (open.after !== head) throw cut(this.offset, `${channel} ends at ${open.after}, not at its head ${head}`)
      if (!isSame(open.summing.sum(), piece.sum)) throw cut(this.offset, `the sum of ${channel} is another`)
      addTo(this.#totals, piece.sum)
      this.#channels.set(open.info.channel, open.info.head - open.info.trimmed)
      this.#open = undefined
    } else {
      open.summing.add(piece)
      if (piece.is === 'cursors') open.hasCursors = true
      else if (piece.is === 'grown') open.info = { ...open.info, head: piece.head, time: piece.time }
      else if (piece.is !== 'blocks') open.after = piece.upTo
      else if (piece.blocks.length > 0) open.after = readHeader(piece.blocks.at(-1)!).last
    }
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
    this.#open?.summing.forgetCursors()
    return {
      ...{ codec: this.#codec, head: this.#head, tail: this.tail, channels: this.#channels, voids: this.#voids },
      ...{ begun: this.#open, length: this.#length, hash: this.#lengthHash, totals: this.#totals },
    }
  }
}

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

/** Where an archive goes to. */
export interface Out {
  write(bytes: Uint8Array): void | Promise<void>
}

/** Writes records down, counts and hashes them. */
export class Archivist {
  readonly #out: Out
  readonly #codec: Codec
  readonly #hash: Hash
  readonly #totals: Totals

  /** @param before what is there already, of an earlier run */
  constructor(out: Out, codec: Codec, before?: Contents) {
    this.#out = out
    this.#codec = codec
    this.#hash = before?.hash ?? createHash('sha256')
    this.#totals = before?.totals ?? noTotals()
  }

  async write(record: Head | Piece): Promise<void> {
    await this.#put(record)
    if (record.is === 'end') addTo(this.#totals, record.sum)
  }

  async end(): Promise<Tail> {
    const tail: Tail = { is: 'whole', ...this.#totals, sha256: this.#hash.copy().digest('hex') }
    await this.#put(tail)
    return tail
  }

  async #put(record: ArchiveRecord): Promise<void> {
    const bytes = this.#codec.encode(record)
    this.#hash.update(bytes)
    await this.#out.write(bytes)
  }
}

/** `NAME.part`, until it is whole. */
export class PartFile implements Out {
  readonly path: string
  /** What an earlier run left, that can be gone on with. */
  readonly before: Contents | undefined
  readonly #name: string
  readonly #fd: number
  readonly #release: () => Promise<void>

  /** Where the next bytes go. */
  #at: number

  private constructor(name: string, path: string, before: Contents | undefined, fd: number, release: Release) {
    this.#name = name
    this.path = path
    this.before = before
    this.#fd = fd
    this.#release = release
    this.#at = before?.length ?? 0
    failing(path, () => ftruncateSync(fd, this.#at))
  }

  /**
   * Takes the part for itself: two that write one would each undo what the other has read back.
   * @throws cannot-create when there is such a file, or a part of another archive; in-use, io-error, storage-full
   */
  static async open(name: string, codec: Codec, asked: Asked, options: ScanOptions): Promise<PartFile> {
    const target = resolve(name)
    const path = `${target}.part`
    const needNone = (): void => {
      if (existsSync(target)) throw new TidemarkError('cannot-create', `${name} is there already`)
    }
    needNone()
    const fd = failing(path, () => openSync(path, constants.O_RDWR | constants.O_CREAT, FILE_MODE))
    let release: Release | undefined
    try {
      release = await lockFile(path)
      // It may have got its name before it was taken.
      needNone()
      return new PartFile(target, path, await partAt(path, codec, asked, options), fd, release)
    } catch (error) {
      closeSync(fd)
      await release?.()
      throw error
    }
  }

  write(bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      const wrote = failing(this.path, () => writeSync(this.#fd, bytes, done, bytes.length - done, this.#at))
      done += wrote
      this.#at += wrote
    }
  }

  /** What is there stays, to be gone on with. */
  async close(): Promise<void> {
    closeSync(this.#fd)
    await this.#release()
  }

  /** Reads it back, and gives it its name. @throws data-loss, io-error, storage-full */
  async finish(options: ScanOptions): Promise<void> {
    failing(this.path, () => fsyncSync(this.#fd))
    await scan(this.path, options)
    failing(this.#name, () => {
      renameSync(this.path, this.#name)
      const dir = openSync(dirname(this.#name), 'r')
      fsyncSync(dir)
      closeSync(dir)
    })
  }
}

type Release = Awaited<ReturnType<typeof lockFile>>

/** Readable by its owner alone: it holds events. */
const FILE_MODE = 0o600

/** Whether a file holds the beginning of a first record, and no other's bytes. */
function startsAsArchive(path: string): boolean {
  const [start] = reading(path, function* (input) {
    yield input.take(FIRST_BYTES.lines.length)
  })
  return Object.values(FIRST_BYTES).some((first) => {
    const length = Math.min(first.length, start!.length)
    return first.subarray(0, length).equals(start!.subarray(0, length))
  })
}
const FIRST_BYTES = { blocks: Buffer.from('TIDEMARK'), lines: Buffer.from('{"is":"archive",') }

/** What an earlier run left; undefined where that is nothing. @throws cannot-create */
async function partAt(
  path: string,
  codec: Codec,
  { source, channels }: Asked,
  options: ScanOptions,
): Promise<Contents | undefined> {
  let found: Contents
  try {
    found = await scan(path, { ...options, unfinished: true })
  } catch (error) {
    options.signal?.throwIfAborted()
    // Not even its first record was written.
    const isShort = hasCode(error, 'data-loss') || statSync(path).size < FIRST_BYTES.blocks.length
    if (isShort && startsAsArchive(path)) return undefined
    throw new TidemarkError('cannot-create', `${path} is in the way: it is no part of an archive`, {}, { cause: error })
  }
  const { head } = found
  if (found.codec === codec && head.source === source && head.channels.join(' ') === channels.join(' ')) return found
  throw new TidemarkError('cannot-create', `${path} is left of another archive, of ${head.source}: remove it first`)
}
