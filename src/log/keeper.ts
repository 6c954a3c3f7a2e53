/**
 * The keeper: drops what is beyond the retention of its channel, and forgets cursors that show no life, in the
 * background and over the port alone. It looks at all channels now and then, a slice at a time and never for more than
 * a small share of the time, and at a channel that was appended to soon after. What it drops is a `trim`, durable and
 * exact as any; the trims of a slice share a write.
 */
import { setTimeout as delay, setImmediate as nextTurn } from 'node:timers/promises'
import { LRUCache } from 'lru-cache'
import { sameHistory } from '../epoch.ts'
import { hasCode, toTidemarkError } from '../errors.ts'
import { type InForce, type Retention, type RetentionRule, retentionOf } from '../retention.ts'
import { Due, WATCHED_MAX } from './due.ts'
import { infoOrNone } from './follow.ts'
import type { ChannelInfo, Log, Settings } from './log.ts'
import { Signs } from './signs.ts'
import { Lowest, Silence } from './silence.ts'
import { type Surplus, Surpluses } from './surplus.ts'

/** Between the end of a look at all channels and the next one, ms. */
const LOOK_EVERY_MS = 60_000
/** From the start to the first look, and from an append to the look at its channel at most, ms. */
const SOON_MS = 1_000
/** Cursors are looked at this often, ms, and signs of life are written down. */
const CURSORS_EVERY_MS = 600_000
/** No cursor is forgotten within this time of the start, ms: while it was down, the server saw nobody. */
const GRACE_MS = 3_600_000
/** Rests so many times as long as it worked: it takes a tenth of one core and of the disk at most. */
const REST_TIMES = 9
const REST_MS_MIN = 5
/** A failure puts the work off, longer each time, up to this, ms. */
const PUT_OFF_MS_MAX = 60_000
/** Channels that are looked at in one go, and whose trims share a write. */
const SLICE = 100
/** Channels whose last trim is remembered, those trimmed last; about 200 bytes each. */
const DROPPED_MAX = 10_000
/** How long a cursor without a sign of life is remembered, ms, unless configured: 30 days. */
export const CURSOR_TTL_MS = 2_592_000_000

export interface KeeperOptions {
  readonly rules?: readonly RetentionRule[] | undefined
  /** Default CURSOR_TTL_MS. */
  readonly cursorTtl?: number | undefined
  readonly onNotice?:
    | ((level: 'info' | 'warn', message: string, facts: Readonly<Record<string, unknown>>) => void)
    | undefined
  /** In place of the constants above, for tests. */
  readonly pace?: Partial<Record<'lookEvery' | 'cursorsEvery' | 'grace' | 'restTimes', number>> | undefined
}

/** What was done since the start. */
export interface Kept {
  looks: number
  /** The last look at all channels, with its rests, s. */
  lookSeconds: number
  trims: number
  /** Seqs that trims dropped. */
  events: number
  /** Cursors that were forgotten. */
  cursors: number
  failures: number
}

/** What retention dropped of a channel last. */
interface Dropped {
  readonly epoch: string
  /** ms. */
  readonly time: number
  /** Seqs. */
  readonly events: number
}

/** The channel is another one than it was a moment ago: the next look sees it as it is. */
const MOVED = ['no-channel', 'epoch-changed', 'gap', 'ahead-of-head'] as const

export class Keeper {
  readonly signs: Signs
  readonly kept: Kept = { looks: 0, lookSeconds: 0, trims: 0, events: 0, cursors: 0, failures: 0 }
  readonly cursorTtl: number
  readonly #log: Log
  readonly #rules: readonly RetentionRule[]
  readonly #surpluses: Surpluses
  readonly #silence: Silence
  readonly #notice: NonNullable<KeeperOptions['onNotice']>
  readonly #lookEvery: number
  readonly #cursorsEvery: number
  readonly #grace: number
  readonly #restTimes: number
  readonly #started = performance.now()
  readonly #closing = new AbortController()
  /** Channels to be looked at soon. */
  readonly #due: Due
  /** Channels whose damage was told. */
  readonly #damaged = new Set<string>()
  readonly #dropped = new LRUCache<string, Dropped>({ max: DROPPED_MAX })
  /** When the last look began, ms of the machine's clock. */
  #lookedAt = 0
  /** When the next one is due, ms of performance.now. */
  #lookAt = 0
  #cursorsAt = Number.NEGATIVE_INFINITY
  #restedAt = 0
  #told = { events: 0, cursors: 0 }
  #running: Promise<void> | undefined

  constructor(log: Log, options: KeeperOptions = {}) {
    this.#log = log
    this.#rules = options.rules ?? []
    this.cursorTtl = options.cursorTtl ?? CURSOR_TTL_MS
    this.#notice = options.onNotice ?? (() => {})
    this.#lookEvery = options.pace?.lookEvery ?? LOOK_EVERY_MS
    this.#cursorsEvery = options.pace?.cursorsEvery ?? CURSORS_EVERY_MS
    this.#grace = Math.min(options.pace?.grace ?? GRACE_MS, this.cursorTtl)
    this.#restTimes = options.pace?.restTimes ?? REST_TIMES
    this.#surpluses = new Surpluses(log)
    this.#silence = new Silence(log, {
      since: () => (this.#isGrace ? Number.NEGATIVE_INFINITY : Date.now() - this.cursorTtl),
      whole: (of, work) => this.#whole(of, work),
      rest: () => this.#rest(),
      forgot: () => void this.kept.cursors++,
    })
    this.signs = new Signs(log)
    this.#due = new Due(log, this.#closing.signal)
  }

  /** What is in force for a channel; undefined when everything is kept. */
  inForce(channel: string, settings: Settings): InForce | undefined {
    return retentionOf(this.#rules, channel, settings)
  }

  /**
   * What these limits would drop now, as far as one look tells; nothing is changed. A cursor that will be forgotten
   * soon counts. @throws as Log.read when the channel changed meanwhile; data-loss when damage hides how old it is
   */
  async plan(info: ChannelInfo, retention: Retention): Promise<Surplus> {
    if (retentionOf([], info.channel, { retention }) === undefined) return { upTo: info.trimmed, more: false }
    return this.#surpluses.of(info, retention, () =>
      floorOf(info, retention, async () => {
        const lowest = new Lowest(info)
        for await (const cursor of this.#log.cursors({ channel: info.channel }, lowest.damaged)) lowest.take(cursor)
        return lowest.seq
      }),
    )
  }

  /** Time of the oldest event of a channel, ms, of which one block is read; undefined when it has none. @throws as Log.read */
  oldest(info: ChannelInfo): Promise<number | undefined> {
    return this.#surpluses.oldest(info)
  }

  /** What was dropped of a channel last, since the start; undefined when nothing was, or too long ago. */
  dropped({ channel, epoch }: ChannelInfo): Dropped | undefined {
    const found = this.#dropped.peek(channel)
    return found && sameHistory(found.epoch, epoch) ? found : undefined
  }

  /** When the last look at all channels began, and about when the next one does, ms; undefined before the first one, or where there is none. */
  get looks(): { readonly last: number | undefined; readonly next: number | undefined } {
    const last = this.#lookedAt === 0 ? undefined : this.#lookedAt
    const isAtWork = this.#running !== undefined && !this.#closing.signal.aborted && this.#isKeeper
    return { last, next: isAtWork ? Date.now() + Math.max(0, this.#lookAt - performance.now()) : undefined }
  }

  /** Works until `close`. */
  start(): void {
    this.#running ??= this.#run()
  }

  /** Ends the work; the log stays open. */
  async close(): Promise<void> {
    this.#closing.abort()
    await this.#running
  }

  async #run(): Promise<void> {
    const { signal } = this.#closing
    let wait = SOON_MS
    for (let failed = 0; ; ) {
      // A close ends the wait.
      await delay(wait, undefined, { ref: false, signal }).catch(() => undefined)
      if (signal.aborted) return
      try {
        wait = SOON_MS
        if (performance.now() >= this.#lookAt) {
          await this.look()
          // Who is not the one to keep it may be the next.
          if (this.#isKeeper) this.#lookAt = performance.now() + this.#lookEvery
        } else await this.lookSoon()
        failed = 0
      } catch (error) {
        if (signal.aborted) return
        this.kept.failures++
        wait = Math.min(SOON_MS * 2 ** ++failed, PUT_OFF_MS_MAX)
        this.#notice('warn', 'Retention is put off', { why: toTidemarkError(error).message })
      }
    }
  }

  /** Soon, because what is in force for it has changed. */
  lookAt({ channel }: ChannelInfo): void {
    if (this.#due.size < WATCHED_MAX) this.#due.add(channel)
  }

  /** Blocks of a channel are others: what they take is counted anew. */
  recount(channel: string): void {
    this.#surpluses.forget(channel)
  }

  /** Looks at every channel, once. Nothing is done while the log can not be written. @throws unavailable, … */
  async look(): Promise<void> {
    if (!this.#canWork) return
    const started = performance.now()
    this.#restedAt = started
    const isTime = started - this.#cursorsAt >= this.#cursorsEvery
    // Each process knows who was with it.
    if (isTime) await this.signs.renew(() => this.#rest())
    if (!this.#isKeeper) {
      if (isTime) this.#cursorsAt = started
      return
    }
    if (isTime && !this.#isGrace) await this.#silence.forgetAll()
    const lookedAt = Date.now()
    let slice: ChannelInfo[] = []
    let looked = 0
    for await (const info of this.#log.channels('')) {
      if (this.inForce(info.channel, info.settings)) slice.push(info)
      if (++looked % SLICE > 0) continue
      await this.#keep(slice)
      slice = []
      await this.lookSoon()
      if (!this.#isKeeper) return
    }
    await this.#keep(slice)
    if (isTime) this.#cursorsAt = started
    this.#lookedAt = lookedAt
    this.kept.looks++
    this.kept.lookSeconds = (performance.now() - started) / 1_000
    this.#tell()
  }

  /** Looks at the channels that were appended to since they were looked at. */
  async lookSoon(): Promise<void> {
    if (!this.#canWork) return
    const due = this.#isKeeper ? [...this.#due] : []
    this.#due.clear()
    this.#restedAt = performance.now()
    for (let i = 0; i < due.length; i += SLICE) {
      const slice = await Promise.all(due.slice(i, i + SLICE).map((channel) => infoOrNone(this.#log, channel)))
      await this.#keep(slice.filter((info) => info !== undefined))
    }
  }

  /** Of several that share a log one does the work. */
  get #isKeeper(): boolean {
    return this.#log.isKeeper ?? true
  }

  get #isGrace(): boolean {
    return performance.now() - this.#started < this.#grace
  }

  /** What frees space goes on when the disk is almost full. */
  get #canWork(): boolean {
    const { state } = this.#log.health()
    return state === 'ok' || state === 'full'
  }

  async #keep(slice: readonly ChannelInfo[]): Promise<void> {
    const trims: Promise<void>[] = []
    for (const info of slice) {
      this.#closing.signal.throwIfAborted()
      if (!this.#canWork) return
      const found = this.inForce(info.channel, info.settings)
      if (!found) continue
      const surplus = await this.#whole(info, () => this.#planned(info, found))
      if (surplus !== undefined && surplus.upTo > info.trimmed) {
        const trim = this.#trim(info, surplus)
        // Told below, when its turn comes.
        trim.catch(() => {})
        trims.push(trim)
      }
      const { channel, epoch, head, time } = info
      if (this.#running) this.#due.watch(channel, { epoch, after: head }, time >= this.#lookedAt)
    }
    await Promise.all(trims)
    await this.#rest()
  }

  async #planned(info: ChannelInfo, { retention }: InForce): Promise<Surplus> {
    const surplus = await this.#surpluses.of(info, retention, () =>
      floorOf(info, retention, () => this.#silence.lowest(info)),
    )
    if (surplus.more) this.#due.add(info.channel)
    return surplus
  }

  async #trim(before: ChannelInfo, surplus: Surplus): Promise<void> {
    await this.#whole(before, async () => {
      const { channel, epoch } = before
      const info = await this.#log.trim(channel, surplus.upTo, epoch)
      this.#surpluses.trimmed(before, surplus, info)
      const events = info.trimmed - before.trimmed
      this.kept.trims++
      this.kept.events += events
      this.#dropped.set(channel, { epoch, time: Date.now(), events })
    })
  }

  /** What comes of one channel; undefined when it changed meanwhile or is damaged, which costs the others nothing. */
  async #whole<T>({ channel }: { readonly channel: string }, work: () => Promise<T>): Promise<T | undefined> {
    try {
      return await work()
    } catch (error) {
      if (MOVED.some((code) => hasCode(error, code))) return undefined
      if (!hasCode(error, 'data-loss')) throw error
      if (!this.#damaged.has(channel)) {
        this.#damaged.add(channel)
        this.#notice('warn', 'Retention leaves a damaged channel as it is', { channel, why: (error as Error).message })
      }
      return undefined
    }
  }

  // ── Pace ───────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Rests for as long as the work since the last rest deserves. */
  async #rest(): Promise<void> {
    const { signal } = this.#closing
    const worked = performance.now() - this.#restedAt
    if (this.#restTimes === 0) await nextTurn()
    else await delay(Math.max(REST_MS_MIN, worked * this.#restTimes), undefined, { ref: false, signal })
    this.#restedAt = performance.now()
  }

  #tell(): void {
    const { events, cursors } = this.kept
    if (events === this.#told.events && cursors === this.#told.cursors) return
    const since = { events: events - this.#told.events, cursors: cursors - this.#told.cursors }
    this.#notice('info', 'Retention dropped events or forgot cursors', since)
    this.#told = { events, cursors }
  }
}

/** The last seq that may go as far as cursors are concerned. @param lowest that of the lowest one, asked for only when it counts */
async function floorOf(
  info: ChannelInfo,
  retention: Retention,
  lowest: () => Promise<number | undefined>,
): Promise<number> {
  return retention.consumed ? ((await lowest()) ?? nobodys(info, retention)) : info.head
}

/** How far a channel is consumed where nobody has a cursor: limits are all there is then; without any, nothing is. */
const nobodys = ({ head, trimmed }: ChannelInfo, { maxAge, maxEvents, maxBytes }: Retention): number =>
  maxAge === undefined && maxEvents === undefined && maxBytes === undefined ? trimmed : head
