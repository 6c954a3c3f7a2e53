/** What lies between a program and a server that it speaks to over TCP. */
import { connect as connectTcp, createServer, type Socket } from 'node:net'
import { onTestFinished } from 'vitest'

/** A line to the server that can be cut in the middle of what it says, or made silent. */
export class Line {
  readonly #sockets = new Set<Socket>()
  readonly #server = createServer((client) => this.#join(client))
  /** Bytes from the server that still pass, of those who are connected now. */
  passes = Number.POSITIVE_INFINITY
  /** What happens beyond them: the connection breaks, or nothing more is heard. */
  ends: 'broken' | 'silent' = 'broken'
  /** Where those are led who connect from now on. */
  to: string

  constructor(to: string) {
    this.to = to
  }

  /** Connections that are open now. */
  get connections(): number {
    return this.#sockets.size / 2
  }

  async open(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve))
    onTestFinished(() => {
      this.#server.close()
      for (const socket of this.#sockets) socket.destroy()
    })
    return `nats://127.0.0.1:${(this.#server.address() as { port: number }).port}`
  }

  /** Messages that clients sent. */
  sent = 0

  /** Nobody gets through. */
  isDown = false

  /** As if nothing had been. */
  heal(): void {
    this.passes = Number.POSITIVE_INFINITY
  }

  /** Those who are connected now are cut off without a word: nothing passes, and nothing more is taken from them. */
  stand(): void {
    for (const socket of this.#sockets) socket.pause()
  }

  cut(): void {
    this.isDown = true
    for (const socket of this.#sockets) socket.destroy()
  }

  #join(client: Socket): void {
    if (this.isDown) return void client.destroy()
    const server = connectTcp(Number(new URL(this.to).port), '127.0.0.1')
    for (const socket of [client, server]) {
      this.#sockets.add(socket)
      socket.on('error', () => undefined)
      socket.on('close', () => {
        this.#sockets.delete(socket)
        client.destroy()
        server.destroy()
      })
    }
    client.on('data', (bytes) => {
      this.sent += bytes.toString('latin1').match(/(?:^|\n)H?PUB /g)?.length ?? 0
      server.write(bytes)
    })
    server.on('data', (bytes) => {
      const passing = bytes.subarray(0, Math.min(bytes.length, this.passes))
      this.passes -= passing.length
      if (passing.length > 0) client.write(passing)
      if (passing.length === bytes.length || this.ends === 'silent') return
      this.heal()
      client.end(() => client.destroy())
    })
  }
}
