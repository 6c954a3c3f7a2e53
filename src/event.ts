/**
 * Events, names and positions: outside text becomes our words here, once. Below the doors nobody checks again.
 */
import { TidemarkError } from './errors.ts'

/** An event as it is appended: checked, its data already bytes. `null` is "not given". */
export interface NewEvent {
  readonly type: string | null
  readonly key: string | null
  readonly id: string | null
  /** `null` is `application/json`. */
  readonly contentType: string | null
  /** Kept verbatim; JSON stands on one line. `null` is no data at all (with a key: a tombstone). */
  readonly data: Uint8Array | null
  readonly to: Audience | null
}

/** An event as it is read. */
export interface Event extends NewEvent {
  readonly seq: number
  /** Milliseconds since 1970; within a channel it never falls. */
  readonly time: number
}

/** Who may see an addressed event. */
export interface Audience {
  readonly users: readonly string[]
  readonly groups: readonly string[]
}

/** Largest seq: 2^53 − 1, so that every seq is exact in JSON. */
export const SEQ_MAX = Number.MAX_SAFE_INTEGER
/** Latest time of an event that can be written out, ms since 1970. */
export const TIME_MAX = 8_640_000_000_000_000
/** Most events of one append, of one block. */
export const APPEND_EVENTS_MAX = 1_000
/** Largest block, header and table included: 960 KiB. */
export const BLOCK_BYTES_MAX = 960 * 1024
/** Deepest nesting of JSON or MessagePack data. */
export const DEPTH_MAX = 64
export const CHANNEL_BYTES_MAX = 200
export const CLIENT_BYTES_MAX = 128
export const TYPE_BYTES_MAX = 128
export const KEY_BYTES_MAX = 1_024
export const ID_BYTES_MAX = 128
export const CONTENT_TYPE_BYTES_MAX = 128
/** Most names in `to.users` and in `to.groups`. */
export const AUDIENCE_NAMES_MAX = 100

export const JSON_TYPE = 'application/json'

const CHANNEL = /^[A-Za-z0-9._:-]+(?:\/[A-Za-z0-9._:-]+)*$/
const DOTS = /(?:^|\/)\.\.?(?:\/|$)/
const RESERVED = /\/(?:events|trim|compact|state|cursors|erase)(?:\/|$)/
const CLIENT = /^[A-Za-z0-9._:-]+$/
const OWNED = /^(?:[A-Za-z0-9._:-]|%[0-9A-F]{2})+~[A-Za-z0-9._:-]{1,128}$/
const TYPE = /^[A-Za-z0-9._:/-]+$/
const CONTROL = /[\u0000-\u001f\u007f-\u009f]/
const PRINTABLE = /^[\x20-\x7e]+$/
const CONTENT_TYPE = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+\/[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:[\t ]*;[\t -~]*)?$/
const EPOCH = /^[A-Za-z0-9._~-]{1,32}$/

const refuse = (what: string, rule: string): never => {
  throw new TidemarkError('bad-request', `${what} ${rule}`, { field: what })
}

/** The name that was taken last: most callers speak of one channel many times over. */
let lastChannel = ''

/** Whether it is written as a channel's name is, whatever it says. */
export const isChannelName = (name: string): boolean =>
  name.length <= CHANNEL_BYTES_MAX && CHANNEL.test(name) && !DOTS.test(name)

/** Returns the name, or throws `bad-request`. */
export function checkChannel(name: unknown): string {
  if (name === lastChannel && lastChannel !== '') return lastChannel
  if (typeof name !== 'string' || !isChannelName(name))
    return refuse('channel', 'is 1–200 bytes of A-Z a-z 0-9 . _ : - /, without empty, "." or ".." segments')
  if (RESERVED.test(name))
    return refuse('channel', 'has no segment events, trim, compact, state, cursors or erase after the first')
  lastChannel = name
  return name
}

/** Who did what: read by admins alone. */
export const AUDIT_CHANNEL = '_audit'

/** Names beginning with `_` are the system's: callers read them, only the server appends to them. */
export const isSystemChannel = (name: string): boolean => name.startsWith('_')

export function checkClient(name: unknown): string {
  if (typeof name !== 'string' || name.length > CLIENT_BYTES_MAX || !CLIENT.test(name) || name === '.' || name === '..')
    return refuse('client', 'is 1–128 bytes of A-Z a-z 0-9 . _ : -, not "." or ".."')
  return name
}

/** Stands between the subject and the name of its cursor in the name that the log keeps: `anna~web-42`. */
export const CURSOR_OWNER = '~'
/** Most bytes of a subject, before what a name can not hold was encoded. */
export const SUBJECT_BYTES_MAX = 128
/** Most bytes of the whole name of a cursor, three for each byte of its subject. */
export const CURSOR_NAME_BYTES_MAX = SUBJECT_BYTES_MAX * 3 + CURSOR_OWNER.length + CLIENT_BYTES_MAX
/** A client's name, or the whole name of a subject's cursor: only admins say that. */
export function checkCursorName(name: unknown): string {
  if (typeof name === 'string' && name.length <= CURSOR_NAME_BYTES_MAX && OWNED.test(name)) return name
  return checkClient(name)
}

export function checkType(type: unknown): string {
  if (typeof type !== 'string' || type.length > TYPE_BYTES_MAX || !TYPE.test(type))
    return refuse('type', 'is 1–128 bytes of A-Z a-z 0-9 . _ : / -')
  if (type === 'error' || type === 'open' || type.startsWith('tidemark.'))
    return refuse('type', 'is not "error", "open" or "tidemark.…"')
  return type
}

/** Whether bytes[start] … bytes[end − 1] are a type that `checkType` takes; nothing is made of them. */
export function isType(bytes: Uint8Array, start: number, end: number): boolean {
  const length = end - start
  if (length < 1 || length > TYPE_BYTES_MAX) return false
  for (let i = start; i < end; i++) if (IS_TYPE[bytes[i]!] === 0) return false
  return !(
    (length === 4 && isAt(bytes, start, TYPE_OPEN)) ||
    (length === 5 && isAt(bytes, start, TYPE_ERROR)) ||
    (length >= 9 && isAt(bytes, start, TYPE_OWN))
  )
}

/** Whether bytes are printable ASCII without `"` and `\\`, at most `most`: a key or id however it is written. */
export function isPlain(bytes: Uint8Array, start: number, end: number, most: number): boolean {
  if (end <= start || end - start > most) return false
  for (let i = start; i < end; i++) {
    const c = bytes[i]!
    if (c < 0x20 || c > 0x7e || c === 0x22 || c === 0x5c) return false
  }
  return true
}

function isAt(bytes: Uint8Array, at: number, word: Uint8Array): boolean {
  for (let i = 0; i < word.length; i++) if (bytes[at + i] !== word[i]) return false
  return true
}

const utf8 = new TextEncoder()
const TYPE_OPEN = utf8.encode('open')
const TYPE_ERROR = utf8.encode('error')
const TYPE_OWN = utf8.encode('tidemark.')
/** By byte: whether it may stand in a type. */
const IS_TYPE = Uint8Array.from({ length: 256 }, (_, c) => Number(c < 128 && TYPE.test(String.fromCharCode(c))))

export function checkKey(key: unknown): string {
  const fits = typeof key === 'string' && key.length > 0 && key.length <= KEY_BYTES_MAX && !CONTROL.test(key)
  // A character is at most three bytes for each of its units; only a long key has to be encoded to know.
  const tooLong = (text: string): boolean => text.length * 3 > KEY_BYTES_MAX && utf8.encode(text).length > KEY_BYTES_MAX
  if (!fits || !isWellFormed(key) || tooLong(key))
    return refuse('key', 'is 1–1,024 bytes of UTF-8 without control characters')
  return key
}

export function checkId(id: unknown): string {
  if (typeof id !== 'string' || id.length > ID_BYTES_MAX || !PRINTABLE.test(id))
    return refuse('id', 'is 1–128 printable ASCII characters')
  return id
}

export function checkIdempotencyKey(key: unknown): string {
  if (typeof key !== 'string' || key.length > ID_BYTES_MAX || !PRINTABLE.test(key))
    return refuse('idempotencyKey', 'is 1–128 printable ASCII characters')
  return key
}

export function checkEpoch(epoch: unknown): string {
  if (typeof epoch !== 'string' || !EPOCH.test(epoch))
    return refuse('epoch', 'is 1–32 characters as the server gave it')
  return epoch
}

/** A seq given as a number (JSON) or as decimal digits (a query). */
export function checkSeq(seq: unknown, field = 'seq'): number {
  const n = typeof seq === 'string' && /^\d{1,16}$/.test(seq) ? Number(seq) : seq
  if (typeof n !== 'number' || !Number.isSafeInteger(n) || n < 0) return refuse(field, 'is a whole number, 0 … 2^53−1')
  return n
}

/** Lower-cases the media type, keeps its parameters; `application/json` in any form becomes `null`. */
export function checkContentType(type: unknown): string | null {
  if (typeof type !== 'string' || type.length > CONTENT_TYPE_BYTES_MAX || !CONTENT_TYPE.test(type))
    return refuse('contentType', 'is a media type of at most 128 bytes')
  const media = mediaType(type)
  return media === JSON_TYPE ? null : media + type.slice(media.length)
}

/** `Text/HTML; charset=x` → `text/html`. */
export function mediaType(contentType: string): string {
  const semicolon = contentType.indexOf(';')
  return (semicolon < 0 ? contentType : contentType.slice(0, semicolon)).trim().toLowerCase()
}

/** Content types whose bytes a reader gets as text in `data`, if they are valid UTF-8. Others come as `dataBase64`. */
export function isTextType(contentType: string): boolean {
  const media = mediaType(contentType)
  return media.startsWith('text/') || media === 'application/xml' || /\+(?:xml|json)$/.test(media)
}

export function checkAudience(to: unknown): Audience {
  const names = (list: unknown, field: string): readonly string[] => {
    if (list === undefined) return []
    if (!Array.isArray(list) || list.length > AUDIENCE_NAMES_MAX) return refuse(field, 'is a list of at most 100 names')
    return list.map((name) =>
      typeof name === 'string' && name.length > 0 && name.length <= 256 && !CONTROL.test(name) && isWellFormed(name)
        ? name
        : refuse(field, 'holds names of 1–256 characters'),
    )
  }
  if (typeof to !== 'object' || to === null || Array.isArray(to)) return refuse('to', 'is { users?: [], groups?: [] }')
  const { users, groups, ...rest } = to as Record<string, unknown>
  if (Object.keys(rest).length > 0) return refuse('to', 'has only users and groups')
  const audience = { users: names(users, 'to.users'), groups: names(groups, 'to.groups') }
  if (audience.users.length + audience.groups.length === 0) return refuse('to', 'names at least one user or group')
  return audience
}

/** The rules that join an event's fields. Each field was checked by itself before. */
export function checkEvent(event: NewEvent): NewEvent {
  checkJoined(event.type !== null, event.key !== null, event.data !== null, event.to !== null)
  return event
}

/** `checkEvent`, of which fields there are. @throws bad-request */
export function checkJoined(type: boolean, key: boolean, data: boolean, to: boolean): void {
  if (!data && !key && !type) refuse('event', 'has data, a key or a type')
  if (to && key) refuse('event', 'has either "to" or "key", not both')
}

/** A key and no data at all: the key's value is gone. */
export const isTombstone = (event: NewEvent): boolean => event.key !== null && event.data === null

/** Where a reader starts. `seq` is exclusive: "the last one I have". */
export type Position =
  | { readonly at: 'seq'; readonly seq: number }
  | { readonly at: 'earliest' }
  | { readonly at: 'head'; readonly back: number }
  | { readonly at: 'time'; readonly time: number }

export const EARLIEST: Position = { at: 'earliest' }

/** Reads an `after`: a seq, `earliest`, `head`, `head-50` or `time:<RFC 3339>`. */
export function checkPosition(after: unknown): Position {
  if (after === undefined || after === 'earliest') return EARLIEST
  if (typeof after === 'number' || (typeof after === 'string' && /^\d+$/.test(after)))
    return { at: 'seq', seq: checkSeq(after, 'after') }
  if (typeof after === 'string') {
    const head = /^head(?:-(\d{1,16}))?$/.exec(after)
    if (head) return { at: 'head', back: checkSeq(head[1] ?? 0, 'after') }
    if (after.startsWith('time:')) return { at: 'time', time: checkTime(after.slice(5)) }
  }
  return refuse('after', 'is a seq, earliest, head, head-50 or time:<RFC 3339>')
}

const RFC3339 = /^(\d{4})-(\d\d)-(\d\d)[Tt](?:[01]\d|2[0-3]):\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)$/

/** RFC 3339 → milliseconds since 1970. */
export function checkTime(text: unknown): number {
  const [, year, month, day] = (typeof text === 'string' && RFC3339.exec(text)) || []
  // Date.parse turns the 31st of a short month into a day of the next one.
  const real = Number(day) <= new Date(Date.UTC(Number(year), Number(month), 0)).getUTCDate()
  const ms = real ? Date.parse(text as string) : Number.NaN
  if (!(ms >= 0)) return refuse('time', 'is RFC 3339, for example 2026-11-22T18:48:00.123Z')
  return ms
}

export const formatTime = (ms: number): string => new Date(ms).toISOString()

/** True when no surrogate stands alone, so that the text is exact in UTF-8. */
function isWellFormed(text: string): boolean {
  return !/\p{Surrogate}/u.test(text)
}
