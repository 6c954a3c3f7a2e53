/** What an append is to the writer: within the limits, and so many bytes. */
import { BODIES_BYTES_MAX, BODY_BYTES_MAX } from '../../body.ts'
import { TidemarkError } from '../../errors.ts'
import { APPEND_EVENTS_MAX } from '../../event.ts'
import type { Append } from '../log.ts'

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
