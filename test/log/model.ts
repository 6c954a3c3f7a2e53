/**
 * The log as plain arrays: what every answer must be. Slow, simple, and right by inspection; the model test holds a
 * real log against it.
 */
import type { Retention } from '../../src/retention.ts'

export interface Entry {
  readonly channel: string
  readonly values: readonly number[]
  readonly expectedSeq?: number
}

export interface Send {
  readonly entries: readonly Entry[]
  readonly key?: string
}

interface ModelCursor {
  readonly seq: number
  readonly epoch: string | undefined
}

/** What is appended for a value: some have a key, and some of those are tombstones. */
export function shown(value: number): { readonly key: string | null; readonly data: number | null } {
  const key = value < 40 ? null : `k${value % 5}`
  return { key, data: key !== null && value % 4 === 0 ? null : value }
}

interface ModelChannel {
  /** Learnt from the log's first answer. */
  epoch: string | undefined
  /** Of the epoch, and the highest tombstone that is gone. */
  run: number
  cleaned: number
  /** Seqs of events that compaction took. */
  readonly gone: Set<number>
  trimmed: number
  /** All that were ever appended: the event of seq n is values[n − 1]. */
  readonly values: number[]
  note: string | undefined
  retention: Retention | undefined
  readonly cursors: Map<string, ModelCursor>
  /** Of appends that this channel had a part in. */
  readonly receipts: Map<string, Receipt>
}

interface Receipt {
  readonly sent: string
  readonly answers: readonly ModelAnswer[]
}

export interface ModelAnswer {
  readonly channel: string
  readonly first: number
  readonly last: number
}

export type Outcome<T> = T | { readonly code: string; readonly [detail: string]: unknown }

export class Model {
  readonly channels = new Map<string, ModelChannel>()
  /** Epochs of histories that are over, by channel. */
  readonly gone = new Map<string, string[]>()
  readonly sent: Send[] = []

  head(channel: string): number {
    return this.channels.get(channel)?.values.length ?? 0
  }

  append(send: Send): Outcome<{ answers: readonly ModelAnswer[]; duplicate: boolean }> {
    const sent = JSON.stringify(send.entries)
    if (send.key !== undefined) {
      const receipt = this.#receipt(send)
      if (receipt) return receipt.sent === sent ? { answers: receipt.answers, duplicate: true } : { code: 'key-reused' }
    }
    for (const { channel, expectedSeq } of send.entries)
      if (expectedSeq !== undefined && expectedSeq !== this.head(channel))
        return { code: 'seq-conflict', channel, head: this.head(channel) }
    const answers = send.entries.map(({ channel, values }) => {
      const into = this.make(channel)
      const first = into.values.length + 1
      into.values.push(...values)
      return { channel, first, last: into.values.length }
    })
    if (send.key === undefined) return { answers, duplicate: false }
    for (const { channel } of send.entries) this.make(channel).receipts.set(send.key, { sent, answers })
    return { answers, duplicate: false }
  }

  #receipt(send: Send): Receipt | undefined {
    const found = send.entries.map(({ channel }) => this.channels.get(channel)?.receipts.get(send.key!))
    return found.find((receipt) => receipt !== undefined)
  }

  make(name: string): ModelChannel {
    const known = this.channels.get(name)
    if (known) return known
    const channel: ModelChannel = {
      ...{
        epoch: undefined,
        run: 0,
        cleaned: 0,
        gone: new Set<number>(),
        trimmed: 0,
        values: [],
        note: undefined,
        retention: undefined,
      },
      ...{ cursors: new Map(), receipts: new Map() },
    }
    this.channels.set(name, channel)
    return channel
  }

  /** As the log says it now. */
  epoch(name: string): string | undefined {
    const { epoch, run } = this.channels.get(name) ?? {}
    return run ? `${epoch}~${run}` : epoch
  }

  /** Seqs of the events that stand in (after, upTo]. */
  standing(name: string, after: number, upTo: number): number[] {
    const { values, gone } = this.channels.get(name)!
    return values.map((_, i) => i + 1).filter((seq) => seq > after && seq <= upTo && !gone.has(seq))
  }

  /** A place of another history, or one in an older run that may have missed a tombstone. */
  #isOver(name: string, epoch: string, after: number): boolean {
    const channel = this.channels.get(name)!
    if (epoch === this.epoch(name)) return false
    return epoch.split('~')[0] !== channel.epoch || (after > 0 && after < channel.cleaned)
  }

  /** The refusal of a place, or undefined when a reader may go on from it. */
  judge(name: string, epoch: string | undefined, after: number): string | undefined {
    const channel = this.channels.get(name)
    if (!channel) return 'no-channel'
    if (epoch !== undefined && this.#isOver(name, epoch, after)) return 'epoch-changed'
    if (after > channel.values.length) return 'ahead-of-head'
    return after < channel.trimmed ? 'gap' : undefined
  }

  /** True when `changed` must resolve at once. */
  hasChanged(name: string, epoch: string | undefined, after: number): boolean {
    const refusal = this.judge(name, epoch, after)
    if (refusal === 'no-channel') return epoch !== undefined
    return refusal !== undefined || after < this.head(name)
  }

  move(how: 'commit' | 'seek', client: string, name: string, seq: number, epoch?: string): Outcome<ModelCursor> {
    const channel = this.channels.get(name)
    if (!channel) return { code: 'no-channel' }
    if (epoch !== undefined && epoch.split('~')[0] !== channel.epoch) return { code: 'epoch-changed' }
    if (seq > channel.values.length) return { code: 'ahead-of-head', head: channel.values.length }
    const now = this.epoch(name)
    const stood = how === 'commit' ? channel.cursors.get(client) : undefined
    const known = stood && epoch === now && this.#isOver(name, stood.epoch!, stood.seq) ? undefined : stood
    if (known && known.seq >= seq) return known
    const moved = { seq, epoch: seq < channel.cleaned ? (epoch ?? known?.epoch ?? now) : now }
    channel.cursors.set(client, moved)
    return moved
  }

  forget(client: string, name: string): Outcome<boolean> {
    return this.channels.get(name)?.cursors.delete(client) ?? { code: 'no-channel' }
  }

  trim(name: string, upTo: number): Outcome<{ trimmed: number; head: number }> {
    const channel = this.channels.get(name)
    if (!channel) return { code: 'no-channel' }
    channel.trimmed = Math.max(channel.trimmed, Math.min(upTo, channel.values.length))
    return { trimmed: channel.trimmed, head: channel.values.length }
  }

  /** The newest event of each key stays, and every event without one; tombstones that are the newest, when they may not go. */
  compact(name: string, tombstonesToo: boolean): Outcome<{ before: number; after: number; tombstones: number }> {
    const channel = this.channels.get(name)
    if (!channel) return { code: 'no-channel' }
    const { values, gone, trimmed } = channel
    const before = this.standing(name, trimmed, values.length)
    const newest = new Map(before.map((seq) => [shown(values[seq - 1]!).key, seq]))
    const stays = before.filter((seq) => {
      const { key } = shown(values[seq - 1]!)
      return key === null || newest.get(key) === seq
    })
    const goes = tombstonesToo ? stays.filter((seq) => shown(values[seq - 1]!).data === null) : []
    const after = stays.filter((seq) => !goes.includes(seq))
    for (const seq of before) if (!after.includes(seq)) gone.add(seq)
    if (goes.length > 0) channel.run++
    channel.cleaned = Math.max(channel.cleaned, ...goes)
    return { before: before.length, after: after.length, tombstones: goes.length }
  }

  configure(name: string, note: string, retention: Retention | undefined): void {
    Object.assign(this.make(name), { note, retention })
  }

  /** What a look of the keeper trims. @param rule for a channel that does not say itself */
  keep(rule: { readonly channel: string; readonly retention: Retention }): void {
    for (const [
      name,
      { retention = name === rule.channel ? rule.retention : undefined, values, cursors, trimmed },
    ] of this.channels) {
      if (retention === undefined) continue
      const { maxEvents, consumed } = retention
      const passed = Math.min(...[...cursors.values()].map(({ seq }) => seq))
      if (maxEvents === undefined) {
        if (consumed && cursors.size > 0) this.trim(name, passed)
        continue
      }
      const upTo = Math.max(values.length - maxEvents, trimmed)
      this.trim(name, consumed ? Math.min(upTo, passed) : upTo)
    }
  }

  delete(name: string): Outcome<undefined> {
    const channel = this.channels.get(name)
    if (!channel) return { code: 'no-channel' }
    const epoch = this.epoch(name)
    if (epoch !== undefined) this.gone.set(name, [...(this.gone.get(name) ?? []), epoch])
    this.channels.delete(name)
    return undefined
  }
}
