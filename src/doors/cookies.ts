/**
 * Sessions of pages: a cookie that stands for a token where a page can send no header, as with an EventSource. It counts
 * only where no other site can have made the request (callers.ts). Kept in memory, as digests, until the token ends.
 */
import { randomBytes } from 'node:crypto'
import { digestOf } from '../access/keysfile.ts'
import { NOBODY, type Principal } from '../access/principal.ts'

/** Most sessions; the oldest goes first. */
export const SESSIONS_MAX = 10_000
/** Most of one subject, whose own oldest goes then: nobody pushes out the others. */
export const SESSIONS_OF_SUBJECT_MAX = 100
const NAME = 'tidemark'
/** Under TLS: a cookie of this name comes from this very host, over TLS. */
const SECURE_NAME = `__Host-${NAME}`
const SECRET_BYTES = 32
const ATTRIBUTES = 'HttpOnly; SameSite=Strict; Path=/'

export class Cookies {
  /** By digest, in the order of their beginnings. */
  readonly #sessions = new Map<string, Principal>()

  get size(): number {
    return this.#sessions.size
  }

  /** Begins a session of a principal that ends. @returns its `Set-Cookie` */
  begin(who: Principal, isSecure = false): string {
    const secret = randomBytes(SECRET_BYTES).toString('base64url')
    let own = 0
    let oldest = ''
    for (const [name, { sub }] of this.#sessions) if (sub === who.sub && own++ === 0) oldest = name
    if (own >= SESSIONS_OF_SUBJECT_MAX) this.#sessions.delete(oldest)
    for (const [name, principal] of this.#sessions) {
      if (this.#sessions.size < SESSIONS_MAX && !principal.isOver()) break
      this.#sessions.delete(name)
    }
    this.#sessions.set(nameOf(secret), who)
    const seconds = Math.ceil((who.expires - Date.now()) / 1_000)
    return `${headOf(secret, isSecure)}; Max-Age=${Math.max(seconds, 0)}`
  }

  /** @param cookie the header; NOBODY for no session, one that is over, or two */
  of(cookie: string, isSecure = false): Principal {
    const secret = secretIn(cookie, isSecure)
    if (secret === undefined) return NOBODY
    const name = nameOf(secret)
    const who = this.#sessions.get(name)
    if (who === undefined) return NOBODY
    if (!who.isOver()) return who
    this.#sessions.delete(name)
    return NOBODY
  }

  /** @param cookie the header of a request that ends its session @returns its `Set-Cookie` */
  end(cookie: string | undefined, isSecure = false): string {
    const secret = cookie === undefined ? undefined : secretIn(cookie, isSecure)
    if (secret !== undefined) this.#sessions.delete(nameOf(secret))
    return `${headOf('', isSecure)}; Max-Age=0`
  }
}

const headOf = (secret: string, isSecure: boolean): string =>
  isSecure ? `${SECURE_NAME}=${secret}; Secure; ${ATTRIBUTES}` : `${NAME}=${secret}; ${ATTRIBUTES}`

const nameOf = (secret: string): string => digestOf(secret).toString('base64url')

/** Cookies know no ports: another server of this host may have set one of the same name, and then neither is believed. */
function secretIn(cookie: string, isSecure: boolean): string | undefined {
  const name = isSecure ? SECURE_NAME : NAME
  const ours = cookie.split(';').filter((part) => part.trimStart().startsWith(`${name}=`))
  return ours.length === 1 ? ours[0]!.trim().slice(name.length + 1) : undefined
}
