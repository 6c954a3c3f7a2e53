/**
 * The programs that make the load, each in a process of its own: C where a compiler is there (their cost is small
 * beside the server's), else the same programs in Node, which cost more of the machine that the server runs on.
 */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, renameSync } from 'node:fs'
import { join } from 'node:path'
import { HOME } from '../../src/server/home.ts'

/** `load` sends appends, `drain` receives events, `send` writes to sockets as fast as they take it. */
const NAMES = ['load', 'drain', 'send'] as const
export type ProgramName = (typeof NAMES)[number]
export type Language = 'c' | 'node'

export interface Programs {
  readonly language: Language
  /** Why it is not C, in words. */
  readonly note: string | undefined
  command(name: ProgramName): readonly string[]
}

const FLAGS = ['-O2', '-Wall']
const HEADERS = ['bench.h', 'resp.h']

/** A compiled program of this project. */
export const compiled = (path: string): readonly string[] => [process.execPath, join(HOME, 'dist', path)]

/** Compiles the C programs into node_modules/.cache, unless they are there already; Node's where that fails. */
export function preparePrograms(wanted: Language | undefined): Programs {
  if (wanted === 'node') return inNode('as asked')
  if (process.platform !== 'linux') return inNode('the C programs need Linux')
  const sources = join(HOME, 'tools', 'bench')
  const cache = join(HOME, 'node_modules', '.cache', 'tidemark-bench')
  const paths = new Map<ProgramName, string>()
  try {
    mkdirSync(cache, { recursive: true })
    for (const name of NAMES) paths.set(name, compile(sources, cache, name))
  } catch (error) {
    if (wanted === 'c') throw error
    return inNode(`no C compiler: ${(error as Error).message.split('\n')[0]}`)
  }
  return { language: 'c', note: undefined, command: (name) => [paths.get(name)!] }
}

function inNode(note: string): Programs {
  return { language: 'node', note, command: (name) => compiled(`tools/bench/${name}.js`) }
}

/** The path of the executable; its name holds a digest of what it was made from. */
function compile(sources: string, cache: string, name: ProgramName): string {
  const source = join(sources, `${name}.c`)
  const digest = createHash('sha256')
  for (const file of [source, ...HEADERS.map((header) => join(sources, header))]) digest.update(readFileSync(file))
  const path = join(cache, `${name}-${digest.digest('hex').slice(0, 16)}`)
  if (existsSync(path)) return path
  const half = `${path}.${process.pid}`
  execFileSync('cc', ['-o', half, source, ...FLAGS], { stdio: ['ignore', 'ignore', 'pipe'] })
  renameSync(half, path)
  return path
}
