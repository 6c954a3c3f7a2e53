/**
 * A group: the appends and other changes that share one atomic, synced write.
 *
 * Changes are made on drafts, one for each channel that the group touches, so that a later change of the same group
 * sees the earlier ones; nothing outside sees a draft before the write is on disk.
 */
import { crc32 } from 'node:zlib'
import { type Header, readHeader, sealBlock } from '../../block.ts'
import type { Body } from '../../body.ts'
import { APPEND_EVENTS_MAX } from '../../event.ts'
import { nameArrives } from '../arrival.ts'
import { MERGE_BYTES } from '../entries.ts'
import type { Settings } from '../log.ts'
import type { ErasedEvents } from '../state-rows.ts'
import { type TailBlock, tailBlock } from '../tail.ts'
import type { Channel, Channels } from './channels.ts'
import type { Batch } from './db.ts'
import {
  type ArrivalRow,
  arrivalKey,
  blockKey,
  type CursorRow,
  clientKey,
  cursorKey,
  dayOf,
  decodeArrival,
  decodeCursor,
  decodeNext,
  decodeOver,
  encodeArrival,
  encodeCursor,
  encodeHead,
  encodeName,
  encodeNext,
  encodeOver,
  encodeReceipt,
  encodeSweep,
  headKey,
  keptEpoch,
  NEXT_KEY,
  nameKey,
  overKey,
  type ReceiptRow,
  type SweepRow,
  sweepKey,
} from './keys.ts'
import { StateDrafts } from './state-drafts.ts'
import { newLife, type Store } from './store.ts'

/** Epochs that ended here, remembered of one name; with more none is kept any more. */
const OVER_MAX = 100

type Writable<T> = { -readonly [K in keyof T]: T[K] }

/** What cursors are filed under. */
type Numbered = Pick<Channel, 'name' | 'number'>

/** A channel as it will be when the group is on disk. */
export interface Draft extends Writable<Channel> {
  readonly epoch: string
  /** Bodies that will be the next block, (blockAfter, head]. */
  bodies: Body[]
  blockAfter: number
  blockBytes: number
  /** Sealed blocks of this group. */
  blocks: TailBlock[]
  changed: boolean
  /** This group trims it. */
  isTrimmed: boolean
  /** Up to this seq blocks are others, or 0 when only the run of the epoch is; undefined when neither. */
  rewritten: number | undefined
}

export class Group {
  /** Time of this group's blocks, ms, as this machine's clock says; a channel's own time never falls below its last. */
  readonly now: number
  /** The day that this group's receipts are filed under. */
  readonly day: number
  /** How far rows of states go. */
  readonly states: StateDrafts
  readonly #store: Store
  readonly #channels: Channels
  readonly #batch: Batch
  readonly #drafts = new Map<string, Draft>()
  readonly #cursors = new Map<string, { draft: Numbered; client: string; row: CursorRow | undefined; isNew: boolean }>()
  /** As this group leaves them. */
  readonly #arrivals = new Map<string, ArrivalRow | undefined>()
  /** Epochs that are over, of names of which one more is. */
  readonly #over = new Map<string, readonly string[]>()
  #receipts: Map<string, ReceiptRow> | undefined
  readonly #deleted: Channel[] = []
  readonly #deletedNames = new Set<string>()
  /** Clearing work, by channel: the newest says all that is to do. */
  readonly #sweeps = new Map<number, SweepRow>()
  #next: number | undefined
  #bytes = 0

  constructor(store: Store, channels: Channels) {
    this.#store = store
    this.#channels = channels
    this.#batch = store.db.batch()
    this.states = new StateDrafts(store, channels)
    this.now = Date.now()
    this.day = dayOf(store.now())
  }

  /** The channel as this group leaves it. */
  find(name: string): Draft | undefined {
    const draft = this.#drafts.get(name)
    if (draft) return draft
    if (this.#deletedNames.has(name)) return undefined
    const channel = this.#channels.get(name)
    return channel && this.#draft(channel)
  }

  /** A new channel, with a number that was never used and a life of its own. */
  make(name: string, settings: Settings = {}): Draft {
    this.needFree(name)
    const number = this.newNumber()
    return this.place({ name, number, settings, life: newLife(), head: 0, trimmed: 0, time: 0, cleaned: 0, run: 0 })
  }

  /** A new channel that is as it is given. */
  place(channel: Channel): Draft {
    const draft = this.#draft(channel)
    this.#name(draft, channel.settings)
    if (this.states.isAsked(draft)) this.states.begin(draft)
    return draft
  }

  /** @throws unavailable while a history arrives under this name */
  needFree(name: string): void {
    if (this.arrival(name)?.isWhole !== false) return
    throw nameArrives(name)
  }

  newNumber(): number {
    if (this.#next === undefined) {
      const row = this.#store.db.getSync(NEXT_KEY)
      this.#next = row === undefined ? 1 : decodeNext(row)
    }
    return this.#next++
  }

  /** What came under a name from elsewhere, or is coming. */
  arrival(name: string): ArrivalRow | undefined {
    if (this.#arrivals.has(name)) return this.#arrivals.get(name)
    const key = arrivalKey(name)
    const row = this.#store.db.getSync(key)
    return row === undefined ? undefined : decodeArrival(key, row)
  }

  setArrival(name: string, row: ArrivalRow | undefined): void {
    this.#arrivals.set(name, row)
  }

  /** Nothing more comes, and what came goes. */
  dropArrival(name: string, { channel, head }: ArrivalRow): void {
    this.sweepLater(channel, { upTo: head, deleted: name })
    this.setArrival(name, undefined)
  }

  /** Whether seqs of this epoch may have been seen in a channel of this log that is gone. @param there of its store @param life its own */
  isOver(name: string, there: string, life: string): boolean {
    const over = this.#overOf(name)
    return this.#store.lives.has(there) || over.length >= OVER_MAX || over.includes(`${there}.${life}`)
  }

  #overOf(name: string): readonly string[] {
    const planned = this.#over.get(name)
    if (planned) return planned
    const key = overKey(name)
    const row = this.#store.db.getSync(key)
    return row === undefined ? [] : decodeOver(key, row)
  }

  /** The number that a name has, also of a history that still arrives. */
  numberOf(name: string): number | undefined {
    return this.find(name)?.number ?? this.arrival(name)?.channel
  }

  configure(draft: Draft, settings: Settings): void {
    this.#name(draft, settings)
    this.states.configured(draft)
  }

  #name(draft: Draft, settings: Settings): void {
    draft.settings = settings
    draft.changed = true
    const key = nameKey(draft.name)
    this.put(key, encodeName(key, { channel: draft.number, settings }))
  }

  /** Gives a body its seqs; returns the last one. */
  append(draft: Draft, body: Body): number {
    const events = draft.head - draft.blockAfter
    if (draft.blockBytes + body.bytes.length > MERGE_BYTES || events + body.count > APPEND_EVENTS_MAX)
      this.#sealOpen(draft)
    draft.bodies.push(body)
    draft.blockBytes += body.bytes.length
    draft.head += body.count
    draft.time = Math.max(draft.time, this.now)
    draft.changed = true
    return draft.head
  }

  trim(draft: Draft, upTo: number): void {
    draft.trimmed = upTo
    draft.changed = draft.isTrimmed = true
    this.sweepLater(draft.number, { upTo })
  }

  /** Puts blocks in place of others over the same seqs. @param erases as Replacement.erases */
  replace(draft: Draft, replaced: readonly Header[], blocks: readonly Uint8Array[], erases?: ErasedEvents): void {
    if (erases) this.states.erase(draft, erases)
    const placed = new Map(blocks.map((block) => [readHeader(block).last, block]))
    for (const { last } of replaced) if (!placed.has(last)) this.del(blockKey(draft.number, last))
    for (const [last, block] of placed) this.put(blockKey(draft.number, last), block)
    draft.changed = true
    draft.rewritten = Math.max(draft.rewritten ?? 0, replaced.at(-1)!.last)
  }

  /** Begins a run of the epoch, because tombstones up to `upTo` are about to go. */
  clean(draft: Draft, upTo: number): void {
    draft.run++
    draft.cleaned = Math.max(draft.cleaned, Math.min(upTo, draft.head))
    draft.changed = true
    draft.rewritten ??= 0
  }

  delete(draft: Draft): void {
    this.#sealOpen(draft)
    this.del(nameKey(draft.name))
    this.del(headKey(draft.number))
    if (this.arrival(draft.name)) this.setArrival(draft.name, undefined)
    const kept = keptEpoch(draft.life)
    if (kept !== undefined) this.#over.set(draft.name, [...this.#overOf(draft.name), kept].slice(0, OVER_MAX))
    this.sweepLater(draft.number, { upTo: draft.head, deleted: draft.name })
    this.#drafts.delete(draft.name)
    this.#deleted.push(draft)
    this.#deletedNames.add(draft.name)
  }

  sweepLater(channel: number, row: SweepRow): void {
    this.#sweeps.set(channel, row)
  }

  /** Removes the row of clearing work that is done, unless there is more to do by now. @param row as it was read */
  swept(channel: number, row: Uint8Array): void {
    const key = sweepKey(channel)
    const now = this.#store.db.getSync(key)
    if (now && Buffer.compare(now, row) === 0) this.del(key)
  }

  cursor(draft: Numbered, client: string): CursorRow | undefined {
    const planned = this.#cursors.get(`${draft.number}/${client}`)
    if (planned) return planned.row
    const key = cursorKey(draft.number, client)
    const row = this.#store.db.getSync(key)
    return row === undefined ? undefined : decodeCursor(key, row)
  }

  /** Deletes a cursor, with `idleSince` only one whose time is not later; false when it was not deleted. */
  forget(draft: Numbered, client: string, idleSince?: number): boolean {
    const goes =
      idleSince === undefined
        ? this.#hasCursor(draft, client)
        : (this.cursor(draft, client)?.time ?? Number.POSITIVE_INFINITY) <= idleSince
    if (goes) this.setCursor(draft, client, undefined)
    return goes
  }

  #hasCursor(draft: Numbered, client: string): boolean {
    const planned = this.#cursors.get(`${draft.number}/${client}`)
    if (planned) return planned.row !== undefined
    return this.#store.db.getSync(cursorKey(draft.number, client)) !== undefined
  }

  /** Of several moves of one cursor only the last is written. `undefined` deletes it. */
  setCursor(draft: Numbered, client: string, row: CursorRow | undefined): void {
    const id = `${draft.number}/${client}`
    const isNew = this.#cursors.get(id)?.isNew ?? !this.#hasCursor(draft, client)
    this.#cursors.set(id, { draft, client, row, isNew })
  }

  /** The receipt that this group writes under a key. */
  receipt(place: Uint8Array): ReceiptRow | undefined {
    return this.#receipts?.get(Buffer.from(place).toString('latin1'))
  }

  setReceipt(place: Uint8Array, receipt: ReceiptRow): void {
    this.put(place, encodeReceipt(place, receipt))
    this.#receipts ??= new Map()
    this.#receipts.set(Buffer.from(place).toString('latin1'), receipt)
  }

  put(key: Uint8Array, value: Uint8Array): void {
    this.#batch.put(key, value)
    this.#bytes += key.length + value.length
  }

  del(key: Uint8Array): void {
    this.#batch.del(key)
    this.#bytes += key.length
  }

  /** Writes it all. Resolves with whether there was anything to write; a rejection is the writer's fail-stop. */
  async write(): Promise<boolean> {
    for (const draft of this.#drafts.values()) {
      if (!draft.changed) continue
      this.#sealOpen(draft)
      const key = headKey(draft.number)
      this.put(key, encodeHead(key, draft))
    }
    const gone = new Set(this.#deleted.map((channel) => channel.number))
    for (const { draft, client, row, isNew } of this.#cursors.values()) {
      if (gone.has(draft.number)) continue
      const key = cursorKey(draft.number, client)
      if (row) this.put(key, encodeCursor(key, row))
      else this.del(key)
      if (row && isNew) this.put(clientKey(client, draft.name), new Uint8Array())
      if (!row) this.del(clientKey(client, draft.name))
    }
    this.states.write(this, gone)
    for (const [name, row] of this.#arrivals) {
      const key = arrivalKey(name)
      if (row) this.put(key, encodeArrival(key, row))
      else this.del(key)
    }
    for (const [name, epochs] of this.#over) this.put(overKey(name), encodeOver(overKey(name), epochs))
    // Behind the removal of a row that was done: more to do outlives it.
    for (const [channel, row] of this.#sweeps) this.put(sweepKey(channel), encodeSweep(sweepKey(channel), row))
    if (this.#next !== undefined) this.put(NEXT_KEY, encodeNext(this.#next))
    if (this.#batch.length === 0) {
      await this.#batch.close()
      return false
    }
    await this.#store.write(this.#batch, this.#bytes)
    return true
  }

  /** Channels as they are now that the group is on disk, with their new blocks, and what of the old ones is gone. */
  *changed(): Iterable<Pick<Draft, 'isTrimmed' | 'rewritten'> & { channel: Channel; blocks: readonly TailBlock[] }> {
    for (const draft of this.#drafts.values()) {
      if (!draft.changed) continue
      const { name, number, settings, life, head, trimmed, time, cleaned, run, blocks, isTrimmed, rewritten } = draft
      yield {
        channel: { name, number, settings, life, head, trimmed, time, cleaned, run },
        blocks,
        isTrimmed,
        rewritten,
      }
    }
  }

  get deleted(): readonly Channel[] {
    return this.#deleted
  }

  #draft(channel: Channel): Draft {
    // Named one by one: a copy by spreading is many times as dear.
    const { name, number, settings, life, head, trimmed, time, cleaned, run } = channel
    const draft: Draft = {
      name,
      number,
      settings,
      life,
      head,
      trimmed,
      time,
      cleaned,
      run,
      epoch: this.#channels.epoch(channel),
      bodies: [],
      blockAfter: channel.head,
      blockBytes: 0,
      blocks: [],
      changed: false,
      isTrimmed: false,
      rewritten: undefined,
    }
    this.#drafts.set(channel.name, draft)
    return draft
  }

  #sealOpen(draft: Draft): void {
    if (draft.bodies.length === 0) return
    const block = sealBlock(draft.name, draft.bodies, { after: draft.blockAfter, time: draft.time }, crc32)
    this.put(blockKey(draft.number, draft.head), block)
    draft.blocks.push(tailBlock(block))
    draft.bodies = []
    draft.blockBytes = 0
    draft.blockAfter = draft.head
  }
}
