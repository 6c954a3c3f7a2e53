/** What work on the history of a channel has in common: its pages, its pace, and the disk space that it gives back. */
import { setTimeout as delay, setImmediate as nextTurn } from 'node:timers/promises'
import type { Header } from '../block.ts'
import { hasCode } from '../errors.ts'
import type { Log } from './log.ts'

/** Read and looked through at once: the event loop is held up for a few ms. */
export const PAGE = { events: 1_000, bytes: 256 * 1024 } as const
/** Rests so many times as long as it worked: it takes a quarter of a core and of the disk at most. */
const REST_TIMES = 3
/** Disk space is given back for so many bytes of history at once. */
const RECLAIM_BYTES = 32 * 1024 * 1024
/** Between two tries while the log takes nothing more, ms. */
const FULL_MS = 500

export interface BackgroundOptions {
  /** In place of REST_TIMES; 0 where nobody else wants the machine's time. */
  readonly restTimes?: number
  readonly signal?: AbortSignal
}

export class Pace {
  readonly #times: number
  readonly #signal: AbortSignal | undefined
  #restedAt = performance.now()

  constructor({ restTimes = REST_TIMES, signal }: BackgroundOptions) {
    this.#times = restTimes
    this.#signal = signal
  }

  /** Rests for as long as the work since the last rest deserves. @throws the signal's reason */
  async rest(): Promise<void> {
    this.#signal?.throwIfAborted()
    const worked = performance.now() - this.#restedAt
    if (this.#times === 0) await nextTurn()
    else await delay(worked * this.#times, undefined, this.#signal && { signal: this.#signal })
    this.#restedAt = performance.now()
  }

  /** Does it as soon as the log takes it: while many appends wait to be written, this waits, too. @throws what `work` throws */
  async patiently<T>(work: () => Promise<T>): Promise<T> {
    for (;;)
      try {
        return await work()
      } catch (error) {
        if (!hasCode(error, 'too-many')) throw error
        await delay(FULL_MS, undefined, this.#signal && { signal: this.#signal })
      }
  }
}

/** Stretches of history, block after block, of which some have changed: the space of those is given back. */
export class Stretches {
  readonly #done: { readonly after: number; readonly upTo: number }[] = []
  #open: { readonly after: number; upTo: number; isChanged: boolean } | undefined
  #bytes = 0

  pass({ after, last, length }: Header, isChanged: boolean): void {
    this.#open ??= { after, upTo: last, isChanged: false }
    this.#open.upTo = last
    this.#open.isChanged ||= isChanged
    this.#bytes += length
    if (this.#bytes >= RECLAIM_BYTES) this.#close()
  }

  #close(): void {
    if (this.#open?.isChanged) this.#done.push(this.#open)
    this.#open = undefined
    this.#bytes = 0
  }

  async reclaim(log: Log, channel: string, pace: Pace, onProgress: (upTo: number) => void): Promise<void> {
    this.#close()
    for (const { after, upTo } of this.#done.splice(0)) {
      await pace.patiently(async () => log.reclaim?.(channel, after, upTo))
      onProgress(upTo)
      await pace.rest()
    }
    await pace.patiently(async () => log.stateRows?.reclaim(channel))
  }
}
