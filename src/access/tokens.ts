/**
 * Tokens of clients: JWTs, checked and signed by `jose`. What is good about a token is decided by its issuer's entry in
 * the keys file, never by the token: the algorithm, the keys, the audience.
 */
import { readFileSync, statSync } from 'node:fs'
import {
  createLocalJWKSet,
  decodeJwt,
  decodeProtectedHeader,
  type JWTPayload,
  type JWTVerifyGetKey,
  jwtVerify,
  SignJWT,
} from 'jose'
import { TidemarkError } from '../errors.ts'
import { type Pattern, readPattern } from '../pattern.ts'
import { checkGroups, checkSubject, type IssuerEntry, jwksFileOf, secretOf } from './keysfile.ts'
import { type Grant, OPERATIONS, type Operation, Principal, type Source, TOKEN_CHARS_MAX } from './principal.ts'

/** A token ends within this time, s. */
export const TOKEN_SECONDS_MAX = 24 * 60 * 60
/** How far the clock of an issuer may be ahead of ours (`nbf`, `iat`), s. */
const SKEW_SECONDS = 30
/** Most entries of `perm`. */
const PERMS_MAX = 64

/** A `perm` entry as a token holds it. */
export interface Perm {
  readonly ch: string
  readonly ops: readonly Operation[]
}

type Resolve = Uint8Array | JWTVerifyGetKey

/** An issuer in force. */
export interface Issuer {
  readonly entry: IssuerEntry
  readonly source: Source
  readonly key: Resolve
  /** The text of its public keys: others are another issuer. */
  readonly keys: string
}

/** @param file the keys file @throws wrong-config for a key file that can not be read */
export function openIssuer(file: string, entry: IssuerEntry, source: Source): Issuer {
  if (entry.jwks === undefined) return { entry, source, key: secretOf(entry), keys: '' }
  const jwks = jwksFileOf(file, entry.jwks)
  const wrong = (why: string, cause?: unknown): TidemarkError =>
    new TidemarkError('wrong-config', `The keys of issuer ${entry.iss}, ${jwks}, ${why}`, {}, { cause })
  let mode: number
  try {
    mode = statSync(jwks).mode
    const keys = readFileSync(jwks, 'utf8')
    // They are public, but whoever may put in others may sign.
    if ((mode & 0o022) === 0) return { entry, source, keys, key: createLocalJWKSet(JSON.parse(keys)) }
  } catch (cause) {
    throw wrong('can not be read', cause)
  }
  throw wrong('may be written by others than its owner: chmod go-w')
}

const THREE_PARTS = /^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$/
/** All that a header may say: nothing that brings keys along, and no extension. */
const HEADER: ReadonlySet<string> = new Set(['alg', 'typ', 'kid'])
const TYPES: ReadonlySet<unknown> = new Set([undefined, 'jwt', 'at+jwt'])

/** The principal that a token speaks for. @throws Error with the reason, for the log alone: it never holds the token */
export async function readToken(token: string, issuers: readonly Issuer[], now = Date.now()): Promise<Principal> {
  if (token.length > TOKEN_CHARS_MAX || !THREE_PARTS.test(token)) throw new Error('not a token')
  // The last letter of a signature has bits that nobody reads: one token has one form.
  const signature = token.slice(token.lastIndexOf('.') + 1)
  if (Buffer.from(signature, 'base64url').toString('base64url') !== signature) throw new Error('not a token')
  const header = decodeProtectedHeader(token)
  const strange = Object.keys(header).find((name) => !HEADER.has(name))
  if (strange !== undefined) throw new Error('its header says more than alg, typ and kid')
  if (!TYPES.has(typeof header.typ === 'string' ? header.typ.toLowerCase() : header.typ))
    throw new Error('it is of another type')
  const { entry, key, source } = issuerOf(issuers, decodeJwt(token).iss, header.kid)
  const { payload } = await jwtVerify(token, key as JWTVerifyGetKey, {
    algorithms: [entry.alg],
    issuer: entry.iss,
    requiredClaims: ['iss', 'sub', 'exp'],
    clockTolerance: SKEW_SECONDS,
    currentDate: new Date(now),
    ...(entry.audience !== undefined && { audience: entry.audience }),
  })
  // A token for somebody else's service says so.
  if (entry.audience === undefined && payload.aud !== undefined) throw new Error('it is for an audience')
  return principalOf(payload, source, now)
}

function issuerOf(issuers: readonly Issuer[], iss: unknown, kid: unknown): Issuer {
  const named = issuers.filter(
    ({ entry }) => entry.iss === iss && (entry.kid === undefined || kid === undefined || entry.kid === kid),
  )
  if (named.length !== 1) throw new Error(named.length === 0 ? 'no such issuer or key' : 'several keys of its issuer')
  return named[0]!
}

function principalOf({ sub, exp, iat, groups = [], perm = [] }: JWTPayload, source: Source, now: number): Principal {
  const seconds = now / 1_000
  // No grace for an end: a socket would be closed as soon as it was opened.
  if (exp! <= seconds) throw new Error('it has expired')
  if (exp! > seconds + TOKEN_SECONDS_MAX + SKEW_SECONDS) throw new Error('it ends too late')
  if (iat !== undefined && iat > seconds + SKEW_SECONDS) throw new Error('it was issued in the future')
  return new Principal({
    kind: 'client',
    sub: checkSubject(sub),
    groups: checkGroups(groups),
    grants: grantsOf(perm),
    expires: exp! * 1_000,
    source,
  })
}

/** @throws bad-request */
export function grantsOf(perm: unknown): Grant[] {
  if (!Array.isArray(perm) || perm.length > PERMS_MAX) throw wrongPerm()
  return perm.map((entry: unknown): Grant => {
    if (typeof entry !== 'object' || entry === null) throw wrongPerm()
    const { ch, ops, ...rest } = entry as Record<string, unknown>
    // What we do not know may have been meant as a limit.
    if (Object.keys(rest).length > 0 || !Array.isArray(ops) || !ops.every(isOperation)) throw wrongPerm()
    const pattern: Pattern = readPattern(ch)
    return { pattern, operations: ops }
  })
}

const isOperation = (op: unknown): op is Operation => OPERATIONS.includes(op as Operation)

const wrongPerm = (): TidemarkError =>
  new TidemarkError(
    'bad-request',
    `perm is a list of at most ${PERMS_MAX} { "ch": pattern, "ops": [${OPERATIONS.join(', ')}] }`,
    { field: 'perm' },
  )

export interface TokenFacts {
  readonly sub: string
  readonly perm: readonly Perm[]
  readonly groups: readonly string[]
  /** s */
  readonly seconds: number
}

/** Signs a token with an issuer that has a secret. */
export async function signToken(entry: IssuerEntry, { sub, perm, groups, seconds }: TokenFacts): Promise<string> {
  const now = Math.floor(Date.now() / 1_000)
  const token = new SignJWT({ perm: [...perm], ...(groups.length > 0 && { groups: [...groups] }) })
    .setProtectedHeader({ alg: entry.alg, typ: 'JWT', ...(entry.kid !== undefined && { kid: entry.kid }) })
    .setIssuer(entry.iss)
    .setSubject(sub)
    .setIssuedAt(now)
    .setExpirationTime(now + seconds)
  if (entry.audience !== undefined) token.setAudience(entry.audience)
  return token.sign(secretOf(entry))
}
