import { inspect } from 'node:util'
import { describe, expect, test } from 'vitest'
import type { Log } from '../../src/log/log.ts'
import { clientFrame } from '../frame.ts'
import { body, range } from '../parts.ts'
import { closeCode, type Message, type Peer, rawSocket, SUBPROTOCOLS, seqs, startStream, until } from './stream.ts'

const append = async (log: Log, channel: string, ...values: unknown[]) =>
  (await log.append([{ channel, body: body(...values) }]))[0]!

/** Sends, and expects the error with this code under the same ref; then that the socket lives. */
async function refused(socket: Peer, message: Message, code: string): Promise<Message> {
  socket.send(message)
  const error = await socket.untilOp('error')
  expect(error, inspect(message)).toMatchObject({ code, detail: expect.any(String) })
  expect(error.ref).toBe(message.ref)
  socket.send({ op: 'ping', ref: 'alive' })
  expect(await socket.next()).toEqual({ op: 'pong', ref: 'alive' })
  return error
}

describe.each(SUBPROTOCOLS)('requests that are refused, %s', (subprotocol) => {
  test('an unknown op, field, or wrong type is an error under the ref, and the socket lives', async () => {
    const { client } = await startStream()
    const socket = await client(subprotocol, 'web')
    const wrong: Message[] = [
      { op: 'nonsense' },
      { op: 7 },
      { op: 'toString' },
      {},
      { op: 'ping', more: 1 },
      { op: 'hello' },
      { op: 'subscribe' },
      { op: 'subscribe', channel: 'a//b' },
      { op: 'subscribe', channel: 7 },
      { op: 'subscribe', channel: 'c', after: -1 },
      { op: 'subscribe', channel: 'c', after: 1.5 },
      { op: 'subscribe', channel: 'c', after: 'tail' },
      { op: 'subscribe', channel: 'c', after: null },
      { op: 'subscribe', channel: 'c', cursor: false },
      { op: 'subscribe', channel: 'c', cursor: true, after: 1 },
      { op: 'subscribe', channel: 'c', epoch: 'no spaces' },
      { op: 'unsubscribe' },
      { op: 'commit', channel: 'c', seq: '5' },
      { op: 'commit', channel: 'c', seq: 1.5 },
      { op: 'commit', channel: 'c' },
      { op: 'refresh' },
      { op: 'refresh', token: 5 },
      { op: 'append', channel: 'c' },
      { op: 'append', channel: 'c', events: [] },
      { op: 'append', channel: 'c', events: { data: 1 } },
      { op: 'append', channel: 'c', events: [1] },
      { op: 'append', channel: 'c', events: [{}] },
      { op: 'append', channel: 'c', events: [{ data: 1, more: 2 }] },
      { op: 'append', channel: 'c', events: [{ data: 1, type: 'tidemark.x' }] },
      { op: 'append', channel: 'c', events: [{ data: 1 }], expectedSeq: '0' },
      { op: 'append', channel: 'c', events: [{ data: 1 }], idempotencyKey: '' },
    ]
    for (const [i, message] of wrong.entries()) {
      await refused(socket, { ref: i, ...message }, 'bad-request')
    }
  })

  test('an append without a ref, or a ref that is none, is refused', async () => {
    const { log, client } = await startStream()
    const socket = await client(subprotocol)
    await refused(socket, { op: 'append', channel: 'c', events: [{ data: 1 }] }, 'bad-request')
    for (const ref of ['', 'x'.repeat(65), 1.5, null, true, ['r']]) {
      socket.send({ op: 'append', channel: 'c', events: [{ data: 1 }], ref })
      const error = await socket.next('error')
      expect(error).toMatchObject({ code: 'bad-request' })
      expect(error).not.toHaveProperty('ref')
    }
    await expect(log.info('c')).rejects.toMatchObject({ code: 'no-channel' })
  })

  test('nobody appends to a system channel, but it can be followed', async () => {
    const { client } = await startStream()
    const socket = await client(subprotocol)
    await refused(socket, { op: 'append', ref: 1, channel: '_streamer', events: [{ data: 1 }] }, 'forbidden')
    socket.send({ op: 'subscribe', channel: '_streamer' })
    await socket.next('subscribed')
  })

  test('more events or bytes than one append holds are too-large', async () => {
    const { client } = await startStream()
    const socket = await client(subprotocol)
    const many = range(1, 1_001).map((n) => ({ data: n }))
    await refused(socket, { op: 'append', ref: 1, channel: 'c', events: many }, 'too-large')
    await refused(socket, { op: 'append', ref: 2, channel: 'c', events: [{ data: 'x'.repeat(990_000) }] }, 'too-large')
  })

  test('one channel too many is too-many; one that is followed can be replaced, and room is given back', async () => {
    const { client } = await startStream({ subscriptions: 3 })
    const socket = await client(subprotocol)
    for (const n of range(1, 3)) socket.send({ op: 'subscribe', ref: n, channel: `c${n}` })
    for (const n of range(1, 3)) await socket.answer(n)
    await refused(socket, { op: 'subscribe', ref: 4, channel: 'c4' }, 'too-many')
    socket.send({ op: 'subscribe', ref: 5, channel: 'c2' })
    expect(await socket.answer(5)).toMatchObject({ op: 'subscribed' })
    socket.send({ op: 'unsubscribe', channel: 'c1' }, { op: 'subscribe', ref: 6, channel: 'c4' })
    expect(await socket.answer(6)).toMatchObject({ op: 'subscribed' })
    socket.send(...range(5, 20).map((n) => ({ op: 'subscribe', ref: n + 10, channel: `c${n}` })))
    for (const n of range(5, 20)) expect(await socket.answer(n + 10)).toMatchObject({ code: 'too-many' })
  })

  test('the first frame is a hello, else 4400', async () => {
    const { peer, streamer } = await startStream()
    for (const first of [{ op: 'ping' }, { op: 'subscribe', channel: 'c' }, { op: 'what' }]) {
      const socket = await peer(subprotocol)
      socket.send(first)
      expect(await socket.closed).toMatchObject({ code: 4400 })
    }
    await until(() => streamer.sockets === 0)
  })

  test('a refused hello says why, and may be said again', async () => {
    const { peer } = await startStream()
    const socket = await peer(subprotocol)
    socket.send({ op: 'hello', ref: 1, client: 'a/b' }, { op: 'hello', ref: 2, more: true }, { op: 'hello', ref: 3 })
    expect(await socket.next()).toMatchObject({ op: 'error', ref: 1, code: 'bad-request' })
    expect(await socket.next()).toMatchObject({ op: 'error', ref: 2, code: 'bad-request' })
    expect(await socket.next()).toMatchObject({ op: 'welcome', ref: 3 })
  })

  test('a frame that is no message closes 4400, one of the other kind 1003', async () => {
    const { client } = await startStream()
    const bad: [string | Uint8Array, number][] =
      subprotocol === 'json'
        ? [
            ['{"op":"ping"', 4400],
            ['{"op":"ping"} x', 4400],
            ['[{"op":"ping"}]', 4400],
            ['"ping"', 4400],
            ['', 4400],
            ["{'op':1}", 4400],
            [Buffer.from([0x80]), 1003],
          ]
        : [
            [Buffer.from([0x81, 0xa2]), 4400],
            [Buffer.from([0x93, 1, 2, 3]), 4400],
            [Buffer.from([0xc1]), 4400],
            [Buffer.from([0x80, 0x80]), 4400],
            [Buffer.alloc(0), 4400],
            ['{"op":"ping"}', 1003],
          ]
    for (const [frame, code] of bad) {
      const socket = await client(subprotocol)
      socket.ws.send(frame)
      expect(await socket.closed, String(frame)).toMatchObject({ code })
    }
  })

  test('a socket that says no hello in time is closed 4408', async () => {
    const { peer, streamer } = await startStream({ helloMs: 60 })
    const socket = await peer(subprotocol)
    expect(await socket.closed).toEqual({ code: 4408, reason: 'no hello' })
    await until(() => streamer.sockets === 0)
  })

  test('a quiet socket gets a heartbeat and a PING; one that answers no PING is closed 4408', async () => {
    const { client, peer } = await startStream({ heartbeat: 100 })
    const quiet = await client(subprotocol)
    for (let i = 0; i < 4; i++) expect(await quiet.next()).toEqual({ op: 'heartbeat' })
    expect(quiet.pings).toBeGreaterThan(1)
    const mute = await peer(subprotocol, { autoPong: false })
    mute.send({ op: 'hello' })
    expect(await mute.closed).toEqual({ code: 4408, reason: 'no pong' })
    await quiet.next('heartbeat')
  })

  test('what is beyond the frame limit closes 1009', async () => {
    const { client } = await startStream()
    const socket = await client(subprotocol)
    socket.send({ op: 'append', ref: 1, channel: 'c', events: [{ data: 'x'.repeat(1_048_576) }] })
    expect(await socket.closed).toMatchObject({ code: 1009 })
  })
})

describe('JSON that is right but not as the protocol asks', () => {
  const cases: [string, string][] = [
    ['an integer beyond 2^53', '{"op":"append","ref":"r","channel":"c","events":[{"data":[9007199254740993]}]}'],
    ['a field given twice', '{"ref":"r","op":"ping","op":"ping"}'],
    [
      'nesting too deep',
      `{"op":"append","channel":"c","events":[{"data":${'['.repeat(90)}${']'.repeat(90)}}],"ref":"r"}`,
    ],
    ['a name like __proto__', '{"op":"ping","ref":"r","__proto__":{"x":1}}'],
    ['a ref written with an escape', '{"\\u0072ef":1,"op":"ping","ref":"r","x":{"ref":2}}'],
  ]
  test.each(cases)('%s is bad-request under the ref', async (_, text) => {
    const { log, client } = await startStream()
    const socket = await client()
    socket.ws.send(text)
    const error = await socket.next('error')
    expect(error).toMatchObject({ code: 'bad-request' })
    if (!text.includes('u0072')) expect(error.ref).toBe('r')
    socket.send({ op: 'ping', ref: 1 })
    await socket.next('pong')
    await expect(log.info('c')).rejects.toMatchObject({ code: 'no-channel' })
    expect(({} as Message).x).toBeUndefined()
  })

  test('a megabyte of open brackets is refused quickly and the socket lives', async () => {
    const { client } = await startStream()
    const socket = await client()
    socket.ws.send(`{"ref":1,"op":"append","channel":"c","events":${'['.repeat(1_000_000)}`)
    expect(await socket.next()).toMatchObject({ op: 'error', ref: 1, code: 'bad-request' })
  })

  test('so is a message of a hundred thousand fields', async () => {
    const { client } = await startStream()
    const socket = await client()
    const fields = range(1, 100_000).map((n) => `"_${n.toString(36)}":0`)
    socket.ws.send(`{"ref":1,"op":"ping",${fields.join()}}`)
    expect(await socket.next()).toMatchObject({ op: 'error', ref: 1, code: 'bad-request', field: '_1' })
    socket.ws.send(`{"ref":2,"op":"ping",${fields.join()},"_1":0}`)
    expect(await socket.next()).toMatchObject({ op: 'error', ref: 2, code: 'bad-request', field: '_1' })
    socket.ws.send('{"ref":3,"op":"ping"}')
    expect(await socket.next()).toEqual({ op: 'pong', ref: 3 })
  })
})

describe('MessagePack that is right but holds what JSON can not', () => {
  let deep: unknown = 1
  for (let i = 0; i < 90; i++) deep = [deep]
  const cases: [string, unknown][] = [
    ['NaN', [Number.NaN]],
    ['an extension', { at: new Date(0) }],
    ['bytes inside a value', [Buffer.from('x')]],
    ['an integer beyond 2^53', 9_007_199_254_740_993n],
    ['nesting too deep', deep],
  ]
  test.each(cases)('%s is bad-request under the ref', async (_, data) => {
    const { client } = await startStream()
    const socket = await client('msgpack')
    await refused(socket, { op: 'append', channel: 'c', events: [{ data: 1 }, { data }], ref: 'r' }, 'bad-request')
  })
})

describe('frames that are not as RFC 6455 asks', () => {
  const HELLO = clientFrame('{"op":"hello"}')
  const cases: [string, Buffer, number][] = [
    ['text that is not UTF-8', clientFrame(Buffer.from([0x7b, 0xc3, 0x28, 0x7d])), 1007],
    ['a frame without a mask', clientFrame('{}', { masked: false }), 1002],
    ['a reserved bit', Buffer.from([0xc1, 0x80, 0, 0, 0, 0]), 1002],
    ['a message within a message', Buffer.concat([clientFrame('{', { fin: false }), clientFrame('{}')]), 1002],
    ['an unknown opcode', clientFrame('{}', { opcode: 3 }), 1002],
    ['a length of 2^62', Buffer.from([0x81, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), 1009],
    ['a length beyond the limit', clientFrame(Buffer.alloc(1_048_577, 0x20)), 1009],
    [
      'one message in 100 fragments',
      Buffer.concat([
        clientFrame('{', { fin: false }),
        ...range(1, 99).map(() => clientFrame(' ', { opcode: 0, fin: false })),
      ]),
      1008,
    ],
  ]
  test.each(cases)('%s', async (_, frame, code) => {
    const { log, port, streamer } = await startStream()
    const socket = await rawSocket(port)
    // What stands behind it is not taken, though it came together with it.
    socket.write(
      Buffer.concat([HELLO, frame, clientFrame('{"op":"append","ref":1,"channel":"c","events":[{"data":1}]}')]),
    )
    expect(await closeCode(socket)).toBe(code)
    await until(() => streamer.sockets === 0)
    await expect(log.info('c')).rejects.toMatchObject({ code: 'no-channel' })
  })

  test('what is kept of messages that are not whole is bounded, for all sockets together', async () => {
    const { port, streamer } = await startStream({ unfinishedBytes: 1_000_000 })
    const hello = (ref: number) => `{"op":"hello","ref":${ref}${' '.repeat(400_000)}}`
    const open = async (ref: number, inPieces: boolean) => {
      const socket = await rawSocket(port)
      const text = hello(ref)
      const [begun, rest] = inPieces
        ? [clientFrame(text.slice(0, -1), { fin: false }), clientFrame(text.slice(-1), { opcode: 0 })]
        : [clientFrame(text).subarray(0, -1), Buffer.from('}')]
      await new Promise((resolve) => socket.write(begun, resolve))
      return { socket, rest }
    }
    const first = await open(1, false)
    const second = await open(2, true)
    const third = await open(3, false)
    const fourth = await open(4, true)
    const ends = [first, second, third, fourth].map(({ socket }) => closeCode(socket))
    await until(() => streamer.sockets === 2)
    expect(streamer.unfinished.bytes).toBeGreaterThan(800_000)
    for (const { socket, rest } of [first, second, third, fourth]) socket.end(rest)
    expect((await Promise.all(ends)).filter((code) => code === 1013)).toHaveLength(2)
    await until(() => streamer.sockets === 0)
    expect(streamer.unfinished.bytes).toBe(0)
    // There is room again, and what becomes whole takes none.
    const socket = await rawSocket(port)
    for (let ref = 1; ref <= 5; ref++) socket.write(clientFrame(hello(ref)))
    let answers = ''
    socket.on('data', (bytes) => {
      answers += bytes
    })
    await until(() => answers.includes('"ref":5'))
    expect(streamer.unfinished.bytes).toBe(0)
  })

  test('a message in 60 fragments is a message', async () => {
    const { port } = await startStream()
    const socket = await rawSocket(port)
    const text = '{"op":"hello","ref":1}'
    const parts = [text.slice(0, 1), ...range(1, 58).map(() => ' '), text.slice(1)]
    socket.write(
      Buffer.concat(
        parts.map((part, i) => clientFrame(part, { opcode: i === 0 ? 1 : 0, fin: i === parts.length - 1 })),
      ),
    )
    await new Promise((resolve) => socket.once('readable', resolve))
    expect(String(socket.read())).toContain('"welcome"')
  })
})

describe('sockets that are sent away', () => {
  const retryOf = (reason: string) => Number(/^retry=(\d{1,3})$/.exec(reason)?.[1])

  test('one socket too many is closed 4429 with a hint', async () => {
    const { client, peer } = await startStream({ sockets: 2 })
    const [first] = [await client(), await client()]
    const third = await peer()
    const { code, reason } = await third.closed
    expect(code).toBe(4429)
    expect(retryOf(reason)).toBeLessThan(400)
    first.ws.close()
    await first.closed
    await client()
  })

  test.each(SUBPROTOCOLS)('the switch closes 4503 after it was told, and loses nothing, %s', async (subprotocol) => {
    const { log, doors, streamer, client, peer } = await startStream()
    await append(log, 'c', 1)
    const socket = await client(subprotocol, 'web')
    socket.send({ op: 'subscribe', channel: 'c' })
    await socket.untilOp('caughtup')
    socket.send({ op: 'commit', channel: 'c', seq: 1 }, { op: 'ping' })
    await socket.next('pong')
    await doors.switch.set(false)
    const told = await socket.next()
    expect(told).toEqual({ op: 'switch', streamer: 'off', retryAfter: expect.any(Number) })
    expect(await socket.closed).toEqual({ code: 4503, reason: `retry=${told.retryAfter}` })
    expect(await log.cursor('web', 'c')).toMatchObject({ seq: 1 })
    await append(log, 'c', 2, 3)
    const { code, reason } = await (await peer(subprotocol)).closed
    expect(code).toBe(4503)
    expect(retryOf(reason)).toBeLessThan(1_000)
    await doors.switch.set(true)
    const again = await client(subprotocol, 'web')
    again.send({ op: 'subscribe', channel: 'c', cursor: true })
    expect(await again.next()).toMatchObject({ op: 'subscribed', after: 1, head: 3 })
    expect(seqs(await again.events('c', 1, 3))).toEqual([2, 3])
    expect(streamer.sockets).toBe(1)
  })

  test('a stop answers what was taken, then closes 1001, each with a hint of its own', async () => {
    const { log, client, streamer } = await startStream()
    const sockets = await Promise.all(range(1, 4).map(() => client('msgpack', 'web')))
    for (const socket of sockets)
      for (const n of range(1, 3_000)) socket.send({ op: 'append', ref: n, channel: 'c', events: [{ data: n }] })
    // The first group is answered; others are on their way.
    await until(() => sockets.some(({ inbox }) => inbox.length > 0))
    await streamer.close()
    const ends = await Promise.all(sockets.map((socket) => socket.closed))
    expect(new Set(ends.map(({ code }) => code))).toEqual(new Set([1001]))
    expect(new Set(ends.map(({ reason }) => retryOf(reason))).size).toBeGreaterThan(1)
    // Everything that was appended was answered, and every answer is one append.
    const answered = sockets.flatMap(({ inbox }) => inbox.map(({ op }) => op))
    expect(new Set(answered)).toEqual(new Set(['appended']))
    expect((await log.info('c')).head).toBe(answered.length)
  })

  test('a log that can not be read closes 1013 with a hint', async () => {
    const { log, client } = await startStream()
    await append(log, 'c', 1)
    const socket = await client()
    socket.send({ op: 'subscribe', channel: 'c' })
    await socket.untilOp('caughtup')
    await log.close()
    const { code, reason } = await socket.closed
    expect(code).toBe(1013)
    expect(retryOf(reason)).toBeLessThan(400)
  })

  test('a client that closes gets its code back, and leaves nothing behind', async () => {
    const { client, streamer } = await startStream()
    const socket = await client()
    socket.send({ op: 'subscribe', channel: 'c' })
    await socket.next('subscribed')
    socket.ws.close(4000, 'enough')
    expect(await socket.closed).toMatchObject({ code: 4000 })
    await until(() => streamer.sockets === 0)
  })

  test('nothing is read for a client that closes while it is behind', async () => {
    const { log, port, streamer, doors } = await startStream()
    for (let n = 0; n < 8; n++) await append(log, 'c', ...range(1, 500).map(() => 'x'.repeat(1_000)))
    const socket = await rawSocket(port)
    const close = clientFrame(Buffer.from([3, 232]), { opcode: 8 })
    socket.write(Buffer.concat([clientFrame('{"op":"hello"}'), clientFrame('{"op":"subscribe","channel":"c"}'), close]))
    expect(await closeCode(socket)).toBe(1000)
    await until(() => streamer.sockets === 0)
    expect(doors.metrics.reads.stream.events).toBe(0)
  })
})
