import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { Keyring } from '../../src/access/keyring.ts'
import { openLog } from '../../src/log/open.ts'
import { tempDir } from '../parts.ts'
import { startGuarded } from '../server/guarded.ts'
import { here as run } from './here.ts'
import { run as runProgram, serving } from './program.ts'

const inDir = (dir: string, ...args: string[]) => run([...args, '--data', dir])

async function whoIs(dir: string, credential: string) {
  const keyring = await Keyring.open(join(dir, 'keys.json'))
  keyring.close()
  return keyring.of(credential)
}

test('a key is made, shown once, listed without its secret, and revoked', async () => {
  const dir = join(tempDir(), 'log')
  const made = await inDir(dir, 'keys', 'create', 'admin', '--note', 'mine')
  expect(made.code).toBe(0)
  expect(made.err).toContain('nobody calls this server without a credential')
  const key = made.out.trim()
  expect(key).toMatch(/^tm_adm_[0-9a-f]{10}_[A-Za-z0-9_-]{43}$/)
  expect(await whoIs(dir, key)).toMatchObject({ isAdmin: true })
  const kid = key.split('_')[2]!
  const listed = await inDir(dir, 'keys', 'list')
  expect(listed.out).toMatch(new RegExp(`^${kid} +admin +- +- +- +mine$`, 'm'))
  const json = await inDir(dir, 'keys', 'list', '--json')
  for (const text of [listed.out, json.out, readFileSync(join(dir, 'keys.json'), 'utf8')])
    expect(text).not.toContain(key.slice(-43))
  expect(listed.out + json.out).not.toContain('digest')
  expect((await inDir(dir, 'keys', 'revoke', kid)).out).toBe(`${kid} is revoked\n`)
  expect(await whoIs(dir, key)).toMatchObject({ isNobody: true })
  expect((await inDir(dir, 'keys', 'revoke', kid)).code).toBe(1)
})

test('a publish key has what it was given', async () => {
  const dir = tempDir()
  const options = ['--channels', 'in/**,out', '--subject', 'bot', '--expires', '90d', '--json']
  const made = JSON.parse((await inDir(dir, 'keys', 'create', 'publish', ...options)).out)
  expect(made).toMatchObject({ kind: 'publish', channels: ['in/**', 'out'], subject: 'bot' })
  const who = await whoIs(dir, made.key)
  expect(who).toMatchObject({ kind: 'publish', sub: 'bot' })
  expect([who.may('append', 'in/a'), who.may('read', 'out'), who.may('read', 'x')]).toEqual([true, true, false])
  expect(who.expires - Date.now()).toBeGreaterThan(89.9 * 86_400_000)
})

test('a token is signed with the issuer of the file', async () => {
  const dir = tempDir()
  const issuer = await inDir(dir, 'keys', 'create', 'issuer', '--iss', 'app')
  expect(issuer.out).toMatch(/^app [0-9a-f]{10} [A-Za-z0-9_-]{43}\n$/)
  const args = [
    'token',
    '--sub',
    'anna',
    '--allow',
    'read,commit:orders/**',
    '--allow',
    'append:in',
    '--groups',
    '/a,/b',
  ]
  const signed = await inDir(dir, ...args)
  expect([signed.code, signed.err]).toEqual([0, ''])
  const who = await whoIs(dir, signed.out.trim())
  expect(who).toMatchObject({ kind: 'client', sub: 'anna', groups: ['/a', '/b'] })
  expect([who.may('commit', 'orders/1'), who.may('append', 'in'), who.may('append', 'orders/1')]).toEqual([
    true,
    true,
    false,
  ])
  expect(Math.round((who.expires - Date.now()) / 60_000)).toBe(60)
  const secret = issuer.out.split(' ')[2]!.trim()
  expect((await inDir(dir, 'keys', 'list')).out + (await inDir(dir, 'keys', 'list', '--json')).out).not.toContain(
    secret,
  )
  await inDir(dir, 'keys', 'create', 'issuer', '--iss', 'other')
  expect((await inDir(dir, ...args)).code).toBe(2)
  expect((await inDir(dir, ...args, '--iss', 'other')).code).toBe(0)
  expect((await inDir(dir, 'keys', 'revoke', 'app')).code).toBe(0)
  expect(await whoIs(dir, signed.out.trim())).toMatchObject({ isNobody: true })
})

const wrong: [string, ...string[]][] = [
  ['no action', 'keys'],
  ['an unknown action', 'keys', 'make'],
  ['an unknown kind', 'keys', 'create', 'root'],
  ['channels of an admin', 'keys', 'create', 'admin', '--channels', 'a'],
  ['a wrong pattern', 'keys', 'create', 'publish', '--channels', 'a**'],
  ['an end that was', 'keys', 'create', 'admin', '--expires', '2020-01-01'],
  ['an end of no unit', 'keys', 'create', 'admin', '--expires', '90'],
  ['an issuer without a name', 'keys', 'create', 'issuer'],
  ['a token for nobody', 'token', '--allow', 'read:a'],
  ['a token for an unknown operation', 'token', '--sub', 'a', '--allow', 'admin:a'],
  ['a token without a pattern', 'token', '--sub', 'a', '--allow', 'read'],
  ['a token for too long', 'token', '--sub', 'a', '--allow', 'read:a', '--expires', '25h'],
]
test.each(wrong)('%s is wrong usage', async (_, ...args) => {
  expect((await inDir(tempDir(), ...args)).code).toBe(2)
})

test('a log is made where keys were made before', async () => {
  const dir = join(tempDir(), 'log')
  await inDir(dir, 'keys', 'create', 'admin')
  const log = await openLog({ dir })
  await log.close()
})

test('a token of the environment has no flag and is never shown', async () => {
  const secret = 'tm_adm_x_secret-secret-secret'
  process.env.TIDEMARK_TOKEN = secret
  try {
    const shown = await run(['config'])
    const json = await run(['config', '--json'])
    expect(shown.out).toMatch(/^token +… +environment TIDEMARK_TOKEN$/m)
    expect(shown.out + json.out).not.toContain(secret)
    expect((await run(['channels', '--token', secret])).code).toBe(2)
  } finally {
    delete process.env.TIDEMARK_TOKEN
  }
  const file = join(tempDir(), 'tidemark.yaml')
  writeFileSync(file, `token: ${secret}`)
  expect((await run(['config', '--config', file])).out).not.toContain(secret)
})

test('commands show the server the token of a file or of the environment', async () => {
  const guarded = await startGuarded()
  const at = ['--url', guarded.url]
  const file = join(tempDir(), 'token')
  writeFileSync(file, `${await guarded.token('anna')}\n`)
  const shown = [...at, '--token-file', file]
  const refused = await run(['append', 'orders/1', '--data', '1', ...at])
  expect([refused.code, refused.err]).toEqual([77, expect.stringContaining('(unauthorized)')])
  expect((await run(['append', 'orders/1', '--data', '1', ...shown])).code).toBe(0)
  expect((await run(['append', 'secret', '--data', '1', ...shown])).code).toBe(77)
  const tail = await run(['tail', 'orders/1', '--no-follow', '--json', '--client', 'web', ...shown])
  expect([tail.code, tail.out]).toEqual([0, expect.stringContaining('"seq":1')])
  expect(await guarded.log.cursor('anna~web', 'orders/1')).toMatchObject({ seq: 1 })
  expect((await run(['streamer', 'status', ...shown])).code).toBe(77)
  process.env.TIDEMARK_TOKEN = guarded.credentials.admin
  try {
    expect((await run(['streamer', 'status', ...at])).out).toBe('the streamer is on\n')
    expect((await run(['cursors', 'orders/1', ...at])).out).toContain('anna~web')
  } finally {
    delete process.env.TIDEMARK_TOKEN
  }
  expect((await run(['channels', ...at, '--token-file', join(tempDir(), 'none')])).code).toBe(78)
})

test('a server takes up keys that are made while it serves, and says whether there are some', async () => {
  const data = tempDir()
  const open = await serving([], data)
  await open.until(() => open.err.includes('NO KEYS'))
  expect((await fetch(`${open.url}/v1/channels`)).status).toBe(200)
  const key = (await inDir(join(data, 'log'), 'keys', 'create', 'admin')).out.trim()
  await open.until(() => open.values.find(({ msg }) => msg === 'Keys are in force'))
  expect((await fetch(`${open.url}/v1/channels`)).status).toBe(401)
  const headers = { authorization: `Bearer ${key}` }
  expect((await fetch(`${open.url}/v1/channels`, { headers })).status).toBe(200)
  await open.kill('SIGTERM')
  const kept = await serving([], data)
  expect((await fetch(`${kept.url}/v1/channels`, { headers })).status).toBe(200)
  await inDir(join(data, 'log'), 'keys', 'revoke', key.split('_')[2]!)
  await kept.until(() => kept.values.some(({ msg, keys }) => msg === 'Keys are in force' && keys === 0))
  expect((await fetch(`${kept.url}/v1/channels`, { headers })).status).toBe(401)
  expect(open.out + open.err + kept.out + kept.err).not.toContain(key.slice(-43))
  await kept.kill('SIGTERM')
  expect(kept.err).toContain('serving')
  expect(kept.err + kept.out).not.toContain('NO KEYS')
  writeFileSync(join(data, 'log', 'keys.json'), '{')
  const wrong = await runProgram(['serve', '--port', '0', '--data', join(data, 'log')])
  expect([wrong.code, wrong.err]).toEqual([78, expect.stringContaining('is not JSON')])
})
