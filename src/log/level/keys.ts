/**
 * The keys and rows of the embedded log. Nobody else builds a key.
 *
 *   e | channel u32 | last u64            → block
 *   h | channel u32                       → head row: head, trimmed, time, cleaned, run, life
 *   n | name                              → name row: channel u32, settings
 *   c | channel u32 | client              → cursor: epoch, seq, time
 *   d | client | 0 | channel name         → (nothing) written when a cursor is made, removed when it is deleted
 *   i | day u32 | channel u32 | key       → receipt of an append under an idempotency key
 *   l | channel u32 | after u64           → loss: events that salvage could not find, told to verify
 *   x | channel u32                       → sweep: what trim or delete left behind, to be cleared
 *   a | name                              → arrival: a history that comes from elsewhere (arriving.ts), or came
 *   f | channel u32 | key                 → state row: the newest event of a key, its seq and its time
 *   p | channel u32                       → place: how far the state rows of a channel go, how many, a sum over them
 *   y | channel u32                       → state rows that count no more, to be cleared
 *   o | name                              → epochs that histories of this name kept from elsewhere, and that ended here
 *   m | store                             → store row: format, life, the lives before
 *   m | commit                            → commit number of the newest write, and its time
 *   m | next                              → next channel number; numbers are never reused
 *
 * One-byte prefixes, big-endian numbers. Keyed by `last`, the block that continues `after` is one forward seek.
 * A block carries its own crc; every other row ends with the crc32 of key and value, so that a flipped bit or a
 * misplaced row is found before it is believed.
 */
import { crc32 } from 'node:zlib'
import { pack, unpack } from 'msgpackr'
import { getU32, getU64, putU32, putU64 } from '../../bytes.ts'
import { TidemarkError } from '../../errors.ts'
import { SEQ_MAX } from '../../event.ts'
import type { Settings } from '../log.ts'

/** On-disk format of the whole store; a newer one is refused. */
export const STORE_FORMAT = 1

const PREFIX = {
  ...{ e: 0x65, f: 0x66, h: 0x68, n: 0x6e, c: 0x63, d: 0x64, i: 0x69 },
  ...{ l: 0x6c, x: 0x78, a: 0x61, m: 0x6d, o: 0x6f, p: 0x70, y: 0x79 },
} as const

export const STORE_KEY = Buffer.from('mstore')
export const COMMIT_KEY = Buffer.from('mcommit')
export const NEXT_KEY = Buffer.from('mnext')

export interface Range {
  readonly gte: Uint8Array
  readonly lte: Uint8Array
}

export function blockKey(channel: number, last: number): Uint8Array {
  const key = Buffer.allocUnsafe(13)
  key[0] = PREFIX.e
  putU32(key, 1, channel)
  putU64(key, 5, last)
  return key
}

/** The blocks of a channel whose last seq is in first … last. */
export const blockRange = (channel: number, first: number, last = SEQ_MAX): Range => ({
  gte: blockKey(channel, first),
  lte: blockKey(channel, last),
})

/**
 * With these bytes begin the keys of blocks of events and of state rows, and no others: of both there may be very many,
 * and what is wrong with one is found when it is read, by its own crc and by what it stands beside.
 */
export const MASS_PREFIXES = [PREFIX.e, PREFIX.f] as const
export const isMassKey = (key: Uint8Array): boolean => key[0] === PREFIX.e || key[0] === PREFIX.f

export const lastOfBlockKey = (key: Uint8Array): number => getU64(key, 5)
export const channelOfKey = (key: Uint8Array): number => getU32(key, 1)

const numbered = (prefix: number, channel: number, text = ''): Uint8Array => {
  const key = Buffer.allocUnsafe(5 + Buffer.byteLength(text))
  key[0] = prefix
  putU32(key, 1, channel)
  key.write(text, 5)
  return key
}

const named = (prefix: number, text: string): Uint8Array => {
  const key = Buffer.allocUnsafe(1 + Buffer.byteLength(text))
  key[0] = prefix
  key.write(text, 1)
  return key
}

/** Every key that begins with these bytes. Names are ASCII, so 0xff ends any of them. */
const startingWith = (start: Uint8Array): Range => ({ gte: start, lte: Buffer.concat([start, Buffer.from([0xff])]) })

/** Keys beside the blocks over (after, upTo], before the first and behind the last: no row ever has them. */
export const edgesOf = (channel: number, after: number, upTo: number): readonly [Uint8Array, Uint8Array] => {
  const beside = (last: number): Uint8Array => Buffer.concat([blockKey(channel, last), Buffer.alloc(1)])
  return [beside(after), beside(upTo)]
}

export const headKey = (channel: number): Uint8Array => numbered(PREFIX.h, channel)
export const nameKey = (name: string): Uint8Array => named(PREFIX.n, name)
export const nameRange = (prefix: string): Range => startingWith(nameKey(prefix))
export const nameOfKey = (key: Uint8Array): string => Buffer.from(key).toString('latin1', 1)

export const cursorKey = (channel: number, client: string): Uint8Array => numbered(PREFIX.c, channel, client)
export const cursorRange = (channel: number): Range => startingWith(numbered(PREFIX.c, channel))
export const clientOfCursorKey = (key: Uint8Array): string => Buffer.from(key).toString('latin1', 5)

export const clientKey = (client: string, channel: string): Uint8Array => named(PREFIX.d, `${client}\0${channel}`)
export const clientRange = (client: string): Range => startingWith(named(PREFIX.d, `${client}\0`))
/** Those of all clients whose names begin so. */
export const clientsRange = (beginning: string): Range => startingWith(named(PREFIX.d, beginning))
export const channelOfClientKey = (key: Uint8Array): string => {
  const text = Buffer.from(key).toString('latin1', 1)
  return text.slice(text.indexOf('\0') + 1)
}

/** All rows of one kind. */
export const rangeOf = (prefix: keyof typeof PREFIX): Range => ({
  gte: Buffer.from([PREFIX[prefix]]),
  lte: Buffer.concat([Buffer.from([PREFIX[prefix]]), Buffer.alloc(300, 0xff)]),
})

export function lossKey(channel: number, after: number): Uint8Array {
  const key = Buffer.from(blockKey(channel, after))
  key[0] = PREFIX.l
  return key
}
export const lossRange = (channel: number): Range => ({ gte: lossKey(channel, 0), lte: lossKey(channel, SEQ_MAX) })

/** @param key UTF-8, each byte a character */
export function stateKey(channel: number, key: string): Uint8Array {
  const row = Buffer.allocUnsafe(5 + key.length)
  row[0] = PREFIX.f
  putU32(row, 1, channel)
  row.write(key, 5, 'latin1')
  return row
}
/** Its ends are no rows: no event has an empty key, and no UTF-8 holds a 0xff. */
export const stateRange = (channel: number): Range => startingWith(numbered(PREFIX.f, channel))
export const keyOfStateKey = (key: Uint8Array): string => Buffer.from(key).toString('latin1', 5)
export const placeKey = (channel: number): Uint8Array => numbered(PREFIX.p, channel)
export const clearingKey = (channel: number): Uint8Array => numbered(PREFIX.y, channel)

export const arrivalKey = (name: string): Uint8Array => named(PREFIX.a, name)

export const overKey = (name: string): Uint8Array => named(PREFIX.o, name)

export const sweepKey = (channel: number): Uint8Array => numbered(PREFIX.x, channel)
export const SWEEPS: Range = startingWith(Buffer.from([PREFIX.x]))

const DAY_MS = 86_400_000
/** The day that a receipt is filed under; an expired day is one range. */
export const dayOf = (ms: number): number => Math.floor(ms / DAY_MS)

export function receiptKey(day: number, channel: number, key: string): Uint8Array {
  const row = Buffer.allocUnsafe(9 + key.length)
  row[0] = PREFIX.i
  putU32(row, 1, day)
  putU32(row, 5, channel)
  row.write(key, 9, 'latin1')
  return row
}

/** Receipts filed before `day`. */
export const receiptsBefore = (day: number): Range => ({
  gte: Buffer.from([PREFIX.i]),
  lte: receiptKey(day - 1, 0xffffffff, '\xff'),
})

// ── Rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Appends the crc of key and value. */
function seal(key: Uint8Array, value: Uint8Array): Uint8Array {
  const row = Buffer.allocUnsafe(value.length + 4)
  row.set(value)
  putU32(row, value.length, crc32(value, crc32(key)))
  return row
}

/** The value without its crc. Throws `data-loss` when it is not the row that was written under this key. */
function unseal(key: Uint8Array, row: Uint8Array, what: string): Buffer {
  const end = row.length - 4
  const value = Buffer.from(row.buffer, row.byteOffset, Math.max(end, 0))
  if (end < 0 || crc32(value, crc32(key)) !== getU32(row, end))
    throw new TidemarkError('data-loss', `The ${what} row is damaged`, { row: what })
  return value
}

export interface HeadRow {
  readonly head: number
  readonly trimmed: number
  /** Of the newest event, ms. */
  readonly time: number
  /** Highest seq of a tombstone that compaction removed; 0 if none. */
  readonly cleaned: number
  /** Rises when compaction removes tombstones. */
  readonly run: number
  /** This history's own part of the epoch, or what `movedLife` made of it. */
  readonly life: string
}

export function encodeHead(key: Uint8Array, h: HeadRow): Uint8Array {
  const value = Buffer.allocUnsafe(36 + h.life.length)
  putU64(value, 0, h.head)
  putU64(value, 8, h.trimmed)
  putU64(value, 16, h.time)
  putU64(value, 24, h.cleaned)
  putU32(value, 32, h.run)
  value.write(h.life, 36, 'latin1')
  return seal(key, value)
}

export function decodeHead(key: Uint8Array, row: Uint8Array): HeadRow {
  const value = unseal(key, row, 'head')
  return {
    head: getU64(value, 0),
    trimmed: getU64(value, 8),
    time: getU64(value, 16),
    cleaned: getU64(value, 24),
    run: getU32(value, 32),
    life: value.toString('latin1', 36),
  }
}

/** Stands between a life and the places that it belongs to: `life@there:here`. */
const FROM = '@'

/**
 * The life of a channel that keeps the epoch `<there>.<life>` it had in another store, for as long as this store's own
 * life is `here`: what makes every epoch another one makes this one another one, too.
 */
export const movedLife = (life: string, there: string, here: string): string => `${life}${FROM}${there}:${here}`

/** The epoch that a channel of this life has kept from elsewhere, without its run; undefined when it has its own. */
export function keptEpoch(life: string): string | undefined {
  const [own, places] = life.split(FROM)
  return places && `${places.split(':')[0]}.${own}`
}

/** `<store life>.<channel life>`, with `~run` once compaction has removed tombstones. */
export function epochOf(store: string, { life, run }: Pick<HeadRow, 'life' | 'run'>): string {
  const epoch = life.includes(FROM) ? movedEpoch(store, life) : `${store}.${life}`
  return run === 0 ? epoch : `${epoch}~${run}`
}

function movedEpoch(store: string, moved: string): string {
  const [life, places = ''] = moved.split(FROM)
  const [there, here] = places.split(':')
  return `${here === store ? there : store}.${life}`
}

/** Rows that are not on the hot path are MessagePack. */
const encode =
  <T>() =>
  (key: Uint8Array, value: T): Uint8Array =>
    seal(key, pack(value))
const decode =
  <T>(what: string) =>
  (key: Uint8Array, row: Uint8Array): T =>
    unpack(unseal(key, row, what)) as T

export interface NameRow {
  readonly channel: number
  readonly settings: Settings
}
export const encodeName = encode<NameRow>()
export const decodeName = decode<NameRow>('name')

export interface CursorRow {
  readonly epoch: string
  readonly seq: number
  readonly time: number
}
export const encodeCursor = encode<CursorRow>()
export const decodeCursor = decode<CursorRow>('cursor')

export interface ReceiptRow {
  /** crc32 of the append as it was sent: channels, bodies, expected seqs. */
  readonly crc: number
  readonly answers: readonly { channel: string; epoch: string; first: number; last: number }[]
}
export const encodeReceipt = encode<ReceiptRow>()
export const decodeReceipt = decode<ReceiptRow>('receipt')

/** `deleted` holds the name of a channel that is gone; otherwise blocks up to `upTo` are to be cleared. */
export interface SweepRow {
  readonly upTo: number
  readonly deleted?: string
}
export const encodeSweep = encode<SweepRow>()
export const decodeSweep = decode<SweepRow>('sweep')

/** A history from elsewhere. Its channel has a number, and no name row before all of it came. */
export interface ArrivalRow {
  /** Its epoch there, and its head there. */
  readonly from: string
  readonly upTo: number
  readonly sameEpoch: boolean
  readonly channel: number
  readonly life: string
  readonly run: number
  /** How far it came. */
  readonly head: number
  readonly trimmed: number
  readonly time: number
  /** The channel is there by now. */
  readonly isWhole: boolean
}
export const encodeArrival = encode<ArrivalRow>()
export const decodeArrival = decode<ArrivalRow>('arrival')

/** The events after the key's seq, up to and with `upTo`. */
export interface LossRow {
  readonly upTo: number
}
export const encodeLoss = encode<LossRow>()
export const decodeLoss = decode<LossRow>('loss')

/** How far the state rows of a channel go. */
export interface PlaceRow {
  readonly channel: string
  /** Of these rows, from when they were begun on. */
  readonly set: string
  readonly epoch: string
  readonly at: number
  /** Up to here what is trimmed has no rows any more. */
  readonly trimmed: number
  /** How many rows there are, and the crcs of all of them, by exclusive or: LevelDB passes over what it can not read. */
  readonly rows: number
  readonly sum: number
}
export const encodePlace = encode<PlaceRow>()
export const decodePlace = decode<PlaceRow>('place')

export interface ClearingRow {
  readonly channel: string
}
export const encodeClearing = encode<ClearingRow>()
export const decodeClearing = decode<ClearingRow>('clearing')

export interface StateValue {
  readonly seq: number
  readonly time: number
  /** Its MessagePack array, each byte a character. */
  readonly event: string
}

export function encodeState(key: Uint8Array, { seq, time, event }: StateValue): Uint8Array {
  const value = Buffer.allocUnsafe(16 + event.length)
  putU64(value, 0, seq)
  putU64(value, 8, time)
  value.write(event, 16, 'latin1')
  return seal(key, value)
}

export function decodeState(key: Uint8Array, row: Uint8Array): StateValue {
  const value = unseal(key, row, 'state')
  return { seq: getU64(value, 0), time: getU64(value, 8), event: value.toString('latin1', 16) }
}

/** What a row adds to the sum of its kind, once its crc was found right. */
export const crcOfRow = (row: Uint8Array): number => getU32(row, row.length - 4)

/** Epochs without their runs. */
export const encodeOver = encode<readonly string[]>()
export const decodeOver = decode<readonly string[]>('over')

export interface StoreRow {
  readonly format: number
  readonly life: string
  /** Lives that it had before an operator accepted a copy or a loss. */
  readonly before?: readonly string[]
}
export const encodeStore = encode<StoreRow>()
export const decodeStore = decode<StoreRow>('store')

export interface CommitRow {
  readonly commit: number
  /** ms; never falls, so that receipts are filed under days that never go back. */
  readonly time: number
}

export function encodeCommit(row: CommitRow): Uint8Array {
  const value = Buffer.allocUnsafe(16)
  putU64(value, 0, row.commit)
  putU64(value, 8, row.time)
  return seal(COMMIT_KEY, value)
}

export function decodeCommit(row: Uint8Array): CommitRow {
  const value = unseal(COMMIT_KEY, row, 'commit')
  return { commit: getU64(value, 0), time: getU64(value, 8) }
}

export function encodeNext(next: number): Uint8Array {
  const value = Buffer.allocUnsafe(4)
  putU32(value, 0, next)
  return seal(NEXT_KEY, value)
}

export const decodeNext = (row: Uint8Array): number => getU32(unseal(NEXT_KEY, row, 'next'), 0)
