/**
 * The embedded log: one LevelDB, one process, one writer. Promises: src/log/log.ts. Layout: keys.ts.
 *
 * Reads come from the tail in memory or from disk with every block checked; writes are plans for the one writer.
 */

import { sameHistory } from '../../epoch.ts'
import { TidemarkError } from '../../errors.ts'
import type { ArrivalPiece, Arrived } from '../arrival.ts'
import { CHANGE_BYTES } from '../entries.ts'
import {
  type About,
  type Append,
  type Appended,
  type AppendOptions,
  type ChannelInfo,
  CURSOR_RENEW_MS,
  type Cursor,
  type CursorMove,
  type Finding,
  type Health,
  type Lagging,
  type Log,
  type Loss,
  Page,
  type Place,
  type ReadLimits,
  type Replacement,
  type Settings,
  type Submission,
} from '../log.ts'
import type { LogOptions } from '../open.ts'
import { Tail } from '../tail.ts'
import { Waiters } from '../waiters.ts'
import { Appending, ToldOne } from './appending.ts'
import { Arriving } from './arriving.ts'
import { orUnavailable, unavailable } from './cause.ts'
import { type Channel, Channels, noChannel } from './channels.ts'
import type { Draft, Group } from './group.ts'
import { type CursorRow, edgesOf, rangeOf } from './keys.ts'
import { Lists } from './lists.ts'
import { Pages } from './read.ts'
import { Receipts } from './receipts.ts'
import { reclaimBetween } from './reclaiming.ts'
import { Replacing } from './replacing.ts'
import { Watermark } from './room.ts'
import { knownLosses, scrubRows, scrubStates, scrubTables } from './scrub.ts'
import { LevelStateRows } from './state-rows.ts'
import { RESERVE_BYTES, Store } from './store.ts'
import { Sweeper } from './sweep.ts'
import { Writer } from './writer.ts'

const DAY_MS = 86_400_000
/** How far a clock may be put forward without a receipt being forgotten before its window is over. */
const CLOCK_JUMP_MS = 3_600_000
const TAIL_BYTES = 64 * 1024 * 1024
const CAPABILITIES = ['multiChannel', 'compact', 'erase', 'stateRows'] as const
/** How long a read waits while the store is opened again. */
const GATE_MS = 5_000

/** @throws in-use, data-loss, wrong-config, cannot-create, io-error */
export async function openLevel(options: LogOptions): Promise<Log> {
  return new LevelLog(await Store.open(options), options)
}

class LevelLog implements Log {
  readonly about: About
  readonly stateRows: LevelStateRows
  readonly #store: Store
  readonly #channels: Channels
  readonly #waiters = new Waiters()
  readonly #tail: Tail
  readonly #pages = new Pages()
  readonly #writer: Writer
  readonly #sweeper: Sweeper
  readonly #receipts: Receipts
  readonly #lists: Lists
  readonly #replacing: Replacing
  #closed: Promise<void> | undefined

  constructor(store: Store, options: LogOptions) {
    const idWindow = options.idWindow ?? DAY_MS
    const notice = options.onNotice ?? (() => {})
    this.about = { engine: 'level', durability: 'fsync', capabilities: CAPABILITIES, idWindow }
    this.#store = store
    this.#channels = new Channels(store, options.retain)
    this.#lists = new Lists(store, this.#channels, notice, () => this.#opened())
    this.#receipts = new Receipts(store, idWindow + CLOCK_JUMP_MS)
    this.#tail = new Tail(options.tailBytes ?? TAIL_BYTES)
    const watermark = new Watermark(store.dir, options.minFreeBytes, RESERVE_BYTES, notice)
    this.#writer = new Writer(store, this.#channels, watermark, {
      onWritten: (group) => this.#written(group),
      onReopened: () => this.#reopened(),
      onGroup: options.onGroup,
      notice,
    })
    this.#replacing = new Replacing(store, this.#channels, this.#writer)
    this.#sweeper = new Sweeper(store, this.#writer, idWindow + CLOCK_JUMP_MS, notice)
    const parts = { store, channels: this.#channels, writer: this.#writer, lists: this.#lists, sweeper: this.#sweeper }
    this.stateRows = new LevelStateRows({ ...parts, notice, opened: () => this.#opened() })
  }

  health(): Health {
    return this.#writer.health()
  }

  async append(entries: readonly Append[], options: AppendOptions = {}): Promise<readonly Appended[]> {
    return new Promise((appended, failed) => {
      this.#writer.enterAppend(new Appending(this.#channels, this.#receipts, entries, options, { appended, failed }))
    })
  }

  submit(submission: Submission): void {
    let appending: Appending
    try {
      const told = new ToldOne(submission)
      appending = new Appending(this.#channels, this.#receipts, [submission], submission, told)
    } catch (error) {
      submission.failed(error)
      return
    }
    this.#writer.enterAppend(appending)
  }

  async read(channel: string, from: Place, limits: ReadLimits): Promise<Page> {
    await this.#opened()
    try {
      return await this.#read(channel, from, limits)
    } catch (error) {
      if (error instanceof TidemarkError) throw error
      // The store was closed under this read, to be opened again: positions outlive iterators.
      await this.#opened()
      return this.#read(channel, from, limits).catch(orUnavailable)
    }
  }

  async #read(name: string, from: Place, limits: ReadLimits, step?: number): Promise<Page> {
    const channel = this.#channels.need(name)
    const epoch = this.#channels.judge(channel, from)
    const page =
      this.#fromMemory(channel, epoch, from.after, limits) ??
      (await this.#pages.read(this.#store.db, channel, epoch, from.after, limits, step))
    return page instanceof Page ? page : this.#read(name, from, limits, page.step)
  }

  recent(name: string, from: Place, limits: ReadLimits): Page | undefined {
    const channel = this.#isOpen ? this.#channels.cached(name) : undefined
    return channel && this.#fromMemory(channel, this.#channels.judge(channel, from), from.after, limits)
  }

  #fromMemory(channel: Channel, epoch: string, after: number, limits: ReadLimits): Page | undefined {
    const { name, head, trimmed } = channel
    if (after < head) return this.#tail.page(channel, epoch, after, limits)
    return new Page({ channel: name, epoch, after, last: after, head, trimmed, blocks: [] })
  }

  async changed(channel: string, from: Place, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted()
    await this.#opened()
    if (this.#hasChanged(channel, from)) return
    return this.#waiters.wait(channel, from, signal)
  }

  #hasChanged = (channel: string, from: Place): boolean => this.#channels.hasChanged(channel, from)

  async info(channel: string): Promise<ChannelInfo> {
    await this.#opened()
    return this.#channels.info(this.#channels.need(channel))
  }

  configure(channel: string, settings: Settings): Promise<ChannelInfo> {
    return this.#writer.submit(CHANGE_BYTES, (group) => {
      const known = group.find(channel)
      const draft = known ?? group.make(channel, settings)
      if (known) group.configure(known, settings)
      // As it is now: a later change of the same group may delete the channel.
      const info = this.#channels.info(draft)
      return () => info
    })
  }

  async cursor(client: string, channel: string): Promise<Cursor | undefined> {
    await this.#opened()
    return this.#lists.cursor(client, this.#channels.need(channel))
  }

  commit(client: string, channel: string, to: CursorMove): Promise<Cursor> {
    return this.#moveCursor(client, channel, to, (group, draft) => group.cursor(draft, client))
  }

  seek(client: string, channel: string, to: CursorMove): Promise<Cursor> {
    // Wherever it stood, and whatever became of its row.
    return this.#moveCursor(client, channel, to, () => undefined)
  }

  /** @param bound where it stands, unless it may move anywhere */
  #moveCursor(
    client: string,
    channel: string,
    to: CursorMove,
    bound: (group: Group, draft: Draft) => CursorRow | undefined,
  ): Promise<Cursor> {
    return this.#writer.submit(CHANGE_BYTES, (group) => {
      const draft = group.find(channel) ?? noChannel(channel)
      const epoch = this.#channels.checkEpoch(draft, to.epoch)
      if (to.seq > draft.head)
        throw new TidemarkError('ahead-of-head', `The head of ${channel} is ${draft.head}, before ${to.seq}`, {
          ...{ channel, epoch, trimmed: draft.trimmed, head: draft.head },
        })
      const row = bound(group, draft)
      // Who shows the run of now was told that another place, or one before what is cleaned, is over.
      const isOver =
        row && (to.epoch === epoch ? this.#channels.isOver(draft, epoch, row) : !sameHistory(row.epoch, epoch))
      const known = isOver ? undefined : row
      const stays = known && to.seq <= known.seq
      const isFresh = stays && group.now - known.time < CURSOR_RENEW_MS
      const seq = stays ? known.seq : to.seq
      // What its client may have missed of tombstones is told to whoever goes on there: the run stays the client's own.
      const run = (stays ? undefined : to.epoch) ?? known?.epoch ?? epoch
      const moved: CursorRow = isFresh ? known : { epoch: seq < draft.cleaned ? run : epoch, seq, time: group.now }
      if (!isFresh) group.setCursor(draft, client, moved)
      return () => ({ client, channel, ...moved })
    })
  }

  forget(client: string, channel: string, idleSince?: number): Promise<boolean> {
    return this.#writer.submit(CHANGE_BYTES, (group) => {
      const draft = group.find(channel) ?? noChannel(channel)
      const existed = group.forget(draft, client, idleSince)
      return () => existed
    })
  }

  cursors(...of: Parameters<Log['cursors']>): AsyncIterable<Cursor> {
    return this.#lists.cursors(...of)
  }

  lagging(most: number, channel?: string): Promise<Lagging> {
    return this.#lists.lagging(most, channel)
  }

  count(what: 'channels' | 'cursors', beginning: string, most: number): Promise<number> {
    return this.#lists.count(what, beginning, most)
  }

  trim(channel: string, upTo: number, epoch?: string): Promise<ChannelInfo> {
    const trimmed = this.#writer.submit(CHANGE_BYTES, (group) => {
      const draft = group.find(channel) ?? noChannel(channel)
      this.#channels.checkEpoch(draft, epoch)
      const target = Math.min(upTo, draft.head)
      if (target > draft.trimmed) group.trim(draft, target)
      const info = this.#channels.info(draft)
      return () => info
    })
    return trimmed.finally(() => this.#sweeper.start())
  }

  delete(channel: string, epoch?: string): Promise<void> {
    const deleted = this.#writer.submit(CHANGE_BYTES, (group) => {
      const draft = group.find(channel)
      if (!draft) {
        // One that is still to come is nobody's history yet, whatever epoch it will have.
        const arrival = group.arrival(channel)
        if (!arrival || arrival.isWhole) return noChannel(channel)
        group.dropArrival(channel, arrival)
        return () => {}
      }
      this.#channels.checkEpoch(draft, epoch)
      group.delete(draft)
      return () => {}
    })
    return deleted.finally(() => this.#sweeper.start())
  }

  async replace(channel: string, replacement: Replacement): Promise<boolean> {
    await this.#opened()
    return this.#replacing.replace(channel, replacement).catch(orUnavailable)
  }

  clean(channel: string, upTo: number, epoch: string): Promise<ChannelInfo> {
    return this.#writer.submit(CHANGE_BYTES, (group) => {
      const draft = group.find(channel) ?? noChannel(channel)
      this.#channels.checkEpoch(draft, epoch)
      group.clean(draft, upTo)
      const info = this.#channels.info(draft)
      return () => info
    })
  }

  async reclaim(channel: string, after: number, upTo: number): Promise<void> {
    await this.#opened()
    const edges = edgesOf(this.#channels.need(channel).number, after, upTo)
    // LevelDB keeps what any iterator may still see.
    await this.#pages.left()
    await reclaimBetween(this.#store, this.#writer, edges).catch(orUnavailable)
  }

  async arrive(channel: string, piece: ArrivalPiece): Promise<Arrived> {
    const arriving = new Arriving(channel, piece)
    const plan = (group: Group): (() => Arrived) => arriving.plan(group, this.#store.life)
    const { bytes } = arriving
    const arrived = bytes > 0 ? this.#writer.submitEvents(bytes, plan) : this.#writer.submit(CHANGE_BYTES, plan)
    return arrived.finally(() => this.#sweeper.start())
  }

  async bytes(channel: string): Promise<number> {
    await this.#opened()
    return this.#channels.bytes(channel)
  }

  channels(prefix: string, after?: string, onDamaged?: (channel: string) => void): AsyncIterable<ChannelInfo> {
    return this.#lists.channels(prefix, after, onDamaged)
  }

  async *scrub(pace: (bytes: number) => Promise<void>): AsyncIterable<Finding> {
    yield* scrubRows(
      (key) => this.#store.db.getSync(key),
      (range) => this.#lists.rows(range),
      pace,
    )
    yield* scrubStates(this.stateRows, pace)
    yield* scrubTables(this.#store.dir, pace)
  }

  losses(): Promise<readonly Loss[]> {
    return knownLosses(this, this.#lists.rows(rangeOf('l')), (name) => this.#channels.get(name)?.number)
  }

  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    await Promise.all([this.#writer.close(), this.#sweeper.close()])
    this.#waiters.rejectAll(closing())
    this.#pages.clear()
    await this.#store.close()
  }

  /** Nothing has to be waited for, and nothing is over. */
  get #isOpen(): boolean {
    return this.#writer.gate === undefined && !this.#writer.isClosed && this.#store.isOpen
  }

  /** Waits while the store is opened again after a failed write, but not for ever. @throws unavailable */
  async #opened(): Promise<void> {
    const gate = this.#writer.gate
    if (gate) {
      const signal = AbortSignal.timeout(GATE_MS)
      const late = new Promise<never>((_, reject) => {
        signal.addEventListener('abort', () => reject(unavailable(signal.reason)), { once: true })
      })
      await Promise.race([gate, late])
    }
    if (this.#writer.isClosed) throw closing()
    if (!this.#store.isOpen) throw unavailable(this.health().reason)
  }

  /** Memory follows disk; then readers wake; the writer answers after that. */
  #written(group: Group): void {
    this.stateRows.written(group.states)
    if (group.states.isVoiding) this.#sweeper.start()
    const woken = new Set<string>()
    for (const channel of group.deleted) {
      this.#channels.forget(channel.name)
      this.#tail.forget(channel.number)
      this.#pages.forget(channel.number)
      woken.add(channel.name)
    }
    for (const { channel, blocks, isTrimmed, rewritten } of group.changed()) {
      this.#channels.set(channel)
      if (blocks.length > 0) this.#tail.push(channel.number, blocks)
      if (isTrimmed || rewritten !== undefined) {
        this.#tail.trim(channel.number, Math.max(channel.trimmed, rewritten ?? 0))
        this.#pages.forget(channel.number)
      }
      woken.add(channel.name)
    }
    for (const name of woken) this.#waiters.wake(name, this.#hasChanged)
  }

  #reopened(): void {
    this.#channels.clear()
    this.#tail.clear()
    this.#pages.clear()
    this.stateRows.reopened()
    // A write that failed may have left it something to clear.
    this.#sweeper.start()
    this.#waiters.wakeAll(this.#hasChanged)
  }
}

const closing = (): TidemarkError => new TidemarkError('unavailable', 'The log is closing', { retryAfter: 1_000 })
