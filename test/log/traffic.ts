/** Appends to one channel through several gateways without a pause, each sent until it is answered, and a reader. */
import { setTimeout as delay } from 'node:timers/promises'
import { expect, vi } from 'vitest'
import { hasCode } from '../../src/errors.ts'
import type { Appended, Log } from '../../src/log/log.ts'
import { ALL, append, eventsOf, readAll, valueIn } from './reading.ts'

const CHANNEL = 'c'
/** Of each gateway. */
const PRODUCERS = ['1', '2']
/** Between two tries of one append, ms. */
const AGAIN_MS = 50
/** What goes on does so within this, ms. */
const GOES_ON_MS = 120_000
/** So many appends more are to be answered. */
const MORE = 20

export class Traffic {
  readonly acked = new Map<string, Appended>()
  /** Tries that were refused, by what was said of their outcome. */
  readonly refused: Record<string, number> = {}
  /** By gateway: the longest that an append took with all its tries, ms. */
  readonly longest: number[]
  readonly #logs: readonly Log[]
  readonly #answered: number[]
  readonly #producing: Promise<unknown>
  readonly #gone = new AbortController()
  readonly #seen: unknown[] = []
  readonly #reading: Promise<void>
  #isOver = false

  /** @param logs gateways of one log; it is read through the first */
  constructor(logs: readonly Log[]) {
    this.#logs = logs
    this.longest = logs.map(() => 0)
    this.#answered = logs.map(() => 0)
    this.#producing = Promise.all(logs.flatMap((_, i) => PRODUCERS.map((name) => this.#produce(i, `${i}.${name}`))))
    this.#reading = this.#read(logs[0]!)
    // Awaited in the end.
    for (const work of [this.#producing, this.#reading]) work.catch(() => undefined)
  }

  async #produce(which: number, producer: string): Promise<void> {
    for (let n = 1; !this.#isOver; n++) {
      const value = `${producer}/${n}`
      const started = performance.now()
      while (!this.acked.has(value)) {
        const outcome = await append(this.#logs[which]!, CHANNEL, [value], { idempotencyKey: value }).catch(
          (error) => error,
        )
        if (outcome.code === undefined) this.acked.set(value, outcome)
        else {
          expect(outcome.code).toBe('unavailable')
          expect(outcome.details.retryAfter).toBeGreaterThan(0)
          const kind = outcome.details.outcome ?? 'refused'
          this.refused[kind] = (this.refused[kind] ?? 0) + 1
          await delay(AGAIN_MS)
        }
      }
      this.#answered[which]!++
      this.longest[which] = Math.max(this.longest[which]!, performance.now() - started)
    }
  }

  /** As every door does: whatever is answered but `unavailable` would be told to a client. */
  async #read(log: Log): Promise<void> {
    for (let place: { epoch?: string; after: number } = { after: 0 }; !this.#gone.signal.aborted; ) {
      try {
        await log.changed(CHANNEL, place, this.#gone.signal)
        const page = await log.read(CHANNEL, place, ALL)
        this.#seen.push(...eventsOf(page).map(valueIn))
        place = { epoch: page.epoch, after: page.last }
      } catch (error) {
        if (this.#gone.signal.aborted) return
        // Its first append is still to come.
        if (!hasCode(error, 'unavailable') && !(place.after === 0 && hasCode(error, 'no-channel'))) throw error
        await delay(AGAIN_MS)
      }
    }
  }

  /** Resolves when more was answered through these gateways. */
  async goesOn(which: readonly number[] = this.#logs.map((_, i) => i)): Promise<void> {
    const before = [...this.#answered]
    const more = (): void => {
      for (const i of which) expect(this.#answered[i]! - before[i]!).toBeGreaterThan(MORE)
    }
    await Promise.race([vi.waitFor(more, { timeout: GOES_ON_MS }), this.#producing, this.#reading])
  }

  /** Ends it. Fails unless what was answered is there, once and in order, and the reader saw it so. */
  async end(): Promise<void> {
    this.#isOver = true
    await this.#producing
    const values = (await readAll(this.#logs[0]!, CHANNEL)).map(valueIn) as string[]
    expect(new Set(values).size, 'nothing is there twice').toBe(values.length)
    for (const [value, { first }] of this.acked) expect(values[first - 1]).toBe(value)
    expect(values.filter((value) => !this.acked.has(value))).toEqual([])
    await Promise.race([
      vi.waitFor(() => expect(this.#seen.length).toBe(values.length), { timeout: 20_000 }),
      this.#reading,
    ])
    this.#gone.abort()
    await this.#reading
    expect(this.#seen).toEqual(values)
  }

  /** What it found. */
  get told(): string {
    const longest = this.longest.map((ms) => `${(ms / 1_000).toFixed(1)} s`).join(' and ')
    const { size } = this.acked
    return `${size} answered, 0 lost, 0 twice; longest append ${longest}; refused ${JSON.stringify(this.refused)}`
  }
}
