/**
 * What the hot calls share over plain node:http: addresses, queries, Accept, bodies within bounds, answers, problems.
 */
import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from 'node:http'
import { BODIES_BYTES_MAX, LEFTOVER_BYTES, LINGER_BYTES_MAX, LINGER_MS } from '../doors/limits.ts'
import { type Problem, TidemarkError, toProblem } from '../errors.ts'
import { checkChannel, checkCursorName, JSON_TYPE } from '../event.ts'
import { Gather } from '../formats/gather.ts'
import { refuse } from '../formats/json.ts'

// ── Addresses ────────────────────────────────────────────────────────────────────────────────────────────────────

export type Resource = 'channel' | 'events' | 'trim' | 'compact' | 'state' | 'erase' | 'cursors' | 'cursor'

/** What an address below `/v1/channels/` names. */
export interface Path {
  readonly resource: Resource
  readonly channel: string
  /** Of a `cursor`. */
  readonly client?: string
}

const CHANNELS = '/v1/channels/'
const RESOURCES: ReadonlySet<string> = new Set(['events', 'trim', 'compact', 'state', 'erase', 'cursors'])

/**
 * Decodes the path once, then reads it from the right: what remains on the left is the channel, slashes and all.
 * Undefined for any other address. @throws bad-request for a name or an encoding that can't be
 */
export function parsePath(url: string): Path | undefined {
  if (!url.startsWith(CHANNELS)) return undefined
  const mark = url.indexOf('?')
  const path = decode(url.slice(CHANNELS.length, mark < 0 ? undefined : mark), 'path')
  if (path === '') return undefined
  const last = path.lastIndexOf('/')
  if (last < 0) return { resource: 'channel', channel: checkChannel(path) }
  const word = path.slice(last + 1)
  if (RESOURCES.has(word)) return { resource: word as Resource, channel: checkChannel(path.slice(0, last)) }
  const owner = path.lastIndexOf('/', last - 1)
  if (owner > 0 && path.slice(owner + 1, last) === 'cursors')
    return { resource: 'cursor', channel: checkChannel(path.slice(0, owner)), client: checkCursorName(word) }
  return { resource: 'channel', channel: checkChannel(path) }
}

function decode(text: string, field: string): string {
  if (!text.includes('%')) return text
  try {
    return decodeURIComponent(text)
  } catch {
    return refuse(`The ${field} has a broken percent encoding`, { field })
  }
}

/**
 * The query's parameters in their order. A name that is not in `known` or that comes twice is refused, so that a
 * misspelt one is never silently without effect; `several` may come more than once.
 * @throws bad-request
 */
export function parseQuery(url: string, known: readonly string[], several?: string): Map<string, string[]> {
  const query = new Map<string, string[]>()
  const mark = url.indexOf('?')
  if (mark < 0 || mark === url.length - 1) return query
  for (const part of url.slice(mark + 1).split('&')) {
    if (part === '') continue
    const equals = part.indexOf('=')
    const name = decode(spaced(equals < 0 ? part : part.slice(0, equals)), 'query')
    const value = equals < 0 ? '' : decode(spaced(part.slice(equals + 1)), 'query')
    if (!known.includes(name)) refuse(`This call has no parameter ${JSON.stringify(name)}`, { field: name })
    const given = query.get(name)
    if (given === undefined) query.set(name, [value])
    else if (name === several) given.push(value)
    else refuse(`The parameter ${name} is given twice`, { field: name })
  }
  return query
}

const spaced = (text: string): string => (text.includes('+') ? text.replaceAll('+', ' ') : text)

/** @throws method-not-allowed */
export function checkMethod(req: IncomingMessage, method: 'GET' | 'POST'): void {
  if (req.method !== method)
    throw new TidemarkError('method-not-allowed', `This address takes ${method}`, { allow: [method] })
}

// ── Accept ───────────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * The type that the caller wants most, the first of equals; a caller who says nothing gets the first.
 * @throws not-acceptable
 */
export function acceptedType<T extends string>(req: IncomingMessage, offers: readonly T[]): T {
  const { accept } = req.headers
  if (accept === undefined || accept === '*/*') return offers[0]!
  const only = offers.find((offer) => offer === accept)
  if (only !== undefined) return only
  let best: T | undefined
  let most = 0
  const ranges = accept.split(',').map(readRange)
  for (const offer of offers) {
    const weight = weightOf(offer, ranges)
    if (weight > most) {
      most = weight
      best = offer
    }
  }
  if (best === undefined)
    throw new TidemarkError('not-acceptable', `This address gives ${offers.join(', ')}`, { offers })
  return best
}

/** What an address of events can be read as; the first when nothing is said. */
export const READ_TYPES = [JSON_TYPE, 'application/x-ndjson', 'application/msgpack'] as const
const STREAM_TYPE = 'text/event-stream'

/** Whether the caller would rather have events as a stream (sse.ts) than as pages (read.ts). @throws not-acceptable */
export function wantsStream(req: IncomingMessage): boolean {
  return acceptedType(req, [...READ_TYPES, STREAM_TYPE]) === STREAM_TYPE
}

interface AcceptRange {
  readonly type: string
  readonly weight: number
}

function readRange(text: string): AcceptRange {
  const [type = '', ...parameters] = text.split(';').map((part) => part.trim().toLowerCase())
  const weight = parameters.find((parameter) => parameter.startsWith('q='))
  const q = weight === undefined ? 1 : Number(weight.slice(2))
  return { type, weight: q >= 0 && q <= 1 ? q : 0 }
}

/** By the range that speaks of it most exactly. */
function weightOf(offer: string, ranges: readonly AcceptRange[]): number {
  const wholeFamily = `${offer.slice(0, offer.indexOf('/'))}/*`
  for (const type of [offer, wholeFamily, '*/*']) {
    const range = ranges.find((each) => each.type === type)
    if (range) return range.weight
  }
  return 0
}

// ── Bodies ───────────────────────────────────────────────────────────────────────────────────────────────────────

/** Requests whose sender waits for a word before it sends the body (`Expect: 100-continue`). */
const held = new WeakSet<IncomingMessage>()

/** For a server's `checkContinue`: the word is given by whoever reads the body, and never when the call is refused. */
export function holdContinue(req: IncomingMessage): void {
  held.add(req)
}

/** Asks for the body, if its sender waits for that. */
export function continueBody(req: IncomingMessage, res: ServerResponse): void {
  if (held.delete(req)) res.writeContinue()
}

const tooLarge = (limit: number): TidemarkError =>
  new TidemarkError('too-large', `The body holds at most ${limit} bytes`, { limit })

const tooManyBodies = (): TidemarkError =>
  new TidemarkError('too-many', 'Too many bodies arrive at once', { retryAfter: 1_000 })

/** Bytes of bodies that are being received, of all requests of this process. */
let receiving = 0

/**
 * The whole body. What says that it is larger than `limit` is refused unread; a body that turns out larger is read no
 * further.
 * @throws too-large; too-many when all bodies under way take too much memory; bad-request when it is cut
 */
export function readBody(req: IncomingMessage, res: ServerResponse, limit: number): Promise<Buffer> {
  if (Number(req.headers['content-length'] ?? 0) > limit) throw tooLarge(limit)
  continueBody(req, res)
  return new Promise((resolve, reject) => {
    const rest = new Gather()
    let first: Buffer | undefined
    let length = 0
    // Listeners stay: to take them off costs more than to ask this.
    let isDone = false
    const done = (): void => {
      isDone = true
      receiving -= length
    }
    const fail = (error: TidemarkError): void => {
      if (isDone) return
      done()
      req.pause()
      reject(error)
    }
    const onData = (chunk: Buffer): void => {
      if (isDone) return
      length += chunk.length
      receiving += chunk.length
      if (length > limit) fail(tooLarge(limit))
      else if (receiving > BODIES_BYTES_MAX) fail(tooManyBodies())
      // Most bodies come in one piece and are never copied.
      else if (first === undefined) first = chunk
      else rest.add(chunk)
    }
    const onEnd = (): void => {
      if (isDone) return
      done()
      if (first === undefined || rest.length === 0) resolve(first ?? Buffer.alloc(0))
      else resolve(Buffer.concat([first, rest.take()]))
    }
    // A close comes after every request; an error takes a stack trace.
    const onCut = (): void => {
      if (!isDone) fail(new TidemarkError('bad-request', 'The body was cut'))
    }
    req.on('data', onData).on('end', onEnd).on('close', onCut).on('error', onCut)
  })
}

// ── Answers ──────────────────────────────────────────────────────────────────────────────────────────────────────

/** What every answer says, unless it says something else. */
export const ALWAYS = { 'Cache-Control': 'no-store', 'X-Content-Type-Options': 'nosniff' } as const
const PROBLEM_TYPE = 'application/problem+json'

/** Sends a whole answer. What `headers` do not say: JSON, never cached, never sniffed. */
export function sendJson(
  res: ServerResponse,
  status: number,
  body: string | Uint8Array,
  headers?: OutgoingHttpHeaders,
): void {
  const told = { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body), ...ALWAYS }
  res.writeHead(status, headers === undefined ? told : { ...told, ...headers })
  res.end(body)
}

/**
 * Answers a failure as a problem (RFC 9457), with `Retry-After` where that is a promise of its code. The rest of a body
 * that was not read is thrown away within bounds, so that its sender gets to read the answer. An answer that has begun
 * is cut.
 */
export function sendProblem(res: ServerResponse, error: unknown): void {
  if (res.headersSent) {
    res.destroy()
    return
  }
  const problem = toProblem(error)
  const body = JSON.stringify(problem)
  const rest = restOfBody(res.req)
  res.writeHead(problem.status, {
    'Content-Type': PROBLEM_TYPE,
    'Content-Length': Buffer.byteLength(body),
    ...ALWAYS,
    ...retryAfterOf(problem),
    ...(problem.status === 401 && { 'WWW-Authenticate': 'Bearer' }),
    ...(Array.isArray(problem.allow) && { Allow: problem.allow.join(', ') }),
    ...(rest !== 'none' && rest !== 'short' && { Connection: 'close' }),
  })
  if (rest === 'short') res.req.resume()
  if (rest !== 'long') {
    res.end(body)
    return
  }
  res.write(body)
  linger(res.req, res)
}

/** What of a request's body is still to come; `withheld` is not sent until it is asked for. */
function restOfBody(req: IncomingMessage): 'none' | 'withheld' | 'short' | 'long' {
  const { 'content-length': length, 'transfer-encoding': encoding } = req.headers
  if (req.complete || (encoding === undefined && Number(length ?? 0) === 0)) return 'none'
  if (held.has(req)) return 'withheld'
  return Number(length ?? Number.POSITIVE_INFINITY) <= LEFTOVER_BYTES ? 'short' : 'long'
}

/**
 * A connection that is closed while its client still sends is reset, and the client may never see the answer: what
 * comes is thrown away for a while first.
 */
function linger(req: IncomingMessage, res: ServerResponse): void {
  let left = LINGER_BYTES_MAX
  const end = (): void => {
    clearTimeout(timer)
    req.off('data', onData)
    res.end()
  }
  const onData = (chunk: Buffer): void => {
    left -= chunk.length
    if (left < 0) end()
  }
  const timer = setTimeout(end, LINGER_MS)
  req.on('error', end).once('end', end).once('close', end).on('data', onData)
  req.resume()
}

/** In seconds, from the `retryAfter` in ms of a refusal. */
function retryAfterOf(problem: Problem): OutgoingHttpHeaders {
  const { status, retryAfter } = problem
  if (typeof retryAfter === 'number') return { 'Retry-After': Math.max(1, Math.ceil(retryAfter / 1_000)) }
  return status === 429 || status === 503 ? { 'Retry-After': 1 } : {}
}

// ── Waiting ──────────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * A signal that aborts when the caller is gone or when the server stops, for a stream; polls wait by waits.ts. `end`
 * frees what it holds; call it when the stream is over.
 */
export function untilGone(
  res: ServerResponse,
  stopping: AbortSignal,
): { readonly signal: AbortSignal; abort(): void; end(): void } {
  const over = new AbortController()
  const abort = (): void => over.abort()
  res.once('close', abort)
  stopping.addEventListener('abort', abort, { once: true })
  if (stopping.aborted || res.destroyed) abort()
  return {
    signal: over.signal,
    abort,
    end() {
      res.off('close', abort)
      stopping.removeEventListener('abort', abort)
    },
  }
}
