/**
 * Server-sent events: `GET /v1/channels/{channel}/events` and `GET /v1/events` (several channels) with
 * `Accept: text/event-stream`. One stream is its followers and one loop: read a page, write it, wait until it has left.
 *
 * Every message carries the whole position as its id, so that a browser that comes back goes on behind the last
 * message that it saw. Whatever happens after the beginning is told in the stream under status 200: an EventSource
 * gives up for good on any other answer, and comes back after a closed connection.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Principal } from '../access/principal.ts'
import { seenByCaller } from '../doors/callers.ts'
import { type Doors, retryAfter } from '../doors/doors.ts'
import { COMMENT_MS } from '../doors/limits.ts'
import { hasCode, TidemarkError } from '../errors.ts'
import { type Rendered, render } from '../formats/render.ts'
import { Follower, type Item } from '../log/follow.ts'
import type { Page } from '../log/log.ts'
import type { Source } from '../log/seen.ts'
import { ALWAYS, checkMethod, untilGone } from './http.ts'
import { type AskedStream, askedStream, firstPlace, isWord, placeId, type Start, Told } from './places.ts'

/** First page of a channel; larger ones only after it was taken. */
const FIRST_BYTES = 64 * 1024
const PAGE_BYTES = 256 * 1024
const PAGE_EVENTS = 1_000
/** When a client comes back, ms; a random part of the retry window is added. */
const RETRY_MS = 1_000
/** When a client comes back whose channels have all ended, ms. */
const ENDED_RETRY_MS = 30_000
/** When a client comes back that had one stream too many, ms. */
const REFUSED_RETRY_MS = 10_000

/**
 * Refuses a stream that there is no room for now: under 200, so that an EventSource comes back. No id is told: it goes
 * on behind what it saw last.
 */
export function refuseStream(res: ServerResponse, doors: Doors, { code, message }: TidemarkError): void {
  const retry = REFUSED_RETRY_MS + retryAfter(doors)
  const facts = JSON.stringify({ code, detail: message, retryAfter: retry })
  res.writeHead(200, STREAM_HEADERS)
  res.end(`retry: ${retry}\n\nevent: tidemark.refused\ndata: ${facts}\n\n`)
}

const STREAM_HEADERS = {
  'Content-Type': 'text/event-stream',
  ...ALWAYS,
  Vary: 'Accept, Accept-Encoding, Authorization, Cookie, Origin',
  // Proxies that collect answers would hold events back.
  'X-Accel-Buffering': 'no',
}

/** @throws what is wrong with the request, and too-many, which the front tells by `refuseStream`; nothing is sent then */
export async function stream(req: IncomingMessage, res: ServerResponse, doors: Doors, who: Principal): Promise<void> {
  checkMethod(req, 'GET')
  const asked = askedStream(req, who)
  for (const { channel } of asked.starts) who.need('read', channel)
  if (doors.stopping.aborted) {
    res.destroy()
    return
  }
  const exit = doors.guard.enter(who)
  const gone = untilGone(res, doors.stopping)
  const release = doors.waits.streamed(who, gone.abort)
  const over = doors.metrics.follows('sse')
  const { follower } = asked
  const leave = follower && doors.keeper.signs.add(() => [follower])
  const way = new Way(res, gone.signal, Math.min(doors.settings.heartbeat, COMMENT_MS))
  try {
    const streamed = new Stream(way, doors, who, asked, gone.signal)
    const allEnded = await streamed.run()
    way.end((allEnded ? ENDED_RETRY_MS : RETRY_MS) + retryAfter(doors))
  } catch (error) {
    // A log that is not there now sends its readers away, and they come back.
    if (!way.hasBegun && !hasCode(error, 'unavailable')) throw error
    doors.failed('sse', error)
    way.end(RETRY_MS + retryAfter(doors))
  } finally {
    over()
    exit()
    leave?.()
    release()
    gone.end()
  }
}

/** One channel of a stream. */
interface Feed {
  readonly index: number
  readonly follower: Follower
  /** Bytes of its next page. */
  bytes: number
}

class Stream {
  readonly #way: Way
  readonly #doors: Doors
  readonly #source: Source
  readonly #asked: AskedStream
  readonly #gone: AbortSignal
  #told = new Told(undefined, [])
  /** Feeds that have something to tell, in the order of their turns: one page each, then behind the others. */
  readonly #turns = new Set<Feed>()
  /** Feeds that have not ended. */
  #open = 0
  #wake = (): void => {}
  #failure: unknown

  constructor(way: Way, doors: Doors, who: Principal, asked: AskedStream, gone: AbortSignal) {
    this.#way = way
    this.#doors = doors
    this.#source = seenByCaller(doors.log, who)
    this.#asked = asked
    this.#gone = gone
  }

  /** Until the client is gone or the server stops, or, then true, every channel has ended. @throws unavailable, … */
  async run(): Promise<boolean> {
    const wake = (): void => this.#wake()
    this.#gone.addEventListener('abort', wake)
    try {
      await this.#begin()
      while (this.#open > 0 && !this.#gone.aborted) {
        if (this.#failure !== undefined) throw this.#failure
        const [feed] = this.#turns
        if (feed === undefined) await this.#quiet()
        else await this.#turn(feed)
      }
    } finally {
      this.#gone.removeEventListener('abort', wake)
    }
    return this.#open === 0
  }

  /** Finds all places, then sends the head of the answer. */
  async #begin(): Promise<void> {
    const { starts, digest } = this.#asked
    const found = await Promise.all(starts.map((start) => this.#find(start)))
    this.#told = new Told(
      digest,
      starts.map((start, i) => firstPlace(start, found[i]?.opened)),
    )
    let first = `retry: ${RETRY_MS + retryAfter(this.#doors)}\n\n`
    if (starts.some(isWord)) first += `id: ${this.#told.id}\n\n`
    await this.#way.write(first)
    for (const [index, { follower, error }] of found.entries()) {
      if (error !== undefined) await this.#way.write(this.#ended(index, error))
      if (follower === undefined) continue
      this.#turns.add({ index, follower, bytes: FIRST_BYTES })
      this.#open++
    }
  }

  /** A channel whose place can't be found has ended before it began. @throws unavailable */
  async #find({ channel, from }: Start): Promise<Found> {
    try {
      return await Follower.open(this.#source, channel, from)
    } catch (error) {
      if (!(error instanceof TidemarkError) || error.code === 'unavailable') throw error
      return { error }
    }
  }

  async #turn(feed: Feed): Promise<void> {
    this.#turns.delete(feed)
    const item = await feed.follower.next({ events: PAGE_EVENTS, bytes: feed.bytes })
    if (item === undefined) {
      this.#waitFor(feed)
      return
    }
    const message = () => this.#message(feed, item)
    await this.#way.write(item.is === 'page' ? await this.#doors.pages.make(item.page, message) : message())
    feed.bytes = PAGE_BYTES
    if (item.is === 'ended') this.#open--
    else this.#turns.add(feed)
  }

  #waitFor(feed: Feed): void {
    const changed = (): void => {
      this.#turns.add(feed)
      this.#wake()
    }
    const failed = (error: unknown): void => {
      // Whoever is gone waits for nothing more.
      if (!this.#gone.aborted) this.#failure ??= error
      this.#wake()
    }
    feed.follower.changed(this.#gone).then(changed, failed)
  }

  /** Resolves when there is a turn to give, a failure, or no client. */
  async #quiet(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#wake = resolve
    })
  }

  #message(feed: Feed, item: Item): Buffer | string {
    if (item.is === 'page') return this.#page(feed, item.page)
    if (item.is === 'ended') return this.#ended(feed.index, item.error)
    const { channel, place } = feed.follower
    const { is, ...facts } = item
    this.#told.set(feed.index, place.epoch, place.after)
    return this.#control(is, { channel, epoch: place.epoch ?? null, ...facts })
  }

  #page(feed: Feed, page: Page): Buffer {
    const { named, digest } = this.#asked
    const { before, behind } = this.#told.around(feed.index)
    const make = (all: Page): Rendered => messages(all, named, before, behind)
    // The followers of one channel at one place get the same bytes.
    const form = digest === undefined ? page.form(named ? 'sse' : 'sse message', make) : make(page)
    this.#told.set(feed.index, page.epoch, page.last)
    this.#doors.metrics.delivered('sse', form.count, form.length)
    return form.bytes
  }

  #ended(index: number, error: TidemarkError): string {
    this.#doors.failed('sse', error)
    const { channel } = this.#asked.starts[index]!
    return this.#control('ended', { ...error.details, channel, code: error.code, detail: error.message })
  }

  #control(name: string, facts: object): string {
    return `id: ${this.#told.id}\nevent: tidemark.${name}\ndata: ${JSON.stringify(facts)}\n\n`
  }
}

type Found = Partial<Awaited<ReturnType<typeof Follower.open>>> & { readonly error?: TidemarkError }

/** A page's events as messages, and its end where that is no event. `before` and `behind` stand in ids around the place. */
function messages(page: Page, named: boolean, before: string, behind: string): Rendered {
  const start = `id: ${before}${placeId(page.epoch, '')}`
  const end = `${behind}\n`
  let told = page.after
  return render(
    page,
    { withChannel: true, withTo: true },
    {
      before: (to, _, seq, parts) => {
        told = seq
        to.ascii(start)
        to.number(seq)
        to.ascii(end)
        to.ascii('event: ')
        if (named && parts.type >= 0) to.copy(parts.type, parts.typeEnd)
        else to.ascii('message')
        to.ascii('\ndata: ')
      },
      behind: (to) => to.ascii('\n\n'),
      end: (to) => {
        if (told < page.last) to.ascii(`${start}${page.last}${end}\n`)
      },
    },
  )
}

// ── The way to the client ────────────────────────────────────────────────────────────────────────────────────────

/** The answer of a stream: paced by what the client takes. One that takes nothing is cut by connections.ts. */
class Way {
  readonly #res: ServerResponse
  readonly #gone: AbortSignal
  readonly #heartbeat: number
  #comments: NodeJS.Timeout | undefined

  /** @param heartbeat time between two comments, ms */
  constructor(res: ServerResponse, gone: AbortSignal, heartbeat: number) {
    this.#res = res
    this.#gone = gone
    this.#heartbeat = heartbeat
  }

  get hasBegun(): boolean {
    return this.#res.headersSent
  }

  /** Resolves when the socket has room for more, or there is nobody to write to. */
  async write(chunk: Buffer | string): Promise<void> {
    this.#begin()
    if (this.#gone.aborted || this.#res.write(chunk)) return
    await new Promise<void>((resolve) => {
      const over = (): void => {
        this.#res.off('drain', over)
        this.#gone.removeEventListener('abort', over)
        resolve()
      }
      this.#res.on('drain', over)
      this.#gone.addEventListener('abort', over)
    })
  }

  /** @param retry when the client is to come back, ms. */
  end(retry: number): void {
    this.#begin()
    clearInterval(this.#comments)
    if (!this.#res.destroyed) this.#res.end(`retry: ${retry}\n\n`)
  }

  #begin(): void {
    if (this.#res.headersSent || this.#res.destroyed) return
    this.#res.writeHead(200, STREAM_HEADERS)
    this.#comments = setInterval(() => {
      if (!this.#res.writableNeedDrain) this.#res.write(':\n\n')
    }, this.#heartbeat)
  }
}
