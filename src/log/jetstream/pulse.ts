/**
 * Whether the stream can be worked with: a connection alone does not say so. A cluster may have no leader, a server may
 * stand still, and an operator may have changed the stream.
 */
import { Unled } from './failures.ts'
import type { Link } from './link.ts'
import type { Room } from './room.ts'

/** How often its leader is asked, ms. */
const PULSE_MS = 2_000
/** Questions in a row without an answer that are taken for more than an election. */
const MISSED_MAX = 2
/** After so long without one, ms, most elections are over: the server is taken for cut off, and another one is tried. */
const LEAVE_MS = 10_000

export class Pulse {
  readonly #link: Link
  readonly #room: Room
  readonly #timer: NodeJS.Timeout
  #missed = 0
  /** When there was an answer, no connection, or another server was tried, ms of the process. */
  #heardAt = performance.now()
  #leftAt = Number.NEGATIVE_INFINITY
  #fault: string | undefined
  #isAsking = false

  constructor(link: Link, room: Room) {
    this.#link = link
    this.#room = room
    this.#timer = setInterval(() => void this.#ask(), PULSE_MS).unref()
  }

  /** Why it can not, in words. */
  get fault(): string | undefined {
    return this.#fault
  }

  close(): void {
    clearInterval(this.#timer)
  }

  async #ask(): Promise<void> {
    if (!this.#link.isConnected) this.#heardAt = performance.now()
    if (this.#isAsking || !this.#link.isConnected) return
    this.#isAsking = true
    try {
      this.#fault = await this.#link.fault()
      this.#missed = 0
      this.#heardAt = performance.now()
      await this.#room.ask()
    } catch (error) {
      if (++this.#missed >= MISSED_MAX) this.#fault = `NATS is there, and its stream does not answer (${error})`
      const now = performance.now()
      // One that says so itself is left at once, but not again and again.
      if (now - (error instanceof Unled ? this.#leftAt : this.#heardAt) >= LEAVE_MS) {
        this.#leftAt = now
        this.#heardAt = now
        await this.#link.goElsewhere()
      }
    }
    this.#isAsking = false
  }
}
