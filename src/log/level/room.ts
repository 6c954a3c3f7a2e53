/**
 * The disk-space watermark: appends are refused before the disk is full, so that trims, deletes and cursors still find
 * room, and LevelDB the room that it needs to open again. Asked for by those who append, so it costs an idle log
 * nothing; appends go on by themselves when there is room again.
 */
import { readdirSync, statfsSync, statSync } from 'node:fs'
import { join } from 'node:path'
import type { Notice } from './store.ts'

/** The disk is asked at most this often, ms … */
const ASK_EVERY_MS = 250
/** … or after so many bytes of appends, and always before they are a quarter of what is kept free. */
const ASK_EVERY_BYTES = 8 * 1024 * 1024

/** Bytes that the disk of `dir` has left, and its size. */
function roomOf(dir: string): { readonly free: number; readonly size: number } {
  const { bavail, bsize, blocks } = statfsSync(dir)
  return { free: bavail * bsize, size: blocks * bsize }
}

/** A disk that is small beside a reserve is judged by its own size. */
const scaled = (reserve: number, { size }: { readonly size: number }): number => Math.min(reserve, size / 4)

/** What opening takes beside the log files' own size. */
const OPENING_BYTES = 1024 * 1024

/**
 * True when LevelDB can open in this directory: it writes all of its log files into tables before it deletes them.
 * A directory that can not be looked into is not full for that; opening it tells what is wrong.
 */
export function hasRoomToOpen(store: string, reserve: number): boolean {
  try {
    const room = roomOf(store)
    const logs = readdirSync(store).filter((name) => name.endsWith('.log'))
    const sizes = logs.map((name) => statSync(join(store, name), { throwIfNoEntry: false })?.size ?? 0)
    const toWrite = sizes.reduce((sum, size) => sum + size, OPENING_BYTES)
    return room.free >= Math.max(scaled(reserve, room), toWrite)
  } catch {
    return true
  }
}

export class Watermark {
  readonly #dir: string
  readonly #minFree: number
  readonly #isGiven: boolean
  readonly #notice: Notice
  #isLow = false
  #askedAt = Number.NEGATIVE_INFINITY
  #bytesSince = 0
  #askEveryBytes = 0

  /** @param minFree what is kept free: as given, or `reserve`, which a small disk scales down; 0 is off. */
  constructor(dir: string, minFree: number | undefined, reserve: number, notice: Notice) {
    this.#dir = dir
    this.#minFree = minFree ?? reserve
    this.#isGiven = minFree !== undefined
    this.#notice = notice
  }

  /** True when so many bytes more should not be appended now. */
  isLow(bytes = 0): boolean {
    if (this.#minFree === 0) return false
    this.#bytesSince += bytes
    const now = performance.now()
    if (now - this.#askedAt < ASK_EVERY_MS && this.#bytesSince < this.#askEveryBytes) return this.#isLow
    this.#askedAt = now
    this.#bytesSince = 0
    this.#ask()
    return this.#isLow
  }

  get reason(): string {
    return 'The disk is almost full: appends wait for room; trims, deletes and cursors go on'
  }

  #ask(): void {
    const room = roomOf(this.#dir)
    const minFree = this.#isGiven ? this.#minFree : scaled(this.#minFree, room)
    this.#askEveryBytes = Math.min(ASK_EVERY_BYTES, minFree / 4)
    const isLow = room.free < minFree
    if (isLow === this.#isLow) return
    this.#isLow = isLow
    const facts = { free: room.free, minFree }
    if (isLow) this.#notice('error', this.reason, facts)
    else this.#notice('info', 'There is room on the disk again', facts)
  }
}
