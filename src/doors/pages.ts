/**
 * Pages of readers who are behind, of all doors, in turn: those that were asked for together come from the disk
 * together, and would hold up everything else, made one after the other in one turn of the event loop.
 */
import { TidemarkError } from '../errors.ts'
import type { Page } from '../log/log.ts'
import { PAGES_BYTES_MAX } from './limits.ts'
import { Queue } from './rounds.ts'

/** Smaller pages are made at once, bytes of blocks. */
const SMALL_BYTES = 64 * 1024
const RETRY_MS = 1_000

export class Pages {
  /** Who has a page from disk, or is to look for the next one. */
  readonly queue = new Queue()
  readonly #limit: number
  /** Of pages that wait for their turn here. */
  #bytes = 0

  /** @param limit bytes of pages that wait for their turn */
  constructor(limit = PAGES_BYTES_MAX) {
    this.#limit = limit
  }

  /** Before a page is read for an answer. @throws too-many */
  checkRoom(): void {
    if (this.#bytes >= this.#limit)
      throw new TidemarkError('too-many', 'Too many pages wait to be answered', { retryAfter: RETRY_MS })
  }

  /** What `make` makes of a page: at once of a small one, of others when they have their turn. @throws as `make` */
  make<T>(page: Page, make: () => T): T | Promise<T> {
    let bytes = 0
    for (const block of page.blocks) bytes += block.length
    if (bytes < SMALL_BYTES) return make()
    this.#bytes += bytes
    return new Promise((resolve) => {
      const turn = (): void => {
        this.#bytes -= bytes
        resolve(new Promise((made) => made(make())))
      }
      this.queue.join({ turn })
    })
  }
}
