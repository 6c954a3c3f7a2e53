/**
 * The block archive: blocks as the log keeps them, each run of them in a frame with a checksum.
 *
 *   file  := 'TIDEMARK' frame*
 *   frame := length u32 | crc32 u32 | kind u8 | payload        length of kind and payload, crc32 over both; big-endian
 *
 * The payload of `b` is whole blocks, one behind the other; of every other kind the record as JSON.
 */
import { crc32 } from 'node:zlib'
import { splitBlocks } from '../../src/block.ts'
import { getU32, putU32 } from '../../src/bytes.ts'
import { recordFrom } from './check.ts'
import { type ArchiveRecord, type Codec, cut, type Entry, type Input } from './record.ts'

const MAGIC = Buffer.from('TIDEMARK')
const FRAME_HEAD = 8
/** Longest frame, bytes: a run of blocks is 2 MiB at most, a channel's settings and cursors far less. */
const FRAME_MAX = 8 * 1024 * 1024
const BLOCKS = 'b'.charCodeAt(0)
const JSON_RECORD = 'j'.charCodeAt(0)

export const blocksCodec: Codec = { name: 'blocks', encode, decode }

/** Whether a file that begins so is a block archive. */
export const isBlocks = (start: Uint8Array): boolean => MAGIC.equals(start.subarray(0, MAGIC.length))

function encode(record: ArchiveRecord): Uint8Array {
  const parts =
    record.is === 'blocks' ? [Buffer.of(BLOCKS), ...record.blocks] : [Buffer.of(JSON_RECORD), jsonOf(record)]
  const head = Buffer.alloc(FRAME_HEAD)
  putU32(
    head,
    0,
    parts.reduce((sum, { length }) => sum + length, 0),
  )
  putU32(
    head,
    4,
    parts.reduce((crc, part) => crc32(part, crc), 0),
  )
  return Buffer.concat([...(record.is === 'archive' ? [MAGIC] : []), head, ...parts])
}

const jsonOf = (record: ArchiveRecord): Buffer => Buffer.from(JSON.stringify(record))

function* decode(input: Input): Generator<Entry> {
  const magic = input.take(MAGIC.length)
  if (!isBlocks(magic)) throw cut(0, 'it is no block archive')
  for (let before: Uint8Array = magic; ; before = Buffer.of()) {
    const at = input.offset
    const head = input.take(FRAME_HEAD)
    if (head.length === 0) return
    const length = head.length < FRAME_HEAD ? 0 : getU32(head, 0)
    if (length === 0 || length > FRAME_MAX) throw cut(at, 'no frame begins there')
    const body = input.take(length)
    if (body.length < length) throw cut(at, 'a frame is cut')
    if (crc32(body) !== getU32(head, 4)) throw cut(at, 'a frame does not match its checksum')
    yield { record: recordOf(body, at), bytes: Buffer.concat([before, head, body]) }
  }
}

/** @throws data-loss { offset } */
function blocksIn(payload: Buffer, at: number): Uint8Array[] {
  try {
    return splitBlocks(payload)
  } catch (error) {
    throw cut(at, (error as Error).message)
  }
}

function recordOf(body: Buffer, at: number): ArchiveRecord {
  const payload = body.subarray(1)
  if (body[0] === BLOCKS) return { is: 'blocks', blocks: blocksIn(payload, at) }
  if (body[0] !== JSON_RECORD) throw cut(at, `frames of kind ${body[0]} are not known`)
  return recordFrom(payload.toString(), at)
}
