/**
 * Programs and packages of peers, for `--peers` alone: Debian packages are unpacked and npm packages installed within
 * node_modules/.cache, so that nothing of the system changes. What is there is not fetched again.
 */
import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'
import { HOME } from '../../src/server/home.ts'

const run = promisify(execFile)

const DIR = join(HOME, 'node_modules', '.cache', 'tidemark-bench', 'peers')
/** Debian packages stand unpacked here, those of newer releases in a directory of their own. */
const ROOT = join(DIR, 'root')
const NEWER = join(DIR, 'newer')
const NPM = join(DIR, 'npm')
/** Releases that may hold a newer program which still runs here, the newest first. */
const NEWER_SUITES = ['sid', 'testing', 'trixie']
/** Between tries to fetch something, ms. */
const PAUSES_MS = [3_000, 15_000]
const PROGRAM_DIRS = ['usr/sbin', 'usr/bin']

/** For programs that were unpacked: where their libraries are. */
export const UNPACKED_ENV: NodeJS.ProcessEnv = {
  ...process.env,
  LD_LIBRARY_PATH: join(ROOT, 'usr', 'lib', `${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}-linux-gnu`),
}

/** A file of a package that `debian` unpacked. */
export const unpacked = (path: string): string => join(ROOT, path)

/** Options with which apt keeps everything within `dir` and needs no rights; its lists too, where `lists`. */
function aptWithin(dir: string, lists: boolean): string[] {
  for (const sub of ['cache/archives/partial', 'lists/partial']) mkdirSync(join(dir, sub), { recursive: true })
  const options = [`Dir::Cache=${join(dir, 'cache')}`, 'Debug::NoLocking=1', 'APT::Sandbox::User=root']
  if (lists) options.push(`Dir::State::lists=${join(dir, 'lists')}`)
  return ['-qq', '-y', ...options.flatMap((option) => ['-o', option])]
}

/** Runs apt-get; on a machine without lists, or with old ones, with lists of our own. Returns what it prints. */
async function apt(...command: readonly string[]): Promise<string> {
  try {
    return (await run('apt-get', [...aptWithin(DIR, false), ...command])).stdout
  } catch {
    return patiently(async () => {
      await run('apt-get', [...aptWithin(DIR, true), 'update'])
      return (await run('apt-get', [...aptWithin(DIR, true), ...command])).stdout
    })
  }
}

/** A network may be away for a moment. */
async function patiently<T>(fetch: () => Promise<T>): Promise<T> {
  for (const pause of PAUSES_MS)
    try {
      return await fetch()
    } catch {
      await delay(pause)
    }
  return fetch()
}

/**
 * The path of a program that Debian has, unpacked with the packages named and all they need; the system's own where it
 * is installed. @param file of one of the packages, that the program is of no use without
 */
export async function debian(program: string, packages: readonly string[], file?: string): Promise<string> {
  const known = programIn(ROOT, program)
  if (known !== undefined && (file === undefined || existsSync(unpacked(file)))) return known
  await apt('--no-install-recommends', '--download-only', 'install', ...packages)
  await unpackAll(join(DIR, 'cache', 'archives'), ROOT)
  const path = programIn(ROOT, program) ?? programIn('/', program)
  if (path === undefined) throw new Error(`apt-get brought no ${program}`)
  return path
}

/**
 * As `debian`, for a package that needs no other: of the newest release of the same archive that has one which runs
 * here and will do.
 */
export async function newerDebian(
  program: string,
  name: string,
  willDo: (path: string) => Promise<boolean>,
): Promise<string> {
  const root = join(NEWER, 'root')
  // One that needs libraries which this machine has not can not even be asked.
  const isGood = (path: string | undefined) => path !== undefined && willDo(path).catch(() => false)
  const known = programIn(root, program)
  if (await isGood(known)) return known!
  const archive = /^'([^']+)\/pool\//m.exec(await apt('download', '--print-uris', name))?.[1]
  const found: string[] = []
  for (const suite of archive === undefined ? [] : NEWER_SUITES) {
    rmSync(root, { recursive: true, force: true })
    try {
      await patiently(() => unpackNewer(`${archive} ${suite}`, name))
      const path = programIn(root, program)
      if (await isGood(path)) return path!
      found.push(`${suite}: what it has does not run here, or is too old`)
    } catch (error) {
      found.push(`${suite}: ${error}`)
    }
  }
  rmSync(root, { recursive: true, force: true })
  const own = await debian(program, [name])
  if (await isGood(own)) return own
  throw new Error(`no release of Debian gave a ${name} that will do (${found.join('; ')})`)
}

async function unpackNewer(release: string, name: string): Promise<void> {
  const sources = join(NEWER, 'sources.list')
  const keys = '/usr/share/keyrings/debian-archive-keyring.gpg'
  const only = [`Dir::Etc::sourcelist=${sources}`, 'Dir::Etc::sourceparts=-', 'Dir::Etc::preferencesparts=-']
  const options = [...aptWithin(NEWER, true), ...only.flatMap((option) => ['-o', option])]
  writeFileSync(sources, `deb [signed-by=${keys}] ${release} main\n`)
  // Without it apt takes a list that it could not fetch for a warning.
  await run('apt-get', [...options, '-o', 'APT::Update::Error-Mode=any', 'update'])
  await run('apt-get', [...options, 'download', name], { cwd: NEWER })
  await unpackAll(NEWER, join(NEWER, 'root'))
}

/** The directory whose node_modules holds these packages, of these versions exactly. */
export async function npm(packages: Readonly<Record<string, string>>): Promise<string> {
  const missing = Object.entries(packages).filter(([name, version]) => installedVersion(name) !== version)
  if (missing.length > 0) {
    mkdirSync(NPM, { recursive: true })
    const wanted = missing.map(([name, version]) => `${name}@${version}`)
    // Some peers ask for a newer Node than they need, and settings of this project would refuse them for it.
    const options = ['--no-audit', '--no-fund', '--save-exact', '--engine-strict=false']
    await run('npm', ['install', '--prefix', NPM, ...options, ...wanted])
  }
  return NPM
}

function installedVersion(name: string): string | undefined {
  const path = join(NPM, 'node_modules', name, 'package.json')
  return existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as { version: string }).version : undefined
}

/** The first number with dots that a program prints. */
export async function versionOf(program: string, flag: string): Promise<string> {
  const { stdout, stderr } = await run(program, [flag], { env: UNPACKED_ENV })
  return /\d+(\.\d+)+/.exec(stdout + stderr)?.[0] ?? 'of unknown version'
}

async function unpackAll(from: string, to: string): Promise<void> {
  mkdirSync(to, { recursive: true })
  for (const file of readdirSync(from).filter((name) => name.endsWith('.deb'))) {
    await run('dpkg', ['-x', join(from, file), to])
    rmSync(join(from, file))
  }
}

function programIn(root: string, program: string): string | undefined {
  return PROGRAM_DIRS.map((dir) => join(root, dir, program)).find((path) => existsSync(path))
}
