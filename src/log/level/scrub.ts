/**
 * What only the engine can look at in an open store: its tables, read beside LevelDB and with every checksum (they are
 * written once and never changed), and its rows, of which listings leave out the damaged ones.
 */
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { hasCode, TidemarkError } from '../../errors.ts'
import type { Finding, Log, Loss } from '../log.ts'
import type { StateRows } from '../state-rows.ts'
import { type FileFault, type Files, listFiles } from './files.ts'
import {
  channelOfKey,
  clientOfCursorKey,
  decodeArrival,
  decodeClearing,
  decodeCursor,
  decodeHead,
  decodeLoss,
  decodeName,
  decodeOver,
  decodeReceipt,
  decodeSweep,
  headKey,
  lastOfBlockKey,
  nameOfKey,
  type Range,
  rangeOf,
} from './keys.ts'
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

/** The rows of an open store; damaged ones are findings. @param get one row @param rows those of a range */
export async function* scrubRows(
  get: (key: Uint8Array) => Uint8Array | undefined,
  rows: (range: Range) => AsyncIterable<readonly [key: Uint8Array, row: Uint8Array]>,
  pace: (bytes: number) => Promise<void>,
): AsyncIterable<Finding> {
  const names = new Map<number, string>()
  for await (const [key, row] of rows(rangeOf('n'))) {
    const channel = nameOfKey(key)
    const fault = faultOf(() => {
      const { channel: number } = decodeName(key, row)
      names.set(number, channel)
      const head = get(headKey(number))
      if (head) decodeHead(headKey(number), head)
      // Name and head go in one write: a name that is still there should have one.
      else if (Buffer.compare(get(key) ?? Buffer.of(), row) === 0)
        throw new TidemarkError('data-loss', 'The head row is missing')
    })
    if (fault) yield { code: 'data-loss', part: 'head', channel, detail: fault }
    await pace(key.length + row.length)
  }
  for (const [kind, part, decode] of ROWS)
    for await (const [key, row] of rows(rangeOf(kind))) {
      const detail = faultOf(() => decode(key, row))
      const channel = kind === 'i' || kind === 'a' || kind === 'o' ? undefined : names.get(channelOfKey(key))
      const where = {
        ...(channel !== undefined && { channel }),
        ...(kind === 'c' && { client: clientOfCursorKey(key) }),
      }
      if (detail) yield { code: 'data-loss', part, ...where, detail }
      await pace(key.length + row.length)
    }
}

/** Rows of states; those that are damaged are made anew by this very look at them. */
export async function* scrubStates(rows: StateRows, pace: (bytes: number) => Promise<void>): AsyncIterable<Finding> {
  for await (const channel of rows.channels()) {
    let detail: string | undefined
    try {
      await rows.read(channel, async (some) => {
        await pace(some.reduce((bytes, { key, event }) => bytes + key.length + event.length, 0))
        return true
      })
    } catch (error) {
      if (hasCode(error, 'no-channel')) continue
      if (!hasCode(error, 'data-loss')) throw error
      detail = `${(error as Error).message}: they are made anew`
    }
    if (detail !== undefined) yield { code: 'data-loss', part: 'state', channel, detail }
  }
}

/** Kinds of rows beside names and heads. */
const ROWS: readonly (readonly [
  'c' | 'i' | 'l' | 'x' | 'a' | 'y' | 'o',
  Finding['part'],
  (key: Uint8Array, row: Uint8Array) => unknown,
])[] = [
  ['c', 'cursor', decodeCursor],
  ['i', 'receipt', decodeReceipt],
  ['l', 'row', decodeLoss],
  ['x', 'row', decodeSweep],
  ['a', 'row', decodeArrival],
  ['y', 'row', decodeClearing],
  ['o', 'row', decodeOver],
]

/** What a row's crc says against it. */
function faultOf(decode: () => unknown): string | undefined {
  try {
    decode()
    return undefined
  } catch (error) {
    if (!hasCode(error, 'data-loss')) throw error
    return (error as Error).message
  }
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
