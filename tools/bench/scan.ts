/**
 * The limit of W4: the same store read straight from LevelDB, value by value, nothing checked and nothing sent.
 *
 *   node scan.js --dir DIR      (of a server that has stopped) prints {"events":n,"blocks":n,"bytes":n,"seconds":s}
 */
import { parseArgs } from 'node:util'
import { Level } from 'level'
import { readHeader } from '../../src/block.ts'

/** Blocks of a channel: `e | channel | last`. */
const RANGE = { gte: Uint8Array.of(0x65), lt: Uint8Array.of(0x66) }
const BLOCKS_AT_ONCE = 1_000
const READ_AHEAD_BYTES = 1024 * 1024

const { values } = parseArgs({ options: { dir: { type: 'string' } } })
const db = new Level<Uint8Array, Uint8Array>(values.dir!, {
  createIfMissing: false,
  compression: false,
  keyEncoding: 'view',
  valueEncoding: 'view',
})
await db.open()
const started = performance.now()
const result = { events: 0, blocks: 0, bytes: 0 }
const iterator = db.values({ ...RANGE, fillCache: false, highWaterMarkBytes: READ_AHEAD_BYTES } as typeof RANGE)
for (;;) {
  const blocks = await iterator.nextv(BLOCKS_AT_ONCE)
  if (blocks.length === 0) break
  for (const block of blocks) {
    result.events += readHeader(block).count
    result.bytes += block.length
  }
  result.blocks += blocks.length
}
const seconds = (performance.now() - started) / 1_000
await iterator.close()
await db.close()
console.log(JSON.stringify({ ...result, seconds }))
