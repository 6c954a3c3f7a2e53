/** How failures stand in the server's log: one line each, with the code. */
import type { Logger } from 'pino'
import { ERRORS, type ErrorCode, TidemarkError, toTidemarkError } from '../errors.ts'

/** Refusals that an operator may want to know of: somebody else's page, a caller beyond its limits, a log in trouble. */
const WARNED: ReadonlySet<ErrorCode> = new Set<ErrorCode>(['forbidden', 'unauthorized', 'too-many', 'unavailable'])

/** The log line's level: a caller's mistake is news, a failure of ours an error. */
function levelOf(code: ErrorCode): 'info' | 'warn' | 'error' {
  if (WARNED.has(code)) return 'warn'
  return ERRORS[code].status >= 500 && code !== 'not-supported' ? 'error' : 'info'
}

/**
 * One line with the code. A refusal's own sentence may quote what the caller sent, so the table's title stands in its
 * place; a failure of ours is told in full, with its cause. Never data, queries or headers.
 */
export function logFailure(
  logger: Logger,
  door: string,
  error: unknown,
  facts: Readonly<Record<string, unknown>> = {},
): ErrorCode {
  const { code, message, cause } = toTidemarkError(error)
  const level = levelOf(code)
  if (level === 'info') {
    logger.info({ door, code, ...facts }, ERRORS[code].title)
    return code
  }
  const err = error instanceof TidemarkError ? cause : error
  logger[level]({ door, code, ...facts, ...(err === undefined ? {} : { err }) }, message)
  return code
}
