/** A log's directory: how it is made, the places in it, and how their names become durable. */
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, readdirSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'

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
