/** A line between client and server that a test can cut, slow no one down, and lead to another server. */
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { onTestFinished } from 'vitest'

export class Cable {
  url = ''
  /** Port of the server behind; connections fail while it is 0. */
  target: number
  /** Told about each piece from the server; true cuts the connection there, the piece undelivered. */
  cuts: (piece: Buffer) => boolean = () => false
  readonly #open = new Set<Socket>()

  private constructor(target: number) {
    this.target = target
  }

  static async start(target: number): Promise<Cable> {
    const cable = new Cable(target)
    const server = createServer((client) => cable.#accept(client))
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    cable.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    onTestFinished(() => {
      server.close()
      cable.cut()
    })
    return cable
  }

  /** Connections from clients that are open now. */
  get connections(): number {
    return this.#open.size / 2
  }

  /** Cuts every connection, as a line that broke; tells how many there were. */
  cut(): number {
    const { connections } = this
    for (const socket of this.#open) socket.resetAndDestroy()
    return connections
  }

  #accept(client: Socket): void {
    if (this.target === 0) return void client.resetAndDestroy()
    const server = connect(this.target, '127.0.0.1')
    const both = [client, server]
    for (const socket of both) {
      this.#open.add(socket)
      socket.setNoDelay(true).on('error', () => {})
      socket.on('close', () => {
        this.#open.delete(socket)
        for (const other of both) other.destroy()
      })
    }
    client.on('data', (piece) => server.write(piece))
    server.on('data', (piece: Buffer) => {
      if (this.cuts(piece)) for (const socket of both) socket.resetAndDestroy()
      else if (!client.write(piece)) {
        server.pause()
        client.once('drain', () => server.resume())
      }
    })
  }
}
