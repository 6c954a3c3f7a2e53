/**
 * What strangers may cost, by address, and what one subject may hold. Only those count who have not shown who they are;
 * a good credential is never refused for what came from its address before. What is kept by address is bounded.
 */
import { LRUCache } from 'lru-cache'
import type { Principal } from '../access/principal.ts'
import { TidemarkError } from '../errors.ts'
import { type Limits, limitsOf } from '../limits.ts'

/** Most addresses that are remembered: the longest unseen is forgotten. About 200 bytes each. */
const ADDRESSES_MAX = 10_000
/** Most keys and subjects whose appends are counted; the longest unseen begins anew. */
const APPENDERS_MAX = 10_000
/** Failed credentials are counted over this time, and whoever is beyond is told to wait as long; ms. */
const FAILURES_MS = 60_000
const HELLO_RETRY_MS = 1_000

/** What may come at once, and when that was so; ms. */
interface Allowance {
  left: number
  at: number
}

interface Known {
  readonly handshakes: Allowance
  /** Sockets whose hello has not come. */
  waiting: number
  failures: number
  /** When the first of them came, ms. */
  failedAt: number
}

export class Guard {
  readonly #limits: Limits
  readonly #addresses = new LRUCache<string, Known>({ max: ADDRESSES_MAX })
  readonly #appenders = new LRUCache<string, Allowance>({ max: APPENDERS_MAX })
  readonly #subjects = new Map<string, number>()
  #waiting = 0

  constructor(limits: Limits = limitsOf()) {
    this.#limits = limits
  }

  /** A handshake of nobody yet. @returns what is called when that is over, once or more often @throws too-many */
  knock(address: string, now = performance.now()): () => void {
    const { handshakesPerAddress, handshakesAtOnce, strangersPerAddress, maxStrangers } = this.#limits
    const known = this.#of(address, now)
    if (!refill(known.handshakes, handshakesPerAddress, handshakesAtOnce, now))
      throw tooMany('Too many handshakes without a credential', 1_000 / handshakesPerAddress)
    if (known.waiting >= strangersPerAddress || this.#waiting >= maxStrangers)
      throw tooMany('Too many sockets have not said hello', HELLO_RETRY_MS)
    known.handshakes.left--
    known.waiting++
    this.#waiting++
    let isOver = false
    return () => {
      if (isOver) return
      isOver = true
      known.waiting--
      this.#waiting--
    }
  }

  /** A credential was not good. @returns too-many where that was so too often; undefined else */
  failed(address: string, now = performance.now()): TidemarkError | undefined {
    const known = this.#of(address, now)
    if (now - known.failedAt >= FAILURES_MS) {
      known.failures = 0
      known.failedAt = now
    }
    if (++known.failures <= this.#limits.failuresPerAddress) return undefined
    return tooMany('Too many credentials from this address were not good', known.failedAt + FAILURES_MS - now)
  }

  /** A socket or stream of this subject begins. @returns what is called once when it ends @throws too-many */
  enter(who: Principal): () => void {
    if (who.sub === null) return nothing
    const name = `${who.kind} ${who.sub}`
    const held = this.#subjects.get(name) ?? 0
    if (held >= this.#limits.connectionsPerSubject)
      throw tooMany('This subject has too many sockets and streams', HELLO_RETRY_MS)
    this.#subjects.set(name, held + 1)
    return () => {
      const left = this.#subjects.get(name)! - 1
      if (left === 0) this.#subjects.delete(name)
      else this.#subjects.set(name, left)
    }
  }

  /**
   * An append begins: a call, a message, or a piece of a long body. Without keys all callers share one allowance.
   * @throws too-many
   */
  append(who: Principal, at?: number): void {
    const { appendsPerKey } = this.#limits
    if (appendsPerKey === 0) return
    const now = at ?? performance.now()
    const name = `${who.kind} ${who.name}`
    let allowance = this.#appenders.get(name)
    if (allowance === undefined) {
      allowance = { left: appendsPerKey, at: now }
      this.#appenders.set(name, allowance)
    }
    if (!refill(allowance, appendsPerKey, appendsPerKey, now))
      throw tooMany('Too many appends a second (--appends-per-key)', ((1 - allowance.left) * 1_000) / appendsPerKey)
    allowance.left--
  }

  #of(address: string, now: number): Known {
    const name = networkOf(address)
    let known = this.#addresses.get(name)
    if (known === undefined) {
      const handshakes = { left: this.#limits.handshakesAtOnce, at: now }
      known = { handshakes, waiting: 0, failures: 0, failedAt: now }
      this.#addresses.set(name, known)
    }
    return known
  }
}

/** Whether one more may come now. */
function refill(allowance: Allowance, perSecond: number, atOnce: number, now: number): boolean {
  allowance.left = Math.min(atOnce, allowance.left + ((now - allowance.at) / 1_000) * perSecond)
  allowance.at = now
  return allowance.left >= 1
}

/** Whoever has one address of IPv6 has all of its /64. */
export function networkOf(address: string): string {
  if (!address.includes(':')) return address
  const [before = '', after] = address.split('::')
  const left = before === '' ? [] : before.split(':')
  const right = after === undefined || after === '' ? [] : after.split(':')
  const zeros = after === undefined ? 0 : Math.max(0, 8 - left.length - right.length)
  return [...left, ...Array<string>(zeros).fill('0'), ...right].slice(0, 4).join(':')
}

const tooMany = (why: string, retryAfter: number): TidemarkError =>
  new TidemarkError('too-many', why, { retryAfter: Math.ceil(retryAfter) })

function nothing(): void {}
