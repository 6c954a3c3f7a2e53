/**
 * The rows of a store that LevelDB does not have open: the newest version of each key, from its tables and log files.
 * It reads what LevelDB would refuse or drop as well; what it had to pass over stands in `faults`.
 */
import { join } from 'node:path'
import { LRUCache } from 'lru-cache'
import { type FileFault, holdsMassAlone, listFiles, scanLogs } from './files.ts'
import type { Range } from './keys.ts'
import { doubtedIn, type Version, versionsOf } from './scan.ts'
import { type DataBlock, Table, versionsIn } from './table.ts'

/** Blocks of rows that are kept. Bytes, for a table may begin and end with events: such a block is up to 1 MiB. */
const CACHE_BYTES = 32 * 1024 * 1024
/** What a version takes in memory besides its bytes, about. */
const VERSION_BYTES = 200

export type Row = readonly [key: Uint8Array, value: Uint8Array]

interface Source {
  readonly name: string
  readonly table: Table
  /** Of its first block, once that was read: the index does not tell, and each lookup ahead of it would read it. */
  firstKey?: Uint8Array | undefined
}

export class Rows {
  readonly faults: FileFault[]
  readonly #tables: Source[] = []
  /** What the log files hold, by key; the newest version of a key first. */
  readonly #recent: readonly Version[]
  readonly #told = new Set<string>()
  readonly #cache = new LRUCache<string, readonly Version[]>({
    maxSize: CACHE_BYTES,
    sizeCalculation: (versions) =>
      versions.reduce((sum, { key, value }) => sum + VERSION_BYTES + key.length + (value?.length ?? 0), 1),
  })

  /**
   * @param dir LevelDB's own directory. Throws what the file system throws.
   * @param withStrays reads tables too that LevelDB would not: what they hold was written, whoever forgot it
   */
  constructor(dir: string, withStrays = false) {
    const files = listFiles(dir)
    this.faults = [...files.faults]
    const recent: Version[] = []
    for (const { bytes, scan, fault } of scanLogs(dir, files.logs)) {
      for (const { data } of scan.records) recent.push(...versionsOf(data))
      if (!fault) continue
      this.faults.push(fault)
      // Behind the others: of two of one number the sort keeps the first.
      for (const stretch of scan.bad) for (const data of doubtedIn(bytes, stretch)) recent.push(...versionsOf(data))
    }
    this.#recent = recent.sort(byKey)
    for (const { name } of files.tables) {
      const table = new Table(join(dir, name))
      this.#tables.push({ name, table })
      const isTold = this.faults.some(({ file }) => file === name)
      if (!isTold) for (const fault of table.faults) this.faults.push({ file: name, ...fault })
    }
    for (const name of withStrays ? files.strays : []) {
      const table = new Table(join(dir, name))
      // One that was being written is no loss: what it would hold stands where it was read from.
      if (table.faults.length > 0) table.close()
      else this.#tables.push({ name, table })
    }
  }

  get(key: Uint8Array): Uint8Array | undefined {
    for (const [, value] of this.range({ gte: key, lte: key })) return value
    return undefined
  }

  /** Rows in the order of their keys. Each is read when it is asked for. */
  *range(range: Range): Generator<Row> {
    const sources = [this.#recentIn(range), ...this.#tables.map((source) => this.#versionsOf(source, range))]
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
    const recent = this.#recent
    let low = 0
    for (let high = recent.length; low < high; ) {
      const middle = (low + high) >>> 1
      if (Buffer.compare(recent[middle]!.key, gte) < 0) low = middle + 1
      else high = middle
    }
    for (; low < recent.length && Buffer.compare(recent[low]!.key, lte) <= 0; low++) yield recent[low]!
  }

  *#versionsOf(source: Source, { gte, lte }: Range): Generator<Version> {
    const isIn = ({ key }: Version): boolean => Buffer.compare(key, gte) >= 0 && Buffer.compare(key, lte) <= 0
    const { blocks } = source.table
    for (let i = firstWithin(blocks, gte); i < blocks.length; i++) {
      const block = blocks[i]!
      const before = i === 0 ? source.firstKey : block.before
      if (before && Buffer.compare(before, lte) > 0) return
      for (const version of this.#versionsIn(source, block)) if (isIn(version)) yield version
    }
  }

  /** Rows are looked up again and again, blocks of events and rows of states are not. */
  #versionsIn(source: Source, block: DataBlock): readonly Version[] {
    const { name, table } = source
    const id = `${name}:${block.offset}`
    const cached = this.#cache.get(id)
    if (cached) return cached
    const { content, isWhole } = table.read(block)
    const versions = [...versionsIn(content)]
    if (!isWhole) {
      this.#tell({ file: name, offset: block.offset, what: 'a block does not match its crc' })
      // Most of it is right, and every row and block of ours tells by its own crc.
      versions.sort(byKey)
    } else if (block === table.blocks[0]) source.firstKey = versions[0]?.key
    if (!holdsMassAlone(block)) this.#cache.set(id, versions)
    return versions
  }

  #tell(fault: FileFault): void {
    const id = `${fault.file}:${fault.offset}`
    if (this.#told.has(id)) return
    this.#told.add(id)
    this.faults.push(fault)
  }
}

/** Index of the first block that may hold `key` or a later one. */
function firstWithin(blocks: readonly DataBlock[], key: Uint8Array): number {
  let low = 0
  let high = blocks.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if (Buffer.compare(blocks[middle]!.upTo, key) < 0) low = middle + 1
    else high = middle
  }
  return low
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
