/** When to come back: full jitter, so that clients that were cut off together do not return together. */

/** Delay before the first retry is random below this, ms; it doubles with each failure. */
export const BACKOFF_BASE_MS = 250
export const BACKOFF_MAX_MS = 30_000
/** A server's hint is honoured up to this, ms. */
export const HINT_MAX_MS = 300_000

export interface Backoff {
  /** Milliseconds to wait after one more failure; never less than the server's hint. */
  next(hint?: number): number
  reset(): void
}

export function newBackoff(base = BACKOFF_BASE_MS, max = BACKOFF_MAX_MS, random = Math.random): Backoff {
  let failures = 0
  return {
    next: (hint = 0) => Math.min(hint, HINT_MAX_MS) + random() * Math.min(max, base * 2 ** failures++),
    reset: () => {
      failures = 0
    },
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
