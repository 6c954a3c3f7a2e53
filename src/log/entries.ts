/** What an append is to any engine: within the limits, so many bytes, the same as another one or not. */
import { crc32 } from 'node:zlib'
import { BODIES_BYTES_MAX, BODY_BYTES_MAX } from '../body.ts'
import { TidemarkError } from '../errors.ts'
import { APPEND_EVENTS_MAX } from '../event.ts'
import type { Append } from './log.ts'

/** Appends to one channel that wait together are merged into one block up to this size. */
export const MERGE_BYTES = 64 * 1024

/** What a small change counts in a group. */
export const CHANGE_BYTES = 200

/** Bytes of an append. @throws bad-request, too-large */
export function sizeOf(entries: readonly Append[]): number {
  let bytes = 0
  const names = entries.length > 1 ? new Set<string>() : undefined
  if (entries.length === 0) throw new TidemarkError('bad-request', 'An append has at least one entry')
  for (const { channel, body } of entries) {
    if (body.count === 0) throw new TidemarkError('bad-request', 'An append has at least one event', { channel })
    if (body.count > APPEND_EVENTS_MAX || body.bytes.length > BODY_BYTES_MAX)
      throw new TidemarkError(
        'too-large',
        `An append holds at most ${APPEND_EVENTS_MAX} events, ${BODY_BYTES_MAX} bytes`,
        {
          ...{ channel, events: APPEND_EVENTS_MAX, bytes: BODY_BYTES_MAX },
        },
      )
    if (names?.has(channel))
      throw new TidemarkError('bad-request', `${channel} stands twice in one append`, { channel })
    names?.add(channel)
    bytes += body.bytes.length + CHANGE_BYTES
  }
  if (bytes - entries.length * CHANGE_BYTES > BODIES_BYTES_MAX)
    throw new TidemarkError('too-large', `An append holds at most ${BODIES_BYTES_MAX} bytes over all its channels`, {
      bytes: BODIES_BYTES_MAX,
    })
  return bytes
}

const utf8 = new TextEncoder()

/** Tells whether two appends are the same as they were sent. */
export function crcOf(entries: readonly Append[]): number {
  let crc = 0
  for (const { channel, body, expectedSeq } of entries) {
    crc = crc32(utf8.encode(`${channel}\n${body.count}\n${expectedSeq ?? ''}\n`), crc)
    crc = crc32(body.bytes, crc)
  }
  return crc
}
