/** A gateway that can be killed within this process: from one moment on neither NATS nor a caller hears of it. */
import { AsyncLocalStorage } from 'node:async_hooks'
import { subscribe } from 'node:diagnostics_channel'
import type { Socket } from 'node:net'
import { TidemarkError } from '../../src/errors.ts'
import type { Log } from '../../src/log/log.ts'

/** Whose sockets are made. */
const making = new AsyncLocalStorage<Gateway>()
subscribe('net.client.socket', (message) => making.getStore()?.made((message as { socket: Socket }).socket))

/** Those that were killed, and are not closed yet. */
const dying = new Set<Promise<void>>()

/** Resolves when nothing is left of those that were killed. */
export const buried = async (): Promise<void> => void (await Promise.all(dying))

export class Gateway {
  readonly #sockets = new Set<Socket>()
  readonly #death: Promise<never>
  #die: (error: unknown) => void = () => {}
  #log: Log | undefined
  #isDead = false

  private constructor() {
    this.#death = new Promise((_, reject) => {
      this.#die = reject
    })
    // Whoever called it is told.
    this.#death.catch(() => undefined)
  }

  static async start(open: () => Promise<Log>): Promise<Gateway> {
    const gateway = new Gateway()
    gateway.#log = await making.run(gateway, open)
    return gateway
  }

  get log(): Log {
    return this.#log!
  }

  get isDead(): boolean {
    return this.#isDead
  }

  /** What it answers as long as it lives. @throws unavailable, its outcome unknown, as it dies */
  answer<T>(ask: (log: Log) => Promise<T>): Promise<T> {
    return Promise.race([ask(this.log), this.#death])
  }

  kill(): void {
    this.#isDead = true
    for (const socket of this.#sockets) socket.destroy()
    this.#die(new TidemarkError('unavailable', 'The gateway was killed', { outcome: 'unknown' }))
    const closed = this.log.close().finally(() => dying.delete(closed))
    dying.add(closed)
  }

  made(socket: Socket): void {
    this.#sockets.add(socket)
    socket.once('close', () => this.#sockets.delete(socket))
    // What it sends would come behind its end.
    if (this.#isDead) process.nextTick(() => socket.destroy())
  }
}
