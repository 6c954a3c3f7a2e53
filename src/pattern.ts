/**
 * Patterns of channel names. A segment is literal or ends in `*` (any rest of that segment, at least nothing); a last
 * segment `**` is one or more segments. Matched in one walk over the name: no backtracking, no RegExp.
 */
import { TidemarkError } from './errors.ts'
import { CHANNEL_BYTES_MAX, isSystemChannel } from './event.ts'

interface Segment {
  /** Without its `*`. */
  readonly text: string
  /** Any rest of the segment. */
  readonly isOpen: boolean
}

export interface Pattern {
  /** As it was written. */
  readonly text: string
  readonly segments: readonly Segment[]
  /** Ends in `**`: one or more segments behind the others. */
  readonly isDeep: boolean
  /** How every name begins that it reaches. */
  readonly beginning: string
  /** Only such a pattern reaches a system channel. */
  readonly isSystem: boolean
}

const SEGMENT = /^[A-Za-z0-9._:-]*\*?$/

/** @throws bad-request */
export function readPattern(given: unknown): Pattern {
  if (typeof given !== 'string' || given === '' || given.length > CHANNEL_BYTES_MAX) return refuse(given)
  const parts = given.split('/')
  const isDeep = parts.at(-1) === '**'
  if (isDeep) parts.pop()
  const segments = parts.map((part): Segment => {
    if (part === '' || !SEGMENT.test(part)) return refuse(given)
    const isOpen = part.endsWith('*')
    return { text: isOpen ? part.slice(0, -1) : part, isOpen }
  })
  const star = given.indexOf('*')
  const beginning = star < 0 ? given : given.slice(0, star)
  return { text: given, segments, isDeep, beginning, isSystem: given.startsWith('_') }
}

function refuse(given: unknown): never {
  throw new TidemarkError(
    'bad-request',
    `A pattern is segments of a channel name with / between them, each literal or ending in *, the last one may be **; not ${JSON.stringify(given)}`,
    { field: 'pattern' },
  )
}

/** @param channel a name that was checked */
export function matches(pattern: Pattern, channel: string): boolean {
  if (isSystemChannel(channel) !== pattern.isSystem) return false
  let at = 0
  for (const { text, isOpen } of pattern.segments) {
    if (at > channel.length || !channel.startsWith(text, at)) return false
    let end = at + text.length
    if (isOpen) {
      end = channel.indexOf('/', end)
      if (end < 0) end = channel.length
    } else if (end < channel.length && channel[end] !== '/') return false
    at = end + 1
  }
  // Beyond the end by one when every segment of the name was taken.
  return pattern.isDeep ? at < channel.length : at > channel.length
}
