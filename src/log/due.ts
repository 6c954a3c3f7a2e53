/**
 * Channels that work in the background is to go on with: those that it was told of, and those that it watches as soon
 * as they are appended to.
 */
import { setMaxListeners } from 'node:events'
import type { Log, Place } from './log.ts'

/** Channels whose appends are waited for, those appended to last; the others wait for the next look at all. */
export const WATCHED_MAX = 1_000

export class Due extends Set<string> {
  readonly #log: Log
  readonly #signal: AbortSignal
  /** Who is watched for longest is first. */
  readonly #watched = new Map<string, AbortController>()

  /** @param signal ends all waiting */
  constructor(log: Log, signal: AbortSignal) {
    super()
    this.#log = log
    this.#signal = signal
    setMaxListeners(0, signal)
  }

  /**
   * The next append behind a place makes the channel due.
   * @param isRecent it was appended to since the last look at all: where many are watched, another one gives way
   */
  watch(channel: string, { epoch, after }: Required<Place>, isRecent: boolean): void {
    if (this.#signal.aborted || this.#watched.has(channel)) return
    const [oldest] = this.#watched
    if (oldest && this.#watched.size >= WATCHED_MAX) {
      if (!isRecent) return
      oldest[1].abort()
      this.#watched.delete(oldest[0])
    }
    const over = new AbortController()
    this.#watched.set(channel, over)
    const signal = AbortSignal.any([over.signal, this.#signal])
    const done = (): boolean => this.#watched.get(channel) === over && this.#watched.delete(channel)
    // What can not be waited for is seen at the next look.
    this.#log.changed(channel, { epoch, after }, signal).then(() => done() && this.add(channel), done)
  }
}
