/**
 * Signs of life of those who have cursors. A commit is one by itself; who only follows, or polls at the head, has moved
 * nothing, and is told here. Now and then the times of their cursors are renewed, so that nothing has to be kept of
 * them over a restart, and a client that is there costs a write an hour at most.
 */
import { hasCode } from '../errors.ts'
import { CURSOR_RENEW_MS, type Log } from './log.ts'

/** A client in a channel. */
export type Sign = readonly [client: string, channel: string]

/** Most signs that are remembered between two renewals; who goes on polling is heard the next time. */
const SIGNS_MAX = 100_000
/** Cursors that are renewed together: they share a write. */
const TOGETHER = 100

/** No channel, no cursor; one of another or a shorter history is its client's to move; a damaged one is verify's to tell. */
const EXPECTED = ['no-channel', 'epoch-changed', 'ahead-of-head', 'data-loss'] as const

export class Signs {
  readonly #log: Log
  #seen = new Map<string, Sign>()
  readonly #present = new Set<() => Iterable<Sign>>()

  constructor(log: Log) {
    this.#log = log
  }

  /** This client is there just now. */
  saw(client: string, channel: string): void {
    // No name holds a space.
    if (this.#seen.size < SIGNS_MAX) this.#seen.set(`${client} ${channel}`, [client, channel])
  }

  /** Those that `present` gives out are there whenever it is asked, until what is returned is called. */
  add(present: () => Iterable<Sign>): () => void {
    this.#present.add(present)
    return () => this.#present.delete(present)
  }

  /** Renews the cursors of all who were there since the last time. @param rest waits between pieces of the work */
  async renew(rest: () => Promise<void>): Promise<void> {
    for (const present of this.#present) for (const [client, channel] of present()) this.saw(client, channel)
    const seen = [...this.#seen.values()]
    this.#seen = new Map()
    for (let i = 0; i < seen.length; i += TOGETHER) {
      await Promise.all(seen.slice(i, i + TOGETHER).map((sign) => this.#renew(sign)))
      await rest()
    }
  }

  async #renew([client, channel]: Sign): Promise<void> {
    try {
      const cursor = await this.#log.cursor(client, channel)
      if (cursor === undefined || Date.now() - cursor.time < CURSOR_RENEW_MS) return
      await this.#log.commit(client, channel, { seq: cursor.seq, epoch: cursor.epoch })
    } catch (error) {
      if (!EXPECTED.some((code) => hasCode(error, code))) throw error
    }
  }
}
