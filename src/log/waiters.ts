/** Who waits for a channel to change: for engines. */
import type { Place } from './log.ts'

interface Waiter {
  readonly name: string
  readonly from: Place
  readonly resolve: () => void
  readonly reject: (reason: unknown) => void
}

/** Those who wait for a channel to change, by name: a channel that does not exist yet can be waited for too. */
export class Waiters {
  readonly #byName = new Map<string, Set<Waiter>>()
  /** One abort listener per signal, however often it waits. */
  readonly #bySignal = new WeakMap<AbortSignal, Set<Waiter>>()

  wait(name: string, from: Place, signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      // An event that was fired already is not fired again.
      if (signal.aborted) return reject(signal.reason)
      const ofSignal = this.#waitersOf(signal)
      const done = (): void => {
        ofSignal.delete(waiter)
        const waiting = this.#byName.get(name)
        if (waiting?.delete(waiter) && waiting.size === 0) this.#byName.delete(name)
      }
      const waiter: Waiter = {
        name,
        from,
        resolve: () => {
          done()
          resolve()
        },
        reject: (reason) => {
          done()
          reject(reason)
        },
      }
      ofSignal.add(waiter)
      const waiting = this.#byName.get(name)
      if (waiting) waiting.add(waiter)
      else this.#byName.set(name, new Set([waiter]))
    })
  }

  isWaitedFor(name: string): boolean {
    return this.#byName.has(name)
  }

  /** Asks again for everyone who waits for this channel. */
  wake(name: string, hasChanged: (name: string, from: Place) => boolean): void {
    const waiting = this.#byName.get(name)
    if (!waiting) return
    for (const waiter of waiting)
      try {
        if (hasChanged(name, waiter.from)) waiter.resolve()
      } catch (error) {
        // A damaged row is told to those who wait for its channel, and holds up nobody else.
        waiter.reject(error)
      }
  }

  wakeAll(hasChanged: (name: string, from: Place) => boolean): void {
    for (const name of [...this.#byName.keys()]) this.wake(name, hasChanged)
  }

  rejectAll(reason: unknown): void {
    for (const waiting of [...this.#byName.values()]) for (const waiter of waiting) waiter.reject(reason)
  }

  #waitersOf(signal: AbortSignal): Set<Waiter> {
    const known = this.#bySignal.get(signal)
    if (known) return known
    const waiters = new Set<Waiter>()
    this.#bySignal.set(signal, waiters)
    signal.addEventListener(
      'abort',
      () => {
        for (const waiter of waiters) waiter.reject(signal.reason)
      },
      { once: true },
    )
    return waiters
  }
}
