/**
 * Calls that wait: for a channel to change, but not for ever. All that stand at one place of a channel, sockets too,
 * share one watch (watches.ts), and one listener each hears of a stop and of the switch for all of them: what waits is
 * a few entries in sets, not signals.
 */
import type { ServerResponse } from 'node:http'
import type { Keyring } from '../access/keyring.ts'
import type { Grant, Principal } from '../access/principal.ts'
import type { Wait } from '../log/follow.ts'
import type { Log, Place } from '../log/log.ts'
import type { StreamerSwitch } from './switch.ts'
import { type Watch, type Watcher, Watches } from './watches.ts'

/** One of several channels, and where somebody stands in it. */
export abstract class Standing implements Watcher {
  abstract readonly channel: string
  abstract readonly place: Place
  watch: Watch | undefined
  /** In which it is waited for. */
  round: Round | undefined

  changed(): void {
    this.round?.changed(this)
  }

  failed(error: unknown): void {
    this.round?.failed(error)
  }
}

export class Waits {
  readonly watches: Watches
  readonly #stopping: AbortSignal
  readonly #switch: StreamerSwitch
  readonly #waiting = new Set<CallWait>()
  readonly #streams = new Set<StreamLease>()
  readonly #bySwitch = new Set<CallWait>()
  /** Woken in this turn of the event loop. */
  #woken: CallWait[] = []

  constructor(log: Log, streamerSwitch: StreamerSwitch, keyring: Keyring, stopping: AbortSignal) {
    this.watches = new Watches(log)
    this.#switch = streamerSwitch
    this.#stopping = stopping
    stopping.addEventListener('abort', () => endAll(this.#waiting), { once: true })
    keyring.onChange(() => this.#judge())
    void this.#followSwitch()
  }

  /**
   * Begins a wait that is over when the caller is gone or may no more what it did, when the server stops, after `ms`,
   * or when the streamer's switch is turned, if it is to be ended `bySwitch`. `end` it, whatever comes.
   */
  begin(res: ServerResponse, ms: number, who: Principal, bySwitch = false): CallWait {
    const left = who.expires === Number.POSITIVE_INFINITY ? ms : Math.min(ms, Math.max(who.expires - Date.now(), 0))
    const wait = new CallWait(this, res, left, who)
    if (this.#stopping.aborted || res.destroyed) wait.over()
    this.#waiting.add(wait)
    if (bySwitch) this.#bySwitch.add(wait)
    return wait
  }

  /** Calls `end` when a stream's caller is over or may do something else; returns how to stop that. */
  streamed(who: Principal, end: () => void): () => void {
    const lease = new StreamLease(who, end)
    this.#streams.add(lease)
    return () => {
      lease.release()
      this.#streams.delete(lease)
    }
  }

  #judge(): void {
    for (const wait of this.#waiting) if (hasChanged(wait) || wait.who.expires !== wait.expires) wait.over()
    for (const stream of this.#streams)
      if (hasChanged(stream)) stream.end()
      else stream.watch()
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

/** What lasts as long as its caller may do what it might when it began. */
interface Lasting {
  readonly who: Principal
  readonly grants: readonly Grant[]
}

const hasChanged = ({ who, grants }: Lasting): boolean => who.isRevoked || who.grants !== grants

/** The longest time that a timer takes, ms. */
const TIMER_MS_MAX = 2 ** 31 - 1

class StreamLease implements Lasting {
  readonly who: Principal
  readonly grants: readonly Grant[]
  readonly end: () => void
  #timer: NodeJS.Timeout | undefined

  constructor(who: Principal, end: () => void) {
    this.who = who
    this.grants = who.grants
    this.end = end
    this.watch()
  }

  /** Ends when its caller does, also where that end was moved. */
  watch(): void {
    clearTimeout(this.#timer)
    if (this.who.expires === Number.POSITIVE_INFINITY) return
    const left = this.who.expires - Date.now()
    if (left <= 0) this.end()
    else this.#timer = setTimeout(() => this.watch(), Math.min(left, TIMER_MS_MAX))
  }

  release(): void {
    clearTimeout(this.#timer)
  }
}

/** The wait of one call. */
export class CallWait implements Wait, Lasting {
  readonly who: Principal
  readonly grants: readonly Grant[]
  /** When its caller was to end as it began: another end is another wait. */
  readonly expires: number
  readonly #waits: Waits
  readonly #timer: NodeJS.Timeout
  #isOver = false
  #round: Ending | undefined

  constructor(waits: Waits, res: ServerResponse, ms: number, who: Principal) {
    this.#waits = waits
    this.who = who
    this.grants = who.grants
    this.expires = who.expires
    const over = (): void => this.over()
    this.#timer = setTimeout(over, ms)
    // It stays: to take it off costs more than to do nothing.
    res.on('close', over)
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

  changed(channel: string, place: Place): Promise<void> {
    return new Promise((resolve, reject) => {
      const alone = new Alone(this, channel, place, resolve, reject)
      this.#round = alone
      this.#waits.watches.join(alone)
      if (this.#isOver) this.goOn()
    })
  }

  /** Resolves when any has changed, with those that have; with none when the wait is over. @throws what the log throws */
  anyChanged(standings: readonly Standing[]): Promise<ReadonlySet<Standing>> {
    return new Promise((resolve, reject) => {
      this.#round = new Round(this, standings, this.#waits.watches, resolve, reject)
      if (this.#isOver) this.goOn()
    })
  }

  goOnSoon(): void {
    this.#waits.goOnSoon(this)
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

/** One time of waiting for one channel. */
class Alone implements Watcher, Ending {
  readonly channel: string
  readonly place: Place
  watch: Watch | undefined
  readonly #wait: CallWait
  readonly #resolve: () => void
  readonly #reject: (failure: unknown) => void

  constructor(wait: CallWait, channel: string, place: Place, resolve: () => void, reject: (failure: unknown) => void) {
    this.channel = channel
    this.place = place
    this.#wait = wait
    this.#resolve = resolve
    this.#reject = reject
  }

  changed(): void {
    this.#wait.goOn()
  }

  failed(error: unknown): void {
    this.#reject(error)
    this.#wait.goOn()
  }

  end(watches: Watches): void {
    watches.leave(this)
    this.#resolve()
  }
}

/** One time of waiting, until any of several channels has changed. */
class Round implements Ending {
  readonly #wait: CallWait
  readonly #standings: readonly Standing[]
  readonly #resolve: (woken: ReadonlySet<Standing>) => void
  readonly #reject: (failure: unknown) => void
  readonly #woken = new Set<Standing>()
  #failure: { readonly error: unknown } | undefined
  #isAwake = false

  constructor(
    wait: CallWait,
    standings: readonly Standing[],
    watches: Watches,
    resolve: (woken: ReadonlySet<Standing>) => void,
    reject: (failure: unknown) => void,
  ) {
    this.#wait = wait
    this.#standings = standings
    this.#resolve = resolve
    this.#reject = reject
    for (const standing of standings) {
      standing.round = this
      watches.join(standing)
    }
  }

  changed(standing: Standing): void {
    this.#woken.add(standing)
    this.#wake()
  }

  failed(error: unknown): void {
    this.#failure ??= { error }
    this.#wake()
  }

  #wake(): void {
    if (this.#isAwake) return
    this.#isAwake = true
    this.#wait.goOnSoon()
  }

  end(watches: Watches): void {
    for (const standing of this.#standings) watches.leave(standing)
    if (this.#failure) this.#reject(this.#failure.error)
    else this.#resolve(this.#woken)
  }
}
