/** The parts of a socket's way out that a real socket shows only in its rarest moments. */
import { Duplex } from 'node:stream'
import { expect, test } from 'vitest'
import { WebSocket } from 'ws'
import { Queue } from '../../src/doors/rounds.ts'
import { type Watcher, Watches } from '../../src/doors/watches.ts'
import type { Log } from '../../src/log/log.ts'
import { Backlog, clock, Outlet } from '../../src/streamer/outlet.ts'
import { body, range, tempLog } from '../parts.ts'
import { until } from './stream.ts'

/** A connection that takes nothing until it is told to; its kernel holds what `untaken` says of the write under way. */
class Hose extends Duplex {
  readonly _handle = { writeQueueSize: 0 }
  constructor() {
    super({ writableHighWaterMark: 1 })
  }
  #taken: (() => void) | undefined
  override _write(chunk: Buffer, _: BufferEncoding, taken: () => void): void {
    this._handle.writeQueueSize = chunk.length
    this.#taken = taken
  }
  override _read(): void {}
  drink(): void {
    this._handle.writeQueueSize = 0
    this.#taken?.()
  }
}

const OPEN = { readyState: WebSocket.OPEN } as WebSocket

function outletOn(backlog: Backlog): { hose: Hose; outlet: Outlet; cuts: () => number } {
  const hose = new Hose()
  let cuts = 0
  const outlet = new Outlet(OPEN, hose, backlog, { stalled: () => cuts++ })
  hose.on('drain', () => outlet.drained())
  return { hose, outlet, cuts: () => cuts }
}

test('a large write that the kernel takes bit by bit is no standstill', () => {
  const { hose, outlet } = outletOn(new Backlog(1e9, new Queue()))
  outlet.write([Buffer.alloc(900_000)])
  expect(outlet.isFull).toBe(true)
  const start = clock()
  expect(outlet.standstill(start + 5_000)).toBeGreaterThanOrEqual(5_000)
  hose._handle.writeQueueSize -= 1
  expect(outlet.standstill(start + 6_000)).toBe(0)
  expect(outlet.standstill(start + 9_000)).toBe(3_000)
  // What is given in the meantime is not taken by that.
  outlet.write([Buffer.alloc(10)])
  expect(outlet.standstill(start + 10_000)).toBe(4_000)
})

test('a standstill ends when all was taken', async () => {
  const backlog = new Backlog(1e9, new Queue())
  const { hose, outlet } = outletOn(backlog)
  outlet.write([Buffer.alloc(100_000)])
  expect(backlog.bytes).toBe(100_000)
  hose.drink()
  await until(() => backlog.bytes === 0)
  expect(outlet.isFull).toBe(false)
  expect(outlet.standstill(clock() + 99_000)).toBe(0)
})

test('answers that are made together are one write, and stay before the frame that comes after them', () => {
  const { hose, outlet } = outletOn(new Backlog(1e9, new Queue()))
  const writes: string[] = []
  hose._write = (chunk: Buffer, _: unknown, done: () => void) => {
    writes.push(chunk.toString())
    done()
  }
  outlet.reply(Buffer.from('a'))
  outlet.reply(Buffer.from('b'))
  outlet.write([Buffer.from('page')])
  expect(writes).toEqual(['ab', 'page'])
})

test('of PINGs that come while nothing is taken the newest is answered, once there is room', async () => {
  const { hose, outlet } = outletOn(new Backlog(1e9, new Queue()))
  outlet.write([Buffer.alloc(100_000)])
  for (const n of range(1, 1_000)) outlet.pong(Buffer.from(`${n}`))
  outlet.reply(Buffer.from('answer'))
  outlet.flush()
  expect(hose.writableLength).toBe(100_006)
  const writes: string[] = []
  hose._write = (chunk: Buffer, _: unknown, done: () => void) => {
    writes.push(chunk.toString('latin1'))
    done()
  }
  hose.drink()
  await until(() => writes.length === 2)
  expect(writes).toEqual(['answer', '\x8a\x041000'])
  // Nobody but the other end's socket sees a PONG: it is no sign for the application.
  outlet.sentAt = -5
  outlet.pong(Buffer.from('alone'))
  await until(() => writes.length === 3)
  expect(outlet.sentAt).toBe(-5)
})

test('whoever is refused room gets a turn when bytes were taken, in the order of asking', async () => {
  const backlog = new Backlog(1_000, new Queue())
  const { hose, outlet } = outletOn(backlog)
  const turns: string[] = []
  const member = (name: string) => ({ turn: () => turns.push(name) })
  expect(backlog.reserve(600, member('first'))).toBe(true)
  outlet.write([Buffer.alloc(600)])
  expect(backlog.reserve(10, member('a'))).toBe(false)
  expect(backlog.reserve(10, member('b'))).toBe(false)
  backlog.release(600)
  await until(() => turns.length === 2)
  expect(turns).toEqual(['a', 'b'])
  outlet.write([Buffer.alloc(600)])
  expect(backlog.reserve(10, member('c'))).toBe(false)
  hose.drink()
  hose.drink()
  await until(() => turns.length === 3)
})

test('a socket that was given much a moment ago is not cut to make room', async () => {
  const backlog = new Backlog(1_000, new Queue())
  const { hose, outlet, cuts } = outletOn(backlog)
  outlet.write([Buffer.alloc(5_000)])
  expect(backlog.reserve(10, { turn: () => {} })).toBe(false)
  backlog.sweep()
  expect(cuts()).toBe(0)
  expect(hose.destroyed).toBe(false)
  expect(backlog.isTight).toBe(true)
})

test('watchers at one place share one wait, which ends when the last one leaves', async () => {
  const log = await tempLog()
  await log.append([{ channel: 'c', body: body(1) }])
  const { epoch } = await log.info('c')
  const signals: AbortSignal[] = []
  const changed: Log['changed'] = (channel, from, signal) => {
    signals.push(signal)
    return log.changed(channel, from, signal)
  }
  const watches = new Watches({ changed } as Log)
  const told: string[] = []
  const watcher = (name: string, after: number): Watcher => ({
    channel: 'c',
    place: { epoch, after },
    watch: undefined,
    changed: () => told.push(name),
    failed: (error) => told.push(`${name} ${error}`),
  })
  const [a, b, behind] = [watcher('a', 1), watcher('b', 1), watcher('behind', 0)]
  watches.join(a)
  watches.join(b)
  expect(signals.length).toBe(1)
  // One that is behind does not wait with those at the head.
  watches.join(behind)
  await until(() => told.length > 0)
  expect(told).toEqual(['behind'])
  watches.leave(a)
  expect(signals[0]!.aborted).toBe(false)
  watches.leave(b)
  expect(signals[0]!.aborted).toBe(true)
  watches.join(a)
  expect(signals.length).toBe(3)
  await log.append([{ channel: 'c', body: body(2) }])
  await until(() => told.length > 1)
  expect(told).toEqual(['behind', 'a'])
})
