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
}

interface ModelChannel {
  /** Learnt from the log's first answer. */
  epoch: string | undefined
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
      ...{ epoch: undefined, trimmed: 0, values: [], note: undefined, retention: undefined },
      ...{ cursors: new Map(), receipts: new Map() },
    }
    this.channels.set(name, channel)
    return channel
  }

  /** The refusal of a place, or undefined when a reader may go on from it. */
  judge(name: string, epoch: string | undefined, after: number): string | undefined {
    const channel = this.channels.get(name)
    if (!channel) return 'no-channel'
    if (epoch !== undefined && epoch !== channel.epoch) return 'epoch-changed'
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
    if (epoch !== undefined && epoch !== channel.epoch) return { code: 'epoch-changed' }
    if (seq > channel.values.length) return { code: 'ahead-of-head', head: channel.values.length }
    const cursor = channel.cursors.get(client)
    if (how === 'commit' && cursor && cursor.seq >= seq) return cursor
    const moved = { seq }
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
    if (channel.epoch !== undefined) this.gone.set(name, [...(this.gone.get(name) ?? []), channel.epoch])
    this.channels.delete(name)
    return undefined
  }
}
