/**
 * The newest seq of each key of a stretch, in bounded memory: where there are more keys than fit, only those of a part
 * of the key space (by hash) are taken, and the stretch is gone over once for each part.
 */
import { crc32 } from 'node:zlib'

/** Most that the keys of one part take in memory, bytes. */
const NEWEST_BYTES = 96 * 1024 * 1024
/** Of a key beyond its characters. */
const KEY_OVERHEAD = 100
/** Parts are halved until there are so many; what does not fit even then is left as it is. */
const PARTS_MAX = 65_536

interface Part {
  readonly index: number
  /** A power of two. */
  readonly of: number
}

export class Newest {
  readonly #budget: number
  readonly #todo: Part[] = [{ index: 0, of: 1 }]
  #part: Part = { index: 0, of: 1 }
  #seqs = new Map<string, number>()
  #bytes = 0

  constructor(budget = NEWEST_BYTES) {
    this.#budget = budget
  }

  /** Goes on to the next part of the key space; false when there is none left. */
  next(): boolean {
    const part = this.#todo.pop()
    this.#seqs.clear()
    this.#bytes = 0
    if (part) this.#part = part
    return part !== undefined
  }

  /** Events of a key come in the order of their seqs. */
  note(key: string, seq: number): void {
    if (!this.#seqs.has(key)) {
      if (!this.#isMine(key)) return
      while (this.#bytes >= this.#budget && this.#part.of < PARTS_MAX) this.#halve()
      // Of what is not noted everything stays.
      if (this.#bytes >= this.#budget || !this.#isMine(key)) return
      this.#bytes += costOf(key)
    }
    this.#seqs.set(key, seq)
  }

  /** Of a key of this part; undefined of any other. */
  of(key: string): number | undefined {
    return this.#seqs.get(key)
  }

  /** There is one part and it is the first: what is counted here is counted of all. */
  get isFirst(): boolean {
    return this.#part.index === 0
  }

  #isMine(key: string): boolean {
    const { index, of } = this.#part
    return of === 1 || (crc32(key) & (of - 1)) === index
  }

  #halve(): void {
    const { index, of } = this.#part
    this.#todo.push({ index: index + of, of: of * 2 })
    this.#part = { index, of: of * 2 }
    for (const key of this.#seqs.keys())
      if (!this.#isMine(key)) {
        this.#seqs.delete(key)
        this.#bytes -= costOf(key)
      }
  }
}

/** What a key takes in memory: beyond Latin-1 every character takes two bytes. */
const costOf = (key: string): number => 2 * key.length + KEY_OVERHEAD
