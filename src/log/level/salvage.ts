/**
 * Salvage: a new log of everything that is provably whole in a damaged one. It reads what LevelDB refuses to open or
 * drops, changes nothing in the original, and lists what is lost. Events keep their seqs and times; the new log is
 * another life, so that no reader goes on silently. A lost range stays a hole in its channel: readers are told
 * `data-loss` where it begins, and a loss row lets `verify` tell it from new damage.
 */
import { existsSync, realpathSync, rmSync } from 'node:fs'
import { dirname, join, relative, resolve, sep } from 'node:path'
import { TidemarkError } from '../../errors.ts'
import type { Finding, Loss } from '../log.ts'
import { type Report, Tally, type VerifyOptions } from '../verify.ts'
import { systemError } from './cause.ts'
import type { Batch } from './db.ts'
import {
  blockRange,
  channelOfClientKey,
  channelOfKey,
  clientKey,
  clientOfCursorKey,
  cursorKey,
  decodeCursor,
  decodeHead,
  decodeOver,
  decodeReceipt,
  encodeHead,
  encodeLoss,
  encodeName,
  encodeNext,
  encodePlace,
  encodeStore,
  epochOf,
  type HeadRow,
  headKey,
  lossKey,
  NEXT_KEY,
  nameKey,
  nameOfKey,
  placeKey,
  rangeOf,
  STORE_FORMAT,
  STORE_KEY,
} from './keys.ts'
import type { Rows } from './merge.ts'
import { makePlaceFor, nameDraft, storeDir } from './places.ts'
import { check } from './read.ts'
import { beginning } from './state-drafts.ts'
import { newLife, Store } from './store.ts'
import { type Contents, contentsOf, type StoredChannel, strangersIn, verifyLevel, walk, withStopped } from './verify.ts'

/** What is written at once. */
const BATCH_BYTES = 2 * 1024 * 1024

export interface Salvaged extends Report {
  /** False when anything is lost; `findings` says what. */
  readonly whole: boolean
  /** Ranges of events that could not be found. */
  readonly lost: readonly Loss[]
}

/**
 * @param into must not exist, or be an empty directory; it is there only when all of it is.
 * @throws in-use, not-found, cannot-create, storage-full, io-error; the signal's reason
 */
export async function salvageLevel(from: string, into: string, options: VerifyOptions = {}): Promise<Salvaged> {
  const target = resolve(into)
  const draft = `${target}.salvaging`
  checkPlaces(resolve(from), target, draft)
  makePlaceFor(target)
  try {
    const salvaged = await withStopped(from, (rows, dir) => copyWhole(rows, dir, draft, options), true)
    nameDraft(draft, target)
    return salvaged
  } catch (error) {
    rmSync(draft, { recursive: true, force: true })
    throw error
  }
}

/** Before anything is made. @throws not-found, cannot-create */
function checkPlaces(source: string, target: string, draft: string): void {
  if (!existsSync(storeDir(source))) throw new TidemarkError('not-found', `There is no log in ${source}`)
  const original = realpathSync(source)
  for (let path = dirname(target); ; path = dirname(path))
    if (existsSync(path)) {
      const place = join(realpathSync(path), relative(path, target))
      if (place === original || place.startsWith(original + sep))
        throw new TidemarkError('cannot-create', `${target} lies in the log that is to be saved`)
      break
    }
  if (existsSync(draft)) throw new TidemarkError('cannot-create', `${draft} is left of an earlier run: remove it first`)
}

async function copyWhole(rows: Rows, dir: string, draft: string, options: VerifyOptions): Promise<Salvaged> {
  const tally = new Tally()
  const find = tally.find.bind(tally)
  const contents = contentsOf(rows, dir, find)
  const { mark, commit } = contents
  if (mark && !commit) find('mark', `Without a commit row nobody knows whether all is here up to commit ${mark.commit}`)
  if (mark && commit && commit.commit < mark.commit)
    find('mark', `Commits ${commit.commit + 1}–${mark.commit} are gone: what they held is not known`)
  const store = await Store.open({ dir: draft })
  try {
    const writer = new Writer(store)
    const channels = [...contents.channels, ...namedAgain(rows, contents, find)]
    const lost: Loss[] = []
    for (const channel of channels) {
      lost.push(...(await copyChannel(rows, channel, writer, tally, contents.losses, options)))
      tally.channels++
    }
    await copyCursors(rows, channels, contents, writer, tally)
    for (const [key, value] of rows.range(rangeOf('i')))
      if (isWhole(() => decodeReceipt(key, value))) await writer.put(key, value)
      else find('receipt', 'A receipt is damaged')
    // What may not be used again, here neither.
    for (const [key, value] of rows.range(rangeOf('o')))
      if (isWhole(() => decodeOver(key, value))) await writer.put(key, value)
    const { life, before = [] } = contents.store ?? {}
    const lives = [...before, ...new Set([life, mark?.life])].filter((each) => each !== undefined)
    await writer.put(STORE_KEY, encodeStore(STORE_KEY, { format: STORE_FORMAT, life: store.life, before: lives }))
    const next = Math.max(contents.next, 1 + Math.max(0, ...channels.map(({ number }) => number)))
    await writer.put(NEXT_KEY, encodeNext(next))
    await writer.end()
    for (const { what, ...where } of rows.faults) find('file', what, where)
    await store.close()
    await expectWhole(draft)
    return { ...tally.report(), whole: !tally.findings.some(isLoss), lost }
  } catch (error) {
    await store.close()
    throw error
  }
}

/** Every file but the tables and logs can be done without; a copy is as whole as its original. */
const isLoss = ({ part, file, detail }: Finding): boolean =>
  part === 'file' ? /\.(?:log|ldb|sst)$/.test(file ?? '') : part !== 'mark' || /gone/.test(detail)

async function copyChannel(
  rows: Rows,
  channel: StoredChannel,
  writer: Writer,
  tally: Tally,
  known: readonly Loss[],
  options: VerifyOptions,
): Promise<Loss[]> {
  const { name, number, settings } = channel
  const lost: Loss[] = []
  let first: number | undefined
  let last = 0
  let time = 0
  for (const step of walk(rows, channel)) {
    options.signal?.throwIfAborted()
    if (step.is === 'loss') {
      first ??= step.after
      last = Math.max(last, step.upTo)
      lost.push({ channel: name, after: step.after, upTo: step.upTo })
    }
    if (step.is === 'block') {
      const { header, key, block } = step
      first ??= header.after
      last = header.last
      time = Math.max(time, header.time)
      tally.blocks++
      tally.events += header.count
      tally.bytes += block.length
      await writer.put(key, block)
      options.onProgress?.({ channel: name, bytes: tally.bytes })
    }
  }
  // Without a head row nobody knows whether what stood before the first block was trimmed or lost.
  const head: HeadRow = channel.head
    ? { ...channel.head, head: Math.max(channel.head.head, last) }
    : { head: last, trimmed: first ?? channel.sweptUpTo, time, cleaned: 0, run: 0, life: newLife() }
  if (!channel.head && head.trimmed > channel.sweptUpTo)
    tally.find('events', 'trimmed or lost', { channel: name, after: 0, upTo: head.trimmed })
  for (const { after, upTo } of lost) {
    tally.lose(name, after, upTo, known)
    const key = lossKey(number, after)
    await writer.put(key, encodeLoss(key, { upTo }))
  }
  await writer.put(headKey(number), encodeHead(headKey(number), head))
  await writer.put(nameKey(name), encodeName(nameKey(name), { channel: number, settings }))
  // Rows of a state are made anew, from what of its events is whole.
  const place = beginning({ name, epoch: epochOf(writer.life, head), trimmed: head.trimmed })
  if (settings.state) await writer.put(placeKey(number), encodePlace(placeKey(number), place))
  return lost
}

/** Channels whose name row is lost: a name that is told elsewhere, and that the crc of a block agrees to. */
function namedAgain(rows: Rows, contents: Contents, find: Tally['find']): StoredChannel[] {
  const taken = new Set(contents.channels.map(({ name }) => name))
  const names = new Set<string>()
  for (const [key] of rows.range(rangeOf('n'))) names.add(nameOfKey(key))
  for (const [key] of rows.range(rangeOf('d'))) names.add(channelOfClientKey(key))
  for (const [key, value] of rows.range(rangeOf('i')))
    if (isWhole(() => decodeReceipt(key, value)))
      for (const { channel } of decodeReceipt(key, value).answers) names.add(channel)
  const found: StoredChannel[] = []
  for (const number of strangersIn(rows, contents)) {
    const name = [...names].find((name) => !taken.has(name) && holds(rows, number, name))
    if (name === undefined) {
      find('head', `The name of channel number ${number} is lost, and its events with it`)
      continue
    }
    taken.add(name)
    const row = rows.get(headKey(number))
    const head = row && isWhole(() => decodeHead(headKey(number), row)) ? decodeHead(headKey(number), row) : undefined
    find('head', 'Its name row was lost, and its settings with it', { channel: name })
    found.push({ number, name, settings: {}, head, sweptUpTo: 0 })
  }
  return found
}

function holds(rows: Rows, number: number, name: string): boolean {
  for (const [key, block] of rows.range(blockRange(number, 0)))
    if (check(name, block, Number(Buffer.from(key).readBigUInt64BE(5)))) return true
  return false
}

async function copyCursors(
  rows: Rows,
  channels: readonly StoredChannel[],
  { unnamed }: Contents,
  writer: Writer,
  tally: Tally,
): Promise<void> {
  const byNumber = new Map(channels.map((channel) => [channel.number, channel.name]))
  for (const [key, value] of rows.range(rangeOf('c'))) {
    const channel = byNumber.get(channelOfKey(key))
    const client = clientOfCursorKey(key)
    if (channel === undefined) {
      if (!unnamed.has(channelOfKey(key))) tally.find('cursor', 'Its channel is lost', { client })
    } else if (!isWhole(() => decodeCursor(key, value))) tally.find('cursor', 'It is damaged', { client, channel })
    else {
      tally.cursors++
      await writer.put(key, value)
      await writer.put(clientKey(client, channel), new Uint8Array())
    }
  }
  const names = new Map(channels.map((channel) => [channel.name, channel.number]))
  for (const [key] of rows.range(rangeOf('d'))) {
    const channel = channelOfClientKey(key)
    const number = names.get(channel)
    const client = Buffer.from(key).toString('latin1', 1, key.indexOf(0))
    if (number !== undefined && rows.get(cursorKey(number, client)) === undefined)
      tally.find('cursor', 'It is lost', { client, channel })
  }
}

const isWhole = (decode: () => unknown): boolean => {
  try {
    decode()
    return true
  } catch (error) {
    if (error instanceof TidemarkError && error.code === 'data-loss') return false
    throw error
  }
}

/** Rows on their way into the new store, a batch at a time. */
class Writer {
  readonly life: string
  readonly #store: Store
  #batch: Batch
  #bytes = 0

  constructor(store: Store) {
    this.life = store.life
    this.#store = store
    this.#batch = store.db.batch()
  }

  async put(key: Uint8Array, value: Uint8Array): Promise<void> {
    this.#batch.put(key, value)
    this.#bytes += key.length + value.length
    if (this.#bytes >= BATCH_BYTES) await this.end()
  }

  async end(): Promise<void> {
    try {
      await this.#store.write(this.#batch, this.#bytes)
    } catch (error) {
      throw systemError(`${this.#store.dir} can not be written`, error)
    }
    this.#batch = this.#store.db.batch()
    this.#bytes = 0
  }
}

/** The new log is verified before it gets its name. */
async function expectWhole(dir: string): Promise<void> {
  const { findings } = await verifyLevel(dir)
  const finding = findings[0]
  if (finding)
    throw new TidemarkError(
      'internal',
      `The new log is not whole: ${finding.part} ${finding.channel ?? ''} ${finding.detail}`,
    )
}
