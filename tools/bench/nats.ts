/** NATS: appends to a JetStream stream in a file; subscribers follow its subject, as TCP clients or over WebSockets. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Child } from './child.ts'
import { newerDebian, npm, UNPACKED_ENV, versionOf } from './packages.ts'
import { freePort, type Peer, question } from './peer.ts'
import { maskedFrame, requestFile, upgradeTo } from './requests.ts'
import type { Target } from './target.ts'

const STREAM = 'S'
const SUBJECT = 's.a'
const CLIENT = { '@nats-io/transport-node': '3.4.0', '@nats-io/jetstream': '3.4.0' }
/** Where the load program hears its acknowledgements: one inbox for each connection. */
const INBOX = 'ib.@@@@@@@@'
/** An acknowledgement is a MSG line and a line of JSON. */
const ACK_LINES = 2

const HELLO = 'CONNECT {"verbose":false}\r\n'
/** The server has taken what was sent before when it answers this. */
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

/** Asks the JetStream interface; resolves with what `wanted` matches in the answer. */
const api = (port: number, subject: string, body: string, wanted: RegExp): Promise<RegExpExecArray> =>
  question(port, `${HELLO}SUB ij 1\r\n${publish(`$JS.API.${subject}`, 'ij', body)}`, wanted)

export async function natsPeers(): Promise<readonly Peer[]> {
  const program = await newerDebian('nats-server', 'nats-server')
  const version = await versionOf(program, '--version')
  const modules = await npm(CLIENT)
  const webPorts = new Map<number, number>()

  const start =
    (sync: string) =>
    async (dir: string): Promise<Target> => {
      const [port, webPort] = [await freePort(), await freePort()]
      webPorts.set(port, webPort)
      const file = join(dir, 'nats.conf')
      writeFileSync(file, config(port, webPort, dir, sync))
      const child = Child.start('nats-server', [program, '-c', file], UNPACKED_ENV)
      // On a log that is there already, the stream is found as it was.
      await api(port, `STREAM.CREATE.${STREAM}`, JSON.stringify(STREAM_CONFIG), /"did_create"|"created"/)
      return { child, port }
    }
  const jetStream: Omit<Peer, 'name' | 'durability' | 'workloads'> = {
    start: start(''),
    sending: (size) => {
      const write = (data: readonly string[]) => data.map((body) => publish(SUBJECT, INBOX, body)).join('')
      const requests = requestFile(size, write, `${HELLO}SUB ${INBOX} 1\r\n`)
      return { protocol: 'lines', lines: size * ACK_LINES, requests }
    },
    receiving: () => ({ mode: 'stream', opening: Buffer.from(FOLLOW), ready: 'PONG' }),
    reorders: true,
    stored: async (port) => Number((await api(port, `STREAM.INFO.${STREAM}`, '', /"messages":(\d+)/))[1]),
    reader: { kind: 'nats', modules },
  }
  // Older ones refuse the setting.
  const [major = 0, minor = 0] = version.split('.').map(Number)
  const canSync = major > 2 || minor >= 10
  const synced: Peer = {
    ...jetStream,
    name: `NATS ${version} JetStream, sync always`,
    durability: 'fsync',
    workloads: 'W1',
    start: start(', sync_interval: always'),
  }
  const catchUp = `${HELLO}SUB dl 1\r\n${publish(`$JS.API.CONSUMER.CREATE.${STREAM}`, 'ij', JSON.stringify(CONSUMER))}`
  return [
    {
      ...jetStream,
      name: `NATS ${version} JetStream`,
      durability: 'page cache, fsync 2 min',
      workloads: 'W1 W2 W3 W5 W6',
    },
    ...(canSync ? [synced] : []),
    {
      ...jetStream,
      name: `NATS ${version} WebSocket`,
      durability: 'page cache, fsync 2 min',
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
      durability: 'page cache, fsync 2 min',
      workloads: 'W4',
      receiving: () => ({ mode: 'stream', opening: Buffer.from(catchUp) }),
    },
  ]
}
