/**
 * The limits of W1, W2, W3, W5 and W7: servers that do the least that a durable log on Node must do. Bodies of requests
 * that wait for the disk are written together and share one fdatasync (group commit); then each is answered and, as
 * one frame, written to every subscriber; the newest are kept in memory for long polls. Nothing is parsed.
 *
 *   node bare.js --mode http|net|ws --dir DIR
 *
 * `http`: node:http. `net`: a hand-written parser on node:net. `ws`: requests come over WebSockets (ws). In `http` and
 * `ws` mode a WebSocket that asks to subscribe gets what is appended from then on. In `http` mode, a GET of ?after=N is
 * answered with the bodies of all later requests as soon as there is one. Prints {"port":P}.
 */
import { fdatasync, openSync, writev } from 'node:fs'
import { createServer as createHttpServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { type AddressInfo, createServer as createNetServer, type Server, type Socket } from 'node:net'
import { join } from 'node:path'
import type { Duplex } from 'node:stream'
import { parseArgs, promisify } from 'node:util'
import { type WebSocket, WebSocketServer } from 'ws'

/** More than this unsent to a subscriber, and the next group waits for it. */
const UNSENT_BYTES_MAX = 1024 * 1024
/** The kernel takes so many buffers in one writev. */
const BUFFERS_MAX = 1_024
const BACKLOG = 8_192
/** Bodies that are kept for long polls. */
const KEPT_MAX = 10_000

const { values } = parseArgs({ options: { mode: { type: 'string' }, dir: { type: 'string' } } })
const file = openSync(join(values.dir!, 'log'), 'a')
const writevAsync = promisify(writev)
const fdatasyncAsync = promisify(fdatasync)
const subscribers = new Set<Duplex>()
/** WebSockets whose answers of this group leave in one write. */
const corked = new Set<Socket>()
let waiting: { body: Buffer; answer: () => void }[] = []
let busy = false
let seq = 0
/** The newest bodies that are on disk, the last of them being body `durable`. */
let kept: Buffer[] = []
let durable = 0
/** Somebody polls. */
let keeps = false
let polls: { after: number; res: ServerResponse }[] = []

function append(body: Buffer, answer: () => void): void {
  seq++
  waiting.push({ body, answer })
  if (busy) return
  busy = true
  // What came with the same turn of the loop shares the first write.
  setImmediate(() => {
    commit().catch((error) => {
      console.error(error)
      process.exit(1)
    })
  })
}

async function commit(): Promise<void> {
  while (waiting.length > 0) {
    const group = waiting
    waiting = []
    for (let i = 0; i < group.length; i += BUFFERS_MAX)
      await writevAsync(
        file,
        group.slice(i, i + BUFFERS_MAX).map((entry) => entry.body),
      )
    await fdatasyncAsync(file)
    for (const { answer } of group) answer()
    for (const socket of corked) socket.uncork()
    corked.clear()
    if (keeps) answerPolls(group.map((entry) => entry.body))
    if (subscribers.size > 0) await publish(Buffer.concat(group.map((entry) => frame(entry.body))))
  }
  busy = false
}

function answerPolls(bodies: Buffer[]): void {
  kept = kept.concat(bodies).slice(-KEPT_MAX)
  durable += bodies.length
  const waiting = polls
  polls = []
  // Who waits at one place gets the same bytes.
  const pages = new Map<number, Buffer>()
  for (const { after, res } of waiting) {
    const page = pages.get(after) ?? pageAfter(after)
    pages.set(after, page)
    sendPage(res, page)
  }
}

function pageAfter(after: number): Buffer {
  if (durable - after > kept.length) throw new Error(`a poll after ${after} came too late`)
  return Buffer.from(`[${kept.slice(after - durable).join(',')}]`)
}

function sendPage(res: ServerResponse, page: Buffer): void {
  res.writeHead(200, { 'content-type': 'application/json', 'content-length': page.length })
  res.end(page)
}

function onPoll(after: number, res: ServerResponse): void {
  keeps = true
  if (after < durable) sendPage(res, pageAfter(after))
  else polls.push({ after, res })
}

async function publish(frames: Buffer): Promise<void> {
  for (const socket of subscribers) socket.write(frames)
  for (const socket of subscribers)
    if (socket.writableLength > UNSENT_BYTES_MAX) await new Promise((resolve) => socket.once('drain', resolve))
}

/** A whole text frame of a server. */
function frame(payload: Buffer): Buffer {
  const n = payload.length
  if (n < 126) return Buffer.concat([Uint8Array.of(0x81, n), payload])
  if (n < 65_536) return Buffer.concat([Uint8Array.of(0x81, 126, n >> 8, n & 255), payload])
  const head = Buffer.from([0x81, 127, 0, 0, 0, 0, 0, 0, 0, 0])
  head.writeUInt32BE(n, 6)
  return Buffer.concat([head, payload])
}

const answerText = (): string => `{"channel":"bench","first":${seq},"last":${seq},"head":${seq}}`

function onRequest(req: IncomingMessage, res: ServerResponse): void {
  if (req.method === 'GET') {
    onPoll(Number(/after=(\d+)/.exec(req.url!)![1]), res)
    return
  }
  const parts: Buffer[] = []
  req.on('data', (part: Buffer) => parts.push(part))
  req.on('end', () =>
    append(parts.length === 1 ? parts[0]! : Buffer.concat(parts), () => {
      const text = answerText()
      res.writeHead(201, { 'content-type': 'application/json', 'content-length': text.length })
      res.end(text)
    }),
  )
}

const HEAD_END = Buffer.from('\r\n\r\n')

function onSocket(socket: Socket): void {
  let bytes: Buffer = Buffer.alloc(0)
  socket.on('error', () => socket.destroy())
  socket.on('data', (part) => {
    bytes = bytes.length > 0 ? Buffer.concat([bytes, part]) : part
    for (;;) {
      const end = bytes.indexOf(HEAD_END)
      if (end < 0) return
      const length = /content-length: ?(\d+)/i.exec(bytes.toString('latin1', 0, end))
      const whole = end + 4 + Number(length?.[1] ?? 0)
      if (bytes.length < whole) return
      append(bytes.subarray(end + 4, whole), () => {
        const text = answerText()
        socket.write(
          `HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: ${text.length}\r\n\r\n${text}`,
        )
      })
      bytes = bytes.subarray(whole)
    }
  })
}

function serveWebSockets(server: ReturnType<typeof createHttpServer>): void {
  const wss = new WebSocketServer({
    server,
    perMessageDeflate: false,
    clientTracking: false,
    skipUTF8Validation: true,
    handleProtocols: (offered) => offered.values().next().value ?? false,
  })
  wss.on('connection', (ws, req) => {
    const socket = req.socket
    ws.on('error', () => ws.terminate())
    ws.on('close', () => subscribers.delete(socket))
    ws.on('message', (data: Buffer) => {
      const head = data.toString('latin1', 0, 64)
      if (head.includes('append')) return append(data, () => answerOn(ws, socket))
      if (!head.includes('subscribe')) return
      subscribers.add(socket)
      ws.send('{"op":"caughtup"}')
    })
  })
}

function answerOn(ws: WebSocket, socket: Socket): void {
  if (!corked.has(socket)) {
    socket.cork()
    corked.add(socket)
  }
  ws.send(`{"op":"appended","ref":1,"first":${seq},"last":${seq},"head":${seq}}`)
}

function createServer(): Server {
  if (values.mode === 'net') return createNetServer({ noDelay: true }, onSocket)
  const server = createHttpServer({ noDelay: true }, onRequest)
  serveWebSockets(server)
  return server
}

const server = createServer()
server.listen(0, '127.0.0.1', BACKLOG, () => {
  console.log(JSON.stringify({ port: (server.address() as AddressInfo).port }))
})
