/**
 * A log for a reader who has nothing: its pages are those of the channel's state, then those of the log from exactly the
 * seq at which that is true. One of these belongs to one follower, which begins at 0.
 */
import { sameHistory } from '../epoch.ts'
import { hasCode, TidemarkError } from '../errors.ts'
import type { Page, Place, ReadLimits } from './log.ts'
import type { Source } from './seen.ts'
import type { StateAt, States } from './states.ts'

/** After each of these the reader begins anew. */
const OVER = ['gap', 'epoch-changed', 'ahead-of-head'] as const

export class StateFirst implements Source {
  readonly changed: Source['changed']
  readonly info: Source['info']
  readonly cursor: Source['cursor']
  readonly #log: Source
  readonly #states: States
  /** The state that is given out, or was; undefined before the first page and after a reset. */
  #state: StateAt | undefined

  constructor(log: Source, states: States) {
    this.#log = log
    this.#states = states
    this.changed = (channel, from, signal) => log.changed(channel, from, signal)
    this.info = (channel) => log.info(channel)
    this.cursor = (client, channel) => log.cursor(client, channel)
  }

  /** Makes the state of the channel, if there is one, so that the next page is near. @throws as States.open */
  async open(channel: string): Promise<void> {
    try {
      this.#state = await this.#states.open(channel)
    } catch (error) {
      // It is waited for.
      if (!hasCode(error, 'no-channel')) throw error
    }
  }

  recent(channel: string, from: Place, limits: ReadLimits): Page | undefined {
    if (this.#state === undefined || from.after < this.#state.at) return undefined
    try {
      return this.#log.recent(channel, from, limits)
    } catch (error) {
      throw this.#told(error)
    }
  }

  async read(channel: string, from: Place, limits: ReadLimits): Promise<Page> {
    try {
      this.#state ??= await this.#states.open(channel)
      const { epoch, at } = this.#state
      if (from.after >= at) return await this.#log.read(channel, from, limits)
      if (from.epoch !== undefined && !sameHistory(from.epoch, epoch)) await this.#isAnother(channel)
      return await this.#states.page(channel, this.#state, from.after, limits)
    } catch (error) {
      throw this.#told(error)
    }
  }

  /** @throws epoch-changed */
  async #isAnother(channel: string): Promise<never> {
    const { epoch, head, trimmed } = await this.#log.info(channel)
    throw new TidemarkError('epoch-changed', `The epoch of ${channel} is ${epoch}`, { channel, epoch, head, trimmed })
  }

  /** What was built is void where events are missing that may have deleted some of it: a reset tells it, never a gap. */
  #told(error: unknown): unknown {
    if (!OVER.some((code) => hasCode(error, code))) return error
    this.#state = undefined
    const { message, details } = error as TidemarkError
    return hasCode(error, 'gap') ? new TidemarkError('epoch-changed', message, details) : error
  }
}
