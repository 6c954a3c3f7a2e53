/** The Node form of load.c, for machines without a C compiler: the same flags, the same report. */
import { readFileSync } from 'node:fs'
import type { Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  cpuSeconds,
  dial,
  epochMicros,
  flags,
  Histogram,
  MASK,
  nowMicros,
  pong,
  STAMP,
  STAMP_DIGITS,
  Walker,
} from './sockets.ts'

/** Longest wait for answers that are missing. */
const DRAIN_MS = 20_000
/** A paced request sent later than this after it was due counts as late. */
const LATE_MICROS = 1_000

const values = flags([
  'port',
  'connections',
  'requests',
  'protocol',
  'depth',
  'rate',
  'seconds',
  'warm',
  'count',
  'channels',
])
const ws = values.protocol === 'ws'
const connections = Number(values.connections ?? 1)
const depth = Number(values.depth ?? 1)
const rate = Number(values.rate ?? 0)
const count = Number(values.count ?? 0)
const channels = Number(values.channels ?? 1)
/** In the name of a channel. */
const TURN = '{turn}'

interface Request {
  readonly bytes: Buffer
  readonly events: number
  /** Where the digits of its stamps stand. */
  readonly stamps: readonly number[]
  /** Where {turn} stands, or -1. */
  readonly turn: number
}

interface Conn {
  readonly socket: Socket
  readonly flights: { readonly events: number; readonly start: number }[]
  rest: Buffer
}

function readRequests(path: string): { opening: Buffer; requests: Request[] } {
  const file = readFileSync(path)
  const masked = (text: string): Uint8Array => Buffer.from(text).map((byte) => (ws ? byte ^ MASK : byte))
  const zeros = masked(STAMP + '0'.repeat(STAMP_DIGITS))
  const inTurn = masked(TURN)
  let at = 4 + file.readUInt32LE(0)
  const opening = file.subarray(4, at)
  const requests: Request[] = []
  while (at < file.length) {
    const bytes = file.subarray(at + 8, at + 8 + file.readUInt32LE(at))
    const stamps: number[] = []
    for (let s = bytes.indexOf(zeros); s >= 0; s = bytes.indexOf(zeros, s + zeros.length)) stamps.push(s + STAMP.length)
    const turn = bytes.subarray(0, 128).indexOf(inTurn)
    requests.push({ bytes, events: file.readUInt32LE(at + 4), stamps, turn })
    at += 8 + bytes.length
  }
  return { opening, requests }
}

const { opening, requests } = readRequests(values.requests!)
const latency = new Histogram()
const report = { answered: 0, events: 0, total: 0, errors: 0, late: 0 }
let phase: 'warm' | 'measure' | 'drain' = 'warm'
let launched = 0
let inFlight = 0
let sum = 0n
let conns: Conn[] = []

function launch(conn: Conn, due: number, start: number): void {
  const turn = launched % channels
  const request = requests[launched++ % requests.length]!
  const bytes = Buffer.from(request.bytes)
  if (request.turn >= 0) {
    bytes.write(String(turn).padStart(TURN.length, '0'), request.turn, 'latin1')
    if (ws) for (let d = 0; d < TURN.length; d++) bytes[request.turn + d]! ^= MASK
  }
  const stamp = Math.floor(due)
  request.stamps.forEach((at, i) => {
    bytes.write(String(stamp + i), at, 'latin1')
    if (ws) for (let d = 0; d < STAMP_DIGITS; d++) bytes[at + d]! ^= MASK
    sum += BigInt(stamp + i)
  })
  conn.flights.push({ events: request.events, start })
  inFlight++
  conn.socket.write(bytes)
}

/** As many as may be in flight, unless they are paced. */
function refill(conn: Conn): void {
  if (phase === 'drain' || rate > 0) return
  conn.socket.cork()
  while (conn.flights.length < depth && (count === 0 || launched < count)) launch(conn, epochMicros(), nowMicros())
  conn.socket.uncork()
}

function landed(conn: Conn): void {
  const flight = conn.flights.shift()
  if (flight === undefined) throw new Error('an answer without a request')
  inFlight--
  report.total += flight.events
  if (phase !== 'measure') return
  report.answered++
  report.events += flight.events
  latency.add(nowMicros() - flight.start)
}

function refused(text: string): void {
  if (report.errors++ === 0) console.error(`refused: ${text.slice(0, 600)}`)
}

/** Takes whole HTTP answers off what came. */
function takeAnswers(conn: Conn, bytes: Buffer): void {
  conn.rest = conn.rest.length > 0 ? Buffer.concat([conn.rest, bytes]) : bytes
  for (;;) {
    const end = conn.rest.indexOf('\r\n\r\n')
    if (end < 0) return
    const head = conn.rest.toString('latin1', 0, end)
    const length = /\r\ncontent-length: ?(\d+)/i.exec(head)
    if (length === null) throw new Error('an answer without Content-Length')
    const whole = end + 4 + Number(length[1])
    if (conn.rest.length < whole) return
    if (head[9] !== '2') refused(conn.rest.toString('latin1', 0, whole))
    landed(conn)
    conn.rest = conn.rest.subarray(whole)
  }
}

function onFrame(conn: Conn, opcode: number, kept: Buffer): void {
  if (opcode === 9) pong(conn.socket, kept)
  if (opcode === 8) throw new Error('the server closed a socket')
  const text = kept.toString('latin1')
  const failed = !text.includes('appended') && text.includes('error')
  if (failed) refused(text)
  if (failed || text.includes('appended')) landed(conn)
}

async function open(): Promise<Conn> {
  let conn: Conn | undefined
  const walker = new Walker((opcode, kept) => onFrame(conn!, opcode, kept))
  const early: Buffer[] = []
  const onBytes = (bytes: Buffer): void => {
    if (conn === undefined) return void early.push(bytes)
    if (ws) walker.walk(bytes)
    else takeAnswers(conn, bytes)
    refill(conn)
  }
  const socket = await dial(Number(values.port), opening, ws, onBytes)
  conn = { socket, flights: [], rest: Buffer.alloc(0) }
  for (const bytes of early) onBytes(bytes)
  return conn
}

function enter(next: 'measure' | 'drain'): void {
  phase = next
  console.log(JSON.stringify({ phase }))
}

/** Sends what is due until `end`; a timer's millisecond is the finest step. */
async function pace(end: number): Promise<void> {
  const offset = epochMicros() - nowMicros()
  const step = (1e6 * requests[0]!.events) / rate
  for (let due = nowMicros(); nowMicros() < end; await sleep(1))
    for (; due <= nowMicros(); due += step) {
      const free = conns.findIndex((conn) => conn.flights.length < depth)
      if (free < 0) break
      if (nowMicros() - due > LATE_MICROS) report.late++
      launch(conns[free]!, due + offset, due)
      conns.push(...conns.splice(free, 1))
    }
}

async function phaseOf(seconds: number): Promise<void> {
  const end = nowMicros() + seconds * 1e6
  if (rate > 0) await pace(end)
  else if (seconds > 0) await sleep(seconds * 1_000)
}

conns = await Promise.all(Array.from({ length: connections }, open))
for (const conn of conns) refill(conn)
await phaseOf(Number(values.warm ?? 0))
enter('measure')
const started = nowMicros()
if (count > 0) while (launched < count || inFlight > 0) await sleep(1)
else await phaseOf(Number(values.seconds))
const seconds = (nowMicros() - started) / 1e6
enter('drain')
for (const end = Date.now() + DRAIN_MS; inFlight > 0; await sleep(1))
  if (Date.now() > end) throw new Error('answers are missing')
const [p50us, p99us] = [latency.at(0.5), latency.at(0.99)]
const text = JSON.stringify({
  ...report,
  seconds,
  p50us,
  p99us,
  sum: String(BigInt.asUintN(64, sum)),
  cpu: cpuSeconds(),
})
process.stdout.write(`${text}\n`, () => process.exit(0))
