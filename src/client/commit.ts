/** Commits: sent until somebody answers; of one loop the newest wins, and none is lost when the loop ends. */
import { TidemarkError } from '../errors.ts'
import { newBackoff, pause } from './backoff.ts'
import { hintOf, isPassing } from './refusal.ts'
import { isLost } from './stream.ts'
import type { Place } from './subscription.ts'

/** Automatic commits leave at most this often, ms; what comes meanwhile shares the next one. */
export const COMMIT_MS = 200
/** Longest wait for the last commit and for open appends when a loop or the client ends, ms. */
export const FLUSH_MS = 3_000

/** Tries again while it may pass, until the signal. @throws what refused it, or what came last. */
export async function persist<T>(send: () => Promise<T>, signal: AbortSignal): Promise<T> {
  const backoff = newBackoff()
  for (;;)
    try {
      return await send()
    } catch (error) {
      if (!isPassing(error) || signal.aborted) throw error
      // A lost socket is no refusal: another door may be open.
      if (!isLost(error)) await pause(backoff.next(hintOf(error)), signal)
    }
}

/** The automatic commits of one loop. */
export interface Committer {
  /** Moves the cursor here, soon. */
  want(place: Place): void
  /** Forgets what was not sent: it belongs to a history that is over. */
  drop(): void
  /** Sends the last one, and no more after it. @throws unavailable after FLUSH_MS, or what refused it. */
  flush(): Promise<void>
}

/**
 * @param send Answers when the commit is durable.
 * @param onRefused Told when a commit is refused for good. Not for `epoch-changed`: the reset says so, in its place.
 */
export function newCommitter(
  send: (place: Place) => Promise<unknown>,
  onRefused: (error: TidemarkError) => void,
): Committer {
  const life = new AbortController()
  const { signal } = life
  let wanted: Place | undefined
  let isRunning = false

  const run = async (): Promise<void> => {
    isRunning = true
    while (wanted && !signal.aborted) {
      const place = wanted
      try {
        await persist(() => send(place), signal)
      } catch (error) {
        if (!signal.aborted && (error as TidemarkError).code !== 'epoch-changed') onRefused(error as TidemarkError)
      }
      if (wanted === place) wanted = undefined
      await pause(COMMIT_MS, signal)
    }
    isRunning = false
  }

  return {
    want: (place) => {
      wanted = place
      if (!isRunning) void run()
    },
    drop: () => {
      wanted = undefined
    },
    flush: async () => {
      const place = wanted
      wanted = undefined
      life.abort()
      if (!place) return
      const end = new AbortController()
      try {
        await Promise.race([
          persist(() => send(place), end.signal),
          pause(FLUSH_MS, end.signal).then(() => {
            throw new TidemarkError('unavailable', 'No answer', { seq: place.after, outcome: 'unknown' })
          }),
        ])
      } finally {
        end.abort()
      }
    },
  }
}
