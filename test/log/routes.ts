/** What lies between the servers of a cluster, of which one can be cut off, as by a network that drops what is sent. */
import { connect, createServer, type Server, type Socket } from 'node:net'

/** By this a server that dials another one says who it is. */
const NAME = /"server_name":"([^"]+)"/

interface Route {
  readonly to: string
  from: string | undefined
  readonly sockets: readonly Socket[]
  /** What came when nothing passed any more. */
  held: Buffer | undefined
}

export class Routes {
  readonly #servers: Server[] = []
  readonly #routes = new Set<Route>()
  #cutOff: string | undefined

  /** A way to the server that listens at a port; resolves with the port at which the others find it. */
  async to(name: string, port: number): Promise<number> {
    const server = createServer((dialer) => this.#join(dialer, name, port))
    this.#servers.push(server)
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    return (server.address() as { port: number }).port
  }

  /** Nothing passes to this server or from it, and no connection breaks. */
  cutOff(name: string): void {
    this.#cutOff = name
    for (const route of this.#routes) if (this.#isCut(route)) for (const socket of route.sockets) socket.pause()
  }

  /** All passes again, also what was sent meanwhile. */
  heal(): void {
    this.#cutOff = undefined
    for (const { sockets, held } of this.#routes) {
      if (held) sockets[1]!.write(held)
      for (const socket of sockets) socket.resume()
    }
  }

  end(): void {
    for (const server of this.#servers) server.close()
    for (const { sockets } of this.#routes) for (const socket of sockets) socket.destroy()
  }

  #isCut({ to, from }: Route): boolean {
    return this.#cutOff !== undefined && (to === this.#cutOff || from === this.#cutOff)
  }

  #join(dialer: Socket, to: string, port: number): void {
    const server = connect(port, '127.0.0.1')
    const route: Route = { to, from: undefined, sockets: [dialer, server], held: undefined }
    this.#routes.add(route)
    const over = (): void => {
      this.#routes.delete(route)
      for (const socket of route.sockets) socket.destroy()
    }
    for (const socket of route.sockets) socket.on('error', over).on('close', over)
    server.on('data', (bytes) => dialer.write(bytes))
    dialer.on('data', (bytes) => {
      route.from ??= NAME.exec(bytes.toString('latin1'))?.[1]
      if (!this.#isCut(route)) return void server.write(bytes)
      route.held = bytes
      for (const socket of route.sockets) socket.pause()
    })
    if (this.#isCut(route)) for (const socket of route.sockets) socket.pause()
  }
}
