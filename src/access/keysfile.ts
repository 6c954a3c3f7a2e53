/**
 * The keys file: which keys and issuers of tokens are good. Read and written here alone, by the server and by
 * `tidemark keys`. Every field is checked and none is ignored: a misspelt `expires` would be a key for ever.
 */
import { hash, randomBytes } from 'node:crypto'
import {
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { TidemarkError } from '../errors.ts'
import { checkTime, SUBJECT_BYTES_MAX } from '../event.ts'
import { readPattern } from '../pattern.ts'

export const KEY_KINDS = ['admin', 'publish'] as const
export type KeyKind = (typeof KEY_KINDS)[number]
export const ALGORITHMS = ['HS256', 'EdDSA', 'ES256', 'RS256'] as const
export type Algorithm = (typeof ALGORITHMS)[number]

/** As it stands in the file; times are RFC 3339. */
export interface KeyEntry {
  readonly kid: string
  readonly kind: KeyKind
  /** SHA-256 of the whole key, base64url. */
  readonly digest: string
  /** Patterns, of a publish key. Default: all channels but the system's. */
  readonly channels?: readonly string[]
  /** Whose cursors a publish key moves. Default: its kid. */
  readonly subject?: string
  readonly note?: string
  readonly created: string
  readonly notBefore?: string
  readonly expires?: string
}

/** Who signs tokens. Several of one name are told apart by `kid`. */
export interface IssuerEntry {
  readonly iss: string
  readonly kid?: string
  readonly alg: Algorithm
  readonly audience?: string
  /** Of HS256: at least 32 bytes, base64url. */
  readonly secret?: string
  /** Of the others: a file of public keys (JWKS), beside the keys file unless it is an absolute path. */
  readonly jwks?: string
  readonly note?: string
  readonly created?: string
}

export interface Keys {
  readonly keys: readonly KeyEntry[]
  readonly issuers: readonly IssuerEntry[]
}

export const NO_KEYS: Keys = { keys: [], issuers: [] }

/** The file that is named, else the one beside the store of a log. */
export const keysFileOf = ({ keys, data }: { readonly keys: string | undefined; readonly data: string }): string =>
  resolve(keys ?? join(data, 'keys.json'))

/** Largest keys file: 4 MiB. */
const FILE_BYTES_MAX = 4 * 1024 * 1024
const SECRET_BYTES = 32
const NAMES_MAX = 256
const PATTERNS_MAX = 64

// ── Reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

/** The file's text; undefined when there is none. @throws wrong-config when others than its owner may read it */
export function readKeysText(file: string): string | undefined {
  try {
    const { mode, size } = statSync(file)
    if ((mode & 0o077) !== 0) throw wrong(file, 'others than its owner may read or write it: chmod 600')
    if (size > FILE_BYTES_MAX) throw wrong(file, `it is larger than ${FILE_BYTES_MAX} bytes`)
    return readFileSync(file, 'utf8')
  } catch (error) {
    if (error instanceof TidemarkError) throw error
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined
    throw new TidemarkError('wrong-config', `The keys file ${file} can not be read (${code})`, {}, { cause: error })
  }
}

/** Undefined when there is no such file. @throws wrong-config */
export function readKeys(file: string): Keys | undefined {
  const text = readKeysText(file)
  return text === undefined ? undefined : parseKeys(file, text)
}

/** @param file for messages, which never hold a secret @throws wrong-config */
export function parseKeys(file: string, text: string): Keys {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    // The parser's own message quotes the text.
    throw wrong(file, 'it is not JSON')
  }
  try {
    const { keys = [], issuers = [] } = fieldsOf(value, 'the file', [], ['keys', 'issuers'])
    const read = { keys: listOf(keys, 'keys').map(readKey), issuers: listOf(issuers, 'issuers').map(readIssuer) }
    once(read.keys.map(({ kid }) => kid))
    once(read.issuers.map(({ iss, kid = '' }) => `${iss} ${kid}`))
    return read
  } catch (error) {
    throw wrong(file, (error as Error).message)
  }
}

const wrong = (file: string, why: string): TidemarkError =>
  new TidemarkError('wrong-config', `The keys file ${file}: ${why}`, { file })

function fail(why: string): never {
  throw new Error(why)
}

type Fields = Readonly<Record<string, unknown>>

function fieldsOf(value: unknown, what: string, needed: readonly string[], known: readonly string[]): Fields {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) fail(`${what} is no object`)
  for (const name of needed) if (!Object.hasOwn(value as object, name)) fail(`${what} has no ${name}`)
  for (const name of Object.keys(value as object))
    if (!needed.includes(name) && !known.includes(name)) fail(`${what} has an unknown field ${JSON.stringify(name)}`)
  return value as Fields
}

const listOf = (value: unknown, what: string): readonly unknown[] =>
  Array.isArray(value) ? value : fail(`${what} is no list`)

function once(names: readonly string[]): void {
  const twice = names.find((name, i) => names.indexOf(name) !== i)
  if (twice !== undefined) fail(`${twice.trim()} stands in it twice`)
}

const KID = /^[0-9a-zA-Z-]{1,32}$/
const DIGEST = /^[A-Za-z0-9_-]{43}$/

function readKey(value: unknown, i: number): KeyEntry {
  const what = `keys[${i}]`
  const key = fieldsOf(
    value,
    what,
    ['kid', 'kind', 'digest', 'created'],
    [...['channels', 'subject', 'note', 'notBefore', 'expires']],
  )
  if (!KID.test(textOf(key.kid, `${what}.kid`))) fail(`${what}.kid is 1–32 of A-Z a-z 0-9 -`)
  if (!KEY_KINDS.includes(key.kind as KeyKind)) fail(`${what}.kind is ${KEY_KINDS.join(' or ')}`)
  if (!DIGEST.test(textOf(key.digest, `${what}.digest`))) fail(`${what}.digest is a SHA-256 in base64url`)
  if (key.kind === 'admin' && (key.channels !== undefined || key.subject !== undefined))
    fail(`${what}: an admin key has neither channels nor a subject`)
  if (key.channels !== undefined) {
    const patterns = listOf(key.channels, `${what}.channels`)
    if (patterns.length > PATTERNS_MAX) fail(`${what}.channels holds at most ${PATTERNS_MAX} patterns`)
    for (const pattern of patterns) readPattern(pattern)
  }
  if (key.subject !== undefined) checkSubject(key.subject)
  if (key.note !== undefined) textOf(key.note, `${what}.note`)
  for (const name of ['created', 'notBefore', 'expires'])
    if (key[name] !== undefined) timeOf(key[name], `${what}.${name}`)
  return key as unknown as KeyEntry
}

function readIssuer(value: unknown, i: number): IssuerEntry {
  const what = `issuers[${i}]`
  const known = ['kid', 'audience', 'secret', 'jwks', 'note', 'created']
  const issuer = fieldsOf(value, what, ['iss', 'alg'], known)
  for (const name of ['iss', ...known]) if (issuer[name] !== undefined) textOf(issuer[name], `${what}.${name}`)
  if (!ALGORITHMS.includes(issuer.alg as Algorithm)) fail(`${what}.alg is ${ALGORITHMS.join(', ')}`)
  const [has, hasNot] = issuer.alg === 'HS256' ? ['secret', 'jwks'] : ['jwks', 'secret']
  if (issuer[has!] === undefined || issuer[hasNot!] !== undefined)
    fail(`${what}: ${String(issuer.alg)} goes with ${has} and without ${hasNot}`)
  if (has === 'secret' && secretOf(issuer as unknown as IssuerEntry).length < SECRET_BYTES)
    fail(`${what}.secret is at least ${SECRET_BYTES} bytes in base64url`)
  if (issuer.created !== undefined) timeOf(issuer.created, `${what}.created`)
  return issuer as unknown as IssuerEntry
}

function textOf(value: unknown, what: string): string {
  if (typeof value !== 'string' || value === '' || /\p{Cc}/u.test(value)) return fail(`${what} is a text`)
  return value
}

function timeOf(value: unknown, what: string): void {
  try {
    checkTime(value)
  } catch {
    fail(`${what} is a time as 2026-11-22T18:48:00Z`)
  }
}

/** Who a token or key speaks for. @throws bad-request */
export function checkSubject(given: unknown): string {
  const fits = typeof given === 'string' && given !== '' && !/[\p{Cc}\p{Surrogate}]/u.test(given)
  if (!fits || Buffer.byteLength(given) > SUBJECT_BYTES_MAX)
    throw new TidemarkError('bad-request', `A subject is 1–${SUBJECT_BYTES_MAX} bytes without control characters`, {
      field: 'sub',
    })
  return given
}

/** Groups as a token holds them. @throws bad-request */
export function checkGroups(given: unknown): readonly string[] {
  const fits = (name: unknown): boolean =>
    typeof name === 'string' && name !== '' && name.length <= NAMES_MAX && !/[\p{Cc}\p{Surrogate}]/u.test(name)
  if (!Array.isArray(given) || given.length > GROUPS_MAX || !given.every(fits))
    throw new TidemarkError(
      'bad-request',
      `groups is a list of at most ${GROUPS_MAX} names of 1–${NAMES_MAX} characters`,
      {
        field: 'groups',
      },
    )
  return given as string[]
}

/** Most groups of one token. */
const GROUPS_MAX = 64

export const secretOf = ({ secret = '' }: IssuerEntry): Uint8Array => Buffer.from(secret, 'base64url')

/** Where an issuer's public keys lie. */
export const jwksFileOf = (file: string, jwks: string): string => resolve(dirname(file), jwks)

// ── Writing ──────────────────────────────────────────────────────────────────────────────────────────────────────

/** A new key, and its text, which is nowhere else. */
export function makeKey(facts: Omit<KeyEntry, 'kid' | 'digest' | 'created'>): { entry: KeyEntry; text: string } {
  const kid = newKid()
  const text = `tm_${facts.kind === 'admin' ? 'adm' : 'pub'}_${kid}_${randomBytes(SECRET_BYTES).toString('base64url')}`
  return { entry: { kid, digest: digestOf(text).toString('base64url'), created: now(), ...facts }, text }
}

/** A new issuer of HS256 tokens with a secret of its own. */
export const makeIssuer = (facts: Pick<IssuerEntry, 'iss' | 'audience' | 'note'>): IssuerEntry => ({
  kid: newKid(),
  alg: 'HS256',
  secret: randomBytes(SECRET_BYTES).toString('base64url'),
  created: now(),
  ...facts,
})

const newKid = (): string => randomBytes(5).toString('hex')
const now = (): string => new Date().toISOString()

/** SHA-256 of a credential as it is sent. */
export const digestOf = (text: string): Buffer => hash('sha256', text, 'buffer')

/**
 * Changes the file: whole or not at all, and one at a time. @param change gives what is to stand in it
 * @throws wrong-config; in-use while another program writes it; io-error
 */
export function changeKeys(file: string, change: (keys: Keys) => Keys): void {
  mkdirSync(dirname(file), { recursive: true, mode: 0o700 })
  const written = `${file}.new`
  const fd = openNew(written)
  try {
    const keys = change(readKeys(file) ?? NO_KEYS)
    const text = `${JSON.stringify(keys, undefined, 2)}\n`
    parseKeys(file, text)
    writeSync(fd, text)
    fsyncSync(fd)
    renameSync(written, file)
  } catch (error) {
    rmSync(written, { force: true })
    if (error instanceof TidemarkError) throw error
    throw new TidemarkError('io-error', `The keys file ${file} can not be written`, {}, { cause: error })
  } finally {
    closeSync(fd)
  }
  syncDir(dirname(file))
}

/** The file that is written is the lock, too. */
function openNew(written: string): number {
  try {
    return openSync(written, 'wx', 0o600)
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    if (code === 'EEXIST')
      throw new TidemarkError('in-use', `Another program is writing ${written}; if none is, remove it`)
    throw new TidemarkError('io-error', `${written} can not be written (${code})`, {}, { cause })
  }
}

function syncDir(dir: string): void {
  const fd = openSync(dir, 'r')
  try {
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}
