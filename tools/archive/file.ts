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
import { hasCode, TidemarkError } from '../../src/errors.ts'
import type { Piece } from '../../src/log/carry.ts'
import { lockFile } from '../../src/log/open.ts'
import { type ArchiveRecord, type Asked, type Codec, failing, type Head, reading, type Tail } from './record.ts'
import { addTo, type Contents, noTotals, type ScanOptions, scan, type Totals } from './scan.ts'

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
    if (!existsSync(dirname(target)))
      throw new TidemarkError('cannot-create', `There is no directory ${dirname(target)}`)
    needNone(target)
    const fd = failing(path, () => openSync(path, constants.O_RDWR | constants.O_CREAT, FILE_MODE))
    let release: Release | undefined
    try {
      release = await lockFile(path)
      // It may have got its name before it was taken.
      needNone(target)
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

  /** Reads it back, and gives it its name. @throws data-loss, io-error, storage-full; cannot-create when another has it by now */
  async finish(options: ScanOptions): Promise<void> {
    failing(this.path, () => fsyncSync(this.#fd))
    await scan(this.path, options)
    needNone(this.#name)
    failing(this.#name, () => {
      renameSync(this.path, this.#name)
      const dir = openSync(dirname(this.#name), 'r')
      fsyncSync(dir)
      closeSync(dir)
    })
  }
}

function needNone(path: string): void {
  if (existsSync(path)) throw new TidemarkError('cannot-create', `${path} is there already`)
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
