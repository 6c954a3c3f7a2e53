/** The connection to NATS: how it is made and left, and what the servers must be. */
import type { Socket } from 'node:net'
import type { NatsConnection } from '@nats-io/transport-node'
import { TidemarkError } from '../../errors.ts'
import type { NatsOptions } from '../open.ts'
import { PAYLOAD_MIN } from './streams.ts'

/** Before 2.12 a message that was refused leaves its id behind, and a retry of it is taken for a duplicate. */
const VERSION_MIN = [2, 12] as const
/** A reconnect is tried this often, ms. */
const RECONNECT_MS = 250
/** A server is asked for a sign of life so often, ms; when it owes two of them, another server is tried. */
const PING_MS = 2_000
const PINGS_OUT = 2

/** @param timeout of one attempt, ms @throws wrong-config (too old, refused credentials), unavailable */
export async function connectTo(options: NatsOptions, timeout: number): Promise<NatsConnection> {
  const { connect, credsAuthenticator } = await import('@nats-io/transport-node')
  const { servers, credentials, user, password, tls } = options
  const authenticator = credentials && credsAuthenticator(credentials)
  try {
    authenticator?.('')
  } catch (cause) {
    const why = `The credentials for NATS are none: ${(cause as Error).message}`
    throw new TidemarkError('wrong-config', why, {}, { cause })
  }
  const nc = await connect({
    servers: [...servers],
    name: 'tidemark',
    maxReconnectAttempts: -1,
    // Credentials may be renewed while they are refused.
    ignoreAuthErrorAbort: true,
    reconnectTimeWait: RECONNECT_MS,
    pingInterval: PING_MS,
    maxPingOut: PINGS_OUT,
    timeout,
    ...(authenticator && { authenticator }),
    ...(user !== undefined && { user, pass: password ?? '' }),
    ...(tls !== undefined && { tls }),
  }).catch((cause: Error) => {
    const code = ['AuthorizationError', 'UserAuthenticationExpiredError'].includes(cause.name)
      ? 'wrong-config'
      : 'unavailable'
    throw new TidemarkError(code, `NATS at ${servers.join(', ')}: ${cause.message}`, {}, { cause })
  })
  const why = unfit(nc)
  if (why === undefined) return nc
  await nc.close()
  throw new TidemarkError('wrong-config', why)
}

/**
 * Breaks a connection that the library has begun to leave: by itself it waits until the server has taken what was sent,
 * which one that stands still never does.
 */
export function breakOff(nc: NatsConnection): void {
  const { protocol } = nc as unknown as { protocol: { transport: { socket?: Socket } } }
  protocol.transport.socket?.destroy()
}

function unfit({ info }: NatsConnection): string | undefined {
  const version = info?.version ?? '0'
  if (!isAtLeast(version, VERSION_MIN))
    return `nats-server ${version} is too old: the log needs ${VERSION_MIN.join('.')} or later`
  const most = info?.max_payload ?? 0
  if (most < PAYLOAD_MIN) return `NATS takes messages of ${most} bytes; set max_payload to ${PAYLOAD_MIN} or more`
  return undefined
}

export function isAtLeast(version: string, wanted: readonly number[]): boolean {
  const parts = version.split(/[.-]/).map(Number)
  for (const [i, part] of wanted.entries()) if ((parts[i] ?? 0) !== part) return (parts[i] ?? 0) > part
  return true
}
