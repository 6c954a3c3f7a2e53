/** The HTTP calls of the client: one answer or one TidemarkError, whatever stands between here and the server. */
import { type ErrorCode, TidemarkError } from '../errors.ts'
import { errorOf } from './refusal.ts'
import type { Tokens } from './token.ts'

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
  /** @throws what the server answered; `unavailable` when no answer came; the signal's reason when it aborts. */
  call<T>(call: Call): Promise<Answer<T>>
}

export function newHttp(base: URL, { token, renew }: Tokens, fetchWith: typeof fetch): Http {
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
      // Rubbish may be `null`, too; an object can be looked at.
      return { value: Object(text && JSON.parse(text)), size: text.length }
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
    call: async (call) => {
      const bearer = await token()
      try {
        return await send(call, bearer)
      } catch (error) {
        if (!(error instanceof TidemarkError && error.code === 'unauthorized') || !renew(bearer)) throw error
        return send(call, await token())
      }
    },
  }
}

/** What a bare status means, as a proxy may answer it. */
const CODES: Record<number, ErrorCode> = {
  401: 'unauthorized',
  403: 'forbidden',
  404: 'not-found',
  408: 'timeout',
  413: 'too-large',
  429: 'too-many',
}

/** What a refused request means: the server's own problem, or what a proxy's bare status says. */
function refusal({ status, headers }: Response, text: string): TidemarkError {
  // Seconds; a date, which our server never sends, is no hint.
  const retryAfter = Number(headers.get('retry-after')) * 1_000
  const isProblem = headers.get('content-type')?.startsWith('application/problem+json')
  return errorOf({
    code: status < 500 ? (CODES[status] ?? 'bad-request') : 'unavailable',
    detail: `Status ${status}`,
    ...(retryAfter > 0 && { retryAfter }),
    ...(isProblem && JSON.parse(text)),
  })
}
