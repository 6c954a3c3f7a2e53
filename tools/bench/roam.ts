/**
 * The subscribers of W8 that come and go (those that stay are drain.c's), and those that never read. Each follows one of
 * many channels over a WebSocket and knows how far it came. Told to, some are cut and go on from there. Every frame must
 * begin where the one before ended and hold as many events as it says, so that nothing is missing and nothing comes
 * twice, whatever was cut.
 *
 *   node roam.js --port P --connections N --channels C --prefix NAME --from SEQ --stalled S --backlog CHANNEL --skip BYTES
 *
 * Connection i follows channel i % C (requests.ts `nameInTurn`) after seq --from; S more follow the channel --backlog
 * from its start and never read. Prints {"ready":N}. Commands on stdin, one a line: `cut K R` cuts the next K
 * connections, one after the other as they stand, which resume at once, and puts new ones in the place of the R oldest
 * that never read, for the server ends those by itself: answers {"cut":K} when all are open again. `report` answers with
 * the report: events; `agree`: connections that got the same events in the same order as the first of their channel;
 * `holes`: frames out of the chain; `told`: gaps, resets, ends of a subscription; closed by the server; sum and order of
 * the stamps that the first connection of each channel got; latency and its histogram; `late`: the p99 of the delay of
 * this program's own event loop, ms. `latency` forgets both, without an answer. What came while a connection was cut counts with the latency of the moment at which
 * it is there at last. At its end, stdin ends the program.
 */
import type { Socket } from 'node:net'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { createInterface } from 'node:readline'
import { nameInTurn, subscription } from './requests.ts'
import {
  cpuSeconds,
  dial,
  epochMicros,
  flags,
  Histogram,
  orderAfter,
  orderOfAll,
  pong,
  STAMP,
  STAMP_DIGITS,
} from './sockets.ts'
import { neverReading } from './stalled.ts'

/** Connections that are opened at once. */
const AT_ONCE = 100
/** The delay of the event loop is looked at this often, ms: less can't be seen, and is taken off. */
const LOOP_TICK_MS = 1

const values = flags(['port', 'connections', 'channels', 'prefix', 'from', 'stalled', 'backlog', 'skip'])
const port = Number(values.port)
const channels = Number(values.channels)
const skip = Number(values.skip)
const total = { events: 0, frames: 0, holes: 0, told: 0, closed: 0, resumed: 0 }
let latency = new Histogram()

class Conn {
  readonly #channel: string
  #socket: Socket | undefined
  #rest: Buffer = Buffer.alloc(0)
  #opened: (() => void) | undefined
  #position = Number(values.from)
  events = 0
  /** Of the stamps: exact sum in two halves, and a digest of their order. */
  high = 0
  low = 0
  order = 0

  constructor(channel: string) {
    this.#channel = channel
  }

  /** Follows on from where it is; resolves when the server has taken the subscription. */
  async open(): Promise<void> {
    const opened = new Promise<void>((resolve) => {
      this.#opened = resolve
    })
    const opening = subscription(port, 'json', this.#channel, this.#position)
    this.#socket = await dial(port, opening, true, (bytes) => this.#receive(bytes))
    this.#socket.on('close', () => total.closed++)
    await opened
  }

  /** What had come of a frame is forgotten, as with any client that falls off the network. */
  async cut(): Promise<void> {
    this.#socket!.removeAllListeners('close').removeAllListeners('data')
    this.#socket!.on('error', () => {}).destroy()
    this.#rest = Buffer.alloc(0)
    total.resumed++
    await this.open()
  }

  #receive(read: Buffer): void {
    let bytes = this.#rest.length > 0 ? Buffer.concat([this.#rest, read]) : read
    for (let size = frameSize(bytes); size !== undefined; size = frameSize(bytes)) {
      const [head, end] = size
      this.#onFrame(bytes[0]! & 15, bytes.subarray(head, end))
      bytes = bytes.subarray(end)
    }
    // A copy: what is left of a read must not keep all of it.
    this.#rest = bytes.length > 0 ? Buffer.from(bytes) : bytes
  }

  #onFrame(opcode: number, payload: Buffer): void {
    if (opcode === 9) pong(this.#socket!, payload)
    const head = payload.toString('latin1', 0, 256)
    if (head.startsWith('{"op":"subscribed"')) this.#opened!()
    if (/^\{"op":"(gap|reset|ended|error)"/.test(head)) total.told++
    const page = /^\{"op":"events".*?"after":(\d+),"last":(\d+)/.exec(head)
    if (page === null) return
    const before = this.events
    this.#countStamps(payload)
    const [after, last] = [Number(page[1]), Number(page[2])]
    if (after !== this.#position || last !== after + this.events - before) total.holes++
    this.#position = last
    total.frames++
  }

  #countStamps(payload: Buffer): void {
    const now = epochMicros()
    for (let at = payload.indexOf(STAMP); at >= 0; at = payload.indexOf(STAMP, at)) {
      const digits = at + STAMP.length
      const stamp = Number(payload.toString('latin1', digits, digits + STAMP_DIGITS))
      latency.add(now - stamp)
      this.events++
      total.events++
      this.high += Math.floor(stamp / 2 ** 26)
      this.low += stamp % 2 ** 26
      this.order = orderAfter(this.order, stamp)
      at = digits + STAMP_DIGITS + skip
    }
  }
}

/** Where the payload of the first frame begins and ends; undefined when it is not whole. */
function frameSize(bytes: Buffer): [number, number] | undefined {
  if (bytes.length < 2) return undefined
  const code = bytes[1]! & 127
  const head = code === 127 ? 10 : code === 126 ? 4 : 2
  if (bytes.length < head) return undefined
  const size = code === 127 ? Number(bytes.readBigUInt64BE(2)) : code === 126 ? bytes.readUInt16BE(2) : code
  return bytes.length < head + size ? undefined : [head, head + size]
}

const conns = Array.from(
  { length: Number(values.connections) },
  (_, i) => new Conn(nameInTurn(values.prefix!, i % channels)),
)

/** How to end each socket that never reads, the oldest first. */
const stalled: (() => void)[] = []

async function stall(count: number): Promise<void> {
  for (let i = 0; i < count; i++)
    stalled.push(await neverReading(port, subscription(port, 'json', values.backlog!, 0), 1))
}

let turn = 0

async function cut(count: number, renewed: number): Promise<void> {
  const chosen = Array.from({ length: count }, () => conns[turn++ % conns.length]!)
  for (const end of stalled.splice(0, renewed)) end()
  await Promise.all(chosen.map((conn) => conn.cut()))
  await stall(renewed)
  console.log(JSON.stringify({ cut: count }))
}

function resetLatency(): void {
  latency = new Histogram()
  loop.reset()
}

function report(): void {
  const firstOf = (i: number): Conn => conns[i % channels]!
  const agree = conns.filter((conn, i) => conn.events === firstOf(i).events && conn.order === firstOf(i).order).length
  const firsts = conns.slice(0, channels)
  const sum = firsts.reduce((all, { high, low }) => all + (BigInt(high) << 26n) + BigInt(low), 0n)
  const order = orderOfAll(firsts.map((conn) => conn.order))
  const late = Math.max(0, loop.percentile(99) / 1e6 - LOOP_TICK_MS)
  const times = { p50us: latency.at(0.5), p99us: latency.at(0.99), maxus: latency.max }
  const text = { ...total, agree, sum: String(BigInt.asUintN(64, sum)), order, ...times, late, cpu: cpuSeconds() }
  console.log(JSON.stringify({ ...text, slots: latency.slots }))
}

for (let at = 0; at < conns.length; at += AT_ONCE)
  await Promise.all(conns.slice(at, at + AT_ONCE).map((conn) => conn.open()))
await stall(Number(values.stalled))
const loop = monitorEventLoopDelay({ resolution: LOOP_TICK_MS })
loop.enable()
console.log(JSON.stringify({ ready: conns.length }))
createInterface({ input: process.stdin })
  .on('line', (line) => {
    const asked = /^cut (\d+) (\d+)$/.exec(line)
    if (asked) void cut(Number(asked[1]), Number(asked[2]))
    else if (line === 'latency') resetLatency()
    else report()
  })
  .on('close', () => process.exit(0))
