/**
 * The port: what a log promises, whichever engine keeps it. test/log/contract.ts holds every engine to these words.
 *
 * Verbs take names and numbers that a door has checked. All failures are TidemarkErrors; `epoch-changed`, `gap`,
 * `ahead-of-head`, `data-loss` and `seq-conflict` carry { epoch, trimmed, head } of the same moment.
 */
import type { Header } from '../block.ts'
import type { Body } from '../body.ts'
import type { Retention } from '../retention.ts'
import type { ArrivalPiece, Arrived } from './arrival.ts'
import type { ErasedEvents, StateRows } from './state-rows.ts'

/** What an engine can do beyond the core; a missing one answers `501 not-supported` (but for `stateRows`: in memory). */
export type Capability = 'multiChannel' | 'compact' | 'erase' | 'stateRows'

/** Where an answered append is: on this machine's disk, on several machines, in memory only. */
export type Durability = 'fsync' | 'replicated' | 'memory' | 'unknown'

/** What stands in every answer about a log as a whole. */
export interface About {
  readonly engine: 'level' | 'jetstream'
  readonly durability: Durability
  readonly capabilities: readonly Capability[]
  /** How long an idempotency key is remembered at least, ms. */
  readonly idWindow: number
}

export interface Append {
  readonly channel: string
  readonly body: Body
  /** The head that the writer believes; another one is `seq-conflict`. */
  readonly expectedSeq?: number | undefined
}

export interface AppendOptions {
  /** One for all entries. The same append again gives the first answer; another one is `key-reused`. */
  readonly idempotencyKey?: string | undefined
  /** False: a channel that does not exist is `no-channel`, and nothing is appended. Default: it is made. */
  readonly create?: boolean
}

export interface Appended {
  readonly channel: string
  readonly epoch: string
  readonly first: number
  readonly last: number
  /** Newest seq at the time of the answer. */
  readonly head: number
  /** True when this append was answered before, under the same idempotency key. */
  readonly duplicate?: true
}

/** One append to one channel whose outcome is told by a call, once: for a door with thousands of them under way. */
export interface Submission {
  readonly channel: string
  readonly body: Body
  readonly expectedSeq: number | undefined
  readonly idempotencyKey: string | undefined
  readonly create: boolean
  appended(answer: Appended): void
  failed(error: unknown): void
}

/** A place in a channel's history. Without an epoch: in whatever history there is. */
export interface Place {
  readonly epoch?: string
  readonly after: number
}

/** A page ends with the block that reaches one of these; it is never less than one block. */
export interface ReadLimits {
  readonly events: number
  readonly bytes: number
}

export interface ChannelInfo {
  readonly channel: string
  readonly epoch: string
  readonly head: number
  readonly trimmed: number
  /** Time of the newest event, ms; 0 when nothing was ever appended. */
  readonly time: number
  readonly settings: Settings
}

/** What a channel is told to be; unset fields follow the server's configuration. */
export interface Settings {
  /** A note for people, at most 1,000 characters. */
  readonly note?: string
  /** In place of what the configuration says for channels of this name. */
  readonly retention?: Retention
  /** The newest event of each key is kept on disk, too. With the capability `stateRows`. */
  readonly state?: boolean
}

export interface Cursor {
  readonly client: string
  readonly channel: string
  /** The history that `seq` belongs to. */
  readonly epoch: string
  readonly seq: number
  /** When it was last moved or showed life, ms. */
  readonly time: number
}

/** Which cursor is meant, and which ones are. */
export type CursorName = Pick<Cursor, 'client' | 'channel'>
export type CursorsOf = { readonly channel: string } | { readonly client: string }

/** Cursors with the channels that they are of, the one that lags most first. */
export interface Lagging {
  readonly cursors: readonly { readonly cursor: Cursor; readonly info: ChannelInfo }[]
  /** How many there are in all. */
  readonly found: number
}

export interface CursorMove {
  readonly seq: number
  /** The history that the client speaks of; another one moves nothing (`epoch-changed`). Absent: today's. */
  readonly epoch?: string
}

/** A commit that moves nothing is a sign of life all the same: it renews the time of a cursor that is older than this, ms. */
export const CURSOR_RENEW_MS = 3_600_000

/** The state of the log for `/readyz`, metrics and the console. */
export interface Health {
  /** `ok` · `reopening` after a failed write (appends wait or answer `unavailable`) · `full` · `read-only` for good. */
  readonly state: 'ok' | 'reopening' | 'full' | 'read-only' | 'closed'
  /** In words: what happened, and what to do. */
  readonly reason?: string
  /** Appends that wait for a write. */
  readonly pendingAppends: number
  readonly pendingBytes: number
}

/** One thing that is not as it was written. Lost events are those with after < seq ≤ upTo. */
export interface Finding {
  readonly code: 'data-loss'
  readonly part: 'file' | 'mark' | 'row' | 'head' | 'events' | 'cursor' | 'receipt' | 'state'
  readonly channel?: string
  readonly after?: number
  readonly upTo?: number
  readonly client?: string
  readonly file?: string
  readonly offset?: number
  readonly detail: string
}

/** Events that are known to be lost: `salvage` said so when it made this log. Reading them is `data-loss` all the same. */
export interface Loss {
  readonly channel: string
  readonly after: number
  readonly upTo: number
}

/** Blocks that stand in place of others, and what they stand in place of. */
export interface Replacement {
  /** The history that is meant. */
  readonly epoch: string
  /** `trimmed` of the moment at which the first of the old ones was read. */
  readonly trimmed: number
  /** The old ones as they were read: neighbours, at least one. */
  readonly replaced: readonly Header[]
  /** The new ones: neighbours, over the same seqs. No seq and no time is another one in them. */
  readonly blocks: readonly Uint8Array[]
  /** Events with a key are left out for which no newer one stands: no row of a state holds them from this write on. */
  readonly erases?: ErasedEvents
}

export interface Log {
  readonly about: About
  /** Rows of states. With the capability `stateRows`. */
  readonly stateRows?: StateRows

  health(): Health

  /**
   * Appends to one or several channels (each once), all or nothing; durable before it resolves. Makes channels that do
   * not exist, unless told not to. Order: idempotency key, then entry by entry existence and `expectedSeq`.
   * @throws no-channel, seq-conflict, key-reused, too-many, unavailable, storage-full, not-supported (several channels).
   * A failure whose outcome nobody knows carries `outcome: 'unknown'`.
   */
  append(entries: readonly Append[], options?: AppendOptions): Promise<readonly Appended[]>

  /** As `append` of one entry. Those of one write are told in their order, within one turn of the event loop. */
  submit(submission: Submission): void

  /**
   * Blocks that continue `after`, with epoch, trimmed and head of the same moment. Never waits for events: an empty
   * page at the head. crc and chain of every block are checked before it is given out. A page from memory takes no
   * turn of the event loop: who reads page after page waits for input or output in between, as sockets do.
   * @throws no-channel, epoch-changed, gap (after < trimmed), ahead-of-head, data-loss { after, upTo }, unavailable.
   */
  read(channel: string, from: Place, limits: ReadLimits): Promise<Page>

  /**
   * What `read` would give, at once, where that is in memory; undefined when it has to be waited for. Where several
   * processes share a log it may be a moment old: what another one answered just now may be missing. @throws as `read`
   */
  recent(channel: string, from: Place, limits: ReadLimits): Page | undefined

  /**
   * Resolves when a read from this place would not be an empty page: head > after, trimmed > after, another epoch,
   * or the channel is gone — at once if it is already so. With no epoch, an unknown channel is waited for.
   * Rejects with the signal's reason when it aborts.
   */
  changed(channel: string, from: Place, signal: AbortSignal): Promise<void>

  /** @throws no-channel */
  info(channel: string): Promise<ChannelInfo>

  /** Makes the channel if there is none, and replaces its settings. */
  configure(channel: string, settings: Settings): Promise<ChannelInfo>

  /** Undefined when this client never committed in this channel. @throws no-channel */
  cursor(client: string, channel: string): Promise<Cursor | undefined>

  /**
   * Moves a cursor forward; a lower seq moves nothing and answers the cursor as it stands, its time renewed if that is
   * older than CURSOR_RENEW_MS. A cursor of an older epoch is replaced, and one that
   * `epoch-changed` awaits after `clean`, by whoever shows the run of now. Durable when it resolves.
   * @throws no-channel, epoch-changed, ahead-of-head
   */
  commit(client: string, channel: string, to: CursorMove): Promise<Cursor>

  /** Moves a cursor anywhere in 0 … head. Durable when it resolves. @throws as commit */
  seek(client: string, channel: string, to: CursorMove): Promise<Cursor>

  /**
   * Deletes a cursor; false when there was none. @throws no-channel
   * @param idleSince only if its time is not later than this, ms: one that showed life meanwhile stays (false)
   */
  forget(client: string, channel: string, idleSince?: number): Promise<boolean>

  /** Cursors of one channel or of one client, by name; damaged ones are left out, and told to `onDamaged`. */
  cursors(of: CursorsOf, onDamaged?: (cursor: CursorName) => void): AsyncIterable<Cursor>
  /** Those of all channels. Optional: where asking channel after channel costs far more. */
  allCursors?(): AsyncIterable<Cursor>

  /**
   * The `most` cursors that lag most (`lagOf`), of all channels or of one: only the engine knows how its rows lie. One
   * walk over what is kept, between other work, with memory for `most`; damaged ones are left out. @throws no-channel
   */
  lagging(most: number, channel?: string): Promise<Lagging>

  /**
   * Drops events up to and with `upTo` (at most the head); `trimmed` is exactly that. A lower value changes nothing.
   * Durable when it resolves. `epoch`: the history that is meant. @throws no-channel, epoch-changed
   */
  trim(channel: string, upTo: number, epoch?: string): Promise<ChannelInfo>

  /**
   * Ends a channel's history. Its name may be used again, under another epoch. `epoch`: the history that is meant.
   * @throws no-channel, epoch-changed
   */
  delete(channel: string, epoch?: string): Promise<void>

  /**
   * Takes in a piece of a history that was kept elsewhere, or begins to: a piece that holds none of it tells how far it
   * came. Durable when it resolves; the same piece again changes nothing. With its end the channel is there at once,
   * its cursors too. A channel that holds this history already is left as it is, and told as whole. Optional.
   * @throws epoch-changed (the channel holds another history), seq-conflict (a piece that does not continue: `head` is
   * how far it came), bad-request (a block that is none, too), too-large, storage-full, unavailable
   */
  arrive?(channel: string, piece: ArrivalPiece): Promise<Arrived>

  /** Channels by name, those after `after` that begin with `prefix`; damaged ones are left out as in `cursors`. */
  channels(prefix: string, after?: string, onDamaged?: (channel: string) => void): AsyncIterable<ChannelInfo>

  /**
   * How many channels there are, or cursors, whose channel's or client's name begins so; counted up to `most`, beside
   * other work. One that is being cleared may be among them. Optional: where it is missing, their number has no limit.
   */
  count?(what: 'channels' | 'cursors', beginning: string, most: number): Promise<number>

  /** Of processes that share the log this is the one, for now, that does what retention says. Missing: nobody shares it. */
  readonly isKeeper?: boolean

  /**
   * Puts blocks in place of others, in one durable write. False, and nothing is changed, when the old ones do not stand
   * there as they were read, or a trim has come into them since. Positions stay what they are; who reads meanwhile gets
   * the old ones or the new ones. With the capability `compact`. @throws no-channel, epoch-changed; internal when they
   * do not cover the same
   */
  replace?(channel: string, replacement: Replacement): Promise<boolean>

  /**
   * Says that tombstones up to `upTo` are about to go: the run of the epoch rises, and whoever stands below `upTo` (not
   * at 0) with an older one is told `epoch-changed`. Durable, and true of every read, before it resolves: only then may
   * `replace` leave them out. With the capability `compact`. @throws no-channel, epoch-changed
   */
  clean?(channel: string, upTo: number, epoch: string): Promise<ChannelInfo>

  /**
   * Gives the disk space back that removed events of (after, upTo] took, as far as there is some. Takes a while that
   * grows with the stretch; who appends meanwhile is held up by a moment of it. Optional. @throws no-channel
   */
  reclaim?(channel: string, after: number, upTo: number): Promise<void>

  /** About how many bytes of disk a channel's events take, without what was written last. Optional. @throws no-channel */
  bytes?(channel: string): Promise<number>

  /** Looks at what only the engine knows: rows, files, checksums; `pace` between pieces. Optional: for verify.ts. */
  scrub?(pace: (bytes: number) => Promise<void>): AsyncIterable<Finding>

  /** Losses that are known. Optional, as `scrub`. */
  losses?(): Promise<readonly Loss[]>

  /** Finishes what was accepted, then closes. Waiting `changed` calls reject with `unavailable`. */
  close(): Promise<void>
}

/**
 * Blocks that continue a position, and the channel as it was at the same moment. The first block may begin before
 * `after`, the last one may end beyond `last`: a reader takes the events with after < seq ≤ last.
 */
export class Page {
  readonly channel: string
  readonly epoch: string
  readonly after: number
  /** The reader's position after this page. */
  readonly last: number
  readonly head: number
  readonly trimmed: number
  readonly blocks: readonly Uint8Array[]
  /** Of a state (states.ts): the seq at which it is true. */
  readonly at: number | undefined
  /** Many pages are empty: no form is made of them. */
  #forms: Map<string, unknown> | undefined
  readonly #onForm: ((bytes: number) => void) | undefined
  readonly #ofBlock: BlockForms | undefined

  /** @param onForm counts forms of a page that many share @param ofBlock keeps forms of its blocks */
  constructor(
    page: Pick<Page, 'channel' | 'epoch' | 'after' | 'last' | 'head' | 'trimmed' | 'blocks'> &
      Partial<Pick<Page, 'at'>>,
    onForm?: (bytes: number) => void,
    ofBlock?: BlockForms,
  ) {
    this.channel = page.channel
    this.epoch = page.epoch
    this.after = page.after
    this.last = page.last
    this.head = page.head
    this.trimmed = page.trimmed
    this.blocks = page.blocks
    this.at = page.at
    this.#onForm = onForm
    this.#ofBlock = ofBlock
  }

  /** The engine keeps this page for all who stand at its place; any other goes with those who asked for it. */
  get isShared(): boolean {
    return this.#onForm !== undefined
  }

  get caughtUp(): boolean {
    return this.last >= this.head
  }

  /** A page of its own that differs in this. */
  with(facts: Partial<Pick<Page, 'after' | 'blocks'>>): Page {
    const { channel, epoch, after, last, head, trimmed, blocks, at } = this
    return new Page({ channel, epoch, after, last, head, trimmed, blocks, at, ...facts })
  }

  /**
   * This page in a door's own form (a frame, a JSON text), made once and kept as long as the page: followers at the
   * same place share it. The engine that keeps the page counts its bytes.
   */
  form<T extends { readonly length: number }>(name: string, make: (page: Page) => T): T {
    let form = this.#forms?.get(name) as T | undefined
    if (form === undefined) {
      form = make(this)
      this.#forms ??= new Map()
      this.#forms.set(name, form)
      this.#onForm?.(form.length)
    }
    return form
  }

  /** The engine keeps the blocks of this page, and forms of them, for whoever reads them from wherever. */
  get hasBlockForms(): boolean {
    return this.#ofBlock !== undefined
  }

  /** The block at this place in `blocks`, whole, in a door's own form. */
  blockForm<T extends { readonly length: number }>(index: number, name: string, make: (block: Uint8Array) => T): T {
    return this.#ofBlock?.(index, name, make) ?? make(this.blocks[index]!)
  }
}

/** The form of this name of a page's block: the one that is kept with the block, or what is made of it now. */
export type BlockForms = <T extends { readonly length: number }>(
  index: number,
  name: string,
  make: (block: Uint8Array) => T,
) => T
