/**
 * The newest blocks of busy channels in memory, and the pages that followers at the head share: for engines.
 *
 * Bounded by bytes over all channels, oldest block out first, ready-made forms counted too, whoever makes them. It only
 * ever holds what is on disk, and loses nothing by forgetting: a reader that finds no block here reads the disk.
 */
import { readHeader } from '../block.ts'
import { type BlockForms, Page, type ReadLimits } from './log.ts'

/** A channel as an engine knows it; `number` is its own for each history. */
export interface TailChannel {
  readonly name: string
  readonly number: number
  readonly head: number
  readonly trimmed: number
}

export interface TailBlock {
  readonly after: number
  readonly last: number
  readonly count: number
  readonly bytes: Uint8Array
}

/** A block's place in the order of arrival, over all channels. */
interface Arrival {
  readonly channel: number
  /** It was dropped: in its turn, or before it, because it was trimmed or its channel is gone. */
  isGone: boolean
}

/** A ready-made form of a block, and the one made before it: few have more than one. */
interface Form {
  readonly name: string
  readonly form: { readonly length: number }
  readonly next: Form | undefined
}

interface HeldBlock extends TailBlock {
  readonly arrival: Arrival
  /** Bytes of its channel's blocks up to and with it. */
  readonly upTo: number
  forms: Form | undefined
  formBytes: number
}

/** A page that ends at the head, and what limits give just this page. */
interface SharedPage {
  readonly page: Page
  /** Of all its blocks; 0 where there is only one, which is given whatever the limit is. */
  readonly bytes: number
  /** Events before its last block. */
  readonly events: number
  /** Of its forms. */
  formBytes: number
}

interface ChannelTail {
  /** Neighbours, oldest first; before `from` stand those that were dropped, of which nothing is kept. */
  blocks: (HeldBlock | undefined)[]
  from: number
  /** Bytes of all blocks that it ever got. */
  bytes: number
  /** Pages that end at the head, by position; a new head makes new ones. */
  pages: Map<number, SharedPage> | undefined
}

/** Most shared pages of one channel: followers at the head stand at few different places. */
const PAGES_MAX = 16
/** Forms are kept of the newest blocks of a channel, up to this part of the budget: readers who are far behind are few. */
const FORMED_PART = 0.25
/** What a block, a form and a channel take beyond their bytes: objects, and what the allocator rounds up. Measured. */
const BLOCK_OVERHEAD = 450
const FORM_OVERHEAD = 350
const CHANNEL_OVERHEAD = 600
/** Arrivals of blocks that are gone already are kept up to this many, and as many as there are others. */
const GONE_KEPT = 4_096

export class Tail {
  readonly #budget: number
  readonly #channels = new Map<number, ChannelTail>()
  #order: Arrival[] = []
  #orderFrom = 0
  /** Blocks held. */
  #count = 0
  #bytes = 0

  constructor(budget: number) {
    this.#budget = budget
  }

  push(channel: number, blocks: readonly TailBlock[]): void {
    const tail = this.#channels.get(channel) ?? this.#make(channel)
    this.#forgetPages(tail)
    for (const block of blocks) {
      const arrival = { channel, isGone: false }
      const { after, last, count, bytes } = block
      tail.bytes += bytes.length
      tail.blocks.push({ after, last, count, bytes, arrival, upTo: tail.bytes, forms: undefined, formBytes: 0 })
      this.#order.push(arrival)
      this.#count++
      this.#bytes += block.bytes.length + BLOCK_OVERHEAD
    }
    this.#keepBudget()
  }

  #make(channel: number): ChannelTail {
    const tail = { blocks: [], from: 0, bytes: 0, pages: undefined }
    this.#channels.set(channel, tail)
    this.#bytes += CHANNEL_OVERHEAD
    return tail
  }

  #keepBudget(): void {
    while (this.#bytes > this.#budget && this.#count > 0) this.#dropOldest()
  }

  /** Forgets blocks up to `upTo`, and every page: what was trimmed must not be given out again. */
  trim(channel: number, upTo: number): void {
    const tail = this.#channels.get(channel)
    if (!tail) return
    this.#forgetPages(tail)
    while (tail.from < tail.blocks.length && tail.blocks[tail.from]!.last <= upTo) this.#drop(channel, tail)
    this.#keepOrder()
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
  page(channel: TailChannel, epoch: string, after: number, limits: ReadLimits): Page | undefined {
    const tail = this.#channels.get(channel.number)
    if (!tail) return undefined
    const shared = tail.pages?.get(after)
    if (shared && shared.bytes <= limits.bytes && shared.events < limits.events) return shared.page
    let i = findBlock(tail, after)
    if (i < 0) return undefined
    const held: HeldBlock[] = []
    const blocks: Uint8Array[] = []
    let last = after
    let events = 0
    let eventsBefore = 0
    let bytes = 0
    for (; i < tail.blocks.length && events < limits.events; i++) {
      const block = tail.blocks[i]!
      if (blocks.length > 0 && bytes + block.bytes.length > limits.bytes) break
      held.push(block)
      blocks.push(block.bytes)
      eventsBefore = events
      events += Math.min(block.count, block.last - last)
      bytes += block.bytes.length
      last = block.last
    }
    const { name, head, trimmed } = channel
    const onForm = (length: number): void => {
      // A page that its channel has moved on from is kept by its readers alone.
      const shared = tail.pages?.get(after)
      if (shared?.page !== page) return
      shared.formBytes += length
      this.#bytes += length
      this.#keepBudget()
    }
    const ofBlock: BlockForms = (index, form, make) => this.#blockForm(tail, held[index]!, form, make)
    tail.pages ??= new Map()
    const isShared = last === head && tail.pages.size < PAGES_MAX && !tail.pages.has(after)
    const facts = { channel: name, epoch, after, last, head, trimmed, blocks }
    const page = new Page(facts, isShared ? onForm : undefined, ofBlock)
    if (isShared)
      tail.pages.set(after, { page, bytes: blocks.length > 1 ? bytes : 0, events: eventsBefore, formBytes: 0 })
    return page
  }

  #blockForm<T extends { readonly length: number }>(
    tail: ChannelTail,
    block: HeldBlock,
    name: string,
    make: (block: Uint8Array) => T,
  ): T {
    for (let known = block.forms; known; known = known.next) if (known.name === name) return known.form as T
    const form = make(block.bytes)
    if (block.arrival.isGone || tail.bytes - block.upTo > this.#budget * FORMED_PART) return form
    block.forms = { name, form, next: block.forms }
    block.formBytes += form.length + FORM_OVERHEAD
    this.#bytes += form.length + FORM_OVERHEAD
    this.#keepBudget()
    return form
  }

  #dropOldest(): void {
    const { channel, isGone } = this.#order[this.#orderFrom++]!
    // The oldest that is left of all is the oldest of its channel.
    if (!isGone) this.#drop(channel, this.#channels.get(channel)!)
    this.#keepOrder()
  }

  #keepOrder(): void {
    if (this.#order.length <= 2 * this.#count + GONE_KEPT) return
    this.#order = this.#order.slice(this.#orderFrom).filter(({ isGone }) => !isGone)
    this.#orderFrom = 0
  }

  #drop(channel: number, tail: ChannelTail): void {
    const block = tail.blocks[tail.from]
    if (!block) return
    this.#forgetPages(tail, block.last)
    block.arrival.isGone = true
    this.#count--
    this.#bytes -= block.bytes.length + block.formBytes + BLOCK_OVERHEAD
    tail.blocks[tail.from++] = undefined
    if (tail.from === tail.blocks.length) {
      this.#channels.delete(channel)
      this.#bytes -= CHANNEL_OVERHEAD
    } else if (tail.from > 64 && tail.from * 2 > tail.blocks.length) {
      tail.blocks = tail.blocks.slice(tail.from)
      tail.from = 0
    }
  }

  /** Forgets pages, those that begin before `upTo`. */
  #forgetPages(tail: ChannelTail, upTo = Number.POSITIVE_INFINITY): void {
    if (!tail.pages) return
    for (const [after, { formBytes }] of tail.pages) {
      if (after >= upTo) continue
      this.#bytes -= formBytes
      tail.pages.delete(after)
    }
  }
}

export function tailBlock(bytes: Uint8Array): TailBlock {
  const { after, last, count } = readHeader(bytes)
  return { after, last, count, bytes }
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
