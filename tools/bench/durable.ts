/** The reference server of Durable Streams, with its store in files: HTTP appends, SSE subscribers. */
import { Child } from './child.ts'
import { npm } from './packages.ts'
import { freePort, type Peer, question } from './peer.ts'
import { compiled } from './programs.ts'
import { postFile } from './requests.ts'

const PACKAGE = { '@durable-streams/server': '0.3.7' }
const PATH = '/v1/stream/bench'

const request = (method: string, path: string): string =>
  `${method} ${path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n`

export async function durablePeers(): Promise<readonly Peer[]> {
  const modules = await npm(PACKAGE)
  const follow = `GET ${PATH}?offset=-1&live=sse HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n`
  const common: Omit<Peer, 'name' | 'workloads' | 'receiving'> = {
    durability: 'fsync',
    isNode: true,
    start: async (dir, node = []) => {
      const port = await freePort()
      const [program, script] = compiled('tools/bench/durable-server.js')
      const flags = ['--modules', modules, '--port', String(port), '--dir', dir]
      const child = Child.start('Durable Streams', [program!, ...node, script!, ...flags])
      // Makes the stream, or finds it as it was.
      await question(port, request('PUT', PATH), /^HTTP\/1\.1 20[0-9]/)
      return { child, port }
    },
    sending: (size) => ({
      protocol: 'http',
      requests: postFile(PATH, size, (data) => (size === 1 ? data[0]! : `[${data.join(',')}]`)),
    }),
  }
  const name = `Durable Streams ${PACKAGE['@durable-streams/server']}`
  return [
    {
      ...common,
      name,
      workloads: 'W1 W2 W3 W5 W6',
      receiving: () => ({ mode: 'stream', opening: Buffer.from(follow), ready: 'text/event-stream' }),
    },
    {
      ...common,
      name: `${name}, one GET`,
      workloads: 'W4',
      receiving: () => ({ mode: 'stream', opening: Buffer.from(request('GET', `${PATH}?offset=-1`)) }),
    },
  ]
}
