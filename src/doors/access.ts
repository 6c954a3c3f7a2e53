/**
 * From where a call may come (PROTOCOL.md, *Who may call*): decided from the head of a request or upgrade alone,
 * before anything of it is read or routed. Who calls, and what that caller may do, is src/access.
 *
 * Without keys the server listens on loopback only. Everybody there is admin, and what is left to keep out are web
 * pages: a browser carries any page's requests to it. A page of another site is told by `Origin` and `Sec-Fetch-Site`,
 * which pages can't forge; a page whose host name was rebound to this server's address is told by `Host`.
 */
import type { IncomingMessage } from 'node:http'
import { TidemarkError } from '../errors.ts'
import { HEADER_LINES_MAX } from './limits.ts'
import { isLoopback, nameOf, type Peers, plainAddress } from './peers.ts'

export interface AccessOptions {
  /** Host names beside the loopback names under which this server may be called, as in `Host`: `files.test`, `box:8080`. */
  readonly hostNames: readonly string[]
  /** Origins whose pages may call: `https://app.example`. Never `null`, never a pattern. */
  readonly origins: readonly string[]
  /** The address listened on is not a loopback one: the server may be called by the address at which it was reached. */
  readonly isPublic: boolean
  readonly peers: Peers
}

/** What an accepted request may be answered with. */
export interface Admitted {
  /** The listed origin that this request came from: its answer carries CORS headers. */
  readonly origin?: string
}

const SAME_ORIGIN: Admitted = {}

export class Access {
  readonly #hostNames: ReadonlySet<string>
  readonly #origins: ReadonlyMap<string, Admitted>
  readonly #isPublic: boolean
  readonly #peers: Peers
  /** The name that was found to be this server's last: callers repeat theirs. */
  #known: string | undefined

  /** @throws wrong-config for a name or origin that no request could carry. */
  constructor(options: AccessOptions) {
    this.#hostNames = new Set(options.hostNames.map(checkHostName))
    this.#origins = new Map(options.origins.map((given) => [checkOrigin(given), { origin: checkOrigin(given) }]))
    this.#isPublic = options.isPublic
    this.#peers = options.peers
  }

  /** @throws forbidden; bad-request for a head that is not to be trusted (no or two `Host`, a credential in the URL). */
  admit(req: IncomingMessage): Admitted {
    const host = onlyHost(req)
    if (!this.#isOurs(host, req)) throw forbidden('This host name is not one of this server (see --host-name)')
    const { origin } = req.headers
    const listed = origin === undefined ? undefined : this.#origins.get(origin.toLowerCase())
    if (origin !== undefined && listed === undefined && !isSameOrigin(origin, host, this.#peers.isSecure(req)))
      throw forbidden('This origin is not listed (see --origin)')
    const site = req.headers['sec-fetch-site']
    if (site !== undefined && site !== 'same-origin' && site !== 'none' && listed === undefined)
      throw forbidden('Pages of other sites may not call this server (see --origin)')
    refuseCredentials(req)
    return listed ?? SAME_ORIGIN
  }

  #isOurs(host: string, req: IncomingMessage): boolean {
    if (host === this.#known) return true
    // Of what follows the name, no part goes unread: another program on the way might take that for the host.
    if (!HOST_NAME.test(host)) return false
    const name = nameOf(host)
    if (isLoopback(name) || this.#hostNames.has(name) || this.#hostNames.has(host)) {
      this.#known = host
      return true
    }
    // No name can be rebound to be an address.
    return this.#isPublic && name.replace(/^\[|\]$/g, '') === plainAddress(req.socket.localAddress ?? '')
  }
}

const forbidden = (why: string): TidemarkError => new TidemarkError('forbidden', why)

/** The one `Host`, in lower case. Node would take the first of two; another program on the way might take the last. */
function onlyHost(req: IncomingMessage): string {
  const { rawHeaders } = req
  if (rawHeaders.length > HEADER_LINES_MAX * 2)
    throw new TidemarkError('bad-request', `A request has at most ${HEADER_LINES_MAX} header lines`)
  let host: string | undefined
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = rawHeaders[i]!
    if (name.length !== 4 || name.toLowerCase() !== 'host') continue
    if (host !== undefined) throw new TidemarkError('bad-request', 'A request has one Host header')
    host = rawHeaders[i + 1]!
  }
  if (req.httpVersionMinor === 0 && req.headers['transfer-encoding'] !== undefined)
    throw new TidemarkError('bad-request', 'HTTP/1.0 has no Transfer-Encoding')
  if (host === undefined || host === '') throw new TidemarkError('bad-request', 'A request has a Host header')
  return host.toLowerCase()
}

/** The page stands on this very server. @param isSecure as the caller's browser sees it */
function isSameOrigin(origin: string, host: string, isSecure: boolean): boolean {
  const [scheme, port] = isSecure ? ['https://', ':443'] : ['http://', ':80']
  const page = origin.toLowerCase()
  return page.startsWith(scheme) && without(port, page.slice(scheme.length)) === without(port, host)
}

const without = (port: string, host: string): string => (host.endsWith(port) ? host.slice(0, -port.length) : host)

// ── Configuration ────────────────────────────────────────────────────────────────────────────────────────────────

const HOST_NAME = /^(?:\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::\d{1,5})?$/
const ORIGIN = /^[a-z][a-z0-9+.-]*:\/\/(?:\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::\d{1,5})?$/

/** As it stands in `Host`. @throws wrong-config */
function checkHostName(given: string): string {
  const name = given.toLowerCase()
  if (!HOST_NAME.test(name))
    throw new TidemarkError('wrong-config', `--host-name takes a name with or without a port, not ${given}`)
  return name
}

/** Returns the origin as a browser writes it. */
function checkOrigin(given: string): string {
  const origin = given.toLowerCase().replace(/\/$/, '')
  if (!ORIGIN.test(origin)) throw new TidemarkError('wrong-config', `--origin takes scheme://host[:port], not ${given}`)
  return origin.replace(/^(http:.*):80$|^(https:.*):443$/, '$1$2')
}

// ── Credentials in a URL ─────────────────────────────────────────────────────────────────────────────────────────

/**
 * Names of a query that mean a credential, without `-` and `_` and in lower case. They are refused, not ignored: a URL
 * stands in logs, histories and `Referer`. `key` alone is no credential here: on an append it is the event's key, and
 * on every other call it is an unknown field and refused as such.
 */
const CREDENTIALS: ReadonlySet<string> = new Set([
  'token',
  'accesstoken',
  'refreshtoken',
  'idtoken',
  'authtoken',
  'sessiontoken',
  'bearer',
  'bearertoken',
  'jwt',
  'auth',
  'authorization',
  'apikey',
  'accesskey',
  'secretkey',
  'privatekey',
  'secret',
  'clientsecret',
  'password',
  'passwd',
  'pwd',
  'credential',
  'credentials',
])
/** Whether a query can hold such a name at all: most requests end here. `%` may hide one. */
const SUSPECT = /token|bearer|jwt|auth|key|secret|passw|pwd|credential|%/i

function refuseCredentials(req: IncomingMessage): void {
  const url = req.url!
  const mark = url.indexOf('?')
  if (mark < 0 || !SUSPECT.test(url.slice(mark + 1))) return
  for (const [name] of new URLSearchParams(url.slice(mark + 1)))
    if (CREDENTIALS.has(name.replace(/[-_]/g, '').toLowerCase()))
      throw new TidemarkError('bad-request', 'A credential never stands in a URL: send it as a header', { field: name })
}
