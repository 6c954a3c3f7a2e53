/** The HTTP calls of the client: one answer or one TidemarkError, whatever stands between here and the server. */
import { type ErrorCode, hasCode, TidemarkError } from '../errors.ts'

/** A credential, or how to get one. A function is asked again when the server refuses what it gave. */
export type TokenSource = string | (() => string | Promise<string>) | undefined

/** Longest wait for an answer that is not a long poll, ms. */
export const REQUEST_MS = 30_000

export interface Call {
  readonly method?: 'GET' | 'POST' | 'PUT' | 'DELETE'
  /** Below the base address, with its query: `channels/orders/events?after=7`. */
  readonly path: string
  /** JSON text. */
  readonly body?: string
  readonly headers?: Record<string, string>
  readonly signal?: AbortSignal | undefined
  /** Default REQUEST_MS. */
  readonly timeout?: number
}

export interface Answer<T> {
  readonly value: T
  /** Characters of the answer's text. */
  readonly size: number
}

export interface Http {
  /** @throws unauthorized, with what the app's function threw as its cause */
  token(): Promise<string | undefined>
  /** Forgets a refused token, unless another one was fetched since. True when another one can be had. */
  renew(refused: string | undefined): boolean
  /** @throws what the server answered; `unavailable` when no answer came; the signal's reason when it aborts. */
  call<T>(call: Call): Promise<Answer<T>>
}

export function newHttp(base: URL, source: TokenSource, fetchWith: typeof fetch): Http {
  let given: string | undefined

  const token: Http['token'] = async () => {
    if (typeof source !== 'function') return source
    try {
      given ??= await source()
    } catch (cause) {
      throw new TidemarkError('unauthorized', 'No token', {}, { cause })
    }
    return given
  }

  const renew: Http['renew'] = (refused) => {
    if (given === refused) given = undefined
    return typeof source === 'function'
  }

  const send = async <T>(
    { path, body, signal, timeout = REQUEST_MS, method, headers }: Call,
    bearer: string | undefined,
  ): Promise<Answer<T>> => {
    signal?.throwIfAborted()
    const life = new AbortController()
    const stop = (): void => life.abort()
    const timer = setTimeout(stop, timeout)
    signal?.addEventListener('abort', stop)
    try {
      const response = await fetchWith(new URL(path, base), {
        method,
        body,
        headers: {
          ...(body && { 'content-type': 'application/json' }),
          ...(bearer && { authorization: `Bearer ${bearer}` }),
          ...headers,
        },
        signal: life.signal,
      } as RequestInit)
      const text = await response.text()
      if (!response.ok) throw refusal(response, text)
      return { value: text && JSON.parse(text), size: text.length }
    } catch (cause) {
      if (cause instanceof TidemarkError) throw cause
      signal?.throwIfAborted()
      throw new TidemarkError('unavailable', `No answer from ${base.host}`, {}, { cause })
    } finally {
      clearTimeout(timer)
      signal?.removeEventListener('abort', stop)
    }
  }

  return {
    token,
    renew,
    call: async (call) => {
      const bearer = await token()
      try {
        return await send(call, bearer)
      } catch (error) {
        if (!hasCode(error, 'unauthorized') || !renew(bearer)) throw error
        return send(call, await token())
      }
    },
  }
}

/** What a bare status means, as a proxy may answer it, and a close that is never retried; 44xx is as 4xx. */
const CODES: Record<number, ErrorCode> = {
  401: 'unauthorized',
  403: 'forbidden',
  404: 'not-found',
  408: 'timeout',
  413: 'too-large',
  429: 'too-many',
  1008: 'forbidden',
  1009: 'too-large',
}

export const codeOf = (status: number): ErrorCode => CODES[status % 4_000] ?? 'bad-request'

/** What a refused request means: the server's own problem, or what a proxy's bare status says. */
function refusal({ status, headers }: Response, text: string): TidemarkError {
  // Seconds; a date, which our server never sends, is no hint.
  const retryAfter = Number(headers.get('retry-after')) * 1_000
  const isProblem = headers.get('content-type')?.startsWith('application/problem+json')
  return errorOf({
    code: status < 500 ? codeOf(status) : 'unavailable',
    detail: `Status ${status}`,
    ...(retryAfter > 0 && { retryAfter }),
    ...(isProblem && JSON.parse(text)),
  })
}

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

const PASSING: readonly string[] = ['unavailable', 'too-many', 'timeout']

/** True when the same request may succeed later: nobody said no, or somebody said "not now". */
export function isPassing(error: unknown): error is TidemarkError {
  return error instanceof TidemarkError && (PASSING.includes(error.code) || error.details.outcome === 'unknown')
}

/** The server's hint beside an error, ms. */
export const hintOf = (error: TidemarkError): number | undefined => error.details.retryAfter as number | undefined
