/**
 * The one writer. Everything that changes the log waits here for its turn; what arrives while a write is on its way
 * shares the next one (group commit without a timer: an idle log writes at once, a busy log writes larger groups).
 *
 *        submit → queue → plan on a group → one synced write → memory follows → wake readers → answer
 *
 *   ok ── write fails ──▶ reopening ── opened, heads read again ──▶ ok
 *    │                     ▲      └── three times in vain, or acknowledged commits gone ──▶ read-only
 *    ├── disk full ──▶ full ┘ (when there is room)
 *    └── corruption on the write path ──▶ read-only
 *
 * Fail-stop: after a failed write of any kind LevelDB would acknowledge writes and lose them at the next start, so
 * nothing is acknowledged until the store was closed, opened again and its heads re-read. What the failed write held
 * may be on disk or not; readers get what is found there.
 */
import { setTimeout as delay, setImmediate as nextTurn } from 'node:timers/promises'
import { TidemarkError } from '../../errors.ts'
import type { Health } from '../log.ts'
import type { LogOptions } from '../open.ts'
import { isCorruption, isDiskFull, isOfStore, reasonOf } from './cause.ts'
import type { Channels } from './channels.ts'
import { Group } from './group.ts'
import type { Watermark } from './room.ts'
import type { Notice, Store } from './store.ts'

/** A group is closed at this size. */
const GROUP_BYTES = 4 * 1024 * 1024
/** Most bytes of appends that wait; beyond, `too-many`. */
const PENDING_BYTES = 32 * 1024 * 1024
const PENDING_APPENDS = 100_000
const REOPEN_TRIES = 3
const REOPEN_PAUSE_MS = 250
const ROOM_CHECK_MS = 500
/** When to come back, told to a caller who is refused. */
const RETRY_AFTER_MS = 1_000

/** Changes the group and returns what to answer once it is on disk; throws to be refused, having changed nothing. */
export type Plan<T> = (group: Group) => () => T

interface Task {
  readonly bytes: number
  readonly plan: Plan<unknown>
  readonly resolve: (answer: unknown) => void
  readonly reject: (error: unknown) => void
}

export interface WriterEvents {
  /** A group is on disk: memory follows, then readers wake. */
  readonly onWritten: (group: Group) => void
  /** The store was opened again: whatever memory held of it is old. */
  readonly onReopened: () => void
  readonly onGroup: LogOptions['onGroup']
  readonly notice: Notice
}

export class Writer {
  readonly #store: Store
  readonly #channels: Channels
  readonly #watermark: Watermark
  readonly #events: WriterEvents
  #queue: Task[] = []
  #pendingBytes = 0
  #pendingAppends = 0
  #running: Promise<void> | undefined
  #state: Health['state'] = 'ok'
  #reason: string | undefined
  readonly #closing = new AbortController()
  /** Set while LevelDB is closed between two lives. */
  #gate: { readonly passed: Promise<void>; readonly open: () => void } | undefined

  constructor(store: Store, channels: Channels, watermark: Watermark, events: WriterEvents) {
    this.#store = store
    this.#channels = channels
    this.#watermark = watermark
    this.#events = events
  }

  health(): Health {
    const low = this.#state === 'ok' && this.#watermark.isLow()
    const reason = low ? this.#watermark.reason : this.#reason
    return {
      state: low ? 'full' : this.#state,
      ...(reason !== undefined && { reason }),
      pendingAppends: this.#pendingAppends,
      pendingBytes: this.#pendingBytes,
    }
  }

  get isClosed(): boolean {
    return this.#state === 'closed'
  }

  /** Undefined when LevelDB is open; else resolves when it is again, or never will be. */
  get gate(): Promise<void> | undefined {
    return this.#gate?.passed
  }

  /** What adds events, and is refused when the disk is almost full. As `submit`. */
  submitAppend<T>(bytes: number, plan: Plan<T>): Promise<T> {
    if (this.#state === 'ok' && this.#watermark.isLow(bytes))
      return Promise.reject(new TidemarkError('storage-full', this.#watermark.reason, { retryAfter: RETRY_AFTER_MS }))
    return this.submit(bytes, plan)
  }

  /** `bytes` counts against the bound of what may wait. Tasks are planned in the order of their submission. */
  submit<T>(bytes: number, plan: Plan<T>): Promise<T> {
    const refusal = this.#refusal(bytes)
    if (refusal) return Promise.reject(refusal)
    return new Promise<T>((resolve, reject) => {
      this.#queue.push({ bytes, plan, resolve: resolve as (answer: unknown) => void, reject })
      this.#pendingBytes += bytes
      this.#pendingAppends++
      this.#running ??= this.#run()
    })
  }

  /** Finishes what was accepted; later submissions are refused. */
  async close(): Promise<void> {
    this.#state = 'closed'
    this.#closing.abort()
    await this.#running
  }

  #refusal(bytes: number): TidemarkError | undefined {
    const retry = { retryAfter: RETRY_AFTER_MS }
    if (this.#state === 'closed') return new TidemarkError('unavailable', 'The log is closing', retry)
    if (this.#state === 'full') return new TidemarkError('storage-full', 'The disk is full', retry)
    if (this.#state === 'read-only')
      return new TidemarkError('unavailable', this.#reason ?? 'The log is read-only', retry)
    if (this.#pendingBytes + bytes > PENDING_BYTES || this.#pendingAppends >= PENDING_APPENDS)
      return new TidemarkError('too-many', 'Too many appends wait to be written', retry)
    return undefined
  }

  async #run(): Promise<void> {
    try {
      while (this.#queue.length > 0) {
        // One turn of the event loop: requests that arrived together share the group.
        await nextTurn()
        await this.#writeGroup()
      }
    } catch (error) {
      // Not foreseen: what memory holds may not be what is on disk.
      this.#stop(`The writer failed: ${reasonOf(error)}. Start the server again`)
    }
    this.#running = undefined
  }

  async #writeGroup(): Promise<void> {
    const group = new Group(this.#store, this.#channels)
    const planned: { task: Task; settle: () => unknown }[] = []
    let taken = 0
    let bytes = 0
    for (; taken < this.#queue.length && bytes < GROUP_BYTES; taken++) {
      const task = this.#queue[taken]!
      bytes += task.bytes
      planned.push({ task, settle: plan(task, group) })
    }
    this.#queue.splice(0, taken)
    const started = performance.now()
    try {
      const wrote = await group.write()
      if (wrote) this.#events.onGroup?.({ seconds: (performance.now() - started) / 1000, tasks: taken, bytes })
    } catch (error) {
      this.#release(planned.map(({ task }) => task))
      await this.#fail(
        error,
        planned.map(({ task }) => task),
      )
      return
    }
    this.#release(planned.map(({ task }) => task))
    this.#events.onWritten(group)
    for (const { task, settle } of planned) {
      try {
        task.resolve(settle())
      } catch (error) {
        task.reject(error)
      }
    }
  }

  #release(tasks: readonly Task[]): void {
    for (const task of tasks) this.#pendingBytes -= task.bytes
    this.#pendingAppends -= tasks.length
  }

  async #fail(error: unknown, group: readonly Task[]): Promise<void> {
    const why = reasonOf(error)
    this.#events.notice('error', 'A write failed; nothing is acknowledged until the log was opened again', { why })
    const full = isDiskFull(error)
    const code = full ? 'storage-full' : 'unavailable'
    for (const task of group)
      task.reject(
        new TidemarkError(
          code,
          `The write failed: ${why}`,
          { outcome: 'unknown', retryAfter: RETRY_AFTER_MS },
          { cause: error },
        ),
      )
    if (isCorruption(error)) this.#stop(`LevelDB reports corruption: ${why}. Run tidemark salvage on a copy`)
    else
      try {
        await this.#recover(full)
      } finally {
        this.#gate?.open()
        this.#gate = undefined
      }
  }

  async #recover(diskFull: boolean): Promise<void> {
    const closed = (): boolean => this.#closing.signal.aborted
    let full = diskFull
    for (let tries = 0; tries < REOPEN_TRIES && !closed(); ) {
      this.#become(full ? 'full' : 'reopening', full ? 'The disk is full' : 'A write failed; the log is opened again')
      if (full) {
        // Opening needs room, and reads go on without: wait with the store open.
        this.#refuseQueue()
        while (!this.#store.hasRoom() && !closed()) await delay(ROOM_CHECK_MS)
        if (closed()) break
      }
      const failure = await this.#reopen()
      if (failure === undefined) {
        this.#become('ok', undefined)
        this.#events.notice('info', 'The log was opened again', {})
        this.#events.onReopened()
        return
      }
      this.#events.notice('error', 'The log does not open again', { why: reasonOf(failure) })
      if (failure instanceof TidemarkError && failure.code === 'data-loss' && this.#store.isOpen) {
        this.#events.onReopened()
        return this.#stop(`${failure.message}. Run tidemark salvage on a copy`)
      }
      full = isDiskFull(failure)
      if (!full) tries++
      await delay(REOPEN_PAUSE_MS)
    }
    if (closed()) this.#refuseQueue()
    else this.#stop('The log could not be opened again after a failed write. Check the disk, then run tidemark salvage')
  }

  /** One try. Readers wait at the gate from the first one on, until a try was good or the last one was not. */
  async #reopen(): Promise<unknown> {
    this.#gate ??= newGate()
    try {
      await this.#store.reopen()
      return undefined
    } catch (error) {
      return error
    }
  }

  #become(state: Health['state'], reason: string | undefined): void {
    if (this.#state === 'closed') return
    this.#state = state
    this.#reason = reason
  }

  /** Read-only for good: an operator must look. */
  #stop(reason: string): void {
    this.#become('read-only', reason)
    this.#events.notice('error', 'The log is read-only', { reason })
    this.#refuseQueue()
  }

  #refuseQueue(): void {
    const refused = this.#queue
    this.#queue = []
    this.#release(refused)
    for (const task of refused) task.reject(this.#refusal(0) ?? new TidemarkError('unavailable', 'The log stopped'))
  }
}

/** A refusal waits for the group too: what it tells (a head) may be of this group, and not on disk yet. */
function plan(task: Task, group: Group): () => unknown {
  try {
    return task.plan(group)
  } catch (error) {
    return () => {
      throw isOfStore(error)
        ? new TidemarkError('unavailable', 'The log can not be read now', {}, { cause: error })
        : error
    }
  }
}

function newGate(): { passed: Promise<void>; open: () => void } {
  let open = (): void => {}
  const passed = new Promise<void>((resolve) => {
    open = resolve
  })
  return { passed, open }
}
