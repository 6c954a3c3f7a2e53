/** Who speaks on one socket: nobody until its hello, unless its handshake said it; the same subject until its end. */
import { type Principal, unauthorized } from '../access/principal.ts'
import type { From } from '../doors/callers.ts'
import type { Doors } from '../doors/doors.ts'
import { check, OP_RIGHTS } from '../doors/rights.ts'
import { TidemarkError, toTidemarkError } from '../errors.ts'
import type { Refused, Request } from '../formats/intake.ts'
import { CLOSE } from '../wire.ts'
import type { Receiver } from './incoming.ts'

interface Frame {
  readonly bytes: Buffer
  readonly binary: boolean
}

export class Speaker {
  readonly #doors: Doors
  readonly #address: string
  /** Nobody has said who that is, until this is called. */
  readonly #known: (() => void) | undefined
  /** Of its subject, this socket is one of many. */
  #leave: (() => void) | undefined
  #hasShown = false
  #who: Principal
  /** What came while a token is read. */
  #held: Frame[] | undefined

  constructor(doors: Doors, { who, address, known }: From) {
    this.#known = known
    this.#doors = doors
    this.#address = address
    this.#who = who
  }

  /** Tells of a failure on this socket. */
  failed(error: unknown, facts: Readonly<Record<string, unknown>> = {}): void {
    this.#doors.failed('stream', error, facts)
    this.#doors.audit.refused(toTidemarkError(error).code, this.#address)
  }

  /** Tells that a credential is not good, or has ended. @returns how its socket is closed */
  dismiss(): [code: number, reason: string] {
    const tooMany = this.#hasShown && this.#who.isNobody ? this.#doors.guard.failed(this.#address) : undefined
    this.failed(tooMany ?? unauthorized())
    if (tooMany === undefined) return [CLOSE.unauthorized, 'unauthorized']
    return [CLOSE.tooMany, `retry=${tooMany.details.retryAfter}`]
  }

  /** The socket is over. */
  over(): void {
    this.#known?.()
    this.#leave?.()
    this.#leave = undefined
  }

  get who(): Principal {
    return this.#who
  }

  /** Its token has ended. Who never ends costs no look at the clock. */
  get hasEnded(): boolean {
    return this.#who.expires !== Number.POSITIVE_INFINITY && this.#who.isOver()
  }

  /** ms until its token ends, at least 1; undefined for one that does not. */
  get expiresIn(): number | undefined {
    const { expires } = this.#who
    return expires === Number.POSITIVE_INFINITY ? undefined : Math.max(1, Math.floor(expires - Date.now()))
  }

  /** A token is being read: what comes is held, and no more should come. */
  get isHeld(): boolean {
    return this.#held !== undefined
  }

  hold(bytes: Buffer, binary: boolean): void {
    this.#held!.push({ bytes, binary })
  }

  /**
   * Finds who shows this credential, and tells it: at once, or, with what was held meanwhile in its order, when that is
   * known.
   */
  identify(credential: string, found: (who: Principal) => void, hearer: Pick<Receiver, 'message' | 'taken'>): void {
    this.#hasShown = true
    const who = this.#doors.keyring.of(credential)
    if (!(who instanceof Promise)) {
      found(who)
      return
    }
    const held: Frame[] = []
    this.#held = held
    void who.then((known) => {
      this.#held = undefined
      found(known)
      // Another token among them holds the rest anew.
      for (const { bytes, binary } of held) hearer.message(bytes, binary)
      hearer.taken()
    })
  }

  /** False for who may not speak here. @throws bad-request for a client that it can not name, too-many */
  greet(who: Principal, client: string | null): boolean {
    if (who.isNobody || who.isOver()) return false
    if (client !== null) who.cursor(client)
    this.#leave = this.#doors.guard.enter(who)
    this.#known?.()
    this.#who = who
    return true
  }

  /** The same subject with another token. @throws unauthorized, forbidden */
  renew(who: Principal): void {
    who.known()
    if (who.sub !== this.#who.sub || who.kind !== this.#who.kind)
      throw new TidemarkError('forbidden', 'A new token is of the same subject as the one before it')
    this.#who = who
  }

  /** What a request is refused with; undefined where it may be done. */
  refusal(request: Request): Refused | undefined {
    if (this.#who.isAdmin || request.op === 'refused') return undefined
    const { op, ref } = request
    const channel = 'channel' in request ? request.channel : undefined
    try {
      check(this.#who, OP_RIGHTS[op], channel ?? '')
      return undefined
    } catch (error) {
      return { op: 'refused', of: op, ref, channel, error: toTidemarkError(error) }
    }
  }
}
