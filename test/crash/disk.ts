/**
 * A file system that remembers which of its changes are on disk, after ALICE (Pillai and others, OSDI 2014): it takes
 * recorded calls, and gives directories as they may look when the power is cut at that point.
 *
 *   ext4       any fsync puts every earlier change of a name on disk; they keep their order
 *   strict     the fsync of a file is for its bytes, the fsync of a directory for its names; those keep their order
 *   unordered  POSIX and no more: as strict, but until the fsync of its directory each name is on its own
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { Dice } from './dice.ts'
import type { Call } from './trace.ts'

export const MODELS = ['ext4', 'strict', 'unordered'] as const
export type Model = (typeof MODELS)[number]
/** What becomes of changes that were not synced; `some`: by the dice, a write torn within. */
export const FATES = ['none', 'all', 'some'] as const
export type Fate = (typeof FATES)[number]

interface Write {
  readonly bytes: Buffer
  readonly offset: number
}

/** A file, whatever its name is now. */
interface File {
  /** Later truncations begin again. */
  writes: Write[]
  synced: number
}

/** A change of names; `to` undefined: gone, `from`: the name that it had before. */
interface Naming {
  readonly dir: string
  readonly name: string
  readonly from?: string
  readonly to: File | 'dir' | undefined
  isSynced: boolean
}

export class Disk {
  readonly #model: Model
  readonly #now = new Map<string, File | 'dir'>()
  readonly #namings: Naming[] = []

  constructor(model: Model) {
    this.#model = model
  }

  take(call: Call): void {
    if (call.call === 'create') this.#name(call.path, { writes: [], synced: 0 })
    else if (call.call === 'mkdir') this.#name(call.path, 'dir')
    else if (call.call === 'unlink') this.#name(call.path, undefined)
    else if (call.call === 'rename') this.#name(call.to, this.#now.get(call.path), call.path)
    else if (call.call === 'sync') this.#sync(call.path)
    else if (call.call === 'truncate') Object.assign(this.#file(call.path), { writes: [], synced: 0 })
    else if (call.call === 'write') {
      const { writes } = this.#file(call.path)
      writes.push({ bytes: call.bytes, offset: call.offset ?? sizeOf(writes) })
    }
  }

  /** One that has no name any more comes back in no state. */
  #file(path: string): File {
    const file = this.#now.get(path)
    return file === undefined || file === 'dir' ? { writes: [], synced: 0 } : file
  }

  /** Makes the state below `root`, which takes the place of `recorded`. */
  write(root: string, recorded: string, { data, names }: { data: Fate; names: Fate }, dice: Dice): void {
    const left = this.#namesLeft(names, dice)
    const reached = new Set([recorded])
    for (const [path, file] of [...left].sort(([a], [b]) => (a < b ? -1 : 1))) {
      const at = join(root, path.slice(recorded.length))
      // A file whose directory is not there can not be reached.
      if (!reached.has(dirname(path))) continue
      if (file !== 'dir') writeFileSync(at, contentOf(file, data, dice))
      else {
        mkdirSync(at)
        reached.add(path)
      }
    }
  }

  #name(path: string, to: File | 'dir' | undefined, from?: string): void {
    this.#now.delete(path)
    if (from !== undefined) this.#now.delete(from)
    if (to) this.#now.set(path, to)
    this.#namings.push({ dir: dirname(path), name: path, to, isSynced: false, ...(from !== undefined && { from }) })
  }

  #sync(path: string): void {
    const file = this.#now.get(path)
    if (file && file !== 'dir') file.synced = file.writes.length
    for (const naming of this.#namings) if (this.#model === 'ext4' || naming.dir === path) naming.isSynced = true
  }

  #namesLeft(fate: Fate, dice: Dice): Map<string, File | 'dir'> {
    const left = new Map<string, File | 'dir'>()
    /** Directories, or the whole disk, of whose changes no more is left. */
    const cut = new Set<string>()
    for (const { dir, name, from, to, isSynced } of this.#namings) {
      if (!isSynced) {
        if (fate === 'none') continue
        const row = this.#model === 'ext4' ? '' : dir
        const isLost = this.#model === 'unordered' ? dice(2) === 0 : cut.has(row) || dice(3) === 0
        if (fate === 'some' && isLost) {
          cut.add(row)
          continue
        }
      }
      if (from !== undefined) left.delete(from)
      if (to) left.set(name, to)
      else left.delete(name)
    }
    return left
  }
}

const sizeOf = (writes: readonly Write[]): number =>
  writes.reduce((size, { bytes, offset }) => Math.max(size, offset + bytes.length), 0)

function contentOf({ writes, synced }: File, fate: Fate, dice: Dice): Buffer {
  const open = writes.slice(synced)
  const some = fate === 'all' ? open : fate === 'none' ? [] : torn(open, dice)
  const all = [...writes.slice(0, synced), ...some]
  const content = Buffer.alloc(sizeOf(all))
  for (const { bytes, offset } of all) bytes.copy(content, offset)
  return content
}

/** Whole writes up to one that is cut within. */
function torn(writes: readonly Write[], dice: Dice): Write[] {
  if (writes.length === 0) return []
  const whole = dice(writes.length)
  const { bytes, offset } = writes[whole]!
  return [...writes.slice(0, whole), { bytes: bytes.subarray(0, dice(bytes.length + 1)), offset }]
}
