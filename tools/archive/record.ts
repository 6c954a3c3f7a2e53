/** What an archive holds, whichever way it is written. PROTOCOL.md, *Archives*. */
import { closeSync, openSync, readSync } from 'node:fs'
import { TidemarkError } from '../../src/errors.ts'
import type { Piece } from '../../src/log/carry.ts'

/** Of both ways; a newer one is refused. */
export const ARCHIVE_FORMAT = 1

/** What an archive was asked to hold. An unfinished one is gone on with only by whoever asks for the same. */
export interface Asked {
  /** The directory or address that it is of. */
  readonly source: string
  /** Channels and patterns; none: all, the system's too. */
  readonly channels: readonly string[]
}

/** The first record. */
export interface Head extends Asked {
  readonly is: 'archive'
  readonly format: number
  /** Name and version of the program that wrote it. */
  readonly by: string
  /** When it was begun, ms. */
  readonly time: number
}

/** The last record: without it an archive is cut. */
export interface Tail {
  readonly is: 'whole'
  readonly channels: number
  readonly events: number
  readonly cursors: number
  /** Events that are known to be lost. */
  readonly lost: number
  /** Cursors that are damaged where they come from. */
  readonly lostCursors: number
  /** Of every byte before this record; hex. */
  readonly sha256: string
}

export type ArchiveRecord = Head | Piece | Tail

/** A record, and the bytes that it was read from. */
export interface Entry {
  readonly record: ArchiveRecord
  readonly bytes: Uint8Array
}

/** One way to write records down. */
export interface Codec {
  readonly name: 'blocks' | 'lines'
  encode(record: ArchiveRecord): Uint8Array
  /** @throws data-loss { offset } where it is cut or damaged */
  decode(input: Input): Generator<Entry>
}

/** A file's bytes, one after the other. */
export interface Input {
  /** Where the next ones stand. */
  readonly offset: number
  /** The next so many; fewer at the end. */
  take(bytes: number): Buffer
}

/** Calls `use` with the bytes of a file. @throws io-error */
export function* reading<T>(path: string, use: (input: Input) => Generator<T>): Generator<T> {
  const fd = failing(path, () => openSync(path, 'r'))
  let offset = 0
  const input: Input = {
    get offset() {
      return offset
    },
    take(bytes) {
      const taken = Buffer.allocUnsafe(bytes)
      let length = 0
      for (let read = -1; read !== 0 && length < bytes; length += read)
        read = failing(path, () => readSync(fd, taken, length, bytes - length, null))
      offset += length
      return taken.subarray(0, length)
    },
  }
  try {
    yield* use(input)
  } finally {
    closeSync(fd)
  }
}

/** @throws io-error, storage-full */
export function failing<T>(path: string, work: () => T): T {
  try {
    return work()
  } catch (cause) {
    throw fileError(path, cause)
  }
}

/** What a file system said, in our codes. */
export function fileError(path: string, cause: unknown): TidemarkError {
  if (cause instanceof TidemarkError) return cause
  const { code } = cause as NodeJS.ErrnoException
  if (code === 'ENOENT') return new TidemarkError('not-found', `There is no file ${path}`, {}, { cause })
  if (code === 'ENOSPC' || code === 'EDQUOT')
    return new TidemarkError('storage-full', `There is no room for ${path}`, {}, { cause })
  return new TidemarkError('io-error', `${path} can not be read or written (${code})`, {}, { cause })
}

export const cut = (offset: number, why: string): TidemarkError =>
  new TidemarkError('data-loss', `The archive is cut or damaged at ${offset}: ${why}`, { offset })
