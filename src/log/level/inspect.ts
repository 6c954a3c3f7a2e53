/** What is in a stopped log, for people: the store, its channels, the blocks of one of them. Changes nothing. */

import { decodeBlock } from '../../block.ts'
import type { Event } from '../../event.ts'
import type { Settings } from '../log.ts'
import { noChannel } from './channels.ts'
import { blockRange, channelOfKey, epochOf, lastOfBlockKey, rangeOf } from './keys.ts'
import { check } from './read.ts'
import { contentsOf, withStopped } from './verify.ts'

export interface StoreView {
  readonly life: string | null
  readonly format: number | null
  readonly commit: number | null
  /** Of the newest write, ms. */
  readonly time: number | null
  readonly mark: { readonly life: string; readonly commit: number; readonly original: boolean } | null
  readonly channels: readonly ChannelView[]
}

export interface ChannelView {
  readonly channel: string
  readonly number: number
  readonly settings: Settings
  /** Null when the head row is damaged. */
  readonly epoch: string | null
  readonly head: number | null
  readonly trimmed: number | null
  readonly blocks: number
  readonly bytes: number
  readonly cursors: number
}

export interface BlockView {
  readonly after: number | null
  readonly last: number
  readonly count: number | null
  readonly bytes: number
  readonly time: number | null
  readonly flags: number | null
  /** False: it is not what was written. */
  readonly whole: boolean
  readonly events?: readonly Event[]
}

/** @throws in-use, not-found, io-error */
export function inspectLevel(dir: string): Promise<StoreView> {
  return withStopped(dir, async (rows, path) => {
    const { store, commit, mark, channels } = contentsOf(rows, path, () => {})
    const cursors = new Map<number, number>()
    for (const [key] of rows.range(rangeOf('c')))
      cursors.set(channelOfKey(key), (cursors.get(channelOfKey(key)) ?? 0) + 1)
    return {
      life: store?.life ?? null,
      format: store?.format ?? null,
      commit: commit?.commit ?? null,
      time: commit?.time ?? null,
      mark: mark ?? null,
      channels: channels.map(({ name, number, settings, head }) => {
        let [blocks, bytes] = [0, 0]
        for (const [, block] of rows.range(blockRange(number, (head?.trimmed ?? 0) + 1))) {
          blocks++
          bytes += block.length
        }
        const epoch = head && store ? epochOf(store.life, head) : null
        return {
          ...{ channel: name, number, settings, epoch, head: head?.head ?? null, trimmed: head?.trimmed ?? null },
          ...{ blocks, bytes, cursors: cursors.get(number) ?? 0 },
        }
      }),
    }
  })
}

/** Which blocks: those from the one that holds `from` on, at most `count`. */
export interface BlocksPart {
  readonly from: number
  readonly count: number
  readonly events: boolean
}

/** @throws no-channel and as inspectLevel */
export function inspectBlocks(dir: string, channel: string, part: BlocksPart): Promise<readonly BlockView[]> {
  const { from, count, events } = part
  return withStopped(dir, async (rows, path) => {
    const found = contentsOf(rows, path, () => {}).channels.find(({ name }) => name === channel)
    if (!found) return noChannel(channel)
    const views: BlockView[] = []
    for (const [key, block] of rows.range(blockRange(found.number, from))) {
      if (views.length === count) break
      const header = check(channel, block, lastOfBlockKey(key))
      views.push({
        after: header?.after ?? null,
        last: lastOfBlockKey(key),
        count: header?.count ?? null,
        bytes: block.length,
        time: header?.time ?? null,
        flags: header?.flags ?? null,
        whole: header !== undefined,
        ...(events && header && { events: decodeBlock(block) }),
      })
    }
    return views
  })
}
