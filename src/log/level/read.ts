/**
 * Pages from disk. LevelDB's own checksums are off and can't be switched on, and its iterators pass over damaged
 * blocks without a word, so every page is checked here before a byte of it leaves: the crc of each block, and that
 * neighbours touch.
 */
import { crc32 } from 'node:zlib'
import { checkBlock, type Header } from '../../block.ts'
import { TidemarkError } from '../../errors.ts'
import { Page, type ReadLimits } from '../log.ts'
import { type Channel, rangeText } from './channels.ts'
import { blockRange, lastOfBlockKey } from './keys.ts'
import type { Db } from './store.ts'

const ROWS_AT_ONCE = 256

/**
 * Blocks that continue `after`, up to the head of `channel`; the iterator sees the same moment as `channel`, because
 * it is made in the same turn of the event loop, and blocks are removed only after `trimmed` has moved past them.
 * @throws data-loss { after, upTo }: reading on from `upTo` is what accepts the loss.
 */
export async function readPage(
  db: Db,
  channel: Channel,
  epoch: string,
  after: number,
  limits: ReadLimits,
  step = ROWS_AT_ONCE,
): Promise<Page> {
  const { name, head, trimmed } = channel
  const blocks: Uint8Array[] = []
  let position = after
  let events = 0
  let bytes = 0
  let full = false
  const loss = (upTo: number, why: string): TidemarkError =>
    new TidemarkError('data-loss', `${rangeText(position, upTo)} of ${name}, damaged or missing: ${why}`, {
      ...{ channel: name, epoch, trimmed, head },
      after: position,
      upTo,
    })
  const iterator = db.iterator({ ...blockRange(channel.number, after + 1, head), highWaterMarkBytes: limits.bytes })
  try {
    while (!full && position < head) {
      const entries = await iterator.nextv(step)
      if (entries.length === 0) break
      for (const [key, block] of entries) {
        const last = lastOfBlockKey(key)
        const header = check(name, block, last)
        const chains = header && (blocks.length === 0 ? header.after <= position : header.after === position)
        if (!chains) {
          // What stands before the damage is whole; the next read begins at the damage and tells it.
          if (blocks.length > 0) return new Page({ channel: name, epoch, after, last: position, head, trimmed, blocks })
          if (header) throw loss(header.after, 'no block continues this position')
          // A key that is damaged too may stand among another channel's: the next whole block tells what is lost.
          continue
        }
        full = blocks.length > 0 && (bytes + block.length > limits.bytes || events >= limits.events)
        if (full) break
        blocks.push(block)
        events += Math.min(header.count, header.last - position)
        bytes += block.length
        position = header.last
      }
      if (events >= limits.events || bytes >= limits.bytes) full = true
    }
  } catch (error) {
    // LevelDB found damage of its own where it reads with checks: index, footer, compressed blocks.
    if ((error as { code?: string }).code !== 'LEVEL_CORRUPTION') throw error
    // Rows behind the damage come one by one; among many at once its error takes them along.
    if (blocks.length === 0 && step > 1) return await readPage(db, channel, epoch, after, limits, 1)
  } finally {
    await iterator.close()
  }
  if (position < head && blocks.length === 0) throw loss(head, 'nothing stands between here and the head')
  return new Page({ channel: name, epoch, after, last: position, head, trimmed, blocks })
}

/** Undefined when the block is not whole, or not the one that its key says. */
export function check(name: string, block: Uint8Array, last: number): Header | undefined {
  try {
    const header = checkBlock(name, block, crc32)
    return header.last === last ? header : undefined
  } catch (error) {
    if (error instanceof TidemarkError && error.code === 'data-loss') return undefined
    throw error
  }
}
