/**
 * Histories given. Each channel is given as it was at one moment of its own: everything up to the head that it had then,
 * with the cursors that it had a little later, none beyond that head. Appends, trims, compactions and commits go on
 * meanwhile. That moment is when its turn came; of a channel with holes it is when its last block was read: what
 * compaction takes out meanwhile has a newer event of its key, which may lie behind the head of before.
 */
import { crc32 } from 'node:zlib'
import { readHeader, sliceBlock } from '../block.ts'
import { sameHistory } from '../epoch.ts'
import { hasCode, TidemarkError } from '../errors.ts'
import { type CursorOf, type Piece, type Sum, Summing } from './carry.ts'
import { infoOrNone } from './follow.ts'
import type { ChannelInfo, Log, ReadLimits } from './log.ts'

/** What gives histories. */
export type Giver = Pick<Log, 'channels' | 'info' | 'read' | 'cursors'>
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
  /** Told the name of each channel that can not be given, because its rows are damaged. */
  readonly onDamaged?: (channel: string) => void
  readonly signal?: AbortSignal
}

/** All channels, each with its settings, events and cursors. @throws as Log.read, where it is no loss of events */
export async function* give(log: Giver, { wanted, onDamaged, signal }: GiveOptions = {}): AsyncGenerator<Piece> {
  const tell = (channel: string): void => {
    if (wanted?.(channel) !== false) onDamaged?.(channel)
  }
  for await (const info of log.channels('', undefined, tell)) {
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
      // Read from the start, a younger run of it is no error. Its tombstones are gone already: a cursor of the run that
      // was told has missed them, and must not look as one that has not.
      if (page.epoch !== epoch && after === 0)
        throw new TidemarkError('epoch-changed', `The epoch of ${channel} is ${page.epoch}, not ${epoch}`, { channel })
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
  const damaged: string[] = []
  const piece = (): Piece => {
    const [told, clients] = [cursors, damaged.splice(0, PIECE_CURSORS)]
    cursors = []
    return { is: 'cursors', cursors: told, ...(clients.length > 0 && { damaged: clients }) }
  }
  for await (const { client, epoch: of, seq, time } of log.cursors({ channel }, (name) => damaged.push(name.client))) {
    // One that moved on meanwhile has handled all that is given.
    cursors.push({ client, epoch: of, seq: sameHistory(of, epoch) ? Math.min(seq, head) : seq, time })
    if (cursors.length >= PIECE_CURSORS) yield piece()
  }
  while (cursors.length > 0 || damaged.length > 0) yield piece()
}

/** What a channel holds up to a head that it had; undefined when it was trimmed or deleted meanwhile. */
export async function sumOf(log: Pick<Log, 'read' | 'cursors'>, info: ChannelInfo): Promise<Sum | undefined> {
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
