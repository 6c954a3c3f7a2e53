/**
 * Pages of readers who are behind, of all doors, in turn: those that were asked for together come from the disk
 * together, and would hold up everything else, made one after the other in one turn of the event loop.
 */
import { TidemarkError } from '../errors.ts'
import type { Page } from '../log/log.ts'
import { PAGES_BYTES_MAX } from './limits.ts'
import { Queue } from './rounds.ts'

/** Pages below this are made at once, bytes of blocks … */
const SMALL_BYTES = 64 * 1024
/** … up to so many bytes in one turn of the event loop, of all callers together. */
const AT_ONCE_BYTES = 1024 * 1024
const RETRY_MS = 1_000

export class Pages {
  /** Who has a page from disk, or is to look for the next one. */
  readonly queue = new Queue()
  readonly #limit: number
  /** Of pages that wait for their turn here. */
  #bytes = 0
  /** Of pages that were made at once in this turn of the event loop. */
  #atOnce = 0

  /** @param limit bytes of pages that wait for their turn */
  constructor(limit = PAGES_BYTES_MAX) {
    this.#limit = limit
  }

  /** As `make`, for an answer. @throws too-many where the page would have to wait and too many do; as `make` */
  answer<T>(page: Page, make: () => T): T | Promise<T> {
    return this.#make(page, make, this.#limit)
  }

  /**
   * What `make` makes of a page: at once of a small one, and of one that all who are at the head of its channel share; of
   * others when they have their turn. @throws as `make`
   */
  make<T>(page: Page, make: () => T): T | Promise<T> {
    return this.#make(page, make, Number.POSITIVE_INFINITY)
  }

  #make<T>(page: Page, make: () => T, limit: number): T | Promise<T> {
    let bytes = 0
    for (const block of page.blocks) bytes += block.length
    if (page.isShared || this.#isLittle(bytes)) return make()
    if (this.#bytes >= limit)
      throw new TidemarkError('too-many', 'Too many pages wait to be answered', { retryAfter: RETRY_MS })
    this.#bytes += bytes
    return new Promise((resolve) => {
      const turn = (): void => {
        this.#bytes -= bytes
        resolve(new Promise((made) => made(make())))
      }
      this.queue.join({ turn })
    })
  }

  #isLittle(bytes: number): boolean {
    if (bytes === 0) return true
    if (bytes >= SMALL_BYTES || this.#atOnce + bytes > AT_ONCE_BYTES) return false
    if (this.#atOnce === 0)
      setImmediate(() => {
        this.#atOnce = 0
      })
    this.#atOnce += bytes
    return true
  }
}
