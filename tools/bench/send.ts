/** The Node form of send.c: the same flags and output. */
import { readFileSync } from 'node:fs'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { cpuSeconds, flags } from './sockets.ts'

const values = flags(['connections', 'events', 'seconds', 'body'])
const connections = Number(values.connections)
const body = readFileSync(values.body!)
const sockets: Socket[] = []

const server = createServer({ noDelay: true }, (socket) => {
  socket.on('error', () => socket.destroy())
  if (sockets.push(socket) === connections) void write()
})
server.listen(0, '127.0.0.1', connections, () => {
  console.log(JSON.stringify({ port: (server.address() as AddressInfo).port }))
})

async function write(): Promise<void> {
  let events = 0
  for (const end = performance.now() + Number(values.seconds) * 1_000; performance.now() < end; ) {
    for (const socket of sockets) socket.write(body)
    events += connections * Number(values.events)
    for (const socket of sockets)
      if (socket.writableNeedDrain) await new Promise((resolve) => socket.once('drain', resolve))
    await new Promise((resolve) => setImmediate(resolve))
  }
  for (const socket of sockets) while (socket.writableLength > 0) await new Promise((resolve) => setTimeout(resolve, 1))
  console.log(JSON.stringify({ events, cpu: cpuSeconds() }))
}

process.stdin.resume().on('end', () => process.exit(0))
