/**
 * The room that NATS gives the log, where it has a limit: of the stream, or of the account. Appends are refused before
 * it is used up: a trim is a message as well, and what gives space back must still find some. A limit that only the
 * server has (`max_file_store`, the disk) is nothing that NATS tells.
 */
import { TidemarkError } from '../../errors.ts'
import { isUnreachable } from './failures.ts'
import type { Lanes } from './lanes.ts'
import type { Link } from './link.ts'
import type { Left } from './streams.ts'

/** Kept free unless told otherwise, bytes and messages; of a limit that is small beside it, a quarter. */
const RESERVE_BYTES = 128 * 1024 * 1024
const RESERVE_MESSAGES = 10_000
const RESERVE_PART = 4
/** What a block takes beside its events, bytes: subject, headers, the record of its channel. */
const OVERHEAD_BYTES = 512
/** NATS is asked anew when so much of what is kept free was appended: other gateways append, too. */
const ASK_PART = 16
/** While appends are refused it is asked at most this often, ms. */
const ASK_EVERY_MS = 250
/** A refusal of NATS itself is told in `/readyz` for so long, ms. */
const REFUSED_MS = 10_000
const RETRY_AFTER_MS = 1_000

const LOW = 'NATS has little room left for this log: appends wait for room; trims, deletes and cursors go on'
const NONE =
  'NATS has no room for more, and told of no limit before: raise it, or give the stream one (--nats-max-bytes)'

/** How much may still be appended, as far as is known. */
class Stock {
  readonly #reserve: (size: number) => number
  /** Of the moment at which NATS was asked last. */
  #left = Number.POSITIVE_INFINITY
  #askAt = Number.POSITIVE_INFINITY
  #taken = 0

  constructor(reserve: (size: number) => number) {
    this.#reserve = reserve
  }

  get left(): number {
    return this.#left - this.#taken
  }

  get isDue(): boolean {
    return this.#taken >= this.#askAt
  }

  get taken(): number {
    return this.#taken
  }

  take(much: number): void {
    this.#taken += much
  }

  /** @param counted what of `taken` is in it */
  told(left: Left | undefined, counted: number): void {
    this.#taken -= Math.min(this.#taken, Math.max(0, counted))
    const reserve = left === undefined ? 0 : this.#reserve(left.size)
    this.#left = left === undefined ? Number.POSITIVE_INFINITY : left.free - reserve
    // Without a reserve there is nothing to be early for: the pulse asks.
    this.#askAt = reserve === 0 ? Number.POSITIVE_INFINITY : reserve / ASK_PART
  }
}

export class Room {
  readonly #link: Link
  readonly #lanes: Pick<Lanes, 'pendingBytes' | 'pendingJobs'>
  readonly #notice: (level: 'info' | 'warn' | 'error', message: string) => void
  readonly #bytes: Stock
  readonly #messages = new Stock((size) => Math.min(RESERVE_MESSAGES, size / RESERVE_PART))
  #asking: Promise<void> | undefined
  #askedAt = Number.NEGATIVE_INFINITY
  /** Bytes for which there was no room; 0 when there was. */
  #lacking = 0
  #refusedAt = Number.NEGATIVE_INFINITY
  #wasLow = false

  /** @param minFree bytes that are kept free, as given, a quarter of the limit at most; 0 is off: NATS refuses by itself */
  constructor(
    link: Link,
    lanes: Pick<Lanes, 'pendingBytes' | 'pendingJobs'>,
    minFree: number | undefined,
    notice: (level: 'info' | 'warn' | 'error', message: string) => void,
  ) {
    this.#link = link
    this.#lanes = lanes
    this.#notice = notice
    this.#bytes = new Stock((size) => Math.min(minFree ?? RESERVE_BYTES, size / RESERVE_PART))
  }

  /** Why nothing is appended now, in words. */
  get reason(): string | undefined {
    if (this.#isLow) return LOW
    return performance.now() - this.#refusedAt < REFUSED_MS ? NONE : undefined
  }

  get #isLow(): boolean {
    return this.#bytes.left <= this.#lacking || this.#messages.left < 1
  }

  /** Why so many bytes more are not appended now; undefined when they are, and then they count. */
  refusal(bytes: number): TidemarkError | undefined {
    const takes = bytes + OVERHEAD_BYTES
    // What comes behind one that was refused is refused, too, and no sender's order changes.
    if (!this.#isLow && takes <= this.#bytes.left) {
      this.#bytes.take(takes)
      this.#messages.take(1)
      if (this.#bytes.isDue || this.#messages.isDue) void this.ask()
      return undefined
    }
    this.#lacking = Math.max(this.#lacking, takes)
    this.#tell()
    if (performance.now() - this.#askedAt >= ASK_EVERY_MS) void this.ask()
    return new TidemarkError('storage-full', LOW, { retryAfter: RETRY_AFTER_MS })
  }

  /** NATS itself refused something for want of room. */
  refused(): void {
    this.#refusedAt = performance.now()
    void this.ask()
  }

  /** Asks NATS how much is left. */
  ask(): Promise<void> {
    this.#asking ??= this.#ask().finally(() => {
      this.#asking = undefined
    })
    return this.#asking
  }

  async #ask(): Promise<void> {
    this.#askedAt = performance.now()
    // What is on its way may not be counted by NATS yet.
    const bytes = this.#bytes.taken - this.#lanes.pendingBytes
    const messages = this.#messages.taken - this.#lanes.pendingJobs
    try {
      const left = await this.#link.left()
      this.#bytes.told(left.bytes, bytes)
      this.#messages.told(left.messages, messages)
      if (this.#bytes.left > this.#lacking) this.#lacking = 0
      this.#tell()
    } catch (error) {
      // While NATS is away there is nothing to append to; then it is asked again.
      if (!isUnreachable(error)) this.#notice('warn', `NATS does not tell how much room there is (${error})`)
    }
  }

  #tell(): void {
    if (this.#isLow === this.#wasLow) return
    this.#wasLow = this.#isLow
    if (this.#isLow) this.#notice('error', LOW)
    else this.#notice('info', 'NATS has room again')
  }
}
