/**
 * A piece of a history from elsewhere, in the lane of its channel. Its blocks are messages as any other, each with how
 * far it came in its header; until its end came the channel is seen by nobody. So a piece that was stored in part goes
 * on where it came to.
 */
import { randomBytes } from 'node:crypto'
import { sameHistory } from '../../epoch.ts'
import type { TidemarkError } from '../../errors.ts'
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
import { CHANGE_BYTES } from '../entries.ts'
import type { Means } from './appending.ts'
import type { Cursors } from './cursors.ts'
import type { Janitor } from './janitor.ts'
import type { Done, Job } from './lanes.ts'
import { type ChannelRecord, epochOf, isArriving, type Known } from './record.ts'
import { ASK_LEADER, type Plan } from './writer.ts'

interface ArrivingMeans extends Means {
  readonly cursors: Cursors
  readonly janitor: Janitor
}

interface Told {
  readonly resolve: (arrived: Arrived) => void
  readonly reject: (error: unknown) => void
}

export class Arriving implements Job {
  readonly names: readonly string[]
  readonly bytes: number
  readonly #means: ArrivingMeans
  readonly #name: string
  readonly #piece: ArrivalPiece
  readonly #blocks: readonly CheckedBlock[]
  readonly #told: Told

  /** @throws bad-request, too-large */
  constructor(means: ArrivingMeans, name: string, piece: ArrivalPiece, told: Told) {
    const { blocks, bytes } = checkPiece(name, piece)
    this.names = [name]
    this.bytes = bytes + CHANGE_BYTES
    this.#means = means
    this.#name = name
    this.#piece = piece
    this.#blocks = blocks
    this.#told = told
  }

  async run(): Promise<Done> {
    const arrived = this.#piece.drop ? await this.#drop() : await this.#take()
    return { jobs: 1, tell: () => this.#told.resolve(arrived) }
  }

  reject(error: unknown): void {
    this.#told.reject(error)
  }

  async #drop(): Promise<Arrived> {
    const name = this.#name
    let ended: ChannelRecord | undefined
    await this.#write(({ record }) => {
      ended = isArriving(record) ? record : undefined
      return ended && { record: ended, gone: true }
    })
    const mark = this.#means.channels.known(name)
    if (ended && mark && !mark.record) this.#means.janitor.deleted(name, ended.life, mark.seq)
    return { channel: name, epoch: this.#piece.from, head: 0, trimmed: 0, isWhole: false }
  }

  async #take(): Promise<Arrived> {
    const name = this.#name
    const known = await this.#means.channels.freshKnown(name)
    const { record: there } = known
    if (there && !isArriving(there)) return this.#isThere(there)
    const { record: begun, isNew } = this.#begin(known)
    const progress = progressWith(name, begun, this.#piece, this.#blocks)
    const epoch = epochOf(this.#means.link.facts.life, begun)
    const { cursors = [], end, head: upTo, lostUpTo = 0 } = this.#piece
    for (const { client, seq, epoch: of } of cursors)
      if (seq > upTo && sameHistory(of, epoch))
        refuseArrival(name, `the cursor of ${client} is beyond its head ${upTo}`)
    // From here on nothing is refused.
    let at = begun
    if (isNew) {
      await this.#go(there, at)
      const now = this.#means.channels.known(name)
      if (there && now) this.#means.janitor.begunAnew(name, there.life, now.seq)
    }
    for (const { block, header, newest } of this.#blocks) {
      if (header.last <= Math.max(at.head, progress.trimmed)) continue
      const next = { ...at, head: header.last, time: Math.max(at.time, newest) }
      await this.#go(at, next, block)
      at = next
    }
    for (const { client, ...row } of cursors) await this.#means.cursors.place(client, { name, life: at.life }, row)
    const lost =
      at.head < lostUpTo ? [...(at.lost ?? []), [Math.max(at.head, progress.trimmed), lostUpTo] as const] : at.lost
    const last: ChannelRecord = {
      ...at,
      ...progress,
      ...(lost && { lost }),
      came: { ...at.came!, upTo, isWhole: end !== undefined },
      ...(end && { settings: end.settings, time: Math.max(progress.time, end.time) }),
      // Which tombstones are gone is not known here: a reader of an older run takes its state anew.
      ...(end && epoch.includes('~') && { cleaned: progress.head }),
    }
    if (JSON.stringify(last) !== JSON.stringify(at)) await this.#go(at, last)
    if (last.trimmed > begun.trimmed) this.#means.janitor.trimmed(name)
    return { channel: name, epoch, head: last.head, trimmed: last.trimmed, isWhole: end !== undefined }
  }

  /** A channel that holds this history already is left as it is. @throws epoch-changed when it holds another one */
  #isThere(there: ChannelRecord): Arrived {
    const { from, head: upTo } = this.#piece
    const { came, head, trimmed } = there
    const epoch = epochOf(this.#means.link.facts.life, there)
    needHeld(
      this.#name,
      { epoch, head, trimmed },
      came && sameHistory(came.from, from) ? came.upTo : undefined,
      this.#piece,
    )
    return { channel: this.#name, epoch, head: upTo, trimmed, isWhole: true }
  }

  /** The arrival that this piece is of: the one that is known, or, where none of it is in the piece, a new one. */
  #begin({ seq, record: known }: Known): { readonly record: ChannelRecord; readonly isNew: boolean } {
    const { from, head: upTo, trimmed, sameEpoch = false, blocks, lostUpTo, cursors, end } = this.#piece
    const { came } = known ?? {}
    // Not on from what was taken later: compaction has taken out of it what a newer event stands for, which will not come.
    if (known && came?.from === from && came.sameEpoch === sameEpoch && came.upTo <= upTo)
      return { record: known, isNew: false }
    if (blocks || lostUpTo !== undefined || cursors || end)
      throw arrivalOutOfOrder(this.#name, trimmed, 'it has to begin anew')
    // It was made here, and is here no more.
    if (sameEpoch && partsOfEpoch(this.#name, from).there === this.#means.link.facts.life)
      throw epochIsOver(this.#name, from)
    const record: ChannelRecord = {
      ...{ life: randomBytes(5).toString('hex'), base: seq, head: trimmed, trimmed, time: 0, settings: {} },
      ...(sameEpoch && { epoch: from }),
      came: { from, upTo, sameEpoch, isWhole: false },
    }
    return { record, isNew: true }
  }

  /** One step, from what was stored before. @throws seq-conflict when another gateway stored something else meanwhile */
  async #go(before: ChannelRecord | undefined, next: ChannelRecord, block?: Uint8Array): Promise<void> {
    await this.#write(({ record }) => {
      const isSame = record?.life === before?.life && record?.head === before?.head
      const refused: TidemarkError = arrivalOutOfOrder(this.#name, record?.head ?? 0, 'somebody else brings it, too')
      return isSame ? { record: next, ...(block && { block }) } : { refused }
    })
  }

  async #write(plan: (known: Known) => Plan | { refused: TidemarkError } | undefined): Promise<void> {
    await this.#means.writer.write(this.#name, (known, isFresh) => {
      const planned = plan(known)
      return (planned === undefined || 'refused' in planned) && !isFresh ? ASK_LEADER : planned
    })
  }
}
