/**
 * Following a channel over the port, written once: poll, long poll, SSE and WebSocket all pull from a Follower.
 *
 * A follower is a position and nothing else. It asks the log ("what continues this place?") and, at the head, waits
 * until the log has changed from this place (level-triggered), so that nothing can fall between history and live.
 */
import { setImmediate as nextTurn } from 'node:timers/promises'
import { crc32 } from 'node:zlib'
import { buildBlock, decodeBlock, readHeader, sliceBlock, walkBlock } from '../block.ts'
import { sameHistory } from '../epoch.ts'
import { hasCode, TidemarkError } from '../errors.ts'
import type { Position } from '../event.ts'
import type { ChannelInfo, Page, Place, ReadLimits } from './log.ts'
import type { Source } from './seen.ts'

/** Where to start: any position, or a client's cursor. `epoch` is the history that the caller believes in. */
export type From =
  | { readonly after: Position; readonly epoch?: string | undefined }
  | { readonly client: string; readonly epoch?: string | undefined }

/** What comes next for a reader. */
export type Item =
  | { readonly is: 'page'; readonly page: Page }
  | { readonly is: 'gap'; readonly after: number; readonly trimmed: number }
  | { readonly is: 'reset'; readonly epoch: string | null; readonly trimmed: number; readonly head: number }
  | { readonly is: 'caughtup'; readonly seq: number }
  | { readonly is: 'ended'; readonly error: TidemarkError }

/** A reader's place when it started. `epoch` is null while there is no such channel yet. */
export interface Opened {
  readonly channel: string
  readonly epoch: string | null
  readonly after: number
  readonly trimmed: number
  readonly head: number
}

/** What comes next is not in memory. */
export const UNREAD = Symbol('unread')

const NOWHERE = { epoch: null, after: 0, trimmed: 0, head: 0 } as const

export class Follower {
  readonly channel: string
  readonly #log: Source
  /** Undefined until the channel exists. */
  #epoch: string | undefined
  #after = 0
  /** What must be told before the next page. */
  #told: Item | undefined
  #caughtUp = false
  #ended = false

  private constructor(log: Source, channel: string) {
    this.#log = log
    this.channel = channel
  }

  /**
   * Finds the place. Never throws for a place that is gone: the first `next` tells it as `gap` or `reset`.
   * An unknown channel is waited for.
   */
  static async open(log: Source, channel: string, from: From): Promise<{ follower: Follower; opened: Opened }> {
    const follower = new Follower(log, channel)
    return { follower, opened: await follower.#open(from) }
  }

  /** As `open`, when all that has to be known is in memory and the place is in the history; undefined otherwise. */
  static openAtOnce(log: Source, channel: string, place: Place): { follower: Follower; opened: Opened } | undefined {
    try {
      const page = log.recent(channel, place, ONE_BLOCK)
      if (page === undefined) return undefined
      const { epoch, after } = page
      const follower = new Follower(log, channel)
      follower.#epoch = epoch
      follower.#after = after
      return { follower, opened: page }
    } catch (error) {
      if (error instanceof TidemarkError) return undefined
      throw error
    }
  }

  /** The position: everything up to `after` was given out. */
  get place(): Place {
    return this.#epoch === undefined ? { after: this.#after } : { epoch: this.#epoch, after: this.#after }
  }

  async #open(from: From): Promise<Opened> {
    for (;;) {
      try {
        return await this.#place(from)
      } catch (error) {
        // The channel was deleted or made anew while the place was looked for: look in what there is now.
        if (!hasCode(error, 'no-channel') && !hasCode(error, 'epoch-changed')) throw error
      }
    }
  }

  async #place(from: From): Promise<Opened> {
    const info = await infoOrNone(this.#log, this.channel)
    if (info === undefined) {
      // A reader that knew a history of this channel must hear that it is gone.
      if (from.epoch !== undefined) this.#told = { is: 'reset', epoch: null, trimmed: 0, head: 0 }
      return { channel: this.channel, ...NOWHERE }
    }
    const start = await resolve(this.#log, info, from)
    const { trimmed, head } = info
    if (start === 'reset') this.#told = { is: 'reset', epoch: info.epoch, trimmed, head }
    const { epoch, after } = start === 'reset' ? { epoch: info.epoch, after: trimmed } : start
    this.#epoch = epoch
    this.#after = after
    return { channel: this.channel, epoch, after, trimmed, head }
  }

  /** What is there now, without waiting; undefined at the head when that was told already. */
  async next(limits: ReadLimits): Promise<Item | undefined> {
    const item = this.recent(limits)
    if (item !== UNREAD) return item
    try {
      return this.#step(await this.#log.read(this.channel, this.place, limits))
    } catch (error) {
      return this.#turn(error)
    }
  }

  /** As `next`, at once, of what the log has in memory; UNREAD when more has to be looked at. */
  recent(limits: ReadLimits): Item | undefined | typeof UNREAD {
    if (this.#told) {
      const item = this.#told
      this.#told = undefined
      return item
    }
    if (this.#ended) return undefined
    try {
      const page = this.#log.recent(this.channel, this.place, limits)
      return page ? this.#step(page) : UNREAD
    } catch (error) {
      return this.#turn(error)
    }
  }

  #step(page: Page): Item | undefined {
    this.#epoch = page.epoch
    if (page.last > this.#after) {
      this.#after = page.last
      if (!page.caughtUp) this.#caughtUp = false
      return { is: 'page', page }
    }
    if (this.#caughtUp) return undefined
    this.#caughtUp = true
    return { is: 'caughtup', seq: page.last }
  }

  /** A read that failed: what it means to a reader. */
  #turn(error: unknown): Item | undefined {
    if (!(error instanceof TidemarkError)) throw error
    const { epoch, trimmed, head } = error.details as { epoch: string; trimmed: number; head: number }
    switch (error.code) {
      case 'gap': {
        const after = this.#after
        this.#after = trimmed
        this.#caughtUp = false
        return { is: 'gap', after, trimmed }
      }
      case 'epoch-changed':
      case 'ahead-of-head':
        this.#epoch = epoch
        this.#after = trimmed
        this.#caughtUp = false
        return { is: 'reset', epoch, trimmed, head }
      case 'no-channel':
        // Not made yet: wait for it. Gone: the end.
        if (this.#epoch === undefined) return undefined
        break
      case 'unavailable':
        throw error
    }
    this.#ended = true
    return { is: 'ended', error }
  }

  /** Resolves when `next` has something to say. Rejects when the signal aborts. */
  async changed(signal: AbortSignal): Promise<void> {
    if (this.#told === undefined && !this.#ended) await this.#log.changed(this.channel, this.place, signal)
  }
}

/** How long a reader waits. */
export interface Wait {
  /** Its time is over, or nobody waits any more. */
  readonly isOver: boolean
  /** Resolves when the log has changed from this place (Log.changed), or when the wait is over. @throws what the log throws */
  changed(channel: string, from: Place): Promise<void>
}

/**
 * The page at a place, waiting for it while there is none: read, then wait until the log has changed, then read
 * again. Positions that pass without an event do not end the wait; the page tells them with what comes. When the wait
 * is over: the page without events as it is then.
 * @throws as Log.read; an unknown channel is waited for unless the wait is over already.
 */
export async function readOrWait(
  log: Source,
  channel: string,
  from: Place,
  limits: ReadLimits,
  wait: Wait,
): Promise<Page> {
  let at = from
  let passed: Page | undefined
  for (;;) {
    try {
      const read = log.recent(channel, at, limits) ?? (await log.read(channel, at, limits))
      const page = passed ? behind(passed, read) : read
      if (wait.isOver || hasEvents(read)) return page
      if (read.last > at.after) {
        passed = page
        at = { epoch: page.epoch, after: page.last }
        if (!page.caughtUp) {
          // Pages from memory take no turn of the event loop.
          await nextTurn()
          continue
        }
      }
    } catch (error) {
      const unknown = error instanceof TidemarkError && error.code === 'no-channel' && at.epoch === undefined
      if (!unknown || wait.isOver) throw error
    }
    await wait.changed(channel, at)
  }
}

/** Whether there is an event on a page, and not only positions that pass. */
export function hasEvents({ blocks, after, last }: Page): boolean {
  return blocks.some((block) => {
    const header = readHeader(block)
    if (header.count === header.last - header.after) return true
    let found = false
    walkBlock(block, after, last, () => {
      found = true
      return false
    })
    return found
  })
}

/** Two pages, one behind the other, as one. @param passed without events */
export function behind(passed: Page, page: Page): Page {
  const { channel, after, last } = passed
  const nothing = buildBlock(channel, { after, last, time: 0 }, [], crc32) as Uint8Array
  // What the second page holds from before its place is not for its reader.
  const blocks = page.blocks.map((block) => sliceBlock(channel, block, page, crc32))
  return page.with({ after, blocks: last > after ? [nothing, ...blocks] : blocks })
}

/** Undefined when there is no such channel. */
export async function infoOrNone(log: Pick<Source, 'info'>, channel: string): Promise<ChannelInfo | undefined> {
  try {
    return await log.info(channel)
  } catch (error) {
    if (error instanceof TidemarkError && error.code === 'no-channel') return undefined
    throw error
  }
}

/**
 * The place that a starting point means in this history; `reset` when it belongs to another one or lies beyond the head.
 * A seq stays of the run in which it was learnt, so that the first read is judged by it; a word means the history of now.
 */
async function resolve(log: Source, info: ChannelInfo, from: From): Promise<Required<Place> | 'reset'> {
  const { epoch } = info
  if (from.epoch !== undefined && !sameHistory(from.epoch, epoch)) return 'reset'
  if ('client' in from) {
    const cursor = await log.cursor(from.client, info.channel)
    if (cursor === undefined) return { epoch, after: info.trimmed }
    const stands = sameHistory(cursor.epoch, epoch) && cursor.seq <= info.head
    return stands ? { epoch: cursor.epoch, after: cursor.seq } : 'reset'
  }
  const after = await seqAt(log, info, from.after)
  if (after > info.head) return 'reset'
  // Who has nothing can have missed nothing.
  return { epoch: from.after.at === 'seq' && after > 0 ? (from.epoch ?? epoch) : epoch, after }
}

/** The seq of a position. Only a number can lie below `trimmed` or beyond the head. */
export async function seqAt(log: Source, info: ChannelInfo, position: Position): Promise<number> {
  switch (position.at) {
    case 'seq':
      return position.seq
    case 'earliest':
      return info.trimmed
    case 'head':
      return Math.max(info.head - position.back, info.trimmed)
    case 'time':
      return seqBefore(log, info, position.time)
  }
}

const ONE_BLOCK: ReadLimits = { events: 1, bytes: 1 }

/** The last seq before the first event at or after `time`: a binary search over blocks, whose times never fall. */
async function seqBefore(log: Source, info: ChannelInfo, time: number): Promise<number> {
  if (time > info.time) return info.head
  let low = info.trimmed
  let high = info.head
  while (low < high) {
    const middle = Math.floor((low + high) / 2)
    const page = await readOrTrimmed(log, info, middle)
    if (typeof page === 'number') {
      low = page
      continue
    }
    const block = page.blocks[0]
    if (block === undefined) return high
    const header = readHeader(block)
    if (header.time >= time) {
      high = middle
      continue
    }
    const found = decodeBlock(block, low).find((event) => event.time >= time)
    if (found) return found.seq - 1
    low = header.last
  }
  return Math.max(low, high)
}

/** One block at a place, or how far the channel has been trimmed past it meanwhile. */
async function readOrTrimmed(log: Source, info: ChannelInfo, after: number): Promise<Page | number> {
  try {
    return await log.read(info.channel, { epoch: info.epoch, after }, ONE_BLOCK)
  } catch (error) {
    if (hasCode(error, 'gap')) return (error as TidemarkError).details.trimmed as number
    if (!hasCode(error, 'epoch-changed')) throw error
    const epoch = String((error as TidemarkError).details.epoch)
    if (!sameHistory(epoch, info.epoch)) throw error
    // Times are as they were: only tombstones are about to go.
    return readOrTrimmed(log, { ...info, epoch }, after)
  }
}
