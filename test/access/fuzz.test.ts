/** Who calls and what the owner writes: tokens, keys, patterns, keys files and settings are taken or refused with a code. */
import { createHmac } from 'node:crypto'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { parseDocument } from 'yaml'
import { Keyring } from '../../src/access/keyring.ts'
import { changeKeys, makeIssuer, makeKey, parseKeys, secretOf } from '../../src/access/keysfile.ts'
import type { Principal } from '../../src/access/principal.ts'
import { resolveConfig, SETTING_NAMES, type SettingName, variableOf } from '../../src/config.ts'
import { matches, readPattern } from '../../src/pattern.ts'
import type { Dice } from '../crash/dice.ts'
import { anyValue, bent, GROWTH_BYTES_MAX, held, INPUTS, Judge, mutate, newDice, shown } from '../fuzz.ts'
import { tempDir } from '../parts.ts'

const PER_KIND = Math.ceil(INPUTS / 14) || 400
const pick = <T>(dice: Dice, list: readonly T[]): T => list[dice(list.length)]!

const now = Math.floor(Date.now() / 1_000)
const issuer = makeIssuer({ iss: 'app' })
const admin = makeKey({ kind: 'admin' })
const publish = makeKey({ kind: 'publish', channels: ['orders/**'], subject: 'bot', note: 'the shop' })
const CLAIMS = {
  iss: 'app',
  sub: 'anna',
  iat: now,
  exp: now + 600,
  groups: ['/staff'],
  perm: [{ ch: 'a/**', ops: ['read'] }],
}
const HEADER = { alg: 'HS256', typ: 'JWT', kid: issuer.kid }

const base64 = (text: string): string => Buffer.from(text).toString('base64url')
function signed(header: unknown, claims: unknown): string {
  const text = `${base64(JSON.stringify(header) ?? '')}.${base64(JSON.stringify(claims) ?? '')}`
  return `${text}.${createHmac('sha256', secretOf(issuer)).update(text).digest('base64url')}`
}

test('keys files, patterns and settings are taken or refused with a code, at once and without a trace', () => {
  const judge = new Judge()
  const file = { keys: [admin.entry, publish.entry], issuers: [issuer, { iss: 'b', alg: 'ES256', jwks: 'b.json' }] }
  const patterns = ['orders', 'orders/*', 'a*/b*/**', '_audit', '**', 'x.y:z-/**'].map((text) => Buffer.from(text))
  const yaml = [
    'port: 7071\nhost-name: [a, b:80]\nretain:\n  - logs/**: age=7d, consumed\n  - "b: events=5"\n',
    'host: &h 127.0.0.1\ndata: *h\ntail-bytes: 1.5MiB\nlog-level: debug\ntrusted-proxy: [10.0.0.0/8]\n',
    '{\n\t"json": true, "id-window": "1.5h", "origin": ["https://app.example"], "after": 42\n}',
  ].map((text) => Buffer.from(text))
  const values = [
    ...yaml,
    ...patterns,
    ...['7d', '1.5MiB', 'true', 'a, b', 'logs/**: age=7d, events=5; b: bytes=1GiB, consumed'].map((text) =>
      Buffer.from(text),
    ),
  ]
  const inDice = newDice('names')
  const kinds: [kind: string, next: (dice: Dice) => Buffer, take: (bytes: Uint8Array) => unknown][] = [
    [
      'keys file',
      (dice) => Buffer.from(JSON.stringify(bent(dice, file))),
      (bytes) => parseKeys('keys.json', Buffer.from(bytes).toString()),
    ],
    [
      'keys file, its bytes',
      (dice) => mutate(dice, [Buffer.from(JSON.stringify(file))]),
      (bytes) => parseKeys('keys.json', Buffer.from(bytes).toString()),
    ],
    [
      'pattern',
      (dice) => mutate(dice, patterns),
      (bytes) => {
        const text = Buffer.from(bytes).toString()
        const pattern = readPattern(text)
        for (const channel of ['orders/1', 'a/b/c', text.replaceAll('*', 'x'), 'a/'.repeat(90)])
          matches(pattern, channel)
      },
    ],
    [
      'settings file',
      (dice) => mutate(dice, yaml),
      (bytes) => resolveConfig({ file: { name: 'x.yaml', text: Buffer.from(bytes).toString(), parse: parseDocument } }),
    ],
    [
      'settings file of any values',
      (dice) => {
        const name = pick(dice, SETTING_NAMES).replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)
        return Buffer.from(JSON.stringify({ port: 1, [name]: anyValue(dice) }))
      },
      (bytes) => resolveConfig({ file: { name: 'x.json', text: Buffer.from(bytes).toString(), parse: parseDocument } }),
    ],
    [
      'variable',
      (dice) => mutate(dice, values),
      (bytes) =>
        resolveConfig({
          env: { [variableOf(pick(inDice, SETTING_NAMES) as SettingName)]: Buffer.from(bytes).toString() },
        }),
    ],
  ]
  let before = 0
  for (const [round, count] of [
    [0, 100],
    [1, PER_KIND],
  ] as const) {
    if (round === 1) before = held()
    for (const [kind, next, take] of kinds) {
      const dice = newDice(`${kind} ${round}`)
      for (let i = 0; i < count; i++) judge.try(kind, next(dice), take)
    }
  }
  const grown = held() - before
  judge.report(grown)
  judge.verdict()
  expect(grown).toBeLessThan(GROWTH_BYTES_MAX)
  for (const [kind] of kinds) expect(judge.taken(kind), kind).toBeGreaterThan(0)
}, 600_000)

test('a configuration file that would end its parser, or whose aliases lead nowhere, is refused', () => {
  const judge = new Judge()
  const texts = [
    '['.repeat(5_000) + ']'.repeat(5_000),
    '- '.repeat(5_000),
    '? '.repeat(5_000),
    '{a: '.repeat(5_000),
    '- ? : '.repeat(3_000),
  ]
  texts.push('port: 1\nhost: a\nport: 1', '{"port": 1, "port": 2}', 'retain: [{a: events=1, a: events=2}]')
  texts.push(
    'host: *x',
    '<<: *a',
    'host: &a [*a]',
    'retain: &a {b: *a}',
    'retain: [[{toString: 1}]]',
    'after: {toString: 1}',
    'x'.repeat(100_000),
  )
  texts.push(
    ['a: &a [1]', ...'bcdefgh']
      .join('\n')
      .replace(
        /\n(.)/g,
        (_, c: string) => `\n${c}: &${c} [${`*${String.fromCharCode(c.charCodeAt(0) - 1)},`.repeat(10)}]`,
      ),
  )
  // What its parser would look at again and again.
  for (const piece of [']', '{a,', '? a\n', 'a:\n', '& ', '"', '" "', '!a ', '- &a b\n', '-\n', '%\n', '* ', '{a: '])
    texts.push(piece.repeat(16_384 / piece.length), piece.repeat(300))
  texts.push(`${'o'.repeat(4_000)}: 1`)
  texts.push(`{${Array.from({ length: 1_190 }, (_, i) => i.toString(36)).join()}`)
  texts.push(`retain: ${'- '.repeat(20)}a`, `${Array.from({ length: 300 }, (_, i) => `${' '.repeat(i)}a:`).join('\n')}`)
  for (const text of texts)
    judge.try('settings file', Buffer.from(text), (bytes) =>
      resolveConfig({ file: { name: 'x.yaml', text: Buffer.from(bytes).toString(), parse: parseDocument } }),
    )
  judge.verdict()
  expect(judge.taken('settings file')).toBe(0)
})

test('no credential but those that are good makes anybody somebody', async () => {
  const dir = join(tempDir(), 'keys')
  mkdirSync(dir, { mode: 0o700 })
  const file = join(dir, 'keys.json')
  changeKeys(file, () => ({ keys: [admin.entry, publish.entry], issuers: [issuer] }))
  const ring = await Keyring.open(file)
  const judge = new Judge()
  const good = signed(HEADER, CLAIMS)
  const corpus = [good, admin.text, publish.text].map((text) => Buffer.from(text))
  /** Of a credential: its kid and secret, its signed text. */
  const isKnown = (text: string): boolean => corpus.some((one) => one.toString() === text)
  const kindOf = (who: Principal): string => who.kind
  let before = 0
  const ask = async (kind: string, text: string, mayBeGood: boolean): Promise<void> => {
    const input = Buffer.from(text)
    const began = process.cpuUsage()
    const who = await ring.ofHeader(`Bearer ${text}`)
    const { user, system } = process.cpuUsage(began)
    judge.count(kind, kindOf(who) !== 'nobody')
    judge.took(kind, input, (user + system) / 1_000)
    if (kindOf(who) !== 'nobody' && !mayBeGood && !isKnown(text.trim()))
      throw new Error(`${kindOf(who)}: ${shown(input)}`)
    if (mayBeGood && kindOf(who) !== 'nobody' && kindOf(who) !== 'client')
      throw new Error(`${kindOf(who)}: ${shown(input)}`)
  }
  try {
    for (const [round, count] of [
      [0, 100],
      [1, PER_KIND],
    ] as const) {
      if (round === 1) before = held()
      const dice = newDice(`tokens ${round}`)
      for (let i = 0; i < count; i++) {
        await ask('credential', mutate(dice, corpus).toString('latin1'), false)
        const header = dice(3) ? HEADER : bent(dice, HEADER)
        await ask('signed token of other claims', signed(header, bent(dice, CLAIMS)), true)
      }
    }
    const grown = held() - before
    judge.report(grown)
    judge.verdict()
    expect(grown).toBeLessThan(GROWTH_BYTES_MAX)
    expect(kindOf(await ring.of(good))).toBe('client')
    expect(kindOf(await ring.of(admin.text))).toBe('admin')
    expect(judge.taken('signed token of other claims')).toBeGreaterThan(0)
  } finally {
    ring.close()
  }
}, 600_000)
