/** A server with keys, and one of each who may call it. */
import { join } from 'node:path'
import { changeKeys, type IssuerEntry, type Keys, makeIssuer, makeKey } from '../../src/access/keysfile.ts'
import type { Operation } from '../../src/access/principal.ts'
import { signToken } from '../../src/access/tokens.ts'
import { tempDir } from '../parts.ts'
import { startTestServer, type TestServer, type TestServerOptions } from './serve.ts'
import { Peer, type Subprotocol } from './stream.ts'

const ALL: readonly Operation[] = ['append', 'read', 'commit', 'seek', 'list']
/** What publisher and client are granted. */
export const GRANTED = ['orders/**', 'in']

export const CALLERS = ['none', 'publish', 'granted', 'without', 'other', 'admin'] as const
export type Caller = (typeof CALLERS)[number]

export interface Guarded extends TestServer {
  readonly file: string
  readonly issuer: IssuerEntry
  /** Their credentials; none has ''. */
  readonly credentials: Readonly<Record<Caller, string>>
  /** kids of the keys. */
  readonly kids: { readonly publish: string; readonly admin: string }
  headers(caller: Caller): Record<string, string>
  token(sub: string, channels?: readonly string[], ops?: readonly Operation[], seconds?: number): Promise<string>
  change(change: (keys: Keys) => Keys): void
  /** A socket; its handshake says who it is. */
  peer(caller: Caller, subprotocol?: Subprotocol): Promise<Peer>
  /** A socket that has said hello, with this token in it. */
  joined(token: string, client?: string): Promise<Peer>
}

export async function startGuarded(options: TestServerOptions = {}): Promise<Guarded> {
  const file = join(tempDir(), 'keys.json')
  const admin = makeKey({ kind: 'admin' })
  const publish = makeKey({ kind: 'publish', channels: GRANTED, subject: 'bot' })
  const issuer = makeIssuer({ iss: 'app' })
  changeKeys(file, () => ({ keys: [admin.entry, publish.entry], issuers: [issuer] }))
  const token: Guarded['token'] = (sub, channels = GRANTED, ops = ALL, seconds = 600) =>
    signToken(issuer, { sub, perm: channels.map((ch) => ({ ch, ops })), groups: [], seconds })
  const credentials: Record<Caller, string> = {
    none: '',
    publish: publish.text,
    granted: await token('anna'),
    without: await token('eve', ['elsewhere/**']),
    other: await token('bert'),
    admin: admin.text,
  }
  const started = await startTestServer({ keys: file, ...options })
  const headers = (caller: Caller): Record<string, string> =>
    caller === 'none' ? {} : { authorization: `Bearer ${credentials[caller]}` }
  const socket = `${started.url.replace('http', 'ws')}/v1/stream`
  return {
    ...started,
    file,
    issuer,
    credentials,
    kids: { publish: publish.entry.kid, admin: admin.entry.kid },
    headers,
    token,
    change: (change) => changeKeys(file, change),
    peer: (caller, subprotocol = 'json') => Peer.open(socket, subprotocol, { headers: headers(caller) }),
    async joined(text, client) {
      const peer = await Peer.open(socket, 'json', {})
      peer.send({ op: 'hello', token: text, ...(client !== undefined && { client }) })
      await peer.next('welcome')
      return peer
    },
  }
}
