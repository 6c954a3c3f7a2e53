/** Tokens that are good, and all the ways in which one is not. Each bad one is a good one with one thing changed. */
import { generateKeyPairSync, type KeyObject, sign as signBytes } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { base64url, exportJWK, type JWK, SignJWT } from 'jose'
import { beforeAll, describe, expect, test } from 'vitest'
import { type IssuerEntry, makeIssuer, secretOf } from '../../src/access/keysfile.ts'
import { type Principal, TOKEN_CHARS_MAX } from '../../src/access/principal.ts'
import { type Issuer, openIssuer, readToken, signToken } from '../../src/access/tokens.ts'
import { tempDir } from '../parts.ts'

const now = Math.floor(Date.now() / 1_000)
const app = makeIssuer({ iss: 'app' })
const shop = makeIssuer({ iss: 'shop', audience: 'tidemark' })
const old = makeIssuer({ iss: 'app' })
const GOOD = { iss: 'app', sub: 'anna', iat: now, exp: now + 600, perm: [{ ch: 'orders/**', ops: ['read'] }] }
const HEADER = { alg: 'HS256', typ: 'JWT', kid: app.kid! }

const pairs: Record<string, { publicKey: KeyObject; privateKey: KeyObject }> = {
  EdDSA: generateKeyPairSync('ed25519'),
  ES256: generateKeyPairSync('ec', { namedCurve: 'P-256' }),
  RS256: generateKeyPairSync('rsa', { modulusLength: 2_048 }),
}
const ALGS = ['EdDSA', 'ES256', 'RS256'] as const
let issuers: Issuer[]
let rsaJwk: JWK

beforeAll(async () => {
  issuers = [app, shop, old].map(open)
})

const open = (entry: IssuerEntry): Issuer => openIssuer('/nowhere/keys.json', entry, { isOver: false })

/** Issuers with public keys, each named as its algorithm and with a second key beside. */
async function openPublic(): Promise<Issuer[]> {
  const dir = tempDir()
  const opened: Issuer[] = []
  for (const alg of ALGS) {
    const jwk = { ...(await exportJWK(pairs[alg]!.publicKey)), kid: `${alg}-1`, alg }
    if (alg === 'RS256') rsaJwk = jwk
    writeFileSync(join(dir, `${alg}.json`), JSON.stringify({ keys: [jwk] }))
    opened.push(openIssuer(join(dir, 'keys.json'), { iss: alg, alg, jwks: `${alg}.json` }, { isOver: false }))
  }
  return opened
}

type Claims = Record<string, unknown>

/** The last two bits of its last letter say nothing. */
function otherForm(token: string): string {
  const letters = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
  return token.slice(0, -1) + letters[letters.indexOf(token.at(-1)!) ^ 1]!
}

/** A token of whatever header and claims, signed as HS256 is. */
const sealed = (header: Claims, claims: Claims | string, secret = secretOf(app)): Promise<string> => {
  const payload = typeof claims === 'string' ? claims : JSON.stringify(claims)
  return hmac(`${base64url.encode(JSON.stringify(header))}.${base64url.encode(payload)}`, secret)
}

async function hmac(text: string, secret: Uint8Array): Promise<string> {
  const { createHmac } = await import('node:crypto')
  return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`
}

const signed = (claims: Claims, header: Claims = HEADER, secret?: Uint8Array) => sealed(header, claims, secret)
const without = (name: keyof typeof GOOD): Claims => ({ ...GOOD, [name]: undefined })
const asymmetric = (alg: (typeof ALGS)[number], header: Claims = {}, claims: Claims = {}) =>
  new SignJWT({ ...GOOD, iss: alg, ...claims })
    .setProtectedHeader({ alg, kid: `${alg}-1`, ...header } as { alg: string })
    .sign(pairs[alg]!.privateKey)

describe('good tokens', () => {
  test('what a token says is what its principal may', async () => {
    const token = await signToken(app, {
      sub: 'anna@example.com',
      perm: [{ ch: 'orders/**', ops: ['read', 'commit'] }],
      groups: ['/staff'],
      seconds: 60,
    })
    const principal = await readToken(token, issuers)
    expect(principal).toMatchObject({ kind: 'client', sub: 'anna@example.com', groups: ['/staff'] })
    expect(principal.reader).toEqual({ sub: 'anna@example.com', groups: ['/staff'] })
    expect(principal.expires).toBeGreaterThan(Date.now() + 50_000)
    expect(principal.expires).toBeLessThanOrEqual(Date.now() + 60_000)
    expect([principal.may('read', 'orders/1'), principal.may('append', 'orders/1')]).toEqual([true, false])
  })

  const good: [what: string, token: () => Promise<string>][] = [
    ['as it is', () => signed(GOOD)],
    ['of the other secret of its issuer', () => signed(GOOD, { ...HEADER, kid: old.kid }, secretOf(old))],
    ['without typ', () => signed(GOOD, { alg: 'HS256', kid: app.kid })],
    ['of an access token', () => signed(GOOD, { ...HEADER, typ: 'at+JWT' })],
    ['of a clock that is ahead a little', () => signed({ ...GOOD, iat: now + 20, nbf: now + 20 })],
    ['that ends in 24 hours', () => signed({ ...GOOD, exp: now + 86_400 })],
    ['without perm and iat', () => signed({ ...GOOD, perm: undefined, iat: undefined })],
    ['with other claims', () => signed({ ...GOOD, jti: 'x', scope: 'admin', admin: true })],
    ['for its audience', () => signed({ ...GOOD, iss: 'shop', aud: 'tidemark' }, { alg: 'HS256' }, secretOf(shop))],
    [
      'for several audiences',
      () => signed({ ...GOOD, iss: 'shop', aud: ['x', 'tidemark'] }, { alg: 'HS256' }, secretOf(shop)),
    ],
  ]
  test.each(good)('%s', async (_, make) => {
    expect((await readToken(await make(), issuers)).sub).toBe('anna')
  })

  test.each(ALGS)('signed with %s', async (alg) => {
    expect((await readToken(await asymmetric(alg), await openPublic())).sub).toBe('anna')
  })
})

describe('bad tokens', () => {
  const flip = (token: string, part: number): string => {
    const parts = token.split('.')
    const bytes = Buffer.from(parts[part]!, 'base64url')
    bytes[bytes.length >> 1]! ^= 1
    parts[part] = bytes.toString('base64url')
    return parts.join('.')
  }
  const unsigned = (header: Claims, end = ''): string =>
    `${base64url.encode(JSON.stringify(header))}.${base64url.encode(JSON.stringify(GOOD))}.${end}`
  const jwk = { kty: 'oct', k: base64url.encode('an attacker’s own secret of 32 bytes or more') }

  const bad: [what: string, token: () => Promise<string> | string][] = [
    ['empty', () => ''],
    ['no token', () => 'hello'],
    ['a key in place of a token', () => `tm_adm_x_${'a'.repeat(43)}`],
    ['two parts', async () => (await signed(GOOD)).split('.').slice(0, 2).join('.')],
    ['four parts', async () => `${await signed(GOOD)}.x`],
    ['a space behind it', async () => `${await signed(GOOD)} `],
    ['padding', async () => `${await signed(GOOD)}=`],
    ['too long', () => signed({ ...GOOD, more: 'x'.repeat(TOKEN_CHARS_MAX) })],
    [
      'a header that is no JSON',
      async () => `${base64url.encode('{')}.${(await signed(GOOD)).split('.').slice(1).join('.')}`,
    ],
    ['claims that are no JSON', () => sealed(HEADER, '{')],
    ['claims that are a list', () => sealed(HEADER, '[]')],
    ['a changed header', async () => flip(await signed(GOOD), 0)],
    ['changed claims', async () => flip(await signed(GOOD), 1)],
    ['a changed signature', async () => flip(await signed(GOOD), 2)],
    ['a cut signature', async () => (await signed(GOOD)).slice(0, -4)],
    ['no signature', () => unsigned(HEADER)],
    ['none', () => unsigned({ ...HEADER, alg: 'none' })],
    ['None', () => unsigned({ ...HEADER, alg: 'None' })],
    ['none with a signature', () => unsigned({ ...HEADER, alg: 'none' }, 'eA')],
    ['no algorithm', () => signed(GOOD, { kid: app.kid })],
    ['another algorithm', () => signed(GOOD, { ...HEADER, alg: 'HS512' })],
    ...(['HS384', 'HS512'] as const).map((alg): [string, () => Promise<string>] => [
      `${alg} with the right secret`,
      () => new SignJWT(GOOD).setProtectedHeader({ alg, kid: app.kid! }).sign(secretOf(app)),
    ]),
    ['another secret', () => signed(GOOD, HEADER, secretOf(shop))],
    ['a good signature in another form', async () => otherForm(await signed(GOOD, HEADER))],
    ['the kid of another secret', () => signed(GOOD, { ...HEADER, kid: old.kid })],
    ['an unknown kid', () => signed(GOOD, { ...HEADER, kid: 'x' })],
    ['no kid where there are two keys', () => signed(GOOD, { alg: 'HS256' })],
    ['a kid that is a path', () => signed(GOOD, { ...HEADER, kid: '../../dev/null' }, new Uint8Array(32))],
    ['jwk', () => signed(GOOD, { ...HEADER, jwk }, Buffer.from(jwk.k, 'base64url'))],
    ['jku', () => signed(GOOD, { ...HEADER, jku: 'https://evil.example/jwks' })],
    ['x5u', () => signed(GOOD, { ...HEADER, x5u: 'https://evil.example/x' })],
    ['x5c', () => signed(GOOD, { ...HEADER, x5c: ['AAAA'] })],
    ['crit', () => signed(GOOD, { ...HEADER, crit: ['exp'] })],
    ['b64', () => signed(GOOD, { ...HEADER, b64: true, crit: ['b64'] })],
    ['zip', () => signed(GOOD, { ...HEADER, zip: 'DEF' })],
    ['another type', () => signed(GOOD, { ...HEADER, typ: 'dpop+jwt' })],
    ['a type that is no text', () => signed(GOOD, { ...HEADER, typ: 1 })],
    ['no issuer', () => signed(without('iss'))],
    ['an unknown issuer', () => signed({ ...GOOD, iss: 'evil' })],
    ['another issuer’s name', () => signed({ ...GOOD, iss: 'shop', aud: 'tidemark' }, { alg: 'HS256' })],
    ['an issuer that is a list', () => signed({ ...GOOD, iss: ['app'] })],
    ['no subject', () => signed(without('sub'))],
    ['an empty subject', () => signed({ ...GOOD, sub: '' })],
    ['a long subject', () => signed({ ...GOOD, sub: 'x'.repeat(129) })],
    ['a subject that is no text', () => signed({ ...GOOD, sub: 7 })],
    ['a subject with a line break', () => signed({ ...GOOD, sub: 'anna\nadmin' })],
    ['no end', () => signed(without('exp'))],
    ['an end that is no number', () => signed({ ...GOOD, exp: 'tomorrow' })],
    ['an end that was', () => signed({ ...GOOD, exp: now - 60 })],
    ['an end a second ago', () => signed({ ...GOOD, exp: now - 1 })],
    ['an end too late', () => signed({ ...GOOD, exp: now + 86_400 + 120 })],
    ['an end at infinity', () => sealed(HEADER, JSON.stringify(GOOD).replace(/"exp":\d+/, '"exp":1e999'))],
    ['a beginning to come', () => signed({ ...GOOD, nbf: now + 120 })],
    ['issued in the future', () => signed({ ...GOOD, iat: now + 120 })],
    ['issued at no time', () => signed({ ...GOOD, iat: 'now' })],
    ['no audience where one is asked for', () => signed({ ...GOOD, iss: 'shop' }, { alg: 'HS256' }, secretOf(shop))],
    ['another audience', () => signed({ ...GOOD, iss: 'shop', aud: 'x' }, { alg: 'HS256' }, secretOf(shop))],
    ['an audience where none is asked for', () => signed({ ...GOOD, aud: 'somebody-else' })],
    ['perm that is no list', () => signed({ ...GOOD, perm: { ch: '**', ops: ['read'] } })],
    ['an unknown operation', () => signed({ ...GOOD, perm: [{ ch: '**', ops: ['admin'] }] })],
    ['a wrong pattern', () => signed({ ...GOOD, perm: [{ ch: '**/a', ops: ['read'] }] })],
    ['a limit that we do not know', () => signed({ ...GOOD, perm: [{ ch: '**', ops: ['read'], until: 5 }] })],
    ['too many perms', () => signed({ ...GOOD, perm: Array(65).fill({ ch: 'a', ops: ['read'] }) })],
    ['groups that are no list', () => signed({ ...GOOD, groups: '/staff' })],
    ['too many groups', () => signed({ ...GOOD, groups: Array(65).fill('/a') })],
    ['a group that is no text', () => signed({ ...GOOD, groups: [null] })],
  ]
  test('there are at least 40 of them', () => expect(bad.length).toBeGreaterThanOrEqual(40))
  test.each(bad)('%s', async (_, make) => {
    const token = await make()
    await expect(readToken(token, issuers)).rejects.toThrow()
  })

  const confused: [what: string, token: () => Promise<string> | string][] = [
    [
      'HS256 with a public key as its secret',
      () => {
        const { publicKey } = pairs.RS256!
        const pem = Buffer.from(publicKey.export({ type: 'spki', format: 'pem' }))
        return signed({ ...GOOD, iss: 'RS256' }, { alg: 'HS256', kid: 'RS256-1' }, pem)
      },
    ],
    [
      'HS256 with a modulus as its secret',
      () => signed({ ...GOOD, iss: 'RS256' }, { alg: 'HS256', kid: 'RS256-1' }, Buffer.from(rsaJwk.n!, 'base64url')),
    ],
    ['the key of another issuer', async () => await asymmetric('ES256', {}, { iss: 'RS256' })],
    ['an unknown kid', () => asymmetric('EdDSA', { kid: 'EdDSA-2' })],
    [
      'an ES256 signature of nothing',
      async () => {
        const text = (await asymmetric('ES256')).split('.').slice(0, 2).join('.')
        return `${text}.${Buffer.alloc(64).toString('base64url')}`
      },
    ],
    [
      'an ES256 signature in DER',
      async () => {
        const text = (await asymmetric('ES256')).split('.').slice(0, 2).join('.')
        return `${text}.${signBytes('sha256', Buffer.from(text), pairs.ES256!.privateKey).toString('base64url')}`
      },
    ],
    [
      'PS256 for RS256',
      () =>
        new SignJWT({ ...GOOD, iss: 'RS256' })
          .setProtectedHeader({ alg: 'PS256', kid: 'RS256-1' })
          .sign(pairs.RS256!.privateKey),
    ],
  ]
  test.each(confused)('of public keys: %s', async (_, make) => {
    const opened = await openPublic()
    const token = await make()
    await expect(readToken(token, opened)).rejects.toThrow()
  })

  test('what is told of a refused token never holds it', async () => {
    for (const [what, make] of bad) {
      const token = await make()
      const told = await readToken(token, issuers).then(
        (_: Principal) => 'taken',
        (error: Error) => `${error.message} ${String(error.cause ?? '')}`,
      )
      for (const part of token.split('.')) if (part.length > 10) expect(told, what).not.toContain(part)
    }
  })
})
