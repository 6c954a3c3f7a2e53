/**
 * How many channels and cursors there are, and how many of them one subject has, so that nobody makes more than
 * limits.ts says. Counted when it is first asked, then kept by what is made here, and counted anew before anybody is
 * refused: what others made or forgot is found then. A limit may be passed by what is under way at that moment.
 */
import { LRUCache } from 'lru-cache'
import type { Logger } from 'pino'
import type { Principal } from '../access/principal.ts'
import { hasCode, TidemarkError } from '../errors.ts'
import type { Limits } from '../limits.ts'
import type { Appended, Log } from '../log/log.ts'

/** Before a refusal it is counted anew, but not again within this time; ms. Who is refused may try then. */
const RECOUNT_MS = 10_000
/** Cursors that are known to be there, about 150 bytes each: to move one of them again costs no look. */
const KNOWN_CURSORS_MAX = 20_000
/** Subjects whose number of cursors is known. */
const SUBJECTS_MAX = 10_000
/** Channels that were made without an event and are counted already. */
const EMPTY_MAX = 10_000

/** How many there are of something, as far as is known. */
class Tally {
  readonly #most: number
  readonly #count: () => Promise<number>
  readonly #onFailure: (error: unknown) => void
  #number = 0
  #isCounted = false
  #triedAt = Number.NEGATIVE_INFINITY
  #counting: Promise<void> | undefined

  /** @param count need not count beyond `most`; while it fails, nobody is refused for what was not counted */
  constructor(most: number, count: () => Promise<number>, onFailure: (error: unknown) => void) {
    this.#most = most
    this.#count = count
    this.#onFailure = onFailure
  }

  get isFull(): boolean {
    return this.#number >= this.#most
  }

  add(number: number): void {
    this.#number = Math.max(0, this.#number + number)
  }

  /** Has it counted when nothing is known, or when what is known is old and would refuse. @returns the count under way */
  look(): Promise<void> | undefined {
    if (this.#counting !== undefined || (this.#isCounted && !this.isFull)) return this.#counting
    if (performance.now() - this.#triedAt < RECOUNT_MS) return undefined
    this.#triedAt = performance.now()
    this.#counting = this.#recount()
      .catch(this.#onFailure)
      .finally(() => {
        this.#counting = undefined
      })
    return this.#counting
  }

  async #recount(): Promise<void> {
    const before = this.#number
    const found = await this.#count()
    // Those made meanwhile may have been found too: then there are fewer, and the next count says so.
    this.#number = found + Math.max(0, this.#number - before)
    this.#isCounted = true
  }
}

export class Census {
  readonly #log: Log
  readonly #logger: Logger
  readonly #limits: Limits
  readonly #channels: Tally
  readonly #cursors: Tally
  readonly #bySubject = new LRUCache<string, Tally>({ max: SUBJECTS_MAX })
  readonly #known = new LRUCache<string, true>({ max: KNOWN_CURSORS_MAX })
  readonly #empty = new Set<string>()

  constructor(log: Log, limits: Limits, logger: Logger) {
    this.#log = log
    this.#logger = logger
    this.#limits = limits
    this.#channels = this.#tally('channels', '', limits.maxChannels)
    this.#cursors = this.#tally('cursors', '', limits.maxCursors)
  }

  #tally(what: 'channels' | 'cursors', beginning: string, most: number): Tally {
    const count = async () => (await this.#log.count?.(what, beginning, most)) ?? 0
    return new Tally(most, count, (error) => this.#logger.warn({ err: error, what }, 'They can not be counted'))
  }

  // ── Channels ───────────────────────────────────────────────────────────────────────────────────────────────────

  /** Whether an append may make its channel. */
  get mayMake(): boolean {
    // An append does not wait for it.
    void this.#channels.look()
    return !this.#channels.isFull
  }

  /** Before an admin makes one. @throws too-many */
  async roomForChannel(): Promise<void> {
    await this.#channels.look()
    if (this.#channels.isFull) throw this.noChannel()
  }

  noChannel(): TidemarkError {
    const { maxChannels } = this.#limits
    return tooMany(`There are ${maxChannels} channels, and no more are made here`, 'max-channels', maxChannels)
  }

  /** An admin made it: there is no event in it yet. */
  madeEmpty(channel: string): void {
    this.#channels.add(1)
    if (this.#empty.size < EMPTY_MAX) this.#empty.add(channel)
  }

  appended({ channel, first, duplicate }: Appended): void {
    if (first === 1 && !duplicate && !this.#empty.delete(channel)) this.#channels.add(1)
  }

  deleted(channel: string): void {
    this.#channels.add(-1)
    this.#empty.delete(channel)
    // Its cursors went with it.
    this.#known.clear()
  }

  // ── Cursors ────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Before a cursor is moved, by its whole name: one that is not there yet needs room. @throws too-many */
  roomForCursor(who: Principal, client: string, channel: string): Promise<void> | undefined {
    // No name holds a space.
    const name = `${client} ${channel}`
    return this.#known.has(name) ? undefined : this.#make(who, client, channel, name)
  }

  async #make(who: Principal, client: string, channel: string, name: string): Promise<void> {
    try {
      if ((await this.#log.cursor(client, channel)) !== undefined) {
        this.#known.set(name, true)
        return
      }
    } catch (error) {
      // Where there is no channel none is made; one that can not be read is there all the same.
      if (hasCode(error, 'no-channel') || hasCode(error, 'data-loss')) return
      throw error
    }
    const { maxCursors, cursorsPerSubject } = this.#limits
    const own = who.owner === '' ? undefined : this.#of(who.owner)
    await own?.look()
    if (own?.isFull)
      throw tooMany(`This subject has ${cursorsPerSubject} cursors`, 'cursors-per-subject', cursorsPerSubject)
    // There may be millions.
    void this.#cursors.look()
    if (this.#cursors.isFull) throw tooMany(`There are ${maxCursors} cursors`, 'max-cursors', maxCursors)
    own?.add(1)
    this.#cursors.add(1)
  }

  /** A cursor was forgotten, by its whole name. */
  forgot(who: Principal, client: string, channel: string): void {
    this.#known.delete(`${client} ${channel}`)
    this.#cursors.add(-1)
    if (who.owner !== '') this.#bySubject.get(who.owner)?.add(-1)
  }

  #of(owner: string): Tally {
    let tally = this.#bySubject.get(owner)
    if (tally === undefined) {
      tally = this.#tally('cursors', owner, this.#limits.cursorsPerSubject)
      this.#bySubject.set(owner, tally)
    }
    return tally
  }
}

const tooMany = (why: string, limit: string, most: number): TidemarkError =>
  new TidemarkError('too-many', `${why} (--${limit})`, { limit: most, retryAfter: RECOUNT_MS })
