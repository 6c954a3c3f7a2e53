/** A log's directory: how it is made, the places in it, and how their names become durable. */
import {
  closeSync,
  existsSync,
  fsyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmdirSync,
  statSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { TidemarkError } from '../../errors.ts'

/** LevelDB's own directory. */
export const storeDir = (dir: string): string => join(dir, 'store')
/** The high-water mark. */
export const markPath = (dir: string): string => join(dir, 'high-water')

/** Makes new names durable: LevelDB syncs files, never the directories that name them. */
export function syncTree(dir: string): void {
  for (const path of [storeDir(dir), dir, dirname(dir)]) syncDir(path)
}

export function syncDir(path: string): void {
  const fd = openSync(path, 'r')
  try {
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}

/** Number of LevelDB's newest log file. */
export function newestLog(dir: string): number {
  const logs = readdirSync(storeDir(dir)).filter((name) => name.endsWith('.log'))
  return Math.max(0, ...logs.map((name) => Number.parseInt(name, 10)))
}

/**
 * Makes a directory and those above it, one at a time: Node's own recursive way never returns where one that is there
 * takes no entries, as in /proc.
 */
export function makeDir(dir: string): void {
  if (!existsSync(dirname(dir))) makeDir(dirname(dir))
  try {
    mkdirSync(dir, { mode: 0o700 })
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST' || !statSync(dir).isDirectory()) throw error
  }
}

/**
 * Makes sure that a log made beside a directory can be given its name: there is none, or it is empty.
 * @throws cannot-create
 */
export function makePlaceFor(target: string): void {
  const refuse = (why: string): never => {
    throw new TidemarkError('cannot-create', `${target} ${why}`)
  }
  mkdirSync(dirname(target), { recursive: true, mode: 0o700 })
  const there = lstatSync(target, { throwIfNoEntry: false })
  if (!there) return
  if (!there.isDirectory()) refuse('is not a directory')
  if (there.dev !== lstatSync(dirname(target)).dev) refuse('is a mount point: name a directory in it')
  if (readdirSync(target).length > 0) refuse('is not empty')
}

/** Gives a log that is whole its name, after `makePlaceFor`. @throws cannot-create when something is there by now */
export function nameDraft(draft: string, target: string): void {
  // Only an empty one: somebody may have put a log there meanwhile.
  try {
    if (existsSync(target)) rmdirSync(target)
  } catch (cause) {
    throw new TidemarkError('cannot-create', `${target} is not empty any more: ${draft} holds the log`, {}, { cause })
  }
  renameSync(draft, target)
  syncDir(dirname(target))
}
