/**
 * Beside gateways that are troubled, NATS as its own client sees it: what a gateway's appends wait for that these do
 * not is ours.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { connect, type NatsConnection } from '@nats-io/transport-node'

/** Between two messages of a connection, ms. */
const REST_MS = 50
const ANSWER_MS = 1_000

export class Control {
  /** The longest in which no server took a message, ms. */
  longest = 0
  readonly #connections: readonly NatsConnection[]
  readonly #subject: string
  readonly #done: Promise<unknown>
  #heardAt = performance.now()
  #isOver = false

  private constructor(connections: readonly NatsConnection[], subject: string) {
    this.#connections = connections
    this.#subject = subject
    this.#done = Promise.all(connections.map((nc) => this.#publish(nc)))
  }

  /** Publishes to a stream through each of these servers. @param subject one of the stream's that nobody reads */
  static async start(urls: readonly string[], subject: string): Promise<Control> {
    const options = { maxReconnectAttempts: -1, reconnectTimeWait: 250, ignoreClusterUpdates: true }
    return new Control(await Promise.all(urls.map((url) => connect({ servers: [url], ...options }))), subject)
  }

  async end(): Promise<void> {
    this.#isOver = true
    await this.#done
    await Promise.all(this.#connections.map((nc) => nc.close()))
  }

  get told(): string {
    return `NATS itself took nothing for ${(this.longest / 1_000).toFixed(1)} s at the longest`
  }

  async #publish(nc: NatsConnection): Promise<void> {
    while (!this.#isOver) {
      const answer = await nc.request(this.#subject, 'x', { timeout: ANSWER_MS }).catch(() => undefined)
      if (answer && 'seq' in (answer.json() as object)) this.#heard()
      await delay(REST_MS)
    }
  }

  #heard(): void {
    const now = performance.now()
    this.longest = Math.max(this.longest, now - this.#heardAt)
    this.#heardAt = now
  }
}
