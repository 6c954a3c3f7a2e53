/**
 * Erasing, over the port: one event, or all events of a key, are taken out of their blocks, each block in one durable
 * write; from then on nobody reads them. Then disk space is given back, so that their bytes are in no file any more.
 * What is about to be erased, and what was, stands in the audit trail: where it stood, never the key or the data.
 *
 * For a key a tombstone is appended first: who holds what is erased is told as of any other deletion.
 */
import { readHeader, spansOf, walkBlock } from '../block.ts'
import { encodeBody, FLAG } from '../body.ts'
import { sameHistory } from '../epoch.ts'
import { hasCode, TidemarkError } from '../errors.ts'
import { AUDIT_CHANNEL, type NewEvent } from '../event.ts'
import { textAt } from '../walk.ts'
import { type BackgroundOptions, PAGE, Pace, Stretches } from './background.ts'
import type { ChannelInfo, Log, Page, Replacement } from './log.ts'
import { blocksOver } from './packing.ts'

/** A block that others change meanwhile is read again so often. */
const TRIES = 20

export type EraseWhat = { readonly seq: number } | { readonly key: string }

export interface EraseOptions extends BackgroundOptions {
  /** Who asked for it, by a name that is no secret. */
  readonly by?: string
  readonly onProgress?: (done: EraseProgress) => void
  /** Blocks of the channel are others now: what was counted of them is to be counted anew. */
  readonly onReplaced?: () => void
}

export interface EraseProgress {
  readonly phase: 'reading' | 'erasing' | 'reclaiming'
  /** How far the phase is. */
  readonly seq: number
}

/** What was erased. */
export interface Erased {
  readonly channel: string
  readonly epoch: string
  readonly events: number
  /** Of the erased events; null when there were none. */
  readonly first: number | null
  readonly last: number | null
  /** The seq of the key's tombstone, where one was appended. */
  readonly tombstone: number | null
}

/**
 * Asked for again, it finds nothing, and gives disk space back all the same: so an erasing that was interrupted is ended.
 * @throws not-supported, no-channel, gap, ahead-of-head (of a seq), data-loss (nothing behind the damage is erased),
 * unavailable; the signal's reason
 */
export async function erase(log: Log, channel: string, what: EraseWhat, options: EraseOptions = {}): Promise<Erased> {
  if (!log.about.capabilities.includes('erase') || !log.replace)
    throw new TidemarkError('not-supported', 'This engine does not erase', { capability: 'erase' })
  return new Erasing(log, await log.info(channel), what, options).run()
}

class Erasing {
  readonly #log: Log
  readonly #info: ChannelInfo
  readonly #what: EraseWhat
  readonly #options: EraseOptions
  readonly #pace: Pace
  readonly #stretches = new Stretches()
  #epoch: string
  #erased = { events: 0, first: null as number | null, last: null as number | null }

  constructor(log: Log, info: ChannelInfo, what: EraseWhat, options: EraseOptions) {
    this.#log = log
    this.#info = info
    this.#what = what
    this.#options = options
    this.#pace = new Pace(options)
    this.#epoch = info.epoch
  }

  async run(): Promise<Erased> {
    const what = this.#what
    const { channel } = this.#info
    const tombstone = 'seq' in what ? await this.#one(what.seq) : await this.#all(what.key)
    const { events, first, last } = this.#erased
    if (events === 0) {
      // What compaction has taken out of the log since may still be in rows that are not so far.
      const place = await this.#log.stateRows?.place(channel)
      if (place && place.at < this.#info.head) await this.#log.stateRows!.drop(channel)
      // Asked for again: what the last time left on disk may have stood anywhere.
      if ('key' in what) await this.#pass(0, this.#info.head)
    }
    await this.#stretches.reclaim(this.#log, channel, this.#pace, (seq) => this.#tell('reclaiming', seq))
    const erased = { channel, epoch: this.#epoch, events, first, last, tombstone }
    if (events > 0) await this.#record('erased', { events, first, last })
    return erased
  }

  async #one(seq: number): Promise<null> {
    const { channel, epoch, head, trimmed } = this.#info
    if (seq > head || seq < 1)
      throw new TidemarkError('ahead-of-head', `The head of ${channel} is ${head}: there is no event ${seq}`, {
        ...{ channel, epoch, head, trimmed },
      })
    if (seq <= trimmed)
      throw new TidemarkError('gap', `Event ${seq} of ${channel}: trimmed`, { channel, epoch, head, trimmed })
    await this.#record('erase', { seq })
    await this.#eraseIn(seq - 1, seq)
    return null
  }

  /** Undefined when there is nothing of the key but tombstones. */
  async #all(key: string): Promise<number | null> {
    const first = await this.#find(key)
    if (first === undefined) return null
    await this.#record('erase', { key: true, from: first })
    const { channel } = this.#info
    const gone: NewEvent = { type: null, key, id: null, contentType: null, data: null, to: null }
    const [answer] = await this.#log.append([{ channel, body: encodeBody([gone]) }], { create: false })
    await this.#eraseIn(0, answer!.first - 1)
    return answer!.first
  }

  /** The first seq of the key that has data. */
  async #find(key: string): Promise<number | undefined> {
    let found: number | undefined
    await this.#each(0, this.#info.head, 'reading', async (block, page) => {
      if (readHeader(block).flags & FLAG.keyed)
        walkBlock(block, page.after, this.#info.head, (seq, _, parts) => {
          if (parts.data >= 0 && parts.key >= 0 && textAt(block, parts.key, parts.keyEnd) === key) found = seq
          return found === undefined
        })
      return found === undefined ? 'next' : 'enough'
    })
    return found
  }

  async #eraseIn(after: number, upTo: number): Promise<void> {
    const { channel } = this.#info
    await this.#each(after, upTo, 'erasing', async (block, { trimmed }) => {
      const header = readHeader(block)
      const { seqs: gone, ...erased } = this.#goneOf(block, Math.max(after, trimmed), upTo)
      if (gone.length > 0) {
        const stays = spansOf(block).filter(({ seq }) => seq > trimmed && !gone.includes(seq))
        const range = { after: header.after, last: header.last, time: header.time }
        const blocks = blocksOver(channel, range, stays)
        const replacement = { epoch: this.#epoch, trimmed, replaced: [header], blocks, ...erased }
        if (!(await this.#pace.patiently(() => this.#log.replace!(channel, replacement)))) return 'again'
        this.#options.onReplaced?.()
        const { events, first } = this.#erased
        this.#erased = { events: events + gone.length, first: first ?? gone[0]!, last: gone.at(-1)! }
      }
      // Of one event also when it is gone: what an interrupted erasing left is where it stood.
      this.#stretches.pass(header, gone.length > 0 || 'seq' in this.#what)
      return 'next'
    })
  }

  /** Seqs of the events of a block that go, and what that is to the rows of its state. */
  #goneOf(block: Uint8Array, after: number, upTo: number): Pick<Replacement, 'erases'> & { readonly seqs: number[] } {
    const what = this.#what
    const seqs: number[] = []
    let erases: Replacement['erases']
    walkBlock(block, after, upTo, (seq, _, { key: from, keyEnd, data }) => {
      const isOne = 'seq' in what
      if (isOne ? seq !== what.seq : from < 0 || textAt(block, from, keyEnd) !== what.key) return true
      seqs.push(seq)
      if (from < 0) return true
      const key = Buffer.from(block.subarray(from, keyEnd)).toString('latin1')
      // Where a single tombstone goes, what it deleted is there again.
      erases = isOne && data < 0 ? true : { key, upTo: isOne ? seq : upTo, isAll: !isOne }
      return true
    })
    return { seqs, ...(erases && { erases }) }
  }

  /** All blocks of a range, as if they had changed. */
  #pass(after: number, upTo: number): Promise<void> {
    return this.#each(after, upTo, 'reading', async (block) => {
      this.#stretches.pass(readHeader(block), true)
      return 'next'
    })
  }

  /** Blocks of a range one after the other; `again` reads on from where this one begins. What is trimmed meanwhile is passed over. */
  async #each(
    after: number,
    upTo: number,
    phase: EraseProgress['phase'],
    visit: (block: Uint8Array, page: Page) => Promise<'next' | 'again' | 'enough'>,
  ): Promise<void> {
    let tries = 0
    for (let at = Math.max(after, this.#info.trimmed); at < upTo; ) {
      await this.#pace.rest()
      const page = await this.#read(at)
      if (typeof page === 'number') {
        at = page
        continue
      }
      for (const block of page.blocks) {
        const next = await visit(block, page)
        if (next === 'enough') return
        if (next === 'again') {
          if (++tries > TRIES) throw new TidemarkError('unavailable', 'Trims came between again and again', {})
          break
        }
        tries = 0
        at = readHeader(block).last
        if (at >= upTo) break
      }
      this.#tell(phase, Math.min(at, upTo))
    }
  }

  /** A page, or where reading goes on. */
  async #read(after: number): Promise<Page | number> {
    try {
      return await this.#log.read(this.#info.channel, { epoch: this.#epoch, after }, PAGE)
    } catch (error) {
      const { details } = error as TidemarkError
      if (hasCode(error, 'gap')) return details.trimmed as number
      // Compaction beside it: no event of these goes with a tombstone.
      if (!hasCode(error, 'epoch-changed') || !sameHistory(String(details.epoch), this.#epoch)) throw error
      this.#epoch = String(details.epoch)
      return after
    }
  }

  #tell(phase: EraseProgress['phase'], seq: number): void {
    this.#options.onProgress?.({ phase, seq })
  }

  async #record(type: 'erase' | 'erased', facts: object): Promise<void> {
    const { by } = this.#options
    const { channel } = this.#info
    const data = new TextEncoder().encode(
      JSON.stringify({ ...(by && { who: by }), channel, epoch: this.#epoch, ...facts }),
    )
    const entry: NewEvent = { type, key: null, id: null, contentType: null, data, to: null }
    await this.#log.append([{ channel: AUDIT_CHANNEL, body: encodeBody([entry]) }], { create: true })
  }
}
