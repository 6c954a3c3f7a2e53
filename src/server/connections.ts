/** The open connections of a server, from `listen` until the last one is gone. */
import { once } from 'node:events'
import type { Server } from 'node:http'
import { type Socket, Server as TcpServer } from 'node:net'
import { ANSWER_MS, CHECK_MS, STOP_IDLE_MS, STOP_MS } from '../doors/limits.ts'
import { isLoopback } from '../doors/peers.ts'
import { TidemarkError } from '../errors.ts'
import { openWithoutKeys } from './options.ts'

export interface ConnectionsOptions {
  /** Whether a call is under way on a connection, its answer not wholly taken, or it became a socket. */
  readonly busy: (socket: Socket) => boolean
  /** Whether it became a socket, which minds its own pace. */
  readonly upgraded: (socket: Socket) => boolean
  /** Most bytes of answers that were made and not taken, of all connections. */
  readonly unsentBytes: number
  /** Told of a connection whose caller did not take its answer. */
  readonly onStalled: () => void
  /** The server speaks TLS. */
  readonly isSecure: boolean
  /** Whether it may listen beyond loopback: asked when it listens. */
  readonly mayBePublic: () => boolean
}

export class Connections {
  readonly #server: Server
  readonly #options: ConnectionsOptions
  /** With when each was opened, ms since 1970. */
  readonly #open = new Map<Socket, number>()
  /** Connections without TLS as yet, by their other end. */
  readonly #shaking = new Map<string, Socket>()
  /** Connections with something not taken: how much was, and since when that has not changed. Longest stalled first. */
  readonly #stalled = new Map<Socket, { readonly taken: number; readonly since: number }>()
  readonly #sweeper: NodeJS.Timeout

  constructor(server: Server, options: ConnectionsOptions) {
    this.#server = server
    this.#options = options
    if (options.isSecure) {
      server.on('connection', (socket: Socket) => this.#greeted(socket))
      server.on('secureConnection', (socket: Socket) => {
        this.#shaking.delete(endOf(socket))
        this.#opened(socket)
      })
    } else server.on('connection', (socket: Socket) => this.#opened(socket))
    this.#sweeper = setInterval(() => this.#cutStalled(), CHECK_MS).unref()
  }

  #opened(socket: Socket): void {
    // One that offered another protocol is told of again.
    if (this.#open.has(socket)) return
    this.#open.set(socket, Date.now())
    socket.once('close', () => {
      this.#open.delete(socket)
      this.#stalled.delete(socket)
    })
  }

  /** What begins TLS on it is another socket to Node, of the same two ends. */
  #greeted(socket: Socket): void {
    const end = endOf(socket)
    this.#shaking.set(end, socket)
    socket.once('close', () => {
      if (this.#shaking.get(end) === socket) this.#shaking.delete(end)
    })
  }

  get count(): number {
    return this.#open.size + this.#shaking.size
  }

  /** Those with most that is not taken first, then the oldest; and when each was opened, ms since 1970. */
  list(limit: number): [socket: Socket, since: number][] {
    const waiting = [...this.#open].filter(([socket]) => socket.writableLength > 0)
    const listed = waiting.sort(([a], [b]) => b.writableLength - a.writableLength).slice(0, limit)
    for (const entry of this.#open) {
      if (listed.length === limit) break
      if (entry[0].writableLength === 0) listed.push(entry)
    }
    return listed
  }

  /** Who does not take an answer holds its memory: for so long, and no more than all may hold together. */
  #cutStalled(): void {
    const now = performance.now()
    let unsent = 0
    for (const socket of this.#open.keys()) {
      const { writableLength } = socket
      if (writableLength === 0 || this.#options.upgraded(socket)) {
        this.#stalled.delete(socket)
        continue
      }
      unsent += writableLength
      const taken = socket.bytesWritten - writableLength
      if (this.#stalled.get(socket)?.taken === taken) continue
      this.#stalled.delete(socket)
      this.#stalled.set(socket, { taken, since: now })
    }
    for (const [socket, { since }] of this.#stalled) {
      if (now - since < ANSWER_MS && unsent <= this.#options.unsentBytes) return
      unsent -= socket.writableLength
      this.#options.onStalled()
      socket.destroy()
    }
  }

  /**
   * @returns the address as it came to be
   * @throws unavailable (the port is taken), wrong-config (no such address, not permitted, not loopback after all)
   */
  async listen(host: string, port: number): Promise<{ url: string; port: number }> {
    const listening = once(this.#server, 'listening')
    this.#server.listen(port, host)
    try {
      await listening
    } catch (cause) {
      const taken = (cause as NodeJS.ErrnoException).code === 'EADDRINUSE'
      const why = taken ? 'is taken by another program' : 'can not be listened on'
      throw new TidemarkError(taken ? 'unavailable' : 'wrong-config', `${host}:${port} ${why}`, {}, { cause })
    }
    const at = this.#server.address()
    if (at === null || typeof at === 'string') throw new TidemarkError('internal', 'The server has no address')
    if (!isLoopback(at.address) && !this.#options.mayBePublic()) {
      this.#server.close()
      throw openWithoutKeys(host)
    }
    const scheme = this.#options.isSecure ? 'https' : 'http'
    return { url: `${scheme}://${at.family === 'IPv6' ? `[${at.address}]` : at.address}:${at.port}`, port: at.port }
  }

  /**
   * Stops accepting and waits until every connection is gone: those without a call under way are closed as soon as
   * nothing comes on them, the others after their answer, and at STOP_MS whatever is left is cut.
   * @returns how many were cut
   */
  async drain(): Promise<number> {
    const closed = once(this.#server, 'close')
    // Not http's own close, which cuts idle connections at once: a request may be on its way on one of them, and is
    // still answered, with `Connection: close`.
    TcpServer.prototype.close.call(this.#server)
    const started = performance.now()
    const received = new Map<Socket, number>()
    let cut = 0
    const sweep = setInterval(() => {
      const late = performance.now() - started >= STOP_MS
      for (const socket of this.#shaking.values()) socket.destroy()
      for (const socket of this.#open.keys()) {
        const { bytesRead } = socket
        if (late) cut++
        else if (this.#options.busy(socket) || received.get(socket) !== bytesRead) {
          received.set(socket, bytesRead)
          continue
        }
        socket.destroy()
      }
    }, STOP_IDLE_MS)
    await closed
    clearInterval(sweep)
    this.close()
    // What http's own close does beside: it ends the server's clocks.
    this.#server.close()
    return cut
  }

  /** Frees what is held beside the connections, for a server that never came to listen. */
  close(): void {
    clearInterval(this.#sweeper)
  }
}

const endOf = ({ remoteAddress, remotePort }: Socket): string => `${remoteAddress} ${remotePort}`
