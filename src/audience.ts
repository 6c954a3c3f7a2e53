/** Who sees what: addressed events, and blocks as their audience may have them. */
import { buildBlock, type Crc32, readHeader, type Span, walkBlock } from './block.ts'
import { FLAG } from './body.ts'
import { type Audience, SEQ_MAX } from './event.ts'

/** A reader who may not see everything. */
export interface Reader {
  /** Whose token it is. */
  readonly sub: string
  /** Each is a path of segments: `/staff/dev`. */
  readonly groups: readonly string[]
}

/** Whether an addressed event is for this reader. A group is whoever stands at it or below it, by whole segments. */
export function reaches({ users, groups }: Audience, reader: Reader): boolean {
  return users.includes(reader.sub) || groups.some((group) => reader.groups.some((own) => isWithin(own, group)))
}

function isWithin(own: string, group: string): boolean {
  const path = group.endsWith('/') ? group.slice(0, -1) : group
  return own.startsWith(path) && (own.length === path.length || own[path.length] === '/')
}

export const isAddressed = (block: Uint8Array): boolean => (block[1]! & FLAG.addressed) !== 0

const NIL = 0xc0

/**
 * A block as this reader may have it: what is for others is a hole, and of what is for it nobody is told whom else it
 * is for. The same block where nothing in it is addressed.
 * @throws data-loss
 */
export function blockFor(reader: Reader, channel: string, block: Uint8Array, crc32: Crc32): Uint8Array {
  if (!isAddressed(block)) return block
  const { after, last, time } = readHeader(block)
  const spans: Span[] = []
  walkBlock(block, 0, SEQ_MAX, (seq, at, { to, fields, dataEnd, key }) => {
    if (to === null || reaches(to, reader)) {
      // The event without its last part, which is nil now.
      const bytes = block.slice(fields - 1, dataEnd + 1)
      bytes[bytes.length - 1] = NIL
      spans.push({ seq, time: at, bytes, flags: key < 0 ? 0 : FLAG.keyed })
    }
    return true
  })
  // Offsets are those of the block as it was, which could be expressed.
  return buildBlock(channel, { after, last, time }, spans, crc32) as Uint8Array
}
