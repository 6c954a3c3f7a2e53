/** The folder as the channel tells it, and what of it is to be seen: rows, in order, of the directories that are open. */
import type { EventJson } from '../../src/wire.ts'
import { ADDED, join, type Node, parentOf, REMOVED, Tree } from '../watch/tree.ts'

export interface Row {
  readonly path: string
  readonly name: string
  /** 1 for a name in the folder itself. */
  readonly level: number
  readonly isDir: boolean
  readonly isOpen: boolean
  /** Its place among those beside it, from 1, and how many these are. */
  readonly place: number
  readonly beside: number
}

/** What became of the folder since it was drawn last. */
export interface Changes {
  readonly added: ReadonlyMap<string, Node>
  readonly changed: ReadonlySet<string>
  readonly removed: ReadonlyMap<string, Node>
  /** New path → the old one, of what was renamed or moved. */
  readonly moved: ReadonlyMap<string, string>
}

/** More changes than this between two drawings are shown as they stand, none by itself. */
const CHANGES_MAX = 2_000

const byName = new Intl.Collator(undefined, { numeric: true })

export class Folder {
  readonly tree = new Tree()
  readonly #open = new Set<string>()
  /** Names of open directories in the order in which they are shown. */
  readonly #sorted = new Map<string, readonly string[]>()
  #rows: readonly Row[] | undefined
  readonly #added = new Map<string, Node>()
  readonly #changed = new Set<string>()
  readonly #removed = new Map<string, Node>()
  /** More happened than is told one by one: a hidden page is not drawn for hours. */
  #isMuch = false

  apply(event: EventJson): void {
    const { key, type } = event
    if (key === undefined) return
    const before = this.tree.get(key)
    this.tree.apply(event)
    const node = this.tree.get(key)
    // Directories stand before files: a name that became another kind moves too.
    if (before?.kind !== node?.kind) this.#isStale(key)
    if (this.#isMuch) return
    if (type === REMOVED && before) {
      this.#changed.delete(key)
      if (!this.#added.delete(key)) this.#removed.set(key, before)
    } else if (type === ADDED && node) this.#added.set(key, node)
    else this.#changed.add(key)
    if (this.#added.size + this.#changed.size + this.#removed.size <= CHANGES_MAX) return
    this.#forget()
    this.#isMuch = true
  }

  /** What was told is void: another history begins. */
  clear(): void {
    this.tree.clear()
    this.#sorted.clear()
    this.#rows = undefined
    this.#forget()
  }

  /** Hands out what became of the folder, and lets what was moved stay open. */
  take(): Changes {
    const [added, changed, removed] = [new Map(this.#added), new Set(this.#changed), new Map(this.#removed)]
    const moved = moves(added, removed)
    for (const [to, from] of moved) if (this.#open.has(from)) this.#setOpen(to, true)
    if (removed.size > 0 || this.#isMuch)
      for (const path of this.#open) if (!this.#isDir(path)) this.#setOpen(path, false)
    this.#forget()
    return { added, changed, removed, moved }
  }

  #forget(): void {
    this.#added.clear()
    this.#changed.clear()
    this.#removed.clear()
    this.#isMuch = false
  }

  get rows(): readonly Row[] {
    if (this.#rows === undefined) {
      const rows: Row[] = []
      this.#list('', 1, rows)
      this.#rows = rows
    }
    return this.#rows
  }

  #list(dir: string, level: number, rows: Row[]): void {
    const names = this.#namesIn(dir)
    for (let i = 0; i < names.length; i++) {
      const name = names[i]!
      const path = join(dir, name)
      const isDir = this.#isDir(path)
      const isOpen = isDir && this.#open.has(path)
      rows.push({ path, name, level, isDir, isOpen, place: i + 1, beside: names.length })
      if (isOpen) this.#list(path, level + 1, rows)
    }
  }

  #namesIn(dir: string): readonly string[] {
    const known = this.#sorted.get(dir)
    if (known) return known
    const entries = Array.from(this.tree.names(dir), (name) => ({ name, isDir: this.#isDir(join(dir, name)) }))
    entries.sort((a, b) => Number(b.isDir) - Number(a.isDir) || byName.compare(a.name, b.name))
    const names = entries.map(({ name }) => name)
    this.#sorted.set(dir, names)
    return names
  }

  /** How many names stand in a directory. */
  count(dir: string): number {
    let count = 0
    for (const _ of this.tree.names(dir)) count++
    return count
  }

  #isDir(path: string): boolean {
    const node = this.tree.get(path)
    // A name of which only something below is known is a directory, too.
    return node === undefined ? this.count(path) > 0 : node.kind === 'dir'
  }

  #isStale(path: string): void {
    this.#sorted.delete(parentOf(path))
    this.#rows = undefined
  }

  #setOpen(path: string, isOpen: boolean): void {
    if (isOpen) this.#open.add(path)
    else if (this.#open.delete(path)) this.#sorted.delete(path)
    this.#rows = undefined
  }

  toggle(path: string, isOpen = !this.#open.has(path)): void {
    if (this.#isDir(path)) this.#setOpen(path, isOpen)
  }

  /** Opens every directory beside this path. */
  openBeside(path: string): void {
    for (const name of this.#namesIn(parentOf(path))) this.toggle(join(parentOf(path), name), true)
  }

  /** Opens what is above a path, so that it is among the rows. */
  reveal(path: string): void {
    for (let way = parentOf(path); way !== ''; way = parentOf(way)) this.toggle(way, true)
  }

  /** The row that stands for a path: its own, or that of the closed directory that it is in. */
  rowOf(path: string): string {
    let shown = path
    for (let way = parentOf(path); way !== ''; way = parentOf(way)) if (!this.#open.has(way)) shown = way
    return shown
  }
}

/**
 * The watch tells a move as a removal and an addition. What is gone here and new there, of the same kind, size and
 * time of change, was moved; so were the directories above it that are gone and new with it.
 * @returns new path → old path
 */
function moves(added: ReadonlyMap<string, Node>, removed: ReadonlyMap<string, Node>): Map<string, string> {
  const found = new Map<string, string>()
  const gone = new Map<string, string | null>()
  for (const [path, node] of removed) {
    const look = looks(node)
    if (look !== undefined) gone.set(look, gone.has(look) ? null : path)
  }
  for (const [path, node] of added) {
    const from = gone.get(looks(node) ?? '')
    let [to, old] = [path, from ?? '']
    while (to !== old && removed.has(old) && added.has(to) && !found.has(to)) {
      found.set(to, old)
      ;[to, old] = [parentOf(to), parentOf(old)]
    }
  }
  return found
}

const looks = ({ kind, size, mtime }: Node): string | undefined =>
  mtime === undefined ? undefined : `${kind} ${size} ${mtime}`
