/**
 * The log on NATS JetStream: for as many processes as one likes, none of which keeps anything. Promises:
 * src/log/log.ts. What NATS holds: record.ts.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { hasCode, TidemarkError } from '../../errors.ts'
import { type ArrivalPiece, type Arrived, nameArrives } from '../arrival.ts'
import { CHANGE_BYTES } from '../entries.ts'
import {
  type About,
  type Append,
  type Appended,
  type AppendOptions,
  type ChannelInfo,
  type Cursor,
  type CursorMove,
  type CursorName,
  type CursorsOf,
  type Durability,
  type Health,
  type Lagging,
  type Log,
  type Loss,
  Page,
  type Place,
  type ReadLimits,
  type Settings,
  type Submission,
} from '../log.ts'
import type { LogOptions, NatsOptions } from '../open.ts'
import { Tail } from '../tail.ts'
import { Waiters } from '../waiters.ts'
import { Appending, type Means, newRecord, type Told } from './appending.ts'
import { Arriving } from './arriving.ts'
import { type Channel, Channels, checkEpoch, infoOf, judge, noChannel } from './channels.ts'
import { breakOff } from './connecting.ts'
import { Cursors } from './cursors.ts'
import { closing, isUnreachable, told } from './failures.ts'
import { Janitor } from './janitor.ts'
import { type Done, type Job, Lanes } from './lanes.ts'
import { Lease } from './lease.ts'
import { Link } from './link.ts'
import { Lists } from './lists.ts'
import { Pages } from './pages.ts'
import { Pulse } from './pulse.ts'
import { type ChannelRecord, epochOf, isArriving, type Known } from './record.ts'
import { Room } from './room.ts'
import { ASK_LEADER, type Plan, Writer } from './writer.ts'

const TAIL_BYTES = 64 * 1024 * 1024
/** A read waits for NATS so long, ms. */
const READ_MS = 5_000
const RETRY_MS = 100
/** What would end a reader, or send it back to the start. */
const ENDS_READERS = ['no-channel', 'epoch-changed', 'ahead-of-head'] as const
const NO_CONNECTION = 'There is no connection to NATS; it is tried again and again'

/** @throws wrong-config (too old, not allowed), unavailable */
export async function openJetStream(nats: NatsOptions, options: LogOptions): Promise<Log> {
  const log = new JetStreamLog(await Link.open(nats, options), nats, options)
  await log.begin()
  return log
}

class JetStreamLog implements Log {
  readonly about: About
  readonly #link: Link
  readonly #waiters = new Waiters()
  readonly #tail: Tail
  readonly #channels: Channels
  readonly #pages: Pages
  readonly #lanes = new Lanes()
  readonly #means: Means
  readonly #cursors: Cursors
  readonly #lists: Lists
  readonly #janitor: Janitor
  readonly #pulse: Pulse
  readonly #room: Room
  readonly #lease: Lease
  readonly #notice: NonNullable<LogOptions['onNotice']>
  #closed: Promise<void> | undefined

  constructor(link: Link, nats: NatsOptions, options: LogOptions) {
    const capabilities = link.canBatch ? (['multiChannel'] as const) : []
    this.about = {
      engine: 'jetstream',
      durability: durabilityOf(link, nats),
      capabilities,
      idWindow: link.facts.idWindow,
    }
    this.#link = link
    this.#notice = options.onNotice ?? (() => {})
    this.#room = new Room(link, this.#lanes, options.minFreeBytes, (level, message) => this.#notice(level, message, {}))
    this.#lease = new Lease(link, (why) => this.#notice('warn', 'Nobody knows which server keeps retention', { why }))
    this.#pulse = new Pulse(link, this.#room)
    this.#tail = new Tail(options.tailBytes ?? TAIL_BYTES)
    this.#channels = new Channels(link, this.#tail, this.#waiters)
    this.#pages = new Pages(link)
    this.#means = { link, channels: this.#channels, writer: new Writer(link, this.#channels, this.#room) }
    this.#cursors = new Cursors(link, this.#channels)
    this.#janitor = new Janitor(link, this.#channels, this.#cursors, this.#pages, (message, why) =>
      this.#notice('warn', message, { why }),
    )
    this.#lists = new Lists(link, this.#channels, this.#cursors, this.#janitor, this.#lease)
    let isDeaf = false
    link.onDeaf = (error) => {
      if (!isDeaf)
        this.#notice('warn', 'NATS does not tell what is stored: followers are woken late', { why: error.message })
      isDeaf = true
    }
    void this.#listen()
  }

  /** What is to be known before the first append. */
  begin(): Promise<void> {
    return this.#room.ask()
  }

  /** Follows the connection itself: while there is none, nothing is known of what others write. */
  async #listen(): Promise<void> {
    for await (const { type } of this.#link.nc.status()) {
      if (type === 'staleConnection' || type === 'forceReconnect') breakOff(this.#link.nc)
      else if (type === 'disconnect') {
        this.#link.isConnected = false
        this.#channels.disconnected()
        this.#cursors.disconnected()
        this.#notice('warn', 'NATS is gone; appends are refused until it is back', {})
      } else if (type === 'reconnect') {
        this.#link.isConnected = true
        this.#channels.disconnected()
        this.#cursors.disconnected()
        this.#notice('info', 'NATS is back', {})
      }
    }
    if (this.#lanes.isClosed) return
    this.#link.isConnected = false
    this.#notice('error', 'The connection to NATS has ended and is not tried again: restart this server', {})
  }

  health(): Health {
    const pending = { pendingAppends: this.#lanes.pendingJobs, pendingBytes: this.#lanes.pendingBytes }
    if (this.#lanes.isClosed) return { state: 'closed', ...pending }
    const reason = this.#link.isConnected ? this.#pulse.fault : NO_CONNECTION
    if (reason !== undefined) return { state: 'reopening', reason, ...pending }
    const full = this.#room.reason
    return full === undefined ? { state: 'ok', ...pending } : { state: 'full', reason: full, ...pending }
  }

  async append(entries: readonly Append[], options: AppendOptions = {}): Promise<readonly Appended[]> {
    return new Promise((appended, failed) => {
      this.#enter(new Appending(this.#means, entries, options, { appended, failed }))
    })
  }

  submit(submission: Submission): void {
    const told: Told = {
      appended: ([answer]) => submission.appended(answer!),
      failed: (error) => submission.failed(error),
    }
    try {
      this.#enter(new Appending(this.#means, [submission], submission, told))
    } catch (error) {
      submission.failed(error)
    }
  }

  /** What adds events, and is refused when NATS has little room. */
  #enter(job: Job): void {
    const refusal = this.#lanes.isClosed ? undefined : this.#room.refusal(job.bytes)
    if (refusal) job.reject(refusal)
    else this.#lanes.enter(job)
  }

  read(name: string, from: Place, limits: ReadLimits): Promise<Page> {
    return this.#asked(() => this.#read(name, from, limits))
  }

  /** Of the leader, where the channel is now; of memory, what is there. */
  async #read(name: string, from: Place, limits: ReadLimits): Promise<Page> {
    const channel = await this.#channels.need(name)
    judge(channel, from)
    const { epoch, head, trimmed } = channel
    const { after } = from
    if (after === head) return new Page({ channel: name, epoch, after, last: after, head, trimmed, blocks: [] })
    const page = this.#tail.page(channel, epoch, after, limits)
    return page ?? this.#pages.read(channel, after, limits, ({ name }) => this.#channels.need(name))
  }

  recent(name: string, from: Place, limits: ReadLimits): Page | undefined {
    const channel = this.#lanes.isClosed ? undefined : this.#channels.live(name)
    // What is refused, or ends at the head, is asked of the leader: another gateway may have gone on.
    const isWithin = channel && from.after >= channel.trimmed && from.after < channel.head
    if (!isWithin || (from.epoch !== undefined && from.epoch !== channel.epoch)) return undefined
    return this.#tail.page(channel, channel.epoch, from.after, limits)
  }

  async changed(name: string, from: Place, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted()
    if (this.#lanes.isClosed) throw closing()
    this.#channels.follow(name)
    if (this.#channels.hasChanged(name, from)) return
    return this.#waiters.wait(name, from, signal)
  }

  info(name: string): Promise<ChannelInfo> {
    return this.#asked(async () => infoOf(await this.#channels.need(name)))
  }

  async configure(name: string, settings: Settings): Promise<ChannelInfo> {
    return infoOf(
      await this.#change(name, (known) => {
        if (isArriving(known.record)) throw nameArrives(name)
        return { record: { ...(known.record ?? newRecord(known)), settings } }
      }),
    )
  }

  cursor(client: string, name: string): Promise<Cursor | undefined> {
    return this.#asked(() => this.#cursors.get(client, name))
  }

  commit(client: string, name: string, to: CursorMove): Promise<Cursor> {
    return this.#asked(() => this.#cursors.commit(client, name, to))
  }

  seek(client: string, name: string, to: CursorMove): Promise<Cursor> {
    return this.#asked(() => this.#cursors.seek(client, name, to))
  }

  forget(client: string, name: string, idleSince?: number): Promise<boolean> {
    return this.#asked(() => this.#cursors.forget(client, name, idleSince))
  }

  cursors(of: CursorsOf, onDamaged?: (cursor: CursorName) => void): AsyncIterable<Cursor> {
    return this.#listed(() => this.#cursors.list(of, onDamaged))
  }

  allCursors(): AsyncIterable<Cursor> {
    return this.#listed(() => this.#lists.cursors())
  }

  lagging(most: number, channel?: string): Promise<Lagging> {
    return this.#asked(() => this.#lists.lagging(most, channel))
  }

  async trim(name: string, upTo: number, epoch?: string): Promise<ChannelInfo> {
    const channel = await this.#change(name, ({ record }) => {
      const there = this.#meant(name, record, epoch)
      const trimmed = Math.min(upTo, there.head)
      return trimmed > there.trimmed ? { record: { ...there, trimmed } } : undefined
    })
    this.#janitor.trimmed(name)
    return infoOf(channel)
  }

  async delete(name: string, epoch?: string): Promise<void> {
    let ended: ChannelRecord | undefined
    await this.#change(name, ({ record }) => {
      // One that is still to come is nobody's history yet, whatever epoch it will have.
      ended = isArriving(record) ? record! : this.#meant(name, record, epoch)
      return { record: ended, gone: true }
    })
    const mark = this.#channels.known(name)
    if (ended && mark && !mark.record) this.#janitor.deleted(name, ended.life, mark.seq)
  }

  /** @throws no-channel, epoch-changed */
  #meant(name: string, record: ChannelRecord | undefined, epoch: string | undefined): ChannelRecord {
    if (!record || isArriving(record)) noChannel(name)
    checkEpoch(this.#channelOf(name, record), epoch)
    return record
  }

  #channelOf(name: string, record: ChannelRecord): Channel {
    return { ...record, name, number: 0, seq: 0, epoch: epochOf(this.#link.facts.life, record) }
  }

  /**
   * A change of a channel that adds no events, in its turn, planned on what the leader says; what the channel is with it.
   */
  #change(name: string, plan: (known: Known) => Plan | undefined): Promise<Channel> {
    return new Promise((resolve, reject) => {
      const run = async (): Promise<Done> => {
        let record: ChannelRecord | undefined
        await this.#means.writer.write(name, (known, isFresh) => {
          if (!isFresh) return ASK_LEADER
          const planned = plan(known)
          record = (planned ?? known).record
          return planned
        })
        return { jobs: 1, tell: () => resolve(this.#channelOf(name, record!)) }
      }
      const job: Job = { names: [name], bytes: CHANGE_BYTES, run, reject }
      this.#lanes.enter(job)
    })
  }

  arrive(name: string, piece: ArrivalPiece): Promise<Arrived> {
    return new Promise((resolve, reject) => {
      const means = { ...this.#means, cursors: this.#cursors, janitor: this.#janitor }
      const arriving = new Arriving(means, name, piece, { resolve, reject })
      if (piece.blocks) this.#enter(arriving)
      else this.#lanes.enter(arriving)
    })
  }

  losses(): Promise<readonly Loss[]> {
    return this.#asked(() => this.#lists.losses())
  }

  channels(prefix: string, after?: string, onDamaged?: (channel: string) => void): AsyncIterable<ChannelInfo> {
    return this.#listed(() => this.#lists.channels(prefix, after, onDamaged))
  }

  count(what: 'channels' | 'cursors', beginning: string, most: number): Promise<number> {
    return this.#asked(() => this.#lists.count(what, beginning, most))
  }

  get isKeeper(): boolean {
    this.#lease.seek()
    return this.#lease.isHeld
  }

  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    await this.#lanes.close()
    this.#channels.close()
    this.#pulse.close()
    this.#waiters.rejectAll(closing())
    await this.#lease.close()
    await this.#janitor.close()
    await this.#cursors.close()
    await this.#link.nc.close()
  }

  /** What a read answers; while NATS does not, it is asked again for a while: a leader is elected, a server restarted. */
  async #asked<T>(ask: () => Promise<T>): Promise<T> {
    for (const until = performance.now() + READ_MS; ; ) {
      if (this.#lanes.isClosed) throw closing()
      try {
        return await this.#surely(ask)
      } catch (error) {
        if (this.#lanes.isClosed && !(error instanceof TidemarkError)) throw closing()
        if (!isUnreachable(error) || performance.now() > until) throw told(error)
        await delay(RETRY_MS)
      }
    }
  }

  async #surely<T>(ask: () => Promise<T>): Promise<T> {
    try {
      return await ask()
    } catch (error) {
      if (ENDS_READERS.some((code) => hasCode(error, code))) await this.#link.sure()
      throw error
    }
  }

  async *#listed<T>(list: () => AsyncIterable<T>): AsyncIterable<T> {
    if (this.#lanes.isClosed) throw closing()
    try {
      yield* list()
    } catch (error) {
      throw told(error)
    }
  }
}

/** Where an answered append is: what an operator says of the disk counts, for NATS does not say it. */
function durabilityOf({ facts: { replicas, storage } }: Link, { durability }: NatsOptions): Durability {
  if (storage === 'memory') return replicas > 1 ? 'replicated' : 'memory'
  return durability ?? (replicas > 1 ? 'replicated' : 'unknown')
}
