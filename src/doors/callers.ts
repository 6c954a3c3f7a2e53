/** Who makes a request: found once, in the front, and kept with it on its way through the router. */
import type { IncomingMessage } from 'node:http'
import type { Keyring } from '../access/keyring.ts'
import { NOBODY, type Principal } from '../access/principal.ts'
import type { Log } from '../log/log.ts'
import { type Source, seenBy } from '../log/seen.ts'
import type { Admitted } from './access.ts'
import type { Cookies } from './cookies.ts'
import type { Peers } from './peers.ts'

const CALLER = Symbol('caller')
type Called = IncomingMessage & { [CALLER]?: Principal }

/** Who makes a request, and from where. */
export interface From {
  readonly who: Principal
  readonly address: string
  /** Of a socket that nobody speaks for yet: is told when somebody does, or when it is over. */
  readonly known?: () => void
}

export function setCaller(req: IncomingMessage, who: Principal): void {
  ;(req as Called)[CALLER] = who
}

/** Whoever did not come through the front is nobody. */
export const callerOf = (req: IncomingMessage): Principal => (req as Called)[CALLER] ?? NOBODY

/** The log as this caller may see it: what is addressed to others is withheld. */
export const seenByCaller = (log: Log, { reader }: Principal): Source => (reader ? seenBy(log, () => reader) : log)

export class Callers {
  readonly #keyring: Keyring
  readonly #cookies: Cookies
  readonly #peers: Peers

  constructor(keyring: Keyring, cookies: Cookies, peers: Peers) {
    this.#keyring = keyring
    this.#cookies = cookies
    this.#peers = peers
  }

  /** At once but for a token that is seen for the first time. */
  of(req: IncomingMessage, admitted: Admitted): Principal | Promise<Principal> {
    const { authorization, cookie } = req.headers
    if (authorization === undefined && cookie !== undefined && !this.#keyring.isOpen)
      return req.method === 'GET' && isOwnPage(req, admitted)
        ? this.#cookies.of(cookie, this.#peers.isSecure(req))
        : NOBODY
    return this.#keyring.ofHeader(authorization)
  }

  /** Of a socket, never by a cookie: who can not send a header is nobody until its hello. */
  ofUpgrade(req: IncomingMessage): Principal | Promise<Principal> {
    return this.#keyring.ofHeader(req.headers.authorization)
  }
}

/** Browsers send a cookie for whatever page asks; only this server's own page may have it counted. */
function isOwnPage({ headers }: IncomingMessage, { origin: listed }: Admitted): boolean {
  const site = headers['sec-fetch-site']
  if (site !== undefined) return site === 'same-origin'
  // Older browsers; an origin that is not listed and was admitted is this server's.
  return headers.origin !== undefined && listed === undefined
}
