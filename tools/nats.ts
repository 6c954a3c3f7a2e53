/** How NATS is reached, as the settings say. */
import { readFileSync } from 'node:fs'
import type { Settings } from '../src/config.ts'
import { TidemarkError } from '../src/errors.ts'
import type { NatsOptions } from '../src/log/open.ts'

/** @throws wrong-config when a file can't be read */
export function natsOptionsOf(settings: Settings): NatsOptions {
  const { engine, natsNamespace, natsReplicas, natsMaxBytes, natsCreds, natsCa, natsCert, natsKey, natsSync } = settings
  const addresses = engine.split(',').map((address) => new URL(address))
  const { username, password } = addresses[0]!
  const isSecure = addresses.some(({ protocol }) => protocol === 'tls:')
  const files = { ca: textOf(natsCa), cert: textOf(natsCert), key: textOf(natsKey) }
  const tls = Object.fromEntries(Object.entries(files).filter(([, text]) => text !== undefined))
  return {
    servers: addresses.map(({ host }) => `nats://${host}`),
    namespace: natsNamespace,
    replicas: natsReplicas,
    maxBytes: natsMaxBytes,
    ...(natsCreds !== undefined && { credentials: Buffer.from(read(natsCreds)) }),
    ...(username !== '' && { user: decodeURIComponent(username), password: decodeURIComponent(password) }),
    ...((isSecure || Object.keys(tls).length > 0) && { tls }),
    durability: natsSync === 'always' ? 'fsync' : undefined,
  }
}

const textOf = (file: string | undefined): string | undefined => (file === undefined ? undefined : read(file))

function read(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch (cause) {
    throw new TidemarkError('wrong-config', `${file} can not be read: ${(cause as Error).message}`, {}, { cause })
  }
}
