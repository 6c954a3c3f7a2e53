/**
 * Verification of a stopped log, read-only and without LevelDB: its files' checksums, every row's and block's crc, the
 * chain of each channel from trimmed to head, cursors, receipts and the high-water mark.
 */

import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { Header } from '../../block.ts'
import { sameHistory } from '../../epoch.ts'
import { TidemarkError } from '../../errors.ts'
import type { Loss } from '../log.ts'
import { type Report, Tally, type VerifyOptions } from '../verify.ts'
import {
  blockRange,
  COMMIT_KEY,
  channelOfClientKey,
  channelOfKey,
  clientKey,
  clientOfCursorKey,
  crcOfRow,
  cursorKey,
  decodeArrival,
  decodeClearing,
  decodeCommit,
  decodeCursor,
  decodeHead,
  decodeLoss,
  decodeName,
  decodeNext,
  decodeOver,
  decodePlace,
  decodeReceipt,
  decodeState,
  decodeStore,
  decodeSweep,
  epochOf,
  type HeadRow,
  headKey,
  lastOfBlockKey,
  type NameRow,
  NEXT_KEY,
  nameOfKey,
  type PlaceRow,
  rangeOf,
  STORE_KEY,
  type StoreRow,
} from './keys.ts'
import { takeLock } from './lock.ts'
import { Mark } from './mark.ts'
import { Rows } from './merge.ts'
import { markPath, storeDir } from './places.ts'
import { check } from './read.ts'

/** Other work gets its turn after so many bytes. */
const TURN_BYTES = 4 * 1024 * 1024

const NUMBER_MAX = 0xffffffff

/** What a row holds, or why it can't be believed. */
type Read<T> = { readonly row: T } | { readonly why: string }

const read = <T>(decode: () => T): Read<T> => {
  try {
    return { row: decode() }
  } catch (error) {
    return { why: (error as Error).message }
  }
}

/** A channel as its rows tell it. */
export interface StoredChannel {
  readonly number: number
  readonly name: string
  readonly settings: NameRow['settings']
  /** Undefined when the row is damaged or missing. */
  readonly head: HeadRow | undefined
  /** What trim left was still to be cleared up to here: so far it was trimmed, whatever the head row says. */
  readonly sweptUpTo: number
}

/** What a stopped log says of itself, beside its blocks. */
export interface Contents {
  readonly store: StoreRow | undefined
  readonly commit: { readonly commit: number; readonly time: number } | undefined
  readonly next: number
  readonly mark: ReturnType<Mark['read']>
  readonly channels: readonly StoredChannel[]
  /** Numbers without a name: of channels that were deleted and not cleared yet, and of histories that still arrive. */
  readonly unnamed: ReadonlySet<number>
  readonly losses: readonly Loss[]
}

/** Holds the lock and the rows of a stopped log while `work` looks at it. @throws in-use, not-found, io-error */
export async function withStopped<T>(
  dir: string,
  work: (rows: Rows, dir: string) => Promise<T>,
  withStrays = false,
): Promise<T> {
  const path = resolve(dir)
  if (!existsSync(storeDir(path))) throw new TidemarkError('not-found', `There is no log in ${path}`)
  const lock = await takeLock(path, false)
  try {
    const rows = new Rows(storeDir(path), withStrays)
    try {
      return await work(rows, path)
    } finally {
      rows.close()
    }
  } catch (error) {
    if (error instanceof TidemarkError || (error as Error).name === 'AbortError') throw error
    throw new TidemarkError('io-error', `${path} can not be read: ${(error as Error).message}`, {}, { cause: error })
  } finally {
    await lock.release()
  }
}

/** Reads every row but blocks, cursors and receipts; what is wrong with one is told to `find`. */
export function contentsOf(rows: Rows, dir: string, find: Tally['find']): Contents {
  const rowOf = <T>(key: Uint8Array, name: string, decode: (row: Uint8Array) => T): T | undefined => {
    const value = rows.get(key)
    if (value === undefined) {
      find('row', `The ${name} row is missing`)
      return undefined
    }
    const found = read(() => decode(value))
    if ('row' in found) return found.row
    find('row', found.why)
    return undefined
  }
  const store = rowOf(STORE_KEY, 'store', (row) => decodeStore(STORE_KEY, row))
  const commit = rowOf(COMMIT_KEY, 'commit', decodeCommit)
  const unnamed = new Set<number>()
  const swept = new Map<number, number>()
  for (const [key, value] of rows.range(rangeOf('x'))) {
    const found = read(() => decodeSweep(key, value))
    if ('why' in found) find('row', found.why)
    else if (found.row.deleted !== undefined) unnamed.add(channelOfKey(key))
    else swept.set(channelOfKey(key), found.row.upTo)
  }
  for (const [key, value] of rows.range(rangeOf('a'))) {
    const found = read(() => decodeArrival(key, value))
    if ('why' in found) find('row', found.why)
    else if (!found.row.isWhole) unnamed.add(found.row.channel)
  }
  for (const [key, value] of rows.range(rangeOf('o'))) {
    const found = read(() => decodeOver(key, value))
    if ('why' in found) find('row', found.why)
  }
  const channels: StoredChannel[] = []
  for (const [key, value] of rows.range(rangeOf('n'))) {
    const name = nameOfKey(key)
    const found = read(() => decodeName(key, value))
    if ('why' in found) {
      find('head', found.why, { channel: name })
      continue
    }
    const { channel: number, settings } = found.row
    if (unnamed.has(number)) {
      find('row', `Channel ${name} was deleted or is still to come, but its name row is there`, { channel: name })
      continue
    }
    const row = rows.get(headKey(number))
    const head = row && read(() => decodeHead(headKey(number), row))
    if (!head || 'why' in head) find('head', head ? head.why : 'The head row is missing', { channel: name })
    channels.push({
      number,
      name,
      settings,
      head: head && 'row' in head ? head.row : undefined,
      sweptUpTo: swept.get(number) ?? 0,
    })
  }
  // No number was ever given out before the first channel was made.
  const next = (channels.length > 0 || rows.get(NEXT_KEY) ? rowOf(NEXT_KEY, 'next', decodeNext) : 1) ?? 1
  for (const { number, name } of channels)
    if (number >= next) find('row', `Channel ${name} has a number that was not given out yet`, { channel: name })
  const nameOf = new Map(channels.map(({ number, name }) => [number, name]))
  const losses: Loss[] = []
  for (const [key, value] of rows.range(rangeOf('l'))) {
    const found = read(() => decodeLoss(key, value))
    const channel = nameOf.get(channelOfKey(key))
    if ('why' in found) find('row', found.why)
    else if (channel !== undefined) losses.push({ channel, after: lastOfBlockKey(key), upTo: found.row.upTo })
  }
  const markFile = markPath(dir)
  const mark = existsSync(markFile) ? Mark.peek(markFile) : undefined
  return { store, commit, next, mark, channels, unnamed, losses }
}

/** What follows in a channel: a whole block that continues, or events that are lost. */
export type Step =
  | { readonly is: 'block'; readonly key: Uint8Array; readonly block: Uint8Array; readonly header: Header }
  | { readonly is: 'loss'; readonly after: number; readonly upTo: number; readonly why: string }
  | { readonly is: 'stray'; readonly bytes: number; readonly why: string }

/** Walks the chain of a channel from `trimmed` to `head`; without a head row from whatever is there. */
export function* walk(rows: Rows, { name, number, head, sweptUpTo }: StoredChannel): Generator<Step> {
  const start = head?.trimmed ?? (sweptUpTo > 0 ? sweptUpTo : undefined)
  let position = start
  let why = 'missing'
  let newest = 0
  for (const [key, block] of rows.range(blockRange(number, (start ?? 0) + 1))) {
    const last = lastOfBlockKey(key)
    const header = check(name, block, last)
    newest = last
    if (!header) {
      why = 'damaged'
      yield { is: 'stray', bytes: block.length, why: `block ${last} does not match its crc` }
      continue
    }
    const isFirst = position === undefined || position === start
    position ??= header.after
    // A leftover of an older compaction would say the same twice; the chain goes on without it.
    if (header.after < position && !(isFirst && header.last > position)) continue
    if (header.after > position) yield { is: 'loss', after: position, upTo: header.after, why }
    yield { is: 'block', key, block, header }
    position = header.last
    why = 'missing'
  }
  // Without a head row the keys of damaged blocks tell how far it went.
  const end = head?.head ?? newest
  if ((position ?? 0) < end) yield { is: 'loss', after: position ?? 0, upTo: end, why }
  if (head && position !== undefined && position > head.head)
    yield { is: 'stray', bytes: 0, why: `the head is ${head.head}, but blocks go on to ${position}` }
}

/** @throws in-use, not-found, io-error */
export function verifyLevel(dir: string, options: VerifyOptions = {}): Promise<Report> {
  return withStopped(dir, async (rows, path) => {
    const tally = new Tally()
    const find = tally.find.bind(tally)
    const contents = contentsOf(rows, path, find)
    verifyMark(contents, find)
    let turn = 0
    const pace = async (channel: string, bytes: number): Promise<void> => {
      tally.bytes += bytes
      if (tally.bytes < turn) return
      turn = tally.bytes + TURN_BYTES
      options.onProgress?.({ channel, bytes: tally.bytes })
      await nextTurn()
      options.signal?.throwIfAborted()
    }
    for (const channel of contents.channels) {
      const { name } = channel
      tally.channels++
      for (const step of walk(rows, channel)) {
        if (step.is === 'loss') tally.lose(name, step.after, step.upTo, contents.losses, step.why)
        else if (step.is === 'stray') find('events', step.why, { channel: name })
        else {
          tally.blocks++
          tally.events += step.header.count
          await pace(name, step.block.length)
        }
      }
    }
    for (const number of strangersIn(rows, contents))
      find('head', `Events of channel number ${number} are there, but no name row is`)
    verifyCursors(rows, contents, tally)
    verifyReceipts(rows, contents, tally)
    await verifyStates(rows, contents, tally, options.signal)
    for (const { what, ...where } of rows.faults) find('file', what, where)
    return tally.report()
  })
}

/** Numbers that blocks are filed under, but no channel has. */
export function* strangersIn(rows: Rows, { channels, unnamed }: Contents): Generator<number> {
  const known = [...channels.map(({ number }) => number), ...unnamed].sort((a, b) => a - b)
  let from = 0
  for (const number of [...known, NUMBER_MAX]) {
    while (from < number) {
      const [row] = rows.range({ gte: blockRange(from, 0).gte, lte: blockRange(number - 1, 0).lte })
      if (!row) break
      const stranger = channelOfKey(row[0])
      yield stranger
      from = stranger + 1
    }
    from = number + 1
  }
}

function verifyMark({ store, commit, mark }: Contents, find: Tally['find']): void {
  if (!mark) find('mark', 'The high-water mark is missing or unreadable')
  else if (mark.commit > 0 && !mark.original) find('mark', 'This directory is a copy of another log')
  else if (store && mark.commit > 0 && mark.life !== store.life)
    find('mark', 'The store is of another life than its high-water mark')
  else if (commit && commit.commit < mark.commit) find('mark', `Commits ${commit.commit + 1}–${mark.commit} are gone`)
}

function verifyCursors(rows: Rows, { store, channels, unnamed }: Contents, tally: Tally): void {
  const byNumber = new Map(channels.map((channel) => [channel.number, channel]))
  for (const [key, value] of rows.range(rangeOf('c'))) {
    const number = channelOfKey(key)
    const client = clientOfCursorKey(key)
    const channel = byNumber.get(number)
    const where = { client, ...(channel && { channel: channel.name }) }
    if (channel) tally.cursors++
    else {
      if (!unnamed.has(number)) tally.find('cursor', `of channel number ${number}, which has no name row`, where)
      continue
    }
    const found = read(() => decodeCursor(key, value))
    if ('why' in found) {
      tally.find('cursor', found.why, where)
      continue
    }
    const { epoch, seq } = found.row
    const head = channel.head
    if (head && store && sameHistory(epoch, epochOf(store.life, head)) && seq > head.head)
      tally.find('cursor', `it stands at ${seq}, the head is ${head.head}`, where)
    if (rows.get(clientKey(client, channel.name)) === undefined)
      tally.find('cursor', 'it is not in the list of its client', where)
  }
  const names = new Map(channels.map((channel) => [channel.name, channel]))
  for (const [key] of rows.range(rangeOf('d'))) {
    const name = channelOfClientKey(key)
    const channel = names.get(name)
    const client = Buffer.from(key).toString('latin1', 1, key.indexOf(0))
    if (channel && rows.get(cursorKey(channel.number, client)) === undefined)
      tally.find('cursor', 'the list of its client has it, but there is none', { client, channel: name })
  }
}

/** Rows of states, their places, and what of them is to be cleared. */
async function verifyStates(
  rows: Rows,
  { channels, unnamed }: Contents,
  tally: Tally,
  signal?: AbortSignal,
): Promise<void> {
  const clearing = new Set(unnamed)
  for (const [key, value] of rows.range(rangeOf('y'))) {
    const found = read(() => decodeClearing(key, value))
    clearing.add(channelOfKey(key))
    if ('why' in found) tally.find('row', found.why)
  }
  const byNumber = new Map(channels.map(({ number, name }) => [number, name]))
  const places = new Map<number, PlaceRow>()
  for (const [key, value] of rows.range(rangeOf('p'))) {
    const number = channelOfKey(key)
    const found = read(() => decodePlace(key, value))
    const channel = byNumber.get(number)
    if ('row' in found) places.set(number, found.row)
    else tally.find('state', found.why, channel === undefined ? {} : { channel })
  }
  const counts = new Map<number, { rows: number; sum: number }>()
  let turn = 0
  for (const [key, value] of rows.range(rangeOf('f'))) {
    const number = channelOfKey(key)
    const channel = byNumber.get(number)
    const { rows: before, sum } = counts.get(number) ?? { rows: 0, sum: 0 }
    const found = read(() => decodeState(key, value))
    if ('why' in found) tally.find('state', found.why, channel === undefined ? {} : { channel })
    else counts.set(number, { rows: before + 1, sum: (sum ^ crcOfRow(value)) >>> 0 })
    turn += value.length
    if (turn < TURN_BYTES) continue
    turn = 0
    await nextTurn()
    signal?.throwIfAborted()
  }
  for (const number of new Set([...places.keys(), ...counts.keys()])) {
    if (clearing.has(number)) continue
    const place = places.get(number)
    const { rows: found, sum } = counts.get(number) ?? { rows: 0, sum: 0 }
    const channel = byNumber.get(number)
    if (place?.rows === found && place.sum === sum && channel !== undefined) continue
    const detail = `${found} rows of the state of ${channel ?? `channel number ${number}`} are not the ${place?.rows ?? 0} that were written`
    tally.find('state', detail, channel === undefined ? {} : { channel })
  }
}

function verifyReceipts(rows: Rows, { store, channels }: Contents, tally: Tally): void {
  const byName = new Map(channels.map((channel) => [channel.name, channel]))
  for (const [key, value] of rows.range(rangeOf('i'))) {
    const found = read(() => decodeReceipt(key, value))
    if ('why' in found) {
      tally.find('receipt', found.why)
      continue
    }
    for (const { channel, epoch, last } of found.row.answers) {
      const head = byName.get(channel)?.head
      if (head && store && sameHistory(epoch, epochOf(store.life, head)) && last > head.head)
        tally.find('receipt', `it was answered with seq ${last}, the head is ${head.head}`, { channel })
    }
  }
}
