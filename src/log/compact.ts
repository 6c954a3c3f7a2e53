/**
 * Compaction by key, over the port: the newest event of each key stays, and every event without one; order, seqs and
 * times stay. Stretch after stretch is replaced, each in one durable write, while others append and read: wherever it
 * ends, the log is whole, and a run is gone on with by running again.
 *
 * Tombstones that are old enough go last: only when no older event of their keys is left may a reader who begins now
 * not see them, and all who began before are told by the run of the epoch (`Log.clean`).
 */
import { type Header, readHeader, type Span, spansOf, walkBlock } from '../block.ts'
import { FLAG, HEADER_BYTES } from '../body.ts'
import { hasCode, TidemarkError } from '../errors.ts'
import { textAt } from '../walk.ts'
import { type BackgroundOptions, PAGE, Pace, Stretches } from './background.ts'
import { seqAt } from './follow.ts'
import type { ChannelInfo, Log, Page } from './log.ts'
import { Newest } from './newest.ts'
import { Packing, type Stretch } from './packing.ts'

/** The newest events, which are never touched unless the caller says otherwise. */
const MIN_LAG = 1_000
/** How long a tombstone stays visible unless configured, ms: 7 days. */
const TOMBSTONE_AGE_MS = 604_800_000
/** A stretch into which a trim came is tried again so often. */
const TRIES = 5

export interface CompactOptions extends BackgroundOptions {
  /** Nothing is changed; told is what would be. */
  readonly dryRun?: boolean | undefined
  /** The newest events that are not touched. Default MIN_LAG. */
  readonly minLag?: number | undefined
  /** Events that are younger are not touched, ms. Default 0. */
  readonly minAge?: number | undefined
  /** Default TOMBSTONE_AGE_MS. */
  readonly tombstoneAge?: number | undefined
  readonly onProgress?: (done: Progress) => void
  /** Blocks of the channel are others now: what was counted of them is to be counted anew. */
  readonly onReplaced?: () => void
  /** In place of what Newest takes, for tests. */
  readonly newestBytes?: number
}

export interface Progress {
  readonly phase: 'reading' | 'rewriting' | 'cleaning' | 'reclaiming'
  /** How far the phase is. It may be gone through several times, when there are more keys than fit in memory. */
  readonly seq: number
  /** Bytes of blocks less than before, so far. */
  readonly freed: number
}

/** What of a channel there was, and is. */
export interface Compacted {
  readonly channel: string
  readonly epoch: string
  /** Nothing behind this seq was touched. */
  readonly upTo: number
  readonly events: { readonly before: number; readonly after: number }
  readonly bytes: { readonly before: number; readonly after: number }
  readonly blocks: { readonly before: number; readonly after: number }
  /** Tombstones among the events that went. */
  readonly tombstones: number
  /** False when trims came between again and again: another run finds more. */
  readonly complete: boolean
}

/** @throws not-supported, no-channel, epoch-changed, data-loss (a damaged channel is left as it is), storage-full, unavailable; the signal's reason */
export async function compactChannel(log: Log, channel: string, options: CompactOptions = {}): Promise<Compacted> {
  if (!log.replace || !log.clean)
    throw new TidemarkError('not-supported', 'This engine does not compact', { capability: 'compact' })
  const info = await log.info(channel)
  return new Run(log, info, options).run(info)
}

/** What of a stretch of blocks goes. */
interface Pass {
  readonly phase: Progress['phase']
  /** Tombstones up to this seq go; those that may and stay are told in `found`. */
  readonly cleanUpTo: number
  readonly found: { tombstones: number; upTo: number }
}

class Run {
  readonly #log: Log
  readonly #channel: string
  readonly #options: CompactOptions
  readonly #newest: Newest
  readonly #pace: Pace
  readonly #head: number
  /** Tombstones from before this may go. */
  readonly #cutoff: number
  #epoch: string
  #trimmed: number
  #upTo = 0
  /** All that there is: what is no more may have stood anywhere. */
  #stretches = new Stretches()
  #before = { events: 0, bytes: 0, blocks: 0 }
  #gone = { events: 0, bytes: 0, blocks: 0, tombstones: 0 }
  #complete = true

  constructor(log: Log, info: ChannelInfo, options: CompactOptions) {
    this.#log = log
    this.#channel = info.channel
    this.#options = options
    this.#newest = new Newest(options.newestBytes)
    this.#pace = new Pace(options)
    this.#epoch = info.epoch
    this.#head = info.head
    this.#trimmed = info.trimmed
    this.#cutoff = Date.now() - (options.tombstoneAge ?? TOMBSTONE_AGE_MS)
  }

  async run(info: ChannelInfo): Promise<Compacted> {
    const { dryRun, minLag = MIN_LAG, minAge = 0 } = this.#options
    const aged = minAge === 0 ? this.#head : await seqAt(this.#log, info, { at: 'time', time: Date.now() - minAge })
    this.#upTo = Math.max(0, Math.min(this.#head - minLag, aged))
    while (this.#newest.next()) {
      await this.#scan()
      const found = { tombstones: 0, upTo: 0 }
      const whole = await this.#rewrite({ phase: 'rewriting', cleanUpTo: dryRun ? this.#upTo : 0, found })
      this.#complete &&= whole
      if (dryRun) this.#gone.tombstones += found.tombstones
      // While an older event of its key may be left, a tombstone stays.
      else if (whole && found.upTo > 0) {
        const clean = () => this.#log.clean!(this.#channel, found.upTo, this.#epoch)
        this.#epoch = (await this.#pace.patiently(clean)).epoch
        const cleaning: Pass = { phase: 'cleaning', cleanUpTo: found.upTo, found: { tombstones: 0, upTo: 0 } }
        this.#complete = (await this.#rewrite(cleaning)) && this.#complete
      }
    }
    if (!dryRun)
      await this.#stretches.reclaim(this.#log, this.#channel, this.#pace, (seq) => this.#tell('reclaiming', seq))
    const { events, bytes, blocks } = this.#before
    return {
      ...{ channel: this.#channel, epoch: this.#epoch, upTo: Math.max(this.#upTo, this.#trimmed) },
      events: { before: events, after: events - this.#gone.events },
      bytes: { before: bytes, after: bytes - this.#gone.bytes },
      blocks: { before: blocks, after: blocks - this.#gone.blocks },
      ...{ tombstones: this.#gone.tombstones, complete: this.#complete },
    }
  }

  /** Finds the newest seq of each key, and counts what there is. */
  async #scan(): Promise<void> {
    const before = { events: 0, bytes: 0, blocks: 0 }
    this.#stretches = new Stretches()
    for await (const { block, header, page } of this.#blocks(0, this.#head, 'reading')) {
      walkBlock(block, page.after, this.#head, (seq, _, { key, keyEnd }) => {
        if (key >= 0) this.#newest.note(textAt(block, key, keyEnd)!, seq)
        before.events++
        return true
      })
      before.bytes += block.length
      before.blocks++
      this.#stretches.pass(header, true)
    }
    if (this.#newest.isFirst) this.#before = before
  }

  /** False when trims came between again and again: not all is as it should be. */
  async #rewrite(pass: Pass): Promise<boolean> {
    let failures = 0
    for (let from = 0; ; ) {
      const failed = await this.#rewriteFrom(from, pass)
      if (failed === undefined) return failures <= TRIES
      from = ++failures <= TRIES ? failed.replaced[0]!.after : failed.replaced.at(-1)!.last
    }
  }

  /** Replaces what is to be replaced behind a seq; a stretch that was not replaced, if there is one. */
  async #rewriteFrom(from: number, pass: Pass): Promise<Stretch | undefined> {
    const packing = new Packing(this.#channel)
    let end = 0
    for await (const { block, header, page } of this.#blocks(from, this.#upTo, pass.phase)) {
      if (header.last > this.#upTo) break
      // A trim went past what was collected.
      if (header.after !== end) packing.clear()
      end = header.last
      const gone = this.#leaving(block, header, page.trimmed, pass)
      const stays = gone.size === 0 && Packing.isLarge(header)
      const stretch = stays
        ? packing.flush()
        : packing.add(header, staying(block, gone, page.trimmed), gone.size, page.trimmed)
      if (stretch && !(await this.#replace(stretch, pass))) return stretch
    }
    const stretch = packing.flush()
    return stretch && !(await this.#replace(stretch, pass)) ? stretch : undefined
  }

  /** Seqs of the events of a block that go. */
  #leaving(block: Uint8Array, header: Header, trimmed: number, { cleanUpTo, found }: Pass): ReadonlySet<number> {
    const gone = new Set<number>()
    if (!(header.flags & FLAG.keyed)) return gone
    walkBlock(block, trimmed, header.last, (seq, time, { key, keyEnd, data }) => {
      const newest = key < 0 ? undefined : this.#newest.of(textAt(block, key, keyEnd)!)
      if (newest === undefined || newest < seq) return true
      if (newest > seq) gone.add(seq)
      else if (data < 0 && time < this.#cutoff) {
        if (seq <= cleanUpTo) gone.add(seq)
        found.tombstones++
        found.upTo = seq
      }
      return true
    })
    return gone
  }

  async #replace({ replaced, blocks, trimmed, dropped }: Stretch, { phase }: Pass): Promise<boolean> {
    const { dryRun, onReplaced } = this.#options
    if (!dryRun) {
      this.#needRoom()
      const replacement = { epoch: this.#epoch, trimmed, replaced, blocks }
      const isDone = await this.#pace.patiently(() => this.#log.replace!(this.#channel, replacement))
      if (!isDone) return false
      onReplaced?.()
    }
    // What merging saves is the same for each part of the key space.
    const fewer = replaced.length - blocks.length
    const counted = dryRun && !this.#newest.isFirst ? fewer : 0
    const saved = replaced.reduce((sum, { length }) => sum + length, 0) - bytesOf(blocks) - counted * HEADER_BYTES
    this.#gone.blocks += fewer - counted
    this.#gone.bytes += saved
    this.#gone.events += dropped
    if (phase === 'cleaning') this.#gone.tombstones += dropped
    return true
  }

  #tell(phase: Progress['phase'], seq: number): void {
    this.#options.onProgress?.({ phase, seq, freed: this.#gone.bytes })
  }

  /** What is written anew takes room before what it stands for gives it back. @throws storage-full */
  #needRoom(): void {
    const { state, reason } = this.#log.health()
    if (state === 'full') throw new TidemarkError('storage-full', reason ?? 'There is no room to compact')
  }

  /** Blocks up to a seq, each with the page that it came with. What is trimmed meanwhile is passed over. */
  async *#blocks(
    from: number,
    upTo: number,
    phase: Progress['phase'],
  ): AsyncGenerator<{ readonly block: Uint8Array; readonly header: Header; readonly page: Page }> {
    for (let at = Math.max(from, this.#trimmed); at < upTo; ) {
      await this.#pace.rest()
      try {
        const page = await this.#log.read(this.#channel, { epoch: this.#epoch, after: at }, PAGE)
        for (const block of page.blocks) yield { block, header: readHeader(block), page }
        at = page.last
        this.#tell(phase, at)
      } catch (error) {
        if (!hasCode(error, 'gap')) throw error
        at = this.#trimmed = (error as TidemarkError).details.trimmed as number
      }
    }
  }
}

const bytesOf = (blocks: readonly Uint8Array[]): number => blocks.reduce((sum, { length }) => sum + length, 0)

/** The events of a block that stay, copied, so that few events do not hold on to many blocks. */
function staying(block: Uint8Array, gone: ReadonlySet<number>, trimmed: number): Span[] {
  const spans = spansOf(block).filter(({ seq }) => seq > trimmed && !gone.has(seq))
  return spans.map((span) => ({ ...span, bytes: span.bytes.slice() }))
}
