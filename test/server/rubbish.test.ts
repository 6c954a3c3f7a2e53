/** A whole server under mutated requests and frames: every answer is coded, none is a failure of ours, and it goes on serving. */
import { once } from 'node:events'
import { Agent, type IncomingHttpHeaders, request } from 'node:http'
import { connect } from 'node:net'
import type { Writable } from 'node:stream'
import { Packr } from 'msgpackr'
import { expect, onTestFinished, test } from 'vitest'
import * as ws from 'ws'
import { ERRORS } from '../../src/errors.ts'
import type { Dice } from '../crash/dice.ts'
import { clientFrame } from '../frame.ts'
import { bent, GROWTH_BYTES_MAX, held, INPUTS, isLong, Judge, mutate, newDice, shown } from '../fuzz.ts'
import { tempLog } from '../parts.ts'
import { call } from './calls.ts'
import { type Guarded, startGuarded } from './guarded.ts'

const { Receiver } = ws as unknown as { Receiver: new (options: object) => Writable }

/** Of each kind; each stands for a call or a conversation. */
const CALLS = Math.ceil(INPUTS / 20) || 40
/** How many are under way at once. */
const AT_ONCE = 16
/** What is kept in memory of the newest events would look like growth. */
const TAIL_BYTES = 64 * 1024

const packr = new Packr({ useRecords: false })
const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value) ?? 'null')

const EVENT = { data: { bytes: 1024, list: [1, 'é', null] }, type: 'node.added', key: '/a.jpg', id: 'b7c1' }
const ADDRESSED = { data: 'x', contentType: 'text/plain', to: { users: ['anna'], groups: ['/staff'] } }
const EVENTS = [EVENT, ADDRESSED, { dataBase64: 'AAEC' }, { key: '/b' }]

interface Call {
  readonly method: string
  readonly path: string
  readonly type?: string
  readonly body?: unknown
  readonly accept?: string
}
const ORDERS = '/v1/channels/orders%2F1'
const JSON_TYPE = 'application/json'
const TEMPLATES: readonly Call[] = [
  { method: 'POST', path: `${ORDERS}/events?expectedSeq=0`, type: JSON_TYPE, body: EVENTS },
  { method: 'POST', path: `${ORDERS}/events`, type: JSON_TYPE, body: EVENT },
  { method: 'POST', path: `${ORDERS}/events`, type: 'application/x-ndjson', body: EVENT },
  { method: 'POST', path: `${ORDERS}/events`, type: 'application/msgpack', body: EVENTS },
  { method: 'POST', path: `${ORDERS}/events?type=a&key=k&id=1`, type: 'text/plain', body: 'text' },
  { method: 'POST', path: '/v1/append', type: JSON_TYPE, body: { appends: [{ channel: 'in', events: EVENTS }] } },
  {
    method: 'POST',
    path: '/v1/poll',
    type: JSON_TYPE,
    body: { client: 'w', channels: { in: { commit: 1, epoch: 'x' }, a: { after: 'head-5', tell: true } }, limit: 9 },
  },
  { method: 'GET', path: `${ORDERS}/events?after=0&limit=10&epoch=x` },
  { method: 'GET', path: `${ORDERS}/events?client=web-42`, accept: 'application/msgpack' },
  { method: 'PUT', path: `${ORDERS}/cursors/web-42`, type: JSON_TYPE, body: { seq: 1, seek: true } },
  { method: 'GET', path: `${ORDERS}/cursors?limit=3` },
  { method: 'PUT', path: ORDERS, type: JSON_TYPE, body: { note: 'n', retention: { maxAge: 600, consumed: true } } },
  { method: 'POST', path: `${ORDERS}/trim`, type: JSON_TYPE, body: { keepLast: 50 } },
  { method: 'POST', path: `${ORDERS}/compact`, type: JSON_TYPE, body: { dryRun: true, minLag: 5 } },
  { method: 'GET', path: '/v1/channels?prefix=or&after=a&limit=7&bytes=1' },
  { method: 'GET', path: '/v1/admin/cursors?limit=10&channel=in' },
]

function bodyOf(dice: Dice, { type, body }: Call): Buffer | undefined {
  if (body === undefined) return undefined
  const value = dice(2) ? bent(dice, body) : body
  const bytes =
    type === 'application/msgpack'
      ? packr.pack(value ?? null)
      : type === 'application/x-ndjson'
        ? Buffer.concat([json(value), Buffer.from('\n'), json(EVENT)])
        : json(value)
  return dice(3) ? mutate(dice, [bytes, json(EVENTS)]) : bytes
}

const printable = (bytes: Buffer): string => bytes.toString('latin1').replaceAll(/[^\x21-\x7e\x80-\xff]/g, '+')

const agent = new Agent({ keepAlive: true, maxSockets: AT_ONCE })

interface Told {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly text: string
}

/** Undefined where the connection was cut instead of an answer. */
function ask(
  port: number,
  {
    method,
    path,
    headers,
    body,
  }: { method: string; path: string; headers: Record<string, string>; body: Buffer | undefined },
): Promise<Told | undefined> {
  return new Promise((resolve) => {
    const req = request({ port, host: '127.0.0.1', method, path, headers, agent }, (res) => {
      const chunks: Buffer[] = []
      res.on('data', (chunk: Buffer) => chunks.push(chunk))
      res.on('end', () =>
        resolve({ status: res.statusCode!, headers: res.headers, text: Buffer.concat(chunks).toString() }),
      )
      res.on('error', () => resolve(undefined))
    })
    req.on('error', () => resolve(undefined))
    req.end(body)
  })
}

/** Runs `one` so often, some at once. */
async function many(count: number, one: (i: number) => Promise<void>): Promise<void> {
  let next = 0
  await Promise.all(
    Array.from({ length: AT_ONCE }, async () => {
      while (next < count) await one(next++)
    }),
  )
}

function isProblem({ headers, text }: Told): boolean {
  const { code } = JSON.parse(text) as { code: string }
  return headers['content-type'] === 'application/problem+json' && Object.hasOwn(ERRORS, code)
}

async function calls(server: Guarded, judge: Judge, dice: Dice, count: number): Promise<void> {
  const paths = TEMPLATES.map(({ path }) => Buffer.from(path))
  await many(count, async () => {
    const template = TEMPLATES[dice(TEMPLATES.length)]!
    const { method, type, accept } = template
    const path = dice(3) ? template.path : `/${printable(mutate(dice, paths)).slice(1)}`
    const body = bodyOf(dice, template)
    const headers = {
      ...server.headers(dice(10) ? 'admin' : 'granted'),
      ...(type && { 'content-type': type }),
      ...(accept && { accept }),
      ...(dice(8) === 0 && {
        'idempotency-key': printable(mutate(dice, paths))
          .slice(0, 200)
          .replaceAll(/[^\x20-\x7e]/g, ''),
      }),
    }
    const told = await ask(server.port, { method, path, headers, body })
    judge.count('call', told !== undefined && told.status < 300)
    if (told && told.status >= 400 && ((told.status >= 500 && told.status !== 501) || !isProblem(told)))
      judge.fault(
        'call',
        `${method} ${path} ${type}: ${told.status} ${told.text} for ${shown(body ?? Buffer.alloc(0))}`,
      )
  })
}

/** What comes on a bare connection until it ends, or until nothing is to come. */
async function exchange(port: number, bytes: Buffer, isEnough: (received: Buffer) => boolean): Promise<Buffer> {
  const socket = connect(port, '127.0.0.1')
  const chunks: Buffer[] = []
  socket.on('error', () => {})
  const over = once(socket, 'close')
  socket.on('data', (chunk) => {
    chunks.push(chunk)
    if (isEnough(Buffer.concat(chunks))) socket.destroy()
  })
  socket.write(bytes)
  // What is not whole is waited for by the server; we do not wait for what it says of that.
  socket.end()
  await over
  return Buffer.concat(chunks)
}

/** Heads that no HTTP client would send. */
async function heads(server: Guarded, judge: Judge, dice: Dice, count: number): Promise<void> {
  const auth = `Authorization: Bearer ${server.credentials.admin}\r\n`
  const host = 'Host: 127.0.0.1\r\n'
  const corpus = [
    `GET /v1/channels?limit=3 HTTP/1.1\r\n${host}${auth}Accept: application/json;q=0.5, */*\r\n\r\n`,
    `POST /v1/poll HTTP/1.1\r\n${host}${auth}Content-Type: application/json; charset=utf-8\r\nContent-Length: 15\r\n\r\n{"channels":{}}`,
    `POST ${ORDERS}/events HTTP/1.1\r\n${host}${auth}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\nA\r\n{"data":1}\r\n0\r\nX: y\r\n\r\n`,
    `GET ${ORDERS}/events HTTP/1.1\r\n${host}Cookie: tidemark=${'a'.repeat(43)}; tidemark=b\r\nOrigin: http://127.0.0.1\r\nSec-Fetch-Site: same-origin\r\nLast-Event-ID: x1:7\r\nIf-None-Match: "x"\r\n\r\n`,
    `GET /v1/stream HTTP/1.1\r\n${host}${auth}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: tidemark.v1.json, x\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n`,
  ].map((text) => Buffer.from(text))
  await many(count, async () => {
    const bytes = mutate(dice, corpus)
    const received = await exchange(server.port, bytes, () => false)
    const text = received.toString('latin1')
    judge.count('head', /^HTTP\/1\.1 [12]/.test(text))
    if (text !== '' && (!/^HTTP\/1\.1 [1-4]/.test(text) || /\r?\nHTTP\/1\.1 5|"internal"/.test(text)))
      judge.fault('head', `${text.slice(0, 300)} for ${shown(bytes)}`)
  })
}

const MESSAGES = [
  { op: 'subscribe', ref: 'r', channel: 'orders/1', after: 0, epoch: 'x1' },
  { op: 'subscribe', channel: 'in', cursor: true },
  { op: 'unsubscribe', channel: 'in', ref: 3 },
  { op: 'commit', ref: 4, channel: 'in', seq: 1 },
  { op: 'append', ref: 5, channel: 'in', events: EVENTS, idempotencyKey: 'k-1' },
  { op: 'refresh', token: 'a.b.c' },
  { op: 'ping', ref: 6 },
]

/** Frames of a conversation, some of them not what they should be; the last one asks to close. */
function frames(dice: Dice, binary: boolean): Buffer {
  const write = (message: unknown): Buffer => (binary ? packr.pack(message ?? null) : json(message))
  const corpus = MESSAGES.map(write)
  const whole = Array.from({ length: 1 + dice(5) }, () => {
    const message = MESSAGES[dice(MESSAGES.length)]!
    const payload = dice(3) ? write(dice(2) ? bent(dice, message) : message) : mutate(dice, corpus)
    const cut = dice(5) === 0 ? dice(payload.length + 1) : payload.length
    const opcode = dice(12) ? (binary ? 2 : 1) : dice(16)
    const parts = [clientFrame(payload.subarray(0, cut), { opcode, fin: cut === payload.length })]
    if (cut < payload.length) {
      if (dice(3) === 0) parts.push(clientFrame('p', { opcode: 9 }))
      parts.push(clientFrame(payload.subarray(cut), { opcode: dice(10) ? 0 : opcode }))
    }
    return Buffer.concat(parts)
  })
  const bytes = dice(2) ? mutate(dice, whole) : Buffer.concat(whole)
  return Buffer.concat([bytes, clientFrame(Buffer.from([3, 232]), { opcode: 8 })])
}

/** What is wrong with the frames that a server sent; what it closed with, if it did. */
function wrongOf(bytes: Buffer, binary: boolean): string | undefined {
  let wrong: string | undefined
  const receiver = new Receiver({ isServer: false, maxPayload: 2 ** 24, skipUTF8Validation: false })
  receiver.on('message', (data: Buffer, isBinary: boolean) => {
    const message = (isBinary ? packr.unpack(data) : JSON.parse(data.toString())) as { op: string; code?: string }
    if (isBinary !== binary || typeof message.op !== 'string' || message.code === 'internal')
      wrong = JSON.stringify(message)
  })
  receiver.on('conclude', (code: number) => {
    if (code === 1011) wrong = 'closed 1011'
  })
  receiver.on('error', (error: Error) => {
    wrong = error.message
  })
  receiver.write(bytes)
  return wrong
}

async function sockets(server: Guarded, judge: Judge, dice: Dice, count: number): Promise<void> {
  await many(count, async (i) => {
    const binary = i % 2 === 1
    const kind = binary ? 'MessagePack socket' : 'JSON socket'
    const hello = { op: 'hello', client: 'web-1', ...(dice(10) ? {} : { token: 'a.b.c' }) }
    const head = `GET /v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer ${server.credentials.granted}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: tidemark.v1.${binary ? 'msgpack' : 'json'}\r\n\r\n`
    const sent = Buffer.concat([
      clientFrame(binary ? packr.pack(hello) : json(hello), { opcode: binary ? 2 : 1 }),
      frames(dice, binary),
    ])
    const received = await exchange(server.port, Buffer.concat([Buffer.from(head), sent]), () => false)
    // A connection that is closed with bytes on it that nobody reads is reset: what was answered may be lost on the way.
    if (received.length === 0) return judge.count(kind, false)
    const start = received.indexOf('\r\n\r\n') + 4
    const isUpgraded = received.subarray(0, 12).toString() === 'HTTP/1.1 101'
    const wrong = isUpgraded ? wrongOf(received.subarray(start), binary) : received.toString('latin1')
    judge.count(kind, received.length > start)
    if (wrong !== undefined) judge.fault(kind, `${wrong} for ${shown(sent)}`)
  })
}

test(
  'a server answers rubbish with codes, keeps nothing of it, and goes on serving',
  async () => {
    onTestFinished(() => agent.destroy())
    const server = await startGuarded({ log: await tempLog({ tailBytes: TAIL_BYTES }), requestTimeout: 5_000 })
    const judge = new Judge()
    const lives = async () => {
      expect((await call(`${server.url}/livez`)).status).toBe(200)
      const appended = await call(`${server.url}/v1/channels/in/events`, 'POST', { data: 1 }, server.headers('publish'))
      expect(appended.status).toBe(201)
    }
    let before = 0
    for (const [round, share] of [
      [0, 0.1],
      [1, 1],
    ] as const) {
      if (round === 1) before = held()
      const dice = newDice(`server ${round}`)
      const count = Math.ceil(CALLS * share)
      await calls(server, judge, dice, count * 2)
      await heads(server, judge, dice, count)
      await sockets(server, judge, dice, count)
      await lives()
    }
    // Appends and cursors stay, on disk and as channels; what stays of the rest is what is measured.
    const grown = held() - before
    judge.report(grown)
    judge.verdict()
    expect(grown).toBeLessThan(GROWTH_BYTES_MAX)
    // Of a few changed heads it may be that none is good.
    for (const kind of ['call', ...(isLong ? ['head'] : []), 'JSON socket', 'MessagePack socket'])
      expect(judge.taken(kind), kind).toBeGreaterThan(0)
  },
  isLong ? 1_200_000 : 60_000,
)
