/**
 * Keeps a channel equal to a directory tree, level-triggered: what the channel tells (`known`, read from the channel
 * itself) is compared with what stands on disk, and the difference is appended. Hints only say where to compare; a
 * crash, a lost hint, an unreachable server, another writer all end the same way, in one more comparison.
 *
 * Every append says which head it was made for (`expectedSeq`) and carries an idempotency key, so that it lands once
 * or, when somebody else wrote meanwhile, not at all: then their events are read and the comparison is made again.
 */
import { randomUUID } from 'node:crypto'
import { newBackoff, pause } from '../../src/client/backoff.ts'
import type { Http } from '../../src/client/http.ts'
import { hintOf, isPassing } from '../../src/client/refusal.ts'
import { sameHistory } from '../../src/epoch.ts'
import { hasCode, TidemarkError } from '../../src/errors.ts'
import { APPEND_EVENTS_MAX } from '../../src/event.ts'
import { type AppendedJson, type NewEventJson, type PageJson, READ_EVENTS_MAX } from '../../src/wire.ts'
import type { Hints } from './hints.ts'
import { type Looker, look } from './look.ts'
import { ADDED, batches, CHANGED, difference, isPath, type Look, REMOVED, type Tree } from './tree.ts'

/** After the first hint others are waited for, ms: a burst is one comparison, and a busy file is not told each time. */
export const SETTLE_MS = 50
/** Largest append, bytes, counted with room to spare below the limit of the protocol. */
const APPEND_BYTES = 512 * 1024
const LIMITS = { events: APPEND_EVENTS_MAX, bytes: APPEND_BYTES }
/** Longest pause between two tries while the server can't be reached or the directory is away, ms. */
const RETRY_MS_MAX = 5_000

export interface MirrorOptions extends Looker {
  readonly http: Http
  readonly channel: string
  /** Time after which everything is looked at again, ms. */
  readonly rescan: number
  readonly onAppended: (appended: Told) => void
  /** Nothing is left to do for now: the channel is equal to the directory, as far as hints tell. */
  readonly onInStep: (seq: number) => void
  readonly say: (message: string) => void
}

/** One append, in numbers. */
export interface Told {
  readonly first: number
  readonly last: number
  readonly added: number
  readonly changed: number
  readonly removed: number
}

export class Mirror {
  readonly #options: MirrorOptions
  readonly #known: Tree
  readonly #hints: Hints
  readonly #path: string
  /** Undefined while there is no such channel. */
  #epoch: string | undefined
  /** Everything up to here is in `known`. */
  #seq = 0
  #hasRead = false
  #isAway = false

  constructor(options: MirrorOptions) {
    this.#options = options
    this.#known = options.known
    this.#hints = options.hints
    this.#path = `channels/${encodeURIComponent(options.channel)}/events`
  }

  /** Runs until the signal aborts. @throws what no later try can change, for example forbidden. */
  async run(signal: AbortSignal): Promise<void> {
    let rescanAt = 0
    while (!signal.aborted) {
      if (performance.now() >= rescanAt) {
        await this.#read(signal)
        this.#hints.touchEverything()
        rescanAt = performance.now() + this.#options.rescan
      }
      const found = await this.#look(this.#hints.take(), signal)
      if (found !== undefined) await this.#tell(found, signal)
      if (this.#hints.isEmpty) this.#options.onInStep(this.#seq)
      const hinted = await this.#hints.wait(rescanAt - performance.now(), signal)
      if (hinted) await pause(SETTLE_MS, signal)
    }
  }

  /** Undefined while the directory itself is away. */
  async #look(dirty: Parameters<typeof look>[1], signal: AbortSignal): Promise<Look | undefined> {
    try {
      const found = await look(this.#options, dirty)
      if (this.#isAway) this.#options.say('the directory is back')
      this.#isAway = false
      return found
    } catch (error) {
      if (!hasCode(error, 'io-error')) throw error
      if (!this.#isAway) this.#options.say(`${(error as Error).message}; nothing is told as removed, trying again`)
      this.#isAway = true
      this.#hints.touchEverything()
      await pause(Math.min(this.#options.rescan, RETRY_MS_MAX), signal)
      return undefined
    }
  }

  /**
   * Appends the difference between what is known and what was found. When others wrote meanwhile, what was found still
   * holds: it is compared with what is known now, so that even a busy writer beside us is overtaken soon.
   */
  async #tell(found: Look, signal: AbortSignal): Promise<void> {
    let isTold = false
    while (!isTold) {
      isTold = true
      for (const batch of batches(difference(this.#known, found), LIMITS)) {
        const isAppended = await this.#append(batch, signal)
        if (isAppended) continue
        // In another history everything has to be looked at, which is what comes next.
        if (!(await this.#read(signal))) return
        isTold = false
        break
      }
    }
  }

  /** False when the head was not the one that is known: then nothing of it counts. */
  async #append(batch: readonly NewEventJson[], signal: AbortSignal): Promise<boolean> {
    let appended: AppendedJson
    try {
      appended = await this.#send(batch, signal)
    } catch (error) {
      if (!hasCode(error, 'seq-conflict')) throw error
      return false
    }
    const { epoch, first, last } = appended
    // It landed in another history than the one that was read; reading finds that out.
    if (first !== this.#seq + 1 || (this.#epoch !== undefined && !sameHistory(epoch, this.#epoch))) return false
    for (const event of batch) this.#known.apply(event)
    this.#epoch = epoch
    this.#seq = last
    const count = (type: string) => batch.filter((event) => event.type === type).length
    this.#options.onAppended({ first, last, added: count(ADDED), changed: count(CHANGED), removed: count(REMOVED) })
    return true
  }

  /** One append, tried until it has an answer: under its key it lands at most once. */
  #send(events: readonly NewEventJson[], signal: AbortSignal): Promise<AppendedJson> {
    const call = {
      method: 'POST',
      path: `${this.#path}?expectedSeq=${this.#seq}`,
      headers: { 'idempotency-key': randomUUID() },
      body: JSON.stringify(events),
      signal,
    } as const
    return this.#patiently(() => this.#options.http.call<AppendedJson>(call), signal)
  }

  /**
   * Takes up what the channel holds beyond `seq`. After the first time, what others wrote is looked at on disk.
   * @returns false when the history is another one than before, so that all was taken up anew
   */
  async #read(signal: AbortSignal): Promise<boolean> {
    let isSame = true
    for (;;) {
      const place = this.#epoch === undefined ? 'after=earliest' : `after=${this.#seq}&epoch=${this.#epoch}`
      const path = `${this.#path}?${place}&limit=${READ_EVENTS_MAX}`
      try {
        const page = await this.#patiently(() => this.#options.http.call<PageJson>({ path, signal }), signal)
        for (const event of page.events) {
          this.#known.apply(event)
          if (this.#hasRead && event.key !== undefined) this.#hints.touchPath(isPath(event.key) ? event.key : '')
        }
        this.#epoch = page.epoch
        this.#seq = page.last
        if (!page.caughtUp) continue
      } catch (error) {
        const code = error instanceof TidemarkError ? error.code : undefined
        if (code !== 'no-channel' && code !== 'gap' && code !== 'epoch-changed' && code !== 'ahead-of-head') throw error
        if (this.#epoch !== undefined) isSame = false
        this.#forget()
        if (code !== 'no-channel') continue
      }
      this.#hasRead = true
      return isSame
    }
  }

  /** The history is another one: what is known came from it. */
  #forget(): void {
    this.#known.clear()
    this.#epoch = undefined
    this.#seq = 0
    this.#hints.touchEverything()
  }

  async #patiently<T>(call: () => Promise<{ readonly value: T }>, signal: AbortSignal): Promise<T> {
    const backoff = newBackoff(undefined, RETRY_MS_MAX)
    for (let failures = 0; ; failures++)
      try {
        const { value } = await call()
        if (failures > 0) this.#options.say('the server answers again')
        return value
      } catch (error) {
        const passes = isPassingHere(error)
        if (failures > 0 && !passes && !signal.aborted) this.#options.say('the server answers again')
        if (signal.aborted || !passes) throw error
        if (failures === 0) this.#options.say(`${error.message} (${error.code}); trying again, nothing is lost`)
        await pause(backoff.next(hintOf(error)), signal)
        signal.throwIfAborted()
      }
  }
}

/** What a later try may change: also a full disk, and a server that failed; the append's key makes it safe to ask again. */
const isPassingHere = (error: unknown): error is TidemarkError =>
  isPassing(error) || hasCode(error, 'storage-full') || hasCode(error, 'internal')
