/**
 * A piece of a history from elsewhere, and its turn with the writer.
 *
 * What comes is filed under a number that no name has: readers, listings and verification see no channel. The arrival
 * row says how far it came, in the same write as what came. With its end the name row is written, and it is a channel
 * as any other.
 */
import { crc32 } from 'node:zlib'
import { checkBlock, type Header, walkBlock } from '../../block.ts'
import { BODIES_BYTES_MAX, FLAG } from '../../body.ts'
import { sameHistory } from '../../epoch.ts'
import { TidemarkError } from '../../errors.ts'
import { APPEND_EVENTS_MAX, BLOCK_BYTES_MAX } from '../../event.ts'
import { damaged } from '../../walk.ts'
import type { ArrivalPiece, Arrived } from '../arrival.ts'
import { CHANGE_BYTES } from '../entries.ts'
import type { Group } from './group.ts'
import { type ArrivalRow, blockKey, encodeLoss, epochOf, lossKey, movedLife } from './keys.ts'
import { newLife } from './store.ts'

/** A block that is whole, and the times of its events. */
interface Checked {
  readonly block: Uint8Array
  readonly header: Header
  /** Of its first event, and of its last one; of a block without events neither tells anything. */
  readonly oldest: number
  readonly newest: number
}

export class Arriving {
  /** What it adds to the log, as the writer counts it; 0 for a piece that holds nothing. */
  readonly bytes: number
  readonly #channel: string
  readonly #piece: ArrivalPiece
  readonly #blocks: readonly Checked[]

  /** @throws data-loss, bad-request, too-large */
  constructor(channel: string, piece: ArrivalPiece) {
    const { blocks = [], cursors = [], trimmed, head } = piece
    let bytes = 0
    for (const block of blocks) bytes += block.length
    if (bytes > BODIES_BYTES_MAX)
      throw new TidemarkError('too-large', `A piece holds at most ${BODIES_BYTES_MAX} bytes of blocks`, {
        limit: BODIES_BYTES_MAX,
      })
    if (trimmed > head) refuse(channel, `${trimmed} is beyond its head ${head}`)
    this.#channel = channel
    this.#piece = piece
    this.#blocks = blocks.map((block) => checked(channel, block))
    this.bytes = bytes + cursors.length * CHANGE_BYTES
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
      const { epoch, head, trimmed } = there
      const came = known?.isWhole && sameHistory(known.from, from) ? known.upTo : undefined
      const holds = sameHistory(epoch, from) ? head : came
      if (holds === undefined || upTo > holds) {
        const why = came === undefined ? 'holds another history' : `took in this history up to ${came} before`
        throw new TidemarkError('epoch-changed', `${channel} ${why}: nothing is added to it`, {
          ...{ channel, epoch, head, trimmed, ...(came !== undefined && { came }) },
        })
      }
      return () => ({ channel, epoch, head: upTo, trimmed, isWhole: true })
    }
    const begun = this.#begin(group, arriving, life)
    const row = this.#add(begun)
    if (end && row.head !== upTo) throw outOfOrder(channel, row.head, `it ends at ${upTo}`)
    const epoch = epochOf(life, row)
    for (const { client, seq, epoch: of } of this.#piece.cursors ?? [])
      if (seq > upTo && sameHistory(of, epoch)) refuse(channel, `the cursor of ${client} is beyond its head ${upTo}`)
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
      throw outOfOrder(this.#channel, trimmed, 'it has to begin anew')
    if (known) group.dropArrival(this.#channel, known)
    const own = sameEpoch ? partsOf(this.#channel, from, life) : { life: newLife(), run: 0 }
    const fresh = { from, upTo, sameEpoch, channel: group.newNumber(), ...own }
    return { ...fresh, head: trimmed, trimmed, time: 0, isWhole: false }
  }

  /** The arrival with this piece. @throws seq-conflict, bad-request */
  #add(begun: ArrivalRow): ArrivalRow {
    const { upTo } = begun
    const trimmed = Math.max(begun.trimmed, this.#piece.trimmed)
    let head = Math.max(begun.head, trimmed)
    let { time } = begun
    for (const { header, oldest, newest } of this.#blocks) {
      if (header.last <= head) continue
      if (header.after !== head) throw outOfOrder(this.#channel, head, `a block follows ${header.after}`)
      if (header.last > upTo) refuse(this.#channel, `a block goes beyond its head ${upTo}`)
      if (oldest < time) refuse(this.#channel, `time falls in the block that follows ${head}`)
      head = header.last
      time = Math.max(time, newest)
    }
    const { lostUpTo = 0 } = this.#piece
    if (lostUpTo > upTo) refuse(this.#channel, `what is lost goes beyond its head ${upTo}`)
    head = Math.max(head, lostUpTo)
    return { ...begun, head, trimmed, time, isWhole: this.#piece.end !== undefined }
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

const refuse = (channel: string, why: string): never => {
  throw new TidemarkError('bad-request', `What comes for ${channel} is not right: ${why}`, { channel })
}

const outOfOrder = (channel: string, head: number, but: string): TidemarkError =>
  new TidemarkError('seq-conflict', `What came of ${channel} goes up to ${head}, but ${but}`, { channel, head })

/** Life and run of a channel that keeps its epoch. */
function partsOf(channel: string, epoch: string, here: string): Pick<ArrivalRow, 'life' | 'run'> {
  const [, there, life, run = '0'] =
    EPOCH.exec(epoch) ?? refuse(channel, `its epoch ${epoch} can not be kept by this log`)
  return { life: movedLife(life!, there!, here), run: Number(run) }
}
const EPOCH = /^([A-Za-z0-9]{1,14})\.([A-Za-z0-9]{1,14})(?:~(\d{1,9}))?$/

/** A block as it may be kept: what its bytes say of each other is so. @throws data-loss, too-large */
function checked(channel: string, block: Uint8Array): Checked {
  const header = checkBlock(channel, block, crc32)
  const { after, last, count, flags, length } = header
  if (count > APPEND_EVENTS_MAX || length > BLOCK_BYTES_MAX)
    throw new TidemarkError('too-large', `A block holds at most ${APPEND_EVENTS_MAX} events, ${BLOCK_BYTES_MAX} bytes`)
  let [oldest, newest, told] = [Number.POSITIVE_INFINITY, 0, 0]
  walkBlock(block, after, last, (_, at, { key, to }) => {
    if (at < newest) damaged('time falls in it')
    oldest = Math.min(oldest, at)
    newest = at
    told |= (key < 0 ? 0 : FLAG.keyed) | (to === null ? 0 : FLAG.addressed)
    return true
  })
  // Who may see it is judged by its flags.
  if ((flags & told) !== told) damaged('its flags do not tell what its events are')
  return { block, header, oldest, newest }
}
