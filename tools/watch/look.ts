/**
 * Looking at the disk: what stands where the hints point, or everywhere. Symbolic links are never followed. Whatever
 * vanishes between listing and looking is not there; whatever can't be read stays as it is known.
 */
import type { Stats } from 'node:fs'
import { lstat, readdir } from 'node:fs/promises'
import { isAbsolute, join as joinPaths, relative } from 'node:path'
import { TidemarkError } from '../../src/errors.ts'
import { checkKey } from '../../src/event.ts'
import { type Dirty, type Hints, textOf } from './hints.ts'
import { join, type Look, type Node, nameOf, parentOf, type Tree } from './tree.ts'

/** Most paths of one tree; it is held in memory, about 300 bytes each. */
export const PATHS_MAX = 5_000_000
/** Directories that are looked at side by side. */
const DIRS_AT_ONCE = 16
/** Names of one directory that are looked at side by side. */
const NAMES_AT_ONCE = 256

export interface Looker {
  /** The directory, absolute. */
  readonly root: string
  readonly known: Tree
  readonly hints: Hints
  /** True for a path that is no part of the tree, however it stands on disk. */
  readonly isIgnored: (path: string) => boolean
  /** Told of what is left out or can't be read. `path` is for people. */
  readonly onTrouble: (path: string, why: string) => void
}

/** A directory to look into: all it holds, or these names. */
interface Task {
  readonly dir: string
  readonly names: ReadonlySet<string> | 'all'
}

/**
 * Looks where `dirty` says; into new and replaced directories all the way down.
 * @throws io-error when the root itself is gone or is no directory; too-large beyond PATHS_MAX.
 */
export async function look(at: Looker, dirty: Dirty): Promise<Look> {
  const found: Look = { found: new Map(), absent: new Set(), unread: new Set() }
  const all = dirty === 'everything'
  let tasks: Task[] = all ? [{ dir: '', names: 'all' }] : tasksOf(at, dirty)
  while (tasks.length > 0) {
    const next: Task[] = []
    for (let i = 0; i < tasks.length; i += DIRS_AT_ONCE) {
      const inner = await Promise.all(tasks.slice(i, i + DIRS_AT_ONCE).map((task) => lookInto(at, task, found, all)))
      for (const dirs of inner) for (const dir of dirs) next.push({ dir, names: 'all' })
      if (found.found.size > PATHS_MAX)
        throw new TidemarkError('too-large', `${at.root} holds more than ${PATHS_MAX} paths`, { limit: PATHS_MAX })
    }
    tasks = next
  }
  if (!all) settle(found)
  forget(at.hints, found, all)
  return found
}

/**
 * The dirty directories, and every name on the way to them that is not known as a directory: whoever looks into a
 * directory must find it there as well. Nothing is looked at behind an ignored name.
 */
function tasksOf({ known, isIgnored }: Looker, dirty: ReadonlyMap<string, ReadonlySet<string> | 'all'>): Task[] {
  const tasks = new Map<string, Set<string> | 'all'>()
  const add = (dir: string, names: Iterable<string> | 'all'): void => {
    const before = tasks.get(dir)
    if (names === 'all' || before === 'all') tasks.set(dir, 'all')
    else tasks.set(dir, new Set([...(before ?? []), ...names]))
  }
  for (const [dir, names] of dirty) {
    let unknown: string[] = []
    let isReachable = true
    for (let way = dir; way !== ''; way = parentOf(way))
      if (isIgnored(way)) {
        isReachable = false
        unknown = [way]
      } else if (known.get(way)?.kind !== 'dir') unknown.push(way)
    if (isReachable) add(dir, names)
    for (const way of unknown) add(parentOf(way), [nameOf(way)])
  }
  return [...tasks].map(([dir, names]) => ({ dir, names }))
}

/** A directory may have been looked into before it was seen to be gone: then what was found in it does not count. */
function settle({ found, absent }: Look): void {
  for (const path of found.keys())
    for (let way = parentOf(path); way !== ''; way = parentOf(way)) {
      const node = found.get(way)
      if (absent.has(way) || (node !== undefined && node.kind !== 'dir')) {
        found.delete(path)
        break
      }
    }
}

/** Looks at the names of one directory; returns the directories among them that must be looked into. */
async function lookInto(at: Looker, { dir, names }: Task, look: Look, all: boolean): Promise<string[]> {
  const present = names === 'all' ? await list(at, dir, look) : await those(at, dir, names)
  if (present === undefined) return []
  const asked = new Set<string>(present)
  // What is known and not listed any more, or not to be listed, is gone.
  for (const name of names === 'all' ? at.known.names(dir) : names)
    if (!asked.has(name)) isAbsent(look, join(dir, name))
  const dirs: string[] = []
  for (let i = 0; i < present.length; i += NAMES_AT_ONCE)
    await Promise.all(
      present.slice(i, i + NAMES_AT_ONCE).map(async (name) => {
        const path = join(dir, name)
        const stats = await lookAt(at, path, look)
        if (stats?.isDirectory() && (all || !at.hints.isWatched(path, stats))) dirs.push(path)
      }),
    )
  return dirs
}

/** The given names, unless a link or a file has taken the directory's place: nothing is looked at through a link. */
async function those(at: Looker, dir: string, names: ReadonlySet<string>): Promise<string[] | undefined> {
  if (dir !== '' && !(await isDirectory(joinPaths(at.root, dir)))) {
    lost(at.hints, dir)
    return undefined
  }
  return [...names].filter((name) => isOurs(at, join(dir, name)))
}

async function isDirectory(absolute: string): Promise<boolean> {
  try {
    return (await lstat(absolute)).isDirectory()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === undefined) throw error
    return false
  }
}

/** A directory that could not be looked into: when its parent shows it again, it is looked into as if it were new. */
function lost(hints: Hints, dir: string): void {
  hints.unwatch(dir)
  hints.touchPath(dir)
}

/** Watches a directory, then lists it; undefined when it could not be read. */
async function list(at: Looker, dir: string, look: Look): Promise<string[] | undefined> {
  const absolute = joinPaths(at.root, dir)
  try {
    const stats = await lstat(absolute)
    if (!stats.isDirectory()) throw Object.assign(new Error('it is no directory'), { code: 'ENOTDIR' })
    at.hints.watch(dir, absolute, stats)
    const names = await readdir(absolute, { encoding: 'buffer' })
    return names.flatMap((bytes) => {
      const name = textOf(bytes)
      if (name === undefined) at.onTrouble(join(dir, bytes.toString()), 'its name is not UTF-8')
      return name !== undefined && isOurs(at, join(dir, name)) ? [name] : []
    })
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    if (code === undefined) throw error
    // An empty tree and a tree that is away (unmounted, renamed) are not the same: nothing is told as removed.
    if (dir === '') throw new TidemarkError('io-error', `${at.root}: ${message}`, {}, { cause: error })
    look.unread.add(dir)
    if (isGone(code)) lost(at.hints, dir)
    else {
      at.hints.unwatch(dir)
      at.onTrouble(dir, `it can not be read (${code})`)
    }
    return undefined
  }
}

async function lookAt(at: Looker, path: string, look: Look): Promise<Stats | undefined> {
  try {
    const stats = await lstat(joinPaths(at.root, path))
    look.found.set(path, nodeOf(stats))
    look.absent.delete(path)
    return stats
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === undefined) throw error
    if (isGone(code)) isAbsent(look, path)
    else {
      look.unread.add(path)
      at.onTrouble(path, `it can not be looked at (${code})`)
    }
    return undefined
  }
}

/** A path may be looked at twice in one look; the last time counts. */
function isAbsent(look: Look, path: string): void {
  look.absent.add(path)
  look.found.delete(path)
}

const isGone = (code: string): boolean => code === 'ENOENT' || code === 'ENOTDIR'

function nodeOf(stats: Stats): Node {
  const { size, mtimeMs: mtime } = stats
  if (stats.isFile()) return { kind: 'file', size, mtime }
  if (stats.isDirectory()) return { kind: 'dir' }
  return { kind: stats.isSymbolicLink() ? 'link' : 'other', mtime }
}

/** True for a path that the channel can hold and that is not ignored. */
function isOurs(at: Looker, path: string): boolean {
  if (at.isIgnored(path)) return false
  try {
    checkKey(path)
    return true
  } catch (error) {
    if (!(error instanceof TidemarkError)) throw error
    at.onTrouble(path, 'its path can not be a key (control characters, or longer than 1,024 bytes)')
    return false
  }
}

/** Ends the watches of directories that this look did not find any more. */
function forget(hints: Hints, look: Look, all: boolean): void {
  if (!all && look.absent.size === 0 && ![...look.found.values()].some((node) => node.kind !== 'dir')) return
  hints.unwatchAll((dir) => {
    for (let way = dir; way !== ''; way = parentOf(way)) {
      if (look.unread.has(way)) return false
      const node = look.found.get(way)
      if (look.absent.has(way) || (node !== undefined && node.kind !== 'dir')) return true
      if (node === undefined && all) return true
    }
    return false
  })
}

// ── What is left out ─────────────────────────────────────────────────────────────────────────────────────────────

/** Longest pattern, characters. */
export const PATTERN_MAX = 256

/**
 * A test for paths from patterns: `*` and `?` within a name, `**` across names; without a slash a pattern is about
 * names, at any depth, with one about paths from the root. What is below an ignored directory is ignored with it.
 * @throws bad-request for a pattern longer than PATTERN_MAX.
 */
export function ignoring(patterns: readonly string[]): (path: string) => boolean {
  const tests = patterns.map((pattern) => {
    if (pattern.length > PATTERN_MAX)
      throw new TidemarkError('bad-request', `--ignore takes patterns of at most ${PATTERN_MAX} characters`)
    const whole = pattern.replace(/\/+$/, '')
    const inPath = whole.includes('/')
    const source = whole.replace(/^\//, '').replace(/\*\*\/|\*+|\?|[^*?]+/g, (part) => {
      if (part === '**/') return '(?:[^/]+/)*'
      if (part === '*') return '[^/]*'
      if (part === '?') return '[^/]'
      return part.startsWith('*') ? '.*' : part.replace(/[\\^$.|+()[\]{}]/g, '\\$&')
    })
    const regex = new RegExp(`^${source}$`, 'su')
    return (path: string) => regex.test(inPath ? path : nameOf(path))
  })
  return (path) => tests.some((test) => test(path))
}

/** The path of `inner` below `root`, undefined when it lies elsewhere. Both absolute. */
export function pathWithin(root: string, inner: string): string | undefined {
  const path = relative(root, inner)
  return path === '' || path.startsWith('..') || isAbsolute(path) ? undefined : path.replaceAll('\\', '/')
}
