/**
 * Socket.IO as an application would run it, WebSockets alone, without compression: each line of a POST is emitted to
 * all as one event. Prints {"port":P}.
 *
 *   node socketio-server.js --modules DIR
 */
import { createServer, type Server } from 'node:http'
import { createRequire } from 'node:module'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { parseArgs } from 'node:util'

/** What is used of the package. */
interface SocketIo {
  readonly Server: new (server: Server, options: object) => { emit(name: string, data: unknown): void }
}

const BACKLOG = 8_192
/** No heartbeat within a run: the receivers answer none. */
const PING_MS = 600_000

const { values } = parseArgs({ options: { modules: { type: 'string' } } })
const { Server: Sockets } = createRequire(join(values.modules!, 'package.json'))('socket.io') as SocketIo

const server = createServer((req, res) => {
  const parts: Buffer[] = []
  req.on('data', (part: Buffer) => parts.push(part))
  req.on('end', () => {
    for (const line of Buffer.concat(parts).toString().split('\n')) sockets.emit('event', JSON.parse(line))
    res.writeHead(200, { 'content-type': 'application/json', 'content-length': 2 }).end('{}')
  })
})
const sockets = new Sockets(server, {
  transports: ['websocket'],
  perMessageDeflate: false,
  pingInterval: PING_MS,
  pingTimeout: PING_MS,
})
server.listen({ port: 0, host: '127.0.0.1', backlog: BACKLOG }, () =>
  console.log(JSON.stringify({ port: (server.address() as AddressInfo).port })),
)
