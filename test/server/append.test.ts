import { Packr } from 'msgpackr'
import { expect, test } from 'vitest'
import { decodeBlock } from '../../src/block.ts'
import { BODY_BYTES_MAX } from '../../src/body.ts'
import { APPEND_BYTES_MAX } from '../../src/doors/limits.ts'
import type { Event } from '../../src/event.ts'
import type { Log } from '../../src/log/log.ts'
import { append } from '../../src/server/append.ts'
import { body, tempLog } from '../parts.ts'
import { type Bare, serveBare, until } from './bare.ts'
import { type Answer, call, problemOf, RawConnection } from './calls.ts'
import { logWith } from './serve.ts'

const packr = new Packr({ useRecords: false })

/** A server for appends, and the ways to call it. */
async function startAppends(given?: Log) {
  const bare = await serveBare(append, given)
  const address = (channel: string): string => `${bare.url}/v1/channels/${channel}/events`
  return {
    ...bare,
    post: (given: unknown, query = '', headers = {}, channel = 'orders') =>
      call(address(channel) + query, 'POST', given, headers),
    raw: (given: string | Uint8Array, type: string, query = '') =>
      call(`${address('orders')}${query}`, 'POST', given, { 'content-type': type }),
    lines: (given: string, headers = {}, query = '') =>
      call(`${address('orders')}${query}`, 'POST', given, { 'content-type': 'application/x-ndjson', ...headers }),
  }
}

async function read({ log }: Pick<Bare, 'log'>, channel = 'orders'): Promise<Event[]> {
  const events: Event[] = []
  for (let after = 0; ; ) {
    const page = await log.read(channel, { after }, { events: 10_000, bytes: 10_000_000 })
    for (const block of page.blocks) events.push(...decodeBlock(block, page.after, page.last))
    if (page.caughtUp) return events
    after = page.last
  }
}

const data = (events: readonly Event[]): (string | null)[] =>
  events.map(({ data }) => data && Buffer.from(data).toString())

const codeOf = (answer: Answer): string => {
  const { code, status } = problemOf(answer)
  expect(status).toBe(answer.status)
  expect(answer.headers.get('x-content-type-options')).toBe('nosniff')
  return code
}

/** A head for `POST`, as it stands on the wire. */
const head = (lines: readonly string[], target = '/v1/channels/orders/events'): string =>
  [`POST ${target} HTTP/1.1`, 'Host: localhost', ...lines, '', ''].join('\r\n')

// ── What is taken ────────────────────────────────────────────────────────────────────────────────────────────────

test('One event and a batch are appended, and the answer tells where.', async () => {
  const server = await startAppends()
  const one = await server.post({ type: 'made', data: { n: 1 } })
  expect([one.status, one.headers.get('cache-control')]).toEqual([201, 'no-store'])
  const { epoch } = await server.log.info('orders')
  expect(one.json).toEqual({ channel: 'orders', epoch, first: 1, last: 1, head: 1, durability: 'fsync' })
  expect((await server.post([{ data: 2 }, { data: 3 }])).json).toMatchObject({ first: 2, last: 3, head: 3 })
  expect(data(await read(server))).toEqual(['{"n":1}', '2', '3'])
})

test('The address may hold slashes or their encoding: both are one channel.', async () => {
  const server = await startAppends()
  await server.post({ data: 1 }, '', {}, 'repo/42')
  expect((await server.post({ data: 2 }, '', {}, 'repo%2F42')).json).toMatchObject({ channel: 'repo/42', first: 2 })
})

test('JSON, MessagePack and lines say the same.', async () => {
  const server = await startAppends()
  const event = { type: 'made', key: 'ü', id: 'i', data: { a: [1, 'ü'] } }
  await server.post(event, '', { 'content-type': 'Application/JSON; charset="UTF-8"' })
  await server.raw(packr.pack([event]), 'application/msgpack')
  expect((await server.lines(`${JSON.stringify(event)}\n`)).json).toMatchObject({ first: 3, last: 3, appended: 1 })
  const [first, ...others] = (await read(server)).map(({ seq, time, data, ...rest }) => ({
    ...rest,
    data: Buffer.from(data!).toString(),
  }))
  expect(others).toEqual([first, first])
})

test('Any other type is one event with the body as its data, byte for byte.', async () => {
  const server = await startAppends()
  const bytes = new Uint8Array([0, 255, 10, 13])
  await server.raw(bytes, 'Image/PNG; a="b"', '?type=a.b&key=%2Fa+b%C3%BC&id=x%2By')
  await server.raw('{"not":"parsed"', 'text/plain;charset=utf-8')
  const conn = await RawConnection.open(server.port)
  await conn.send(`${head(['Content-Length: 2'])}hi`).until(/"last":3/)
  await conn.send(head(['Content-Length: 0'], '/v1/channels/orders/events?key=gone')).until(/"last":4/)
  await conn.send(head(['Content-Length: 0', 'Content-Type: text/plain'])).until(/"last":5/)
  const [image, text, bare, tombstone, empty] = await read(server)
  expect(image).toMatchObject({ type: 'a.b', key: '/a bü', id: 'x+y', contentType: 'image/png; a="b"' })
  expect([...image!.data!]).toEqual([...bytes])
  expect([text!.contentType, data([text!])]).toEqual(['text/plain;charset=utf-8', ['{"not":"parsed"']])
  expect([bare!.contentType, data([bare!])]).toEqual(['application/octet-stream', ['hi']])
  expect(tombstone).toMatchObject({ key: 'gone', data: null, contentType: null })
  expect(empty!.data).toHaveLength(0)
})

test('A body that arrives in many pieces is one body.', async () => {
  const server = await startAppends()
  const text = JSON.stringify({ data: 'x'.repeat(100_000) })
  const conn = await RawConnection.open(server.port)
  conn.send(head(['Content-Type: application/json', 'Transfer-Encoding: chunked']))
  for (let at = 0; at < text.length; at += 1_000) {
    const part = text.slice(at, at + 1_000)
    conn.send(`${part.length.toString(16)}\r\n${part}\r\n`)
  }
  await conn.send('0\r\n\r\n').until(/ 201 Created/)
  expect((await read(server))[0]!.data).toHaveLength(100_002)
})

// ── Idempotency and expected seqs ────────────────────────────────────────────────────────────────────────────────

test('The same append under the same key is answered as the first time.', async () => {
  const server = await startAppends()
  const key = { 'idempotency-key': 'k 1' }
  const first = await server.post([{ data: 1 }, { data: 2 }], '?expectedSeq=0', key)
  await server.post({ data: 3 })
  const again = await server.post([{ data: 1 }, { data: 2 }], '?expectedSeq=0', key)
  expect([first.status, again.status]).toEqual([201, 200])
  expect(again.json).toEqual({ ...first.json, head: 3, duplicate: true })
  expect(codeOf(await server.post({ data: 4 }, '', key))).toBe('key-reused')
  expect(codeOf(await server.post({ data: 4 }, '', { 'idempotency-key': 'x'.repeat(129) }))).toBe('bad-request')
  expect(codeOf(await server.post({ data: 4 }, '', { 'idempotency-key': '' }))).toBe('bad-request')
  expect(data(await read(server))).toEqual(['1', '2', '3'])
})

test('An expected seq that is not the head is a conflict that tells the head.', async () => {
  const server = await startAppends()
  expect((await server.post({ data: 1 }, '?expectedSeq=0')).status).toBe(201)
  const conflict = await server.post({ data: 2 }, '?expectedSeq=0')
  expect(codeOf(conflict)).toBe('seq-conflict')
  expect(conflict.json).toMatchObject({ head: 1, channel: 'orders' })
  expect((await server.post({ data: 2 }, '?expectedSeq=1')).status).toBe(201)
})

// ── Lines ────────────────────────────────────────────────────────────────────────────────────────────────────────

const numbered = (first: number, last: number): string =>
  Array.from({ length: last - first + 1 }, (_, i) => `{"data":${first + i}}\n`).join('')

test('Lines of any number are taken in pieces, and the answer covers all.', async () => {
  const server = await startAppends()
  const answer = await server.lines(numbered(1, 2_500))
  expect(answer.status).toBe(201)
  expect(answer.json).toMatchObject({ first: 1, last: 2_500, head: 2_500, appended: 2_500, durability: 'fsync' })
  expect(data(await read(server))).toEqual(Array.from({ length: 2_500 }, (_, i) => `${i + 1}`))
})

test('Tombstones that go between two pieces of lines do not end them.', async () => {
  const log = await tempLog()
  const { post, lines } = await startAppends(
    logWith(log, {
      append: async (...given) => {
        const answers = await log.append(...given)
        await log.clean!('orders', 1, answers[0]!.epoch)
        return answers
      },
    }),
  )
  await post({ key: 'a', data: null })
  expect((await lines(numbered(2, 2_500))).json).toMatchObject({ first: 2, last: 2_500, appended: 2_499 })
})

test('A bad line tells how far the lines came; whole pieces before it stay.', async () => {
  const server = await startAppends()
  const answer = await server.lines(`${numbered(1, 2_300)}{"data":oops}\n${numbered(1, 9)}`)
  expect(codeOf(answer)).toBe('bad-request')
  expect(answer.json).toMatchObject({ line: 2_301, appended: 2_000, first: 1, last: 2_000 })
  expect(await read(server)).toHaveLength(2_000)
  const none = await server.lines('{"data":1}\noops\n')
  expect(none.json).toMatchObject({ code: 'bad-request', line: 2, appended: 0 })
  expect(none.json).not.toHaveProperty('last')
  for (const empty of ['', '\n\n']) expect(codeOf(await server.lines(empty))).toBe('bad-request')
})

test('Lines are answered when they are durable, while their sender is still sending.', async () => {
  const server = await startAppends()
  const conn = await RawConnection.open(server.port)
  const chunk = (text: string): string => `${Buffer.byteLength(text).toString(16)}\r\n${text}\r\n`
  conn.send(head(['Content-Type: application/x-ndjson', 'Transfer-Encoding: chunked']) + chunk(numbered(1, 1_001)))
  await until(async () => (await server.log.info('orders').catch(() => undefined))?.head === 1_000)
  conn.send(`${chunk('{"data":"last"}')}0\r\n\r\n`)
  expect(await conn.until(/"appended"/)).toContain('"last":1002')
})

test('Lines whose sender hangs up keep whole pieces only.', async () => {
  const server = await startAppends()
  const conn = await RawConnection.open(server.port)
  const text = `${numbered(1, 1_500)}{"data":`
  conn.send(`${head(['Content-Type: application/x-ndjson', 'Content-Length: 1000000'])}${text}`)
  await until(async () => (await server.log.info('orders').catch(() => undefined))?.head === 1_000)
  conn.socket.destroy()
  await until(() => server.failures.length > 0)
  await server.settled()
  expect(await read(server)).toHaveLength(1_000)
})

test('Lines expected to follow a seq let nobody between their pieces.', async () => {
  const server = await startAppends()
  await server.post({ data: 0 })
  expect((await server.lines(numbered(1, 1_500), {}, '?expectedSeq=1')).json).toMatchObject({ first: 2, last: 1_501 })
  const conflict = await server.lines(numbered(1, 1_500), {}, '?expectedSeq=1')
  expect(codeOf(conflict)).toBe('seq-conflict')
  expect(conflict.json).toMatchObject({ appended: 0, head: 1_501 })
})

test('Lines under a key, sent again after they were cut, go on where they came to.', async () => {
  const server = await startAppends()
  const key = { 'idempotency-key': 'load' }
  const cut = await server.lines(`${numbered(1, 1_500)}oops`, key)
  expect(cut.json).toMatchObject({ code: 'bad-request', appended: 1_000, last: 1_000 })
  const whole = await server.lines(numbered(1, 2_500), key)
  expect([whole.status, whole.json.first, whole.json.last, whole.json.duplicate]).toEqual([201, 1, 2_500, undefined])
  const again = await server.lines(numbered(1, 2_500), key)
  expect([again.status, again.json]).toEqual([200, { ...whole.json, duplicate: true }])
  // One piece is the same append however it is written.
  const single = await server.lines('{"data":1}', { 'idempotency-key': 'one' })
  expect((await server.post({ data: 1 }, '', { 'idempotency-key': 'one' })).json).toMatchObject({
    first: single.json.first,
    duplicate: true,
  })
  expect(await read(server)).toHaveLength(2_501)
  expect(codeOf(await server.lines(numbered(2, 2_500), key))).toBe('key-reused')
})

// ── What is refused ──────────────────────────────────────────────────────────────────────────────────────────────

test('What is no append is refused with its code, and nothing is appended.', async () => {
  const server = await startAppends()
  const json = { 'content-type': 'application/json' }
  const refused: [string, Promise<Answer>][] = [
    ['bad-request', server.post('')],
    ['bad-request', server.post('[]')],
    ['bad-request', server.post('{"data":1')],
    ['bad-request', server.post({ data: 1, seq: 1 })],
    ['bad-request', server.post('{"data":1,"__proto__":{}}')],
    ['bad-request', server.post(new Uint8Array([0x22, 0xff]))],
    ['bad-request', server.post(`{"data":${'['.repeat(1_000_000)}`)],
    ['bad-request', server.post('{"data":12345678901234567890}')],
    ['bad-request', server.post({ data: 1 }, '?expectedSeq=x')],
    ['bad-request', server.post({ data: 1 }, '?expectedSeq=-1')],
    ['bad-request', server.post({ data: 1 }, '?expectedSeq=9007199254740992')],
    ['bad-request', server.post({ data: 1 }, '?expectedSeq=0&expectedSeq=0')],
    ['bad-request', server.post({ data: 1 }, '?type=a')],
    ['bad-request', server.post({ data: 1 }, '?token=secret')],
    ['bad-request', server.post({ data: 1 }, '?expectedSeq=%zz')],
    ['bad-request', server.post({ data: 1 }, '', {}, 'a%FFb')],
    ['bad-request', server.post({ data: 1 }, '', {}, 'a%2')],
    ['bad-request', server.post({ data: 1 }, '', {}, 'a%252Fb')],
    ['bad-request', server.post({ data: 1 }, '', {}, 'a//b')],
    ['bad-request', server.post({ data: 1 }, '', {}, 'x'.repeat(201))],
    ['bad-request', server.raw('x', 'text/plain', '?type=error')],
    ['bad-request', server.raw('x', 'text/plain', '?key=%00')],
    ['bad-request', server.raw('x', 'text/plain', '?id=%C3%BC')],
    ['bad-request', server.raw(Buffer.from([0xc1]), 'application/msgpack')],
    ['bad-request', server.raw('{"data":1}', 'application/msgpack')],
    ['forbidden', server.post({ data: 1 }, '', {}, '_streamer')],
    ['forbidden', server.post({ data: 1 }, '', {}, '%5Fsystem/a')],
    ['too-large', server.post(Array(1_001).fill({ data: 1 }))],
    ['too-large', server.post({ data: 'x'.repeat(BODY_BYTES_MAX) })],
    ['too-large', server.post(' '.repeat(APPEND_BYTES_MAX + 1))],
    ['too-large', server.raw(Buffer.alloc(BODY_BYTES_MAX + 1), 'application/pdf')],
    ['too-large', server.raw(Buffer.alloc(BODY_BYTES_MAX), 'application/pdf')],
    ['too-large', server.lines('x'.repeat(APPEND_BYTES_MAX + 1))],
    ['unsupported-type', server.post({ data: 1 }, '', { ...json, 'content-encoding': 'gzip' })],
    ['unsupported-type', server.post({ data: 1 }, '', { 'content-type': 'application/json; charset=utf-16' })],
    ['unsupported-type', server.raw('x', 'plain')],
    ['unsupported-type', server.raw('x', `text/${'x'.repeat(130)}`)],
    ['method-not-allowed', call(`${server.url}/v1/channels/orders/events`, 'PUT', { data: 1 })],
    ['not-found', call(`${server.url}/v1/channels/orders/trim`, 'POST', { data: 1 })],
    ['not-found', call(`${server.url}/v1/elsewhere`, 'POST', { data: 1 })],
  ]
  for (const [i, [code, answer]] of refused.entries()) expect([i, codeOf(await answer)]).toEqual([i, code])
  const channels: string[] = []
  for await (const { channel } of server.log.channels('')) channels.push(channel)
  expect(channels).toEqual([])
  expect((await server.post({ data: 1 })).json).toMatchObject({ first: 1 })
})

test('A refusal names what the caller needs: the allowed method, the limit, the event at fault.', async () => {
  const server = await startAppends()
  expect((await call(`${server.url}/v1/channels/orders/events`, 'DELETE')).headers.get('allow')).toBe('POST')
  expect((await server.raw(Buffer.alloc(BODY_BYTES_MAX + 1), 'a/b')).json).toMatchObject({ limit: BODY_BYTES_MAX })
  expect((await server.post([{ data: 1 }, { x: 1 }])).json).toMatchObject({ event: 1, field: 'x' })
})

test('A log that is closed answers unavailable, and when to come back.', async () => {
  const log = await tempLog()
  const server = await startAppends(log)
  await log.close()
  const answer = await server.post({ data: 1 })
  expect([codeOf(answer), answer.headers.get('retry-after')]).toEqual(['unavailable', '1'])
})

test('While too much waits for the disk, appends are refused before their body is read.', async () => {
  const server = await startAppends()
  const block = body('x'.repeat(900_000))
  let pressing = true
  const press = async (): Promise<void> => {
    while (pressing) {
      const appends = Array.from({ length: 40 }, () => server.log.append([{ channel: 'pressing', body: block }]))
      await Promise.allSettled(appends)
    }
  }
  const pressed = press()
  // The body never comes: the answer can not wait for it.
  const refused = async (): Promise<string | undefined> => {
    const conn = await RawConnection.open(server.port)
    conn.send(head(['Content-Type: application/json', 'Content-Length: 10', 'Expect: 100-continue']))
    const received = await conn.until(/\r\n\r\n/)
    conn.socket.destroy()
    return received.startsWith('HTTP/1.1 429') ? received : undefined
  }
  let answer: string | undefined
  await until(async () => {
    answer = await refused()
    return answer !== undefined
  })
  pressing = false
  await pressed
  expect(answer).toMatch(/retry-after: 1\r\n/i)
  expect(server.failures).toContain('too-many')
})

// ── Bodies on the wire ───────────────────────────────────────────────────────────────────────────────────────────

test('A sender that waits for the word gets it when the body is wanted, and only then.', async () => {
  const server = await startAppends()
  const wanted = await RawConnection.open(server.port)
  wanted.send(head(['Content-Type: application/json', 'Content-Length: 10', 'Expect: 100-continue']))
  await wanted.until(/^HTTP\/1.1 100 Continue\r\n\r\n/)
  expect(await wanted.send('{"data":1}').until(/"last":1/)).toContain(' 201 ')
  for (const lines of [
    ['Content-Type: application/json', 'Content-Length: 99999999'],
    ['Content-Type: bad', 'Content-Length: 5'],
  ]) {
    const unwanted = await RawConnection.open(server.port)
    const received = await unwanted.send(head([...lines, 'Expect: 100-continue'])).toEnd()
    expect(received).toMatch(/^HTTP\/1.1 4\d\d /)
    expect(received).toMatch(/connection: close/i)
  }
})

test('What says that it is too large is refused unread, and its sender gets to read the answer.', async () => {
  const server = await startAppends()
  const conn = await RawConnection.open(server.port)
  const errors: Error[] = []
  conn.socket.on('error', (error) => errors.push(error))
  conn.send(head(['Content-Type: application/json', `Content-Length: ${APPEND_BYTES_MAX + 1}`]))
  expect(await conn.until(/"code":"too-large"/)).toMatch(/^HTTP\/1.1 413 [\s\S]*connection: close/i)
  // It goes on sending, as clients do: a connection that is closed under it would be reset.
  for (let i = 0; i < 20; i++) conn.send('x'.repeat(50_000))
  conn.socket.end()
  await conn.toEnd()
  expect(errors).toEqual([])
})

test('A body that turns out too large is read no further than its limit.', async () => {
  const server = await startAppends()
  const conn = await RawConnection.open(server.port)
  conn.send(head(['Content-Type: application/json', 'Transfer-Encoding: chunked']))
  const chunk = `${(100_000).toString(16)}\r\n${' '.repeat(100_000)}\r\n`
  for (let i = 0; i < 22; i++) conn.send(chunk)
  expect(await conn.until(/"code":/)).toContain('"too-large"')
})

test('A refused body that is small is read off, and the connection lives.', async () => {
  const server = await startAppends()
  const conn = await RawConnection.open(server.port)
  conn.send(`${head(['Content-Type: application/json', 'Content-Length: 9'], '/v1/channels/orders/events?x=1')}{"data"`)
  await conn.until(/"code":"bad-request"/)
  conn.send(`:1${head(['Content-Type: application/json', 'Content-Length: 10'])}{"data":2}`)
  expect(await conn.until(/"last":1/)).not.toMatch(/connection: close/i)
})

test('A body that is cut leaves nothing, and the server goes on.', async () => {
  const server = await startAppends()
  const conn = await RawConnection.open(server.port)
  conn.send(`${head(['Content-Type: application/json', 'Content-Length: 100'])}{"data":1}`)
  const chunked = await RawConnection.open(server.port)
  chunked.send(`${head(['Content-Type: application/json', 'Transfer-Encoding: chunked'])}a\r\n{"data":1}\r\n`)
  // Nothing tells that the server has read it: what was sent is with it when a later call is answered.
  expect((await server.post({ data: 'between' })).json).toMatchObject({ first: 1 })
  conn.socket.destroy()
  chunked.socket.destroy()
  await until(() => server.failures.length === 2)
  expect((await server.post({ data: 'after' })).json).toMatchObject({ first: 2 })
  expect(data(await read(server))).toEqual(['"between"', '"after"'])
})
