/**
 * The rows of a store that LevelDB does not have open: the newest version of each key, from its tables and log files.
 * It reads what LevelDB would refuse or drop as well; what it had to pass over stands in `faults`.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type FileFault, listFiles } from './files.ts'
import type { Range } from './keys.ts'
import { damageIn, scanLog, type Version, versionsOf } from './scan.ts'
import { Table, versionsIn } from './table.ts'

/** A version from a block that does not match its checksum: believed only where there is no other. */
const DOUBTED = -1

export type Row = readonly [key: Uint8Array, value: Uint8Array]

export class Rows {
  readonly faults: FileFault[]
  readonly #tables: { readonly name: string; readonly table: Table }[] = []
  /** What the log files hold, by key; the newest version of a key first. */
  readonly #recent: readonly Version[]
  readonly #told = new Set<string>()

  /** @param dir LevelDB's own directory. Throws what the file system throws. */
  constructor(dir: string) {
    const files = listFiles(dir)
    this.faults = [...files.faults]
    const recent: Version[] = []
    for (const [i, file] of files.logs.entries()) {
      const scan = scanLog(readFileSync(join(dir, file)))
      // A torn end of the newest log file is a write that was never acknowledged.
      const spot = damageIn(scan) ?? (i < files.logs.length - 1 ? scan.bad[0] : undefined)
      if (spot) this.faults.push({ file, offset: spot.from, what: 'records can not be read' })
      for (const { data } of scan.records) recent.push(...versionsOf(data))
    }
    this.#recent = recent.sort(byKey)
    for (const { name } of files.tables) {
      const table = new Table(join(dir, name))
      this.#tables.push({ name, table })
      const isTold = this.faults.some(({ file }) => file === name)
      if (!isTold) for (const fault of table.faults) this.faults.push({ file: name, ...fault })
    }
  }

  get(key: Uint8Array): Uint8Array | undefined {
    for (const [, value] of this.range({ gte: key, lte: key })) return value
    return undefined
  }

  /** Rows in the order of their keys. Each is read when it is asked for. */
  *range(range: Range): Generator<Row> {
    const sources = [this.#recentIn(range), ...this.#tables.map((table) => this.#versionsOf(table, range))]
    const heap = new Heap()
    for (const source of sources) heap.add(source)
    let last: Uint8Array | undefined
    for (let version = heap.next(); version; version = heap.next()) {
      if (last && Buffer.compare(last, version.key) === 0) continue
      last = version.key
      if (version.value !== undefined) yield [version.key, version.value]
    }
  }

  close(): void {
    for (const { table } of this.#tables) table.close()
  }

  *#recentIn({ gte, lte }: Range): Generator<Version> {
    for (const version of this.#recent)
      if (Buffer.compare(version.key, gte) >= 0 && Buffer.compare(version.key, lte) <= 0) yield version
  }

  *#versionsOf({ name, table }: { name: string; table: Table }, { gte, lte }: Range): Generator<Version> {
    const isIn = ({ key }: Version): boolean => Buffer.compare(key, gte) >= 0 && Buffer.compare(key, lte) <= 0
    for (const block of table.blocks) {
      if (block.upTo && Buffer.compare(block.upTo, gte) < 0) continue
      if (block.before && Buffer.compare(block.before, lte) > 0) return
      const { content, isWhole } = table.read(block)
      if (isWhole) {
        for (const version of versionsIn(content)) if (isIn(version)) yield version
      } else {
        this.#tell({ file: name, offset: block.offset, what: 'a block does not match its crc' })
        const doubted = [...versionsIn(content)].filter((version) => version.value !== undefined && isIn(version))
        yield* doubted.map((version) => ({ ...version, seq: DOUBTED })).sort(byKey)
      }
    }
  }

  #tell(fault: FileFault): void {
    const id = `${fault.file}:${fault.offset}`
    if (this.#told.has(id)) return
    this.#told.add(id)
    this.faults.push(fault)
  }
}

const byKey = (a: Version, b: Version): number => Buffer.compare(a.key, b.key) || b.seq - a.seq

/** Sources in the order of their next versions. */
class Heap {
  readonly #items: { version: Version; readonly source: Iterator<Version> }[] = []

  add(source: Iterator<Version>): void {
    const { value, done } = source.next()
    if (done) return
    const items = this.#items
    items.push({ version: value, source })
    for (let i = items.length - 1; i > 0; ) {
      const parent = (i - 1) >> 1
      if (byKey(items[parent]!.version, items[i]!.version) <= 0) break
      this.#swap(i, parent)
      i = parent
    }
  }

  next(): Version | undefined {
    const items = this.#items
    const top = items[0]
    if (!top) return undefined
    const { version } = top
    const { value, done } = top.source.next()
    if (done) {
      const end = items.pop()!
      if (items.length > 0) items[0] = end
    } else top.version = value
    this.#sink()
    return version
  }

  #sink(): void {
    const items = this.#items
    for (let i = 0; ; ) {
      let least = i
      for (const child of [2 * i + 1, 2 * i + 2])
        if (child < items.length && byKey(items[child]!.version, items[least]!.version) < 0) least = child
      if (least === i) return
      this.#swap(i, least)
      i = least
    }
  }

  #swap(i: number, j: number): void {
    const items = this.#items
    ;[items[i], items[j]] = [items[j]!, items[i]!]
  }
}
