/**
 * Whether the stream can be worked with: a connection alone does not say so. A cluster may have no leader, a server may
 * stand still, and an operator may have changed the stream.
 */
import type { Link } from './link.ts'

/** How often its leader is asked, ms. */
const PULSE_MS = 2_000
/** Questions in a row without an answer that are taken for more than an election. */
const MISSED_MAX = 2

export class Pulse {
  readonly #link: Link
  readonly #timer: NodeJS.Timeout
  #missed = 0
  #fault: string | undefined
  #isAsking = false

  constructor(link: Link) {
    this.#link = link
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
    if (this.#isAsking || !this.#link.isConnected) return
    this.#isAsking = true
    try {
      this.#fault = await this.#link.fault()
      this.#missed = 0
    } catch (error) {
      if (++this.#missed >= MISSED_MAX) this.#fault = `NATS is there, and its stream does not answer (${error})`
    }
    this.#isAsking = false
  }
}
