/**
 * What strangers may cost, by address, and what one subject may hold. Only those count who have not shown who they are;
 * a good credential is never refused for what came from its address before. What is kept by address is bounded.
 */
import { LRUCache } from 'lru-cache'
import type { Principal } from '../access/principal.ts'
import { TidemarkError } from '../errors.ts'

export interface GuardLimits {
  /** Handshakes of sockets without a credential, by address: a second, and at once. */
  readonly handshakesPerSecond: number
  readonly handshakesBurst: number
  /** Sockets whose hello has not come, by address and in all. */
  readonly waitingPerAddress: number
  readonly waiting: number
  /** Credentials that are not good, by address, in a minute. */
  readonly failedCredentials: number
  /** Sockets and streams of one subject. */
  readonly connectionsPerSubject: number
}

export const GUARD_LIMITS: GuardLimits = {
  handshakesPerSecond: 20,
  handshakesBurst: 100,
  waitingPerAddress: 64,
  waiting: 1_000,
  failedCredentials: 10,
  connectionsPerSubject: 1_000,
}

/** Most addresses that are remembered: the longest unseen is forgotten. About 200 bytes each. */
const ADDRESSES_MAX = 10_000
/** Failed credentials are counted over this time, and whoever is beyond is told to wait as long; ms. */
const FAILURES_MS = 60_000
const HELLO_RETRY_MS = 1_000

interface Known {
  /** Handshakes that may come at once, and when that was so; ms. */
  tokens: number
  at: number
  /** Sockets whose hello has not come. */
  waiting: number
  failures: number
  /** When the first of them came, ms. */
  failedAt: number
}

export class Guard {
  readonly #limits: GuardLimits
  readonly #addresses = new LRUCache<string, Known>({ max: ADDRESSES_MAX })
  readonly #subjects = new Map<string, number>()
  #waiting = 0

  constructor(limits: Partial<GuardLimits> = {}) {
    this.#limits = { ...GUARD_LIMITS, ...limits }
  }

  /** A handshake of nobody yet. @returns what is called when that is over, once or more often @throws too-many */
  knock(address: string, now = performance.now()): () => void {
    const { handshakesPerSecond, handshakesBurst, waitingPerAddress, waiting } = this.#limits
    const known = this.#of(address, now)
    known.tokens = Math.min(handshakesBurst, known.tokens + ((now - known.at) / 1_000) * handshakesPerSecond)
    known.at = now
    if (known.tokens < 1) throw tooMany('Too many handshakes without a credential', 1_000 / handshakesPerSecond)
    if (known.waiting >= waitingPerAddress || this.#waiting >= waiting)
      throw tooMany('Too many sockets have not said hello', HELLO_RETRY_MS)
    known.tokens--
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
    if (++known.failures <= this.#limits.failedCredentials) return undefined
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

  #of(address: string, now: number): Known {
    const name = networkOf(address)
    let known = this.#addresses.get(name)
    if (known === undefined) {
      known = { tokens: this.#limits.handshakesBurst, at: now, waiting: 0, failures: 0, failedAt: now }
      this.#addresses.set(name, known)
    }
    return known
  }
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
