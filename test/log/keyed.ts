/**
 * A channel of events with keys, as it was appended, and readers that keep a state by key: what compaction may take from
 * a channel, what each reader may see of it, and what it must know in the end.
 */
import { expect } from 'vitest'
import type { Event, NewEvent } from '../../src/event.ts'
import { Follower, type From } from '../../src/log/follow.ts'
import type { Log, Place, ReadLimits } from '../../src/log/log.ts'
import { range } from '../parts.ts'
import { eventsOf, readAll, valueIn } from './reading.ts'

/** Everything that was ever appended to one channel. */
export class History {
  readonly events: NewEvent[] = []
  /** The newest seq of each key. */
  readonly #newest = new Map<string, number>()

  get head(): number {
    return this.events.length
  }

  add(events: readonly NewEvent[]): void {
    for (const it of events) if (this.events.push(it) && it.key !== null) this.#newest.set(it.key, this.head)
  }

  /** Of a stretch: each event is what was appended, in order, and what is not there was free to go. */
  judge(after: number, last: number, events: readonly Event[]): void {
    const seqs = events.map(({ seq }) => seq)
    const there = new Set(seqs)
    expect(seqs).toEqual([...there].sort((a, b) => a - b))
    for (const it of events) {
      const { key, data } = this.events[it.seq - 1]!
      expect({ key: it.key, data: it.data && Buffer.from(it.data) }).toEqual({ key, data: data && Buffer.from(data) })
    }
    for (const seq of range(after + 1, last)) {
      if (there.has(seq)) continue
      const { key, data } = this.events[seq - 1]!
      expect([seq, key !== null && (this.#newest.get(key)! > seq || data === null)]).toEqual([seq, true])
    }
  }

  /** All that a log holds of the channel. */
  async judgeAll(log: Log, channel: string): Promise<void> {
    const { trimmed, head } = await log.info(channel)
    expect(head).toBe(this.head)
    this.judge(trimmed, head, await readAll(log, channel, { after: trimmed }))
  }

  /** What is true at a seq: of each key that is not deleted the newest seq up to it. */
  stateAt(at: number): Map<string, number> {
    const state = new Map<string, number>()
    for (const [i, { key, data }] of this.events.slice(0, at).entries())
      if (key !== null && data === null) state.delete(key)
      else if (key !== null) state.set(key, i + 1)
    return state
  }

  /** The newest value of each key, for whoever knows what stands behind a seq. */
  stateSince(since: number): Map<string, unknown> {
    const state = [...this.#newest].flatMap(([key, seq]) => {
      const newest = this.events[seq - 1]!
      return seq > since && newest.data !== null ? [[key, valueIn(newest)] as const] : []
    })
    return new Map(state.sort())
  }
}

/** A reader that keeps a state by key, over as many logs and followers as it takes. */
export class KeyedReader {
  readonly #history: History
  readonly #state = new Map<string, unknown>()
  #follower: Follower
  #after: number
  /** What it knows begins behind this seq. */
  #since: number
  /** Of what it was told. */
  readonly count = { seen: 0, gaps: 0, resets: 0 }

  constructor(history: History, follower: Follower) {
    this.#history = history
    this.#follower = follower
    this.#after = this.#since = follower.place.after
  }

  static async begin(history: History, log: Log, channel: string): Promise<KeyedReader> {
    const { follower } = await Follower.open(log, channel, { after: { at: 'earliest' } })
    return new KeyedReader(history, follower)
  }

  /** What it would show to go on from where it is. */
  get place(): Place {
    return this.#follower.place
  }

  /** Goes on where it was, or from another way to say so. */
  async comeBack(log: Log, from?: From): Promise<void> {
    const { channel, place } = this.#follower
    const here = { after: { at: 'seq', seq: place.after }, epoch: place.epoch } as const
    this.#follower = (await Follower.open(log, channel, from ?? here)).follower
  }

  /** Takes what comes next; false at the head. */
  async goOn(limits: ReadLimits): Promise<boolean> {
    const item = await this.#follower.next(limits)
    if (item === undefined || item.is === 'caughtup') return false
    if (item.is === 'ended') throw item.error
    if (item.is === 'page') {
      const { page } = item
      const events = eventsOf(page)
      expect(page.after).toBe(this.#after)
      this.#history.judge(page.after, page.last, events)
      for (const { key, ...it } of events)
        if (key !== null && it.data === null) this.#state.delete(key)
        else if (key !== null) this.#state.set(key, valueIn({ key, ...it }))
      this.count.seen += events.length
      this.#after = page.last
    } else {
      this.count[item.is === 'gap' ? 'gaps' : 'resets']++
      this.#state.clear()
      this.#since = this.#after = item.trimmed
    }
    return true
  }

  /** At the head it knows the newest of each key behind where it began, and nothing that was deleted. */
  judge(): void {
    expect(this.#after).toBe(this.#history.head)
    expect(new Map([...this.#state].sort())).toEqual(this.#history.stateSince(this.#since))
  }
}
