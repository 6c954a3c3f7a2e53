/**
 * The credentials in force: from what a caller shows to its principal. Follows the keys file, so that a new key counts
 * and a revoked one ends within a second, whoever holds a connection under it.
 *
 * Without a keys file everybody is admin; a file that is there, with whatever in it, means that nobody is without a
 * credential. A file that goes away or turns bad under a running server changes nothing, loudly.
 */
import { timingSafeEqual } from 'node:crypto'
import { stat } from 'node:fs/promises'
import { TidemarkError } from '../errors.ts'
import { checkTime } from '../event.ts'
import { readPattern } from '../pattern.ts'
import { digestOf, jwksFileOf, type KeyEntry, type Keys, parseKeys, readKeysText } from './keysfile.ts'
import { everybody, type Grant, NOBODY, OPERATIONS, Principal, type Source } from './principal.ts'
import type { Issuer } from './tokens.ts'

/** How often the file is looked at, ms. */
const LOOK_MS = 500
/** Most tokens whose principals are kept; the oldest go first, and are read anew when they come again. */
const TOKENS_KEPT = 10_000

const KEY = /^tm_(?:adm|pub)_([0-9a-zA-Z-]{1,32})_[A-Za-z0-9_-]{43}$/
/** Compared with where there is no such key. */
const NO_DIGEST = Buffer.alloc(32)
const ALL_CHANNELS = ['**']

type Tokens = typeof import('./tokens.ts')

interface Key {
  readonly entry: KeyEntry
  readonly digest: Buffer
  readonly notBefore: number
  readonly source: Source
  readonly principal: Principal
}

/** Where it is told what happens to the file. */
export interface KeyringLog {
  info(facts: object, message: string): void
  debug(facts: object, message: string): void
  error(facts: object, message: string): void
}

/** A key or issuer, as it may be told. */
export interface Named {
  readonly kind: KeyEntry['kind'] | 'issuer'
  /** Its kid, or the issuer's name. */
  readonly name: string
}

/** What another keys file has changed. */
export interface Change {
  readonly made: readonly Named[]
  readonly changed: readonly Named[]
  readonly revoked: readonly Named[]
}

const SILENT: KeyringLog = { info() {}, debug() {}, error() {} }

export class Keyring {
  readonly #file: string | undefined
  readonly #log: KeyringLog
  /** Undefined once there are keys. */
  #everybody: { readonly source: Source; readonly principal: Principal } | undefined
  #keys = new Map<string, Key>()
  #issuers: Issuer[] = []
  #tokens: Tokens | undefined
  readonly #known = new Map<string, Principal | Promise<Principal>>()
  readonly #listeners: ((change: Change) => void)[] = []
  /** What the files looked like that are in force, or that were refused. */
  #seen: string | undefined
  #timer: NodeJS.Timeout | undefined
  #looking: Promise<void> | undefined

  private constructor(file: string | undefined, log: KeyringLog) {
    this.#file = file
    this.#log = log
    const source = { isOver: false }
    this.#everybody = { source, principal: everybody(source) }
  }

  /** Of a server without keys, for ever. */
  static none(): Keyring {
    return new Keyring(undefined, SILENT)
  }

  /** Reads the file, if it is there, and follows it until `close`. @throws wrong-config */
  static async open(file: string, log: KeyringLog = SILENT): Promise<Keyring> {
    const keyring = new Keyring(file, log)
    await keyring.#read(file)
    keyring.#timer = setInterval(() => void keyring.reload(), LOOK_MS).unref()
    return keyring
  }

  /** Everybody is admin. */
  get isOpen(): boolean {
    return this.#everybody !== undefined
  }

  /** Is called after each change of what is in force: principals may be over, or may do less. */
  onChange(listener: (change: Change) => void): void {
    this.#listeners.push(listener)
  }

  close(): void {
    clearInterval(this.#timer)
  }

  // ── Credentials ────────────────────────────────────────────────────────────────────────────────────────────────

  /** Who shows no credential. */
  get anybody(): Principal {
    return this.#everybody === undefined ? NOBODY : this.#everybody.principal
  }

  /** @param header `Authorization` */
  ofHeader(header: string | undefined): Principal | Promise<Principal> {
    if (this.#everybody !== undefined) return this.#everybody.principal
    if (header === undefined || header.length < 8 || header.slice(0, 7).toLowerCase() !== 'bearer ') return NOBODY
    return this.of(header.slice(7).trim())
  }

  /** The principal of a key or token; NOBODY when it is not good. At once where the credential is known. */
  of(credential: string): Principal | Promise<Principal> {
    if (this.#everybody !== undefined) return this.#everybody.principal
    const digest = digestOf(credential)
    const [, kid] = KEY.exec(credential) ?? []
    return kid === undefined ? this.#ofToken(credential, digest) : this.#ofKey(kid, digest)
  }

  #ofKey(kid: string, digest: Buffer): Principal {
    const key = this.#keys.get(kid)
    const isSame = timingSafeEqual(digest, key?.digest ?? NO_DIGEST)
    if (key === undefined || !isSame || key.notBefore > Date.now() || key.principal.isOver()) return NOBODY
    return key.principal
  }

  #ofToken(token: string, digest: Buffer): Principal | Promise<Principal> {
    const tokens = this.#tokens
    if (tokens === undefined || this.#issuers.length === 0) return NOBODY
    const name = digest.toString('base64url')
    const known = this.#known.get(name)
    if (known !== undefined) {
      if (known instanceof Promise || !known.isOver()) return known
      this.#known.delete(name)
      return NOBODY
    }
    const reading = tokens.readToken(token, this.#issuers).then(
      (principal) => {
        if (this.#known.get(name) === reading) this.#keep(name, principal)
        // Its issuer may have gone meanwhile.
        return principal.isOver() ? NOBODY : principal
      },
      (error: Error) => {
        if (this.#known.get(name) === reading) this.#known.delete(name)
        this.#log.debug({ why: error.message }, 'A token was refused')
        return NOBODY
      },
    )
    this.#keep(name, reading)
    return reading
  }

  #keep(name: string, known: Principal | Promise<Principal>): void {
    this.#known.delete(name)
    this.#known.set(name, known)
    for (const [oldest] of this.#known) {
      if (this.#known.size <= TOKENS_KEPT) break
      this.#known.delete(oldest)
    }
  }

  // ── The file ───────────────────────────────────────────────────────────────────────────────────────────────────

  /** Looks whether the files are other ones, and takes them up. What is wrong with them is told, and changes nothing. */
  reload(): Promise<void> {
    this.#looking ??= this.#reload().finally(() => {
      this.#looking = undefined
    })
    return this.#looking
  }

  async #reload(): Promise<void> {
    const file = this.#file
    if (file === undefined) return
    if ((await this.#look()) === this.#seen) return
    try {
      await this.#read(file)
    } catch (error) {
      this.#log.error({ why: (error as Error).message }, 'The keys file can not be taken up: what was in force stays')
    }
  }

  /** @throws wrong-config */
  async #read(file: string): Promise<void> {
    this.#seen = await this.#look()
    const text = readKeysText(file)
    if (text !== undefined) await this.#take(parseKeys(file, text))
    else if (!this.isOpen) throw new TidemarkError('wrong-config', `The keys file ${file} is gone`)
    // It may name other files now. One that was changed meanwhile is read again at the next look.
    const seen = await this.#look()
    if (seen.startsWith(this.#seen.split('\n', 1)[0]!)) this.#seen = seen
  }

  /** What changes when one of the files does. */
  async #look(): Promise<string> {
    const file = this.#file!
    const jwks = this.#issuers.flatMap(({ entry }) => (entry.jwks === undefined ? [] : [jwksFileOf(file, entry.jwks)]))
    const looks = [file, ...jwks].map(async (path) => {
      try {
        const { ino, size, mode, mtimeNs, ctimeNs } = await stat(path, { bigint: true })
        return [ino, size, mode, mtimeNs, ctimeNs].join(' ')
      } catch (error) {
        return (error as NodeJS.ErrnoException).code
      }
    })
    return (await Promise.all(looks)).join('\n')
  }

  /** Puts it in force; nothing has changed when it throws. */
  async #take({ keys, issuers }: Keys): Promise<void> {
    const tokens = issuers.length > 0 ? await import('./tokens.ts') : this.#tokens
    const opened = issuers.map((entry) => tokens!.openIssuer(this.#file!, entry, { isOver: false }))
    const before = namesOf([...this.#keys.values()], this.#issuers)
    const nextKeys = new Map(keys.map((entry): [string, Key] => [entry.kid, this.#keyOf(entry)]))
    for (const [kid, { source }] of this.#keys) if (nextKeys.get(kid)?.source !== source) source.isOver = true
    this.#keys = nextKeys
    this.#tokens = tokens
    this.#takeIssuers(opened)
    if (this.#everybody !== undefined) this.#everybody.source.isOver = true
    this.#everybody = undefined
    this.#log.info({ keys: keys.length, issuers: issuers.length }, 'Keys are in force')
    const change = changeBetween(before, namesOf([...this.#keys.values()], this.#issuers))
    for (const listener of this.#listeners) listener(change)
  }

  /** A key that is the same one is the same principal, with what it is granted now. */
  #keyOf(entry: KeyEntry): Key {
    const { kid, kind, subject = kid, channels = ALL_CHANNELS } = entry
    const grants = channels.map((channel): Grant => ({ pattern: readPattern(channel), operations: OPERATIONS }))
    const expires = entry.expires === undefined ? Number.POSITIVE_INFINITY : checkTime(entry.expires)
    const notBefore = entry.notBefore === undefined ? 0 : checkTime(entry.notBefore)
    const before = this.#keys.get(kid)
    const isSame = before?.entry.digest === entry.digest && before.entry.kind === kind
    // One that is to count later was taken back until then.
    if (before && isSame && (before.entry.subject ?? kid) === subject && notBefore <= Date.now()) {
      const isGranted = String(before.entry.channels) === String(entry.channels)
      before.principal.change(isGranted ? before.principal.grants : grants, expires)
      return { ...before, entry, notBefore }
    }
    const source: Source = { isOver: false }
    const sub = kind === 'admin' ? null : subject
    const principal = new Principal({ kind, sub, name: kid, grants, expires, source })
    return { entry, digest: Buffer.from(entry.digest, 'base64url'), notBefore, source, principal }
  }

  /** An issuer with the same entry and keys goes on; the tokens of every other one are over. */
  #takeIssuers(opened: readonly Issuer[]): void {
    const before = this.#issuers
    this.#issuers = opened.map((issuer) => before.find((each) => isSameIssuer(each, issuer)) ?? issuer)
    for (const issuer of before) if (!this.#issuers.includes(issuer)) issuer.source.isOver = true
    // What is being read is judged by who has issued it.
    for (const [name, known] of this.#known) if (known instanceof Promise || known.isOver()) this.#known.delete(name)
  }
}

const isSameIssuer = (a: Issuer, b: Issuer): boolean =>
  a.keys === b.keys && JSON.stringify(a.entry) === JSON.stringify(b.entry)

/** All that is in force by kind and name, with its entry: another entry is a change. */
const namesOf = (keys: readonly Key[], issuers: readonly Issuer[]): ReadonlyMap<string, [Named, string]> =>
  new Map([
    ...keys.map(({ entry }) => row({ kind: entry.kind, name: entry.kid }, JSON.stringify(entry))),
    ...issuers.map(({ entry, keys: text }) =>
      row({ kind: 'issuer', name: entry.iss }, JSON.stringify(entry) + text, entry.kid),
    ),
  ])

const row = (named: Named, entry: string, kid = ''): [string, [Named, string]] => [
  `${named.kind} ${named.name} ${kid}`,
  [named, entry],
]

function changeBetween(before: ReturnType<typeof namesOf>, now: ReturnType<typeof namesOf>): Change {
  const made: Named[] = []
  const changed: Named[] = []
  const revoked: Named[] = []
  for (const [key, [named, entry]] of now) {
    const known = before.get(key)
    if (known === undefined) made.push(named)
    else if (known[1] !== entry) changed.push(named)
  }
  for (const [key, [named]] of before) if (!now.has(key)) revoked.push(named)
  return { made, changed, revoked }
}
