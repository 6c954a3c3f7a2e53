/**
 * What of a channel is beyond its limits, found out over the port alone, and cheaply: the age of the oldest event is
 * remembered, and bytes are counted as blocks come, so that a channel within its limits is not read at all, or only
 * what is new in it.
 */
import { decodeBlock, readHeader } from '../block.ts'
import { hasCode, TidemarkError } from '../errors.ts'
import type { Retention } from '../retention.ts'
import { seqAt } from './follow.ts'
import type { ChannelInfo, Log } from './log.ts'

/** Channels of which something is remembered, about 200 bytes each; the others are looked at anew. */
const KNOWN_MAX = 100_000
/** Read at one look at a channel, bytes; a channel with more to count is looked at again soon. */
const LOOK_BYTES = 32 * 1024 * 1024
const PAGE = { events: 10_000, bytes: 1024 * 1024 } as const
const ONE_BLOCK = { events: 1, bytes: 1 } as const

/** Of one stretch of a channel's history, from `trimmed` on. */
interface Known {
  readonly epoch: string
  trimmed: number
  /** Time of the oldest event, ms. */
  oldest?: number | undefined
  /** Bytes of the blocks up to `counted`, the one that `trimmed` stands in included. */
  bytes: number
  counted: number
  counting?: Promise<boolean> | undefined
  /** How far it was gone over for what is to go: whoever asks for as much, or more, goes on from there. */
  passed?: (Passed & { readonly at: number; readonly bytes: number }) | undefined
}

/** What is to go: events up to `upTo`, and so many bytes, but nothing beyond `most`. */
interface Passed {
  readonly upTo: number
  readonly most: number
  readonly over: number
}

export interface Surplus {
  /** The last seq that may go; `trimmed` when none has to. */
  readonly upTo: number
  /** There was more to read than at one look. */
  readonly more: boolean
  /** What its blocks take that go; undefined where bytes are not counted. */
  readonly bytes?: number
}

export class Surpluses {
  readonly #log: Log
  readonly #known = new Map<string, Known>()

  constructor(log: Log) {
    this.#log = log
  }

  /**
   * The last seq that is beyond the limits, but nothing beyond `floor`, which is asked for only when something is.
   * Without any limit: all up to the floor.
   * @throws as Log.read when the channel changed meanwhile; data-loss when damage hides how old it is
   */
  async of(info: ChannelInfo, retention: Retention, floor: () => Promise<number>): Promise<Surplus> {
    const { maxAge, maxEvents, maxBytes } = retention
    const { trimmed, head } = info
    if (head === trimmed) return { upTo: trimmed, more: false }
    if (maxAge === undefined && maxEvents === undefined && maxBytes === undefined)
      return { upTo: Math.min(head, Math.max(trimmed, await floor())), more: false }
    const known = this.#of(info)
    let upTo = Math.max(trimmed, maxEvents === undefined ? 0 : head - maxEvents)
    let hidden: unknown
    if (maxAge !== undefined)
      try {
        upTo = Math.max(upTo, await this.#olderThan(info, known, Date.now() - maxAge * 1_000))
      } catch (error) {
        if (!hasCode(error, 'data-loss')) throw error
        hidden = error
      }
    let more = false
    let over = 0
    if (maxBytes !== undefined) {
      more = await this.#count(info, known)
      over = known.bytes - maxBytes
    }
    if (upTo <= trimmed && over <= 0) {
      if (hidden !== undefined && !more) throw hidden
      return { upTo: trimmed, more }
    }
    const most = Math.max(trimmed, await floor())
    upTo = Math.min(upTo, most)
    if (maxBytes === undefined) return { upTo, more }
    upTo = Math.min(upTo, known.counted)
    return this.#drop(info, known, { upTo, most, over, more })
  }

  /** Time of the oldest event that can be read, ms; undefined when there is none. @throws as Log.read */
  async oldest(info: ChannelInfo): Promise<number | undefined> {
    if (info.head === info.trimmed) return undefined
    const known = this.#of(info)
    known.oldest ??= await this.#oldest(info)
    return known.oldest
  }

  /** What was found out to go is trimmed: what is left is known without reading it. */
  trimmed(before: ChannelInfo, { upTo, bytes }: Surplus, { channel, epoch, trimmed }: ChannelInfo): void {
    const known = this.#known.get(channel)
    if (bytes === undefined || upTo !== trimmed || known?.epoch !== epoch || known.trimmed !== before.trimmed) return
    // It was begun anew since.
    if (known.counted < trimmed || known.bytes < bytes) {
      this.#known.delete(channel)
      return
    }
    known.bytes -= bytes
    known.trimmed = trimmed
    known.oldest = undefined
    known.passed = undefined
  }

  /** Blocks of the channel are others: it is counted anew. */
  forget(channel: string): void {
    this.#known.delete(channel)
  }

  #of({ channel, epoch, trimmed }: ChannelInfo): Known {
    const known = this.#known.get(channel)
    if (known && known.epoch === epoch && known.trimmed === trimmed) return known
    const anew: Known = { epoch, trimmed, bytes: 0, counted: trimmed }
    if (known || this.#known.size < KNOWN_MAX) this.#known.set(channel, anew)
    return anew
  }

  /** The last seq whose event is from before `time`. */
  async #olderThan(info: ChannelInfo, known: Known, time: number): Promise<number> {
    if (info.time < time) return info.head
    known.oldest ??= await this.#oldest(info)
    return known.oldest < time ? seqAt(this.#log, info, { at: 'time', time }) : info.trimmed
  }

  /** Time of the oldest event that can be read. */
  async #oldest({ channel, epoch, trimmed, head, time }: ChannelInfo): Promise<number> {
    for (let after = trimmed; after < head; ) {
      const page = await this.#log.read(channel, { epoch, after }, ONE_BLOCK).catch(upToOfLoss)
      if (typeof page !== 'number') {
        const found = page.blocks.flatMap((block) => decodeBlock(block, after)).at(0)
        if (found) return found.time
      }
      after = typeof page === 'number' ? page : page.last
    }
    return time
  }

  /** Counts on to the head, once for all who ask meanwhile; true when it did not get there. */
  #count(info: ChannelInfo, known: Known): Promise<boolean> {
    known.counting ??= this.#countOn(info, known).finally(() => {
      known.counting = undefined
    })
    return known.counting
  }

  async #countOn(info: ChannelInfo, known: Known): Promise<boolean> {
    let read = 0
    for await (const { last, bytes } of this.#blocks(info, known.counted)) {
      known.bytes += bytes
      known.counted = last
      read += bytes
      if (read > LOOK_BYTES) return last < info.head
    }
    return false
  }

  /** Goes over the blocks that are to go, so that the count is right without them. */
  async #drop(
    info: ChannelInfo,
    known: Known,
    { upTo, most, over, more }: Passed & { readonly more: boolean },
  ): Promise<Surplus> {
    const { passed } = known
    const goesOn = passed && passed.upTo <= upTo && passed.most <= most && passed.over <= over
    let { at, bytes } = goesOn ? passed : { at: info.trimmed, bytes: 0 }
    let read = 0
    for await (const block of this.#blocks(info, at)) {
      const isOver = bytes < over && block.last <= most && block.last < known.counted
      if (block.last > upTo && !isOver) break
      at = block.last
      bytes += block.bytes
      read += block.bytes
      if (read > LOOK_BYTES) break
    }
    // A limit of age or events may end within a block, which then stays and counts.
    const isLong = read > LOOK_BYTES
    if (known.trimmed === info.trimmed) known.passed = { upTo, most, over, at, bytes }
    return { upTo: isLong ? at : Math.max(at, upTo), more: more || isLong, bytes }
  }

  /** Blocks behind a place up to the head. What is damaged takes no bytes; reading it is still `data-loss`. */
  async *#blocks(info: ChannelInfo, after: number): AsyncIterable<{ readonly last: number; readonly bytes: number }> {
    const { channel, epoch, head } = info
    for (let at = after; at < head; ) {
      const page = await this.#log.read(channel, { epoch, after: at }, PAGE).catch(upToOfLoss)
      if (typeof page === 'number') {
        at = page
        yield { last: at, bytes: 0 }
        continue
      }
      for (const block of page.blocks) yield { last: readHeader(block).last, bytes: block.length }
      at = page.last
    }
  }
}

/** Where reading goes on behind damage. */
function upToOfLoss(error: unknown): number {
  if (!(error instanceof TidemarkError) || error.code !== 'data-loss') throw error
  return error.details.upTo as number
}
