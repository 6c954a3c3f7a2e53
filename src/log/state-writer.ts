/**
 * Writes the rows of states (state-rows.ts): in the background, over the port alone, it goes over the channels that have
 * rows, from where those stand to the head, and keeps the newest event of each key. Rows and their place are written
 * together and in batches, so that what is appended within a second shares a write; after a kill the rows stand where
 * they stood, and are gone on with from there. Rows of a history that is over, or of which events were trimmed that
 * were not read, are begun anew. What the configuration asks for, or no more, since the last start is settled first.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { hasCode, toTidemarkError } from '../errors.ts'
import { Pace } from './background.ts'
import { Due } from './due.ts'
import type { Log } from './log.ts'
import type { StatePlace, StateRow } from './state-rows.ts'
import { keyedIn } from './versions.ts'

/** From an append until its channel's rows follow, ms: what comes meanwhile is written with it. */
const BATCH_MS = 1_000
/** Read at once: appends are held up for a moment of it. */
const PAGE = { events: 250, bytes: 64 * 1024 } as const
/** A batch ends at so many rows … */
const BATCH_ROWS = 250
/** … or so many bytes of keys and events … */
const BATCH_BYTES = 128 * 1024
/** … or so many pages that were gone over, however few rows they changed. */
const BATCH_PAGES = 256
/** Between two looks at all channels that have rows, ms: those are found that no append tells of. */
const LOOK_EVERY_MS = 60_000
/** Rows of trimmed events go this often, ms: nobody is given them meanwhile. */
const TRIM_EVERY_MS = 600_000
/** A failure puts the work off, longer each time, up to this, ms. */
const PUT_OFF_MS_MAX = 60_000

export interface StateWriterOptions {
  readonly onNotice?:
    | ((level: 'info' | 'warn', message: string, facts: Readonly<Record<string, unknown>>) => void)
    | undefined
  /** In place of the constants above and of Pace, for tests. */
  readonly pace?: Partial<Record<'batch' | 'lookEvery' | 'trimEvery' | 'restTimes', number>> | undefined
}

/** Each of these says that the rows are about what is no more. */
const OVER = ['gap', 'epoch-changed', 'ahead-of-head'] as const

/** What was read behind a place. */
interface Batch {
  readonly rows: ReadonlyMap<string, StateRow | undefined>
  readonly epoch: string
  readonly at: number
  readonly trimmed: number
  /** It goes up to the head. */
  readonly isWhole: boolean
}

export class StateWriter {
  readonly #log: Log
  readonly #notice: NonNullable<StateWriterOptions['onNotice']>
  readonly #batchMs: number
  readonly #lookEvery: number
  readonly #trimEvery: number
  readonly #closing = new AbortController()
  readonly #restTimes: number | undefined
  #pace: Pace
  /** Channels that are to be gone on with. */
  readonly #due: Due
  /** When rows of trimmed events went last, ms of the machine's clock. */
  readonly #trimmedAt = new Map<string, number>()
  /** Channels whose damage was told. */
  readonly #damaged = new Set<string>()
  #isSettled = false
  #running: Promise<void> | undefined

  constructor(log: Log, { onNotice, pace = {} }: StateWriterOptions = {}) {
    this.#log = log
    this.#notice = onNotice ?? (() => {})
    this.#batchMs = pace.batch ?? BATCH_MS
    this.#lookEvery = pace.lookEvery ?? LOOK_EVERY_MS
    this.#trimEvery = pace.trimEvery ?? TRIM_EVERY_MS
    this.#restTimes = pace.restTimes
    this.#pace = this.#newPace()
    this.#due = new Due(log, this.#closing.signal)
  }

  /** Works until `close`; nothing where the engine has no rows. */
  start(): void {
    if (this.#log.stateRows) this.#running ??= this.#run()
  }

  /** Ends the work; the log stays open. */
  async close(): Promise<void> {
    this.#closing.abort()
    await this.#running
  }

  async #run(): Promise<void> {
    const { signal } = this.#closing
    let wait = this.#batchMs
    let lookAt = 0
    for (let failed = 0; ; ) {
      // A close ends the wait.
      await delay(wait, undefined, { ref: false, signal }).catch(() => undefined)
      if (signal.aborted) return
      wait = this.#batchMs
      // Nothing can be written, and the log says so itself.
      if (this.#log.health().state !== 'ok') continue
      try {
        if (performance.now() >= lookAt) {
          await this.#lookAll()
          lookAt = performance.now() + this.#lookEvery
        }
        wait = (await this.#round()) ? 0 : this.#batchMs
        failed = 0
      } catch (error) {
        if (signal.aborted) return
        wait = Math.min(this.#batchMs * 2 ** ++failed, PUT_OFF_MS_MAX)
        // Whoever was amid it is found there.
        lookAt = 0
        this.#notice('warn', 'The rows of states are put off', { why: toTidemarkError(error).message })
      }
    }
  }

  /** Brings all rows to the head, as it is when they are there. @throws unavailable, storage-full, … */
  async look(): Promise<void> {
    await this.#lookAll()
    while (await this.#round());
  }

  async #lookAll(): Promise<void> {
    if (!this.#isSettled) await this.#settle()
    for await (const channel of this.#log.stateRows?.channels() ?? []) this.#due.add(channel)
  }

  /** Once: what comes later has its rows, or none, from its own write on. */
  async #settle(): Promise<void> {
    const rows = this.#log.stateRows
    this.#pace = this.#newPace()
    for await (const channel of rows?.unsettled() ?? [])
      try {
        await this.#pace.rest()
        await rows!.settle(channel)
      } catch (error) {
        // Deleted meanwhile, or damaged: that costs no other its rows.
        if (!hasCode(error, 'no-channel') && !hasCode(error, 'data-loss')) throw error
      }
    this.#isSettled = true
  }

  /** One batch of each channel that is due; true when there is more at once. */
  async #round(): Promise<boolean> {
    let more = false
    for (const channel of this.#log.stateRows?.begun() ?? []) this.#due.add(channel)
    this.#pace = this.#newPace()
    for (const channel of [...this.#due]) {
      this.#due.delete(channel)
      const isMore = await this.#bring(channel)
      if (isMore) this.#due.add(channel)
      more ||= isMore
      await this.#pace.rest()
    }
    return more
  }

  /** What came before was no work. */
  #newPace(): Pace {
    const times = this.#restTimes
    return new Pace({ signal: this.#closing.signal, ...(times !== undefined && { restTimes: times }) })
  }

  /** One batch; true when there is more. */
  async #bring(channel: string): Promise<boolean> {
    const rows = this.#log.stateRows!
    try {
      const place = await rows.place(channel)
      // Those that are begun anew are told when they are.
      if (!place) return false
      const batch = await this.#collect(channel, place)
      if (!batch) return false
      const { at, epoch, trimmed, isWhole } = batch
      const isMoved = at > place.at || epoch !== place.epoch
      const change = { epoch, at, trimmed: place.trimmed, rows: batch.rows }
      const kept = isMoved ? await rows.keep(channel, place, change) : place
      if (!kept) return true
      await this.#forgetTrimmed(channel, kept, trimmed)
      if (isWhole && this.#running) this.#due.watch(channel, { epoch: kept.epoch, after: kept.at }, isMoved)
      return !isWhole
    } catch (error) {
      if (hasCode(error, 'no-channel')) {
        this.#trimmedAt.delete(channel)
        this.#damaged.delete(channel)
        return false
      }
      if (OVER.some((code) => hasCode(error, code))) await rows.drop(channel)
      // Rows that are damaged were voided.
      else if (!hasCode(error, 'data-loss')) throw error
      return false
    }
  }

  /** Reads on from a place; undefined when nothing more can be read there. @throws as Log.read */
  async #collect(channel: string, { epoch, at, trimmed }: StatePlace): Promise<Batch | undefined> {
    const rows = new Map<string, StateRow | undefined>()
    let batch: Batch = { rows, epoch, at, trimmed, isWhole: false }
    let bytes = 0
    for (let pages = 0; pages < BATCH_PAGES && rows.size < BATCH_ROWS && bytes < BATCH_BYTES; pages++) {
      const from = { epoch: batch.epoch, after: batch.at }
      try {
        const page = this.#log.recent(channel, from, PAGE) ?? (await this.#log.read(channel, from, PAGE))
        for (const block of page.blocks)
          keyedIn(block, page.after, page.last, (key, _, row) => {
            rows.set(key, row)
            bytes += key.length + (row?.event.length ?? 0)
          })
        batch = { rows, epoch: page.epoch, at: page.last, trimmed: page.trimmed, isWhole: page.caughtUp }
      } catch (error) {
        if (!hasCode(error, 'data-loss')) throw error
        // Up to the damage they are right; a state is told it by the log.
        if (batch.at > at) return batch
        if (!this.#damaged.has(channel))
          this.#notice('warn', 'The rows of a state end ahead of damage', { channel, why: (error as Error).message })
        this.#damaged.add(channel)
        return undefined
      }
      if (batch.isWhole) break
      await this.#pace.rest()
    }
    return batch
  }

  /** Rows of what is trimmed go now and then: who begins with them leaves them out by their seqs. */
  async #forgetTrimmed(channel: string, place: StatePlace, trimmed: number): Promise<void> {
    const now = performance.now()
    const isTime = now - (this.#trimmedAt.get(channel) ?? Number.NEGATIVE_INFINITY) >= this.#trimEvery
    if (trimmed <= place.trimmed || !isTime) return
    this.#trimmedAt.set(channel, now)
    const rows = this.#log.stateRows!
    let kept: StatePlace | undefined = place
    await rows.read(channel, async (some) => {
      const gone = some.filter(({ seq }) => seq <= trimmed).map(({ key }) => [key, undefined] as const)
      if (gone.length > 0 && kept) kept = await rows.keep(channel, kept, { ...kept, rows: new Map(gone) })
      await this.#pace.rest()
      return kept !== undefined
    })
    if (kept) await rows.keep(channel, kept, { ...kept, trimmed, rows: new Map() })
  }
}
