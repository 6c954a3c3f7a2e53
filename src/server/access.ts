/**
 * From where a call may come (PROTOCOL.md, *Who may call*): decided from the head of a request or upgrade alone,
 * before anything of it is read or routed. Who calls, and what that caller may do, is src/access.
 *
 * The server listens on loopback only. Without keys everybody there is admin, and what is left to keep out are web
 * pages: a browser on this machine carries any page's requests to it. A page of another site is told by `Origin` and
 * `Sec-Fetch-Site`, which pages can't forge; a page whose host name was rebound to 127.0.0.1 is told by `Host`.
 */
import type { IncomingMessage } from 'node:http'
import { isIPv4 } from 'node:net'
import { TidemarkError } from '../errors.ts'
import { HEADER_LINES_MAX } from './limits.ts'

export interface AccessOptions {
  /** Host names beside the loopback names under which this server may be called, as in `Host`: `files.test`, `box:8080`. */
  readonly hostNames: readonly string[]
  /** Origins whose pages may call: `https://app.example`. Never `null`, never a pattern. */
  readonly origins: readonly string[]
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

  /** @throws wrong-config for a name or origin that no request could carry. */
  constructor(options: AccessOptions) {
    this.#hostNames = new Set(options.hostNames.map(checkHostName))
    this.#origins = new Map(options.origins.map((given) => [checkOrigin(given), { origin: checkOrigin(given) }]))
  }

  /** @throws forbidden; bad-request for a head that is not to be trusted (no or two `Host`, a credential in the URL). */
  admit(req: IncomingMessage): Admitted {
    const host = onlyHost(req)
    if (!this.#isOurs(host)) throw forbidden('This host name is not one of this server (see --host-name)')
    const { origin } = req.headers
    const listed = origin === undefined ? undefined : this.#origins.get(origin.toLowerCase())
    if (origin !== undefined && listed === undefined && !isSameOrigin(origin, host))
      throw forbidden('This origin is not listed (see --origin)')
    const site = req.headers['sec-fetch-site']
    if (site !== undefined && site !== 'same-origin' && site !== 'none' && listed === undefined)
      throw forbidden('Pages of other sites may not call this server (see --origin)')
    refuseCredentials(req)
    return listed ?? SAME_ORIGIN
  }

  #isOurs(host: string): boolean {
    // Of what follows the name, no part goes unread: another program on the way might take that for the host.
    if (!HOST_NAME.test(host)) return false
    const name = nameOf(host)
    return isLoopback(name) || this.#hostNames.has(name) || this.#hostNames.has(host)
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
  if (host === undefined || host === '') throw new TidemarkError('bad-request', 'A request has a Host header')
  return host.toLowerCase()
}

/** `localhost:7070` → `localhost`, `[::1]:7070` → `[::1]`. */
function nameOf(host: string): string {
  const end = host.startsWith('[') ? host.indexOf(']') + 1 : host.indexOf(':')
  return end <= 0 ? host : host.slice(0, end)
}

/** @param name of a host without its port, IPv6 with or without brackets. */
export function isLoopback(name: string): boolean {
  const host = name.toLowerCase()
  if (host === 'localhost' || host.endsWith('.localhost')) return true
  if (host === '::1' || host === '[::1]') return true
  return host.startsWith('127.') && isIPv4(host)
}

/**
 * The page stands on this very server. This server speaks plain HTTP, so a page of `https:` is another origin; behind
 * a proxy that adds TLS its origin is listed.
 */
function isSameOrigin(origin: string, host: string): boolean {
  const page = origin.toLowerCase()
  return page.startsWith('http://') && withoutPort80(page.slice(7)) === withoutPort80(host)
}

const withoutPort80 = (host: string): string => (host.endsWith(':80') ? host.slice(0, -3) : host)

// ── Configuration ────────────────────────────────────────────────────────────────────────────────────────────────

const HOST_NAME = /^(?:\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::\d{1,5})?$/
const ORIGIN = /^[a-z][a-z0-9+.-]*:\/\/(?:\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::\d{1,5})?$/

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

export const openWithoutKeys = (host: string): TidemarkError =>
  new TidemarkError(
    'wrong-config',
    `Without keys everybody who reaches the server is admin: it listens on loopback only, not on ${host}`,
  )
