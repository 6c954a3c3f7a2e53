/**
 * Who calls, and what that caller may do. One rule for every door: `need` before an operation on a channel, `cursor`
 * for the name of a cursor. How a credential becomes a principal is keyring.ts.
 */
import type { Reader } from '../audience.ts'
import { TidemarkError } from '../errors.ts'
import { AUDIT_CHANNEL, CURSOR_OWNER, checkClient } from '../event.ts'
import { matches, type Pattern } from '../pattern.ts'

/** Longest token, and longer than any key; characters. */
export const TOKEN_CHARS_MAX = 8_192

/** What can be granted on channels. Everything else is the admins'. */
export const OPERATIONS = ['append', 'read', 'commit', 'seek', 'list'] as const
export type Operation = (typeof OPERATIONS)[number]

/** What is granted on the channels of one pattern. */
export interface Grant {
  readonly pattern: Pattern
  readonly operations: readonly Operation[]
}

/** Where a principal comes from: a key, an issuer of tokens, a server without keys. Its end is that of all from it. */
export interface Source {
  isOver: boolean
}

export interface PrincipalFacts {
  readonly kind: 'admin' | 'publish' | 'client' | 'nobody'
  /** Whose cursors it moves; null for admins, who say whole names. */
  readonly sub: string | null
  /** By which it is told of: the kid of a key. Default: sub, else kind. */
  readonly name?: string
  readonly groups?: readonly string[]
  readonly grants?: readonly Grant[]
  /** ms since 1970. Default: never. */
  readonly expires?: number
  readonly source: Source
}

/** Read by everybody, whatever the patterns. */
const STREAMER = '_streamer'

export class Principal {
  readonly kind: PrincipalFacts['kind']
  readonly isAdmin: boolean
  readonly isNobody: boolean
  /** By which it is told of, never a secret: the kid of a key, the subject of a token. */
  readonly name: string
  /** Whose cursors it moves; null for admins, who say whole names. */
  readonly sub: string | null
  /** Of a client: the groups whose addressed events it is given. */
  readonly groups: readonly string[]
  /** Whose addressed events it is given; undefined for one who is given every event, and told whom it is for. */
  readonly reader: Reader | undefined
  /** Before the name of each of its cursors and idempotency keys; empty for admins. */
  readonly owner: string
  readonly #source: Source
  #grants: readonly Grant[]
  #expires: number

  constructor({
    kind,
    sub,
    name,
    groups = [],
    grants = [],
    expires = Number.POSITIVE_INFINITY,
    source,
  }: PrincipalFacts) {
    this.kind = kind
    this.isAdmin = kind === 'admin'
    this.isNobody = kind === 'nobody'
    this.name = name ?? sub ?? kind
    this.sub = sub
    this.groups = groups
    this.reader = kind === 'admin' || kind === 'publish' ? undefined : { sub: sub ?? '', groups }
    this.#source = source
    this.owner = sub === null ? '' : ownerOf(sub)
    this.#grants = grants
    this.#expires = expires
  }

  /** When it ends, ms since 1970; Infinity for one that does not. */
  get expires(): number {
    return this.#expires
  }

  /** What it is granted: another list when that has changed. */
  get grants(): readonly Grant[] {
    return this.#grants
  }

  /** Its credential was taken back; one that has expired was not. */
  get isRevoked(): boolean {
    return this.#source.isOver
  }

  /** Its credential was revoked, or has expired. @param now ms since 1970 */
  isOver(now?: number): boolean {
    // Who never ends costs no look at the clock.
    if (this.#source.isOver || this.#expires === Number.POSITIVE_INFINITY) return this.#source.isOver
    return this.#expires <= (now ?? Date.now())
  }

  /** A key that stays the same may be granted something else. */
  change(grants: readonly Grant[], expires: number): void {
    this.#grants = grants
    this.#expires = expires
  }

  may(operation: Operation, channel: string): boolean {
    if (this.isAdmin) return true
    if (this.isNobody || channel === AUDIT_CHANNEL) return false
    if (channel === STREAMER && operation === 'read') return true
    for (const { pattern, operations } of this.#grants)
      if (operations.includes(operation) && matches(pattern, channel)) return true
    return false
  }

  /** How the names begin of channels on which it may do this: in their order, none of them within another. */
  beginnings(operation: Operation): readonly string[] {
    if (this.isAdmin) return ['']
    const granted = this.#grants.filter(({ operations }) => operations.includes(operation))
    const sorted = [...new Set(granted.map(({ pattern }) => pattern.beginning))].sort()
    return sorted.filter((text, i) => !sorted.slice(0, i).some((before) => text.startsWith(before)))
  }

  /** @throws unauthorized, forbidden: the same whether there is such a channel or not */
  need(operation: Operation, channel: string): void {
    this.known()
    if (!this.may(operation, channel)) throw forbidden(operation, channel)
  }

  /** After a wait: what has ended by itself meanwhile gets its answer. @throws unauthorized, forbidden */
  stillNeed(operation: Operation, channel: string): void {
    if (this.isRevoked) throw unauthorized()
    if (!this.may(operation, channel)) throw forbidden(operation, channel)
  }

  /** @throws unauthorized for nobody, and for one who is over */
  known(): void {
    if (this.isNobody || this.isOver()) throw unauthorized()
  }

  /** @throws unauthorized, forbidden */
  needAdmin(): void {
    this.known()
    if (!this.isAdmin) throw new TidemarkError('forbidden', 'Only an admin may do this')
  }

  /** The whole name of a cursor, as the log keeps it. @param client checked @throws bad-request for another subject's */
  cursor(client: string): string {
    return this.sub === null ? client : this.owner + checkClient(client)
  }

  /** An idempotency key as the log keeps it: no subject meets another one's. @param key checked */
  idempotencyKey(key: string): string {
    return this.owner + key
  }

  /** The name that this caller gave a cursor; undefined for another subject's. */
  ownName(whole: string): string | undefined {
    if (this.sub === null) return whole
    return whole.startsWith(this.owner) ? whole.slice(this.owner.length) : undefined
  }
}

export const forbidden = (operation: Operation, channel: string): TidemarkError =>
  new TidemarkError('forbidden', `This caller may not ${operation} ${channel}`, { channel, operation })

/** The same for every credential that is not good, so that nobody learns what is wrong with it. */
export const unauthorized = (): TidemarkError =>
  new TidemarkError('unauthorized', 'This call needs a credential that is good: Authorization: Bearer <key or token>')

/** Who shows nothing, or nothing good. */
export const NOBODY = new Principal({ kind: 'nobody', sub: null, source: { isOver: false } })

/** Everybody who reaches a server without keys, until there are some. */
export const everybody = (source: Source): Principal => new Principal({ kind: 'admin', sub: null, source })

const utf8 = new TextEncoder()

/** `anna` → `anna~`, `anna@x` → `anna%40x~`: no name that a caller may give begins like it. */
function ownerOf(sub: string): string {
  let text = ''
  for (const byte of utf8.encode(sub)) {
    const c = String.fromCharCode(byte)
    text += /[A-Za-z0-9._:-]/.test(c) ? c : `%${byte.toString(16).toUpperCase().padStart(2, '0')}`
  }
  return text + CURSOR_OWNER
}
