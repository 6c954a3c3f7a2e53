/**
 * Cursors: one key of the bucket each, `client.channel.life`, moved by compare-and-set. Moves of one cursor that arrive
 * while one is on its way share the next one; whoever moved it elsewhere is seen, because the set is refused then.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import { LRUCache } from 'lru-cache'
import { sameHistory } from '../../epoch.ts'
import { TidemarkError, wholeOr } from '../../errors.ts'
import { CURSOR_RENEW_MS, type Cursor, type CursorMove, type CursorName, type CursorsOf } from '../log.ts'
import { type Channel, type Channels, checkEpoch } from './channels.ts'
import { isConflict, isUnreachable, isUnsent, told, unavailable } from './failures.ts'
import type { Link } from './link.ts'
import { nameOf, token } from './record.ts'
import type { Stored } from './stored.ts'

/** A move is tried for so long, ms. */
const MOVE_MS = 12_000
const RETRY_MS = 100
const GIVE_WAY_MS = 5
/** Cursors whose state is kept; about 300 bytes each. */
const KEPT_CURSORS = 20_000
/** Moves that wait, of all cursors; beyond, `too-many`. */
const WAITING_MAX = 100_000
const RETRY_AFTER_MS = 1_000
const ALL = '*'
/** What the bucket says of a key that was deleted. */
const DELETED = 'DEL'

type Row = Pick<Cursor, 'epoch' | 'seq' | 'time'>

/** A cursor as it was when message `seq` was the newest of its key; 0 when there is none. */
interface Kept {
  readonly seq: number
  readonly row: Row | undefined
}

/** A cursor, and the life of the channel that it is of. */
type OfLife = Cursor & { readonly life: string }

/** A cursor after a change; `deleted`: it was there, and is not any more. */
type Left = Row | 'deleted' | undefined

/** What becomes of a cursor; the same row: nothing. */
type Change = (row: Row | undefined, now: number) => Left

/** What becomes of a cursor with several changes, and what each of them leaves. */
interface Changed {
  readonly row: Row | undefined
  readonly left: readonly Left[]
}

interface Move {
  readonly change: Change
  readonly resolve: (left: Left) => void
  readonly reject: (error: unknown) => void
}

interface Counted {
  readonly beginning: string
  readonly resolve: (found: number) => void
  readonly reject: (error: unknown) => void
}

/** Moves of one cursor that wait for those that are on their way. */
interface Lane {
  readonly moves: Move[]
  readonly done: Promise<void>
}

export class Cursors {
  readonly #link: Link
  readonly #channels: Channels
  readonly #kept = new LRUCache<string, Kept>({ max: KEPT_CURSORS })
  readonly #lanes = new Map<string, Lane>()
  /** Those who wait for a count. */
  readonly #counts: Counted[] = []
  #counting: Promise<void> | undefined
  /** Moves of all cursors that are not answered yet. */
  #waiting = 0

  constructor(link: Link, channels: Channels) {
    this.#link = link
    this.#channels = channels
  }

  /** NATS was away, and may have come back as another. */
  disconnected(): void {
    this.#kept.clear()
  }

  /** Finishes what was accepted. */
  async close(): Promise<void> {
    while (this.#lanes.size > 0) await Promise.all([...this.#lanes.values()].map(({ done }) => done))
  }

  /** A cursor as it was elsewhere, of a history that arrives. */
  async place(client: string, of: Pick<Channel, 'name' | 'life'>, row: Row): Promise<void> {
    await this.#change(this.#subject(client, of), (there) => (there && isSame(there, row) ? there : row))
  }

  async get(client: string, name: string): Promise<Cursor | undefined> {
    const channel = await this.#channels.need(name)
    const { row } = await this.#read(this.#subject(client, channel))
    return row && { client, channel: name, ...row }
  }

  async commit(client: string, name: string, to: CursorMove): Promise<Cursor> {
    return this.#move(client, name, to, (row, epoch, now) => {
      const stays = row !== undefined && sameHistory(row.epoch, epoch) && to.seq <= row.seq
      if (stays && now - row.time < CURSOR_RENEW_MS) return row
      return { epoch, seq: stays ? row.seq : to.seq, time: now }
    })
  }

  async seek(client: string, name: string, to: CursorMove): Promise<Cursor> {
    return this.#move(client, name, to, (_, epoch, now) => ({ epoch, seq: to.seq, time: now }))
  }

  async #move(
    client: string,
    name: string,
    to: CursorMove,
    moved: (row: Row | undefined, epoch: string, now: number) => Row,
  ): Promise<Cursor> {
    const channel = await this.#channels.need(name)
    checkEpoch(channel, to.epoch)
    const { epoch, head, trimmed } = channel
    if (to.seq > head)
      throw new TidemarkError('ahead-of-head', `The head of ${name} is ${head}, before ${to.seq}`, {
        ...{ channel: name, epoch, trimmed, head },
      })
    const row = await this.#change(this.#subject(client, channel), (row, now) => moved(row, epoch, now))
    return { client, channel: name, ...(row as Row) }
  }

  async forget(client: string, name: string, idleSince = Number.POSITIVE_INFINITY): Promise<boolean> {
    const subject = this.#subject(client, await this.#channels.need(name))
    const left = await this.#change(subject, (row) => (row && row.time <= idleSince ? 'deleted' : row))
    return left === 'deleted'
  }

  /** Of a history that is over. */
  async clear({ name, life }: Pick<Channel, 'name' | 'life'>): Promise<void> {
    await this.#link.purge(this.#link.cursorSubject(ALL, token(name), life))
  }

  #subject(client: string, { name, life }: Pick<Channel, 'name' | 'life'>): string {
    return this.#link.cursorSubject(token(client), token(name), life)
  }

  /** The cursor as it is left, or that it was deleted. @throws too-many */
  #change(subject: string, change: Change): Promise<Left> {
    return new Promise((resolve, reject) => {
      if (this.#waiting >= WAITING_MAX)
        return reject(new TidemarkError('too-many', 'Too many cursors wait for NATS', { retryAfter: RETRY_AFTER_MS }))
      this.#waiting++
      const lane = this.#lanes.get(subject) ?? this.#open(subject)
      lane.moves.push({ change, resolve, reject })
    })
  }

  #open(subject: string): Lane {
    const moves: Move[] = []
    // Its first one stands in it by then.
    const lane = { moves, done: Promise.resolve().then(() => this.#go(subject, moves)) }
    this.#lanes.set(subject, lane)
    return lane
  }

  async #go(subject: string, waiting: Move[]): Promise<void> {
    while (waiting.length > 0) {
      const moves = waiting.splice(0)
      try {
        const left = await this.#set(
          subject,
          moves.map(({ change }) => change),
        )
        for (const [i, { resolve }] of moves.entries()) resolve(left[i])
      } catch (error) {
        for (const { reject } of moves) reject(error)
      }
      this.#waiting -= moves.length
    }
    this.#lanes.delete(subject)
  }

  /** Makes all of these changes, in their order, with one write. What each leaves. */
  async #set(subject: string, changes: readonly Change[]): Promise<readonly Left[]> {
    const until = performance.now() + MOVE_MS
    let kept = this.#kept.get(subject)
    let sent: Changed | undefined
    let doubtful = false
    for (;;) {
      try {
        // Only a move that is refused when the cursor stands elsewhere goes on from what is remembered.
        let changed = kept && changedBy(changes, kept.row)
        if (kept === undefined || changed === undefined || changed.row === kept.row || changed.row === undefined) {
          kept = await this.#read(subject)
          // What nobody answered was done.
          if (doubtful && sent && isDeepStrictEqual(kept.row, sent.row)) return sent.left
          changed = changedBy(changes, kept.row)
        }
        if (changed.row === kept.row) return changed.left
        sent = changed
        await this.#store(subject, kept, changed.row)
        return changed.left
      } catch (error) {
        this.#kept.delete(subject)
        kept = undefined
        if (isConflict(error)) await delay(Math.random() * GIVE_WAY_MS)
        else if (!isUnreachable(error)) throw doubtful ? unavailable(error, doubtful) : told(error)
        else {
          doubtful ||= sent !== undefined && !isUnsent(error)
          if (performance.now() > until || !this.#link.isConnected) throw unavailable(error, doubtful)
          await delay(RETRY_MS)
        }
      }
    }
  }

  /** @param row undefined: the cursor goes */
  async #store(subject: string, { seq: expected }: Kept, row: Row | undefined): Promise<void> {
    if (row) {
      const data = Buffer.from(JSON.stringify(row))
      const { seq } = await this.#link.publish({ subject, data, expected })
      this.#kept.set(subject, { seq, row })
      return
    }
    const { seq } = await this.#link.publish({ subject, data: new Uint8Array(), expected, operation: DELETED })
    this.#kept.delete(subject)
    // The mark has done its work: whoever remembered the cursor is refused without it, too.
    await this.#link.purge(subject, seq + 1)
  }

  async #read(subject: string): Promise<Kept> {
    const message = await this.#link.last(subject)
    const kept = { seq: message?.seq ?? 0, row: message && rowOf(message) }
    this.#kept.set(subject, kept)
    return kept
  }

  /** Cursors of a channel or of a client, in the order of their names. */
  async *list(of: CursorsOf, onDamaged?: (cursor: CursorName) => void): AsyncIterable<Cursor> {
    if ('channel' in of) {
      for await (const { life: _, ...cursor } of this.ofChannel(of.channel, onDamaged)) yield cursor
      return
    }
    const isOfNow = async (channel: string, life: string): Promise<boolean> =>
      (await this.#channels.fresh(channel))?.life === life
    const damaged: Names[] = []
    const filter = this.#link.cursorSubject(token(of.client), ALL, ALL)
    for await (const { life, ...cursor } of this.#listed(filter, (names) => damaged.push(names)))
      if (await isOfNow(cursor.channel, life)) yield cursor
    for (const { client, channel, life } of damaged) if (await isOfNow(channel, life)) onDamaged?.({ client, channel })
  }

  /** @throws no-channel */
  async *ofChannel(name: string, onDamaged?: (cursor: CursorName) => void): AsyncIterable<OfLife> {
    const { life } = await this.#channels.need(name)
    yield* this.#listed(this.#link.cursorSubject(ALL, token(name), life), ({ client, channel }) =>
      onDamaged?.({ client, channel }),
    )
  }

  /** All of them, those of histories that are over too. */
  all(): AsyncIterable<OfLife> {
    return this.#listed(this.#link.cursorSubject(ALL, ALL, ALL))
  }

  /**
   * How many there are of clients whose names begin so. All names are gone through for it, once for all who ask
   * meanwhile, and at most so often.
   */
  count(beginning: string): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#counts.push({ beginning, resolve, reject })
      this.#counting ??= this.#count().finally(() => {
        this.#counting = undefined
      })
    })
  }

  async #count(): Promise<void> {
    while (this.#counts.length > 0) {
      const asked = this.#counts.splice(0)
      const started = performance.now()
      try {
        const found = new Map<string, number>(asked.map(({ beginning }) => [beginning, 0]))
        const lengths = [...new Set(asked.map(({ beginning }) => beginning.length))]
        const { subjects } = await this.#link.subjects(this.#link.cursorSubject(ALL, ALL, ALL))
        for (const subject of subjects) {
          const { client } = namesOf(subject)
          for (const length of lengths) {
            const beginning = client.slice(0, length)
            const number = found.get(beginning)
            if (number !== undefined && beginning.length === length) found.set(beginning, number + 1)
          }
        }
        for (const { beginning, resolve } of asked) resolve(found.get(beginning)!)
      } catch (error) {
        for (const { reject } of asked) reject(error)
      }
      // Where there are many, who asks next waits for as long again.
      await delay(performance.now() - started)
    }
  }

  /** By channel, then by client. */
  async *#listed(filter: string, onDamaged?: (cursor: Names) => void): AsyncIterable<OfLife> {
    const { subjects, asOf } = await this.#link.subjects(filter)
    const named = subjects.map((subject) => ({ subject, ...namesOf(subject) }))
    const order = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0)
    const sorted = named.sort((a, b) => order(a.channel, b.channel) || order(a.client, b.client))
    for await (const messages of this.#link.lasts(
      sorted.map(({ subject }) => subject),
      asOf,
    ))
      for (const message of messages) {
        const row = wholeOr('damaged', () => rowOf(message))
        const names = namesOf(message.subject)
        if (row === 'damaged') onDamaged?.(names)
        else if (row) yield { ...names, ...row }
      }
  }
}

const isSame = (a: Row, b: Row): boolean => a.epoch === b.epoch && a.seq === b.seq && a.time === b.time

type Names = CursorName & { readonly life: string }

function namesOf(subject: string): Names {
  const [life = '', channel = '', client = ''] = subject.split('.').reverse()
  return { client: nameOf(client), channel: nameOf(channel), life }
}

function changedBy(changes: readonly Change[], before: Row | undefined): Changed {
  const now = Date.now()
  let row = before
  const left = changes.map((change) => {
    const then = change(row, now)
    row = then === 'deleted' ? undefined : then
    return then
  })
  return { row, left }
}

/** @throws data-loss when somebody else wrote it */
function rowOf({ data, operation, subject }: Stored): Row | undefined {
  if (operation !== '') return undefined
  try {
    const row = JSON.parse(Buffer.from(data).toString()) as Row | null
    if (typeof row?.epoch === 'string' && Number.isSafeInteger(row.seq)) return row
  } catch (cause) {
    throw damaged(subject, cause)
  }
  throw damaged(subject)
}

function damaged(subject: string, cause?: unknown): TidemarkError {
  const { client, channel } = namesOf(subject)
  return new TidemarkError(
    'data-loss',
    `The cursor of ${client} in ${channel} is damaged`,
    { client, channel },
    { cause },
  )
}
