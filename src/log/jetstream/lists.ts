/** Channels listed, and the cursors that lag most: names as the leader knows them, then their newest messages in pieces. */

import { wholeOr } from '../../errors.ts'
import { lagOf, Worst } from '../lag.ts'
import type { ChannelInfo, Cursor, Lagging, Loss } from '../log.ts'
import type { Channels } from './channels.ts'
import { infoOf } from './channels.ts'
import type { Cursors } from './cursors.ts'
import type { Janitor } from './janitor.ts'
import type { Lease } from './lease.ts'
import type { Link } from './link.ts'
import { type ChannelRecord, decodeRecord, epochOf, isArriving } from './record.ts'

type Listed = ChannelInfo & Required<Pick<ChannelRecord, 'life' | 'lost'>>

interface Behind {
  readonly lag: number
  readonly cursor: Cursor
  readonly info: ChannelInfo
}

export class Lists {
  readonly #link: Link
  readonly #channels: Channels
  readonly #cursors: Cursors
  readonly #janitor: Janitor
  readonly #lease: Lease

  constructor(link: Link, channels: Channels, cursors: Cursors, janitor: Janitor, lease: Lease) {
    this.#lease = lease
    this.#link = link
    this.#channels = channels
    this.#cursors = cursors
    this.#janitor = janitor
  }

  async *channels(prefix: string, after = '', onDamaged?: (channel: string) => void): AsyncIterable<ChannelInfo> {
    for await (const { life: _, lost: __, ...info } of this.#all(prefix, after, onDamaged)) yield info
  }

  /** How many there are whose name, or whose client's, begins so. */
  async count(what: 'channels' | 'cursors', beginning: string, most: number): Promise<number> {
    if (beginning === '') return Math.min(most, await this.#link.count(what))
    if (what === 'cursors') return Math.min(most, await this.#cursors.count(beginning))
    const { subjects } = await this.#link.subjects(this.#link.allEvents)
    const found = subjects.filter((subject) => this.#link.channelOf(subject).startsWith(beginning))
    return Math.min(most, found.length)
  }

  /** Losses that are known, of what is not trimmed. */
  async losses(): Promise<readonly Loss[]> {
    const losses: Loss[] = []
    for await (const { channel, trimmed, lost } of this.#all('', ''))
      for (const [after, upTo] of lost)
        if (upTo > trimmed) losses.push({ channel, after: Math.max(after, trimmed), upTo })
    return losses
  }

  async *#all(prefix: string, after: string, onDamaged?: (channel: string) => void): AsyncIterable<Listed> {
    const { subjects, asOf } = await this.#link.subjects(this.#link.allEvents)
    const named = new Map<string, string>()
    for (const subject of subjects) {
      const name = this.#link.channelOf(subject)
      if (name.startsWith(prefix) && name > after) named.set(name, subject)
    }
    const sorted = [...named.keys()].sort().map((name) => named.get(name)!)
    for await (const messages of this.#link.lasts(sorted, asOf))
      for (const { subject, seq, record: text, storedAt } of messages) {
        const name = this.#link.channelOf(subject)
        const record = wholeOr('damaged' as const, () => decodeRecord(text))
        if (record === undefined) this.#janitor.found({ subject, seq, storedAt })
        if (record === 'damaged') onDamaged?.(name)
        if (record === undefined || record === 'damaged' || isArriving(record)) continue
        if (this.#lease.isHeld) this.#janitor.listed(name, record)
        const epoch = epochOf(this.#link.facts.life, record)
        yield { ...infoOf({ ...record, name, seq, number: 0, epoch }), life: record.life, lost: record.lost ?? [] }
      }
  }

  /** Every cursor, in few questions however many channels there are. */
  async *cursors(): AsyncIterable<Cursor> {
    for await (const { cursor } of this.#allCursors()) yield cursor
  }

  async *#allCursors(): AsyncIterable<{ readonly cursor: Cursor; readonly info: ChannelInfo }> {
    const infos = new Map<string, Listed>()
    for await (const info of this.#all('', '')) infos.set(info.channel, info)
    for await (const { life, ...cursor } of this.#cursors.all()) {
      const known = infos.get(cursor.channel)
      // Of a history that is over.
      if (known?.life !== life) continue
      const { life: _, lost: __, ...info } = known
      yield { cursor, info }
    }
  }

  async lagging(most: number, name?: string): Promise<Lagging> {
    const worst = new Worst<Behind>(most, (a, b) => b.lag - a.lag || (a.info.channel < b.info.channel ? -1 : 1))
    let found = 0
    const add = (cursor: Cursor, info: ChannelInfo): void => {
      found++
      worst.add({ lag: lagOf(cursor, info), cursor, info })
    }
    if (name !== undefined) {
      const info = infoOf(await this.#channels.need(name))
      for await (const { life: _, ...cursor } of this.#cursors.ofChannel(name)) add(cursor, info)
    } else {
      for await (const { cursor, info } of this.#allCursors()) add(cursor, info)
    }
    return { cursors: worst.sorted().map(({ cursor, info }) => ({ cursor, info })), found }
  }
}
