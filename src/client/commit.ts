/** Commits of one follower: the newest wins, one is on its way at a time, and none is lost when the loop ends. */
import { TidemarkError } from '../errors.ts'
import { Backoff, pause } from './backoff.ts'
import { hintOf, isPassing } from './http.ts'
import type { Place } from './subscription.ts'

/** Automatic commits leave at most this often, ms; what comes meanwhile shares the next one. */
export const COMMIT_MS = 200
/** Longest wait for the last commit and for open appends when a loop or the client ends, ms. */
export const FLUSH_MS = 3_000

interface Waiting {
  readonly place: Place
  resolve(): void
  reject(error: unknown): void
}

export class Committer {
  readonly #send: (place: Place) => Promise<unknown>
  readonly #onRefused: (error: TidemarkError) => void
  readonly #backoff = new Backoff()
  #wanted: Place | undefined
  #waiting: Waiting[] = []
  #running = false
  /** Ends the pause between two commits. */
  #hurry = new AbortController()

  /**
   * @param send Answers when the commit is durable.
   * @param onRefused Told when a commit that nobody waits for is refused for good. Not for `epoch-changed`: the reset
   *   says so, in its place.
   */
  constructor(send: (place: Place) => Promise<unknown>, onRefused: (error: TidemarkError) => void) {
    this.#send = send
    this.#onRefused = onRefused
  }

  /** Moves the cursor here, soon. */
  want(place: Place): void {
    const wanted = this.#wanted
    if (wanted === undefined || wanted.epoch !== place.epoch || wanted.after < place.after) this.#wanted = place
    if (!this.#running) void this.#run()
  }

  /** Moves the cursor here, now; resolves when that is durable, or was overtaken by a newer commit that is. */
  commit(place: Place): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ place, resolve, reject })
      this.want(place)
      this.#hurry.abort()
    })
  }

  /** Forgets what was not sent: it belongs to a history that is over. */
  drop(): void {
    this.#wanted = undefined
  }

  /** Resolves when nothing is waiting to be sent. @throws unavailable after FLUSH_MS, or what refused the commit. */
  async flush(): Promise<void> {
    const place = this.#wanted
    if (place === undefined) return
    let timer: ReturnType<typeof setTimeout> | undefined
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(notCommitted(place)), FLUSH_MS)
    })
    try {
      await Promise.race([this.commit(place), late])
    } finally {
      clearTimeout(timer)
      this.drop()
      this.#hurry.abort()
    }
  }

  async #run(): Promise<void> {
    this.#running = true
    while (this.#wanted !== undefined) {
      const place = this.#wanted
      const retryAfter = await this.#once(place)
      if (retryAfter === undefined && this.#waiting.length > 0) continue
      this.#hurry = new AbortController()
      await pause(retryAfter ?? COMMIT_MS, this.#hurry.signal)
    }
    this.#running = false
    for (const waiting of this.#waiting.splice(0)) waiting.reject(notCommitted(waiting.place))
  }

  /** Sends one commit; returns when to try again, ms, if it has to be. */
  async #once(place: Place): Promise<number | undefined> {
    try {
      await this.#send(place)
    } catch (error) {
      if (isPassing(error)) return this.#backoff.next(hintOf(error))
      if (!(error instanceof TidemarkError)) throw error
      if (this.#wanted === place) this.drop()
      const waited = this.#answer(place, (waiting) => waiting.reject(error))
      if (!waited && error.code !== 'epoch-changed') this.#onRefused(error)
      return undefined
    }
    this.#backoff.reset()
    if (this.#wanted === place) this.drop()
    this.#answer(place, (waiting) => waiting.resolve())
    return undefined
  }

  /** Answers those who wait for this place or one before it. True when there was somebody. */
  #answer({ epoch, after }: Place, tell: (waiting: Waiting) => void): boolean {
    const met = this.#waiting.filter(({ place }) => place.epoch === epoch && place.after <= after)
    this.#waiting = this.#waiting.filter((waiting) => !met.includes(waiting))
    for (const waiting of met) tell(waiting)
    return met.length > 0
  }
}

const notCommitted = (place: Place): TidemarkError =>
  new TidemarkError('unavailable', `The commit of ${place.after} has no answer`, {
    seq: place.after,
    outcome: 'unknown',
  })
