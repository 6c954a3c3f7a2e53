/** A server that says what a test tells it to: real sockets and real HTTP on a free port, no log behind them. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { onTestFinished, vi } from 'vitest'
import { type WebSocket, WebSocketServer } from 'ws'
import type { Tidemark, TidemarkOptions } from '../../src/client/client.ts'
import { connect } from '../../src/client/node.ts'
import type { EventJson, ServerMessage } from '../../src/wire.ts'

export interface Asked {
  readonly method: string
  readonly url: string
  readonly headers: IncomingMessage['headers']
  // biome-ignore lint/suspicious/noExplicitAny: a test knows what it asked
  readonly body: any
}

export interface Said {
  readonly status?: number
  readonly body?: unknown
  readonly headers?: Record<string, string>
}

type Respond = (asked: Asked) => Said | undefined | Promise<Said | undefined>

// biome-ignore lint/suspicious/noExplicitAny: a test knows what it waits for
type Message = Record<string, any>

/** Resolves when the condition holds; looked at again after everything that may change it. */
export class Waits {
  readonly #waiting = new Set<() => void>()

  changed(): void {
    for (const look of this.#waiting) look()
  }

  until<T>(found: () => T | undefined | false): Promise<T> {
    return new Promise((resolve) => {
      const look = () => {
        const value = found()
        if (value === undefined || value === false) return
        this.#waiting.delete(look)
        resolve(value as T)
      }
      this.#waiting.add(look)
      look()
    })
  }
}

/** The other end of one WebSocket. */
export class Peer {
  readonly socket: WebSocket
  /** Everything that came, hello first. */
  readonly received: Message[] = []
  readonly #waits = new Waits()
  readonly #taken = new Map<string, number>()
  isClosed = false

  constructor(socket: WebSocket, greets: boolean) {
    this.socket = socket
    socket.on('message', (data) => {
      const message = JSON.parse(String(data)) as Message
      this.received.push(message)
      if (message.op === 'hello' && greets) this.welcome()
      this.#waits.changed()
    })
    socket.on('close', () => {
      this.isClosed = true
      this.#waits.changed()
    })
    socket.on('error', () => {})
  }

  welcome(heartbeat = 20_000, frameBytes = 1_048_576): void {
    this.say({
      op: 'welcome',
      server: 'scripted',
      client: null,
      heartbeat,
      limits: { frameBytes, subscriptions: 100, appendEvents: 1_000 },
    })
  }

  /** The next message of this kind. */
  next(op: string): Promise<Message> {
    return this.until(() => {
      const taken = this.#taken.get(op) ?? 0
      const message = this.received.filter((received) => received.op === op)[taken]
      if (message) this.#taken.set(op, taken + 1)
      return message
    })
  }

  until<T>(found: () => T | undefined | false): Promise<T> {
    return this.#waits.until(found)
  }

  closed(): Promise<true> {
    return this.#waits.until(() => this.isClosed || undefined)
  }

  say(message: ServerMessage | Message): void {
    this.socket.send(JSON.stringify(message))
  }

  /** Answers a `subscribe` from the place that it asks for, or from `at`. */
  async accept(
    at: Partial<{ epoch: string | null; after: number; head: number; trimmed: number }> = {},
  ): Promise<Message> {
    const subscribe = await this.next('subscribe')
    this.say({
      op: 'subscribed',
      ref: subscribe.ref,
      channel: subscribe.channel,
      epoch: 'e1',
      after: typeof subscribe.after === 'number' ? subscribe.after : 0,
      trimmed: 0,
      head: 1_000,
      ...at,
    })
    return subscribe
  }

  events(
    channel: string,
    first: number,
    last: number,
    fields: Partial<{ epoch: string; after: number; last: number }> = {},
  ): void {
    this.say({ op: 'events', channel, epoch: 'e1', after: first - 1, last, events: eventsOf(first, last), ...fields })
  }

  /** As a line that broke: no goodbye. */
  cut(): void {
    this.socket.terminate()
  }
}

export const eventsOf = (first: number, last: number): EventJson[] =>
  Array.from({ length: last - first + 1 }, (_, i) => ({
    seq: first + i,
    time: '2026-11-22T18:48:00.123Z',
    data: first + i,
  }))

export class Scripted {
  url = ''
  readonly peers: Peer[] = []
  readonly asked: Asked[] = []
  /** What HTTP calls are answered with; undefined: the connection is cut. */
  respond: Respond = () => ({ status: 503, body: 'no' })
  /** How sockets are met: greeted, accepted in silence, or refused with a status. */
  meets: 'greet' | 'silence' | number = 'greet'
  readonly #waits = new Waits()
  #taken = 0

  static async start(): Promise<Scripted> {
    const scripted = new Scripted()
    const sockets = new WebSocketServer({ noServer: true })
    const server = createServer((request, response) => void scripted.#request(request, response))
    server.on('upgrade', (request, socket, head) => {
      socket.on('error', () => {})
      scripted.asked.push({ method: 'UPGRADE', url: request.url!, headers: request.headers, body: undefined })
      if (typeof scripted.meets === 'number') socket.end(`HTTP/1.1 ${scripted.meets} No\r\nConnection: close\r\n\r\n`)
      else
        sockets.handleUpgrade(request, socket, head, (accepted) => {
          scripted.peers.push(new Peer(accepted, scripted.meets === 'greet'))
          scripted.#waits.changed()
        })
      scripted.#waits.changed()
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    scripted.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    onTestFinished(() => {
      for (const peer of scripted.peers) peer.cut()
      server.closeAllConnections()
      server.close()
    })
    return scripted
  }

  async #request(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let text = ''
    request.setEncoding('utf8')
    for await (const chunk of request) text += chunk
    const asked = {
      method: request.method!,
      url: request.url!,
      headers: request.headers,
      body: text && JSON.parse(text),
    }
    this.asked.push(asked)
    this.#waits.changed()
    const said = await this.respond(asked)
    if (said === undefined) return void request.socket.destroy()
    const { status = 200, body, headers } = said
    response.writeHead(status, { 'content-type': 'application/json', ...headers })
    response.end(typeof body === 'string' ? body : JSON.stringify(body))
  }

  /** The next socket that was accepted. */
  async peer(): Promise<Peer> {
    const index = this.#taken++
    return this.#waits.until(() => this.peers[index])
  }

  /** The first call that fits, whenever it comes. */
  call(fits: (asked: Asked) => boolean): Promise<Asked> {
    return this.#waits.until(() => this.asked.find(fits))
  }

  until<T>(found: () => T | undefined | false): Promise<T> {
    return this.#waits.until(found)
  }
}

export const problem = (status: number, code: string, details: object = {}): Said => ({
  status,
  body: { type: `/errors#${code}`, title: code, status, code, detail: 'as the test says', ...details },
  headers: { 'content-type': 'application/problem+json' },
})

/** The machine's clock is set back by an hour, as a time server may do it; what has passed since the start goes on. */
export function setClockBack(): void {
  const now = Date.now.bind(Date)
  const spy = vi.spyOn(Date, 'now').mockImplementation(() => now() - 3_600_000)
  onTestFinished(() => spy.mockRestore())
}

/** A client of it, closed when the test ends. */
export function clientOf(server: Scripted, options: TidemarkOptions = {}): Tidemark {
  const tidemark = connect(server.url, options)
  onTestFinished(() => tidemark.close())
  return tidemark
}

/** The seqs of the next events of a loop. */
export async function seqs(loop: AsyncIterator<{ seq: number }>, count: number): Promise<number[]> {
  const found: number[] = []
  while (found.length < count) found.push((await loop.next()).value!.seq)
  return found
}
