/** The Node form of drain.c, for machines without a C compiler: the same flags, commands and report. */
import { readFileSync } from 'node:fs'
import type { Socket } from 'node:net'
import { createInterface } from 'node:readline'
import {
  cpuSeconds,
  dial,
  epochMicros,
  flags,
  Histogram,
  KEPT,
  MASK,
  nowMicros,
  orderAfter,
  orderOfAll,
  pong,
  STAMP,
  STAMP_DIGITS,
  Walker,
} from './sockets.ts'

const values = flags(['port', 'connections', 'mode', 'opening', 'ready', 'skip', 'from', 'channels'])
const connections = Number(values.connections ?? 1)
const skip = Number(values.skip ?? 0)
const opening = values.opening === undefined ? Buffer.alloc(0) : readFileSync(values.opening)
const from = Number(values.from ?? 0)
const polls = values.mode === 'poll' || values.mode === 'longpoll'
/** The channels of the marks {last:NAME}. */
const channels = [...opening.toString('latin1').matchAll(/\{last:([^}]+)\}/g)].map((mark) => mark[1]!)
const LAST_DIGITS = 16
const stampLength = STAMP.length + STAMP_DIGITS
/** With `ws`: whether messages are to go on where the one before ended, and the number of channels. */
const chained = values.mode === 'ws' && values.from !== undefined
const inTurn = Number(values.channels ?? 1)

class Conn {
  socket: Socket | undefined
  events = 0
  /** Of the stamps: exact sum in two halves, and a digest that knows their order. */
  high = 0
  low = 0
  order = 0
  /** Events of all time: where a poll goes on. */
  position = 0
  /** The end of the last message of a chain. */
  last = from
  #carry = Buffer.alloc(0)
  #skip = 0
  #asked = 0
  #body = -1
  #held: Buffer = Buffer.alloc(0)
  #open = false
  readonly places = new Map(channels.map((channel) => [channel, { last: from, order: 0 }]))
  readonly #headers = { modified: 'Thu, 01 Jan 1970 00:00:00 GMT', etag: '0' }
  readonly #walker = new Walker((opcode, kept) => this.#onFrame(opcode, kept))

  receive(bytes: Buffer): void {
    total.bytes += bytes.length
    total.last = nowMicros()
    total.first ||= total.last
    if (polls) this.#onAnswer(bytes)
    else {
      if (values.mode === 'ws') this.#walker.walk(bytes)
      this.#scan(bytes)
    }
    tell()
  }

  setOpen(): void {
    if (this.#open) return
    this.#open = true
    if (++total.open === connections) console.log(JSON.stringify({ ready: connections }))
  }

  ask(): void {
    this.#asked = this.position
    this.#body = -1
    this.#carry = Buffer.alloc(0)
    this.#skip = 0
    const request = opening
      .toString('latin1')
      .replace('{after}', String(from + this.position))
      .replace(/\{last:([^}]+)\}/g, (_, channel) => String(this.places.get(channel)!.last).padEnd(LAST_DIGITS))
      .replace('{modified}', this.#headers.modified)
      .replace('{etag}', this.#headers.etag)
    this.socket!.write(request, 'latin1')
  }

  /** The bytes of a poll's answers. */
  #onAnswer(read: Buffer): void {
    const bytes = this.#held.length > 0 ? Buffer.concat([this.#held, read]) : read
    this.#held = Buffer.alloc(0)
    let body = bytes
    if (this.#body < 0) {
      const end = bytes.indexOf('\r\n\r\n')
      if (end < 0) {
        this.#held = bytes
        return
      }
      const head = bytes.toString('latin1', 0, end)
      const length = /\r\ncontent-length: ?(\d+)/i.exec(head)
      if (!head.startsWith('HTTP/1.1 200') || length === null) throw new Error(`refused: ${bytes.toString('latin1')}`)
      this.#headers.modified = /\r\nlast-modified: ?([^\r]*)/i.exec(head)?.[1] ?? this.#headers.modified
      this.#headers.etag = /\r\netag: ?([^\r]*)/i.exec(head)?.[1] ?? this.#headers.etag
      this.#body = Number(length[1])
      body = bytes.subarray(end + 4)
      total.frames++
    }
    if (channels.length > 0 && body.length < this.#body) {
      this.#held = body
      return
    }
    if (channels.length > 0) this.#takePages(body)
    else this.#scan(body)
    this.#body -= body.length
    if (this.#body === 0 && (values.mode === 'longpoll' || this.position > this.#asked)) this.ask()
  }

  /** The pages of many channels in a whole JSON answer: each must begin where this connection stands in its channel. */
  #takePages(body: Buffer): void {
    const text = body.toString('latin1')
    const pages = [...text.matchAll(/"channel":"([^"]+)".*?"after":(\d+),"last":(\d+)/g)]
    pages.forEach((page, i) => {
      const place = this.places.get(page[1]!)!
      const [after, last] = [Number(page[2]), Number(page[3])]
      const before = this.events
      this.order = place.order
      this.#carry = Buffer.alloc(0)
      this.#skip = 0
      this.#scan(body.subarray(page.index, pages[i + 1]?.index ?? body.length))
      place.order = this.order
      if (after !== place.last || last !== after + this.events - before) total.holes++
      place.last = last
    })
    this.order = orderOfAll([...this.places.values()].map(({ order }) => order))
  }

  #onFrame(opcode: number, kept: Buffer): void {
    total.frames++
    if (opcode === 9) pong(this.socket!, kept)
    if (chained && opcode === 1) this.#takeMessage(kept.toString('latin1', 0, KEPT))
    if (values.ready !== undefined && kept.includes(values.ready)) this.setOpen()
  }

  /** A message of events must go on where the one before it ended. */
  #takeMessage(text: string): void {
    if (/^\{"op":"(gap|reset|ended|error)"/.test(text)) total.told++
    const page = /^\{"op":"events".*?"after":(\d+),"last":(\d+)/.exec(text)
    if (page === null) return
    if (Number(page[1]) !== this.last) total.holes++
    this.last = Number(page[2])
  }

  #scan(read: Buffer): void {
    const now = epochMicros()
    const skipped = Math.min(this.#skip, read.length)
    this.#skip -= skipped
    const rest = read.subarray(skipped)
    const bytes = this.#carry.length > 0 ? Buffer.concat([this.#carry, rest]) : rest
    this.#carry = Buffer.alloc(0)
    let at = 0
    for (let s = bytes.indexOf(STAMP); s >= 0; s = bytes.indexOf(STAMP, at)) {
      if (s + stampLength > bytes.length) {
        this.#carry = Buffer.from(bytes.subarray(s))
        return
      }
      this.#count(bytes, s + STAMP.length, now)
      at = s + stampLength + skip
      if (at < bytes.length) continue
      this.#skip = at - bytes.length
      return
    }
    this.#carry = Buffer.from(bytes.subarray(Math.max(at, bytes.length - STAMP.length + 1)))
  }

  #count(bytes: Buffer, at: number, now: number): void {
    const stamp = Number(bytes.toString('latin1', at, at + STAMP_DIGITS))
    latency.add(now - stamp)
    this.events++
    this.position++
    total.events++
    this.high += Math.floor(stamp / 2 ** 26)
    this.low += stamp % 2 ** 26
    this.order = orderAfter(this.order, stamp)
  }

  get sum(): bigint {
    return BigInt.asUintN(64, (BigInt(this.high) << 26n) + BigInt(this.low))
  }
}

const total = { events: 0, frames: 0, bytes: 0, first: 0, last: 0, open: 0, closed: 0, asked: 0, holes: 0, told: 0 }
const conns = Array.from({ length: connections }, () => new Conn())
let latency = new Histogram()
let until = 0

/** Answers a waiting `until`. */
function tell(): void {
  if (until === 0 || total.events < until) return
  until = 0
  report()
}

/** The opening of this connection, with its channel where there are many. */
function openingOf(connection: number): Buffer {
  const own = Buffer.from(opening)
  const at = inTurn > 1 ? own.indexOf(masked('{turn}')) : -1
  if (at >= 0) masked(String(connection % inTurn).padStart(6, '0')).copy(own, at)
  return own
}

const masked = (text: string): Buffer => Buffer.from(Buffer.from(text).map((byte) => byte ^ MASK))

function report(): void {
  const { events, frames, bytes, closed, told, asked, first, last } = total
  const firsts = conns.slice(0, inTurn)
  const each = conns.map((conn) => conn.events)
  const agrees = ({ events, order }: Conn, other: Conn): boolean => events === other.events && order === other.order
  const agree = conns.filter((conn, i) => agrees(conn, firsts[i % inTurn]!)).length
  const holes = total.holes + (chained ? conns.filter((conn) => conn.last !== from + conn.position).length : 0)
  const times = { asked, first, last, p50us: latency.at(0.5), p99us: latency.at(0.99), maxus: latency.max }
  const [least, most] = [Math.min(...each), Math.max(...each)]
  const stamps = firsts.reduce((all, conn) => all + conn.sum, 0n)
  const sum = String(BigInt.asUintN(64, stamps))
  const order = orderOfAll(firsts.map((conn) => conn.order))
  const counts = { events, frames, bytes, least, most, agree, holes, told, sum, order, closed }
  console.log(JSON.stringify({ ...counts, ...times, cpu: cpuSeconds(), slots: latency.slots }))
}

function reset(): void {
  Object.assign(total, { events: 0, frames: 0, bytes: 0, first: 0, last: 0 })
  for (const conn of conns) {
    Object.assign(conn, { events: 0, high: 0, low: 0, order: 0 })
    for (const place of conn.places.values()) place.order = 0
  }
  resetLatency()
}

function resetLatency(): void {
  latency = new Histogram()
  console.log('{"reset":true}')
}

createInterface({ input: process.stdin })
  .on('line', (line) => {
    until = 0
    if (line.startsWith('until ')) until = Number(line.slice(6))
    else if (line === 'reset') return reset()
    else if (line === 'latency') return resetLatency()
    else return report()
    tell()
  })
  .on('close', () => process.exit(0))

for (const [i, conn] of conns.entries()) {
  total.asked ||= nowMicros()
  const first = polls ? Buffer.alloc(0) : openingOf(i)
  conn.socket = await dial(Number(values.port), first, values.mode === 'ws', (bytes) => conn.receive(bytes))
  conn.socket.on('close', () => total.closed++)
  if (polls) conn.ask()
  if (values.ready === undefined) conn.setOpen()
}
