/** The tables of an open store, read beside LevelDB and with every checksum: they are written once and never changed. */
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Finding, Log, Loss } from '../log.ts'
import { type FileFault, type Files, listFiles } from './files.ts'
import { channelOfKey, decodeLoss, lastOfBlockKey } from './keys.ts'
import { storeDir } from './places.ts'
import { Table } from './table.ts'

/** A listing of an open store that a compaction ran into is made again, so often and so much later; ms. */
const LIST_TRIES = 5
const LIST_PAUSE_MS = 50

/** @param log the log's directory. */
export async function* scrubTables(log: string, pace: (bytes: number) => Promise<void>): AsyncIterable<Finding> {
  const dir = storeDir(log)
  const found: FileFault[] = []
  for (const { name } of (await listLive(dir)).tables) {
    const table = openTable(join(dir, name))
    if (!table) continue
    try {
      for (const fault of table.faults) found.push({ file: name, ...fault })
      for (const block of table.blocks) {
        if (!table.read(block).isWhole)
          found.push({ file: name, offset: block.offset, what: 'a block does not match its crc' })
        await pace(block.size)
      }
    } finally {
      table.close()
    }
  }
  // What a compaction has replaced meanwhile is nobody's any more.
  const now = await listLive(dir)
  const names = new Set(now.tables.map(({ name }) => name))
  for (const { what, ...where } of [...now.faults, ...found.filter(({ file }) => names.has(file))])
    yield { code: 'data-loss', part: 'file', ...where, detail: what }
}

/** The files that count now: what is missing in one listing and there in the next was being replaced. */
async function listLive(dir: string): Promise<Files> {
  for (let tries = 1; ; tries++) {
    try {
      const files = listFiles(dir)
      if (files.faults.length === 0 || tries === LIST_TRIES) return files
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || tries === LIST_TRIES) throw error
    }
    await delay(LIST_PAUSE_MS)
  }
}

/** What the loss rows say, of channels that are there. */
export async function knownLosses(
  log: Pick<Log, 'channels'>,
  rows: AsyncIterable<readonly [Uint8Array, Uint8Array]>,
  numberOf: (channel: string) => number | undefined,
): Promise<readonly Loss[]> {
  const found: [number: number, Omit<Loss, 'channel'>][] = []
  for await (const [key, row] of rows)
    found.push([channelOfKey(key), { after: lastOfBlockKey(key), upTo: decodeLoss(key, row).upTo }])
  const losses: Loss[] = []
  // Hardly any log has one.
  if (found.length > 0)
    for await (const { channel } of log.channels(''))
      for (const [number, loss] of found) if (numberOf(channel) === number) losses.push({ channel, ...loss })
  return losses
}

/** Undefined when a compaction has just removed it. */
function openTable(path: string): Table | undefined {
  try {
    return new Table(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
}
