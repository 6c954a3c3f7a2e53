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

/** What waits for its turn with the writer. */
export interface Task {
  /** Counts against the bound of what may wait. */
  readonly bytes: number
  /** Changes the group; throws to be refused, having changed nothing. */
  plan(group: Group): void
  /** Tells the answer: the group is on disk. */
  settle(): void
  reject(error: unknown): void
}

/** A change whose answer is a promise. */
class Change<T> implements Task {
  readonly bytes: number
  readonly reject: (error: unknown) => void
  readonly #plan: Plan<T>
  readonly #resolve: (answer: T) => void
  #answer: (() => T) | undefined

  constructor(bytes: number, plan: Plan<T>, resolve: (answer: T) => void, reject: (error: unknown) => void) {
    this.bytes = bytes
    this.#plan = plan
    this.#resolve = resolve
    this.reject = reject
  }

  plan(group: Group): void {
    this.#answer = this.#plan(group)
  }

  settle(): void {
    try {
      this.#resolve(this.#answer!())
    } catch (error) {
      this.reject(error)
    }
  }
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

  /** `bytes` counts against the bound of what may wait. */
  submit<T>(bytes: number, plan: Plan<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      this.#enter(new Change(bytes, plan, resolve, reject))
    })
  }

  /** As `submit`, of what adds events. */
  submitEvents<T>(bytes: number, plan: Plan<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      this.enterAppend(new Change(bytes, plan, resolve, reject))
    })
  }

  /** What adds events, and is refused when the disk is almost full. */
  enterAppend(task: Task): void {
    if (this.#state === 'ok' && this.#watermark.isLow(task.bytes))
      refuse(task, new TidemarkError('storage-full', this.#watermark.reason, { retryAfter: RETRY_AFTER_MS }))
    else this.#enter(task)
  }

  /** Tasks are planned in the order in which they came. */
  #enter(task: Task): void {
    const refusal = this.#refusal(task.bytes)
    if (refusal) {
      refuse(task, refusal)
      return
    }
    this.#queue.push(task)
    this.#pendingBytes += task.bytes
    this.#pendingAppends++
    this.#running ??= this.#run()
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
    /** By task: a refusal waits for the group too, for what it tells (a head) may be of this group, not on disk yet. */
    const refused = new Map<Task, unknown>()
    let taken = 0
    let bytes = 0
    for (; taken < this.#queue.length && bytes < GROUP_BYTES; taken++) {
      const task = this.#queue[taken]!
      bytes += task.bytes
      try {
        task.plan(group)
      } catch (error) {
        refused.set(task, refusalOf(error))
      }
    }
    const tasks = this.#queue.splice(0, taken)
    const started = performance.now()
    try {
      const wrote = await group.write()
      if (wrote) this.#events.onGroup?.({ seconds: (performance.now() - started) / 1000, tasks: taken, bytes })
      // A fault here leaves memory behind the disk; opening again mends that, as it does after a write that failed.
      this.#events.onWritten(group)
    } catch (error) {
      this.#release(tasks)
      await this.#fail(error, tasks)
      return
    }
    this.#release(tasks)
    for (const task of tasks)
      if (refused.has(task)) refuse(task, refused.get(task))
      else tell(() => task.settle())
  }

  #release(tasks: readonly Task[]): void {
    for (const task of tasks) this.#pendingBytes -= task.bytes
    this.#pendingAppends -= tasks.length
  }

  async #fail(error: unknown, group: readonly Task[]): Promise<void> {
    const why = reasonOf(error)
    this.#events.notice('error', 'A write failed; nothing is acknowledged until the log was opened again', { why })
    const full = isDiskFull(error)
    for (const task of group) refuse(task, failureOf(error, `The write failed: ${why}`, { outcome: 'unknown' }))
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
    for (const task of refused) refuse(task, this.#refusal(0) ?? new TidemarkError('unavailable', 'The log stopped'))
  }
}

/** What is told of a store that failed: its disk is full, or it is not there now. */
const failureOf = (cause: unknown, what: string, facts: object = {}): TidemarkError =>
  new TidemarkError(
    isDiskFull(cause) ? 'storage-full' : 'unavailable',
    what,
    { ...facts, retryAfter: RETRY_AFTER_MS },
    { cause },
  )

const refusalOf = (error: unknown): unknown =>
  isOfStore(error) ? failureOf(error, 'The log can not be read now') : error

const refuse = (task: Task, error: unknown): void => tell(() => task.reject(error))

function tell(answer: () => void): void {
  try {
    answer()
  } catch (error) {
    // A fault of whoever is told: it ends the process as any other, and holds up neither the writer nor the next one.
    queueMicrotask(() => {
      throw error
    })
  }
}

function newGate(): { passed: Promise<void>; open: () => void } {
  let open = (): void => {}
  const passed = new Promise<void>((resolve) => {
    open = resolve
  })
  return { passed, open }
}
