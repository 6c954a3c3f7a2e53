/**
 * Slow attackers, a process of its own: `attackers.js PORT COUNT KIND…`, with the header line of one who may read `big`
 * and append to `junk` in AUTH. They begin with the first line on stdin. Whoever is ended comes back. Each new way in which one was ended is a line on stdout,
 * how often each came is the last one, when stdin ends.
 */
import { setMaxListeners } from 'node:events'
import { connect, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { clientFrame } from './frame.ts'

/** An attacker that was ended comes back after this, ms. */
const BACK_MS = 250

const [port = '', count = '', ...kinds] = process.argv.slice(2)
const auth = process.env.AUTH ?? ''

const upgrade = (auth: string): string =>
  `GET /v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n${auth}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: tidemark.v1.json\r\n\r\n`
const hello = clientFrame('{"op":"hello"}')
/** That nobody asked for. */
const pong = clientFrame('', { opcode: 10 })
const ping = clientFrame(Buffer.alloc(125), { opcode: 9 })

/** Begins on a new connection; what it gives back is done again each 100 ms. */
type Attack = (socket: Socket) => (() => void) | undefined

const ATTACKS: Readonly<Record<string, Attack>> = {
  'slow heads': (socket) => {
    socket.write('GET /v1/channels HTTP/1.1\r\nHost: 127.0.0.1\r\n')
    return () => socket.write('X')
  },
  'slow bodies': (socket) => {
    socket.write(
      `POST /v1/channels/junk/events HTTP/1.1\r\nHost: 127.0.0.1\r\n${auth}Content-Type: application/json\r\nContent-Length: 900000\r\n\r\n{"data":"`,
    )
    return () => socket.write('x')
  },
  'answers not read': (socket) => {
    socket.pause()
    socket.write(`GET /v1/channels/big/events?limit=10000 HTTP/1.1\r\nHost: 127.0.0.1\r\n${auth}\r\n`.repeat(24))
    // A line between requests, so that the end is noticed; nobody reads it.
    return () => socket.write('\r\n')
  },
  'sockets not read': (socket) => {
    socket.pause()
    socket.write(upgrade(auth))
    socket.write(hello)
    socket.write(clientFrame('{"op":"subscribe","channel":"big"}'))
    return () => socket.write(pong)
  },
  'no hello': (socket) => {
    socket.write(upgrade(''))
    return undefined
  },
  fragments: (socket) => {
    socket.write(upgrade(auth))
    socket.write(Buffer.concat([hello, clientFrame('{', { fin: false })]))
    return () =>
      socket.write(Buffer.concat(Array.from({ length: 20 }, () => clientFrame(' ', { opcode: 0, fin: false }))))
  },
  pings: (socket) => {
    socket.pause()
    socket.write(upgrade(auth))
    socket.write(hello)
    return () =>
      socket.writableLength < 1_000_000 && socket.write(Buffer.concat(Array.from({ length: 200 }, () => ping)))
  },
}

const ends = new Map<string, number>()
const over = new AbortController()
setMaxListeners(0, over.signal)

/** Attacks until it is over, coming back each time. */
async function attack(kind: string): Promise<void> {
  while (!over.signal.aborted) {
    const socket = connect(Number(port), '127.0.0.1')
    let tail = Buffer.alloc(0)
    socket.on('data', (chunk: Buffer) => {
      tail = Buffer.concat([tail, chunk]).subarray(-400)
    })
    socket.on('error', () => {})
    const closed = new Promise((resolve) => socket.once('close', resolve))
    const again = ATTACKS[kind]!(socket)
    const timer = setInterval(() => again?.(), 100)
    const stop = () => socket.destroy()
    over.signal.addEventListener('abort', stop)
    if (over.signal.aborted) stop()
    await closed
    over.signal.removeEventListener('abort', stop)
    clearInterval(timer)
    if (over.signal.aborted) return
    const [, status] = /HTTP\/1\.1 (4\d\d)/.exec(tail.toString('latin1')) ?? []
    const close = tail.lastIndexOf(0x88)
    const code = close >= 0 && close + 4 <= tail.length ? tail.readUInt16BE(close + 2) : undefined
    const end = `${kind}: ${status ?? code ?? 'cut'}`
    if (!ends.has(end)) console.log(JSON.stringify({ end }))
    ends.set(end, (ends.get(end) ?? 0) + 1)
    await sleep(BACK_MS)
  }
}

process.stdin.on('end', () => over.abort())
console.log(JSON.stringify({ ready: true }))
await new Promise((resolve) => process.stdin.once('data', resolve))
const chosen = kinds.length > 0 ? kinds : Object.keys(ATTACKS)
await Promise.all(Array.from({ length: Number(count) }, (_, n) => attack(chosen[n % chosen.length]!)))
console.log(JSON.stringify({ ends: Object.fromEntries([...ends].toSorted()) }))
