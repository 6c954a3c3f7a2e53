/**
 * Histories carried from one log to another, at once or by way of a file: what one gives (give.ts) is a run of pieces,
 * what the other takes (take.ts) is the same run. Functions over the port: an embedded log and a server that is asked
 * over HTTP give and take alike.
 */
import { createHash } from 'node:crypto'
import { readHeader, spansOf } from '../block.ts'
import { FLAG } from '../body.ts'
import { putU64 } from '../bytes.ts'
import type { ChannelInfo, Cursor } from './log.ts'

/** What was carried of a channel; two that are equal hold the same events. */
export interface Sum {
  readonly events: number
  /** Of the events as blocks keep them. */
  readonly bytes: number
  readonly cursors: number
  /** Events that are known to be lost where they come from. */
  readonly lost: number
  /** Cursors that are damaged there. */
  readonly lostCursors: number
  /** SHA-256 over seq, time and bytes of every event, and over what is lost; hex. */
  readonly digest: string
  /** SHA-256 over client, seq and time of every cursor; hex. */
  readonly cursorsDigest: string
}

export type Piece =
  /** What follows is of this channel, up to its `end` or `void`. */
  | ({ readonly is: 'channel' } & ChannelInfo)
  /** Blocks that chain exactly, from `trimmed` on. */
  | { readonly is: 'blocks'; readonly blocks: readonly Uint8Array[] }
  /** The channel goes on to this head. */
  | { readonly is: 'grown'; readonly head: number; readonly time: number }
  /** All that was told up to here was trimmed there meanwhile, and more: it goes on behind this seq. */
  | { readonly is: 'trimmed'; readonly upTo: number }
  | { readonly is: 'lost'; readonly after: number; readonly upTo: number }
  /** @param damaged clients whose cursors can not be read there */
  | { readonly is: 'cursors'; readonly cursors: readonly CursorOf[]; readonly damaged?: readonly string[] }
  | { readonly is: 'end'; readonly sum: Sum }
  /** The channel was deleted there, or is begun anew: what was told of it counts for nothing. */
  | { readonly is: 'void' }

/** A cursor beside its channel. */
export type CursorOf = Omit<Cursor, 'channel'>

/** The sum of a channel while it is carried. */
export class Summing {
  #events = 0
  #bytes = 0
  #cursors = 0
  #lost = 0
  #lostCursors = 0
  /** Compaction took something out of what was carried. */
  hasHoles = false
  #hash = createHash('sha256')
  #cursorsHash = createHash('sha256')

  add(piece: Piece): void {
    if (piece.is === 'blocks') for (const block of piece.blocks) this.#block(block)
    if (piece.is === 'cursors') {
      for (const cursor of piece.cursors) this.#cursor(cursor)
      this.#lostCursors += piece.damaged?.length ?? 0
    }
    if (piece.is === 'lost') {
      this.#lost += piece.upTo - piece.after
      this.#hash.update(`lost ${piece.after} ${piece.upTo}`)
    }
    if (piece.is === 'trimmed') {
      this.#events = this.#bytes = this.#lost = 0
      this.#hash = createHash('sha256')
    }
  }

  #block(block: Uint8Array): void {
    if (readHeader(block).flags & FLAG.holes) this.hasHoles = true
    const place = new Uint8Array(16)
    for (const { seq, time, bytes } of spansOf(block)) {
      putU64(place, 0, seq)
      putU64(place, 8, time)
      this.#hash.update(place).update(bytes)
      this.#events++
      this.#bytes += bytes.length
    }
  }

  #cursor({ client, seq, time }: CursorOf): void {
    this.#cursors++
    this.#cursorsHash.update(`${client} ${seq} ${time}\n`)
  }

  /** As if no cursor had come. */
  forgetCursors(): void {
    this.#cursors = this.#lostCursors = 0
    this.#cursorsHash = createHash('sha256')
  }

  sum(): Sum {
    return {
      ...{
        events: this.#events,
        bytes: this.#bytes,
        cursors: this.#cursors,
        lost: this.#lost,
        lostCursors: this.#lostCursors,
      },
      digest: this.#hash.copy().digest('hex'),
      cursorsDigest: this.#cursorsHash.copy().digest('hex'),
    }
  }
}

/** Whether two channels hold the same. */
export const isSame = (one: Sum, other: Sum, withCursors = true): boolean =>
  one.digest === other.digest &&
  one.events === other.events &&
  one.lost === other.lost &&
  (!withCursors || (one.cursors === other.cursors && one.cursorsDigest === other.cursorsDigest))
