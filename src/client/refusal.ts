/** What the server's refusals mean, whichever way they came. */
import { type ErrorCode, TidemarkError } from '../errors.ts'

/**
 * What the server tells as a problem, as a page of a poll or as a message. A newer server may have a code that our
 * table lacks; it is told as it is.
 */
export function errorOf(told: object): TidemarkError {
  const { op: _op, ref: _ref, type: _type, title: _title, status: _status, code, detail, ...details } = told as Told
  return new TidemarkError(code, detail, details)
}

interface Told {
  readonly code: ErrorCode
  readonly detail: string
  readonly [field: string]: unknown
}

/**
 * True when the same request may succeed later: nobody said no, or somebody said "not now". Looked at by its fields: a
 * page that has the client from an address with a query has the class twice, once more beside its parts.
 */
export const isPassing = (error: unknown): error is TidemarkError => {
  const { code, details } = error as TidemarkError
  return /^(unavailable|too-many|timeout)$/.test(code) || details?.outcome === 'unknown'
}

/** The server's hint beside an error, ms. */
export const hintOf = (error: TidemarkError): number | undefined => error.details.retryAfter as number | undefined
