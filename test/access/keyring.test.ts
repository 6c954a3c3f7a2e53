import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { Keyring } from '../../src/access/keyring.ts'
import { changeKeys, type Keys, makeIssuer, makeKey, readKeys } from '../../src/access/keysfile.ts'
import { NOBODY } from '../../src/access/principal.ts'
import { signToken } from '../../src/access/tokens.ts'
import { tempDir } from '../parts.ts'
import { codeOf } from '../random.ts'
import { until } from '../server/stream.ts'

const fileIn = (dir = tempDir()): string => join(dir, 'keys.json')
const put = (file: string, keys: Partial<Keys>): void => changeKeys(file, () => ({ keys: [], issuers: [], ...keys }))

async function opened(file: string, lines: string[] = []): Promise<Keyring> {
  const tell = (_: object, message: string): void => void lines.push(message)
  const keyring = await Keyring.open(file, { info: tell, debug: tell, error: tell })
  onTestFinished(() => keyring.close())
  return keyring
}

const facts = { perm: [{ ch: 'a', ops: ['read' as const] }], groups: [], seconds: 60 }

test('without a file everybody is admin, whatever is shown', async () => {
  const keyring = await opened(fileIn())
  const { text } = makeKey({ kind: 'publish' })
  for (const header of [undefined, 'Bearer x', `Bearer ${text}`]) {
    const who = await keyring.ofHeader(header)
    expect([who.isAdmin, who.sub]).toEqual([true, null])
  }
})

test('a file with nothing in it lets nobody in', async () => {
  const file = fileIn()
  put(file, {})
  const keyring = await opened(file)
  expect(keyring.isOpen).toBe(false)
  expect(await keyring.ofHeader(undefined)).toBe(NOBODY)
})

test('a key is its principal, and nothing that looks like it', async () => {
  const file = fileIn()
  const admin = makeKey({ kind: 'admin' })
  const bot = makeKey({ kind: 'publish', channels: ['in/**'], subject: 'bot' })
  put(file, { keys: [admin.entry, bot.entry] })
  const keyring = await opened(file)
  expect(await keyring.of(admin.text)).toMatchObject({ isAdmin: true, sub: null })
  const who = await keyring.ofHeader(`bearer ${bot.text}`)
  expect(who).toMatchObject({ kind: 'publish', sub: 'bot', reader: undefined })
  expect([who.may('append', 'in/a'), who.may('append', 'out')]).toEqual([true, false])
  const other = makeKey({ kind: 'admin' }).text
  const wrong = [
    ...['', 'x', admin.text.slice(0, -1), `${admin.text}x`, admin.text.toUpperCase(), other],
    admin.text.replace('_adm_', '_pub_'),
    bot.text.replace('_pub_', '_adm_'),
    bot.text.replace(bot.entry.kid, admin.entry.kid),
    admin.entry.digest,
    `tm_adm_${admin.entry.kid}_${admin.entry.digest}`,
  ]
  for (const text of wrong) expect(await keyring.of(text), text).toBe(NOBODY)
  for (const header of ['', 'Bearer', 'Bearer ', admin.text, `Basic ${admin.text}`, `Bearer x ${admin.text}`])
    expect(await keyring.ofHeader(header), header).toBe(NOBODY)
})

test('a key without a subject has its kid as one', async () => {
  const file = fileIn()
  const bot = makeKey({ kind: 'publish' })
  put(file, { keys: [bot.entry] })
  const who = await (await opened(file)).of(bot.text)
  expect(who.cursor('web')).toBe(`${bot.entry.kid}~web`)
  expect([who.may('append', 'any/channel'), who.may('read', '_x')]).toEqual([true, false])
})

test('keys count from their beginning to their end', async () => {
  const file = fileIn()
  const at = (ms: number): string => new Date(Date.now() + ms).toISOString()
  const keys = [{ notBefore: at(60_000) }, { expires: at(-1) }, { notBefore: at(-1), expires: at(60_000) }].map(
    (times) => makeKey({ kind: 'admin', ...times }),
  )
  put(file, { keys: keys.map(({ entry }) => entry) })
  const keyring = await opened(file)
  expect(keys.map(({ text }) => keyring.of(text) === NOBODY)).toEqual([true, true, false])
  // One that is to count later after all is over until then, also for who holds a connection under it.
  const { entry, text } = keys[2]!
  const held = await keyring.of(text)
  put(file, { keys: [{ ...entry, notBefore: at(60_000) }] })
  await keyring.reload()
  expect([held.isOver(), keyring.of(text) === NOBODY]).toEqual([true, true])
})

test('a change of the file is taken up by itself: new keys count, revoked ones are over', async () => {
  const file = fileIn()
  const first = makeKey({ kind: 'admin' })
  const keyring = await opened(file)
  let changes = 0
  keyring.onChange(() => changes++)
  const before = await keyring.of('x')
  put(file, { keys: [first.entry] })
  await until(() => !keyring.isOpen)
  expect([before.isOver(), changes]).toEqual([true, 1])
  const who = await keyring.of(first.text)
  expect(who.isAdmin).toBe(true)
  const second = makeKey({ kind: 'admin' })
  put(file, { keys: [second.entry] })
  await until(() => who.isOver())
  expect(await keyring.of(first.text)).toBe(NOBODY)
  expect((await keyring.of(second.text)).isAdmin).toBe(true)
})

test('a key that is granted something else is the same principal', async () => {
  const file = fileIn()
  const { entry, text } = makeKey({ kind: 'publish', channels: ['a'] })
  put(file, { keys: [entry] })
  const keyring = await opened(file)
  const who = await keyring.of(text)
  put(file, { keys: [{ ...entry, channels: ['b'] }] })
  await keyring.reload()
  expect(await keyring.of(text)).toBe(who)
  expect([who.isOver(), who.may('read', 'a'), who.may('read', 'b')]).toEqual([false, false, true])
  put(file, { keys: [{ ...entry, subject: 'another' }] })
  await keyring.reload()
  expect(who.isOver()).toBe(true)
  expect(await keyring.of(text)).toMatchObject({ sub: 'another' })
})

test('a token is read once, known after that at once, and over with its issuer', async () => {
  const file = fileIn()
  const app = makeIssuer({ iss: 'app' })
  const other = makeIssuer({ iss: 'other' })
  put(file, { issuers: [app, other] })
  const keyring = await opened(file)
  const token = await signToken(app, { ...facts, sub: 'anna' })
  const reading = keyring.of(token)
  expect(reading).toBeInstanceOf(Promise)
  expect(keyring.of(token)).toBe(reading)
  const who = await reading
  expect(who.sub).toBe('anna')
  expect(keyring.of(token)).toBe(who)
  const kept = await keyring.of(await signToken(other, { ...facts, sub: 'bert' }))
  put(file, { issuers: [other] })
  await keyring.reload()
  expect([who.isOver(), kept.isOver()]).toEqual([true, false])
  expect(await keyring.of(token)).toBe(NOBODY)
})

test('a token ends', async () => {
  const file = fileIn()
  const app = makeIssuer({ iss: 'app' })
  put(file, { issuers: [app] })
  const keyring = await opened(file)
  const token = await signToken(app, { ...facts, sub: 'anna', seconds: 1 })
  const who = await keyring.of(token)
  await until(() => who.isOver())
  expect(await keyring.of(token)).toBe(NOBODY)
})

test('a file that is gone, wrong or open to others changes nothing, and says so', async () => {
  const file = fileIn()
  const { entry, text } = makeKey({ kind: 'admin' })
  put(file, { keys: [entry] })
  const lines: string[] = []
  const keyring = await opened(file, lines)
  const good = readFileSync(file)
  const told = 'The keys file can not be taken up: what was in force stays'
  const bad: (() => void)[] = [
    () => rmSync(file),
    () => writeFileSync(file, '{', { mode: 0o600 }),
    () => writeFileSync(file, JSON.stringify({ keys: [{ ...entry, expire: 1 }] })),
    () => {
      writeFileSync(file, good)
      chmodSync(file, 0o640)
    },
  ]
  for (const spoil of bad) {
    lines.length = 0
    spoil()
    await keyring.reload()
    expect(lines).toEqual([told])
    expect((await keyring.of(text)).isAdmin).toBe(true)
  }
})

test('a wrong file is refused at the start, and what is said of it holds no secret', async () => {
  const app = makeIssuer({ iss: 'app' })
  const { entry } = makeKey({ kind: 'publish' })
  const wrong: [string, unknown][] = [
    ['a list', []],
    ['an unknown field', { keys: [], users: [] }],
    ['an unknown field of a key', { keys: [{ ...entry, expire: '2027-01-01T00:00:00Z' }] }],
    ['no digest', { keys: [{ ...entry, digest: undefined }] }],
    ['a wrong kind', { keys: [{ ...entry, kind: 'root' }] }],
    ['a wrong pattern', { keys: [{ ...entry, channels: ['a**'] }] }],
    ['a wrong end', { keys: [{ ...entry, expires: 'soon' }] }],
    ['an admin with channels', { keys: [{ ...entry, kind: 'admin', channels: ['a'] }] }],
    ['a kid twice', { keys: [entry, entry] }],
    ['a short secret', { issuers: [{ ...app, secret: 'c2hvcnQ' }] }],
    ['no secret', { issuers: [{ ...app, secret: undefined }] }],
    ['a secret where keys are public', { issuers: [{ ...app, alg: 'RS256' }] }],
    ['both', { issuers: [{ ...app, jwks: 'x.json' }] }],
    ['none', { issuers: [{ ...app, alg: 'none' }] }],
    ['an issuer twice', { issuers: [app, app] }],
    ['keys that are not there', { issuers: [{ iss: 'x', alg: 'RS256', jwks: 'nowhere.json' }] }],
  ]
  for (const [what, value] of wrong) {
    const file = fileIn()
    writeFileSync(file, JSON.stringify(value), { mode: 0o600 })
    const error = await Keyring.open(file).then(
      () => undefined,
      (error: Error) => error,
    )
    expect(error, what).toMatchObject({ code: 'wrong-config' })
    for (const secret of [app.secret!, entry.digest]) expect(String(error), what).not.toContain(secret)
  }
  const text = fileIn()
  writeFileSync(text, `{"issuers":[{"secret":"${app.secret}"`, { mode: 0o600 })
  await expect(Keyring.open(text)).rejects.toThrow(/is not JSON$/)
})

test('public keys of an issuer that others may write are refused', async () => {
  const file = fileIn()
  const jwks = join(dirname(file), 'public.json')
  writeFileSync(file, JSON.stringify({ issuers: [{ iss: 'x', alg: 'RS256', jwks: 'public.json' }] }), { mode: 0o600 })
  writeFileSync(jwks, '{"keys":[]}')
  for (const [mode, isGood] of [
    [0o644, true],
    [0o664, false],
    [0o646, false],
    [0o600, true],
  ] as const) {
    chmodSync(jwks, mode)
    const error = await Keyring.open(file).then(
      (ring) => ring.close(),
      (error: Error) => error,
    )
    expect(error?.message, mode.toString(8)).toEqual(isGood ? undefined : expect.stringContaining('chmod go-w'))
  }
})

test('the file is written whole, for its owner, by one at a time', () => {
  const dir = tempDir()
  const file = fileIn(join(dir, 'new', 'place'))
  put(file, { keys: [makeKey({ kind: 'admin' }).entry] })
  expect(statSync(file).mode & 0o777).toBe(0o600)
  const before = readFileSync(file, 'utf8')
  const failing = (): Keys => {
    throw new Error('no')
  }
  expect(() => changeKeys(file, failing)).toThrow()
  expect(() => changeKeys(file, () => ({ keys: [{ kid: '' }] }) as unknown as Keys)).toThrow()
  expect(readFileSync(file, 'utf8')).toBe(before)
  expect(existsSync(`${file}.new`)).toBe(false)
  writeFileSync(`${file}.new`, '')
  expect(codeOf(() => put(file, {}))).toBe('in-use')
  expect(readKeys(file)!.keys).toHaveLength(1)
  mkdirSync(join(dir, 'x.json'))
  expect(codeOf(() => readKeys(join(dir, 'x.json')))).toBe('wrong-config')
})
