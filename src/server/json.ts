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

export function skipSpace(bytes: Uint8Array, at: number): number {
  for (;;) {
    const c = bytes[at]!
    if (c > SPACE || (c !== SPACE && c !== LF && c !== CR && c !== 0x09)) return at
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
    at = skipValue(bytes, skipName(bytes, at), room - 1)
    at = skipSpace(bytes, at)
    if (bytes[at] === CLOSE_OBJECT) return at + 1
    at = skipComma(bytes, at)
  }
}

export function skipComma(bytes: Uint8Array, at: number): number {
  if (bytes[at] !== COMMA) return notJson(at)
  return skipSpace(bytes, at + 1)
}

/** From the opening quote of a field's name to its value. */
export function skipName(bytes: Uint8Array, at: number): number {
  if (bytes[at] !== QUOTE) return notJson(at)
  at = skipSpace(bytes, skipString(bytes, at))
  if (bytes[at] !== COLON) return notJson(at)
  return skipSpace(bytes, at + 1)
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

/** Fewer digits than this are always exact, and never beyond the largest number. */
const DIGITS_EXACT = 15
const DIGITS_FINITE = 300

function skipNumber(bytes: Uint8Array, start: number): number {
  let at = bytes[start] === 0x2d ? start + 1 : start
  at = bytes[at] === 0x30 ? at + 1 : skipDigits(bytes, at)
  let limit = DIGITS_EXACT
  if (bytes[at] === 0x2e) {
    at = skipDigits(bytes, at + 1)
    limit = DIGITS_FINITE
  }
  const whole = limit === DIGITS_EXACT
  if ((bytes[at]! | 0x20) === 0x65) {
    const sign = bytes[at + 1]
    at = skipDigits(bytes, sign === 0x2b || sign === 0x2d ? at + 2 : at + 1)
    limit = 0
  }
  if (at - start > limit) checkNumber(bytes, start, at, whole && limit > 0)
  return at
}

/** What a reader's JSON.parse would silently change is refused here. */
function checkNumber(bytes: Uint8Array, start: number, end: number, whole: boolean): void {
  const number = Number(textOf(bytes, { start, end }))
  if (whole && !Number.isSafeInteger(number))
    refuse('An integer beyond 2^53 − 1 can not be kept exactly: send it as a string', { at: start })
  if (!Number.isFinite(number)) refuse('A number is too large', { at: start })
}

// ── Values by name ───────────────────────────────────────────────────────────────────────────────────────────────

export function textOf(bytes: Uint8Array, span: Span): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset + span.start, span.end - span.start).toString()
}

/** The value at a span that the scanner gave out. */
export function jsonValue(bytes: Uint8Array, span: Span): unknown {
  return JSON.parse(textOf(bytes, span))
}

/**
 * The fields of a JSON object, by name, each with the span of its value. The whole text is checked: JSON, depth,
 * numbers; a name given twice is refused. UTF-8 is checked when no part is named (a part lies in a checked text).
 * @throws bad-request
 */
export function jsonFields(bytes: Uint8Array, start?: number, end?: number): Map<string, Span> {
  if (start === undefined) checkUtf8(bytes)
  const fields = new Map<string, Span>()
  const stop = end ?? bytes.length
  let at = skipSpace(bytes, start ?? 0)
  if (bytes[at] !== OPEN_OBJECT) refuse('An object is asked for', { at })
  at = skipSpace(bytes, at + 1)
  while (bytes[at] !== CLOSE_OBJECT || fields.size > 0) {
    const value = skipName(bytes, at)
    const name = nameAt(bytes, at)
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

/** The field's name whose opening quote stands at `at`. */
function nameAt(bytes: Uint8Array, at: number): string {
  return jsonValue(bytes, { start: at, end: skipString(bytes, at) }) as string
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
  const end = skipValue(bytes, start)
  checkEnd(bytes, end, bytes.length)
  return onOneLine(bytes.subarray(start, end))
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
