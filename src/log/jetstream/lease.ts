/**
 * Which of the gateways does what only one of them is to do: keeping what retention says. A key of the bucket names the
 * holder, who writes it anew again and again; one that was not written for a while is taken by whoever sees it first,
 * by compare-and-set. No clock is compared with another one: each counts from what it did or saw itself, and a holder
 * stops believing long before another one may take its place.
 */
import { randomBytes } from 'node:crypto'
import { hasCode } from '../../errors.ts'
import { isConflict, isUnreachable, told } from './failures.ts'
import type { Link } from './link.ts'

/** In ms, told apart for tests. */
interface LeasePace {
  /** The holder writes, and the others look, this often. */
  readonly renew: number
  /** A holder believes that it is one for so long after it sent what was stored. */
  readonly hold: number
  /** A lease that was not written for so long, as one saw it, is taken. */
  readonly take: number
}
const PACE: LeasePace = { renew: 5_000, hold: 10_000, take: 20_000 }

export class Lease {
  readonly #link: Link
  readonly #pace: LeasePace
  readonly #notice: (why: string) => void
  readonly #holder = randomBytes(9).toString('base64url')
  #timer: NodeJS.Timeout | undefined
  #working: Promise<void> | undefined
  /** What was last seen of the key, and since when, ms of the process. */
  #seen: { readonly seq: number; readonly holder: string; readonly at: number } | undefined
  #heldUntil = Number.NEGATIVE_INFINITY
  #isClosed = false

  /** @param notice told why it can not be worked with, for reasons other than that NATS is away */
  constructor(link: Link, notice: (why: string) => void, pace = PACE) {
    this.#link = link
    this.#notice = notice
    this.#pace = pace
  }

  /** True while this gateway is the one. */
  get isHeld(): boolean {
    return performance.now() < this.#heldUntil
  }

  /** Wants it from now on. */
  seek(): void {
    if (this.#timer !== undefined || this.#isClosed) return
    this.#timer = setInterval(() => this.#tick(), this.#pace.renew).unref()
    this.#tick()
  }

  /** Gives it back, so that another one takes it at its next look. */
  async close(): Promise<void> {
    clearInterval(this.#timer)
    this.#isClosed = true
    await this.#working
    const wasHeld = this.isHeld
    this.#heldUntil = Number.NEGATIVE_INFINITY
    if (!wasHeld || !this.#link.isConnected) return
    // Whoever hears nothing of it waits a little longer.
    await this.#quietly(() => this.#write(''))
  }

  #tick(): void {
    if (this.#working !== undefined || !this.#link.isConnected) return
    this.#working = this.#quietly(() => this.#work()).finally(() => {
      this.#working = undefined
    })
  }

  async #quietly(work: () => Promise<void>): Promise<void> {
    try {
      await work()
    } catch (error) {
      // What stands there now is looked at the next time; a write that nobody answered may be ours.
      if (!isConflict(error) && !isUnreachable(error) && !hasCode(told(error), 'storage-full'))
        this.#notice(String(error))
    }
  }

  async #work(): Promise<void> {
    if (performance.now() >= this.#heldUntil) await this.#look()
    if (this.#isClosed || !this.#mayWrite()) return
    const sent = performance.now()
    await this.#write(this.#holder)
    this.#heldUntil = sent + this.#pace.hold
  }

  async #look(): Promise<void> {
    const message = await this.#link.last(this.#link.leaseSubject)
    const seq = message?.seq ?? 0
    if (this.#seen?.seq === seq) return
    // Empty when it was given back.
    const holder = message ? Buffer.from(message.data).toString() : ''
    this.#seen = { seq, holder, at: performance.now() }
  }

  #mayWrite(): boolean {
    const { holder, at } = this.#seen!
    return holder === '' || holder === this.#holder || performance.now() - at >= this.#pace.take
  }

  async #write(holder: string): Promise<void> {
    const data = Buffer.from(holder)
    const { seq } = await this.#link.publish({ subject: this.#link.leaseSubject, data, expected: this.#seen!.seq })
    this.#seen = { seq, holder, at: performance.now() }
  }
}
