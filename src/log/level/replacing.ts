/**
 * Blocks in place of others. Only this changes a block that stands, one change after the other: what is compared with
 * the disk before the writer's turn is still so at that turn, but for trims and deletes, which the turn itself looks at.
 */

import { crc32 } from 'node:zlib'
import { checkBlock, type Header, readHeader, spansOf } from '../../block.ts'
import { TidemarkError } from '../../errors.ts'
import { CHANGE_BYTES } from '../entries.ts'
import type { Replacement } from '../log.ts'
import { type Channels, noChannel } from './channels.ts'
import type { Db } from './db.ts'
import { blockRange, lastOfBlockKey } from './keys.ts'
import type { Store } from './store.ts'
import type { Writer } from './writer.ts'

/** Looked at in one turn of LevelDB's thread. */
const ROWS_AT_ONCE = 256
const PIECE_BYTES = 256 * 1024

export class Replacing {
  readonly #store: Store
  readonly #channels: Channels
  readonly #writer: Writer
  #last: Promise<unknown> = Promise.resolve()

  constructor(store: Store, channels: Channels, writer: Writer) {
    this.#store = store
    this.#channels = channels
    this.#writer = writer
  }

  /** As Log.replace. */
  replace(channel: string, replacement: Replacement): Promise<boolean> {
    const done = this.#last.then(() => this.#replace(channel, replacement))
    // Whoever asked for it is told of a failure; the next one only waits for its end.
    this.#last = done.catch(() => {})
    return done
  }

  async #replace(name: string, { epoch, trimmed, replaced, blocks, erases }: Replacement): Promise<boolean> {
    checkCover(name, replaced, blocks)
    const channel = this.#channels.need(name)
    this.#channels.checkEpoch(channel, epoch)
    const { number } = channel
    const { db } = this.#store
    if (!(await this.#stand(db, number, replaced))) return false
    const bytes = blocks.reduce((sum, block) => sum + block.length, CHANGE_BYTES)
    return this.#writer.submit(bytes, (group) => {
      const draft = group.find(name) ?? noChannel(name)
      this.#channels.checkEpoch(draft, epoch)
      const isTrimmed = draft.trimmed > Math.max(replaced[0]!.after, trimmed)
      // Opened again since, it may hold what a write that failed had put there.
      if (isTrimmed || draft.number !== number || this.#store.db !== db) return () => false
      group.replace(draft, replaced, blocks, erases)
      return () => true
    })
  }

  /** Whether these blocks, and no others, stand in their stretch. */
  async #stand(db: Db, number: number, replaced: readonly Header[]): Promise<boolean> {
    const range = blockRange(number, replaced[0]!.after + 1, replaced.at(-1)!.last)
    const iterator = db.iterator({ ...range, highWaterMarkBytes: PIECE_BYTES })
    let found = 0
    try {
      for (;;) {
        const rows = await iterator.nextv(ROWS_AT_ONCE)
        if (rows.length === 0) return found === replaced.length
        for (const [key, block] of rows) if (!isSame(replaced[found++], key, block)) return false
      }
    } finally {
      await iterator.close()
    }
  }
}

function isSame(known: Header | undefined, key: Uint8Array, block: Uint8Array): boolean {
  if (known === undefined || lastOfBlockKey(key) !== known.last || block.length !== known.length) return false
  const { crc, after, last } = readHeader(block)
  return crc === known.crc && after === known.after && last === known.last
}

/** What a mistake made of readable events must not take their place. @throws internal */
function checkReadable(name: string, block: Uint8Array): Header {
  try {
    const header = checkBlock(name, block, crc32)
    spansOf(block)
    return header
  } catch (cause) {
    throw new TidemarkError('internal', `A block that is to stand in ${name} can not be read`, {}, { cause })
  }
}

/** @throws internal: what is put there would break the chain */
function checkCover(name: string, replaced: readonly Header[], blocks: readonly Uint8Array[]): void {
  const placed = blocks.map((block) => checkReadable(name, block))
  for (const run of [replaced, placed])
    if (run.length === 0 || run.some(({ after }, i) => i > 0 && after !== run[i - 1]!.last))
      throw new TidemarkError('internal', `Blocks of ${name} that are no neighbours can not stand for others`)
  if (placed[0]!.after !== replaced[0]!.after || placed.at(-1)!.last !== replaced.at(-1)!.last)
    throw new TidemarkError('internal', `Blocks of ${name} do not cover what they are to stand for`)
}
