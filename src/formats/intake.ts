/**
 * Frames from a client → checked requests. A frame that is no message at all is a `BadFrame` (close 4400); one that is
 * a message but not as the protocol asks is a `refused` request, which its sender gets told under its own `ref`.
 */
import { TOKEN_CHARS_MAX } from '../access/principal.ts'
import { BODY_BYTES_MAX, type Body } from '../body.ts'
import { TidemarkError, toTidemarkError } from '../errors.ts'
import {
  APPEND_EVENTS_MAX,
  checkChannel,
  checkCursorName,
  checkEpoch,
  checkIdempotencyKey,
  checkPosition,
  checkSeq,
  DEPTH_MAX,
  isSystemChannel,
} from '../event.ts'
import type { From } from '../log/follow.ts'
import type { Ref } from '../wire.ts'
import {
  checkEnd,
  jsonString,
  jsonValue,
  KnownTexts,
  LEVELS_AROUND,
  refuse,
  skipColon,
  skipComma,
  skipName,
  skipSpace,
  skipValue,
  textOf,
  wordAt,
  wordsOf,
} from './json.ts'
import { msgpackFields } from './msgpack.ts'
import { readJsonEvents } from './parse.ts'

/** Longest `ref` that is text, characters. */
const REF_MAX = 64

export class BadFrame extends Error {}

interface Asked {
  readonly ref: Ref | undefined
}

export interface SubscribeRequest extends Asked {
  readonly op: 'subscribe'
  readonly channel: string
  /** Undefined: from the cursor of this socket's client. */
  readonly after: Extract<From, { after: unknown }>['after'] | undefined
  /** The newest event of each key comes first, from the beginning. */
  readonly state: boolean
  readonly epoch: string | undefined
}

export interface CommitRequest extends Asked {
  readonly op: 'commit'
  readonly channel: string
  readonly seq: number
  /** Undefined: of the history that this socket was told last. */
  readonly epoch: string | undefined
}

export interface AppendRequest extends Asked {
  readonly op: 'append'
  readonly channel: string
  readonly body: Body
  readonly expectedSeq: number | undefined
  readonly idempotencyKey: string | undefined
}

export interface Refused extends Asked {
  readonly op: 'refused'
  /** The op that was asked, as far as it could be told. */
  readonly of: string | undefined
  readonly channel: string | undefined
  readonly error: TidemarkError
}

export type Request =
  | (Asked & { readonly op: 'hello'; readonly token: string | undefined; readonly client: string | null })
  | SubscribeRequest
  | (Asked & { readonly op: 'unsubscribe'; readonly channel: string })
  | CommitRequest
  | AppendRequest
  | (Asked & { readonly op: 'refresh'; readonly token: string })
  | (Asked & { readonly op: 'ping' })
  | Refused

/** The fields of each op beside `op` and `ref`. */
const FIELDS: Readonly<Record<Exclude<Request['op'], 'refused'>, readonly string[]>> = {
  hello: ['token', 'client'],
  subscribe: ['channel', 'after', 'cursor', 'state', 'epoch'],
  unsubscribe: ['channel'],
  commit: ['channel', 'seq', 'epoch'],
  append: ['channel', 'events', 'expectedSeq', 'idempotencyKey'],
  refresh: ['token'],
  ping: [],
}

/** A message's fields, still as they came. */
interface Fields {
  names(): readonly string[]
  /** Undefined when it is not given. */
  value(name: string): unknown
  events(): Body
}

/** @param bytes of a text frame are UTF-8 @throws BadFrame */
export function readRequest(bytes: Uint8Array, binary: boolean): Request {
  let fields: Fields
  try {
    fields = binary ? msgpackFields(bytes, WORDS, KNOWN_PACKED) : MESSAGE_READ.read(bytes)
  } catch (error) {
    return unread(bytes, binary, error)
  }
  const told: { ref?: Ref; op?: string; channel?: string } = {}
  try {
    return check(fields, told)
  } catch (error) {
    return { op: 'refused', ref: told.ref, of: told.op, channel: told.channel, error: toTidemarkError(error) }
  }
}

/** What was known of a message is written to `told` on the way, for the answer to a refused one. */
function check(fields: Fields, told: { ref?: Ref; op?: string; channel?: string }): Request {
  const ref = checkRef(fields.value('ref'))
  if (ref !== undefined) told.ref = ref
  const op = fields.value('op')
  if (typeof op !== 'string' || !Object.hasOwn(FIELDS, op))
    return refuse('op is none of the known ones', { field: 'op' })
  told.op = op
  const known = FIELDS[op as keyof typeof FIELDS]
  if (known.includes('channel')) told.channel = checkChannel(fields.value('channel'))
  for (const name of fields.names())
    if (name !== 'op' && name !== 'ref' && !known.includes(name))
      refuse(`${op} has no field ${JSON.stringify(name)}`, { field: name })
  const channel = told.channel!
  switch (op as keyof typeof FIELDS) {
    case 'hello': {
      const token = fields.value('token')
      const client = fields.value('client')
      return {
        op: 'hello',
        ref,
        token: token === undefined ? undefined : checkToken(token),
        client: client === undefined ? null : checkCursorName(client),
      }
    }
    case 'subscribe':
      return subscribe(fields, ref, channel)
    case 'unsubscribe':
      return { op: 'unsubscribe', ref, channel }
    case 'commit':
      return { op: 'commit', ref, channel, seq: wholeNumber(fields, 'seq'), epoch: optionalEpoch(fields) }
    case 'append':
      return append(fields, ref, channel)
    case 'refresh':
      return { op: 'refresh', ref, token: checkToken(fields.value('token')) }
    case 'ping':
      return { op: 'ping', ref }
  }
}

function subscribe(fields: Fields, ref: Ref | undefined, channel: string): SubscribeRequest {
  const after = fields.value('after')
  const cursor = fields.value('cursor')
  const state = fields.value('state')
  if (cursor !== undefined && cursor !== true) refuse('cursor is true or absent', { field: 'cursor' })
  if (state !== undefined && state !== true) refuse('state is true or absent', { field: 'state' })
  if ([after, cursor, state].filter((start) => start !== undefined).length > 1)
    refuse('A subscription starts at "after", at the cursor or with the state: one of them')
  return {
    op: 'subscribe',
    ref,
    channel,
    after: cursor ? undefined : checkPosition(state ? 0 : after),
    state: state === true,
    epoch: optionalEpoch(fields),
  }
}

/** A seq that is a number, not text as in a query. */
function wholeNumber(fields: Fields, name: string): number {
  const value = fields.value(name)
  return checkSeq(typeof value === 'number' ? value : Number.NaN, name)
}

function optionalEpoch(fields: Fields): string | undefined {
  const epoch = fields.value('epoch')
  return epoch === undefined ? undefined : checkEpoch(epoch)
}

function append(fields: Fields, ref: Ref | undefined, channel: string): AppendRequest {
  if (ref === undefined) refuse('append has a ref', { field: 'ref' })
  if (isSystemChannel(channel))
    throw new TidemarkError('forbidden', 'Names that begin with "_" are the system\'s: nobody else appends there')
  const key = fields.value('idempotencyKey')
  return {
    op: 'append',
    ref,
    channel,
    expectedSeq: fields.value('expectedSeq') === undefined ? undefined : wholeNumber(fields, 'expectedSeq'),
    idempotencyKey: key === undefined ? undefined : checkIdempotencyKey(key),
    body: checkBody(fields.events()),
  }
}

/** Refused here, so that only what the log can take waits for it. */
function checkBody(body: Body): Body {
  if (body.count === 0) refuse('append has at least one event', { field: 'events' })
  if (body.count > APPEND_EVENTS_MAX || body.bytes.length > BODY_BYTES_MAX)
    throw new TidemarkError('too-large', `An append holds at most ${APPEND_EVENTS_MAX} events`, {
      limit: APPEND_EVENTS_MAX,
    })
  return body
}

function checkRef(ref: unknown): Ref | undefined {
  if (ref === undefined || Number.isSafeInteger(ref)) return ref as number | undefined
  if (typeof ref === 'string' && ref.length > 0 && ref.length <= REF_MAX) return ref
  return refuse(`ref is 1–${REF_MAX} characters or a whole number`, { field: 'ref' })
}

function checkToken(token: unknown): string {
  return typeof token === 'string' && token.length <= TOKEN_CHARS_MAX
    ? token
    : refuse(`token is text of at most ${TOKEN_CHARS_MAX} characters`, { field: 'token' })
}

// ── JSON ─────────────────────────────────────────────────────────────────────────────────────────────────────────

const CLOSE_OBJECT = 0x7d
const WORDS = wordsOf(['op', 'ref', ...new Set(Object.values(FIELDS).flat())])
const WORD_OF: ReadonlyMap<string, number> = new Map(WORDS.map(({ text }, word) => [text, word]))
const EVENTS = WORD_OF.get('events')!
const CHANNEL = WORD_OF.get('channel')!
/** As JSON writes them; one of each format: what is an escape in JSON is itself in MessagePack. */
const KNOWN = new KnownTexts(Object.keys(FIELDS))
const KNOWN_PACKED = new KnownTexts(Object.keys(FIELDS))

/**
 * A message in one walk: an append's events are encoded where they are met, their data kept as the bytes that came;
 * only the small fields around them become values, when they are asked for.
 */
class JsonMessage implements Fields {
  #bytes: Uint8Array = new Uint8Array()
  readonly #names: string[] = []
  /** Those of them that are no word: there may be a hundred thousand. */
  readonly #unknown = new Set<string>()
  /** By word: where its value stands; 0 for one that is not given. */
  readonly #starts = new Array<number>(WORDS.length).fill(0)
  readonly #ends = new Array<number>(WORDS.length).fill(0)
  #body: Body | undefined
  /** What is wrong with the events of a text that is JSON. */
  #fault: unknown

  /** @param bytes UTF-8 @throws as jsonFields */
  read(bytes: Uint8Array): this {
    this.#bytes = bytes
    this.#names.length = 0
    this.#unknown.clear()
    this.#starts.fill(0)
    this.#body = this.#fault = undefined
    let at = skipSpace(bytes, 0)
    if (bytes[at] !== OPEN_OBJECT) refuse('An object is asked for', { at })
    at = skipSpace(bytes, at + 1)
    while (bytes[at] !== CLOSE_OBJECT || this.#names.length > 0) {
      at = skipSpace(bytes, this.#field(at))
      if (bytes[at] === CLOSE_OBJECT) break
      at = skipComma(bytes, at)
    }
    checkEnd(bytes, at + 1, bytes.length)
    return this
  }

  /** Reads the field whose name begins at `at`; returns the place behind its value. */
  #field(at: number): number {
    const bytes = this.#bytes
    const nameEnd = skipName(bytes, at)
    const start = skipColon(bytes, nameEnd)
    let word = wordAt(WORDS, bytes, at + 1, nameEnd - 1)
    const name = word < 0 ? jsonString(bytes, at, nameEnd) : WORDS[word]!.text
    if (word < 0) word = WORD_OF.get(name) ?? -1
    if (word < 0 ? this.#unknown.has(name) : this.#starts[word]! > 0)
      refuse(`The field ${JSON.stringify(name)} is given twice`, { field: name })
    this.#names.push(name)
    if (word < 0) this.#unknown.add(name)
    const end = word === EVENTS ? this.#events(start) : skipValue(bytes, start, ROOM)
    if (word >= 0) {
      this.#starts[word] = start
      this.#ends[word] = end
    }
    return end
  }

  #events(start: number): number {
    try {
      const { body, end } = readJsonEvents(this.#bytes, start)
      this.#body = body
      return end
    } catch (error) {
      this.#fault = error
      // A text that is no JSON at all is told before what is wrong with one event.
      return skipValue(this.#bytes, start, ROOM)
    }
  }

  names(): readonly string[] {
    return this.#names
  }

  value(name: string): unknown {
    const word = WORD_OF.get(name)!
    const start = this.#starts[word]!
    if (start === 0) return undefined
    const bytes = this.#bytes
    const end = this.#ends[word]!
    if (bytes[start] !== QUOTE) return jsonValue(bytes, { start, end })
    const known = KNOWN.at(bytes, start + 1, end - 1)
    if (known !== undefined) return known
    const text = jsonString(bytes, start, end)
    if (word === CHANNEL) KNOWN.learn(text, bytes, start + 1, end - 1)
    return text
  }

  events(): Body {
    if (this.#fault !== undefined) throw this.#fault
    return this.#body ?? refuse('append has events', { field: 'events' })
  }
}

/** Levels that a whole message may nest. */
const ROOM = LEVELS_AROUND + DEPTH_MAX
/** A message is checked before the next one is read. */
const MESSAGE_READ = new JsonMessage()

const OPEN_OBJECT = 0x7b

/**
 * Not every text that `jsonFields` refuses is a broken frame: a number that can't be kept exactly, data nested too
 * deep or a field given twice is the sender's mistake in one message, and the socket lives.
 */
function unread(bytes: Uint8Array, binary: boolean, error: unknown): Refused {
  const refused = toTidemarkError(error)
  if (refused.code !== 'bad-request') throw error
  if (binary || bytes[skipSpace(bytes, 0)] !== OPEN_OBJECT || refused.details.malformed === true)
    throw new BadFrame(binary ? 'not one MessagePack map' : 'not one JSON object', { cause: error })
  return { op: 'refused', ref: findRef(bytes), of: undefined, channel: undefined, error: refused }
}

const QUOTE = 0x22
const BACKSLASH = 0x5c

/**
 * The `ref` of a JSON object that has something else wrong with it, in one pass and without believing the rest: the
 * value after the first `"ref":` that stands at the object's own level.
 */
function findRef(bytes: Uint8Array): Ref | undefined {
  let depth = 0
  for (let at = 0; at < bytes.length; at++) {
    const c = bytes[at]!
    if (c === 0x7b || c === 0x5b) depth++
    else if (c === 0x7d || c === 0x5d) depth--
    else if (c === QUOTE) {
      const start = at
      at = stringEnd(bytes, at)
      if (depth !== 1 || at - start !== 4 || textOf(bytes, { start, end: at + 1 }) !== '"ref"') continue
      const colon = skipSpace(bytes, at + 1)
      if (bytes[colon] === 0x3a) return refAt(bytes, skipSpace(bytes, colon + 1))
    }
  }
  return undefined
}

/** `at` is the opening quote; the answer is the closing one, or the end of a text that has none. */
function stringEnd(bytes: Uint8Array, at: number): number {
  for (at++; at < bytes.length && bytes[at] !== QUOTE; at++) if (bytes[at] === BACKSLASH) at++
  return at
}

function refAt(bytes: Uint8Array, start: number): Ref | undefined {
  let end = start
  if (bytes[start] === QUOTE) end = stringEnd(bytes, start) + 1
  else while (bytes[end] === 0x2d || (bytes[end]! >= 0x30 && bytes[end]! <= 0x39)) end++
  // A text that is longer can not be a ref, and JSON.parse is not asked to take what is not one.
  if (end === start || end > bytes.length || end - start > REF_MAX * 6 + 2) return undefined
  try {
    return checkRef(jsonValue(bytes, { start, end }))
  } catch (error) {
    if (error instanceof SyntaxError || error instanceof TidemarkError) return undefined
    throw error
  }
}
