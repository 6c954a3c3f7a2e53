/** The HTTP calls of the client: one answer or one TidemarkError, whatever stands between here and the server. */
import { type ErrorCode, TidemarkError } from '../errors.ts'

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

export class Token {
  readonly #source: TokenSource
  #value: string | undefined

  constructor(source: TokenSource) {
    this.#source = source
  }

  /** True when a refused token can be replaced by another one. */
  get isRenewable(): boolean {
    return typeof this.#source === 'function'
  }

  /** @throws unauthorized, with what the app's function threw as its cause */
  async get(): Promise<string | undefined> {
    if (typeof this.#source !== 'function') return this.#source
    try {
      this.#value ??= await this.#source()
    } catch (cause) {
      throw new TidemarkError('unauthorized', 'There is no token: the function that gives it failed', {}, { cause })
    }
    return this.#value
  }

  /** Forgets a refused token, unless another one was fetched since. */
  drop(refused: string | undefined): void {
    if (this.#value === refused) this.#value = undefined
  }
}

export class Http {
  readonly token: Token
  readonly #base: URL
  readonly #fetch: typeof fetch

  constructor(base: URL, token: Token, fetchWith: typeof fetch) {
    this.#base = base
    this.token = token
    this.#fetch = fetchWith
  }

  /** @throws what the server answered; `unavailable` when no answer came; the signal's reason when it aborts. */
  async call<T>(call: Call): Promise<Answer<T>> {
    const token = await this.token.get()
    try {
      return await this.#send(call, token)
    } catch (error) {
      const refused = error instanceof TidemarkError && error.code === 'unauthorized'
      if (!refused || !this.token.isRenewable) throw error
      this.token.drop(token)
      return await this.#send(call, await this.token.get())
    }
  }

  async #send<T>(call: Call, token: string | undefined): Promise<Answer<T>> {
    const { method = 'GET', path, body, signal, timeout = REQUEST_MS } = call
    signal?.throwIfAborted()
    const headers: Record<string, string> = { accept: 'application/json', ...call.headers }
    if (body !== undefined) headers['content-type'] = 'application/json'
    if (token !== undefined) headers.authorization = `Bearer ${token}`
    const life = new AbortController()
    const stop = () => life.abort()
    const timer = setTimeout(stop, timeout)
    signal?.addEventListener('abort', stop)
    try {
      const init: RequestInit = { method, headers, signal: life.signal }
      // Only where it means something: Chromium asks for leave anew (a preflight) before each call that says so.
      if (method === 'GET') init.cache = 'no-store'
      if (body !== undefined) init.body = body
      const response = await this.#fetch.call(undefined, new URL(path, this.#base), init)
      const text = await response.text()
      if (!response.ok) throw refusal(response, text)
      // 204 says that there is nothing to say.
      return { value: (response.status === 204 ? undefined : JSON.parse(text)) as T, size: text.length }
    } catch (cause) {
      if (cause instanceof TidemarkError) throw cause
      if (signal?.aborted) throw signal.reason
      throw new TidemarkError('unavailable', `No answer from ${this.#base.host}`, {}, { cause })
    } finally {
      clearTimeout(timer)
      signal?.removeEventListener('abort', stop)
    }
  }
}

/** What a refused request means: the server's own problem, or what a proxy's bare status says. */
function refusal(response: Response, text: string): TidemarkError {
  const after = retryAfterOf(response)
  const hint = after === undefined ? {} : { retryAfter: after }
  const problem = problemOf(response, text)
  if (problem === undefined)
    return new TidemarkError(codeOf(response.status), `The answer was ${response.status}`, hint)
  const { type: _type, title: _title, status: _status, code, detail, ...details } = problem
  return new TidemarkError(asErrorCode(code), String(detail), { ...hint, ...details })
}

function problemOf(response: Response, text: string): Record<string, unknown> | undefined {
  if (!response.headers.get('content-type')?.startsWith('application/problem+json')) return undefined
  try {
    return JSON.parse(text)
  } catch {
    // Cut on its way: the status speaks.
    return undefined
  }
}

/** A server newer than this client may have a code that our table lacks; it is told as it is. */
export const asErrorCode = (code: unknown): ErrorCode => (typeof code === 'string' ? (code as ErrorCode) : 'internal')

function codeOf(status: number): ErrorCode {
  if (status >= 500) return 'unavailable'
  const codes: Record<number, ErrorCode> = {
    401: 'unauthorized',
    403: 'forbidden',
    404: 'not-found',
    408: 'timeout',
    413: 'too-large',
    429: 'too-many',
  }
  return codes[status] ?? 'bad-request'
}

/** `Retry-After`, seconds or a date, as milliseconds from now. */
function retryAfterOf(response: Response): number | undefined {
  const text = response.headers.get('retry-after')
  if (text === null) return undefined
  const seconds = Number(text)
  const ms = Number.isFinite(seconds) ? seconds * 1_000 : Date.parse(text) - Date.now()
  return ms >= 0 ? ms : undefined
}

/** True when the same request may succeed later: nobody said no, or somebody said "not now". */
export function isPassing(error: unknown): error is TidemarkError {
  return (
    error instanceof TidemarkError &&
    (error.code === 'unavailable' ||
      error.code === 'too-many' ||
      error.code === 'timeout' ||
      error.details.outcome === 'unknown')
  )
}

/** The server's hint beside an error, ms. */
export function hintOf(error: TidemarkError): number | undefined {
  const { retryAfter } = error.details
  return typeof retryAfter === 'number' ? retryAfter : undefined
}
