/** NATS: appends to a JetStream stream in a file; subscribers follow its subject, as TCP clients or over WebSockets. */
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Child } from './child.ts'
import { newerDebian, npm, UNPACKED_ENV, versionOf } from './packages.ts'
import { freePort, type Peer, question, type Receiving, type Sending } from './peer.ts'
import { maskedFrame, requestFile, upgradeTo } from './requests.ts'
import type { Target } from './target.ts'

/** The log needs 2.12. */
const MINOR_MIN = 12
/** Before 2.10 `sync_interval: always` is refused. */
const SYNC_MINOR = 10
const STREAM = 'S'
const SUBJECT = 's.a'
const CLIENT = { '@nats-io/transport-node': '3.4.0', '@nats-io/jetstream': '3.4.0' }
/** Where the load program hears its acknowledgements: one inbox for each connection. */
const INBOX = 'ib.@@@@@@@@'
/** An acknowledgement is a MSG line and a line of JSON. */
const ACK_LINES = 2

const HELLO = 'CONNECT {"verbose":false}\r\n'
/** The server has taken what was sent before when it answers PING. */
const FOLLOW = `${HELLO}SUB ${SUBJECT} 1\r\nPING\r\n`
const publish = (subject: string, inbox: string, body: string): string =>
  `PUB ${subject} ${inbox} ${Buffer.byteLength(body)}\r\n${body}\r\n`

const STREAM_CONFIG = {
  ...{ name: STREAM, subjects: [SUBJECT], storage: 'file', retention: 'limits', discard: 'old', num_replicas: 1 },
  ...{ max_consumers: -1, max_msgs: -1, max_bytes: -1, max_age: 0, duplicate_window: 100_000_000 },
}

/** A consumer that is sent everything that is stored, without acknowledgements. */
const CONSUMER = {
  stream_name: STREAM,
  config: { deliver_subject: 'dl', ack_policy: 'none', deliver_policy: 'all', mem_storage: true, num_replicas: 1 },
}

const config = (port: number, webPort: number, dir: string, sync: string): string => `
listen: "127.0.0.1:${port}"
max_connections: 20000
max_pending: 512MB
write_deadline: "30s"
ping_interval: "10m"
jetstream { store_dir: "${join(dir, 'js')}", max_file_store: 20GB, max_memory_store: 2GB ${sync} }
websocket { listen: "127.0.0.1:${webPort}", no_tls: true }
`

/** What an answered publish has survived. */
export const NATS_DURABILITY = { always: 'fsync', default: 'page cache, fsync 2 min' } as const
export type Sync = keyof typeof NATS_DURABILITY

export interface Nats extends Target {
  /** Of WebSockets. */
  readonly webPort: number
}

/** @param wanted of 2.x */
function isAtLeast(version: string, wanted: number): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number)
  return major > 2 || (major === 2 && minor >= wanted)
}

/** The program: named by NATS_SERVER_BIN, or of the newest Debian release; there it runs here and is new enough for the log. */
export async function natsProgram(): Promise<string> {
  const named = process.env.NATS_SERVER_BIN
  if (named === undefined)
    return newerDebian('nats-server', 'nats-server', async (path) =>
      isAtLeast(await versionOf(path, '--version'), MINOR_MIN),
    )
  if (!existsSync(named)) throw new Error(`NATS_SERVER_BIN: there is no ${named}`)
  return named
}

/** Starts one server with JetStream on a free port, with what `dir` holds; resolves when JetStream answers. */
export async function startNats(program: string, dir: string, sync: Sync): Promise<Nats> {
  const [port, webPort] = [await freePort(), await freePort()]
  const file = join(dir, 'nats.conf')
  writeFileSync(file, config(port, webPort, dir, sync === 'always' ? ', sync_interval: always' : ''))
  const child = Child.start('nats-server', [program, '-c', file], UNPACKED_ENV)
  await askNats(port, 'INFO', '', /"streams":/)
  return { child, port, webPort }
}

/** Asks the JetStream interface; resolves with what `wanted` matches in the answer. */
export const askNats = (port: number, subject: string, body: string, wanted: RegExp): Promise<RegExpExecArray> =>
  question(port, `${HELLO}SUB ij 1\r\n${publish(`$JS.API.${subject}`, 'ij', body)}`, wanted)

/** Makes the stream of a peer; one that is there is found as it was. */
export const makeStream = (port: number): Promise<RegExpExecArray> =>
  askNats(port, `STREAM.CREATE.${STREAM}`, JSON.stringify(STREAM_CONFIG), /"did_create"|"created"/)

/** How many messages a stream holds. */
export const messagesIn = async (port: number, stream = STREAM): Promise<number> =>
  Number((await askNats(port, `STREAM.INFO.${stream}`, '', /"messages":(\d+)/))[1])

/** Publishes with acknowledgement, as the load program in C writes and reads the protocol. */
export function publishing(size: number): Sending {
  const write = (data: readonly string[]) => data.map((body) => publish(SUBJECT, INBOX, body)).join('')
  return {
    protocol: 'lines',
    lines: size * ACK_LINES,
    requests: requestFile(size, write, `${HELLO}SUB ${INBOX} 1\r\n`),
  }
}

/** A core subscriber of the subject. */
export const SUBSCRIBER: Receiving = { mode: 'stream', opening: Buffer.from(FOLLOW), ready: 'PONG' }

/** A consumer of the stream, from its beginning on. */
export const CONSUMING: Receiving = {
  mode: 'stream',
  opening: Buffer.from(
    `${HELLO}SUB dl 1\r\n${publish(`$JS.API.CONSUMER.CREATE.${STREAM}`, 'ij', JSON.stringify(CONSUMER))}`,
  ),
}

export async function natsPeers(): Promise<readonly Peer[]> {
  const program = await natsProgram()
  const version = await versionOf(program, '--version')
  const modules = await npm(CLIENT)
  const webPorts = new Map<number, number>()

  const start =
    (sync: Sync) =>
    async (dir: string): Promise<Target> => {
      const { child, port, webPort } = await startNats(program, dir, sync)
      webPorts.set(port, webPort)
      await makeStream(port)
      return { child, port }
    }
  const jetStream: Omit<Peer, 'name' | 'durability' | 'workloads'> = {
    start: start('default'),
    sending: publishing,
    receiving: () => SUBSCRIBER,
    reorders: true,
    stored: messagesIn,
    reader: { kind: 'nats', modules },
  }
  const canSync = isAtLeast(version, SYNC_MINOR)
  const synced: Peer = {
    ...jetStream,
    name: `NATS ${version} JetStream, sync always`,
    durability: NATS_DURABILITY.always,
    workloads: 'W1',
    start: start('always'),
  }
  const durability = NATS_DURABILITY.default
  return [
    { ...jetStream, name: `NATS ${version} JetStream`, durability, workloads: 'W1 W2 W3 W5 W6' },
    ...(canSync ? [synced] : []),
    {
      ...jetStream,
      name: `NATS ${version} WebSocket`,
      durability,
      workloads: 'W2 W3 W5',
      receiving: ({ port }) => ({
        port: webPorts.get(port)!,
        mode: 'ws',
        opening: Buffer.concat([upgradeTo('/'), maskedFrame(Buffer.from(FOLLOW))]),
        ready: 'PONG',
      }),
    },
    {
      ...jetStream,
      name: `NATS ${version} JetStream consumer`,
      durability,
      workloads: 'W4',
      receiving: () => CONSUMING,
    },
  ]
}
