/**
 * A history that was kept elsewhere, on its way into a log. It comes piece by piece, in order, with its seqs and times;
 * until its end came nobody else sees any of it, and its name is not taken by anybody else. What came stays over
 * restarts: whoever brings it asks how far it came, and goes on from there.
 */
import { crc32 } from 'node:zlib'
import { checkBlock, type Header, spansOf } from '../block.ts'
import { BODIES_BYTES_MAX } from '../body.ts'
import { sameHistory } from '../epoch.ts'
import { hasCode, TidemarkError } from '../errors.ts'
import { APPEND_EVENTS_MAX, BLOCK_BYTES_MAX } from '../event.ts'
import { damaged } from '../walk.ts'
import { CHANGE_BYTES } from './entries.ts'
import type { Cursor, Settings } from './log.ts'

/** When to ask again for a name under which a history arrives, ms. */
const ARRIVING_RETRY_MS = 5_000

export interface ArrivalPiece {
  /** Epoch of the history where it comes from, with its run. Another one begins another arrival. */
  readonly from: string
  /** How far it goes there; it may grow meanwhile. */
  readonly head: number
  /** What was trimmed there: it begins behind that, and of what came before, that goes. */
  readonly trimmed: number
  /**
   * Its epoch here is the one that it has there. Only for a history that ends there: else two would go on under one
   * epoch, and a reader of both would not be told. Default: a new one.
   */
  readonly sameEpoch?: boolean
  /** Whole blocks that chain from how far it came. Those that came already are passed over. */
  readonly blocks?: readonly Uint8Array[]
  /** The events behind how far it came, up to this one, are lost there: reading them is `data-loss` here, too. */
  readonly lostUpTo?: number
  /** With the epochs that they are to have here. */
  readonly cursors?: readonly Omit<Cursor, 'channel'>[]
  /** All of it came: the channel is there, with this. @param time of its newest event, ms */
  readonly end?: { readonly settings: Settings; readonly time: number }
  /** It does not come after all: what came so far goes. A channel that is there stays. */
  readonly drop?: true
}

export interface Arrived {
  readonly channel: string
  /** The epoch that it has here. */
  readonly epoch: string
  /** How far it came. */
  readonly head: number
  readonly trimmed: number
  /** The channel is there, and holds all of it. */
  readonly isWhole: boolean
}

/** A block that is whole, and the times of its events. */
export interface CheckedBlock {
  readonly block: Uint8Array
  readonly header: Header
  /** Of its first event, and of its last one; of a block without events neither tells anything. */
  readonly oldest: number
  readonly newest: number
}

/** The blocks of a piece, and what it adds to a log as writes are counted. @throws bad-request, too-large */
export function checkPiece(
  channel: string,
  { blocks = [], cursors = [], trimmed, head }: ArrivalPiece,
): { readonly blocks: readonly CheckedBlock[]; readonly bytes: number } {
  let bytes = 0
  for (const block of blocks) bytes += block.length
  if (bytes > BODIES_BYTES_MAX)
    throw new TidemarkError('too-large', `A piece holds at most ${BODIES_BYTES_MAX} bytes of blocks`, {
      limit: BODIES_BYTES_MAX,
    })
  if (trimmed > head) refuseArrival(channel, `${trimmed} is beyond its head ${head}`)
  return {
    blocks: readArrival(channel, () => blocks.map((block) => checked(channel, block))),
    bytes: bytes + cursors.length * CHANGE_BYTES,
  }
}

/** How far a history came. */
export interface Progress {
  readonly head: number
  readonly trimmed: number
  readonly time: number
}

/** How far it came with this piece. @throws seq-conflict, bad-request */
export function progressWith(
  channel: string,
  begun: Progress,
  { head: upTo, trimmed: trimmedThere, lostUpTo = 0, end }: ArrivalPiece,
  blocks: readonly CheckedBlock[],
): Progress {
  const trimmed = Math.max(begun.trimmed, trimmedThere)
  let head = Math.max(begun.head, trimmed)
  let { time } = begun
  for (const { header, oldest, newest } of blocks) {
    if (header.last <= head) continue
    if (header.after !== head) throw arrivalOutOfOrder(channel, head, `a block follows ${header.after}`)
    if (header.last > upTo) refuseArrival(channel, `a block goes beyond its head ${upTo}`)
    if (oldest < time) refuseArrival(channel, `time falls in the block that follows ${head}`)
    head = header.last
    time = Math.max(time, newest)
  }
  if (lostUpTo > upTo) refuseArrival(channel, `what is lost goes beyond its head ${upTo}`)
  head = Math.max(head, lostUpTo)
  if (end && head !== upTo) throw arrivalOutOfOrder(channel, head, `it ends at ${upTo}`)
  return { head, trimmed, time }
}

/** Reads what somebody brings: what is no block there is a mistake of theirs, and no damage of the log. @throws bad-request */
export function readArrival<T>(channel: string, read: () => T): T {
  try {
    return read()
  } catch (error) {
    if (!hasCode(error, 'data-loss')) throw error
    return refuseArrival(channel, (error as Error).message)
  }
}

export const refuseArrival = (channel: string, why: string): never => {
  throw new TidemarkError('bad-request', `What comes for ${channel} is not right: ${why}`, { channel })
}

export const arrivalOutOfOrder = (channel: string, head: number, but: string): TidemarkError =>
  new TidemarkError('seq-conflict', `What came of ${channel} goes up to ${head}, but ${but}`, { channel, head })

/** Seqs of an epoch are never used twice: what went on here under it, and is gone, may have been seen further than this goes. */
export const epochIsOver = (channel: string, epoch: string): TidemarkError =>
  new TidemarkError(
    'epoch-changed',
    `The epoch ${epoch} of ${channel} is over here: events of it may have been seen that do not come. Take it in under a new epoch`,
    { channel },
  )

/** What is told to who would write to a name under which a history arrives. */
export const nameArrives = (channel: string): TidemarkError =>
  new TidemarkError('unavailable', `${channel} is being imported: try again when all of it came`, {
    ...{ channel, retryAfter: ARRIVING_RETRY_MS },
  })

/**
 * Nothing, when a channel holds this history already.
 * @param came how far it went when it was taken in before @throws epoch-changed
 */
export function needHeld(
  channel: string,
  { epoch, head, trimmed }: { readonly epoch: string; readonly head: number; readonly trimmed: number },
  came: number | undefined,
  { from, head: upTo }: ArrivalPiece,
): void {
  const holds = sameHistory(epoch, from) ? head : came
  if (holds !== undefined && upTo <= holds) return
  const why = came === undefined ? 'holds another history' : `took in this history up to ${came} before`
  throw new TidemarkError('epoch-changed', `${channel} ${why}: nothing is added to it`, {
    ...{ channel, epoch, head, trimmed, ...(came !== undefined && { came }) },
  })
}

/** The parts of an epoch that a log can keep: `there.life~run`. @throws bad-request */
export function partsOfEpoch(channel: string, epoch: string): { there: string; life: string; run: number } {
  const [, there, life, run = '0'] =
    EPOCH.exec(epoch) ?? refuseArrival(channel, `its epoch ${epoch} can not be kept by this log`)
  return { there: there!, life: life!, run: Number(run) }
}
const EPOCH = /^([A-Za-z0-9]{1,14})\.([A-Za-z0-9]{1,14})(?:~(\d{1,9}))?$/

/** A block as it may be kept: what its bytes say of each other is so. @throws data-loss, too-large */
function checked(channel: string, block: Uint8Array): CheckedBlock {
  const header = checkBlock(channel, block, crc32)
  const { count, flags, length } = header
  if (count > APPEND_EVENTS_MAX || length > BLOCK_BYTES_MAX)
    throw new TidemarkError('too-large', `A block holds at most ${APPEND_EVENTS_MAX} events, ${BLOCK_BYTES_MAX} bytes`)
  let [oldest, newest, told] = [Number.POSITIVE_INFINITY, 0, 0]
  for (const { time, flags: its } of spansOf(block)) {
    if (time < newest) damaged('time falls in it')
    oldest = Math.min(oldest, time)
    newest = time
    told |= its
  }
  // Who may see it is judged by its flags.
  if ((flags & told) !== told) damaged('its flags do not tell what its events are')
  return { block, header, oldest, newest }
}
