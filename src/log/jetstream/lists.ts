/** Channels listed, and the cursors that lag most: names as the leader knows them, then their newest messages in pieces. */
import { lagOf, Worst } from '../lag.ts'
import type { ChannelInfo, Cursor, Lagging } from '../log.ts'
import type { Channels } from './channels.ts'
import { infoOf } from './channels.ts'
import type { Cursors } from './cursors.ts'
import type { Janitor } from './janitor.ts'
import type { Link } from './link.ts'
import { decodeRecord, wholeOr } from './record.ts'

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

  constructor(link: Link, channels: Channels, cursors: Cursors, janitor: Janitor) {
    this.#link = link
    this.#channels = channels
    this.#cursors = cursors
    this.#janitor = janitor
  }

  async *channels(prefix: string, after = ''): AsyncIterable<ChannelInfo> {
    for await (const { life: _, ...info } of this.#all(prefix, after)) yield info
  }

  async *#all(prefix: string, after: string): AsyncIterable<ChannelInfo & { readonly life: string }> {
    const subjects = new Map<string, string>()
    for (const subject of await this.#link.subjects(this.#link.allEvents)) {
      const name = this.#link.channelOf(subject)
      if (name.startsWith(prefix) && name > after) subjects.set(name, subject)
    }
    const sorted = [...subjects.keys()].sort().map((name) => subjects.get(name)!)
    for await (const messages of this.#link.lasts(sorted))
      for (const { subject, seq, record: text, storedAt } of messages) {
        const record = wholeOr('damaged' as const, () => decodeRecord(text))
        if (record === undefined) this.#janitor.found({ subject, seq, storedAt })
        if (record === undefined || record === 'damaged') continue
        const name = this.#link.channelOf(subject)
        const epoch = `${this.#link.facts.life}.${record.life}`
        yield { ...infoOf({ ...record, name, seq, number: 0, epoch }), life: record.life }
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
      const infos = new Map<string, ChannelInfo & { readonly life: string }>()
      for await (const info of this.#all('', '')) infos.set(info.channel, info)
      for await (const { life, ...cursor } of this.#cursors.all()) {
        const known = infos.get(cursor.channel)
        if (known?.life !== life) continue
        const { life: _, ...info } = known
        add(cursor, info)
      }
    }
    return { cursors: worst.sorted().map(({ cursor, info }) => ({ cursor, info })), found }
  }
}
