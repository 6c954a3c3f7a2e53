/**
 * The front of the server: every request and every upgrade passes here first. It asks who may call, gives each
 * request its one form of address, takes the hot calls off before the router, and answers and logs every failure.
 */
import { type IncomingMessage, type Server, type ServerResponse, STATUS_CODES } from 'node:http'
import type { Socket } from 'node:net'
import { performance } from 'node:perf_hooks'
import type { Duplex } from 'node:stream'
import type { TLSSocket } from 'node:tls'
import { type Principal, unauthorized } from '../access/principal.ts'
import type { Access } from '../doors/access.ts'
import { type Callers, type From, setCaller } from '../doors/callers.ts'
import { type Doors, retryAfter } from '../doors/doors.ts'
import { BODY_PAUSE_MS } from '../doors/limits.ts'
import { type Peers, plainAddress } from '../doors/peers.ts'
import { Queue } from '../doors/rounds.ts'
import { type ErrorCode, hasCode, TidemarkError, toProblem } from '../errors.ts'
import { mediaType } from '../event.ts'
import type { ConnectionJson } from '../wire.ts'
import { allowOrigin, answerPreflight, isPreflight } from './cors.ts'
import { logFailure } from './failure.ts'
import { ALWAYS, holdContinue, parsePath, sendProblem } from './http.ts'
import { Pipeline } from './pipeline.ts'
import { refuseStream } from './sse.ts'

/** A hot call: plain node:http. What it throws is answered by the front. */
export type HotCall = (req: IncomingMessage, res: ServerResponse, doors: Doors, who: Principal) => Promise<void>

export interface FrontOptions {
  readonly doors: Doors
  readonly access: Access
  readonly peers: Peers
  readonly callers: Callers
  /** The call that is to be taken off before the router, if it is one. Looks at the address as it came first. */
  readonly hot: (req: IncomingMessage) => HotCall | undefined
  /** Whether a hot call asks for no credential. */
  readonly isOpen: (call: HotCall) => boolean
  /** The router, which asks `callerOf`. */
  readonly route: (req: IncomingMessage, res: ServerResponse) => void
  /** `/v1/stream`, after it was admitted. Who is nobody yet says in its hello who it is. */
  readonly upgrade: (req: IncomingMessage, socket: Duplex, head: Buffer, from: From) => void
}

/** What a handler finds in `req.url`, whatever the prefix outside. */
const INNER_PATH = '/v1'
const NDJSON = 'application/x-ndjson'

export class Front {
  readonly #options: FrontOptions
  readonly #doors: Doors
  /** The answer under way on each connection. */
  readonly #answers = new WeakMap<Duplex, ServerResponse>()
  readonly #pipeline = new Pipeline()
  /** Sockets that begin together take turns with everything else. */
  readonly #handshakes = new Queue()
  /** Connections that became sockets, with the address of who did that. */
  readonly #upgraded = new WeakMap<Duplex, string>()
  /** Answers whose request could not be read to its end. */
  readonly #spoilt = new WeakSet<ServerResponse>()

  constructor(options: FrontOptions) {
    this.#options = options
    this.#doors = options.doors
  }

  /** Takes all that the server is asked. */
  attach(server: Server): void {
    server.on('request', (req, res) => this.#request(req, res))
    server.on('checkContinue', (req, res) => {
      holdContinue(req)
      this.#request(req, res)
    })
    server.on('checkExpectation', (req, res) =>
      this.fail(req, res, new TidemarkError('bad-request', 'The only expectation taken is 100-continue')),
    )
    server.on('upgrade', (req, socket, head) => this.#upgrade(server, req, socket, head))
    server.on('clientError', (error: NodeJS.ErrnoException, socket) => this.#unread(error, socket))
    server.on('timeout', (socket) => this.#silent(socket))
  }

  #request(req: IncomingMessage, res: ServerResponse): void {
    const { doors, access, callers } = this.#options
    const before = this.#answers.get(req.socket)
    // Behind an answer that ends its connection nothing counts.
    if (before !== undefined && !before.shouldKeepAlive) return
    this.#answers.set(req.socket, res)
    if (doors.logger.isLevelEnabled('debug')) this.#logWhenOver(req, res)
    // A connection whose server is leaving gets this answer and is closed.
    if (doors.stopping.aborted) res.shouldKeepAlive = false
    try {
      const admitted = access.admit(req)
      const { origin } = admitted
      if (origin !== undefined) {
        allowOrigin(res, origin)
        if (isPreflight(req)) {
          answerPreflight(req, res)
          return
        }
      }
      if ((req.headers['content-encoding'] ?? 'identity') !== 'identity')
        throw new TidemarkError('unsupported-type', 'A body is taken as it is, without Content-Encoding')
      req.url = this.#withoutPrefix(req.url!)
      const who = callers.of(req, admitted)
      const begin = (found: Principal) => this.#pipeline.take(req, before, () => this.#perform(req, res, found))
      if (who instanceof Promise) void who.then(begin)
      else begin(who)
    } catch (error) {
      // What is not as it should be may be another request to a proxy on the way.
      if (hasCode(error, 'bad-request')) res.shouldKeepAlive = false
      this.fail(req, res, error)
    }
  }

  #perform(req: IncomingMessage, res: ServerResponse, who: Principal): void {
    const { doors, hot, isOpen, route } = this.#options
    try {
      const call = hot(req) ?? hot(inOneForm(req))
      if (call === undefined) {
        setCaller(req, who)
        route(req, res)
        return
      }
      if (who.isNobody && !isOpen(call)) throw unauthorized()
      call(req, res, doors, who).catch((error: unknown) => this.fail(req, res, error))
    } catch (error) {
      this.fail(req, res, error)
    }
  }

  /** Answers, logs and counts a failure. An answer that has begun is cut, so that it never looks whole. */
  fail(req: IncomingMessage, res: ServerResponse, thrown: unknown): void {
    // Whoever hung up gets no answer, and did nothing wrong.
    if (res.destroyed || (req.destroyed && !req.complete && !this.#spoilt.has(res))) return
    const error = this.#judged(req, thrown)
    const code = this.#tell(error, { method: req.method, path: pathOf(req.url!) })
    this.#doors.audit.refused(code, this.#options.peers.address(req))
    // An EventSource gives up for good on whatever is no stream.
    if (hasCode(thrown, 'too-many') && !res.headersSent && isStream(req))
      refuseStream(res, this.#doors, thrown as TidemarkError)
    else sendProblem(res, error)
  }

  /** Who shows one bad credential after the other is told to wait. */
  #judged(req: IncomingMessage, error: unknown): unknown {
    if (req.headers.authorization === undefined || !hasCode(error, 'unauthorized')) return error
    return this.#doors.guard.failed(this.#options.peers.address(req)) ?? error
  }

  #tell(error: unknown, facts: Readonly<Record<string, unknown>>): ErrorCode {
    const code = logFailure(this.#doors.logger, 'http', error, facts)
    this.#doors.metrics.failed('http', code)
    return code
  }

  /** Inside, every call is below /v1. @throws not-found, bad-request */
  #withoutPrefix(url: string): string {
    if (url[0] !== '/') throw new TidemarkError('bad-request', 'A request names a path of this server')
    const { path } = this.#doors.settings
    if (path === INNER_PATH) return url
    if (url.startsWith(`${path}/`)) return INNER_PATH + url.slice(path.length)
    if (url.startsWith(`${INNER_PATH}/`)) throw new TidemarkError('not-found', 'There is nothing at this address')
    return url
  }

  #upgrade(server: Server, req: IncomingMessage, socket: Duplex, head: Buffer): void {
    // Until somebody takes the socket: whoever hangs up meanwhile is no failure of ours.
    const dropped = () => socket.destroy()
    socket.on('error', dropped)
    try {
      // No socket begins with another method: the router says which one is taken.
      if (req.headers.upgrade?.toLowerCase() !== 'websocket' || req.method !== 'GET') {
        socket.removeListener('error', dropped)
        asRequest(server, req, socket, head)
        return
      }
      const { access, callers } = this.#options
      access.admit(req)
      const path = pathOf(this.#withoutPrefix(req.url!))
      if (path !== `${INNER_PATH}/stream`) throw new TidemarkError('not-found', 'Sockets are opened at /v1/stream')
      if (this.#doors.stopping.aborted)
        throw new TidemarkError('unavailable', 'The server is stopping', { retryAfter: retryAfter(this.#doors) })
      const who = callers.ofUpgrade(req)
      const open = (found: Principal): void =>
        this.#handshakes.join({
          turn: () => {
            socket.removeListener('error', dropped)
            if (!socket.destroyed) this.#open(req, socket, head, found)
          },
        })
      if (who instanceof Promise) void who.then(open)
      else open(who)
    } catch (error) {
      socket.removeListener('error', dropped)
      this.#refuse(req, socket, error)
    }
  }

  #open(req: IncomingMessage, socket: Duplex, head: Buffer, who: Principal): void {
    try {
      // Whoever shows nothing says it in its hello; what is shown here has to be good.
      if (who.isNobody && req.headers.authorization !== undefined) throw unauthorized()
      const address = this.#options.peers.address(req)
      const known = who.isNobody ? this.#doors.guard.knock(address) : undefined
      if (known !== undefined) socket.once('close', known)
      this.#upgraded.set(socket, address)
      this.#options.upgrade(req, socket, head, { who, address, ...(known && { known }) })
    } catch (error) {
      this.#refuse(req, socket, error)
    }
  }

  #refuse(req: IncomingMessage, socket: Duplex, thrown: unknown): void {
    const error = this.#judged(req, thrown)
    const code = this.#tell(error, { upgrade: true, path: pathOf(req.url!) })
    this.#doors.audit.refused(code, this.#options.peers.address(req))
    endWithProblem(socket, error, ['Sec-WebSocket-Version: 13'])
  }

  /** What never became a request, or stopped being one: too slow, too large, or not HTTP. */
  #unread(error: NodeJS.ErrnoException, socket: Duplex): void {
    const res = this.#underWay(socket)
    if (error.code === 'ERR_HTTP_REQUEST_TIMEOUT' && res !== undefined && isNdjson(res.req)) {
      // Of any length: it only has to keep moving.
      ;(socket as Socket).setTimeout(BODY_PAUSE_MS)
      return
    }
    if (error.code === 'ECONNRESET' || !socket.writable) return void socket.destroy()
    this.#endWith(refusalOf(error), socket, res)
  }

  /** A connection on which nothing moved: one that is kept for a next request, or a body that paused too long. */
  #silent(socket: Socket): void {
    const res = this.#underWay(socket)
    if (res === undefined) socket.destroy()
    else if (!res.req.complete) this.#endWith(new TidemarkError('timeout', 'The body paused too long'), socket, res)
  }

  /** Whether a call is under way on this connection, its answer not wholly sent, or whether it became a socket. */
  busy(socket: Socket): boolean {
    const res = this.#answers.get(socket)
    return (res !== undefined && !res.writableFinished && !res.destroyed) || this.upgraded(socket)
  }

  /** The door that a connection is at now. */
  doorOf(socket: Socket): ConnectionJson['door'] {
    if (this.upgraded(socket)) return 'stream'
    const req = this.#underWay(socket)?.req
    if (req === undefined) return 'idle'
    if (isStream(req)) return 'sse'
    return /^\/v1\/poll$|[?&]wait=/.test(req.url!) ? 'poll' : 'http'
  }

  /** Where a connection comes from; behind a trusted proxy, who made the call that is under way. */
  addressOf(socket: Socket): string {
    const { remoteAddress = '', remotePort } = socket
    const req = this.#underWay(socket)?.req
    const caller = this.#upgraded.get(socket) ?? (req && this.#options.peers.address(req))
    const own = plainAddress(remoteAddress)
    return caller === undefined || caller === own ? `${remoteAddress}:${remotePort}` : caller
  }

  upgraded(socket: Socket): boolean {
    return this.#upgraded.has(socket)
  }

  #underWay(socket: Duplex): ServerResponse | undefined {
    const res = this.#answers.get(socket)
    return res === undefined || res.writableEnded ? undefined : res
  }

  #endWith(refusal: TidemarkError, socket: Duplex, res: ServerResponse | undefined): void {
    if (res !== undefined && this.#spoilt.has(res)) return
    if (res !== undefined && !res.headersSent && isNdjson(res.req) && res.req.listenerCount('error') > 0) {
      // Its reader tells how far it came, once; whatever comes after that is nobody's.
      this.#spoilt.add(res)
      res.shouldKeepAlive = false
      res.req.emit('error', refusal)
      return
    }
    this.#tell(refusal, res ? { path: pathOf(res.req.url!) } : {})
    if (res?.headersSent) socket.destroy()
    else endWithProblem(socket, refusal)
  }

  /** One line per request. */
  #logWhenOver(req: IncomingMessage, res: ServerResponse): void {
    const started = performance.now()
    const { method } = req
    const path = pathOf(req.url!)
    res.once('close', () => {
      const facts = { method, path, status: res.statusCode, ms: Math.round(performance.now() - started) }
      this.#doors.logger.debug(res.writableFinished ? facts : { ...facts, cut: true }, 'Request')
    })
  }
}

/** For the router a channel is one segment, whatever of it was encoded. @throws bad-request */
function inOneForm(req: IncomingMessage): IncomingMessage {
  const url = req.url!
  const path = parsePath(url)
  if (path === undefined) return req
  const mark = url.indexOf('?')
  const segments = [INNER_PATH, 'channels', encodeURIComponent(path.channel)]
  if (path.client !== undefined) segments.push('cursors', encodeURIComponent(path.client))
  else if (path.resource !== 'channel') segments.push(path.resource)
  req.url = segments.join('/') + (mark < 0 ? '' : url.slice(mark))
  return req
}

/** An address without its query, which may hold what no log should. */
const pathOf = (url: string): string => url.split('?', 1)[0]!

const isStream = ({ method, headers }: IncomingMessage): boolean =>
  method === 'GET' && headers.accept?.includes('text/event-stream') === true

const isNdjson = (req: IncomingMessage): boolean => mediaType(req.headers['content-type'] ?? '') === NDJSON

function refusalOf(error: NodeJS.ErrnoException): TidemarkError {
  switch (error.code) {
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return new TidemarkError('timeout', 'The request did not arrive in time')
    case 'HPE_HEADER_OVERFLOW':
      return new TidemarkError('too-large', 'The head of the request is too large')
    default:
      return new TidemarkError('bad-request', 'This is not HTTP/1.1')
  }
}

/** Answers on a connection that has no response object, and closes it. */
function endWithProblem(socket: Duplex, error: unknown, headers: readonly string[] = []): void {
  const problem = toProblem(error)
  const body = JSON.stringify(problem)
  const lines = [
    `HTTP/1.1 ${problem.status} ${STATUS_CODES[problem.status]}`,
    'Content-Type: application/problem+json',
    `Content-Length: ${Buffer.byteLength(body)}`,
    ...Object.entries(ALWAYS).map((header) => header.join(': ')),
    ...headers,
    'Connection: close',
  ]
  if (problem.status === 401) lines.push('WWW-Authenticate: Bearer')
  if (typeof problem.retryAfter === 'number') lines.push(`Retry-After: ${Math.ceil(problem.retryAfter / 1_000)}`)
  socket.on('error', () => socket.destroy())
  socket.end(`${lines.join('\r\n')}\r\n\r\n${body}`, () => socket.destroy())
}

/**
 * A request that offers another protocol (`Upgrade: h2c`, as Java's client does by default) is an ordinary request to
 * a server that does not speak it (RFC 9110 §7.8). Node parses it as the end of HTTP, so it is read again without the
 * offer.
 */
function asRequest(server: Server, req: IncomingMessage, socket: Duplex, head: Buffer): void {
  let text = `${req.method} ${req.url} HTTP/${req.httpVersion}\r\n`
  for (let i = 0; i < req.rawHeaders.length; i += 2) {
    const name = req.rawHeaders[i]!
    if (!/^(?:upgrade|connection|http2-settings)$/i.test(name)) text += `${name}: ${req.rawHeaders[i + 1]}\r\n`
  }
  if (/\bclose\b/i.test(req.headers.connection ?? '')) text += 'Connection: close\r\n'
  socket.unshift(Buffer.concat([Buffer.from(`${text}\r\n`, 'latin1'), head]))
  server.emit((socket as TLSSocket).encrypted ? 'secureConnection' : 'connection', socket)
}
