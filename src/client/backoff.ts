/** When to come back: full jitter, so that clients that were cut off together do not return together. */

/** Delay before the first retry is random below this, ms; it doubles with each failure. */
export const BACKOFF_BASE_MS = 250
export const BACKOFF_MAX_MS = 30_000
/** A server's hint is honoured up to this, ms. */
export const HINT_MAX_MS = 300_000

export class Backoff {
  #failures = 0
  readonly #base: number
  readonly #max: number
  readonly #random: () => number

  constructor(base = BACKOFF_BASE_MS, max = BACKOFF_MAX_MS, random: () => number = Math.random) {
    this.#base = base
    this.#max = max
    this.#random = random
  }

  /** Milliseconds to wait after one more failure; never less than the server's hint. */
  next(hint = 0): number {
    const ceiling = Math.min(this.#max, this.#base * 2 ** Math.min(this.#failures++, 30))
    return Math.min(Math.max(hint, 0), HINT_MAX_MS) + Math.floor(this.#random() * ceiling)
  }

  reset(): void {
    this.#failures = 0
  }
}

/** Waits, or returns early when the signal aborts. */
export function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve()
    const done = () => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', done)
      resolve()
    }
    const timer = setTimeout(done, ms)
    signal?.addEventListener('abort', done)
  })
}
