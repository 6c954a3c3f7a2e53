/** Who makes a request: found once, in the front, and kept with it on its way through the router. */
import type { IncomingMessage } from 'node:http'
import type { Keyring } from '../access/keyring.ts'
import { NOBODY, type Principal } from '../access/principal.ts'
import type { Log } from '../log/log.ts'
import { type Source, seenBy } from '../log/seen.ts'

const CALLER = Symbol('caller')
type Called = IncomingMessage & { [CALLER]?: Principal }

export function setCaller(req: IncomingMessage, who: Principal): void {
  ;(req as Called)[CALLER] = who
}

/** Whoever did not come through the front is nobody. */
export const callerOf = (req: IncomingMessage): Principal => (req as Called)[CALLER] ?? NOBODY

/** The log as this caller may see it: what is addressed to others is withheld. */
export const seenByCaller = (log: Log, { reader }: Principal): Source => (reader ? seenBy(log, () => reader) : log)

export class Callers {
  readonly #keyring: Keyring

  constructor(keyring: Keyring) {
    this.#keyring = keyring
  }

  /** At once but for a token that is seen for the first time. */
  of(req: IncomingMessage): Principal | Promise<Principal> {
    return this.#keyring.ofHeader(req.headers.authorization)
  }

  /** Of a socket: whoever can not send a header is nobody until its hello. */
  ofUpgrade(req: IncomingMessage): Principal | Promise<Principal> {
    return this.#keyring.ofHeader(req.headers.authorization)
  }
}
