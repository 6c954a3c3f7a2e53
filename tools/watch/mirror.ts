/**
 * Keeps a channel equal to a directory tree, level-triggered: what the channel tells (`known`, read from the channel
 * itself) is compared with what stands on disk, and the difference is appended. Hints only say where to compare; a
 * crash, a lost hint, an unreachable server, another writer all end the same way, in one more comparison.
 *
 * Every append says which head it was made for (`expectedSeq`) and carries an idempotency key, so that it lands once
 * or, when somebody else wrote meanwhile, not at all: then their events are read and the comparison is made again.
 */
import { randomUUID } from 'node:crypto'
import { Backoff, pause } from '../../src/client/backoff.ts'
import { type Http, hintOf, isPassing } from '../../src/client/http.ts'
import { hasCode, TidemarkError } from '../../src/errors.ts'
import { APPEND_EVENTS_MAX } from '../../src/event.ts'
import { sameHistory } from '../../src/log/log.ts'
import { type AppendedJson, type NewEventJson, type PageJson, READ_EVENTS_MAX } from '../../src/wire.ts'
import type { Hints } from './hints.ts'
import { type Looker, look } from './look.ts'
import { ADDED, batches, CHANGED, difference, isPath, type Look, REMOVED, type Tree } from './tree.ts'

/** After the first hint others are waited for, ms: a burst is one comparison, and a busy file is not told each time. */
export const SETTLE_MS = 50
/** Largest append, bytes, counted with room to spare below the limit of the protocol. */
const APPEND_BYTES = 512 * 1024
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
      const dirty = this.#hints.take()
      const found = await this.#look(dirty, signal)
      const isTold = found !== undefined && (await this.#tell(difference(this.#known, found), signal))
      if (!isTold) this.#hints.restore(dirty)
      else if (this.#hints.isEmpty) this.#options.onInStep(this.#seq)
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

  /** Appends the events; false when others wrote meanwhile and the comparison has to be made again. */
  async #tell(events: readonly NewEventJson[], signal: AbortSignal): Promise<boolean> {
    for (const batch of batches(events, { events: APPEND_EVENTS_MAX, bytes: APPEND_BYTES })) {
      let appended: AppendedJson
      try {
        appended = await this.#append(batch, signal)
      } catch (error) {
        if (!hasCode(error, 'seq-conflict')) throw error
        await this.#read(signal)
        return false
      }
      const { epoch, first, last } = appended
      if (first !== this.#seq + 1 || (this.#epoch !== undefined && !sameHistory(epoch, this.#epoch))) {
        // It landed in another history than the one that was read.
        this.#forget()
        await this.#read(signal)
        return false
      }
      for (const event of batch) this.#known.apply(event)
      this.#epoch = epoch
      this.#seq = last
      const count = (type: string) => batch.filter((event) => event.type === type).length
      this.#options.onAppended({
        first,
        last,
        added: count(ADDED),
        changed: count(CHANGED),
        removed: count(REMOVED),
      })
    }
    return true
  }

  /** One append, tried until it has an answer: under its key it lands at most once. */
  #append(events: readonly NewEventJson[], signal: AbortSignal): Promise<AppendedJson> {
    const call = {
      method: 'POST',
      path: `${this.#path}?expectedSeq=${this.#seq}`,
      headers: { 'idempotency-key': randomUUID() },
      body: JSON.stringify(events),
      signal,
    } as const
    return this.#patiently(() => this.#options.http.call<AppendedJson>(call), signal)
  }

  /** Takes up what the channel holds beyond `seq`. After the first time, what others wrote is looked at on disk. */
  async #read(signal: AbortSignal): Promise<void> {
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
        this.#forget()
        if (code !== 'no-channel') continue
      }
      this.#hasRead = true
      return
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
    const backoff = new Backoff(undefined, RETRY_MS_MAX)
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
