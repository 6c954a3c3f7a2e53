/**
 * Waiting for channels on behalf of many subscriptions and polls: all that stand at one place share one `changed` of the log, so
 * whoever waits costs an entry in a set, and waking a thousand costs one promise.
 */
import { TidemarkError } from '../errors.ts'
import type { Log, Place } from '../log/log.ts'

/** Someone at the end of a channel. */
export interface Watcher {
  readonly channel: string
  readonly place: Place
  /** The watch it stands in; kept by Watches. */
  watch: Watch | undefined
  /** The channel has changed from its place: a read gives something. */
  changed(): void
  /** The log can't be waited for. */
  failed(error: unknown): void
}

export interface Watch {
  readonly place: Place
  readonly watchers: Set<Watcher>
  readonly over: AbortController
}

/** Most controllers of watches that are over that are kept for others. */
const SPARES_MAX = 1_000

export class Watches {
  readonly #log: Log
  /** Never aborted, and nobody waits with them: a new one costs more than the wait. */
  readonly #spares: AbortController[] = []
  /** Of each channel, usually one: everyone stands at its head. */
  readonly #watches = new Map<string, Watch[]>()

  constructor(log: Log) {
    this.#log = log
  }

  /** Tells it once, `changed` or `failed`, unless it leaves before. */
  join(watcher: Watcher): void {
    const { channel, place } = watcher
    const ofChannel = this.#watches.get(channel)
    // Most stand where the one before them does.
    let watch = ofChannel?.findLast((each) => each.place.after === place.after && each.place.epoch === place.epoch)
    if (!watch) {
      watch = { place, watchers: new Set(), over: this.#spares.pop() ?? new AbortController() }
      if (ofChannel) ofChannel.push(watch)
      else this.#watches.set(channel, [watch])
      void this.#wait(channel, watch)
    }
    watch.watchers.add(watcher)
    watcher.watch = watch
  }

  leave(watcher: Watcher): void {
    const { watch } = watcher
    if (!watch) return
    watcher.watch = undefined
    watch.watchers.delete(watcher)
    if (watch.watchers.size > 0) return
    this.#forget(watcher.channel, watch)
    watch.over.abort()
  }

  async #wait(channel: string, watch: Watch): Promise<void> {
    let failure: unknown
    try {
      await this.#log.changed(channel, watch.place, watch.over.signal)
    } catch (error) {
      failure = error ?? new TidemarkError('internal', 'Waiting failed without a reason')
    }
    // When everyone has left, the watch is forgotten already and tells nobody.
    this.#forget(channel, watch)
    for (const watcher of watch.watchers) {
      watcher.watch = undefined
      if (failure === undefined) watcher.changed()
      else watcher.failed(failure)
    }
    if (!watch.over.signal.aborted && this.#spares.length < SPARES_MAX) this.#spares.push(watch.over)
  }

  #forget(channel: string, watch: Watch): void {
    const left = this.#watches.get(channel)?.filter((each) => each !== watch)
    if (!left) return
    if (left.length === 0) this.#watches.delete(channel)
    else this.#watches.set(channel, left)
  }
}
