/**
 * Clears what trim and delete left behind, rows of states that count no more, and receipts whose days are over: in bounded slices through the one writer,
 * so that appends go on between them. The sweep row makes it resumable: it is written with the trim or delete itself
 * and removed with the last slice; the clearing row of a state's rows likewise. What it removes is out of every reader's reach already.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { Group } from './group.ts'
import {
  blockRange,
  channelOfKey,
  clearingKey,
  clientKey,
  clientOfCursorKey,
  cursorKey,
  cursorRange,
  dayOf,
  decodeClearing,
  decodeSweep,
  lossRange,
  placeKey,
  type Range,
  rangeOf,
  receiptsBefore,
  SWEEPS,
  stateRange,
} from './keys.ts'
import type { Notice, Store } from './store.ts'
import type { Writer } from './writer.ts'

const SLICE_KEYS = 500
const RECEIPTS_EVERY_MS = 3_600_000
/** After a failure the work is put off for so long, longer each time; ms. */
const RETRY_MS = 1_000
const RETRY_MS_MAX = 60_000

export class Sweeper {
  readonly #store: Store
  readonly #writer: Writer
  readonly #idWindow: number
  readonly #notice: Notice
  readonly #closing = new AbortController()
  #again = false
  #running: Promise<void> | undefined
  #timer: NodeJS.Timeout

  constructor(store: Store, writer: Writer, idWindow: number, notice: Notice) {
    this.#store = store
    this.#writer = writer
    this.#idWindow = idWindow
    this.#notice = notice
    this.#timer = setInterval(() => this.start(), RECEIPTS_EVERY_MS).unref()
    this.start()
  }

  /** Looks for work now; at once again when it is already looking. */
  start(): void {
    this.#again = true
    this.#running ??= this.#run()
  }

  async close(): Promise<void> {
    clearInterval(this.#timer)
    this.#closing.abort()
    await this.#running
  }

  async #run(): Promise<void> {
    const { signal } = this.#closing
    for (let wait = RETRY_MS; this.#again && !signal.aborted; ) {
      this.#again = false
      try {
        await this.#sweep()
        wait = RETRY_MS
      } catch (error) {
        if (signal.aborted) break
        // A failed write is the writer's to mend; the rows are still there, so the work is only put off.
        this.#notice('warn', 'Clearing trimmed events is put off', { why: String(error) })
        this.#again = true
        // A close ends the wait; the loop looks at the signal.
        await delay(wait, undefined, { ref: false, signal }).catch(() => undefined)
        wait = Math.min(wait * 2, RETRY_MS_MAX)
      }
    }
    this.#running = undefined
  }

  async #sweep(): Promise<void> {
    const rows = await this.#store.db.iterator(SWEEPS).all()
    const failures: unknown[] = []
    for (const [key, row] of rows)
      try {
        await this.#finish(key, row)
      } catch (error) {
        // A damaged row holds up its own channel only.
        failures.push(error)
        this.#closing.signal.throwIfAborted()
      }
    for (const [key, row] of await this.#store.db.iterator(rangeOf('y')).all())
      try {
        await this.clearState(channelOfKey(key), decodeClearing(key, row).channel)
      } catch (error) {
        failures.push(error)
        this.#closing.signal.throwIfAborted()
      }
    await this.#clear(receiptsBefore(dayOf(this.#store.now() - this.#idWindow)))
    if (failures.length > 0) throw failures[0]
  }

  /** Does what one sweep row says, and removes it. */
  async #finish(key: Uint8Array, row: Uint8Array): Promise<void> {
    const { upTo, deleted } = decodeSweep(key, row)
    const channel = channelOfKey(key)
    await this.#clear(blockRange(channel, 0, upTo))
    if (deleted !== undefined) {
      await this.#clear(cursorRange(channel), deleted)
      await this.#clear(lossRange(channel))
      await this.#clear(stateRange(channel))
    }
    await this.#writer.submit(100, (group) => {
      if (deleted !== undefined) for (const key of [placeKey(channel), clearingKey(channel)]) group.del(key)
      group.swept(channel, row)
      return () => {}
    })
  }

  /** Clears the rows of a channel's state, if they are to be cleared. */
  async clearState(number: number, channel: string): Promise<void> {
    while (this.#store.db.getSync(clearingKey(number)) !== undefined) {
      // Whoever else clears them may be done first, and others begun.
      await this.#clear(stateRange(number), undefined, (group) => group.states.isClearing(number))
      await this.#writer.submit(100, (group) => {
        group.states.cleared(number, group.find(channel))
        return () => {}
      })
    }
  }

  /**
   * Deletes every key of a range, slice by slice; with a channel's name, the clients' side of its cursors too.
   * @param isDue asked at the writer's turn
   */
  async #clear(range: Range, channel?: string, isDue?: (group: Group) => boolean): Promise<void> {
    for (;;) {
      this.#closing.signal.throwIfAborted()
      const keys = await this.#store.db.keys({ ...range, limit: SLICE_KEYS }).all()
      if (keys.length === 0) return
      await this.#writer.submit(keys.length * 20, (group) => {
        if (isDue?.(group) === false) return () => {}
        const anew = channel === undefined ? undefined : group.numberOf(channel)
        for (const key of keys) {
          group.del(key)
          if (channel === undefined) continue
          const client = clientOfCursorKey(key)
          // The client may have a cursor in a channel of the same name made since.
          const lives = anew !== undefined && this.#store.db.getSync(cursorKey(anew, client)) !== undefined
          if (!lives) group.del(clientKey(client, channel))
        }
        return () => {}
      })
      if (keys.length < SLICE_KEYS) return
    }
  }
}
