/** What a log takes of its disk, and what the disk has left. */
import { readdir, stat, statfs } from 'node:fs/promises'
import { join } from 'node:path'

export interface DiskFigures {
  readonly free: number
  readonly size: number
  /** Bytes of all files of the log. */
  readonly used: number
}

/** What was found is given out again for so long, ms. */
const FRESH_MS = 10_000

export class Disk {
  readonly #dir: string
  #found: Promise<DiskFigures | undefined> | undefined
  #foundAt = Number.NEGATIVE_INFINITY

  constructor(dir: string) {
    this.#dir = dir
  }

  /** Undefined when the directory can not be looked into. */
  figures(): Promise<DiskFigures | undefined> {
    const now = performance.now()
    if (this.#found !== undefined && now - this.#foundAt < FRESH_MS) return this.#found
    this.#foundAt = now
    this.#found = look(this.#dir).catch(() => undefined)
    return this.#found
  }
}

async function look(dir: string): Promise<DiskFigures> {
  const { bavail, bsize, blocks } = await statfs(dir)
  let used = 0
  for (const entry of await readdir(dir, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue
    // A table may be gone since it was listed.
    const found = await stat(join(entry.parentPath, entry.name)).catch(() => undefined)
    used += found?.size ?? 0
  }
  return { free: bavail * bsize, size: blocks * bsize, used }
}
