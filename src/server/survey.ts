/**
 * Looks over all channels, for who watches: the heads that move most and the cursors that lag most. A look takes a
 * bounded memory, goes on beside the doors, and is shared by all who ask at about the same time.
 */
import { sameHistory } from '../epoch.ts'
import { Worst } from '../log/lag.ts'
import type { Lagging, Log } from '../log/log.ts'
import type { HeadsJson, WorstCursorsJson } from '../wire.ts'
import { cursorJson } from './cursors.ts'

/** Most channels of one look: fewer than the log keeps in memory, so that looking drives out none in use. */
export const SURVEYED_CHANNELS_MAX = 15_000
/** A look is given out again for so long, ms, and for so many times what it took. */
const FRESH_MS = 4_000
const REST = 10
/** What nobody asked for during this is forgotten, ms. */
const FORGET_MS = 60_000

/** The last look, for all who ask while it is fresh; one at a time. It is forgotten when nobody asks any more. */
export class Look<Found> {
  readonly #forgotten: () => void
  #found: Promise<Found> | undefined
  #freshUntil = 0
  #forgetting: NodeJS.Timeout | undefined

  /** @param forgotten what else goes with it */
  constructor(forgotten: () => void = () => {}) {
    this.#forgotten = forgotten
  }

  at(look: () => Promise<Found>): Promise<Found> {
    clearTimeout(this.#forgetting)
    this.#forgetting = setTimeout(() => this.#forget(), FORGET_MS).unref()
    if (this.#found !== undefined && performance.now() < this.#freshUntil) return this.#found
    const started = performance.now()
    const found = look()
    this.#found = found
    this.#freshUntil = Number.POSITIVE_INFINITY
    const over = () => {
      const took = performance.now() - started
      this.#freshUntil = started + Math.max(FRESH_MS, took * REST)
    }
    found.then(over, () => {
      this.#freshUntil = 0
    })
    return found
  }

  /** What is under way is ended and given out, and then gone too. */
  #forget(): void {
    this.#found = undefined
    this.#forgotten()
  }
}

export class Survey {
  readonly #log: Log
  readonly #headsLook = new Look<HeadsJson>(() => this.#heads.clear())
  readonly #cursorsLook = new Look<Lagging>()
  #heads = new Map<string, { readonly epoch: string; readonly head: number }>()
  #headsAt = 0

  constructor(log: Log) {
    this.#log = log
  }

  /** @param most rows of any answer: what a caller asks for is cut from them */
  async heads(limit: number, most: number): Promise<HeadsJson> {
    const looked = await this.#headsLook.at(() => this.#lookAtHeads(most))
    return { ...looked, heads: looked.heads.slice(0, limit) }
  }

  async #lookAtHeads(most: number): Promise<HeadsJson> {
    const before = this.#heads
    const at = performance.now()
    const over = before.size === 0 ? 0 : at - this.#headsAt
    const heads: typeof before = new Map()
    const moved = new Worst<HeadsJson['heads'][number]>(most, (a, b) => b.rate - a.rate)
    let complete = true
    for await (const { channel, epoch, head, trimmed } of this.#log.channels('')) {
      if (heads.size === SURVEYED_CHANNELS_MAX) {
        complete = false
        break
      }
      heads.set(channel, { epoch, head })
      const known = before.get(channel)
      const from = known !== undefined && sameHistory(known.epoch, epoch) ? known.head : 0
      if (over > 0 && head > from) moved.add({ channel, head, trimmed, rate: ((head - from) * 1_000) / over })
    }
    this.#heads = heads
    this.#headsAt = at
    return { at, over, channels: heads.size, complete, heads: moved.sorted() }
  }

  /** The cursors that lag most, of one channel or of all. @throws no-channel */
  async cursors(limit: number, most: number, channel?: string): Promise<WorstCursorsJson> {
    const { cursors, found } =
      channel === undefined
        ? await this.#cursorsLook.at(() => this.#log.lagging(most))
        : await this.#log.lagging(limit, channel)
    return { cursors: cursors.slice(0, limit).map(({ cursor, info }) => cursorJson(cursor, info)), found }
  }
}
