/**
 * A table of LevelDB's (*.ldb), read without LevelDB and with every checksum.
 *
 *   table  := block* | footer                       data blocks, the filter, the metaindex, the index
 *   block  := content | type u8 (0: not compressed) | masked crc32c(content ‖ type) u32
 *   footer := handle of the metaindex | handle of the index | 0… to 40 bytes | magic u64          handle := offset, size
 *   content:= (shared, fresh, size of the value, fresh part of the key, value)* | restart u32* | count of restarts u32
 */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs'
import { getU32le, maskedCrc, Reader, RunningCrc, type Version } from './scan.ts'

const FOOTER_BYTES = 48
/** What is read of a table at once; its index takes about 30 KiB. */
const END_BYTES = 64 * 1024
const TRAILER_BYTES = 5
/** Larger than any block: LevelDB ends one after 16 KiB, with a value of at most 960 KiB. */
const BLOCK_BYTES_MAX = 2 * 1024 * 1024
const MAGIC = [0x8b80fb57, 0xdb477524] as const

interface Handle {
  readonly offset: number
  readonly size: number
}

/**
 * A data block, and the keys that stand around it: its own lie from `before` to `upTo`. An index does not tell where the
 * first block begins.
 */
export interface DataBlock extends Handle {
  readonly before: Uint8Array | undefined
  readonly upTo: Uint8Array
}

/** What is wrong with a part of a table. */
export interface TableFault {
  readonly offset: number
  readonly what: string
}

let scratch = Buffer.allocUnsafe(0)

export class Table {
  readonly path: string
  readonly size: number
  readonly #fd: number
  readonly #firstKey: Uint8Array | undefined
  /** The end of the file: all but the data blocks, as a rule. */
  readonly #end: Uint8Array | undefined
  /** Undefined when it is damaged. */
  readonly #index: Uint8Array | undefined
  #blocks: readonly DataBlock[] | undefined
  /** What is wrong with footer, index, metaindex and filter. */
  readonly faults: readonly TableFault[]

  /** Reads all but the data blocks. Throws what the file system throws. @param firstKey as MANIFEST says it */
  constructor(path: string, firstKey?: Uint8Array) {
    this.path = path
    this.#firstKey = firstKey
    this.#fd = openSync(path, 'r')
    this.size = fstatSync(this.#fd).size
    const faults: TableFault[] = []
    this.faults = faults
    this.#end = this.#read({ offset: this.size - END_BYTES, size: END_BYTES })
    const footer = this.#read({ offset: Math.max(0, this.size - FOOTER_BYTES), size: FOOTER_BYTES })
    const isFooter =
      footer.length === FOOTER_BYTES && getU32le(footer, 40) === MAGIC[0] && getU32le(footer, 44) === MAGIC[1]
    const handles = new Reader(footer)
    const [meta, index] = [handleIn(handles), handleIn(handles)]
    if (!isFooter || handles.failed) {
      faults.push({ offset: Math.max(0, this.size - FOOTER_BYTES), what: 'its footer is damaged' })
      return
    }
    const names = this.#checked(meta, 'its metaindex', faults)
    if (names)
      for (const { value } of entriesOf(names)) this.#checked(handleIn(new Reader(value)), 'its filter', faults)
    this.#index = this.#checked(index, 'its index', faults)
  }

  /** Data blocks in the order of their keys; without a whole index, those that are found by their checksums. */
  get blocks(): readonly DataBlock[] {
    this.#blocks ??= this.#index ? this.#blocksIn(entriesOf(this.#index)) : this.#found()
    return this.#blocks
  }

  /**
   * Data blocks without those whose keys, and the key before them, begin with a byte of `first` … `last`, of which there
   * may be thousands: the others lie before and behind them, and are found without a look at these.
   */
  blocksBeside(first: number, last = first): readonly DataBlock[] {
    if (!this.#index) return this.blocks
    const index = this.#index
    const begin = firstRestart(index, (byte) => byte >= first)
    const end = firstRestart(index, (byte) => byte > last)
    // Of the first one and of the last one both neighbours are read, and of the blocks between them nothing.
    if (end - begin < 3) return this.blocks
    const ahead = this.#blocksIn(entriesOf(index, 0, begin + 1))
    const behind = this.#blocksIn(entriesOf(index, end - 1))
    return [...ahead, ...behind.slice(1)]
  }

  /** The content of a data block, and whether its checksum is right. */
  read(block: Handle): { readonly content: Uint8Array; readonly isWhole: boolean } {
    const bytes = this.#read({ offset: block.offset, size: block.size + TRAILER_BYTES })
    return { content: bytes.subarray(0, block.size), isWhole: isWhole(bytes, block.size) }
  }

  /** Whether the checksum of a data block is right. */
  isWhole(block: Handle): boolean {
    return isWhole(this.#pass(block), block.size)
  }

  /** Whether LevelDB can walk a data block, whatever its checksum says. */
  isSound(block: DataBlock): boolean {
    const bytes = this.#pass(block)
    const isThere = bytes.length === block.size + TRAILER_BYTES && bytes[block.size] === 0
    return isThere && isSound(bytes.subarray(0, block.size), block)
  }

  /** A data block until the next one is passed: thousands are looked at one by one, and none is kept. */
  #pass({ offset, size }: Handle): Uint8Array {
    // An index may claim anything.
    const length = Math.min(size + TRAILER_BYTES, this.size)
    if (scratch.length < length) scratch = Buffer.allocUnsafe(2 * length)
    return this.#read({ offset, size: length }, scratch)
  }

  close(): void {
    closeSync(this.#fd)
  }

  /**
   * Blocks one behind the other from the start, each ending where its checksum is right. The filter follows them and ends
   * the walk: its last byte, an 11, would be a count of 184 million restarts. Metaindex and index behind it do read as
   * entries, and must not be taken for rows.
   */
  #found(): DataBlock[] {
    const bytes = this.#read({ offset: 0, size: this.size })
    const found: DataBlock[] = []
    for (let offset = 0; ; ) {
      const size = sizeOfBlock(bytes, offset)
      if (size === undefined) return found
      const before = found.at(-1)?.upTo ?? this.#firstKey
      const last = lastKeyOf(bytes.subarray(offset, offset + size), before)
      if (!last) return found
      // A copy: a key that is kept would hold on to the pool that it was put together in.
      found.push({ offset, size, before, upTo: new Uint8Array(last.subarray(0, -8)) })
      offset += size + TRAILER_BYTES
    }
  }

  /** What an index names. */
  #blocksIn(index: Iterable<Entry>): DataBlock[] {
    const blocks: DataBlock[] = []
    for (const { key, value } of index) {
      const before = blocks.at(-1)?.upTo ?? this.#firstKey
      blocks.push({ ...handleIn(new Reader(value)), before, upTo: key.subarray(0, -8) })
    }
    return blocks
  }

  #checked(handle: Handle, what: string, faults: TableFault[]): Uint8Array | undefined {
    const { content, isWhole } = this.read(handle)
    if (isWhole) return content
    faults.push({ offset: handle.offset, what: `${what} is damaged` })
    return undefined
  }

  #read({ offset, size }: Handle, into?: Buffer): Uint8Array {
    const from = Math.max(0, offset)
    const length = Math.max(0, Math.min(offset + size, this.size) - from)
    const begin = Math.max(0, this.size - END_BYTES)
    if (!into && this.#end && from >= begin) return this.#end.subarray(from - begin, from - begin + length)
    const bytes = into?.subarray(0, length) ?? Buffer.allocUnsafe(length)
    let at = 0
    while (at < length) {
      const read = readSync(this.#fd, bytes, at, length - at, from + at)
      if (read === 0) return bytes.subarray(0, at)
      at += read
    }
    return bytes
  }
}

function isWhole(block: Uint8Array, size: number): boolean {
  if (block.length !== size + TRAILER_BYTES) return false
  // Type 1 is snappy, which this engine never asks for.
  return block[size] === 0 && maskedCrc(block, 0, size + 1) === getU32le(block, size + 1)
}

/** Where the checksum of a block that begins at `from` is right; undefined when it is nowhere near. */
function sizeOfBlock(bytes: Uint8Array, from: number): number | undefined {
  const crc = new RunningCrc()
  const end = Math.min(bytes.length - TRAILER_BYTES, from + BLOCK_BYTES_MAX)
  for (let at = from; at <= end; at++) {
    crc.add(bytes[at]!)
    if (bytes[at] === 0 && crc.masked === getU32le(bytes, at + 1)) return at - from
  }
  return undefined
}

const handleIn = (reader: Reader): Handle => ({ offset: reader.varint(), size: reader.varint() })

interface Entry {
  readonly key: Uint8Array
  readonly value: Uint8Array
}

/** How many restart points a block has, and where they stand: behind the entries. */
function restartsOf(content: Uint8Array): { readonly count: number; readonly end: number } {
  const count = content.length < 4 ? 0 : getU32le(content, content.length - 4)
  const end = content.length - 4 - 4 * count
  return end < 0 ? { count: 0, end: 0 } : { count, end }
}

/** The first restart point of a whole block whose key's first byte `is` so, as that of all later keys. */
function firstRestart(content: Uint8Array, is: (byte: number) => boolean): number {
  const { count, end } = restartsOf(content)
  let low = 0
  for (let high = count; low < high; ) {
    const middle = (low + high) >>> 1
    const reader = new Reader(content, getU32le(content, end + 4 * middle))
    for (let lengths = 0; lengths < 3; lengths++) reader.varint()
    if (is(reader.byte())) high = middle
    else low = middle + 1
  }
  return low
}

/**
 * The entries of a block, those from one restart point on and before another one. A block that is damaged is read from
 * each of its restart points, where keys stand whole, as far as it makes sense; then every entry is to be doubted.
 */
export function* entriesOf(content: Uint8Array, first = 0, before?: number): Generator<Entry> {
  const { count, end } = restartsOf(content)
  const data = content.subarray(0, end)
  const restarts: number[] = []
  for (let i = first; i < Math.min(count, (before ?? count) + 1); i++) {
    const at = getU32le(content, end + 4 * i)
    if (at < end) restarts.push(at)
  }
  for (const [i, from] of (before === undefined ? restarts : restarts.slice(0, before - first)).entries()) {
    const upTo = restarts[i + 1] ?? end
    const reader = new Reader(data, from)
    let key: Uint8Array = new Uint8Array()
    while (reader.at < upTo) {
      const shared = reader.varint()
      const fresh = reader.varint()
      const size = reader.varint()
      if (shared > key.length) break
      key = Buffer.concat([key.subarray(0, shared), reader.take(fresh)])
      const value = reader.take(size)
      if (reader.failed) break
      yield { key, value }
    }
  }
}

/**
 * True when LevelDB can walk a block: whole entries with whole keys, in their order, to the end. It is built with its
 * assertions on: over anything else it ends the process, when a reader or a compaction comes by.
 */
export function isSound(content: Uint8Array, { before, upTo }: DataBlock): boolean {
  const last = lastKeyOf(content, before)
  return last !== undefined && Buffer.compare(last.subarray(0, -8), upTo) <= 0
}

/** The last key of a block, with LevelDB's number; undefined when it can't be walked, or begins ahead of `before`. */
function lastKeyOf(content: Uint8Array, before: Uint8Array | undefined): Buffer | undefined {
  const count = content.length < 4 ? 0 : getU32le(content, content.length - 4)
  const end = content.length - 4 - 4 * count
  if (count === 0 || end < 0) return undefined
  const restarts = new Set<number>()
  for (let i = 0; i < count; i++) restarts.add(getU32le(content, end + 4 * i))
  const reader = new Reader(content.subarray(0, end))
  let key: Buffer = Buffer.alloc(0)
  let entries = 0
  while (reader.at < end) {
    const isRestart = restarts.delete(reader.at)
    const shared = reader.varint()
    const fresh = reader.varint()
    const size = reader.varint()
    if (shared > key.length || shared + fresh < 8 || (isRestart && shared > 0)) return undefined
    const next = Buffer.concat([key.subarray(0, shared), reader.take(fresh)])
    reader.take(size)
    if (reader.failed || (entries > 0 && !isAfter(next, key))) return undefined
    if (entries === 0 && before && Buffer.compare(next.subarray(0, -8), before) < 0) return undefined
    key = next
    entries++
  }
  return entries > 0 && restarts.size === 0 ? key : undefined
}

/** LevelDB's order: keys rise, versions of one key fall. */
function isAfter(key: Buffer, before: Buffer): boolean {
  const order = Buffer.compare(key.subarray(0, -8), before.subarray(0, -8))
  if (order !== 0) return order > 0
  return key.readBigUInt64LE(key.length - 8) < before.readBigUInt64LE(before.length - 8)
}

/** The versions in a block of data. */
export function* versionsIn(content: Uint8Array): Generator<Version> {
  for (const { key, value } of entriesOf(content)) {
    const at = key.length - 8
    if (at < 0) continue
    const seq = getU32le(key, at + 4) * 2 ** 24 + (getU32le(key, at) >>> 8)
    yield { key: key.subarray(0, at), seq, value: key[at] === 1 ? value : undefined }
  }
}
