import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { parseDocument } from 'yaml'
import {
  aboutOf,
  type ConfigSources,
  flagOf,
  resolveConfig,
  SETTING_NAMES,
  SETTINGS,
  variableOf,
} from '../../src/config.ts'
import { tempDir } from '../parts.ts'
import { here } from './here.ts'
import { run } from './program.ts'

const file = (text: string) => ({ name: 'tidemark.yaml', text, parse: parseDocument })

test('a flag wins over the environment, that over the file, that over the default', () => {
  const flags = { port: '1' }
  const env = { TIDEMARK_PORT: '2' }
  const inFile = file('port: 3')
  const cases: [ConfigSources, number, string, string | undefined][] = [
    [{ flags, env, file: inFile }, 1, 'flag', '--port'],
    [{ flags, env }, 1, 'flag', '--port'],
    [{ flags, file: inFile }, 1, 'flag', '--port'],
    [{ flags }, 1, 'flag', '--port'],
    [{ env, file: inFile }, 2, 'environment', 'TIDEMARK_PORT'],
    [{ env }, 2, 'environment', 'TIDEMARK_PORT'],
    [{ file: inFile }, 3, 'file', 'tidemark.yaml'],
    [{}, 7070, 'default', undefined],
    [{ env: { TIDEMARK_PORT: '' }, file: inFile }, 3, 'file', 'tidemark.yaml'],
    [{ file: file('port: ~') }, 7070, 'default', undefined],
  ]
  for (const [sources, port, source, where] of cases) {
    const { settings, origins } = resolveConfig(sources)
    expect([settings.port, origins.port.source, origins.port.where]).toEqual([port, source, where])
  }
})

test('every setting has a flag, a variable and a key of its own, words about it, and a default that it accepts', () => {
  expect(new Set(SETTING_NAMES.map(flagOf)).size).toBe(SETTING_NAMES.length)
  expect(variableOf('hostName')).toBe('TIDEMARK_HOST_NAME')
  expect(flagOf('hostName')).toBe('host-name')
  for (const name of SETTING_NAMES) {
    const { about, default: given } = aboutOf(name)
    expect(about.length).toBeGreaterThan(10)
    if (given !== undefined) expect(SETTINGS[name].kind.read(given)).toBeDefined()
  }
})

test('values are read in all the forms that the three places have', () => {
  const of = (sources: ConfigSources) => resolveConfig(sources).settings
  expect(of({ env: { TIDEMARK_HOST_NAME: 'a, b:80' } }).hostName).toEqual(['a', 'b:80'])
  expect(of({ file: file('host-name: [a, b]') }).hostName).toEqual(['a', 'b'])
  expect(of({ file: file('host-name: a') }).hostName).toEqual(['a'])
  expect(of({ flags: { hostName: ['a', 'b'] } }).hostName).toEqual(['a', 'b'])
  for (const yes of ['true', 'TRUE', '1', 'yes', 'on']) expect(of({ env: { TIDEMARK_JSON: yes } }).json).toBe(true)
  for (const no of ['false', '0', 'No', 'off']) expect(of({ env: { TIDEMARK_CREATE: no } }).create).toBe(false)
  expect(of({ file: file('create: false') }).create).toBe(false)
  expect(of({ file: file('patience: 0') }).patience).toBe(0)
  expect(of({ env: { TIDEMARK_URL: ' https://h/x ' } }).url).toBe('https://h/x')
  expect(of({})).toMatchObject({ after: undefined, minFree: undefined, origin: [] })
  expect(of({ file: file('{\n\t"json": true\n}') }).json).toBe(true)
  expect(of({ file: file('id-window: 1.5h') }).idWindow).toBe(5_400_000)
  expect(of({ file: file('tail-bytes: 1024') }).tailBytes).toBe(1024)
  expect(of({ env: { TIDEMARK_TAIL_BYTES: '1.5MiB' } }).tailBytes).toBe(1_572_864)
  const kept = (sources: ConfigSources) => of(sources).retain.map(({ pattern, retention }) => [pattern.text, retention])
  const rules = [
    ['a/**', { maxAge: 60, consumed: true }],
    ['b', { maxEvents: 5 }],
  ]
  expect(kept({ flags: { retain: ['a/**: age=1m, consumed', 'b: events=5'] } })).toEqual(rules)
  expect(kept({ env: { TIDEMARK_RETAIN: 'a/**: age=1m, consumed; b: events=5' } })).toEqual(rules)
  expect(kept({ file: file("retain: ['a/**: age=1m, consumed', 'b: events=5']") })).toEqual(rules)
  expect(kept({ file: file('retain:\n  - a/**: age=1m, consumed\n  - b: events=5') })).toEqual(rules)
  expect(kept({ file: file('retain:\n  a/**: age=1m, consumed\n  b: events=5') })).toEqual(rules)
  expect(kept({})).toEqual([])
  expect(of({ file: file('after: 42') }).after).toBe('42')
  expect(of({ file: file('') }).port).toBe(7070)
})

test('a wrong value is refused with the place it stands in: a flag as usage, the rest as configuration', () => {
  const refused: [ConfigSources, string][] = [
    [{ flags: { port: 'abc' } }, 'bad-request'],
    [{ flags: { retain: ['a/**'] } }, 'bad-request'],
    [{ flags: { retain: ['_*: age=1d'] } }, 'bad-request'],
    [{ flags: { cursorTtl: '1h' } }, 'bad-request'],
    [{ env: { TIDEMARK_RETAIN: 'a: age=1d;' } }, 'wrong-config'],
    [{ flags: { port: '65536' } }, 'bad-request'],
    [{ flags: { idWindow: '90' } }, 'bad-request'],
    [{ flags: { url: 'ftp://x' } }, 'bad-request'],
    [{ flags: { url: 'http://' } }, 'bad-request'],
    [{ flags: { data: '' } }, 'bad-request'],
    [{ flags: { heartbeat: '999ms' } }, 'bad-request'],
    [{ flags: { tailBytes: '1.0001KiB' } }, 'bad-request'],
    [{ flags: { logLevel: 'loud' } }, 'bad-request'],
    [{ file: file('data: 1') }, 'wrong-config'],
    [{ file: file('json: 1') }, 'wrong-config'],
    [{ file: file('origin: [a, 1]') }, 'wrong-config'],
    [{ file: file('origin: "a,,b"') }, 'wrong-config'],
    [{ env: { TIDEMARK_PORT: '-1' } }, 'wrong-config'],
    [{ env: { TIDEMARK_JSON: 'maybe' } }, 'wrong-config'],
    [{ env: { TIDEMARK_ENGINE: 'redis://x' } }, 'wrong-config'],
    [{ file: file('port: 1.5') }, 'wrong-config'],
    [{ file: file('port: [1]') }, 'wrong-config'],
    [{ file: file('id-window: 3600') }, 'wrong-config'],
    [{ file: file('tail-bytes: 1GB') }, 'wrong-config'],
    [{ file: file('path: v1') }, 'wrong-config'],
    [{ file: file('port: 1\nport: 2') }, 'wrong-config'],
    [{ file: file('- port') }, 'wrong-config'],
    [{ file: file('port: [') }, 'wrong-config'],
    [{ file: file('__proto__: { port: 1 }') }, 'wrong-config'],
    [{ file: file('constructor: 1') }, 'wrong-config'],
  ]
  for (const [sources, code] of refused)
    expect(() => resolveConfig(sources), JSON.stringify(sources)).toThrow(expect.objectContaining({ code }))
})

test('an unknown key of the file is refused in one line that names what was probably meant', () => {
  const meant: [string, string | undefined][] = [
    ['prot', 'port'],
    ['hostName', 'host-name'],
    ['host_name', 'host-name'],
    ['orgin', 'origin'],
    ['accept-dataloss', 'accept-data-loss'],
    ['something-else', undefined],
  ]
  for (const [key, word] of meant) {
    let message = ''
    try {
      resolveConfig({ file: file(`${key}: 1`) })
    } catch (error) {
      message = (error as Error).message
    }
    expect(message).toContain(key)
    expect(message).not.toContain('\n')
    if (word === undefined) expect(message).not.toContain('did you mean')
    else expect(message).toContain(`"${word}"?`)
  }
})

test('a variable that is almost one of ours is told, others are not ours', () => {
  const warned = (name: string) => resolveConfig({ env: { [name]: '1' } }).warnings
  expect(warned('TIDEMARK_PROT')).toHaveLength(1)
  expect(warned('TIDEMARK_BUILD')).toEqual([])
  expect(warned('TIDEMARK_CONFIG')).toEqual([])
  expect(warned('OTHER_PORT')).toEqual([])
})

test('tidemark config prints each value with where it came from', async () => {
  const dir = tempDir()
  writeFileSync(
    join(dir, 'tidemark.yaml'),
    'port: 3\nheartbeat: x\n'.replace('heartbeat: x\n', 'origin: [https://a.example]\n'),
  )
  const env = { TIDEMARK_LOG_LEVEL: 'warn', TIDEMARK_CONFIG: 'tidemark.yaml' }
  const { code, out } = await run(['config', '--json', '--data', 'here'], { cwd: dir, env })
  expect(code).toBe(0)
  const told = JSON.parse(out) as Record<string, unknown>
  expect(Object.keys(told)).toEqual(SETTING_NAMES.map(flagOf))
  expect(told).toMatchObject({
    data: { value: 'here', source: 'flag', where: '--data' },
    'log-level': { value: 'warn', source: 'environment', where: 'TIDEMARK_LOG_LEVEL' },
    port: { value: 3, source: 'file', where: 'tidemark.yaml' },
    origin: { value: ['https://a.example'], source: 'file' },
    host: { value: '127.0.0.1', source: 'default' },
    client: { value: null, source: 'default' },
  })
  const table = await run(['config'], { cwd: dir, env })
  expect(table.out).toMatch(/^port +3 +file tidemark\.yaml$/m)
})

test('wrong configuration ends with 78 and wrong usage with 2, each told in one line', async () => {
  const dir = tempDir()
  writeFileSync(join(dir, 'wrong.yaml'), 'prot: 3')
  const data = ['--data', join(dir, 'log'), '--port', '0']
  const cases: [string[], number][] = [
    [['config', '--config', join(dir, 'wrong.yaml')], 78],
    [['serve', '--config', join(dir, 'missing.yaml')], 78],
    [['serve', '--host', '0.0.0.0', ...data], 78],
    [['serve', '--origin', 'null', ...data], 78],
    [['serve', '--host-name', 'a b', ...data], 78],
    [['serve', '--port', 'x'], 2],
  ]
  for (const [args, expected] of cases) {
    const { code, out, err } = await here(args)
    expect([args, code, err]).toEqual([args, expected, expect.stringMatching(/^tidemark: [^\n]+\n$/)])
    expect(out).toBe('')
  }
  const { code, err } = await run(['serve'], { env: { TIDEMARK_PORT: 'x' } })
  expect([code, err]).toEqual([78, expect.stringContaining('TIDEMARK_PORT')])
})

test('commands, options and arguments that are not there end with 2 and a suggestion', async () => {
  const cases: [string[], string][] = [
    [['tial', 'x'], 'tail'],
    [['tail', 'x', '--josn'], '--json'],
    [['serve', '--prot', '1'], '--port'],
    [['append'], 'CHANNEL'],
    [['streamer', 'maybe'], 'status'],
    [[], 'serve'],
  ]
  for (const [args, word] of cases) {
    const { code, out, err } = await here(args)
    expect([args, code, out]).toEqual([args, 2, ''])
    expect(err).toContain(word)
  }
})

test('every command has a help with its options, their variables and examples', async () => {
  const { code, out } = await here(['--help'])
  expect(code).toBe(0)
  const commands = ['serve', 'append', 'tail', 'watch', 'channels', 'info', 'cursors', 'streamer', 'config']
  for (const command of commands) expect(out).toMatch(new RegExp(`^  ${command} `, 'm'))
  for (const command of commands) {
    const help = await here([command, '--help'])
    expect([command, help.code, help.err]).toEqual([command, 0, ''])
    expect(help.out).toContain(`$ tidemark ${command}`)
    expect(help.out).toContain('TIDEMARK_')
  }
  expect((await here(['--version'])).out).toMatch(/^\d+\.\d+\.\d+\n$/)
})
