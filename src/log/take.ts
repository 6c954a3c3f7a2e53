/** Histories taken, and compared with what was given. */
import { crc32 } from 'node:zlib'
import { readHeader, sliceBlock } from '../block.ts'
import { TidemarkError } from '../errors.ts'
import type { ArrivalPiece, Arrived } from './arrival.ts'
import { type CursorOf, isSame, type Piece, type Sum, Summing } from './carry.ts'
import { sumOf } from './give.ts'
import type { ChannelInfo, Log } from './log.ts'

/** What takes them, and is read again to see that it holds them. */
export type Taker = Pick<Log, 'read' | 'cursors'> & { readonly arrive: NonNullable<Log['arrive']> }

export interface TakeOptions {
  /** Epochs are those that the histories have where they come from: for histories that end there. */
  readonly sameEpoch?: boolean
  /** Cursors keep the epochs that they have there, so that their clients are told of the new one, and start over. */
  readonly oldCursors?: boolean
  /** A channel that came earlier, and has grown since where it comes from, is left as it came. */
  readonly older?: boolean
  /** Nobody else changes the taker: its cursors are looked at again, too. */
  readonly isAlone?: boolean
  /** A channel of at most so many bytes is taken beside others, so that they share writes. Default 256 KiB. */
  readonly smallBytes?: number
  readonly signal?: AbortSignal
}

/** What was taken. */
export interface Taken {
  channels: number
  /** Channels of those that were there already. */
  present: number
  events: number
  cursors: number
  lost: number
  lostCursors: number
}

const SMALL_BYTES = 256 * 1024
/** So many small channels, and bytes of them, are taken at once. */
const BESIDE = 64
const BESIDE_BYTES = 4 * 1024 * 1024
/** What a piece weighs beside its blocks, about; a cursor. */
const PIECE_WEIGHT = 100

/**
 * Takes what is given, going on where an earlier run came to. Each channel is read again when all of it is there, and
 * compared with what was given.
 * @throws as Log.arrive; data-loss when what came is not what was given
 */
export async function take(pieces: AsyncIterable<Piece>, log: Taker, options: TakeOptions = {}): Promise<Taken> {
  const { smallBytes: largest = SMALL_BYTES } = options
  const taken: Taken = { channels: 0, present: 0, events: 0, cursors: 0, lost: 0, lostCursors: 0 }
  /** Whole channels, for as long as they are few and small. */
  let small: (readonly Piece[])[] = []
  let smallBytes = 0
  const takeSmall = async (): Promise<void> => {
    const all = small.map(async (channel) => {
      let taking: Taking | undefined
      for (const piece of channel) taking = await takePiece(piece, taking)
    })
    small = []
    smallBytes = 0
    const outcomes = await Promise.allSettled(all)
    for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason
  }
  /** The channel that it is of, unless that is at its end. */
  const takePiece = async (piece: Piece, of: Taking | undefined): Promise<Taking | undefined> => {
    options.signal?.throwIfAborted()
    const taking = piece.is === 'channel' ? new Taking(log, piece, options) : of!
    if (piece.is === 'channel') await taking.begin()
    else if (piece.is === 'void') await taking.drop()
    else if (piece.is === 'end') {
      if (!(await taking.end(piece.sum))) taken.present++
      taken.channels++
      taken.events += piece.sum.events
      taken.cursors += piece.sum.cursors
      taken.lost += piece.sum.lost
      taken.lostCursors += piece.sum.lostCursors
    } else await taking.add(piece)
    return isLast(piece) ? undefined : taking
  }
  /** What came of a channel before it is known to be large. */
  let begun: Piece[] | undefined
  let bytes = 0
  let large: Taking | undefined
  for await (const piece of pieces) {
    options.signal?.throwIfAborted()
    if ((begun || large) !== undefined && piece.is === 'channel') throw wrong('A channel has no end')
    if (large) {
      large = await takePiece(piece, large)
      continue
    }
    if (piece.is === 'channel') {
      begun = []
      bytes = 0
    }
    if (!begun) throw wrong('A piece belongs to no channel')
    begun.push(piece)
    bytes += weightOf(piece)
    if (isLast(piece)) {
      small.push(begun)
      smallBytes += bytes
      begun = undefined
      // What is void may come anew.
      if (piece.is === 'void' || small.length >= BESIDE || smallBytes >= BESIDE_BYTES) await takeSmall()
    } else if (bytes > largest) {
      await takeSmall()
      for (const each of begun) large = await takePiece(each, large)
      begun = undefined
    }
  }
  if (begun || large) throw wrong('The last channel has no end')
  await takeSmall()
  return taken
}

const isLast = ({ is }: Piece): boolean => is === 'end' || is === 'void'

function weightOf(piece: Piece): number {
  if (piece.is === 'blocks') return piece.blocks.reduce((sum, { length }) => sum + length, PIECE_WEIGHT)
  return PIECE_WEIGHT * (piece.is === 'cursors' ? piece.cursors.length + 1 : 1)
}

const wrong = (why: string): TidemarkError => new TidemarkError('data-loss', why)

/** One channel on its way. */
class Taking {
  readonly #log: Taker
  #info: ChannelInfo
  readonly #options: TakeOptions
  readonly #summing = new Summing()
  #arrived: Arrived | undefined
  #trimmed: number
  #position: number

  constructor(log: Taker, info: ChannelInfo, options: TakeOptions) {
    this.#log = log
    this.#info = info
    this.#options = options
    this.#trimmed = this.#position = info.trimmed
  }

  async #send(piece: Partial<ArrivalPiece>): Promise<Arrived> {
    const { channel, epoch: from, head } = this.#info
    const { sameEpoch = false } = this.#options
    this.#arrived = await this.#log.arrive(channel, { from, head, trimmed: this.#trimmed, sameEpoch, ...piece })
    return this.#arrived
  }

  async begin(): Promise<void> {
    try {
      await this.#send({})
    } catch (error) {
      const { came, epoch } = error instanceof TidemarkError ? error.details : {}
      if (!this.#options.older || typeof came !== 'number') throw error
      const { channel, trimmed } = this.#info
      this.#arrived = { channel, epoch: String(epoch), head: came, trimmed, isWhole: true }
    }
  }

  async add(piece: Exclude<Piece, { is: 'channel' | 'end' | 'void' }>): Promise<void> {
    const { channel } = this.#info
    this.#summing.add(piece)
    const arrived = this.#arrived!
    if (piece.is === 'grown') {
      const { head, time } = piece
      this.#info = { ...this.#info, head, time }
      // It may be there already, but not up to this head.
      if (!arrived.isWhole || !this.#options.older) await this.#send({})
    } else if (piece.is === 'blocks') {
      this.#position = piece.blocks.length === 0 ? this.#position : readHeader(piece.blocks.at(-1)!).last
      // What came before a stop is not sent again.
      const range = { after: arrived.head, last: this.#position }
      const blocks = piece.blocks
        .filter((block) => readHeader(block).last > arrived.head)
        .map((block) => sliceBlock(channel, block, range, crc32))
      if (blocks.length > 0 && !arrived.isWhole) await this.#send({ blocks })
    } else if (piece.is === 'trimmed') {
      this.#trimmed = this.#position = piece.upTo
      if (!arrived.isWhole) await this.#send({})
    } else if (piece.is === 'lost') {
      this.#position = piece.upTo
      if (piece.upTo > arrived.head && !arrived.isWhole) await this.#send({ lostUpTo: piece.upTo })
    } else if (piece.cursors.length > 0 && !arrived.isWhole)
      await this.#send({ cursors: piece.cursors.map((cursor) => this.#moved(cursor)) })
  }

  /** A cursor as it is to be: of the epoch that its history has here, unless it is to be told of the new one. */
  #moved(cursor: CursorOf): CursorOf {
    // One of an older run may have missed tombstones that are gone: it is told, wherever it is.
    const isOfThis = cursor.epoch === this.#info.epoch
    return this.#options.oldCursors || !isOfThis ? cursor : { ...cursor, epoch: this.#arrived!.epoch }
  }

  /** False when it was there already. */
  async end(given: Sum): Promise<boolean> {
    const { channel, head, settings, time } = this.#info
    const sum = this.#summing.sum()
    if (!isSame(sum, given) || sum.lostCursors !== given.lostCursors)
      throw wrong(`What came of ${channel} is not what was given`)
    if (this.#arrived!.isWhole) return false
    if (this.#position !== head) throw wrong(`${channel} ends at ${this.#position}, not at its head ${head}`)
    const { epoch } = await this.#send({ end: { settings, time } })
    const found = await sumOf(this.#log, { ...this.#info, epoch, trimmed: this.#trimmed })
    if (found && !isSame(found, given, this.#options.isAlone === true))
      throw wrong(`${channel} does not hold what was given: verify it, and compare`)
    return true
  }

  async drop(): Promise<void> {
    if (!this.#arrived!.isWhole) await this.#send({ drop: true })
  }
}
