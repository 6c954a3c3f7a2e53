/** Requests of one socket about one channel are taken up one after the other; those about different channels are not. */
import type { Ref } from '../wire.ts'

/** The socket. */
export interface Taker {
  /** A request of so many bytes is under way. */
  begun(bytes: number): void
  /** So many requests of so many bytes have ended. */
  ended(bytes: number, requests: number): void
  refuse(error: unknown, ref: Ref | undefined, channel: string): void
}

export class Turns {
  readonly #taker: Taker
  /** The last request about each channel. An idle socket keeps no empty map. */
  #turns: Map<string, Promise<void>> | undefined

  constructor(taker: Taker) {
    this.#taker = taker
  }

  /** Begins `work` when the requests before it about the same channel are done, and tells its failure. */
  take(
    { ref, channel }: { readonly ref: Ref | undefined; readonly channel: string },
    bytes: number,
    work: () => Promise<void> | void,
  ): void {
    const taker = this.#taker
    const before = this.#turns?.get(channel)
    let begun: Promise<void> | void
    try {
      begun = before ? before.then(work) : work()
    } catch (error) {
      taker.refuse(error, ref, channel)
      return
    }
    if (!begun) return
    this.#turns ??= new Map()
    const turns = this.#turns
    taker.begun(bytes)
    const turn = begun
      .catch((error: unknown) => taker.refuse(error, ref, channel))
      .then(() => {
        if (turns.get(channel) === turn) turns.delete(channel)
        if (turns.size === 0 && this.#turns === turns) this.#turns = undefined
        taker.ended(bytes, 1)
      })
    turns.set(channel, turn)
  }
}
