/**
 * The newest events of a channel as they come. A page keeps a bounded run of them; a pause takes nothing more, so that
 * the server waits with the rest and nothing is missed when it goes on.
 */
import { signal } from '@preact/signals'
import type { ChannelEvent, Item } from '../client/subscription.ts'
import { TidemarkError } from '../errors.ts'
import { tidemark, wordsOf } from './ask.ts'
import { weigh } from './text.ts'

/** Events that are kept … */
const KEPT_MAX = 5_000
/** … and about how many characters of them. */
const KEPT_CHARS_MAX = 8 * 1024 * 1024
/** Taken away in pieces of this many, so that it is done seldom. */
const KEPT_SLACK = 500
/** What came is shown this often, ms. */
const SHOW_MS = 100

export interface Kept {
  /** Absent for a notice. */
  readonly event?: ChannelEvent
  readonly notice?: string
  readonly weight: number
}

export class Tail {
  readonly channel: string
  /** Rises with each change of what is shown. */
  readonly version = signal(0)
  readonly paused = signal(false)
  readonly filter = signal('')
  readonly over = signal<string | undefined>(undefined)
  readonly caughtUp = signal(false)
  /** What passes the filter, oldest first. */
  shown: Kept[] = []
  /** Of what was shown, taken away at the beginning; never falls. */
  dropped = 0
  /** Events that came. */
  came = 0
  #kept: Kept[] = []
  #weight = 0
  #wanted = ''
  #timer: ReturnType<typeof setTimeout> | undefined
  readonly #life = new AbortController()

  readonly #after: number | string

  /** @param after where to begin, as `follow` takes it */
  constructor(channel: string, after: number | string) {
    this.channel = channel
    this.#after = after
  }

  close(): void {
    this.#life.abort()
    clearTimeout(this.#timer)
  }

  /** Follows until `close`; only one at a time on a channel. */
  async run(): Promise<void> {
    const after = this.#after
    try {
      for await (const item of tidemark.channel(this.channel).followItems({ after, signal: this.#life.signal })) {
        this.#take(item)
        if (this.paused.peek()) await this.#resumed()
      }
      if (!this.#life.signal.aborted) this.over.value = 'The tail ended'
    } catch (error) {
      if (!this.#life.signal.aborted) this.over.value = wordsOf(error)
    }
  }

  #resumed(): Promise<void> {
    return new Promise((resolve) => {
      const over = () => {
        stop()
        this.#life.signal.removeEventListener('abort', over)
        resolve()
      }
      this.#life.signal.addEventListener('abort', over)
      const stop = this.paused.subscribe((paused) => {
        if (!paused) queueMicrotask(over)
      })
    })
  }

  #take(item: Item): void {
    this.caughtUp.value = item.is === 'caughtup'
    if (item.is === 'events') for (const event of item.events) this.#keep({ event, weight: weighEvent(event) })
    else if (item.is === 'gap') this.#tell(`Events ${item.after + 1}–${item.trimmed} are gone: trimmed`)
    else if (item.is === 'reset')
      this.#tell(item.epoch === null ? 'The channel was deleted' : `Another history begins: epoch ${item.epoch}`)
    this.#showSoon()
  }

  #tell(notice: string): void {
    this.#keep({ notice, weight: notice.length })
  }

  #keep(kept: Kept): void {
    this.#kept.push(kept)
    this.#weight += kept.weight
    if (kept.event) this.came++
    if (passes(kept, this.#wanted)) this.shown.push(kept)
    if (this.#kept.length >= KEPT_MAX + KEPT_SLACK || this.#weight > KEPT_CHARS_MAX) this.#forget()
  }

  #forget(): void {
    let gone = 0
    while (this.#kept.length - gone > 1 && (this.#kept.length - gone > KEPT_MAX || this.#weight > KEPT_CHARS_MAX / 2))
      this.#weight -= this.#kept[gone++]!.weight
    const forgotten = new Set(this.#kept.splice(0, gone))
    const before = this.shown.length
    this.shown = this.shown.filter((kept) => !forgotten.has(kept))
    this.dropped += before - this.shown.length
  }

  #showSoon(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined
      this.version.value++
    }, SHOW_MS)
  }

  /** Shows what holds this text in its type, key, id or data, of all that is kept and of what comes. */
  want(text: string): void {
    this.filter.value = text
    this.#wanted = text.toLowerCase()
    this.shown = this.#kept.filter((kept) => passes(kept, this.#wanted))
    this.version.value++
  }

  /** Drops what is kept. */
  clear(): void {
    this.#kept = []
    this.shown = []
    this.#weight = 0
    this.version.value++
  }
}

const weighEvent = ({ data, dataBase64, key }: ChannelEvent): number =>
  100 + (key?.length ?? 0) + (dataBase64?.length ?? 0) + weigh(data)

function passes({ event }: Kept, wanted: string): boolean {
  if (wanted === '' || event === undefined) return true
  const { type, key, id, data } = event
  const has = (text: string | undefined) => text?.toLowerCase().includes(wanted)
  return Boolean(has(type) || has(key) || has(id) || has(typeof data === 'string' ? data : JSON.stringify(data)))
}

/** What a person typed as a place: a word, a seq to begin with, or a time. @throws bad-request */
export function placeOf(kind: string, value: string): number | string {
  if (kind === 'seq') {
    if (!/^\d{1,16}$/.test(value)) throw new TidemarkError('bad-request', 'A seq is a whole number')
    return Math.max(Number(value) - 1, 0)
  }
  if (kind !== 'time') return kind
  const time = new Date(value)
  if (Number.isNaN(time.getTime())) throw new TidemarkError('bad-request', 'This is no time')
  return `time:${time.toISOString()}`
}
