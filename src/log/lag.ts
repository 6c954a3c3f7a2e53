/** How far a reader is behind, and the first few of any number in an order. */
import { sameHistory } from '../epoch.ts'
import type { ChannelInfo, Cursor } from './log.ts'

/** Events that a cursor has before it; one of an older history has all that the channel retains. */
export function lagOf(
  { epoch, seq }: Pick<Cursor, 'epoch' | 'seq'>,
  channel: Pick<ChannelInfo, 'epoch' | 'head' | 'trimmed'>,
): number {
  const from = sameHistory(epoch, channel.epoch) ? Math.max(seq, channel.trimmed) : channel.trimmed
  return Math.max(channel.head - from, 0)
}

/** The first `most` of any number, in an order; never more than twice as many are kept. */
export class Worst<Row> {
  readonly #most: number
  readonly #order: (a: Row, b: Row) => number
  #rows: Row[] = []
  /** What comes behind it has no place. */
  #edge: Row | undefined

  constructor(most: number, order: (a: Row, b: Row) => number) {
    this.#most = most
    this.#order = order
  }

  add(row: Row): void {
    if (this.#edge !== undefined && this.#order(row, this.#edge) >= 0) return
    this.#rows.push(row)
    if (this.#rows.length < this.#most * 2) return
    this.#rows = this.sorted()
    this.#edge = this.#rows.at(-1)
  }

  sorted(): Row[] {
    return this.#rows.sort(this.#order).slice(0, this.#most)
  }
}
