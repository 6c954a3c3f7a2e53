/** Redis: Streams, which are stored, and Pub/Sub, which is not. */
import { Child } from './child.ts'
import { debian, npm, UNPACKED_ENV, versionOf } from './packages.ts'
import { freePort, type Peer, question } from './peer.ts'
import { requestFile } from './requests.ts'
import type { Target } from './target.ts'

const STREAM = 's'
const CLIENT = { ioredis: '6.0.0' }

/** A command as Redis wants it. */
const command = (...words: readonly string[]): string =>
  `*${words.length}\r\n${words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`).join('')}`

/** Redis has no batches: a request of many events is as many commands in one write, each answered. */
const commands = (size: number, linesEach: number, write: (data: string) => string) =>
  ({
    protocol: 'lines',
    lines: size * linesEach,
    requests: requestFile(size, (data) => data.map(write).join('')),
  }) as const

export async function redisPeers(): Promise<readonly Peer[]> {
  const program = await debian('redis-server', ['redis-server'])
  const version = await versionOf(program, '--version')
  const modules = await npm(CLIENT)

  const start =
    (appendFsync: string) =>
    async (dir: string): Promise<Target> => {
      const port = await freePort()
      const flags = {
        ...{ port, bind: '127.0.0.1', dir, save: '', maxclients: 15_000 },
        ...(appendFsync === ''
          ? {}
          : { appendonly: 'yes', appendfsync: appendFsync, 'auto-aof-rewrite-percentage': 0 }),
      }
      const words = Object.entries(flags).flatMap(([name, value]) => [`--${name}`, String(value)])
      const limits = ['normal', 'pubsub'].flatMap((kind) => ['--client-output-buffer-limit', `${kind} 0 0 0`])
      const child = Child.start('redis-server', [program, ...words, ...limits], UNPACKED_ENV)
      await question(port, 'PING\r\n', /^\+PONG/)
      return { child, port }
    }
  const stored = async (port: number): Promise<number> =>
    Number((await question(port, command('XLEN', STREAM), /^:(\d+)\r\n/))[1])
  const streams: Omit<Peer, 'name' | 'durability' | 'workloads' | 'start'> = {
    sending: (size) => commands(size, 2, (data) => command('XADD', STREAM, '*', 'd', data)),
    receiving: () => ({ mode: 'xread', opening: Buffer.from(STREAM) }),
    stored,
    reader: { kind: 'redis', modules },
  }
  return [
    {
      ...streams,
      name: `Redis ${version} Streams, always`,
      durability: 'fsync',
      workloads: 'W1 W2 W3 W4 W5 W6',
      start: start('always'),
    },
    {
      ...streams,
      name: `Redis ${version} Streams, everysec`,
      durability: 'page cache, fsync each s',
      workloads: 'W1',
      start: start('everysec'),
    },
    {
      name: `Redis ${version} Pub/Sub`,
      durability: 'none (memory)',
      workloads: 'W2 W3',
      start: start(''),
      sending: (size) => commands(size, 1, (data) => command('PUBLISH', STREAM, data)),
      receiving: () => ({ mode: 'stream', opening: Buffer.from(`SUBSCRIBE ${STREAM}\r\n`), ready: 'subscribe' }),
    },
  ]
}
