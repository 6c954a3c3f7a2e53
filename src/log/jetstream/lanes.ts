/**
 * The order of writes within this process: those of one channel go one after the other, each channel for itself. What
 * waits behind a write that NATS did not take is refused with it, unsent: who sends both again keeps their order. An
 * append to several channels stands in the lanes of all of them and has its turn when it is the first in each; because
 * it enters them all at once, two of them never wait for each other.
 */
import { hasCode, TidemarkError } from '../../errors.ts'
import { closing, told, unavailable } from './failures.ts'

/** Most bytes of writes that wait; beyond, `too-many`. */
const PENDING_BYTES = 32 * 1024 * 1024
const PENDING_JOBS = 100_000
const RETRY_AFTER_MS = 1_000

export interface Job {
  readonly names: readonly string[]
  /** Counts against the bound of what may wait. */
  readonly bytes: number
  /**
   * Does what is to do. A job of one channel may take along what stands right behind it.
   * @param queue of its channel, itself the first
   */
  run(queue: readonly Job[]): Promise<Done>
  reject(error: unknown): void
}

export interface Done {
  /** So many jobs of the queue. */
  readonly jobs: number
  /** Tells their outcomes: they wait no longer. */
  readonly tell: () => void
  /** Why they failed. */
  readonly failed?: unknown
}

interface Lane {
  readonly name: string
  queue: Job[]
}

export class Lanes {
  readonly #lanes = new Map<string, Lane>()
  /** Jobs of several lanes: how many they wait for yet, and those who wait for their end. */
  readonly #barriers = new Map<Job, { missing: number; readonly done: Promise<Done>; readonly start: () => void }>()
  #pendingBytes = 0
  #pendingJobs = 0
  #closed = false
  #onIdle: (() => void) | undefined

  get pendingBytes(): number {
    return this.#pendingBytes
  }

  get pendingJobs(): number {
    return this.#pendingJobs
  }

  get isClosed(): boolean {
    return this.#closed
  }

  enter(job: Job): void {
    const refusal = this.#refusal(job)
    if (refusal) {
      job.reject(refusal)
      return
    }
    this.#pendingBytes += job.bytes
    this.#pendingJobs++
    if (job.names.length > 1) this.#barriers.set(job, this.#barrier(job))
    for (const name of job.names) {
      const lane = this.#lanes.get(name)
      if (lane) lane.queue.push(job)
      else this.#open({ name, queue: [job] })
    }
  }

  #refusal({ bytes }: Job): TidemarkError | undefined {
    if (this.#closed) return closing()
    if (this.#pendingBytes + bytes <= PENDING_BYTES && this.#pendingJobs < PENDING_JOBS) return undefined
    return new TidemarkError('too-many', 'Too many appends wait for NATS', { retryAfter: RETRY_AFTER_MS })
  }

  /** Finishes what was accepted. */
  async close(): Promise<void> {
    this.#closed = true
    if (this.#lanes.size > 0) await new Promise<void>((resolve) => this.#whenIdle(resolve))
  }

  #whenIdle(resolve: () => void): void {
    const before = this.#onIdle
    this.#onIdle = () => {
      before?.()
      resolve()
    }
  }

  #open(lane: Lane): void {
    this.#lanes.set(lane.name, lane)
    // What is sent within this turn of the event loop stands together.
    queueMicrotask(() => void this.#go(lane))
  }

  async #go(lane: Lane): Promise<void> {
    while (lane.queue.length > 0) {
      const job = lane.queue[0]!
      const barrier = this.#barriers.get(job)
      if (barrier) {
        if (--barrier.missing === 0) barrier.start()
      }
      const done = await (barrier?.done ?? this.#run(job, lane.queue))
      const ended = lane.queue.splice(0, done.jobs)
      // One of several lanes told its outcome itself.
      if (!barrier) this.#end(ended, done)
      if (hasCode(done.failed, 'unavailable')) this.#refuseWaiting(lane, done.failed)
    }
    this.#lanes.delete(lane.name)
    if (this.#lanes.size === 0) this.#onIdle?.()
  }

  /** Those of several lanes stay: others wait for them, too. */
  #refuseWaiting(lane: Lane, cause: unknown): void {
    const refused = lane.queue.filter((job) => !this.#barriers.has(job))
    lane.queue = lane.queue.filter((job) => this.#barriers.has(job))
    const tell = (): void => {
      for (const job of refused) job.reject(unavailable(cause))
    }
    this.#end(refused, { tell })
  }

  async #run(job: Job, queue: readonly Job[]): Promise<Done> {
    try {
      return await job.run(queue)
    } catch (cause) {
      const failed = told(cause)
      return { jobs: 1, tell: () => job.reject(failed), failed }
    }
  }

  #barrier(job: Job): { missing: number; done: Promise<Done>; start: () => void } {
    let start = (): void => {}
    const turn = new Promise<void>((resolve) => {
      start = resolve
    })
    const done = turn
      .then(() => this.#run(job, [job]))
      .then((done) => {
        this.#barriers.delete(job)
        this.#end([job], done)
        return done
      })
    return { missing: job.names.length, done, start }
  }

  #end(jobs: readonly Job[], { tell }: Pick<Done, 'tell'>): void {
    for (const { bytes } of jobs) {
      this.#pendingBytes -= bytes
      this.#pendingJobs--
    }
    try {
      tell()
    } catch (error) {
      // A fault of whoever is told: it ends the process as any other, and holds up nobody behind it.
      queueMicrotask(() => {
        throw error
      })
    }
  }
}
