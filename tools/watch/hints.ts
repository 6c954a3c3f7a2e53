/**
 * Where to look again. The kernel's notices are only hints: each says "something may be different here", never what.
 * They may come late, twice, or be lost (its queue is bounded and overflows without a word), and nothing depends on
 * them but speed: a full look comes after many of them, and every `rescan`.
 *
 * fs.watch on each directory, set before the directory is listed: what changes before is seen by the listing, what
 * changes after gives a hint. (chokidar lists first and watches then, and puts a watch on every file.)
 */
import { type FSWatcher, type Stats, watch } from 'node:fs'
import { basename } from 'node:path'
import { nameOf, parentOf } from './tree.ts'

/** More names than this in one directory: the whole directory is listed. */
export const HINT_NAMES_MAX = 64
/** More directories than this: everything is looked at. */
export const HINT_DIRS_MAX = 4_096
/** As many notices as half the kernel's default queue: some may have been lost, everything is looked at. */
export const HINT_NOTICES_MAX = 8_192

/** What to look at: everything, or in each directory these names, or all that it lists. */
export type Dirty = 'everything' | ReadonlyMap<string, ReadonlySet<string> | 'all'>

interface Watched {
  readonly watcher: FSWatcher
  /** A directory that was replaced by another one under the same path needs a new watch. */
  readonly identity: string
}

const identityOf = (stats: Stats): string => `${stats.dev}:${stats.ino}:${stats.birthtimeMs}`

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** A file name as text, undefined when its bytes are not UTF-8. */
export function textOf(name: Buffer): string | undefined {
  try {
    return decoder.decode(name)
  } catch (error) {
    if (error instanceof TypeError) return undefined
    throw error
  }
}

export class Hints {
  readonly #watched = new Map<string, Watched>()
  readonly #onTrouble: (path: string, error: NodeJS.ErrnoException) => void
  #dirty = new Map<string, Set<string> | 'all'>()
  #everything = false
  #notices = 0
  #wake: (() => void) | undefined

  /** @param onTrouble told when a directory can't be watched: it is then looked at by every rescan only. */
  constructor(onTrouble: (path: string, error: NodeJS.ErrnoException) => void) {
    this.#onTrouble = onTrouble
  }

  /** Directories with a watch. */
  get size(): number {
    return this.#watched.size
  }

  get isEmpty(): boolean {
    return !this.#everything && this.#dirty.size === 0
  }

  /** Watches a directory, at `absolute` on disk; call it before listing. */
  watch(dir: string, absolute: string, stats: Stats): void {
    const identity = identityOf(stats)
    if (this.#watched.get(dir)?.identity === identity) return
    this.unwatch(dir)
    try {
      const own = basename(absolute)
      const watcher = watch(absolute, { encoding: 'buffer' }, (_type, name) => this.#notice(dir, own, name))
      this.#watched.set(dir, { watcher, identity })
      watcher.on('error', () => {
        if (this.#watched.get(dir)?.watcher === watcher) this.unwatch(dir)
        this.touch(dir)
      })
    } catch (error) {
      this.#onTrouble(dir, error as NodeJS.ErrnoException)
    }
  }

  /** True when this very directory is watched: what changed in it has given a hint. */
  isWatched(dir: string, stats: Stats): boolean {
    return this.#watched.get(dir)?.identity === identityOf(stats)
  }

  unwatch(dir: string): void {
    this.#watched.get(dir)?.watcher.close()
    this.#watched.delete(dir)
  }

  /** Ends the watches of directories that are no more. */
  unwatchAll(isGone: (dir: string) => boolean): void {
    for (const dir of this.#watched.keys()) if (isGone(dir)) this.unwatch(dir)
  }

  #notice(dir: string, own: string, name: Buffer | null): void {
    const text = name === null ? undefined : textOf(name)
    if (++this.#notices > HINT_NOTICES_MAX) this.touchEverything()
    else if (text !== own) this.touch(dir, text)
    else {
      // A directory's own end is told under its own name; what then stands at its path needs a watch of its own.
      this.unwatch(dir)
      this.touch(dir)
    }
  }

  /** Look again at a name in a directory, or at the whole of it. */
  touch(dir: string, name?: string): void {
    if (!this.#everything) {
      const names = this.#dirty.get(dir)
      if (name === undefined || names === 'all' || (names?.size ?? 0) >= HINT_NAMES_MAX) this.#dirty.set(dir, 'all')
      else if (names) names.add(name)
      else this.#dirty.set(dir, new Set([name]))
      if (this.#dirty.size > HINT_DIRS_MAX) this.touchEverything()
    }
    this.#wake?.()
  }

  /** `` is the root: its list is looked at. */
  touchPath(path: string): void {
    if (path === '') this.touch('')
    else this.touch(parentOf(path), nameOf(path))
  }

  touchEverything(): void {
    this.#everything = true
    this.#dirty.clear()
    this.#wake?.()
  }

  /** Hands out what was collected. */
  take(): Dirty {
    const dirty = this.#everything ? 'everything' : this.#dirty
    this.#dirty = new Map()
    this.#everything = false
    this.#notices = 0
    return dirty
  }

  /** Resolves with true at the next hint (at once if there is one), with false after `ms` or when the signal aborts. */
  wait(ms: number, signal: AbortSignal): Promise<boolean> {
    if (!this.isEmpty || signal.aborted) return Promise.resolve(!signal.aborted)
    return new Promise((resolve) => {
      const settle = () => {
        clearTimeout(timer)
        signal.removeEventListener('abort', settle)
        this.#wake = undefined
        resolve(!this.isEmpty && !signal.aborted)
      }
      const timer = setTimeout(settle, ms)
      signal.addEventListener('abort', settle)
      this.#wake = settle
    })
  }

  close(): void {
    this.unwatchAll(() => true)
  }
}
