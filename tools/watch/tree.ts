/**
 * A directory tree as its channel tells it: each path is a key, its newest event says what stands there. And the
 * difference between what the channel tells and what was found on disk, as events.
 */
import type { EventJson, NewEventJson } from '../../src/wire.ts'

export type Kind = 'file' | 'dir' | 'link' | 'other'

/** What stands at a path. A directory has neither size nor mtime: its entries tell their own changes. */
export interface Node {
  /** `foreign`: the key's newest event is not one of ours, so that it never equals what is on disk. */
  readonly kind: Kind | 'foreign'
  /** Bytes; files only. */
  readonly size?: number
  /** Milliseconds since 1970, with a fraction as fine as the disk keeps it; files and links. */
  readonly mtime?: number
}

/** What a look at the disk found. A path in none of the three was not looked at, and stays as it is known. */
export interface Look {
  readonly found: Map<string, Node>
  /** Looked at, and not there; nor is anything below. */
  readonly absent: Set<string>
  /** Directories that can not be read: what is known of them stays. */
  readonly unread: Set<string>
}

export const ADDED = 'node.added'
export const CHANGED = 'node.changed'
export const REMOVED = 'node.removed'

const FOREIGN: Node = { kind: 'foreign' }
const KINDS: ReadonlySet<unknown> = new Set<Kind>(['file', 'dir', 'link', 'other'])

/** `a/b/c` → `a/b`; a name in the root → ``. */
export const parentOf = (path: string): string => path.slice(0, Math.max(path.lastIndexOf('/'), 0))
export const nameOf = (path: string): string => path.slice(path.lastIndexOf('/') + 1)
export const join = (dir: string, name: string): string => (dir === '' ? name : `${dir}/${name}`)

/** A name on the way to a path; `node` is undefined where only something below is known. */
interface Branch {
  node?: Node | undefined
  readonly below: Map<string, Branch>
}

/** `/a`, `a//b`, `a/../b`: keys that others wrote and that can be no path in the tree. */
const NO_PATH = /^\/|\/$|\/\/|(?:^|\/)\.\.?(?:\/|$)/

/** False for a key that stands nowhere in a tree. */
export const isPath = (key: string): boolean => !NO_PATH.test(key)

/** What is known to stand at each path. */
export class Tree {
  readonly #root: Branch = { below: new Map() }
  readonly #strange = new Set<string>()
  #size = 0

  /** Paths with a node. */
  get size(): number {
    return this.#size
  }

  /** Keys that are no paths. Whatever is found on disk, they do not belong to it. */
  get strange(): Iterable<string> {
    return this.#strange
  }

  get(path: string): Node | undefined {
    return this.#branch(path)?.node
  }

  set(path: string, node: Node): void {
    let branch = this.#root
    for (const name of path.split('/')) {
      let next = branch.below.get(name)
      if (next === undefined) {
        next = { below: new Map() }
        branch.below.set(name, next)
      }
      branch = next
    }
    if (branch.node === undefined) this.#size++
    branch.node = node
  }

  delete(path: string): void {
    if (this.#strange.delete(path)) return
    const way = [this.#root]
    const names = path.split('/')
    for (const name of names) {
      const next = way.at(-1)!.below.get(name)
      if (next === undefined) return
      way.push(next)
    }
    const last = way.at(-1)!
    if (last.node !== undefined) this.#size--
    last.node = undefined
    for (let i = names.length; i > 0 && way[i]!.node === undefined && way[i]!.below.size === 0; i--)
      way[i - 1]!.below.delete(names[i - 1]!)
  }

  clear(): void {
    this.#root.below.clear()
    this.#strange.clear()
    this.#size = 0
  }

  /** Names in a directory under which something is known. */
  names(dir: string): Iterable<string> {
    return this.#branch(dir)?.below.keys() ?? []
  }

  /** Every path with a node below this one (`` is the root: all). */
  *below(path: string): Iterable<string> {
    const branch = this.#branch(path)
    if (branch === undefined) return
    for (const [name, next] of branch.below) {
      const inner = join(path, name)
      if (next.node !== undefined) yield inner
      yield* this.below(inner)
    }
  }

  #branch(path: string): Branch | undefined {
    let branch: Branch | undefined = this.#root
    if (path !== '') for (const name of path.split('/')) branch = branch?.below.get(name)
    return branch
  }

  /** Takes up an event of the channel, whoever wrote it: the newest event of a key says what stands there. */
  apply(event: Pick<EventJson, 'type' | 'key' | 'data' | 'tombstone'>): void {
    if (event.key === undefined) return
    if (event.tombstone || event.type === REMOVED) this.delete(event.key)
    else if (!isPath(event.key)) this.#strange.add(event.key)
    else this.set(event.key, event.type === ADDED || event.type === CHANGED ? nodeOf(event.data) : FOREIGN)
  }
}

function nodeOf(data: unknown): Node {
  if (typeof data !== 'object' || data === null) return FOREIGN
  const { kind, size, mtime, ...rest } = data as Record<string, unknown>
  if (!KINDS.has(kind) || Object.keys(rest).length > 0) return FOREIGN
  for (const number of [size, mtime]) if (number !== undefined && typeof number !== 'number') return FOREIGN
  return data as Node
}

/** True when what is known must go before what was found can stand there. */
function isAnother(known: Tree, path: string, before: Node, node: Node): boolean {
  if (before.kind === node.kind || before.kind === 'foreign') return false
  // A directory that another writer called a file: its entries are there, so it does not go.
  return node.kind !== 'dir' || known.below(path)[Symbol.iterator]().next().done === true
}

const equal = (a: Node, b: Node): boolean => a.kind === b.kind && a.size === b.size && a.mtime === b.mtime

/**
 * The events that bring what is known to what was found: first what is gone, a child before its parent, then what is
 * new or changed, a parent before its child. Each event is about its own path alone. A path whose kind changed is
 * removed and added.
 */
export function difference(known: Tree, look: Look): NewEventJson[] {
  const gone = new Set<string>(known.strange)
  const here: [string, NewEventJson][] = []
  for (const path of look.absent) {
    if (known.get(path) !== undefined) gone.add(path)
    for (const inner of known.below(path)) gone.add(inner)
  }
  for (const [path, node] of look.found) {
    const before = known.get(path)
    if (node.kind !== 'dir') for (const inner of known.below(path)) gone.add(inner)
    if (before !== undefined && isAnother(known, path, before, node)) gone.add(path)
    if (before === undefined || gone.has(path)) here.push([path, { type: ADDED, key: path, data: node }])
    else if (!equal(before, node)) here.push([path, { type: CHANGED, key: path, data: node }])
  }
  // A parent's path is a prefix of its child's, and sorts before it.
  return [
    ...[...gone].sort(descending).map((path) => ({ type: REMOVED, key: path })),
    ...here.sort(([a], [b]) => -descending(a, b)).map(([, event]) => event),
  ]
}

const descending = (a: string, b: string): number => (a < b ? 1 : a > b ? -1 : 0)

const utf8 = new TextEncoder()
/** What an event costs beside its key, more or less, bytes. */
const EVENT_BYTES = 128

/** Cuts events, in order, into appends of at most so many events and so many bytes. */
export function* batches(
  events: readonly NewEventJson[],
  limits: { readonly events: number; readonly bytes: number },
): Iterable<NewEventJson[]> {
  let batch: NewEventJson[] = []
  let bytes = 0
  for (const event of events) {
    const cost = EVENT_BYTES + utf8.encode(event.key).length
    if (batch.length === limits.events || (batch.length > 0 && bytes + cost > limits.bytes)) {
      yield batch
      batch = []
      bytes = 0
    }
    batch.push(event)
    bytes += cost
  }
  if (batch.length > 0) yield batch
}
