/** Slow, silent and greedy sockets: what they may cost, and what they may not cost others. */
import type { Socket } from 'node:net'
import { expect, test } from 'vitest'
import type { Log } from '../../src/log/log.ts'
import { clientFrame } from '../frame.ts'
import { body, range } from '../parts.ts'
import { rawSocket, SUBPROTOCOLS, seqs, startStream, until } from './stream.ts'

const KIB = 1024
const MIB = 1024 * KIB
const append = async (log: Log, channel: string, ...values: unknown[]) =>
  (await log.append([{ channel, body: body(...values) }]))[0]!

/** Blocks of one event of 40 KiB each: too large to be merged with their neighbours. */
async function fill(log: Log, channel: string, blocks: number): Promise<void> {
  const data = 'x'.repeat(40 * KIB)
  for (let left = blocks; left > 0; left -= 50)
    await Promise.all(range(1, Math.min(left, 50)).map(() => append(log, channel, data)))
}

/** A socket that follows a channel from its start and reads nothing. */
async function deaf(port: number, channel: string): Promise<Socket> {
  const socket = await rawSocket(port)
  const subscribe = JSON.stringify({ op: 'subscribe', channel })
  socket.write(Buffer.concat([clientFrame('{"op":"hello"}'), clientFrame(subscribe)]))
  return socket
}

/** Waits until a number has not changed for a while; gives it. */
async function settled(value: () => number): Promise<number> {
  let last = value()
  for (let same = 0; same < 20; ) {
    await new Promise((resolve) => setTimeout(resolve, 10))
    same = value() === last ? same + 1 : 0
    last = value()
  }
  return last
}

test.each(SUBPROTOCOLS)(
  'a backlog does not keep a live channel of the same socket waiting, %s',
  async (subprotocol) => {
    const { log, client } = await startStream()
    await fill(log, 'big', 400)
    await append(log, 'live', 0)
    const socket = await client(subprotocol)
    socket.send({ op: 'subscribe', channel: 'live', after: 'head' })
    await socket.untilOp('caughtup')
    socket.send({ op: 'subscribe', channel: 'big' })
    await socket.untilOp('events')
    socket.ws.pause()
    await append(log, 'live', 'now')
    socket.ws.resume()
    // The live event stands before the end of the backlog, which lost nothing.
    let last = 0
    let behindLive = 0
    while (last < 400) {
      const message = await socket.next('events')
      if (message.channel === 'big') last = message.last
      else behindLive = 400 - last
    }
    expect(behindLive).toBeGreaterThan(0)
  },
)

test('many backlogs on one socket are read page by page in turn', async () => {
  const { log, client } = await startStream()
  const channels = ['a', 'b', 'c', 'd']
  for (const channel of channels) await fill(log, channel, 60)
  const socket = await client('msgpack')
  socket.send(...channels.map((channel) => ({ op: 'subscribe', channel })))
  const firstOf = new Map<string, number>()
  const lastOf = new Map<string, number>()
  for (let i = 0; lastOf.size < channels.length; i++) {
    const message = await socket.next()
    if (message.op !== 'events') continue
    if (!firstOf.has(message.channel)) firstOf.set(message.channel, i)
    if (message.last === 60) lastOf.set(message.channel, i)
  }
  // Each had its first page before any had its last.
  expect(Math.max(...firstOf.values())).toBeLessThan(Math.min(...lastOf.values()))
})

test('pages begin small and grow while they are taken', async () => {
  const { log, client } = await startStream()
  await fill(log, 'c', 300)
  const socket = await client('msgpack')
  const sizes: number[] = []
  socket.ws.on('message', (data: Buffer) => sizes.push(data.length))
  socket.send({ op: 'subscribe', channel: 'c' })
  expect(seqs(await socket.events('c', 0, 300))).toEqual(range(1, 300))
  const pages = sizes.filter((size) => size > 1_000)
  expect(pages[0]).toBeLessThan(64 * KIB)
  expect(Math.max(...pages)).toBeGreaterThan(64 * KIB)
  expect(Math.max(...pages)).toBeLessThan(MIB + 64 * KIB)
})

test('sockets that never read hold about a page each, while a healthy one goes on', async () => {
  const { log, port, streamer, client } = await startStream()
  await fill(log, 'c', 500)
  const stalled = 20
  for (const _ of range(1, stalled)) await deaf(port, 'c')
  await until(() => streamer.backlog.bytes > 0)
  const healthy = await client('msgpack')
  healthy.send({ op: 'subscribe', channel: 'c' })
  expect(seqs(await healthy.events('c', 0, 500))).toEqual(range(1, 500))
  await healthy.next('caughtup')
  expect(await settled(() => streamer.backlog.bytes)).toBeLessThanOrEqual(stalled * (256 + 64) * KIB)
  const before = streamer.backlog.bytes
  for (const n of range(501, 700)) {
    await append(log, 'c', n)
    expect(await healthy.next('events')).toMatchObject({ after: n - 1, last: n })
  }
  // What was appended waits in the log, not in the sockets.
  expect(streamer.backlog.bytes).toBe(before)
  expect(streamer.sockets).toBe(stalled + 1)
})

test('a follower that stalls at the head holds no queue of events', async () => {
  const { log, port, streamer, client } = await startStream()
  await append(log, 'c', 0)
  const [socket, healthy] = [await deaf(port, 'c'), await client()]
  healthy.send({ op: 'subscribe', channel: 'c', after: 'head' })
  await healthy.untilOp('caughtup')
  const data = 'x'.repeat(40 * KIB)
  let n = 1
  // Until the kernel takes no more for it; then as much again as that was.
  for (; streamer.backlog.bytes === 0; n++) await append(log, 'c', data)
  const most = streamer.backlog.bytes
  for (const end = n * 2; n < end; n++) await append(log, 'c', data)
  expect(streamer.backlog.bytes).toBe(most)
  expect(most).toBeLessThan(128 * KIB)
  expect(seqs(await healthy.events('c', 1, n))).toEqual(range(2, n))
  // It goes on where it stood, and misses nothing.
  let text = ''
  socket.on('data', (chunk) => {
    text += chunk.toString('latin1')
  })
  await until(() => text.includes(`"last":${n},`))
  const frames = [...text.matchAll(/"after":(\d+),"last":(\d+),"events"/g)]
  for (const [i, frame] of frames.entries()) expect(frame[1]).toBe(i === 0 ? '0' : frames[i - 1]![2])
})

test('a socket that takes no byte is closed in the end; one that takes some now and then is not', async () => {
  const { log, port, streamer } = await startStream({ stalledMs: 1_000, heartbeat: 60_000 })
  await fill(log, 'c', 500)
  const [slow, silent] = [await deaf(port, 'c'), await deaf(port, 'c')]
  let taken = 0
  let end = ''
  slow.pause()
  slow.on('data', (chunk) => {
    taken += chunk.length
    end = (end + chunk.toString('latin1')).slice(-200)
  })
  // Portions that the kernel asks the server to make up for; all of them take longer than a socket may stand still.
  const reading = setInterval(async () => {
    const portion = taken + 1.5 * MIB
    slow.resume()
    await until(() => taken >= portion || end.includes('"caughtup"'))
    slow.pause()
  }, 250)
  await until(() => end.includes('"caughtup"'))
  clearInterval(reading)
  await until(() => streamer.sockets === 1)
  expect(slow.destroyed).toBe(false)
  silent.resume()
  await new Promise((resolve) => silent.once('close', resolve))
})

test('unsent bytes are bounded: sockets that stand still are cut to make room for those that read', async () => {
  const { log, port, streamer, client } = await startStream({ unsentBytes: 512 * KIB })
  await fill(log, 'c', 400)
  let stalled = 0
  do {
    await deaf(port, 'c')
    stalled++
    // The last page that there was room for may reach beyond.
    expect(await settled(() => streamer.backlog.bytes)).toBeLessThanOrEqual((512 + 256 + 64) * KIB)
  } while (streamer.backlog.bytes < 512 * KIB)
  await deaf(port, 'c')
  await until(() => streamer.sockets <= stalled)
  const healthy = await client('msgpack')
  healthy.send({ op: 'subscribe', channel: 'c' })
  expect(seqs(await healthy.events('c', 0, 400))).toEqual(range(1, 400))
})

test('many who catch up at once within a small budget all arrive, and none of them is cut', async () => {
  const { log, streamer, client } = await startStream({ unsentBytes: 256 * KIB })
  await fill(log, 'c', 200)
  const sockets = await Promise.all(range(1, 20).map(() => client('msgpack')))
  for (const socket of sockets) socket.send({ op: 'subscribe', channel: 'c' })
  for (const socket of sockets) {
    expect(seqs(await socket.events('c', 0, 200))).toEqual(range(1, 200))
    await socket.next('caughtup')
  }
  expect(streamer.sockets).toBe(20)
  expect(streamer.backlog.bytes).toBe(0)
  await append(log, 'c', 'live')
  for (const socket of sockets) expect(await socket.next('events')).toMatchObject({ last: 201 })
})

test('a client that asks and does not read the answers is not read any more, until it does', async () => {
  const { port, streamer } = await startStream({ heartbeat: 60_000 })
  const socket = await rawSocket(port)
  socket.write(clientFrame('{"op":"hello"}'))
  const ref = 'r'.repeat(64)
  const many = Buffer.concat(range(1, 1_000).map(() => clientFrame(`{"op":"ping","ref":"${ref}"}`)))
  let asked = 0
  while (socket.writableLength < MIB) {
    for (const _ of range(1, 20)) socket.write(many)
    asked += 20_000
    await new Promise((resolve) => setTimeout(resolve, 10))
    expect(streamer.backlog.bytes).toBeLessThan(2 * MIB)
  }
  expect(await settled(() => streamer.backlog.bytes)).toBeLessThan(2 * MIB)
  let answered = 0
  let rest = ''
  socket.on('data', (chunk) => {
    const text = rest + chunk.toString('latin1')
    answered += text.split('"pong"').length - 1
    rest = text.slice(text.lastIndexOf('"pong"') + 6).slice(-6)
  })
  await until(() => answered === asked)
})

test('PINGs that come together have one PONG, of the newest; nothing is kept of those whose PONGs nobody takes', async () => {
  const { port, streamer } = await startStream({ heartbeat: 60_000 })
  const socket = await rawSocket(port)
  socket.write(clientFrame('{"op":"hello"}'))
  const name = (n: number): string => `${n}`.padStart(100, '.')
  const pings = (from: number): Buffer =>
    Buffer.concat(range(from + 1, from + 1_000).map((n) => clientFrame(name(n), { opcode: 9 })))
  const sent = 60_000
  for (let n = 0; n < sent; n += 1_000) await new Promise((resolve) => socket.write(pings(n), resolve))
  let text = ''
  socket.on('data', (chunk) => {
    text += chunk.toString('latin1')
  })
  await until(() => text.endsWith(name(sent)))
  expect(text.split('\x8ad').length - 1).toBeLessThan(sent / 20)
  await until(() => streamer.backlog.bytes === 0)
})

test('appends in flight are bounded by bytes: the socket is not read, and none is refused', async () => {
  const { log, client } = await startStream()
  const socket = await client('msgpack')
  let most = 0
  const watching = setInterval(() => {
    most = Math.max(most, log.health().pendingBytes)
  }, 1)
  const data = 'x'.repeat(100 * KIB)
  for (const n of range(1, 300)) socket.send({ op: 'append', ref: n, channel: 'c', events: [{ data }] })
  for (const n of range(1, 300)) expect(await socket.next()).toMatchObject({ op: 'appended', ref: n, last: n })
  clearInterval(watching)
  expect(most).toBeLessThan(3 * MIB)
})

test('sockets, appends and deliveries are counted', async () => {
  const { client, doors, streamer } = await startStream({ heartbeat: 200 })
  const socket = await client()
  socket.send({ op: 'subscribe', channel: 'c' }, { op: 'append', ref: 1, channel: 'c', events: [{ data: 1 }] })
  await socket.answer(1)
  const { appends, reads } = doors.metrics
  expect(reads.stream.followers).toBe(1)
  expect(appends.stream.appends).toBe(1)
  await until(() => reads.stream.events === 1)
  socket.ws.close()
  await until(() => streamer.sockets === 0)
  expect(reads.stream.followers).toBe(0)
})
