/** Cursors that show no life, forgotten for the keeper; and the lowest of those that live, which nothing passes. */
import { sameHistory } from '../epoch.ts'
import type { ChannelInfo, Cursor, Log } from './log.ts'

/** Cursors that are forgotten in one write, and read between two rests. */
const CURSOR_SLICE = 500
/** Channels that are asked for theirs between two rests. */
const CHANNEL_SLICE = 100

/** What the keeper gives. */
interface SilenceMeans {
  /** Who showed no life since then is forgotten, ms. */
  since(): number
  /** What comes of one channel; undefined when it changed meanwhile or is damaged. */
  whole<T>(of: { readonly channel: string }, work: () => Promise<T>): Promise<T | undefined>
  /** Rejects when the work ends. */
  rest(): Promise<void>
  /** One was forgotten. */
  forgot(): void
}

/** Forgets a silent cursor; the cursor, when it showed life meanwhile. */
type Forget = (cursor: Cursor, since: number) => Promise<Cursor | undefined>

/** The lowest of the cursors of a channel: nothing is dropped beyond it. */
export class Lowest {
  /** What all have passed; undefined when there are none. */
  seq: number | undefined
  readonly #epoch: string

  constructor({ epoch }: Pick<ChannelInfo, 'epoch'>) {
    this.#epoch = epoch
  }

  /** One of another history has passed nothing. */
  take({ seq, epoch }: Pick<Cursor, 'seq' | 'epoch'>): void {
    this.seq = Math.min(this.seq ?? seq, sameHistory(epoch, this.#epoch) ? seq : 0)
  }

  /** Nobody knows what a damaged one has passed. */
  readonly damaged = (): void => {
    this.seq = 0
  }
}

export class Silence {
  readonly #log: Log
  readonly #means: SilenceMeans

  constructor(log: Log, means: SilenceMeans) {
    this.#log = log
    this.#means = means
  }

  /** What the lowest living cursor of a channel has passed. Those that were silent for too long are forgotten on the way. */
  async lowest(info: ChannelInfo): Promise<number | undefined> {
    const lowest = new Lowest(info)
    await this.#forgetIn(this.#log.cursors({ channel: info.channel }, lowest.damaged), (cursor) => lowest.take(cursor))
    return lowest.seq
  }

  /** Forgets those of all channels that were silent for too long. */
  async forgetAll(): Promise<void> {
    const { whole } = this.#means
    // What comes of one costs those of other channels nothing.
    const forget: Forget = (cursor, since) => whole(cursor, () => this.#forget(cursor, since))
    if (this.#log.allCursors) return this.#forgetIn(this.#log.allCursors(), () => {}, forget)
    let looked = 0
    for await (const info of this.#log.channels('')) {
      await whole(info, () => this.#forgetIn(this.#log.cursors({ channel: info.channel }), () => {}))
      if (++looked % CHANNEL_SLICE === 0) await this.#means.rest()
    }
  }

  /** @param take told each one that stays */
  async #forgetIn(
    cursors: AsyncIterable<Cursor>,
    take: (cursor: Cursor) => void,
    forget: Forget = (cursor, since) => this.#forget(cursor, since),
  ): Promise<void> {
    const since = this.#means.since()
    let silent: Cursor[] = []
    let read = 0
    const forgetThem = async (): Promise<void> => {
      for (const cursor of await Promise.all(silent.map((each) => forget(each, since)))) if (cursor) take(cursor)
      silent = []
    }
    for await (const cursor of cursors) {
      if (cursor.time <= since) silent.push(cursor)
      else take(cursor)
      if (++read % CURSOR_SLICE > 0) continue
      await forgetThem()
      await this.#means.rest()
    }
    await forgetThem()
  }

  async #forget({ client, channel }: Cursor, since: number): Promise<Cursor | undefined> {
    if (!(await this.#log.forget(client, channel, since))) return this.#log.cursor(client, channel)
    this.#means.forgot()
    return undefined
  }
}
