/** What a server is told, and what can be said of it before a log is opened for it. */
import { isIP } from 'node:net'
import type { Logger } from 'pino'
import { readKeys } from '../access/keysfile.ts'
import { Access } from '../doors/access.ts'
import type { GroupFigures } from '../doors/counts.ts'
import { isLoopback, Peers } from '../doors/peers.ts'
import { TidemarkError } from '../errors.ts'
import type { Limits } from '../limits.ts'
import type { RetentionRule } from '../retention.ts'
import type { SettingJson } from '../wire.ts'
import type { Certificate } from './tls.ts'

export interface ServerOptions {
  /** Address to listen on; another than a loopback one only with keys, and with TLS. Default 127.0.0.1. */
  readonly host?: string
  /** Default 7070; 0 takes a free one. */
  readonly port?: number
  /** Prefix of the calls. Default `/v1`. */
  readonly path?: string
  /** Origins whose pages may call beside this server's own: `https://app.example`. */
  readonly origins?: readonly string[]
  /** Host names under which this server may be called beside the loopback names. */
  readonly hostNames?: readonly string[]
  /** File of the keys that are good; while there is none, everybody is admin. Default: no file, for ever. */
  readonly keys?: string
  /** Files of a certificate and its key: the server speaks TLS. Both or none. */
  readonly tlsCert?: string | undefined
  readonly tlsKey?: string | undefined
  /** A proxy before this server adds TLS. */
  readonly tls?: 'terminated-upstream' | undefined
  /** Addresses and networks of proxies whose `X-Forwarded-For` and `-Proto` are believed. Default: nobody's. */
  readonly trustedProxies?: readonly string[]
  /** Whether an append makes its channel. Default true. */
  readonly createChannels?: boolean
  /** Streams and sockets without anything else to say show that they live this often, ms. Default HEARTBEAT_MS. */
  readonly heartbeat?: number
  /** What is kept of channels whose own settings do not say: the first rule whose pattern reaches a channel. */
  readonly retain?: readonly RetentionRule[]
  /** How long a cursor without a sign of life is remembered, ms. Default CURSOR_TTL_MS. */
  readonly cursorTtl?: number
  /** Default: none is written. */
  readonly logger?: Logger
  /** Version of the program, told to clients. */
  readonly version?: string
  /** How much callers may have. Default: as in LIMITS. */
  readonly limits?: Partial<Limits>
  /** Most bytes of answers that were made and not taken, of all connections. Default UNSENT_BYTES_MAX. */
  readonly unsentBytes?: number
  /** A request is whole after this, ms, its head within HEADERS_MS. Default REQUEST_MS. */
  readonly requestTimeout?: number
  /** Clients that are sent away spread their return over this window, ms. Default RETRY_WINDOW_MS. */
  readonly retryWindow?: number
  /** Figures of the log's writes, for `/metrics`. */
  readonly groupFigures?: GroupFigures
  /** Settings as they were given, to be shown to who watches: never a secret. */
  readonly shown?: readonly SettingJson[]
  /** Where the log lies, to tell how full its disk is. */
  readonly dir?: string
  /** The browser client that `/client.js` gives out. Default: as built, dist/client.js. */
  readonly clientFile?: string
  /** Checks every answer against its schema; for tests. */
  readonly checkAnswers?: boolean
}

export interface Checked {
  readonly host: string
  readonly path: string
  readonly access: Access
  readonly peers: Peers
  /** Undefined for a server that speaks plain HTTP. */
  readonly certificate: Certificate | undefined
}

/** @throws wrong-config */
export async function checkOptions(options: ServerOptions): Promise<Checked> {
  const host = options.host ?? '127.0.0.1'
  const isPublic = !isLoopback(host)
  const keys = options.keys === undefined ? undefined : readKeys(options.keys)
  const certificate = await certificateOf(options)
  const { tls } = options
  if (isPublic && keys === undefined) throw openWithoutKeys(host)
  if (isPublic && certificate === undefined && tls === undefined) throw openWithoutTls(host)
  const path = checkPath(options.path ?? '/v1')
  const peers = new Peers({ trustedProxies: options.trustedProxies ?? [], tlsUpstream: tls !== undefined })
  const named = isPublic && isIP(host) === 0 ? [host] : []
  const hostNames = [...(options.hostNames ?? []), ...named]
  const access = new Access({ hostNames, origins: options.origins ?? [], isPublic, peers })
  return { host, path, access, peers, certificate }
}

async function certificateOf({ tls, tlsCert, tlsKey }: ServerOptions): Promise<Certificate | undefined> {
  if (tlsCert === undefined && tlsKey === undefined) return undefined
  if (tlsCert === undefined || tlsKey === undefined)
    throw new TidemarkError('wrong-config', '--tls-cert and --tls-key go together')
  if (tls !== undefined)
    throw new TidemarkError('wrong-config', 'TLS is added here (--tls-cert) or by a proxy (--tls), not by both')
  // Most servers stand behind a proxy or on loopback, and do not load it.
  const { Certificate } = await import('./tls.ts')
  return new Certificate(tlsCert, tlsKey)
}

/** @param host beyond loopback, listened on or about to be */
export const openWithoutKeys = (host: string): TidemarkError =>
  new TidemarkError(
    'wrong-config',
    `Without keys everybody who reaches the server is its admin, so it listens on loopback alone, not on ${host}: make a key first (tidemark keys create admin)`,
  )

const openWithoutTls = (host: string): TidemarkError =>
  new TidemarkError(
    'wrong-config',
    `Without TLS everybody on the way to ${host} reads keys and events: give --tls-cert and --tls-key, or say that a proxy before this server adds TLS (--tls terminated-upstream)`,
  )

function checkPath(path: string): string {
  if (!/^(?:\/[A-Za-z0-9._~-]+)+$/.test(path))
    throw new TidemarkError('wrong-config', `--path is like /v1 or /tidemark/v1, not ${path}`)
  return path
}
