/**
 * Histories carried from one log to another, at once or by way of a file: what one gives is a run of pieces, what the
 * other takes is the same run. Functions over the port: an embedded log and a server that is asked over HTTP give and
 * take alike.
 *
 * Each channel is given as it was at one moment of its own: everything up to the head that it had then, with the cursors
 * that it had a little later, none beyond that head. Appends, trims, compactions and commits go on meanwhile. That moment
 * is when its turn came; of a channel with holes it is when its last block was read: what compaction takes out meanwhile
 * has a newer event of its key, which may lie behind the head of before.
 */
import { createHash } from 'node:crypto'
import { crc32 } from 'node:zlib'
import { readHeader, sliceBlock, spansOf } from '../block.ts'
import { FLAG } from '../body.ts'
import { putU64 } from '../bytes.ts'
import { sameHistory } from '../epoch.ts'
import { hasCode, TidemarkError } from '../errors.ts'
import type { ArrivalPiece, Arrived } from './arrival.ts'
import { infoOrNone } from './follow.ts'
import type { ChannelInfo, Cursor, Log, ReadLimits } from './log.ts'

/** What was carried of a channel; two that are equal hold the same events. */
export interface Sum {
  readonly events: number
  /** Of the events as blocks keep them. */
  readonly bytes: number
  readonly cursors: number
  /** Events that are known to be lost where they come from. */
  readonly lost: number
  /** SHA-256 over seq, time and bytes of every event, and over what is lost; hex. */
  readonly digest: string
  /** SHA-256 over client, seq and time of every cursor; hex. */
  readonly cursorsDigest: string
}

export type Piece =
  /** What follows is of this channel, up to its `end` or `void`. */
  | ({ readonly is: 'channel' } & ChannelInfo)
  /** Blocks that chain exactly, from `trimmed` on. */
  | { readonly is: 'blocks'; readonly blocks: readonly Uint8Array[] }
  /** The channel goes on to this head. */
  | { readonly is: 'grown'; readonly head: number; readonly time: number }
  /** All that was told up to here was trimmed there meanwhile, and more: it goes on behind this seq. */
  | { readonly is: 'trimmed'; readonly upTo: number }
  | { readonly is: 'lost'; readonly after: number; readonly upTo: number }
  | { readonly is: 'cursors'; readonly cursors: readonly CursorOf[] }
  | { readonly is: 'end'; readonly sum: Sum }
  /** The channel was deleted there, or is begun anew: what was told of it counts for nothing. */
  | { readonly is: 'void' }

/** A cursor beside its channel. */
export type CursorOf = Omit<Cursor, 'channel'>

/** What gives histories. */
export type Giver = Pick<Log, 'channels' | 'info' | 'read' | 'cursors'>
/** What takes them, and is read again to see that it holds them. */
export type Taker = Pick<Log, 'read' | 'cursors'> & { readonly arrive: NonNullable<Log['arrive']> }

/** Of one piece of blocks, about; never less than one block. */
const PIECE: ReadLimits = { events: 10_000, bytes: 1024 * 1024 }
const PIECE_CURSORS = 1_000

/** A channel that was given in part before. */
export interface Begun {
  /** As it was when it began. */
  readonly info: ChannelInfo
  /** How far it came, and the sum of that. */
  readonly after: number
  readonly summing: Summing
}

export interface GiveOptions {
  /** Whether a channel is given; all are where nobody says. */
  readonly wanted?: (channel: string) => boolean
  readonly signal?: AbortSignal
}

/** All channels, each with its settings, events and cursors. @throws as Log.read, where it is no loss of events */
export async function* give(log: Giver, { wanted, signal }: GiveOptions = {}): AsyncGenerator<Piece> {
  for await (const info of log.channels('')) {
    signal?.throwIfAborted()
    if (wanted?.(info.channel) !== false) yield* giveChannel(log, info, signal)
  }
}

/** One channel, or what is left of it. @throws as give */
export async function* giveChannel(
  log: Giver,
  given: ChannelInfo | Begun,
  signal: AbortSignal | undefined,
): AsyncGenerator<Piece> {
  let [info, from] = 'info' in given ? [given.info, given] : [given, undefined]
  for (; ; from = undefined)
    try {
      if (!from) yield { is: 'channel', ...info }
      const summing = from?.summing ?? new Summing()
      for (let after = from?.after ?? info.trimmed; ; ) {
        for await (const piece of giveEvents(log, info, after)) {
          signal?.throwIfAborted()
          summing.add(piece)
          yield piece
        }
        after = info.head
        const now = summing.hasHoles ? await log.info(info.channel) : info
        if (now.head <= after) break
        info = { ...info, head: now.head, time: now.time }
        yield { is: 'grown', head: info.head, time: info.time }
      }
      yield* summed(summing, giveCursors(log, info))
      yield { is: 'end', sum: summing.sum() }
      return
    } catch (error) {
      // Another history by now, or of this one tombstones are gone: it begins anew.
      if (!hasCode(error, 'no-channel') && !hasCode(error, 'epoch-changed')) throw error
      yield { is: 'void' }
      const now = await infoOrNone(log, info.channel)
      if (!now) return
      info = now
    }
}

async function* summed(summing: Summing, pieces: AsyncIterable<Piece>): AsyncGenerator<Piece> {
  for await (const piece of pieces) {
    summing.add(piece)
    yield piece
  }
}

async function* giveEvents(
  log: Pick<Log, 'read'>,
  { channel, epoch, head }: ChannelInfo,
  start: number,
): AsyncGenerator<Extract<Piece, { is: 'blocks' | 'trimmed' | 'lost' }>> {
  for (let after = start; after < head; )
    try {
      const page = await log.read(channel, { epoch, after }, PIECE)
      const range = { after, last: Math.min(page.last, head) }
      const blocks = page.blocks
        .filter((block) => readHeader(block).after < range.last)
        .map((block) => sliceBlock(channel, block, range, crc32))
      yield { is: 'blocks', blocks }
      after = range.last
    } catch (error) {
      const { trimmed, upTo } = error instanceof TidemarkError ? error.details : {}
      if (hasCode(error, 'gap') && typeof trimmed === 'number') {
        after = Math.min(trimmed, head)
        yield { is: 'trimmed', upTo: after }
      } else if (hasCode(error, 'data-loss') && typeof upTo === 'number' && upTo > after) {
        const end = Math.min(upTo, head)
        yield { is: 'lost', after, upTo: end }
        after = end
      } else throw error
    }
}

async function* giveCursors(log: Pick<Log, 'cursors'>, { channel, epoch, head }: ChannelInfo): AsyncGenerator<Piece> {
  let cursors: CursorOf[] = []
  for await (const { client, epoch: of, seq, time } of log.cursors({ channel })) {
    // One that moved on meanwhile has handled all that is given.
    cursors.push({ client, epoch: of, seq: sameHistory(of, epoch) ? Math.min(seq, head) : seq, time })
    if (cursors.length < PIECE_CURSORS) continue
    yield { is: 'cursors', cursors }
    cursors = []
  }
  if (cursors.length > 0) yield { is: 'cursors', cursors }
}

/** The sum of a channel while it is carried. */
export class Summing {
  #events = 0
  #bytes = 0
  #cursors = 0
  #lost = 0
  /** Compaction took something out of what was carried. */
  hasHoles = false
  #hash = createHash('sha256')
  #cursorsHash = createHash('sha256')

  add(piece: Piece): void {
    if (piece.is === 'blocks') for (const block of piece.blocks) this.#block(block)
    if (piece.is === 'cursors') for (const cursor of piece.cursors) this.#cursor(cursor)
    if (piece.is === 'lost') {
      this.#lost += piece.upTo - piece.after
      this.#hash.update(`lost ${piece.after} ${piece.upTo}`)
    }
    if (piece.is === 'trimmed') {
      this.#events = this.#bytes = this.#lost = 0
      this.#hash = createHash('sha256')
    }
  }

  #block(block: Uint8Array): void {
    if (readHeader(block).flags & FLAG.holes) this.hasHoles = true
    const place = new Uint8Array(16)
    for (const { seq, time, bytes } of spansOf(block)) {
      putU64(place, 0, seq)
      putU64(place, 8, time)
      this.#hash.update(place).update(bytes)
      this.#events++
      this.#bytes += bytes.length
    }
  }

  #cursor({ client, seq, time }: CursorOf): void {
    this.#cursors++
    this.#cursorsHash.update(`${client} ${seq} ${time}\n`)
  }

  /** As if no cursor had come. */
  forgetCursors(): void {
    this.#cursors = 0
    this.#cursorsHash = createHash('sha256')
  }

  sum(): Sum {
    return {
      ...{ events: this.#events, bytes: this.#bytes, cursors: this.#cursors, lost: this.#lost },
      digest: this.#hash.copy().digest('hex'),
      cursorsDigest: this.#cursorsHash.copy().digest('hex'),
    }
  }
}

export interface TakeOptions {
  /** Epochs are those that the histories have where they come from: for histories that end there. */
  readonly sameEpoch?: boolean
  /** Cursors keep the epochs that they have there, so that their clients are told of the new one, and start over. */
  readonly oldCursors?: boolean
  /** A channel that came earlier, and has grown since where it comes from, is left as it came. */
  readonly older?: boolean
  /** Nobody else changes the taker: its cursors are looked at again, too. */
  readonly isAlone?: boolean
  readonly signal?: AbortSignal
  /** Told after each piece: seqs that were taken of this channel so far. */
  readonly onProgress?: (channel: string, seqs: number) => void
}

/** What was taken. */
export interface Taken {
  channels: number
  /** Channels of those that were there already. */
  present: number
  events: number
  cursors: number
  lost: number
}

/**
 * Takes what is given, going on where an earlier run came to. Each channel is read again when all of it is there, and
 * compared with what was given.
 * @throws as Log.arrive; data-loss when what came is not what was given
 */
export async function take(pieces: AsyncIterable<Piece>, log: Taker, options: TakeOptions = {}): Promise<Taken> {
  const taken: Taken = { channels: 0, present: 0, events: 0, cursors: 0, lost: 0 }
  let taking: Taking | undefined
  for await (const piece of pieces) {
    options.signal?.throwIfAborted()
    if (piece.is === 'channel') {
      taking = new Taking(log, piece, options)
      await taking.begin()
      continue
    }
    if (!taking) throw wrong('A piece belongs to no channel')
    if (piece.is === 'void') await taking.drop()
    else if (piece.is === 'end') {
      taken.channels++
      taken.events += piece.sum.events
      taken.cursors += piece.sum.cursors
      taken.lost += piece.sum.lost
      if (!(await taking.end(piece.sum))) taken.present++
    } else {
      await taking.add(piece)
      continue
    }
    taking = undefined
  }
  if (taking) throw wrong('The last channel has no end')
  return taken
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
    } else if (!arrived.isWhole) await this.#send({ cursors: piece.cursors.map((cursor) => this.#moved(cursor)) })
    this.#options.onProgress?.(channel, this.#position - this.#info.trimmed)
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
    if (!isSame(sum, given)) throw wrong(`What came of ${channel} is not what was given`)
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

/** Whether two channels hold the same. */
export const isSame = (one: Sum, other: Sum, withCursors = true): boolean =>
  one.digest === other.digest &&
  one.events === other.events &&
  one.lost === other.lost &&
  (!withCursors || (one.cursors === other.cursors && one.cursorsDigest === other.cursorsDigest))

/** What a channel holds up to a head that it had; undefined when it was trimmed or deleted meanwhile. */
async function sumOf(log: Pick<Log, 'read' | 'cursors'>, info: ChannelInfo): Promise<Sum | undefined> {
  const summing = new Summing()
  try {
    for await (const piece of giveEvents(log, info, info.trimmed)) {
      if (piece.is === 'trimmed') return undefined
      summing.add(piece)
    }
    for await (const piece of giveCursors(log, info)) summing.add(piece)
  } catch (error) {
    if (hasCode(error, 'no-channel') || hasCode(error, 'epoch-changed')) return undefined
    throw error
  }
  return summing.sum()
}
