/**
 * The newest blocks of busy channels in memory, and the pages that followers at the head share.
 *
 * Bounded by bytes over all channels, oldest block out first, ready-made forms counted too. It only ever holds what is
 * on disk, and loses nothing by forgetting: a reader that finds no block here reads the disk.
 */
import { readHeader } from '../../block.ts'
import { Page, type ReadLimits } from '../log.ts'
import type { Channel } from './channels.ts'

export interface TailBlock {
  readonly after: number
  readonly last: number
  readonly count: number
  readonly bytes: Uint8Array
}

interface ChannelTail {
  /** Neighbours, oldest first; blocks before `from` were dropped. */
  blocks: TailBlock[]
  from: number
  /** Pages that end at the head, by position; a new head makes new ones. */
  pages: Map<number, Page>
  /** Bytes of the forms of `pages`. */
  formBytes: number
}

/** Most shared pages of one channel: followers at the head stand at few different places. */
const PAGES_MAX = 16
/** What a block takes beyond its bytes. */
const BLOCK_OVERHEAD = 200

export class Tail {
  readonly #budget: number
  readonly #channels = new Map<number, ChannelTail>()
  /** Channel numbers in the order of their blocks' arrival; a channel stands once for each of its blocks. */
  #order: number[] = []
  #orderFrom = 0
  #bytes = 0

  constructor(budget: number) {
    this.#budget = budget
  }

  /** Bytes held, forms included. */
  get bytes(): number {
    return this.#bytes
  }

  push(channel: number, blocks: readonly TailBlock[]): void {
    const tail: ChannelTail = this.#channels.get(channel) ?? { blocks: [], from: 0, pages: new Map(), formBytes: 0 }
    this.#channels.set(channel, tail)
    this.#forgetPages(tail)
    for (const block of blocks) {
      tail.blocks.push(block)
      this.#order.push(channel)
      this.#bytes += block.bytes.length + BLOCK_OVERHEAD
    }
    while (this.#bytes > this.#budget && this.#orderFrom < this.#order.length) this.#dropOldest()
  }

  /** Forgets blocks up to `upTo`, and every page: what was trimmed must not be given out again. */
  trim(channel: number, upTo: number): void {
    const tail = this.#channels.get(channel)
    if (!tail) return
    this.#forgetPages(tail)
    while (tail.from < tail.blocks.length && tail.blocks[tail.from]!.last <= upTo) this.#drop(channel, tail)
  }

  forget(channel: number): void {
    this.trim(channel, Number.POSITIVE_INFINITY)
  }

  clear(): void {
    for (const channel of [...this.#channels.keys()]) this.forget(channel)
    this.#order = []
    this.#orderFrom = 0
  }

  /** The page that continues `after`; undefined when its first block is not here any more. */
  page(channel: Channel, epoch: string, after: number, limits: ReadLimits): Page | undefined {
    const tail = this.#channels.get(channel.number)
    if (!tail) return undefined
    const shared = tail.pages.get(after)
    if (shared && fits(shared, limits)) return shared
    let i = findBlock(tail, after)
    if (i < 0) return undefined
    const blocks: Uint8Array[] = []
    let last = after
    let events = 0
    let bytes = 0
    for (; i < tail.blocks.length && events < limits.events; i++) {
      const block = tail.blocks[i]!
      if (blocks.length > 0 && bytes + block.bytes.length > limits.bytes) break
      blocks.push(block.bytes)
      events += Math.min(block.count, block.last - last)
      bytes += block.bytes.length
      last = block.last
    }
    const { name, head, trimmed } = channel
    const onForm = (length: number): void => {
      // A page that its channel has moved on from is kept by its readers alone.
      if (tail.pages.get(after) !== page) return
      tail.formBytes += length
      this.#bytes += length
    }
    const page = new Page({ channel: name, epoch, after, last, head, trimmed, blocks }, onForm)
    if (last === head && tail.pages.size < PAGES_MAX) tail.pages.set(after, page)
    return page
  }

  #dropOldest(): void {
    const channel = this.#order[this.#orderFrom++]!
    if (this.#orderFrom > 4_096 && this.#orderFrom * 2 > this.#order.length) {
      this.#order = this.#order.slice(this.#orderFrom)
      this.#orderFrom = 0
    }
    const tail = this.#channels.get(channel)
    // Forgotten blocks leave their places in the order; each then stands for nothing, or for a younger block.
    if (tail) this.#drop(channel, tail)
  }

  #drop(channel: number, tail: ChannelTail): void {
    const block = tail.blocks[tail.from]
    if (!block) return
    this.#bytes -= block.bytes.length + BLOCK_OVERHEAD
    tail.from++
    if (tail.from === tail.blocks.length) {
      this.#forgetPages(tail)
      this.#channels.delete(channel)
    } else if (tail.from > 64 && tail.from * 2 > tail.blocks.length) {
      tail.blocks = tail.blocks.slice(tail.from)
      tail.from = 0
    }
  }

  #forgetPages(tail: ChannelTail): void {
    this.#bytes -= tail.formBytes
    tail.formBytes = 0
    tail.pages.clear()
  }
}

export function tailBlock(bytes: Uint8Array): TailBlock {
  const { after, last, count } = readHeader(bytes)
  return { after, last, count, bytes }
}

function fits(page: Page, limits: ReadLimits): boolean {
  if (page.blocks.length === 1) return true
  let bytes = 0
  for (const block of page.blocks) bytes += block.length
  return bytes <= limits.bytes && page.last - page.after <= limits.events
}

/** Index of the block that continues `after`: block.after ≤ after < block.last. */
function findBlock(tail: ChannelTail, after: number): number {
  const { blocks } = tail
  let low = tail.from
  let high = blocks.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if (blocks[middle]!.last > after) high = middle
    else low = middle + 1
  }
  const block = blocks[low]
  return block !== undefined && block.after <= after ? low : -1
}
