/**
 * What tests need of the machine beyond npm: Debian's chromium, strace and tools of file systems. Root installs them through apt, once;
 * who may not, or has no apt, is told which tests are skipped for it.
 */
import { execFileSync } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'

const PACKAGES = {
  chromium: 'chromium',
  strace: 'strace',
  xfs_io: 'xfsprogs',
  'mkfs.xfs': 'xfsprogs',
  'mkfs.ext4': 'e2fsprogs',
  eatmydata: 'eatmydata',
  faketime: 'faketime',
} as const
export type Program = keyof typeof PACKAGES

/** The path of a program, or undefined when this machine has none. */
export function find(program: Program): string | undefined {
  const named = process.env[`${program.toUpperCase()}_BIN`]
  const places = (process.env.PATH ?? '').split(delimiter).map((dir) => join(dir, program))
  return [named, ...places].find((path) => path && isExecutable(path))
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'EACCES' || code === 'ENOTDIR') return false
    throw error
  }
}

/** Installs what is missing, where that is possible. */
export function provide(): void {
  const missing = (Object.keys(PACKAGES) as Program[]).filter((program) => !find(program))
  if (missing.length === 0) return
  const packages = [...new Set(missing.map((program) => PACKAGES[program]))]
  if (process.platform === 'linux' && process.getuid?.() === 0) {
    console.log(`Installing ${packages.join(', ')} through apt`)
    const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' }
    try {
      execFileSync('apt-get', ['update', '-qq'], { stdio: ['ignore', 'ignore', 'inherit'], env })
      execFileSync('apt-get', ['install', '-y', '-qq', '--no-install-recommends', ...packages], {
        stdio: ['ignore', 'ignore', 'inherit'],
        env,
      })
    } catch (error) {
      console.warn(`apt did not install them: ${error}`)
    }
  }
  for (const program of missing)
    if (!find(program)) console.warn(`NO ${program.toUpperCase()} HERE: the tests that need it are SKIPPED`)
}
