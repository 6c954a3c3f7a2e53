/**
 * Cursors: one key of the bucket each, `client.channel.life`, moved by compare-and-set. Moves of one cursor that arrive
 * while one is on its way share the next one; whoever moved it elsewhere is seen, because the set is refused then.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { LRUCache } from 'lru-cache'
import { sameHistory } from '../../epoch.ts'
import { TidemarkError } from '../../errors.ts'
import { CURSOR_RENEW_MS, type Cursor, type CursorMove } from '../log.ts'
import { type Channel, type Channels, checkEpoch } from './channels.ts'
import { isConflict, isUnreachable, told, unavailable } from './failures.ts'
import type { Link, Stored } from './link.ts'
import { nameOf, token } from './record.ts'

/** A move is tried for so long, ms. */
const MOVE_MS = 12_000
const RETRY_MS = 100
const GIVE_WAY_MS = 5
/** Cursors whose state is kept; about 300 bytes each. */
const KEPT_CURSORS = 20_000
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

/** What becomes of a cursor; the same row: nothing. `deleted`: it goes. */
type Change = (row: Row | undefined, now: number) => Row | 'deleted' | undefined

export class Cursors {
  readonly #link: Link
  readonly #channels: Channels
  readonly #kept = new LRUCache<string, Kept>({ max: KEPT_CURSORS })
  /** The moves of each cursor, one after the other. */
  readonly #lanes = new Map<string, Promise<unknown>>()

  constructor(link: Link, channels: Channels) {
    this.#link = link
    this.#channels = channels
  }

  /** Finishes what was accepted. */
  async close(): Promise<void> {
    await Promise.allSettled(this.#lanes.values())
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

  #subject(client: string, { name, life }: Channel): string {
    return this.#link.cursorSubject(token(client), token(name), life)
  }

  /** The cursor as it is left, or that it was deleted. */
  #change(subject: string, change: Change): Promise<Row | 'deleted' | undefined> {
    const before = this.#lanes.get(subject)
    const mine = (async () => {
      await before?.catch(() => undefined)
      return this.#set(subject, change)
    })()
    this.#lanes.set(subject, mine)
    const done = (): void => {
      if (this.#lanes.get(subject) === mine) this.#lanes.delete(subject)
    }
    mine.then(done, done)
    return mine
  }

  async #set(subject: string, change: Change): Promise<Row | 'deleted' | undefined> {
    const until = performance.now() + MOVE_MS
    let kept = this.#kept.get(subject)
    let doubtful = false
    for (;;) {
      try {
        // Only a move that is refused when the cursor stands elsewhere goes on from what is remembered.
        let row = kept && change(kept.row, Date.now())
        if (kept === undefined || row === kept.row || row === 'deleted') {
          kept = await this.#read(subject)
          row = change(kept.row, Date.now())
        }
        if (row === kept.row || row === undefined) return row
        await this.#store(subject, kept, row)
        return row
      } catch (error) {
        this.#kept.delete(subject)
        kept = undefined
        if (isConflict(error)) await delay(Math.random() * GIVE_WAY_MS)
        else if (!isUnreachable(error)) throw told(error)
        else {
          doubtful = true
          if (performance.now() > until || !this.#link.isConnected) throw unavailable(error, doubtful)
          await delay(RETRY_MS)
        }
      }
    }
  }

  async #store(subject: string, { seq: expected }: Kept, row: Row | 'deleted'): Promise<void> {
    if (row !== 'deleted') {
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
  async *list(of: { readonly channel: string } | { readonly client: string }): AsyncIterable<Cursor> {
    if ('channel' in of) {
      for await (const { life: _, ...cursor } of this.ofChannel(of.channel)) yield cursor
      return
    }
    for await (const { life, ...cursor } of this.#listed(this.#link.cursorSubject(token(of.client), ALL, ALL))) {
      const channel = await this.#channels.fresh(cursor.channel)
      if (channel?.life === life) yield cursor
    }
  }

  /** @throws no-channel */
  async *ofChannel(name: string): AsyncIterable<OfLife> {
    const { life } = await this.#channels.need(name)
    yield* this.#listed(this.#link.cursorSubject(ALL, token(name), life))
  }

  /** All of them, those of histories that are over too. */
  all(): AsyncIterable<OfLife> {
    return this.#listed(this.#link.cursorSubject(ALL, ALL, ALL))
  }

  /** By channel, then by client. */
  async *#listed(filter: string): AsyncIterable<OfLife> {
    const named = (await this.#link.subjects(filter)).map((subject) => ({ subject, ...namesOf(subject) }))
    const order = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0)
    const sorted = named.sort((a, b) => order(a.channel, b.channel) || order(a.client, b.client))
    for await (const messages of this.#link.lasts(sorted.map(({ subject }) => subject)))
      for (const message of messages) {
        const row = rowOf(message)
        if (row) yield { ...namesOf(message.subject), ...row }
      }
  }
}

function namesOf(subject: string): { client: string; channel: string; life: string } {
  const [life = '', channel = '', client = ''] = subject.split('.').reverse()
  return { client: nameOf(client), channel: nameOf(channel), life }
}

const rowOf = ({ data, operation }: Stored): Row | undefined =>
  operation === '' ? (JSON.parse(Buffer.from(data).toString()) as Row) : undefined
