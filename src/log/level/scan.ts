/**
 * LevelDB's own files, read without LevelDB: it opens with its checksums off and drops what it can't read without a
 * word, so whoever wants to know what is in a file reads it here.
 *
 *   *.log, MANIFEST := blocks of 32 KiB, each a run of fragments; the last bytes of a block too few for a header are 0
 *   fragment        := masked crc32c(type ‖ data) u32 | length u16 | type u8 (1 whole, 2 first, 3 middle, 4 last) | data
 *   batch           := seq u64 | count u32 | (1 key value | 0 key)*               what a record of a *.log holds
 *
 * Little-endian, as everything of LevelDB's. Tables (*.ldb) are read by table.ts.
 */

const LOG_BLOCK_BYTES = 32 * 1024
const FRAGMENT_HEADER_BYTES = 7
const BATCH_HEADER_BYTES = 12
const MASK_DELTA = 0xa282ead8
const TYPE = { whole: 1, first: 2, middle: 3, last: 4 } as const

/** Castagnoli's polynomial, which zlib has not. Eight tables take eight bytes at a time. */
const [T0, T1, T2, T3, T4, T5, T6, T7] = makeTables()

type Eight<T> = readonly [T, T, T, T, T, T, T, T]

function makeTables(): Eight<Int32Array> {
  const first = Int32Array.from({ length: 256 }, (_, n) => {
    let crc = n
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1
    return crc
  })
  const tables = [first]
  while (tables.length < 8) tables.push(tables.at(-1)!.map((crc) => (crc >>> 8) ^ first[crc & 255]!))
  return tables as unknown as Eight<Int32Array>
}

/** The crc32c of bytes[from … to), as LevelDB writes it down. */
export function maskedCrc(bytes: Uint8Array, from: number, to: number): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  let crc = -1
  let i = from
  for (; i + 8 <= to; i += 8) {
    const a = crc ^ view.getInt32(i, true)
    const b = view.getInt32(i + 4, true)
    const high = T7[a & 255]! ^ T6[(a >>> 8) & 255]! ^ T5[(a >>> 16) & 255]! ^ T4[a >>> 24]!
    crc = high ^ T3[b & 255]! ^ T2[(b >>> 8) & 255]! ^ T1[(b >>> 16) & 255]! ^ T0[b >>> 24]!
  }
  for (; i < to; i++) crc = (crc >>> 8) ^ T0[(crc ^ bytes[i]!) & 255]!
  return mask(crc)
}

const mask = (crc: number): number => ((((~crc >>> 15) | (~crc << 17)) >>> 0) + MASK_DELTA) >>> 0

/** The same, byte by byte. */
export class RunningCrc {
  #crc = -1

  add(byte: number): void {
    this.#crc = (this.#crc >>> 8) ^ T0[(this.#crc ^ byte) & 255]!
  }

  get masked(): number {
    return mask(this.#crc)
  }
}

export const getU32le = (bytes: Uint8Array, at: number): number =>
  (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0

/** A stretch of a file, [from, to). */
export interface Stretch {
  readonly from: number
  readonly to: number
}

/** Its data is put together when it is asked for: who only wants to know that all is whole copies nothing. */
export class LogRecord {
  readonly offset: number
  readonly #parts: readonly Uint8Array[]

  constructor(offset: number, parts: readonly Uint8Array[]) {
    this.offset = offset
    this.#parts = parts
  }

  get data(): Uint8Array {
    return this.#parts.length === 1 ? this.#parts[0]! : Buffer.concat(this.#parts)
  }
}

export interface LogScan {
  readonly records: readonly LogRecord[]
  /** What can't be read, the torn end of the file included. */
  readonly bad: readonly Stretch[]
}

/**
 * Every whole record, also those that LevelDB would drop because they follow a bad spot or lie off its blocks.
 * After a bad spot, `resumes` says whether data that has a right crc can be where the file goes on: bytes of an event
 * may look like a record too.
 */
export function scanRecords(
  bytes: Uint8Array,
  resumes: (data: Uint8Array, before: LogRecord | undefined) => boolean,
): LogScan {
  const records: LogRecord[] = []
  const bad: { from: number; to: number }[] = []
  let open: { readonly offset: number; readonly parts: Uint8Array[] } | undefined
  const spoil = (from: number, to: number): void => {
    const before = bad.at(-1)
    if (before && before.to >= from) before.to = to
    else bad.push({ from, to })
  }
  const drop = (upTo: number): void => {
    if (open) spoil(open.offset, upTo)
    open = undefined
  }
  const goesOn = (at: number): boolean => {
    const type = bytes[at + 6]
    if (at % LOG_BLOCK_BYTES !== 0 && type !== TYPE.whole && type !== TYPE.first) return false
    const end = endOf(bytes, at, false)
    if (end === undefined) return false
    const isStart = type === TYPE.whole || type === TYPE.first
    if (isStart && !resumes(bytes.subarray(at + FRAGMENT_HEADER_BYTES, end), records.at(-1))) return false
    return endOf(bytes, at) !== undefined
  }
  for (let at = 0; at < bytes.length; ) {
    const left = LOG_BLOCK_BYTES - (at % LOG_BLOCK_BYTES)
    if (left < FRAGMENT_HEADER_BYTES && isZero(bytes, at, at + left)) {
      at += left
      continue
    }
    const end = endOf(bytes, at)
    if (end === undefined) {
      let next = at + 1
      while (next < bytes.length && !goesOn(next)) next++
      drop(at)
      spoil(at, next)
      at = next
      continue
    }
    const type = bytes[at + 6]!
    const part = bytes.subarray(at + FRAGMENT_HEADER_BYTES, end)
    if (type === TYPE.whole || type === TYPE.first) {
      drop(at)
      if (type === TYPE.whole) records.push(new LogRecord(at, [part]))
      else open = { offset: at, parts: [part] }
    } else if (!open) spoil(at, end)
    else {
      open.parts.push(part)
      if (type === TYPE.last) {
        records.push(new LogRecord(open.offset, open.parts))
        open = undefined
      }
    }
    at = end
  }
  drop(bytes.length)
  return { records, bad }
}

/** Where the fragment at `at` ends; undefined when there is none. */
function endOf(bytes: Uint8Array, at: number, checked = true): number | undefined {
  const start = at + FRAGMENT_HEADER_BYTES
  if (start > bytes.length) return undefined
  const type = bytes[at + 6]!
  const length = bytes[at + 4]! | (bytes[at + 5]! << 8)
  const end = start + length
  if (type < TYPE.whole || type > TYPE.last || end > bytes.length) return undefined
  if (length > LOG_BLOCK_BYTES - FRAGMENT_HEADER_BYTES) return undefined
  return !checked || maskedCrc(bytes, at + 6, end) === getU32le(bytes, at) ? end : undefined
}

export function isZero(bytes: Uint8Array, from: number, to: number): boolean {
  for (let i = from; i < Math.min(to, bytes.length); i++) if (bytes[i] !== 0) return false
  return true
}

/** The records of a write-ahead file: each a batch, whose seqs rise. */
export function scanLog(bytes: Uint8Array): LogScan {
  let known: LogRecord | undefined
  let seq = 0
  return scanRecords(bytes, (data, before) => {
    if (data.length < BATCH_HEADER_BYTES || getU32le(data, 8) === 0 || (data[6]! | data[7]!) !== 0) return false
    // Bytes of an event may look like thousands of records: the one before them is put together once.
    if (before !== known) seq = before ? seqAt(before.data, 0) : 0
    known = before
    return before === undefined || seqAt(data, 0) > seq
  })
}

/**
 * The bad spot that a write-ahead file can't have by itself: records begin behind it, and the one writer begins the
 * next record only when the one before is on disk. (A spot with none behind it is the torn end of a write that was
 * never acknowledged, or an acknowledged one that the high-water mark misses.)
 */
export function damageIn({ records, bad }: LogScan): Stretch | undefined {
  const newest = records.at(-1)
  return newest && bad.find(({ to }) => to <= newest.offset)
}

/**
 * The records of a bad stretch, as far as they can be read without believing a checksum: most of what stands in them is
 * right, and every row and block of ours tells by its own crc.
 */
export function* doubtedIn(bytes: Uint8Array, { from, to }: Stretch): Generator<Uint8Array> {
  let parts: Uint8Array[] = []
  for (let at = from; at < to; ) {
    const left = LOG_BLOCK_BYTES - (at % LOG_BLOCK_BYTES)
    const end = left < FRAGMENT_HEADER_BYTES ? undefined : endOf(bytes, at, false)
    if (end === undefined || end > to) {
      at += left
      parts = []
      continue
    }
    const type = bytes[at + 6]!
    if (type === TYPE.whole || type === TYPE.first) parts = []
    parts.push(bytes.subarray(at + FRAGMENT_HEADER_BYTES, end))
    if (type === TYPE.whole || type === TYPE.last) {
      yield Buffer.concat(parts)
      parts = []
    }
    at = end
  }
}

// ── What records and tables hold ─────────────────────────────────────────────────────────────────────────────────

/** One version of a key; without a value it was deleted. */
export interface Version {
  readonly key: Uint8Array
  /** LevelDB's number of the write; a higher one is newer. */
  readonly seq: number
  readonly value: Uint8Array | undefined
}

/** LevelDB's numbers have 56 bits; ours stay far below 2^53. */
const seqAt = (bytes: Uint8Array, at: number): number => getU32le(bytes, at + 4) * 2 ** 32 + getU32le(bytes, at)

/** The writes of one batch. Stops where it can't be read. */
export function* versionsOf(batch: Uint8Array): Generator<Version> {
  if (batch.length < BATCH_HEADER_BYTES) return
  const reader = new Reader(batch, BATCH_HEADER_BYTES)
  for (let seq = seqAt(batch, 0); reader.at < batch.length; seq++) {
    const hasValue = reader.byte() === 1
    const key = reader.slice()
    const value = hasValue ? reader.slice() : undefined
    if (reader.failed) return
    yield { key, seq, value }
  }
}

/** Walks LevelDB's varints and slices; `failed` once it ran over the end. */
export class Reader {
  readonly #bytes: Uint8Array
  at: number
  failed = false

  constructor(bytes: Uint8Array, at = 0) {
    this.#bytes = bytes
    this.at = at
  }

  byte(): number {
    if (this.at >= this.#bytes.length) this.failed = true
    return this.failed ? 0 : this.#bytes[this.at++]!
  }

  varint(): number {
    let value = 0
    for (let shift = 0; shift < 63; shift += 7) {
      const byte = this.byte()
      value += (byte & 127) * 2 ** shift
      if (byte < 128) return value
    }
    this.failed = true
    return 0
  }

  take(length: number): Uint8Array {
    if (length > this.#bytes.length - this.at) this.failed = true
    if (this.failed) return new Uint8Array()
    this.at += length
    return this.#bytes.subarray(this.at - length, this.at)
  }

  slice(): Uint8Array {
    return this.take(this.varint())
  }
}
