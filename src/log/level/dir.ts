/** The directory that a log lies in. */
import { existsSync, mkdirSync, statSync } from 'node:fs'
import { dirname } from 'node:path'

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
