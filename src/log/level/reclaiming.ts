/** Disk space given back: LevelDB keeps what was removed or overwritten until it happens to write its tables anew. */
import { CHANGE_BYTES } from '../entries.ts'
import type { Store } from './store.ts'
import type { Writer } from './writer.ts'

/**
 * Nothing that is gone between two keys is in any file when it resolves, but for what an open iterator still sees.
 * @param edges keys that no row has, ahead of the first one and behind the last
 */
export async function reclaimBetween(
  store: Store,
  writer: Writer,
  [from, to]: readonly [Uint8Array, Uint8Array],
): Promise<void> {
  // What is in memory goes to a table of its own: what it held of removed rows, too.
  await store.compact({ gte: from, lte: from })
  // LevelDB writes a table anew only where newer ones lie over it: one from edge to edge lies over all.
  await writer.submit(CHANGE_BYTES, (group) => {
    for (const edge of [from, to]) group.del(edge)
    return () => {}
  })
  await store.compact({ gte: from, lte: to })
}
