/**
 * JSON as bytes: a strict scanner (RFC 8259, the same language as JSON.parse) that says where values stand, so that
 * an event's data can be kept as the sender wrote it and is never parsed into objects.
 *
 * The scanner reads on past a span's end if it must; the byte there is undefined or wrong, which no rule accepts.
 */
import { isUtf8 } from 'node:buffer'
import { TidemarkError } from '../errors.ts'
import { DEPTH_MAX } from '../event.ts'

/** Where a value stands in a text: bytes[start] … bytes[end − 1], without space around it. */
export interface Span {
  readonly start: number
  readonly end: number
}

/** Levels that stand around an event's data in any message: message, `appends`, entry, `events`, event. */
export const LEVELS_AROUND = 5

export const refuse = (why: string, details: Readonly<Record<string, unknown>> = {}): never => {
  throw new TidemarkError('bad-request', why, details)
}

const notJson = (at: number): never => refuse('The text is not JSON', { at, malformed: true })

const QUOTE = 0x22
const BACKSLASH = 0x5c
const COMMA = 0x2c
const COLON = 0x3a
const OPEN_LIST = 0x5b
const CLOSE_LIST = 0x5d
const OPEN_OBJECT = 0x7b
const CLOSE_OBJECT = 0x7d
const LF = 0x0a
const CR = 0x0d
const SPACE = 0x20

/** Refuses bytes that are not UTF-8 as `bad-request`. Everything below takes text that passed here. */
export function checkUtf8(bytes: Uint8Array): void {
  if (!isUtf8(bytes)) refuse('The text is not UTF-8', { malformed: true })
}

let lineBreaks = 0

/** How many line breaks were passed over so far: a value holds as many as this rises by while it is skipped. */
export const lineBreaksPassed = (): number => lineBreaks

export function skipSpace(bytes: Uint8Array, at: number): number {
  for (;;) {
    const c = bytes[at]!
    if (c > SPACE) return at
    if (c === LF || c === CR) lineBreaks++
    else if (c !== SPACE && c !== 0x09) return at
    at++
  }
}

/** The place after the value that begins at `at`. `room` is how many levels it may nest. @throws bad-request */
export function skipValue(bytes: Uint8Array, at: number, room: number = DEPTH_MAX): number {
  switch (bytes[at]) {
    case QUOTE:
      return skipString(bytes, at)
    case OPEN_OBJECT:
      return skipObject(bytes, at, room)
    case OPEN_LIST:
      return skipList(bytes, at, room)
    case 0x74:
      return skipWord(bytes, at, TRUE)
    case 0x66:
      return skipWord(bytes, at, FALSE)
    case 0x6e:
      return skipWord(bytes, at, NULL)
    default:
      return skipNumber(bytes, at)
  }
}

const tooDeep = (at: number): never => refuse(`JSON nests at most ${DEPTH_MAX} levels`, { at, limit: DEPTH_MAX })

function skipObject(bytes: Uint8Array, at: number, room: number): number {
  if (room <= 0) return tooDeep(at)
  at = skipSpace(bytes, at + 1)
  if (bytes[at] === CLOSE_OBJECT) return at + 1
  for (;;) {
    at = skipValue(bytes, skipColon(bytes, skipName(bytes, at)), room - 1)
    at = skipSpace(bytes, at)
    if (bytes[at] === CLOSE_OBJECT) return at + 1
    at = skipComma(bytes, at)
  }
}

export function skipComma(bytes: Uint8Array, at: number): number {
  if (bytes[at] !== COMMA) return notJson(at)
  return skipSpace(bytes, at + 1)
}

/** From the opening quote of a field's name to behind its closing one. */
export function skipName(bytes: Uint8Array, at: number): number {
  return bytes[at] === QUOTE ? skipString(bytes, at) : notJson(at)
}

/** From behind a field's name to its value. */
export function skipColon(bytes: Uint8Array, at: number): number {
  at = skipSpace(bytes, at)
  return bytes[at] === COLON ? skipSpace(bytes, at + 1) : notJson(at)
}

function skipList(bytes: Uint8Array, at: number, room: number): number {
  if (room <= 0) return tooDeep(at)
  at = skipSpace(bytes, at + 1)
  if (bytes[at] === CLOSE_LIST) return at + 1
  for (;;) {
    at = skipSpace(bytes, skipValue(bytes, at, room - 1))
    if (bytes[at] === CLOSE_LIST) return at + 1
    at = skipComma(bytes, at)
  }
}

/** `at` is the opening quote; the answer is behind the closing one. */
export function skipString(bytes: Uint8Array, at: number): number {
  for (;;) {
    const c = bytes[++at]!
    if (c === QUOTE) return at + 1
    if (c === BACKSLASH) at = skipEscape(bytes, at + 1)
    else if (!(c >= SPACE)) return notJson(at)
  }
}

/** `at` is behind the backslash; the answer is the last byte of the escape. */
function skipEscape(bytes: Uint8Array, at: number): number {
  switch (bytes[at]) {
    case QUOTE:
    case BACKSLASH:
    case 0x2f: // /
    case 0x62: // b
    case 0x66: // f
    case 0x6e: // n
    case 0x72: // r
    case 0x74: // t
      return at
    case 0x75: // u
      for (let i = 1; i <= 4; i++) {
        const c = bytes[at + i]!
        const letter = c | 0x20
        if (!isDigit(c) && !(letter >= 0x61 && letter <= 0x66)) return notJson(at)
      }
      return at + 4
    default:
      return notJson(at)
  }
}

const TRUE = [0x74, 0x72, 0x75, 0x65]
const FALSE = [0x66, 0x61, 0x6c, 0x73, 0x65]
const NULL = [0x6e, 0x75, 0x6c, 0x6c]

function skipWord(bytes: Uint8Array, at: number, word: readonly number[]): number {
  for (let i = 1; i < word.length; i++) if (bytes[at + i] !== word[i]) return notJson(at)
  return at + word.length
}

const isDigit = (c: number): boolean => c >= 0x30 && c <= 0x39

function skipDigits(bytes: Uint8Array, at: number): number {
  if (!isDigit(bytes[at]!)) return notJson(at)
  do at++
  while (isDigit(bytes[at]!))
  return at
}

/** A number with a fraction and no exponent that is not longer is never beyond the largest number. */
const DIGITS_FINITE = 300

/** What a reader's JSON.parse would silently change is refused here. */
function skipNumber(bytes: Uint8Array, start: number): number {
  let at = bytes[start] === 0x2d ? start + 1 : start
  // Exact as long as it is at most 2^53 − 1, and never below that again.
  let whole = 0
  const first = at
  for (let c = bytes[at]!; isDigit(c); c = bytes[++at]!) whole = whole * 10 + (c - 0x30)
  if (at === first || (bytes[first] === 0x30 && at > first + 1)) return notJson(at)
  const next = bytes[at]!
  if (next !== 0x2e && (next | 0x20) !== 0x65) {
    if (whole > Number.MAX_SAFE_INTEGER)
      refuse('An integer beyond 2^53 − 1 can not be kept exactly: send it as a string', { at: start })
    return at
  }
  if (next === 0x2e) at = skipDigits(bytes, at + 1)
  let isLong = at - start > DIGITS_FINITE
  if ((bytes[at]! | 0x20) === 0x65) {
    const sign = bytes[at + 1]
    at = skipDigits(bytes, sign === 0x2b || sign === 0x2d ? at + 2 : at + 1)
    isLong = true
  }
  if (isLong && !Number.isFinite(Number(textOf(bytes, { start, end: at }))))
    refuse('A number is too large', { at: start })
  return at
}

// ── Values by name ───────────────────────────────────────────────────────────────────────────────────────────────

/** A name that is looked for. */
export interface Word {
  readonly text: string
  readonly bytes: Uint8Array
}

export const wordsOf = (texts: readonly string[]): readonly Word[] =>
  texts.map((text) => ({ text, bytes: new TextEncoder().encode(text) }))

/** Which of `words` stands in bytes[start] … bytes[end − 1]; −1 for none of them. */
export function wordAt(words: readonly Word[], bytes: Uint8Array, start: number, end: number): number {
  const length = end - start
  for (let w = 0; w < words.length; w++) {
    const word = words[w]!.bytes
    if (word.length !== length) continue
    let i = 0
    while (i < length && bytes[start + i] === word[i]) i++
    if (i === length) return w
  }
  return -1
}

/** Longest text that is learned, bytes. */
const LEARNED_MAX = 256

/** Texts that are known by their bytes, as they are written: nothing is made of them again. */
export class KnownTexts {
  /** Those that are always known; before them the one that was learned last. */
  readonly #words: Word[]

  constructor(texts: readonly string[]) {
    this.#words = [...wordsOf(['']), ...wordsOf(texts)]
  }

  at(bytes: Uint8Array, start: number, end: number): string | undefined {
    const word = wordAt(this.#words, bytes, start, end)
    return word < 0 ? undefined : this.#words[word]!.text
  }

  learn(text: string, bytes: Uint8Array, start: number, end: number): void {
    if (end - start <= LEARNED_MAX) this.#words[0] = { text, bytes: new Uint8Array(bytes.subarray(start, end)) }
  }
}

export const asBuffer = (bytes: Uint8Array): Buffer =>
  Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)

export function textOf(bytes: Uint8Array, span: Span): string {
  return asBuffer(bytes).toString('utf8', span.start, span.end)
}

/** The value at a span that the scanner gave out. */
export function jsonValue(bytes: Uint8Array, span: Span): unknown {
  const { start, end } = span
  if (bytes[start] === QUOTE) return jsonString(bytes, start, end)
  const number = smallNumber(bytes, start, end)
  return number >= 0 ? number : JSON.parse(textOf(bytes, span))
}

/** The string whose quotes stand at `start` and before `end`. */
export function jsonString(bytes: Uint8Array, start: number, end: number): string {
  for (let i = start + 1; i < end - 1; i++) if (bytes[i] === BACKSLASH) return JSON.parse(textOf(bytes, { start, end }))
  return textOf(bytes, { start: start + 1, end: end - 1 })
}

/** Longest integer that is read here, digits. */
const DIGITS_SMALL = 15

/** The integer ≥ 0 that stands there; −1 for anything else, or a longer one. */
function smallNumber(bytes: Uint8Array, start: number, end: number): number {
  if (end - start > DIGITS_SMALL) return -1
  let number = 0
  for (let i = start; i < end; i++) {
    if (!isDigit(bytes[i]!)) return -1
    number = number * 10 + (bytes[i]! - 0x30)
  }
  return number
}

/**
 * The fields of a JSON object, by name, each with the span of its value. The whole text is checked: JSON, depth,
 * numbers; a name given twice is refused. UTF-8 is checked when no part is named (a part lies in a checked text).
 * @param allow throws for a name that is not taken, or when there are too many: a text of many names ends with the
 * first wrong one
 * @throws bad-request
 */
export function jsonFields(
  bytes: Uint8Array,
  span?: Span,
  allow?: (name: string, before: number) => void,
): Map<string, Span> {
  if (span === undefined) checkUtf8(bytes)
  const fields = new Map<string, Span>()
  const stop = span?.end ?? bytes.length
  let at = skipSpace(bytes, span?.start ?? 0)
  if (bytes[at] !== OPEN_OBJECT) refuse('An object is asked for', { at })
  at = skipSpace(bytes, at + 1)
  while (bytes[at] !== CLOSE_OBJECT || fields.size > 0) {
    const nameEnd = skipName(bytes, at)
    const value = skipColon(bytes, nameEnd)
    const name = jsonValue(bytes, { start: at, end: nameEnd }) as string
    allow?.(name, fields.size)
    if (fields.has(name)) refuse(`The field ${JSON.stringify(name)} is given twice`, { field: name })
    at = skipValue(bytes, value, LEVELS_AROUND + DEPTH_MAX)
    fields.set(name, { start: value, end: at })
    at = skipSpace(bytes, at)
    if (bytes[at] === CLOSE_OBJECT) break
    at = skipComma(bytes, at)
  }
  checkEnd(bytes, at + 1, stop)
  return fields
}

/** The fields, none of which is unknown. @param where they stand, told with the one that is @throws bad-request */
export function knownFields(
  bytes: Uint8Array,
  span: Span | undefined,
  known: readonly string[],
  where = '',
): Map<string, Span> {
  return jsonFields(bytes, span, (name) => {
    if (!known.includes(name)) refuse(`${JSON.stringify(name)} is not known here`, { field: where + name })
  })
}

/** The items of a JSON list. @throws bad-request, also beyond `most` items */
export function jsonItems(bytes: Uint8Array, span: Span, most: number): Span[] {
  const items: Span[] = []
  let at = skipSpace(bytes, span.start)
  if (bytes[at] !== OPEN_LIST) refuse('A list is asked for', { at })
  at = skipSpace(bytes, at + 1)
  while (bytes[at] !== CLOSE_LIST || items.length > 0) {
    if (items.length === most) refuse(`A list holds at most ${most} items`, { limit: most })
    const start = at
    at = skipValue(bytes, at, LEVELS_AROUND + DEPTH_MAX)
    items.push({ start, end: at })
    at = skipSpace(bytes, at)
    if (bytes[at] === CLOSE_LIST) break
    at = skipComma(bytes, at)
  }
  checkEnd(bytes, at + 1, span.end)
  return items
}

/** Only space may stand between `at` and `end`. */
export function checkEnd(bytes: Uint8Array, at: number, end: number): void {
  if (at > end || (at < end && skipSpace(bytes, at) < end)) notJson(at)
}

/** A JSON text as bytes on one line: checked, without space around it, line breaks between tokens made spaces. */
export function jsonLine(bytes: Uint8Array): Uint8Array {
  checkUtf8(bytes)
  const start = skipSpace(bytes, 0)
  const before = lineBreaks
  const end = skipValue(bytes, start)
  const hasBreaks = lineBreaks !== before
  checkEnd(bytes, end, bytes.length)
  const value = start === 0 && end === bytes.length ? bytes : bytes.subarray(start, end)
  return hasBreaks ? onOneLine(value) : value
}

/**
 * A checked JSON value on one line; a copy where it was not. Strings hold no raw line break, so each one stands
 * between two tokens.
 */
export function onOneLine(value: Uint8Array): Uint8Array {
  if (!hasLineBreak(value)) return value
  const line = new Uint8Array(value)
  for (let i = 0; i < line.length; i++) if (line[i] === LF || line[i] === CR) line[i] = SPACE
  return line
}

export const hasLineBreak = (bytes: Uint8Array): boolean => bytes.includes(LF) || bytes.includes(CR)
