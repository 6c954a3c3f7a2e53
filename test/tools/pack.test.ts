/** The package as others get it: packed, installed into an empty project, run, imported and compiled there. */
import { execFile, spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { homedir, tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { publint } from 'publint'
import { formatMessage } from 'publint/utils'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'

const root = fileURLToPath(new URL('../..', import.meta.url))
const exec = promisify(execFile)
const packageDir = (name: string): string => dirname(fileURLToPath(import.meta.resolve(`${name}/package.json`)))

/** Nothing of this run, of npm's or of ours, reaches the project; its home is empty. */
function envOf(home: string, npm: Readonly<Record<string, string>> = {}): NodeJS.ProcessEnv {
  const own = Object.entries(process.env).filter(([name]) => !/^(?:npm_|TIDEMARK_|NODE_)/i.test(name))
  return { ...Object.fromEntries(own), HOME: home, ...npm }
}

interface Packed {
  readonly tarball: string
  readonly paths: readonly string[]
  readonly project: string
  readonly env: NodeJS.ProcessEnv
}

/** Packs and installs. What it depends on comes from npm's cache as far as it is there. */
async function install(dir: string): Promise<Packed> {
  const [home, project] = [join(dir, 'home'), join(dir, 'project')]
  for (const each of [home, project]) mkdirSync(each)
  const config = await exec('npm', ['config', 'get', 'cache', 'registry'], { cwd: root })
  const value = (name: string) => new RegExp(`^${name}=(.*)$`, 'm').exec(config.stdout)![1]!
  const env = envOf(home, {
    npm_config_cache: value('cache'),
    npm_config_registry: value('registry'),
    npm_config_update_notifier: 'false',
  })
  const pack = await exec('npm', ['pack', '--ignore-scripts', '--json', '--pack-destination', dir], { cwd: root, env })
  const [told] = JSON.parse(pack.stdout) as [{ filename: string; files: { path: string }[] }]
  const tarball = join(dir, told.filename)
  writeFileSync(join(project, 'package.json'), '{ "private": true, "type": "module" }')
  const words = ['install', '--prefer-offline', '--no-audit', '--no-fund', tarball]
  await exec('npm', words, { cwd: project, env })
  return { tarball, paths: told.files.map(({ path }) => path), project, env }
}

/** Starts the installed program as a newcomer does; resolves with its address. */
async function serve({ project, env }: Packed): Promise<string> {
  const child = spawn('npx', ['tidemark', 'serve', '--port', '0'], { cwd: project, env, detached: true })
  const ended = new Promise<void>((done) => child.once('close', () => done()))
  onTestFinished(async () => {
    // npx and what it started, which may have ended by themselves.
    if (child.exitCode === null) process.kill(-child.pid!, 'SIGTERM')
    await ended
  })
  let out = ''
  let err = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    err += text
  })
  return new Promise((done, fail) => {
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      out += text
      const url = /"url":"(http[^"]+)\/v1"/.exec(out)?.[1]
      if (url) done(url)
    })
    void ended.then(() => fail(new Error(`it ended with ${child.exitCode}: ${err}${out}`)))
  })
}

/** Modules that these load, from one another, by the names in their text. */
function reached(dir: string, entries: readonly string[]): Set<string> {
  const found = new Set(entries)
  for (const file of found)
    for (const [, name] of readFileSync(join(dir, file), 'utf8').matchAll(
      /(?:from|import)\s*\(?\s*['"`](\.[^'"`$]+)['"`]/g,
    ))
      found.add(join(dirname(file), file.endsWith('.d.ts') ? name!.replace(/\.ts$/, '.d.ts') : name!))
  return found
}

const PROGRAM = `
import { Tidemark, TidemarkError } from 'tidemark/client'
const seen = []
for (const subprotocol of ['json', 'msgpack']) {
  const tidemark = new Tidemark(process.argv[2], { client: subprotocol, subprotocol })
  const orders = tidemark.channel('orders')
  const { last } = await orders.append([{ type: 'order.placed', data: { total: 42 } }])
  for await (const { seq, data } of orders.follow({ cursor: true })) {
    seen.push([seq, data, tidemark.state])
    if (seq === last) break
  }
  await tidemark.close()
}
const none = new Tidemark(process.argv[2]).channel('none')
const failed = await none.read().catch((error) => error instanceof TidemarkError && error.code)
console.log(JSON.stringify({ seen, failed }))
`

/** Typed use: what is wrong must be found, what is right must pass. */
const TYPED = `
import { Tidemark, TidemarkError, type ChannelEvent, type FollowOptions } from 'tidemark/client'
const options: FollowOptions = { after: 'head' }
export async function use(url: URL): Promise<number> {
  const tidemark = new Tidemark(url, { client: 'me', token: async () => 'secret' })
  const { first } = await tidemark.channel('orders').append({ type: 'a', data: { total: 42 } }, { idempotencyKey: 'k' })
  for await (const event of tidemark.channel('orders').follow(options)) {
    const whole: ChannelEvent = event
    // @ts-expect-error a seq is a number
    const seq: string = whole.seq
    return whole.seq + first + String(seq).length
  }
  // @ts-expect-error there is no such option
  tidemark.channel('orders').follow({ form: 3 })
  throw new TidemarkError('gap', 'gone')
}
`

const dir = mkdtempSync(join(tmpdir(), 'tidemark-'))
let packed: Packed
beforeAll(async () => {
  packed = await install(dir)
}, 60_000)
afterAll(() => rmSync(dir, { recursive: true }))

test('the package holds what it needs and nothing else', () => {
  const { project, paths } = packed
  const home = join(project, 'node_modules/tidemark')
  const { files, exports } = JSON.parse(readFileSync(join(home, 'package.json'), 'utf8'))
  expect(files.length).toBeGreaterThan(0)
  const entries = Object.values(exports['./client'] as Record<string, string>).map((path) => path.slice(2))
  const loaded = reached(root, entries)
  // Each is made anew, whole, by a build.
  const bundles = ['dist/bin/tidemark.js', 'dist/bin/assets/', 'dist/console/']
  const texts = ['CHANGELOG.md', 'LICENSE', 'README.md', 'package.json', 'src/PROTOCOL.md', 'src/README.md']
  // A type needs no module, a module of the program no types.
  const isBeside = (path: string) =>
    loaded.has(path.replace(/\.js$/, '.d.ts')) || loaded.has(path.replace('.d.ts', '.js'))
  const isBundle = (path: string) => bundles.some((bundle) => path.startsWith(bundle))
  const missing = [...loaded, ...texts].filter((path) => !paths.includes(path))
  const superfluous = paths.filter(
    (path) => !isBundle(path) && !texts.includes(path) && !loaded.has(path) && !isBeside(path),
  )
  expect(bundles.filter((bundle) => !paths.some((path) => path.startsWith(bundle)))).toEqual([])
  expect({ missing, superfluous }).toEqual({ missing: [], superfluous: [] })
  const here = [resolve(root), homedir(), tmpdir()].filter((path) => path.length > 4)
  const telling = paths.filter((path) => {
    const text = readFileSync(join(home, path), 'latin1')
    return here.some((each) => text.includes(`${each}/`)) || /sourceMappingURL=/.test(text)
  })
  expect(telling).toEqual([])
})

test('installed into an empty project it serves, and its client runs in Node as in a page', async () => {
  const { project, env } = packed
  const url = await serve(packed)
  writeFileSync(join(project, 'program.js'), PROGRAM)
  const { stdout } = await exec(process.execPath, ['program.js', url], { cwd: project, env })
  expect(JSON.parse(stdout)).toEqual({
    seen: [
      [1, { total: 42 }, 'open'],
      [1, { total: 42 }, 'open'],
      [2, { total: 42 }, 'open'],
    ],
    failed: 'no-channel',
  })
  for (const path of ['/client.js', '/console/', '/readyz', '/openapi.json']) {
    const answer = await fetch(url + path)
    expect([path, answer.status]).toEqual([path, 200])
  }
  const served = join(project, 'served.mjs')
  writeFileSync(served, await (await fetch(`${url}/client.js`)).text())
  // /client.js gives its parts what they share with it, too (test/client/size.test.ts).
  const names = `Object.keys(await import('tidemark/client')).every((name) => name in served)`
  const compared = await exec(
    process.execPath,
    ['--input-type=module', '-e', `const served = await import('./served.mjs'); console.log(${names})`],
    {
      cwd: project,
      env,
    },
  )
  expect(compared.stdout.trim()).toBe('true')
})

test('its types compile in a program of Node and in one for a bundler', async () => {
  const { project, env } = packed
  writeFileSync(join(project, 'typed.ts'), TYPED)
  const ours = join(root, 'node_modules/@types')
  const strict = { strict: true, noEmit: true, skipLibCheck: false, target: 'es2023', exactOptionalPropertyTypes: true }
  const node = { lib: ['es2023'], typeRoots: [ours], types: ['node'] }
  const page = { lib: ['es2023', 'dom', 'dom.iterable'], types: [] }
  const programs = {
    node16: { ...node, module: 'node16' },
    nodenext: { ...node, module: 'nodenext' },
    bundler: { ...page, module: 'esnext', moduleResolution: 'bundler', customConditions: ['browser'] },
  }
  for (const [name, compilerOptions] of Object.entries(programs)) {
    const config = { compilerOptions: { ...strict, ...compilerOptions }, files: ['typed.ts'] }
    writeFileSync(join(project, `${name}.json`), JSON.stringify(config))
    const tsc = join(packageDir('typescript'), 'bin/tsc')
    const { stdout } = await exec(process.execPath, [tsc, '-p', `${name}.json`], { cwd: project, env }).catch(
      (error) => error,
    )
    expect(`${name}: ${stdout}`).toBe(`${name}: `)
  }
})

test('publint and attw find nothing', async () => {
  const { tarball, project, env } = packed
  const bytes = readFileSync(tarball)
  const { messages, pkg } = await publint({ pack: { tarball: new Uint8Array(bytes).buffer }, strict: true })
  expect(messages.map((message) => formatMessage(message, pkg!, { color: false }))).toEqual([])
  // It is ESM alone: what only looks at CommonJS has no say.
  const attw = join(packageDir('@arethetypeswrong/cli'), 'dist/index.js')
  const words = [attw, tarball, '--profile', 'esm-only', '--format', 'ascii']
  const { stdout, code = 0 } = await exec(process.execPath, words, { cwd: project, env }).catch((error) => error)
  expect(code, stdout).toBe(0)
  expect(stdout).toContain('tidemark/client')
})
