/**
 * The high-water mark: a small file outside LevelDB that remembers how far this store's commits have come.
 *
 * LevelDB opens without a word when its newest log file is missing or cut, and a directory put back from a copy looks
 * whole. The mark tells: a store whose commit number is lower has lost acknowledged events; a mark with another inode
 * than its own is part of a copied directory, and so is one whose file was born at another time, for file systems give
 * the number of a removed file to the next one. (A snapshot of a whole disk keeps them all: only a reader that is ahead
 * of the head can tell that one.)
 *
 *   slot := magic u32 | life 10 bytes | birth u16 | commit u64 | inode u64 | crc32 u32       two slots, written in turn
 */
import { closeSync, fchmodSync, fdatasync, fdatasyncSync, fstatSync, openSync, readSync, writeSync } from 'node:fs'
import { crc32 } from 'node:zlib'
import { getU32, getU64, putU32, putU64 } from '../../bytes.ts'

const MAGIC = 0x544d4857
const SLOT_BYTES = 36
/** Slots lie in different disk sectors, so that a torn write spoils one of them. */
const SLOT_STEP = 4_096
/** The mark lags the store by at most this long after a power cut, ms. */
const SYNC_EVERY_MS = 200
const FILE_MODE = 0o600
/** Longer than a tick of the clock that file systems stamp with, ms. */
const TICK_MS = 12

export interface MarkState {
  readonly life: string
  readonly commit: number
  /** True when the file is the one that was written first (the inode and birth that it remembers are its own). */
  readonly original: boolean
}

export class Mark {
  readonly #fd: number
  readonly #inode: bigint
  readonly #birth: number
  #turn = 0
  #timer: NodeJS.Timeout | undefined
  #onError: (error: Error) => void

  private constructor(fd: number, birth: number, onError: (error: Error) => void) {
    this.#fd = fd
    this.#inode = fstatSync(fd, { bigint: true }).ino
    this.#birth = birth
    this.#onError = onError
  }

  /** Makes the file; it must not exist. The caller syncs its directory. */
  static create(path: string, onError: (error: Error) => void): Mark {
    const fd = openSync(path, 'wx+', FILE_MODE)
    return new Mark(fd, birthOf(fd), onError)
  }

  static open(path: string, onError: (error: Error) => void): Mark {
    const fd = openSync(path, 'r+')
    return new Mark(fd, tellsBirth(fd) ? birthOf(fd) : 0, onError)
  }

  /** What a mark says, without a change to it. */
  static peek(path: string): MarkState | undefined {
    const fd = openSync(path, 'r')
    const { birthtimeNs, ctimeNs } = fstatSync(fd, { bigint: true })
    const mark = new Mark(fd, birthtimeNs === ctimeNs ? 0 : birthOf(fd), () => {})
    try {
      return mark.read()
    } finally {
      closeSync(mark.#fd)
    }
  }

  /** The newest whole slot; undefined when neither is. */
  read(): MarkState | undefined {
    let newest: MarkState | undefined
    for (const turn of [0, 1]) {
      const slot = Buffer.alloc(SLOT_BYTES)
      if (readSync(this.#fd, slot, 0, SLOT_BYTES, turn * SLOT_STEP) < SLOT_BYTES) continue
      if (getU32(slot, 0) !== MAGIC || crc32(slot.subarray(0, 32)) !== getU32(slot, 32)) continue
      const commit = getU64(slot, 16)
      if (newest && newest.commit >= commit) continue
      const birth = slot.readUInt16BE(14)
      const isBorn = birth === this.#birth || birth === 0 || this.#birth === 0
      const original = isBorn && slot.readBigUInt64BE(24) === this.#inode
      newest = { life: slot.toString('latin1', 4, 14), commit, original }
      this.#turn = 1 - turn
    }
    return newest
  }

  /** True while no more than the first slot was ever begun: that one is on disk before there is a store. */
  get isFirstSlot(): boolean {
    return fstatSync(this.#fd).size <= SLOT_BYTES
  }

  /** Remembers a commit that is on disk already; itself on disk within SYNC_EVERY_MS. */
  write(life: string, commit: number): void {
    const slot = Buffer.alloc(SLOT_BYTES)
    putU32(slot, 0, MAGIC)
    slot.write(life, 4, 'latin1')
    slot.writeUInt16BE(this.#birth, 14)
    putU64(slot, 16, commit)
    slot.writeBigUInt64BE(this.#inode, 24)
    putU32(slot, 32, crc32(slot.subarray(0, 32)))
    writeSync(this.#fd, slot, 0, SLOT_BYTES, this.#turn * SLOT_STEP)
    this.#turn = 1 - this.#turn
    this.#timer ??= setTimeout(() => this.#syncSoon(), SYNC_EVERY_MS).unref()
  }

  sync(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    fdatasyncSync(this.#fd)
  }

  close(): void {
    try {
      this.sync()
    } finally {
      closeSync(this.#fd)
    }
  }

  #syncSoon(): void {
    // The handle stays in #timer until the sync is done, so that two never overlap.
    fdatasync(this.#fd, (error) => {
      this.#timer = undefined
      if (error && error.code !== 'EBADF') this.#onError(error)
    })
  }
}

/** Tells a file from one that had its inode number before; 0 where the file system does not say when it was made. */
function birthOf(fd: number): number {
  const { birthtimeNs } = fstatSync(fd, { bigint: true })
  return birthtimeNs === 0n ? 0 : crc32(String(birthtimeNs)) & 0xffff || 1
}

/** False where the time of birth is the time of the last change under another name, as old kernels have it. */
function tellsBirth(fd: number): boolean {
  const before = fstatSync(fd, { bigint: true })
  if (before.birthtimeNs !== before.ctimeNs) return true
  // A file that was made this moment, or that never tells: a change a moment later shows which.
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, TICK_MS)
  fchmodSync(fd, FILE_MODE)
  return fstatSync(fd, { bigint: true }).birthtimeNs === before.birthtimeNs
}
