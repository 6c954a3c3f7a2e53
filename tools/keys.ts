import { existsSync } from 'node:fs'
import { type Command, Option } from 'commander'
import {
  changeKeys,
  checkSubject,
  KEY_KINDS,
  type KeyEntry,
  type KeyKind,
  keysFileOf,
  makeIssuer,
  makeKey,
  NO_KEYS,
  readKeys,
} from '../src/access/keysfile.ts'
import { TidemarkError } from '../src/errors.ts'
import { readPattern } from '../src/pattern.ts'
import { wrongUsage } from './ask.ts'
import { command, type Run } from './command.ts'
import { type Terminal, table } from './terminal.ts'

export const keysCommand = (terminal: Terminal): Command =>
  command(
    {
      usage: 'keys <ACTION> [WHAT]',
      summary: 'make, list and revoke the keys of a server',
      more:
        'keys create admin|publish makes a key and prints it, once: only its digest is kept. keys create issuer makes a ' +
        'secret that signs tokens (tidemark token, or a backend of yours). keys list shows what is good, never a ' +
        'secret. keys revoke KID|ISSUER ends one. A running server takes all of it up within a second: connections ' +
        'under a revoked key are closed. As soon as there is a keys file, nobody calls without a credential.',
      settings: ['data', 'keys', 'json'],
      options: [
        new Option('--channels <patterns>', 'of a publish key: the channels it reaches, separated by commas'),
        new Option('--subject <name>', 'of a publish key: whose cursors it moves; its own unless given'),
        new Option('--iss <name>', 'of an issuer: its name, as tokens say it'),
        new Option('--audience <name>', 'of an issuer: the audience that its tokens must name'),
        new Option('--expires <time>', 'of a key: its end, from now (90d, 12h) or as a date'),
        new Option('--note <text>', 'what it is for, shown by keys list'),
      ],
      examples: [
        ['tidemark keys create admin', 'everything, with this key'],
        ["tidemark keys create publish --channels 'orders/**' --expires 90d", 'for a backend'],
        ['tidemark keys create issuer --iss app', 'for tidemark token, or a backend that signs tokens'],
        ['tidemark keys revoke 3f0a91c2d4', 'within a second'],
      ],
    },
    terminal,
    keys,
  )

export async function keys(run: Run): Promise<void> {
  const [action, what] = run.args
  if (action === 'list' && what === undefined) return list(run)
  if (action === 'create' && what === 'issuer') return createIssuer(run)
  if (action === 'create' && KEY_KINDS.includes(what as KeyKind)) return createKey(run, what as KeyKind)
  if (action === 'revoke' && typeof what === 'string') return revoke(run, what)
  throw wrongUsage('keys takes create admin|publish|issuer, list, or revoke KID|ISSUER')
}

const given = (run: Run, name: string): string | undefined => {
  const value = run.options[name]
  return value === undefined ? undefined : String(value)
}

/** @throws bad-request for an option that says nothing about what is made */
function only(run: Run, ...names: readonly string[]): void {
  for (const name of ['channels', 'subject', 'iss', 'audience', 'expires', 'note'])
    if (!names.includes(name) && run.options[name] !== undefined) throw wrongUsage(`--${name} says nothing here`)
}

async function createKey(run: Run, kind: KeyKind): Promise<void> {
  only(run, 'expires', 'note', ...(kind === 'publish' ? ['channels', 'subject'] : []))
  const channels = given(run, 'channels')?.split(',')
  for (const pattern of channels ?? []) readPattern(pattern)
  const subject = given(run, 'subject')
  if (subject !== undefined) checkSubject(subject)
  const expires = given(run, 'expires')
  const note = given(run, 'note')
  const { entry, text } = makeKey({
    kind,
    ...(channels && { channels }),
    ...(subject !== undefined && { subject }),
    ...(expires !== undefined && { expires: endOf(expires) }),
    ...(note !== undefined && { note }),
  })
  const file = keysFileOf(run.settings)
  const isFirst = !existsSync(file)
  changeKeys(file, ({ keys, issuers }) => ({ keys: [...keys, entry], issuers }))
  tellMade(run, file, isFirst)
  await run.terminal.print(run.settings.json ? JSON.stringify({ ...shown(entry), key: text }) : text)
}

async function createIssuer(run: Run): Promise<void> {
  only(run, 'iss', 'audience', 'note')
  const iss = given(run, 'iss')
  if (iss === undefined) throw wrongUsage('keys create issuer takes --iss, the name of the issuer')
  const audience = given(run, 'audience')
  const note = given(run, 'note')
  const entry = makeIssuer({ iss, ...(audience !== undefined && { audience }), ...(note !== undefined && { note }) })
  const file = keysFileOf(run.settings)
  const isFirst = !existsSync(file)
  changeKeys(file, ({ keys, issuers }) => ({ keys, issuers: [...issuers, entry] }))
  tellMade(run, file, isFirst)
  await run.terminal.print(run.settings.json ? JSON.stringify(entry) : `${entry.iss} ${entry.kid} ${entry.secret}`)
}

function tellMade({ terminal }: Run, file: string, isFirst: boolean): void {
  terminal.say(`tidemark: kept in ${file}; the secret is shown this once`)
  if (isFirst) terminal.say('tidemark: from now on nobody calls this server without a credential')
}

async function list(run: Run): Promise<void> {
  const { settings, terminal } = run
  const { keys, issuers } = readKeys(keysFileOf(settings)) ?? NO_KEYS
  if (settings.json) {
    const told = { keys: keys.map(shown), issuers: issuers.map(({ secret: _, ...rest }) => rest) }
    return terminal.print(JSON.stringify(told))
  }
  const rows = [
    ...keys.map(({ kid, kind, channels, subject, expires, note }) => [
      ...[
        kid,
        kind,
        channels?.join(',') ?? (kind === 'admin' ? '-' : '**'),
        subject ?? '-',
        expires ?? '-',
        note ?? '-',
      ],
    ]),
    ...issuers.map(({ iss, kid = '-', alg, note }) => [kid, `issuer ${alg}`, '-', iss, '-', note ?? '-']),
  ]
  await terminal.print(table(['KID', 'KIND', 'CHANNELS', 'SUBJECT', 'EXPIRES', 'NOTE'], rows))
}

const shown = ({ digest: _, ...rest }: KeyEntry): Omit<KeyEntry, 'digest'> => rest

async function revoke(run: Run, what: string): Promise<void> {
  only(run)
  changeKeys(keysFileOf(run.settings), ({ keys, issuers }) => {
    const left = {
      keys: keys.filter(({ kid }) => kid !== what),
      issuers: issuers.filter(({ kid, iss }) => kid !== what && iss !== what),
    }
    if (left.keys.length === keys.length && left.issuers.length === issuers.length)
      throw new TidemarkError('not-found', `There is no key and no issuer ${what}`)
    return left
  })
  await run.terminal.print(run.settings.json ? JSON.stringify({ revoked: what }) : `${what} is revoked`)
}

const SPAN = /^(\d{1,6})(s|m|h|d)$/
const MS = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const

/** `90d` → ms. @throws bad-request */
export function spanOf(text: string): number {
  const [, count, unit] = SPAN.exec(text) ?? []
  if (unit === undefined) throw wrongUsage(`A time is a number with s, m, h or d, not "${text}"`)
  return Number(count) * MS[unit as keyof typeof MS]
}

/** When something that is given an end from now, or as a date, is over: RFC 3339. */
function endOf(text: string): string {
  const end = SPAN.test(text) ? Date.now() + spanOf(text) : Date.parse(text)
  if (!(end > Date.now())) throw wrongUsage(`--expires is a time from now (90d) or a date to come, not "${text}"`)
  return new Date(end).toISOString()
}
