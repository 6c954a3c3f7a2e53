/**
 * Every setting of every program, once: this one object gives the flags, the `TIDEMARK_…` variables, the keys of the
 * configuration file, the defaults and the help. A flag wins over the environment, that over the file, that over the
 * default; where a value came from is kept beside it.
 *
 * What one call is about (the event that `append` sends) is an argument, not a setting, and stands with its command.
 */
import { TidemarkError } from './errors.ts'
import {
  address,
  always,
  durability,
  duration,
  engine,
  type Kind,
  list,
  logLevel,
  position,
  rules,
  size,
  text,
  texts,
  upstream,
  whole,
  yesNo,
} from './kinds.ts'
import { LIMIT_NAMES, LIMITS, type LimitName } from './limits.ts'
import { readSettingsFile, type SettingsFile } from './settings-file.ts'
import { nearest } from './spelling.ts'
import { DURATION_UNITS, SIZE_UNITS } from './units.ts'

/** What a person needs to know about a setting. */
export interface About {
  readonly about: string
  /** What `--no-…` means, for a setting that is true by default. */
  readonly otherwise?: string
  /** Name of the value in help, `PORT`; without it the setting is yes or no. */
  readonly takes?: string
  /** May be given many times; in the environment separated by commas, rules by semicolons. */
  readonly many?: true
  /** Has no flag, for others see those, and is never shown. */
  readonly secret?: true
  /** One letter for the flag: `-n`. */
  readonly short?: string
  /** As it would stand in a file. Without one the setting is unset. */
  readonly default?: string | number | boolean | readonly string[]
}

interface Setting<T> extends About {
  readonly kind: Kind<unknown>
  /** Only for the compiler: what programs are given. */
  readonly value?: T
}

function setting<T>(kind: Kind<T>, about: About & { default: NonNullable<About['default']> }): Setting<T>
function setting<T>(kind: Kind<T>, about: About): Setting<T | undefined>
function setting<T>(kind: Kind<T>, about: About): Setting<T> {
  return { ...about, kind }
}

const HOUR_MS = DURATION_UNITS.h
const DAY_MS = DURATION_UNITS.d
const GIB = SIZE_UNITS.GiB

const limits = Object.fromEntries(
  LIMIT_NAMES.map((name) => {
    const { about, min, max, default: standard } = LIMITS[name]
    return [name, setting(whole(min, max), { about: `most ${about}`, takes: 'N', default: standard })]
  }),
) as Record<LimitName, Setting<number>>

export const SETTINGS = {
  host: setting(text, { about: 'address to listen on', takes: 'HOST', default: '127.0.0.1' }),
  port: setting(whole(0, 65_535), { about: 'port to listen on; 0 takes a free one', takes: 'PORT', default: 7070 }),
  data: setting(text, { about: 'directory of the log', takes: 'DIR', default: 'data/log' }),
  keys: setting(text, { about: 'file of the keys that are good (keys.json in --data)', takes: 'FILE' }),
  create: setting(yesNo, {
    about: 'make a log where there is none',
    otherwise: 'refuse a directory without a log: it was emptied, or is not mounted',
    default: true,
  }),
  engine: setting(engine, {
    about: 'what keeps the log: level (in --data), or the addresses of NATS servers with JetStream',
    takes: 'ENGINE',
    default: 'level',
  }),
  natsNamespace: setting(texts('takes up to 32 letters, digits, _ and -', /^[A-Za-z0-9_-]{1,32}$/), {
    about: 'name of the streams in NATS: logs of several names share one NATS',
    takes: 'NAME',
    default: 'main',
  }),
  natsReplicas: setting(whole(1, 5), {
    about: 'servers that keep each event, when the streams are made (3 in a cluster, else 1)',
    takes: 'N',
  }),
  natsMaxBytes: setting(size(16 * SIZE_UNITS.MiB, 1024 * 1024 * GIB, '16MiB … 1024TiB'), {
    about: 'most that the events take on each server, when the streams are made; near it appends are refused',
    takes: 'SIZE',
  }),
  natsCreds: setting(text, { about: 'credentials file to show to NATS', takes: 'FILE' }),
  natsCa: setting(text, { about: 'certificate (PEM) that NATS servers are known by; asks for TLS', takes: 'FILE' }),
  natsCert: setting(text, { about: 'certificate (PEM) to show to NATS', takes: 'FILE' }),
  natsKey: setting(text, { about: 'key of that certificate (PEM)', takes: 'FILE' }),
  natsSync: setting(always, {
    about: 'always: the NATS servers run with sync_interval: always, so that an append is on disk when it is answered',
    takes: 'WHEN',
  }),
  requireDurability: setting(durability, {
    about: 'refuse to serve where an answered append is less safe: replicated or fsync',
    takes: 'DURABILITY',
  }),
  path: setting(texts('takes a path that begins with / and does not end with it', /^(?:\/[A-Za-z0-9._~-]+)+$/), {
    about: 'where the calls stand',
    takes: 'PATH',
    default: '/v1',
  }),
  origin: setting(list, {
    about: 'another origin whose pages may call: https://app.example',
    takes: 'ORIGIN',
    many: true,
    default: [],
  }),
  hostName: setting(list, {
    about: 'another host name under which this server is called',
    takes: 'NAME',
    many: true,
    default: [],
  }),
  tlsCert: setting(text, { about: 'certificate (PEM, with its chain): the server speaks TLS', takes: 'FILE' }),
  tlsKey: setting(text, { about: 'key of that certificate (PEM)', takes: 'FILE' }),
  tls: setting(upstream, {
    about: 'terminated-upstream: a proxy before this server adds TLS',
    takes: 'WHERE',
  }),
  trustedProxy: setting(list, {
    about: 'a proxy whose X-Forwarded-For and X-Forwarded-Proto are believed: 10.0.0.7, 10.1.0.0/16',
    takes: 'CIDR',
    many: true,
    default: [],
  }),
  createChannels: setting(yesNo, {
    about: 'an append makes its channel',
    otherwise: 'an append to a channel that was not made before is refused',
    default: true,
  }),
  heartbeat: setting(duration(1_000, 600_000, '1s … 10m'), {
    about: 'how often a quiet socket or stream is shown to be alive',
    takes: 'TIME',
    default: '25s',
  }),
  idWindow: setting(duration(60_000, 30 * DAY_MS, '1m … 30d'), {
    about: 'how long an idempotency key is remembered at least (over NATS 2m unless said)',
    takes: 'TIME',
    default: '24h',
  }),
  retain: setting(rules, {
    about:
      'what is kept of the channels of a pattern: logs/**: age=7d, events=1000000, bytes=1GiB, consumed; files/**: state; _audit: age=90d',
    takes: 'RULE',
    many: true,
    default: [],
  }),
  cursorTtl: setting(duration(2 * HOUR_MS, 36_500 * DAY_MS, '2h … 36500d'), {
    about: 'how long a cursor without a sign of life is remembered',
    takes: 'TIME',
    default: '30d',
  }),
  tailBytes: setting(size(0, 64 * GIB, '0 … 64GiB'), {
    about: 'memory for the newest events, ready to send',
    takes: 'SIZE',
    default: '64MiB',
  }),
  minFree: setting(size(0, 1024 * GIB, '0 … 1024GiB'), {
    about: 'space on the disk below which appends are refused; 0 is off (128MiB, less on a small disk)',
    takes: 'SIZE',
  }),
  ...limits,
  logLevel: setting(logLevel, {
    about: 'least important lines of the log that are written',
    takes: 'LEVEL',
    default: 'info',
  }),
  acceptCopy: setting(yesNo, {
    about: 'open a directory that was copied; every epoch changes, followers start over',
    default: false,
  }),
  acceptDataLoss: setting(yesNo, {
    about: 'open a log whose newest events are lost; every epoch changes, followers start over',
    default: false,
  }),

  url: setting(address, {
    about: 'address of the server',
    takes: 'URL',
    default: 'http://127.0.0.1:7070',
  }),
  token: setting(text, { about: 'key or token to show to the server', takes: 'TOKEN', secret: true }),
  tokenFile: setting(text, { about: 'file that holds the key or token to show to the server', takes: 'FILE' }),
  rate: setting(size(64 * 1024, 64 * GIB, '64KiB … 64GiB'), {
    about: 'most bytes a second that are read for it',
    takes: 'SIZE',
  }),
  json: setting(yesNo, { about: 'machine-readable results, one JSON value a line', default: false }),
  patience: setting(duration(0, 7 * DAY_MS, '0s … 7d'), {
    about: 'how long to go on trying while the server can not be reached',
    takes: 'TIME',
    default: '10s',
  }),

  lines: setting(whole(0, Number.MAX_SAFE_INTEGER), {
    about: 'begin with the last N events (20 when nothing else says where)',
    takes: 'N',
    short: 'n',
  }),
  after: setting(position, {
    about: 'begin after a seq, at earliest, head, head-50 or time:2026-11-22T18:48:00Z',
    takes: 'POSITION',
  }),
  client: setting(text, { about: 'begin at the cursor of this client, and move it', takes: 'NAME' }),
  follow: setting(yesNo, {
    about: 'wait for more at the end',
    otherwise: 'end at the end of what is there',
    default: true,
  }),

  channel: setting(text, { about: 'channel that holds the tree', takes: 'CHANNEL', default: 'files' }),
  ignore: setting(list, {
    about: 'leave out what matches: a name (*.tmp) or, with a slash, a path (build/**)',
    takes: 'GLOB',
    many: true,
    default: [],
  }),
  rescan: setting(duration(1_000, DAY_MS, '1s … 1d'), {
    about: 'how often everything is looked at again',
    takes: 'TIME',
    default: '60s',
  }),
}

export type SettingName = keyof typeof SETTINGS
export type Settings = { [Name in SettingName]: (typeof SETTINGS)[Name] extends Setting<infer T> ? T : never }

export const SETTING_NAMES = Object.keys(SETTINGS) as SettingName[]

export const aboutOf = (name: SettingName): About => SETTINGS[name]

/** `hostName` → `host-name`: the flag without its dashes, and the key in a file. */
export const flagOf = (name: SettingName): string => name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)

/** `hostName` → `TIDEMARK_HOST_NAME`. */
export const variableOf = (name: SettingName): string => PREFIX + flagOf(name).replaceAll('-', '_').toUpperCase()

const PREFIX = 'TIDEMARK_'
/** Names the configuration file when `--config` does not. */
export const CONFIG_VARIABLE = `${PREFIX}CONFIG`

export type Source = 'flag' | 'environment' | 'file' | 'default'

/** Where a value came from; `value` is as it was given there, undefined when the setting is unset. */
export interface Origin {
  readonly source: Source
  /** The flag, the variable, the file's name. */
  readonly where?: string
  readonly value: unknown
}

export interface Config {
  readonly settings: Settings
  readonly origins: Readonly<Record<SettingName, Origin>>
  /** What may be a mistake: variables that are almost one of ours. */
  readonly warnings: readonly string[]
}

export interface ConfigSources {
  /** As the command line gave them; undefined is not given. */
  readonly flags?: Partial<Record<SettingName, unknown>>
  readonly env?: Readonly<Record<string, string | undefined>>
  /** The configuration file; YAML, of which JSON is a part. */
  readonly file?: SettingsFile
}

/**
 * Joins the four sources.
 * @throws bad-request for a wrong flag; wrong-config for a wrong variable, file, key of the file or value in it.
 */
export function resolveConfig({ flags = {}, env = {}, file }: ConfigSources): Config {
  const inFile = file ? readFile(file) : new Map<SettingName, unknown>()
  const settings: Partial<Record<SettingName, unknown>> = {}
  const origins: Partial<Record<SettingName, Origin>> = {}
  for (const name of SETTING_NAMES) {
    const origin = originOf(name, flags[name], env[variableOf(name)], inFile.get(name), file?.name)
    const { kind } = SETTINGS[name]
    const value = origin.value === undefined ? undefined : kind.read(origin.value)
    if (value === undefined && origin.value !== undefined) throw refusal(name, origin, kind.rule)
    settings[name] = value
    origins[name] = origin
  }
  return { settings: settings as Settings, origins: origins as Record<SettingName, Origin>, warnings: strays(env) }
}

function originOf(name: SettingName, flag: unknown, variable: string | undefined, key: unknown, file = ''): Origin {
  if (flag !== undefined) return { source: 'flag', where: `--${flagOf(name)}`, value: flag }
  // An empty variable is how containers say "not set".
  if (variable) return { source: 'environment', where: variableOf(name), value: variable }
  if (key !== undefined && key !== null) return { source: 'file', where: file, value: key }
  return { source: 'default', value: aboutOf(name).default }
}

function refusal(name: SettingName, { source, where, value }: Origin, rule: string): TidemarkError {
  const shown = aboutOf(name).secret ? 'what was given' : JSON.stringify(value)
  if (source === 'flag') return new TidemarkError('bad-request', `${where} ${rule}, not ${shown}`, { setting: name })
  const place = source === 'file' ? `${where}: ${flagOf(name)}` : where
  return new TidemarkError('wrong-config', `${place} ${rule}, not ${shown}`, { setting: name })
}

/** The file's keys as settings. An unknown key is refused: a setting that is silently ignored is the worst kind. */
function readFile(file: SettingsFile): Map<SettingName, unknown> {
  const wrong = (why: string): never => {
    throw new TidemarkError('wrong-config', `${file.name}: ${why}`, { file: file.name })
  }
  const values = readSettingsFile(file)
  const found = new Map<SettingName, unknown>()
  if (values === null || values === undefined) return found
  if (typeof values !== 'object' || Array.isArray(values)) return wrong('it holds no settings (key: value)')
  for (const [key, value] of Object.entries(values)) {
    const name = SETTING_NAMES.find((name) => flagOf(name) === key)
    if (name === undefined) return wrong(`there is no setting ${JSON.stringify(key)}${hint(key, FLAGS)}`)
    found.set(name, value)
  }
  return found
}

const FLAGS = SETTING_NAMES.map(flagOf)
const VARIABLES = [...SETTING_NAMES.map(variableOf), CONFIG_VARIABLE]
const SUFFIXES = VARIABLES.map((name) => name.slice(PREFIX.length))

function strays(env: Readonly<Record<string, string | undefined>>): string[] {
  return Object.keys(env)
    .filter((name) => name.startsWith(PREFIX) && !VARIABLES.includes(name))
    .flatMap((name) => {
      const meant = nearest(name.slice(PREFIX.length), SUFFIXES)
      return meant === undefined ? [] : [`${name} is no setting; did you mean ${PREFIX}${meant}?`]
    })
}

const hint = (word: string, known: readonly string[]): string => {
  const meant = nearest(word.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`).replaceAll('_', '-'), known)
  return meant === undefined ? '' : `; did you mean ${JSON.stringify(meant)}?`
}
