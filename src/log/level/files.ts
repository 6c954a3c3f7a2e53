/**
 * The files of a LevelDB: which of them count, and what must be whole before it is opened.
 *
 * LevelDB opens over damage without a word: it drops what it can't read of a log file and deletes the file; it looks up
 * rows through a filter and an index that it does not check, and finds nothing where there is something. A channel that
 * is not found would be made anew, a receipt that is not found would let an append happen twice. So before an existing
 * store is opened, CURRENT, MANIFEST and the log files are read whole, and of each table everything but the blocks of
 * events and the rows of states, which carry their own crc and are checked when they are read.
 */
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { isMassKey, MASS_PREFIXES } from './keys.ts'
import { damageIn, isZero, type LogScan, Reader, scanLog, scanRecords } from './scan.ts'
import { type DataBlock, Table } from './table.ts'

/** What is wrong with a file. */
export interface FileFault {
  readonly file: string
  readonly offset?: number
  readonly what: string
}

/** Blocks of events are walked when so many processes in a row ended badly: what LevelDB ends one over ends the next. */
const BAD_ENDS = 2

export interface TableFile {
  readonly number: number
  readonly name: string
  /** As MANIFEST remembers them; undefined when MANIFEST can't be read. */
  readonly size?: number
  readonly firstKey?: Uint8Array
}

export interface Files {
  /** As MANIFEST names them; every table that is there if it can't be read. */
  readonly tables: readonly TableFile[]
  /** Tables that MANIFEST does not name and that are newer than those it names: it may have lost their records. */
  readonly strays: readonly string[]
  /** Write-ahead files in their order. */
  readonly logs: readonly string[]
  readonly faults: readonly FileFault[]
}

const numbered = (names: readonly string[], ...ends: string[]): { number: number; name: string }[] =>
  names
    .filter((name) => ends.some((end) => new RegExp(`^\\d+\\.${end}$`).test(name)))
    .map((name) => ({ number: Number.parseInt(name, 10), name }))
    .sort((a, b) => a.number - b.number)

/** Which files count, by CURRENT and MANIFEST. */
export function listFiles(dir: string): Files {
  const names = readdirSync(dir)
  const tables = numbered(names, 'ldb', 'sst')
  const logs = numbered(names, 'log')
  const known = readManifest(dir, names)
  if ('what' in known) return { tables, strays: [], logs: logs.map(({ name }) => name), faults: [known] }
  const faults: FileFault[] = []
  const live = [...known.tables].map(([number, { size, firstKey }]) => {
    const name = tables.find((table) => table.number === number)?.name ?? `${String(number).padStart(6, '0')}.ldb`
    return { number, name, size, firstKey }
  })
  for (const { name, size } of live) {
    const found = names.includes(name) ? statSync(join(dir, name)).size : undefined
    if (found === undefined) faults.push({ file: name, what: 'it is missing' })
    else if (found !== size) faults.push({ file: name, offset: found, what: `it has ${found} bytes, not ${size}` })
  }
  const newest = Math.max(0, ...known.tables.keys())
  const strays = tables.filter(({ number }) => number > newest).map(({ name }) => name)
  // A log file goes when MANIFEST has a newer one. A table that nobody names is the rest of a flush whose log is there.
  if (strays.length > 0 && !logs.some(({ number }) => number === known.log))
    faults.push({ file: known.file, what: `it ends before the record of ${strays[0]}` })
  return {
    tables: live.filter(({ name }) => names.includes(name)),
    strays,
    logs: logs.filter(({ number }) => number >= known.log).map(({ name }) => name),
    faults,
  }
}

interface Manifest {
  readonly file: string
  /** Logs from this number on count. */
  readonly log: number
  /** By number. */
  readonly tables: ReadonlyMap<number, { readonly size: number; readonly firstKey: Uint8Array }>
}

function readManifest(dir: string, names: readonly string[]): Manifest | FileFault {
  if (!names.includes('CURRENT')) return { file: 'CURRENT', what: 'it is missing' }
  const file = /^(MANIFEST-\d+)\n$/.exec(readFileSync(join(dir, 'CURRENT'), 'latin1'))?.[1]
  if (file === undefined) return { file: 'CURRENT', offset: 0, what: 'it names no MANIFEST' }
  if (!names.includes(file)) return { file, what: 'it is missing' }
  const bytes = readFileSync(join(dir, file))
  const scan = scanRecords(bytes, () => true)
  const { records, bad } = scan
  // A record that the end of the file cuts was never finished; LevelDB passes over it too. Over one whose length is
  // wrong as well, and then over all that follow.
  const spot = damageIn(scan) ?? bad.find(({ from }) => !isCut(bytes, from))
  if (spot) return { file, offset: spot.from, what: 'a record does not match its crc' }
  const tables = new Map<number, { size: number; firstKey: Uint8Array }>()
  let log = 0
  for (const { offset, data } of records) {
    const edit = new Reader(data)
    while (edit.at < data.length && !edit.failed) {
      const tag = edit.varint()
      if (tag === 1) edit.slice()
      else if (tag === 2) log = edit.varint()
      else if (tag === 3 || tag === 4 || tag === 9) edit.varint()
      else if (tag === 5) {
        edit.varint()
        edit.slice()
      } else if (tag === 6) {
        edit.varint()
        tables.delete(edit.varint())
      } else if (tag === 7) {
        edit.varint()
        // The first key and the last one, each with LevelDB's number.
        tables.set(edit.varint(), { size: edit.varint(), firstKey: edit.slice().subarray(0, -8) })
        edit.slice()
      } else edit.failed = true
    }
    if (edit.failed) return { file, offset, what: 'a record can not be read' }
  }
  if (records.length === 0) return { file, offset: 0, what: 'it is empty' }
  return { file, log, tables }
}

/** True when a fragment at `at` would run over the end of the file, or only zeros are left. */
function isCut(bytes: Uint8Array, at: number): boolean {
  if (at + 7 > bytes.length || isZero(bytes, at, bytes.length)) return true
  const type = bytes[at + 6]!
  const end = at + 7 + (bytes[at + 4]! | (bytes[at + 5]! << 8))
  // A first part that is whole, whose rest is not there.
  return end > bytes.length || (type === 2 && end === bytes.length)
}

/**
 * What forbids opening, of the files' own: nothing of it is repaired by LevelDB, most is hidden, and over some it ends
 * the process. Of blocks of events and of rows of states only that they can be walked is looked at, and only when processes before ended badly
 * in a row: a start is to be quick, and reading them all is not.
 * `onTorn` is told of a write that did not come to its end: it was never acknowledged, else the high-water mark tells.
 */
export function faultsBeforeOpen(
  dir: string,
  onTorn: (file: string, offset: number) => void,
  badEnds = BAD_ENDS,
): FileFault[] {
  const files = listFiles(dir)
  const thorough = badEnds >= BAD_ENDS
  const faults = [...files.faults]
  for (const { file, scan, fault } of scanLogs(dir, files.logs)) {
    if (fault) faults.push(fault)
    else if (scan.bad[0]) onTorn(file, scan.bad[0].from)
  }
  for (const { name, firstKey } of files.tables) {
    if (faults.some(({ file }) => file === name)) continue
    const table = new Table(join(dir, name), firstKey)
    try {
      for (const fault of table.faults) faults.push({ file: name, ...fault })
      for (const block of thorough ? table.blocks : table.blocksBeside(...MASS_PREFIXES)) {
        const isAside = holdsMassAlone(block)
        if (isAside && !thorough) continue
        if (isAside ? table.isSound(block) : table.isWhole(block)) continue
        faults.push({ file: name, offset: block.offset, what: 'a block can not be read' })
      }
    } finally {
      table.close()
    }
  }
  return faults
}

/** True for a block of a table in which nothing but blocks of events and rows of states can stand. */
export const holdsMassAlone = ({ before, upTo }: DataBlock): boolean =>
  before !== undefined && isMassKey(before) && isMassKey(upTo)

/** A log file as it is, and what of it is damage: a torn end is none, unless records came after it. */
export interface ScannedLog {
  readonly file: string
  readonly bytes: Uint8Array
  readonly scan: LogScan
  readonly fault: FileFault | undefined
}

/** Reads log files, each once, and in their order. */
export function scanLogs(dir: string, files: readonly string[]): ScannedLog[] {
  let isFollowed = false
  return files
    .toReversed()
    .map((file) => {
      const bytes = readFileSync(join(dir, file))
      const scan = scanLog(bytes)
      // A log file is followed by another only when its last record was on disk.
      const spot = damageIn(scan) ?? (isFollowed ? scan.bad[0] : undefined)
      isFollowed ||= scan.records.length > 0
      const fault = spot && { file, offset: spot.from, what: 'records before others can not be read' }
      return { file, bytes, scan, fault }
    })
    .reverse()
}
