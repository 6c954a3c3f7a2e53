/**
 * Calls that wait: for a channel to change, but not for ever. All that stand at one place of a channel, sockets too,
 * share one watch (watches.ts), and one listener each hears of a stop and of the switch for all of them: what waits is
 * a few entries in sets, not signals.
 */
import type { ServerResponse } from 'node:http'
import type { Wait } from '../log/follow.ts'
import type { Log, Place } from '../log/log.ts'
import type { StreamerSwitch } from './switch.ts'
import { type Watch, type Watcher, Watches } from './watches.ts'

/** A channel, and where somebody stands in it. */
export interface Standing {
  readonly channel: string
  readonly place: Place
}

export class Waits {
  readonly watches: Watches
  readonly #stopping: AbortSignal
  readonly #switch: StreamerSwitch
  readonly #waiting = new Set<CallWait>()
  readonly #bySwitch = new Set<CallWait>()
  /** Woken in this turn of the event loop. */
  #woken: CallWait[] = []

  constructor(log: Log, streamerSwitch: StreamerSwitch, stopping: AbortSignal) {
    this.watches = new Watches(log)
    this.#switch = streamerSwitch
    this.#stopping = stopping
    stopping.addEventListener('abort', () => endAll(this.#waiting), { once: true })
    void this.#followSwitch()
  }

  /**
   * Begins a wait that is over when the caller is gone, when the server stops, after `ms`, or when the streamer's
   * switch is turned, if it is to be ended `bySwitch`. `end` it, whatever comes.
   */
  begin(res: ServerResponse, ms: number, bySwitch = false): CallWait {
    const wait = new CallWait(this, res, ms)
    if (this.#stopping.aborted || res.destroyed) wait.over()
    this.#waiting.add(wait)
    if (bySwitch) this.#bySwitch.add(wait)
    return wait
  }

  ended(wait: CallWait): void {
    this.#waiting.delete(wait)
    this.#bySwitch.delete(wait)
  }

  /** Channels that change by one write come together: whoever waits for several goes on when all of them are told. */
  goOnSoon(wait: CallWait): void {
    if (this.#woken.push(wait) > 1) return
    setImmediate(() => {
      const woken = this.#woken
      this.#woken = []
      for (const each of woken) each.goOn()
    })
  }

  async #followSwitch(): Promise<void> {
    while (!this.#stopping.aborted)
      try {
        await this.#switch.changed(this.#stopping)
        endAll(this.#bySwitch)
      } catch (error) {
        if (!this.#stopping.aborted) throw error
      }
  }
}

function endAll(waits: ReadonlySet<CallWait>): void {
  for (const wait of waits) wait.over()
}

/** The wait of one call. */
export class CallWait implements Wait {
  readonly #waits: Waits
  readonly #timer: NodeJS.Timeout
  #isOver = false
  #round: Ending | undefined

  constructor(waits: Waits, res: ServerResponse, ms: number) {
    this.#waits = waits
    const over = (): void => this.over()
    this.#timer = setTimeout(over, ms)
    // It stays: to take it off costs more than to do nothing.
    res.once('close', over)
  }

  get isOver(): boolean {
    return this.#isOver
  }

  over(): void {
    this.#isOver = true
    this.goOn()
  }

  end(): void {
    clearTimeout(this.#timer)
    this.#waits.ended(this)
  }

  async changed(channel: string, place: Place): Promise<void> {
    if (!this.#isOver) await this.anyChanged([{ channel, place }])
  }

  /** Those that have changed, or none when the wait is over. @throws what the log throws */
  anyChanged<T extends Standing>(standings: readonly T[]): Promise<readonly T[]> {
    return new Promise((resolve, reject) => {
      const round = new Round<T>(this, resolve, reject)
      this.#round = round
      for (const standing of standings) round.join(this.#waits.watches, standing)
      if (this.#isOver) this.goOn()
    })
  }

  /** There is something to tell. */
  wake(isAlone: boolean): void {
    if (isAlone) this.goOn()
    else this.#waits.goOnSoon(this)
  }

  goOn(): void {
    const round = this.#round
    this.#round = undefined
    round?.end(this.#waits.watches)
  }
}

interface Ending {
  end(watches: Watches): void
}

/** One time of waiting, until a channel has changed. */
class Round<T extends Standing> implements Ending {
  readonly #wait: CallWait
  readonly #resolve: (woken: readonly T[]) => void
  readonly #reject: (failure: unknown) => void
  readonly #waiting: OneChannel<T>[] = []
  readonly #woken: T[] = []
  #failure: { readonly error: unknown } | undefined
  #isAwake = false

  constructor(wait: CallWait, resolve: (woken: readonly T[]) => void, reject: (failure: unknown) => void) {
    this.#wait = wait
    this.#resolve = resolve
    this.#reject = reject
  }

  join(watches: Watches, standing: T): void {
    const one = new OneChannel(this, standing)
    this.#waiting.push(one)
    watches.join(one)
  }

  changed(standing: T): void {
    this.#woken.push(standing)
    this.#wake()
  }

  failed(error: unknown): void {
    this.#failure ??= { error }
    this.#wake()
  }

  #wake(): void {
    if (this.#isAwake) return
    this.#isAwake = true
    this.#wait.wake(this.#waiting.length === 1)
  }

  end(watches: Watches): void {
    for (const one of this.#waiting) watches.leave(one)
    if (this.#failure) this.#reject(this.#failure.error)
    else this.#resolve(this.#woken)
  }
}

class OneChannel<T extends Standing> implements Watcher {
  readonly channel: string
  readonly place: Place
  watch: Watch | undefined
  readonly #round: Round<T>
  readonly #standing: T

  constructor(round: Round<T>, standing: T) {
    this.channel = standing.channel
    this.place = standing.place
    this.#round = round
    this.#standing = standing
  }

  changed(): void {
    this.#round.changed(this.#standing)
  }

  failed(error: unknown): void {
    this.#round.failed(error)
  }
}
