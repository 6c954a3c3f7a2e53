/** Parts for tests of the streamer: a real log and socket door on 127.0.0.1, and a peer that speaks both subprotocols. */
import { createServer } from 'node:http'
import { type AddressInfo, connect, type Socket } from 'node:net'
import { Packr, unpack } from 'msgpackr'
import { pino } from 'pino'
import { onTestFinished } from 'vitest'
import { type ClientOptions, WebSocket } from 'ws'
import { Keyring } from '../../src/access/keyring.ts'
import { decodeBlock, splitBlocks } from '../../src/block.ts'
import { Audit } from '../../src/doors/audit.ts'
import { Census } from '../../src/doors/census.ts'
import { Counts } from '../../src/doors/counts.ts'
import type { Doors } from '../../src/doors/doors.ts'
import { Guard } from '../../src/doors/guard.ts'
import { Pages } from '../../src/doors/pages.ts'
import { LogSwitch } from '../../src/doors/switch.ts'
import { Waits } from '../../src/doors/waits.ts'
import { toTidemarkError } from '../../src/errors.ts'
import { limitsOf } from '../../src/limits.ts'
import { Keeper } from '../../src/log/keeper.ts'
import type { Log } from '../../src/log/log.ts'
import type { LogOptions } from '../../src/log/open.ts'
import { States } from '../../src/log/states.ts'
import { Streamer, type StreamerOptions } from '../../src/streamer/streamer.ts'
import { SUBPROTOCOL } from '../../src/wire.ts'
import { tempLog } from '../parts.ts'

export type Subprotocol = keyof typeof SUBPROTOCOL
export const SUBPROTOCOLS: readonly Subprotocol[] = ['json', 'msgpack']

export interface Stream {
  readonly log: Log
  readonly url: string
  readonly port: number
  readonly streamer: Streamer
  readonly doors: Doors
  /** Codes that were told to clients. */
  readonly failures: string[]
  peer(subprotocol?: Subprotocol, options?: ClientOptions): Promise<Peer>
  /** A peer that has said hello. */
  client(subprotocol?: Subprotocol, name?: string): Promise<Peer>
}

/** A streamer over a fresh log, or over the one that is given; everything is closed when the test ends. */
export async function startStream(
  options: StreamerOptions & { log?: Partial<LogOptions>; over?: Log } = {},
): Promise<Stream> {
  const log = options.over ?? (await tempLog(options.log))
  const logger = pino({ level: 'silent' })
  const streamerSwitch = await LogSwitch.open(log, logger)
  const metrics = new Counts()
  const failures: string[] = []
  const stopping = new AbortController().signal
  const keyring = Keyring.none()
  const doors: Doors = {
    guard: new Guard(),
    census: new Census(log, limitsOf(), logger),
    audit: new Audit({ log, logger, isOn: () => false, started: () => ({}) }),
    log,
    keeper: new Keeper(log),
    states: new States(log),
    keyring,
    logger,
    metrics,
    switch: streamerSwitch,
    waits: new Waits(log, streamerSwitch, keyring, stopping),
    pages: new Pages(),
    stopping,
    settings: {
      server: 'tidemark/test',
      path: '/v1',
      retryWindow: 400,
      createChannels: true,
      heartbeat: 25_000,
      limits: limitsOf(),
    },
    failed(door, error) {
      const { code } = toTidemarkError(error)
      failures.push(code)
      metrics.failed(door, code)
    },
  }
  const streamer = new Streamer(doors, options)
  const server = createServer()
  server.on('upgrade', (req, socket, head) =>
    streamer.upgrade(req, socket, head, { who: keyring.anybody, address: '127.0.0.1' }),
  )
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  const url = `ws://127.0.0.1:${port}/v1/stream`
  onTestFinished(async () => {
    await streamer.close()
    await streamerSwitch.close()
    server.close()
  })
  const peer = (subprotocol: Subprotocol = 'json', more: ClientOptions = {}) => Peer.open(url, subprotocol, more)
  const client = async (subprotocol: Subprotocol = 'json', name?: string): Promise<Peer> => {
    const opened = await peer(subprotocol)
    opened.send({ op: 'hello', ...(name === undefined ? {} : { client: name }) })
    await opened.next('welcome')
    return opened
  }
  return { log, url, port, streamer, doors, failures, peer, client }
}

// biome-ignore lint/suspicious/noExplicitAny: messages are looked at field by field
export type Message = any

const packr = new Packr({ useRecords: false })

/** A client that does nothing by itself but answer PINGs. */
export class Peer {
  readonly ws: WebSocket
  readonly subprotocol: Subprotocol
  /** What came and was not asked for yet. */
  readonly inbox: Message[] = []
  pings = 0
  readonly closed: Promise<{ code: number; reason: string }>
  #wake: (() => void) | undefined
  #closing: { code: number; reason: string } | undefined

  private constructor(ws: WebSocket, subprotocol: Subprotocol) {
    this.ws = ws
    this.subprotocol = subprotocol
    ws.on('message', (data: Buffer, binary) => {
      if (binary !== (subprotocol === 'msgpack')) throw new Error('a frame of the wrong kind')
      this.inbox.push(binary ? withEvents(unpack(data)) : JSON.parse(data.toString()))
      this.#wake?.()
    })
    ws.on('ping', () => this.pings++)
    ws.on('error', () => {})
    this.closed = new Promise((resolve) => {
      ws.on('close', (code, reason) => {
        this.#closing = { code, reason: reason.toString() }
        resolve(this.#closing)
        this.#wake?.()
      })
    })
  }

  static async open(url: string, subprotocol: Subprotocol, options: ClientOptions): Promise<Peer> {
    const ws = new WebSocket(url, SUBPROTOCOL[subprotocol], { perMessageDeflate: false, ...options })
    const peer = new Peer(ws, subprotocol)
    onTestFinished(() => ws.terminate())
    await new Promise<void>((resolve, reject) => {
      ws.once('open', resolve)
      ws.once('error', reject)
    })
    return peer
  }

  send(...messages: Message[]): void {
    for (const message of messages)
      this.ws.send(this.subprotocol === 'msgpack' ? packr.pack(message) : JSON.stringify(message))
  }

  /** The next message, which is one of these ops if any are named. */
  async next(...ops: string[]): Promise<Message> {
    while (this.inbox.length === 0) await this.#news()
    const message = this.inbox.shift()
    if (ops.length > 0 && !ops.includes(message.op))
      throw new Error(`${ops.join(' or ')} was expected, not ${JSON.stringify(message)}`)
    return message
  }

  /** Passes over messages up to the first for which this holds, and returns that. */
  async until(holds: (message: Message) => boolean): Promise<Message> {
    for (;;) {
      const message = await this.next()
      if (holds(message)) return message
    }
  }

  untilOp = (op: string): Promise<Message> => this.until((message) => message.op === op)

  answer = (ref: number | string): Promise<Message> => this.until((message) => message.ref === ref)

  /** Events of a channel up to and with `last`; checks that the frames chain from `after`. */
  async events(channel: string, after: number, last: number): Promise<Message[]> {
    const events: Message[] = []
    for (let position = after; position < last; ) {
      const frame = await this.until(
        (message) => message.channel === channel && message.op !== 'caughtup' && message.op !== 'subscribed',
      )
      if (frame.op !== 'events' || frame.after !== position)
        throw new Error(`events after ${position} were expected, not ${JSON.stringify({ ...frame, events: [] })}`)
      events.push(...frame.events)
      position = frame.last
    }
    return events
  }

  /** Resolves when something came or the socket closed; rejects when it was closed before. */
  async #news(): Promise<void> {
    if (this.#closing) throw new Error(`the socket is closed: ${JSON.stringify(this.#closing)}`)
    await new Promise<void>((resolve) => {
      this.#wake = resolve
    })
    this.#wake = undefined
  }
}

/** A MessagePack frame with its blocks decoded, as the JSON frame would be. */
function withEvents(message: Message): Message {
  if (!(message.blocks instanceof Uint8Array)) return message
  const { blocks, ...rest } = message
  const events = splitBlocks(blocks).flatMap((block) => decodeBlock(block, message.after, message.last))
  return {
    ...rest,
    events: events.map(({ seq, time, type, key, id, data }) => ({
      seq,
      time: new Date(time).toISOString(),
      ...(type === null ? {} : { type }),
      ...(key === null ? {} : { key }),
      ...(id === null ? {} : { id }),
      ...(data === null ? {} : { data: JSON.parse(Buffer.from(data).toString()) }),
    })),
  }
}

/** Waits until it holds, looking again at each turn of the event loop. */
export async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await holds())) await new Promise((resolve) => setTimeout(resolve, 5))
}

export const seqs = (events: readonly { seq: number }[]): number[] => events.map(({ seq }) => seq)

/** A bare connection after its handshake, which reads only when it is told to. */
export async function rawSocket(port: number, subprotocol: Subprotocol = 'json'): Promise<Socket> {
  const socket = connect(port, '127.0.0.1')
  onTestFinished(() => {
    socket.destroy()
  })
  socket.on('error', () => {})
  socket.write(
    [
      'GET /v1/stream HTTP/1.1',
      `Host: 127.0.0.1:${port}`,
      'Connection: Upgrade',
      'Upgrade: websocket',
      'Sec-WebSocket-Version: 13',
      'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==',
      `Sec-WebSocket-Protocol: ${SUBPROTOCOL[subprotocol]}`,
      '\r\n',
    ].join('\r\n'),
  )
  for (let head = ''; !head.endsWith('\r\n\r\n'); ) {
    await new Promise((resolve) => socket.once('readable', resolve))
    head += socket.read() ?? ''
  }
  return socket
}

/** The code of the close frame that ends what the server sends; undefined when it just ends. */
export async function closeCode(socket: Socket): Promise<number | undefined> {
  const chunks: Buffer[] = []
  socket.on('data', (chunk) => chunks.push(chunk))
  await new Promise((resolve) => {
    socket.once('end', resolve)
    socket.once('close', resolve)
  })
  const bytes = Buffer.concat(chunks)
  const at = bytes.lastIndexOf(0x88)
  return at < 0 ? undefined : bytes.readUInt16BE(at + 2)
}
