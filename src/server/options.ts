/** What a server is told, and what can be said of it before a log is opened for it. */
import type { Logger } from 'pino'
import { readKeys } from '../access/keysfile.ts'
import { TidemarkError } from '../errors.ts'
import type { RetentionRule } from '../retention.ts'
import type { SettingJson } from '../wire.ts'
import { Access, isLoopback, openWithoutKeys } from './access.ts'
import type { GroupFigures } from './counts.ts'

export interface ServerOptions {
  /** Address to listen on; only loopback while there are no keys. Default 127.0.0.1. */
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
  /** Most open connections. Default CONNECTIONS_MAX. */
  readonly connections?: number
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

/** @throws wrong-config */
export function checkOptions(options: ServerOptions): { host: string; path: string; access: Access } {
  const host = options.host ?? '127.0.0.1'
  if (!isLoopback(host)) throw openWithoutKeys(host)
  if (options.keys !== undefined) readKeys(options.keys)
  const path = checkPath(options.path ?? '/v1')
  const access = new Access({ hostNames: options.hostNames ?? [], origins: options.origins ?? [] })
  return { host, path, access }
}

function checkPath(path: string): string {
  if (!/^(?:\/[A-Za-z0-9._~-]+)+$/.test(path))
    throw new TidemarkError('wrong-config', `--path is like /v1 or /tidemark/v1, not ${path}`)
  return path
}
