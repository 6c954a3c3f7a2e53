/**
 * A piece of a history from elsewhere, and its turn with the writer.
 *
 * What comes is filed under a number that no name has: readers, listings and verification see no channel. The arrival
 * row says how far it came, in the same write as what came. With its end the name row is written, and it is a channel
 * as any other.
 */
import { sameHistory } from '../../epoch.ts'
import {
  type ArrivalPiece,
  type Arrived,
  arrivalOutOfOrder,
  type CheckedBlock,
  checkPiece,
  epochIsOver,
  needHeld,
  partsOfEpoch,
  progressWith,
  refuseArrival,
} from '../arrival.ts'
import type { Group } from './group.ts'
import { type ArrivalRow, blockKey, encodeLoss, epochOf, lossKey, movedLife } from './keys.ts'
import { newLife } from './store.ts'

export class Arriving {
  /** What it adds to the log, as the writer counts it; 0 for a piece that holds nothing. */
  readonly bytes: number
  readonly #channel: string
  readonly #piece: ArrivalPiece
  readonly #blocks: readonly CheckedBlock[]

  /** @throws bad-request, too-large */
  constructor(channel: string, piece: ArrivalPiece) {
    const { blocks, bytes } = checkPiece(channel, piece)
    this.#channel = channel
    this.#piece = piece
    this.#blocks = blocks
    this.bytes = bytes
  }

  /** @param life of the store @throws as Log.arrive */
  plan(group: Group, life: string): () => Arrived {
    const channel = this.#channel
    const { from, head: upTo, end, drop } = this.#piece
    const known = group.arrival(channel)
    const arriving = known?.isWhole === false ? known : undefined
    if (drop) {
      if (arriving) group.dropArrival(channel, arriving)
      return () => ({ channel, epoch: from, head: 0, trimmed: 0, isWhole: false })
    }
    const there = group.find(channel)
    if (there) {
      const { epoch, trimmed } = there
      needHeld(channel, there, known?.isWhole && sameHistory(known.from, from) ? known.upTo : undefined, this.#piece)
      return () => ({ channel, epoch, head: upTo, trimmed, isWhole: true })
    }
    const begun = this.#begin(group, arriving, life)
    const row = this.#add(begun)
    const epoch = epochOf(life, row)
    for (const { client, seq, epoch: of } of this.#piece.cursors ?? [])
      if (seq > upTo && sameHistory(of, epoch))
        refuseArrival(channel, `the cursor of ${client} is beyond its head ${upTo}`)
    // From here on nothing is refused.
    this.#write(group, begun, row)
    if (end) {
      const { channel: number, life, run, head, trimmed } = row
      // Which tombstones are gone is not known here: a reader of an older run takes its state anew.
      const cleaned = run > 0 ? head : 0
      const time = Math.max(row.time, end.time)
      group.place({ name: channel, number, settings: end.settings, life, run, head, trimmed, time, cleaned })
    }
    return () => ({ channel, epoch, head: row.head, trimmed: row.trimmed, isWhole: row.isWhole })
  }

  /** The arrival that this piece is of: the one that is known, or, where none of it is in the piece, a new one. */
  #begin(group: Group, known: ArrivalRow | undefined, life: string): ArrivalRow {
    const { from, head: upTo, trimmed, sameEpoch = false, blocks, lostUpTo, cursors, end } = this.#piece
    const goesOn = known && known.from === from && known.sameEpoch === sameEpoch
    // Not on from what was taken later: compaction has taken out of it what a newer event stands for, which will not come.
    if (goesOn && known.upTo <= upTo) return { ...known, upTo }
    if (blocks || lostUpTo !== undefined || cursors || end)
      throw arrivalOutOfOrder(this.#channel, trimmed, 'it has to begin anew')
    const own = sameEpoch ? this.#kept(group, life) : { life: newLife(), run: 0 }
    if (known) group.dropArrival(this.#channel, known)
    const fresh = { from, upTo, sameEpoch, channel: group.newNumber(), ...own }
    return { ...fresh, head: trimmed, trimmed, time: 0, isWhole: false }
  }

  /** Life and run of a channel that keeps its epoch. @throws epoch-changed when that is over; bad-request */
  #kept(group: Group, here: string): Pick<ArrivalRow, 'life' | 'run'> {
    const { there, life, run } = partsOfEpoch(this.#channel, this.#piece.from)
    if (group.isOver(this.#channel, there, life)) throw epochIsOver(this.#channel, this.#piece.from)
    return { life: movedLife(life, there, here), run }
  }

  /** The arrival with this piece. @throws seq-conflict, bad-request */
  #add(begun: ArrivalRow): ArrivalRow {
    const progress = progressWith(this.#channel, begun, this.#piece, this.#blocks)
    return { ...begun, ...progress, isWhole: this.#piece.end !== undefined }
  }

  #write(group: Group, begun: ArrivalRow, row: ArrivalRow): void {
    const { channel: number, trimmed } = row
    for (const { block, header } of this.#blocks)
      if (header.last > Math.max(begun.head, trimmed)) group.put(blockKey(number, header.last), block)
    const before = Math.max(begun.head, trimmed, ...this.#blocks.map(({ header }) => header.last))
    if (row.head > before) {
      const key = lossKey(number, before)
      group.put(key, encodeLoss(key, { upTo: row.head }))
    }
    if (trimmed > begun.trimmed && begun.head > begun.trimmed) group.sweepLater(number, { upTo: trimmed })
    for (const { client, epoch, seq, time } of this.#piece.cursors ?? [])
      group.setCursor({ name: this.#channel, number }, client, { epoch, seq, time })
    group.setArrival(this.#channel, row)
  }
}
