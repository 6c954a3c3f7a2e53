/**
 * The one table of errors. HTTP status, what a WebSocket client sees, and the command line's exit code
 * all come from here; callers test `code`, never the sentence.
 *
 * `ws`: `error` answers one operation, `ended` ends one subscription, a number closes the socket;
 * `gap` and `reset` are the messages of those names.
 */
interface Row {
  /** HTTP status. */
  readonly status: number
  /** What it is on a WebSocket. */
  readonly ws: 'error' | 'ended' | 'gap' | 'reset' | number
  /** Exit code of the command line. */
  readonly exit: number
  readonly title: string
}

export const ERRORS = {
  'bad-request': { status: 400, ws: 'error', exit: 2, title: 'The request is not as the protocol asks' },
  unauthorized: { status: 401, ws: 4401, exit: 77, title: 'Credentials are missing, wrong or expired' },
  forbidden: { status: 403, ws: 'error', exit: 77, title: 'Not allowed for this caller' },
  'not-found': { status: 404, ws: 'error', exit: 1, title: 'There is nothing at this address' },
  'no-channel': { status: 404, ws: 'ended', exit: 1, title: 'There is no such channel' },
  'method-not-allowed': { status: 405, ws: 'error', exit: 1, title: 'This address does not take that method' },
  'not-acceptable': { status: 406, ws: 'error', exit: 1, title: 'None of the accepted types can be given' },
  timeout: { status: 408, ws: 4408, exit: 69, title: 'The request did not arrive in time' },
  'seq-conflict': { status: 409, ws: 'error', exit: 1, title: 'The head is not the expected seq' },
  'epoch-changed': { status: 409, ws: 'reset', exit: 1, title: 'The history of this channel is another one' },
  'ahead-of-head': { status: 409, ws: 'reset', exit: 1, title: 'The position is beyond the head' },
  busy: { status: 409, ws: 'error', exit: 1, title: 'Such work is under way already, one at a time' },
  gap: { status: 410, ws: 'gap', exit: 1, title: 'Events after this position were trimmed' },
  'too-large': { status: 413, ws: 'error', exit: 1, title: 'Larger than the limit' },
  'unsupported-type': { status: 415, ws: 'error', exit: 1, title: 'This content type is not taken here' },
  'key-reused': { status: 422, ws: 'error', exit: 1, title: 'The idempotency key was used for another append' },
  'too-many': { status: 429, ws: 'error', exit: 69, title: 'Too much at once' },
  internal: { status: 500, ws: 'error', exit: 1, title: 'The server failed' },
  'data-loss': { status: 500, ws: 'ended', exit: 65, title: 'Events are damaged or missing on disk' },
  'not-supported': { status: 501, ws: 'error', exit: 1, title: 'This engine or server does not do that' },
  unavailable: { status: 503, ws: 'error', exit: 69, title: 'The log is not available now' },
  'storage-full': { status: 507, ws: 'error', exit: 74, title: 'The disk is full' },
  // Programs only: these end a process at start, they are never sent to a caller.
  'in-use': { status: 503, ws: 'error', exit: 75, title: 'The log is in use by another process' },
  'cannot-create': { status: 500, ws: 'error', exit: 73, title: 'The log can not be created' },
  'io-error': { status: 500, ws: 'error', exit: 74, title: 'Reading or writing failed' },
  'wrong-config': { status: 500, ws: 'error', exit: 78, title: 'The configuration is wrong' },
} as const satisfies Record<string, Row>

export type ErrorCode = keyof typeof ERRORS

/** Facts beside a code, sent to the caller as they are: `head`, `epoch`, `trimmed`, `retryAfter` (ms), … */
export type Details = Readonly<Record<string, unknown>>

/** Every failure that a caller may meet. `message` is for people and may change; `code` never does. */
export class TidemarkError extends Error {
  readonly code: ErrorCode
  readonly details: Details
  constructor(code: ErrorCode, message: string, details: Details = {}, options?: ErrorOptions) {
    super(message, options)
    this.name = 'TidemarkError'
    this.code = code
    this.details = details
  }
}

/** RFC 9457 problem, the body of every failed HTTP request; `ended` and `error` messages carry the same fields. */
export interface Problem {
  type: string
  title: string
  status: number
  code: ErrorCode
  detail: string
  [detail: string]: unknown
}

/** Where each code is explained, on the server that answered: `GET /errors`. */
export const ERRORS_PAGE = '/errors'

export function toProblem(error: unknown): Problem {
  const { code, message, details } = toTidemarkError(error)
  const { status, title } = ERRORS[code]
  return { type: `${ERRORS_PAGE}#${code}`, title, status, code, detail: message, ...details }
}

/** Anything thrown as one of ours. What is not ours is `internal`: its message stays in the server's log. */
export function toTidemarkError(error: unknown): TidemarkError {
  if (error instanceof TidemarkError) return error
  return new TidemarkError('internal', 'Something failed inside the server; its log says what', {}, { cause: error })
}

export function hasCode(error: unknown, code: ErrorCode): boolean {
  return error instanceof TidemarkError && error.code === code
}

/** What is read, or this where it is damaged. */
export function wholeOr<T, U>(damaged: U, read: () => T): T | U {
  try {
    return read()
  } catch (error) {
    if (hasCode(error, 'data-loss')) return damaged
    throw error
  }
}
