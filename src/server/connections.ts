/** The open connections of a server, from `listen` until the last one is gone. */
import { once } from 'node:events'
import type { Server } from 'node:http'
import { type Socket, Server as TcpServer } from 'node:net'
import { TidemarkError } from '../errors.ts'
import { isLoopback } from './access.ts'
import { STOP_IDLE_MS, STOP_MS } from './limits.ts'

export class Connections {
  readonly #server: Server
  readonly #open = new Set<Socket>()

  constructor(server: Server) {
    this.#server = server
    server.on('connection', (socket: Socket) => {
      this.#open.add(socket)
      socket.once('close', () => this.#open.delete(socket))
    })
  }

  /**
   * Listens on a loopback address. @returns the address as it came to be
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
    if (!isLoopback(at.address)) {
      this.#server.close()
      throw openWithoutKeys(host)
    }
    return { url: `http://${at.family === 'IPv6' ? `[${at.address}]` : at.address}:${at.port}`, port: at.port }
  }

  /**
   * Stops accepting and waits until every connection is gone: those without a call under way are closed as soon as
   * nothing comes on them, the others after their answer, and at STOP_MS whatever is left is cut.
   * @param busy tells whether a call or a socket is under way on a connection
   * @returns how many were cut
   */
  async drain(busy: (socket: Socket) => boolean): Promise<number> {
    const closed = once(this.#server, 'close')
    // Not http's own close, which cuts idle connections at once: a request may be on its way on one of them, and is
    // still answered, with `Connection: close`.
    TcpServer.prototype.close.call(this.#server)
    const started = performance.now()
    const received = new Map<Socket, number>()
    let cut = 0
    const sweep = setInterval(() => {
      const late = performance.now() - started >= STOP_MS
      for (const socket of this.#open) {
        const { bytesRead } = socket
        if (late) cut++
        else if (busy(socket) || received.get(socket) !== bytesRead) {
          received.set(socket, bytesRead)
          continue
        }
        socket.destroy()
      }
    }, STOP_IDLE_MS)
    await closed
    clearInterval(sweep)
    // What http's own close does beside: it ends the server's clocks.
    this.#server.close()
    return cut
  }
}

export const openWithoutKeys = (host: string): TidemarkError =>
  new TidemarkError(
    'wrong-config',
    `Without keys everybody who reaches the server is admin: it listens on loopback only, not on ${host}`,
  )
