/**
 * The client: follow channels from your own place without missing an event, append exactly once, in a browser or in
 * Node. One socket serves all channels; where there is none, long polls do, and nobody notices but `state`.
 *
 *   const tidemark = new Tidemark('http://127.0.0.1:7070', { client: 'shop-1' })
 *   for await (const event of tidemark.channel('orders').follow({ cursor: true })) await handle(event)
 *
 * In Node before 22 use `connect` of node.ts, which brings a WebSocket.
 */
import { TidemarkError } from '../errors.ts'
import { checkChannel, checkClient, checkPosition, checkSeq } from '../event.ts'
import type { AppendedJson, NewEventJson, PageJson } from '../wire.ts'
import { Appender, type AppendOptions } from './append.ts'
import { Committer, FLUSH_MS } from './commit.ts'
import { Connection, type State } from './connection.ts'
import { type EventOptions, Events, type FollowOptions, Items, type Source } from './follow.ts'
import { Http, REQUEST_MS, Token, type TokenSource } from './http.ts'
import type { SocketClass } from './socket.ts'
import { type Place, type Start, Subscription } from './subscription.ts'

export interface TidemarkOptions {
  /** A credential, or a function that gives one; it is asked again when the server refuses what it gave. */
  readonly token?: TokenSource
  /** This client's name, for cursors and commits. It belongs to one running client: two that share it share its places. */
  readonly client?: string | undefined
  /** Default: the global one. Without any, the client polls. */
  readonly WebSocket?: SocketClass | undefined
  /** Default: the global one. */
  readonly fetch?: typeof fetch | undefined
  /** `json`, the default, or `msgpack`: smaller frames for one more file to load. */
  readonly subprotocol?: 'json' | 'msgpack' | undefined
}

export interface ReadOptions {
  /** As `follow`. Default `earliest`. */
  readonly after?: number | string | undefined
  /** From this client's cursor, in place of `after`. */
  readonly cursor?: true | undefined
  /** Most events, 1–10,000. Default 100. */
  readonly limit?: number | undefined
  /** Seconds to wait for events at the head, 0–55. Default 0. */
  readonly wait?: number | undefined
  readonly epoch?: string | undefined
  readonly signal?: AbortSignal | undefined
}

/** Told about each new state; `error` says why every loop was ended. */
export type StateListener = (state: State, error?: TidemarkError) => void

/** What the channels of one client share. */
interface Parts {
  readonly client: string | undefined
  readonly http: Http
  readonly connection: Connection
  readonly appender: Appender
  /** Running loops, by channel. */
  readonly loops: Map<string, Loop>
}

interface Loop {
  /** Absent without a client's name. */
  readonly committer: Committer | undefined
  /** The history of what the app was given last. */
  epoch(): string | null
}

export class Tidemark {
  readonly #parts: Parts
  readonly #listeners = new Set<StateListener>()

  /**
   * @param url The server's address; its path is where the interface lies, `/v1` if it has none.
   * @throws bad-request
   */
  constructor(url: string | URL, options: TidemarkOptions = {}) {
    const base = baseOf(url)
    const client = options.client === undefined ? undefined : checkClient(options.client)
    const http = new Http(base, new Token(options.token), options.fetch ?? globalThis.fetch)
    const connection = new Connection({
      http,
      socketUrl: new URL('stream', base).href.replace(/^http/, 'ws'),
      client,
      WebSocket: options.WebSocket ?? (globalThis.WebSocket as unknown as SocketClass | undefined),
      subprotocol: options.subprotocol ?? 'json',
      onState: (state, error) => {
        if (state === 'open') this.#parts.appender.pump()
        for (const listener of this.#listeners) listener(state, error)
      },
    })
    this.#parts = { client, http, connection, appender: new Appender(http, connection), loops: new Map() }
  }

  /** This client's name. */
  get client(): string | undefined {
    return this.#parts.client
  }

  /** How this client is joined to the server; `idle` until the first loop begins. */
  get state(): State {
    return this.#parts.connection.state
  }

  /** Calls the listener at each change; returns how to stop that. */
  onState(listener: StateListener): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** @throws bad-request */
  channel(name: string): Channel {
    return new Channel(checkChannel(name), this.#parts)
  }

  /**
   * Sends the last commits, waits for the appends that are on their way (both FLUSH_MS at most), and ends every loop
   * as if it had been left. Until then the socket stays, also when no loop is left.
   * @throws what kept a commit from being stored; everything is closed then, too.
   */
  async close(): Promise<void> {
    const { appender, loops, connection } = this.#parts
    const appended = appender.close(FLUSH_MS)
    const commits = await Promise.allSettled([...loops.values()].map(({ committer }) => committer?.flush()))
    await appended
    connection.close()
    for (const commit of commits) if (commit.status === 'rejected') throw commit.reason
  }
}

export class Channel {
  readonly name: string
  readonly #parts: Parts

  constructor(name: string, parts: Parts) {
    this.name = name
    this.#parts = parts
  }

  /**
   * Appends one event, or up to 1,000 at once, all or nothing. Tries again by itself until somebody answers, always
   * under the same idempotency key, so that the events are there once, whatever is lost or restarted meanwhile.
   * @throws what the server refused (`seq-conflict`, `too-large`, `forbidden`, `storage-full` …); `too-many` when
   *   too many appends wait already; `unavailable` when the client is closed first; the signal's reason.
   */
  append(events: NewEventJson | readonly NewEventJson[], options: AppendOptions = {}): Promise<AppendedJson> {
    return this.#parts.appender.append(this.name, events, options)
  }

  /**
   * One page, over HTTP, once.
   * @throws `gap`, `epoch-changed`, `no-channel`, `data-loss`, `unavailable` …; the signal's reason.
   */
  async read(options: ReadOptions = {}): Promise<PageJson> {
    const { after, cursor, limit, wait = 0, epoch, signal } = options
    const query = new URLSearchParams()
    if (cursor) query.set('client', this.#client())
    else if (after !== undefined) query.set('after', String(after))
    if (limit !== undefined) query.set('limit', String(limit))
    if (wait > 0) query.set('wait', String(wait))
    if (epoch !== undefined) query.set('epoch', epoch)
    const path = `channels/${this.name}/events?${query}`
    const { value } = await this.#parts.http.call<PageJson>({ path, signal, timeout: REQUEST_MS + wait * 1_000 })
    return value
  }

  /**
   * Every event after a place, then each new one, for ever: the loop body is awaited before the next event. With
   * `cursor: true`, what the body has finished is committed by itself. Leave the loop by `break` or the signal.
   *
   * One loop per channel and client; a second one needs its own Tidemark.
   * @throws bad-request, too-many; from the loop: `gap` and `epoch-changed` where there is no handler, `data-loss`, `forbidden`,
   *   `unauthorized`; a commit that was not stored when the loop ends: `unavailable`. Lost connections are none of its
   *   business.
   */
  follow(options: EventOptions = {}): Events {
    return this.#loop(options, (source) => new Events(source, options))
  }

  /** As `follow`, for those who keep a state of their own: whole batches, and each gap, reset and caughtup in its place. */
  followItems(options: FollowOptions = {}): Items {
    return this.#loop(options, (source) => new Items(source))
  }

  /**
   * Moves this client's cursor: everything up to `seq` was handled. Resolves when that is durable. A lower seq than
   * the cursor's changes nothing.
   * @param epoch The history that `seq` is of. Default: that of the loop on this channel, else today's.
   * @throws bad-request, epoch-changed, ahead-of-head, no-channel, forbidden
   */
  async commit(seq: number, { epoch }: { epoch?: string | undefined } = {}): Promise<void> {
    this.#client()
    const loop = this.#parts.loops.get(this.name)
    const place = { epoch: epoch ?? loop?.epoch() ?? null, after: checkSeq(seq) }
    if (loop?.committer) await loop.committer.commit(place)
    else await this.#commit(place)
  }

  #loop<L extends Items | Events>(options: FollowOptions, make: (source: Source) => L): L {
    const { connection, client, loops } = this.#parts
    const { signal, cursor, commit = 'auto' } = options
    const subscription = new Subscription(this.name, this.#start(options), (full) => connection.madeRoom(full))
    const committer = client === undefined ? undefined : new Committer((place) => this.#commit(place), refused)
    function refused(error: TidemarkError): void {
      subscription.end(error)
    }
    const running: Loop = { committer, epoch: () => loop.place?.epoch ?? null }
    const leave = () => {
      signal?.removeEventListener('abort', leave)
      if (loops.get(this.name) === running) loops.delete(this.name)
      connection.remove(subscription)
    }
    const loop = make({ subscription, leave, committer: cursor && commit === 'auto' ? committer : undefined })
    if (signal?.aborted) subscription.end()
    else {
      connection.add(subscription)
      loops.set(this.name, running)
      signal?.addEventListener('abort', leave)
    }
    return loop
  }

  #start({ after, cursor, epoch }: FollowOptions): Start {
    if (cursor) {
      if (after !== undefined)
        throw new TidemarkError('bad-request', 'A loop starts at `after` or at the cursor, not both')
      this.#client()
      return { cursor, epoch }
    }
    const position = checkPosition(after)
    return { after: position.at === 'seq' ? position.seq : (after ?? 'earliest'), epoch }
  }

  /** Over the socket where that means the same history, else over HTTP. */
  async #commit(place: Place): Promise<void> {
    const { connection, http } = this.#parts
    const { stream } = connection
    if (stream?.canCommit(this.name, place)) return void (await stream.commit(this.name, place))
    const { epoch, after: seq } = place
    await http.call({
      method: 'PUT',
      path: `channels/${this.name}/cursors/${this.#client()}`,
      body: JSON.stringify(epoch === null ? { seq } : { seq, epoch }),
    })
  }

  #client(): string {
    const { client } = this.#parts
    if (client === undefined) throw new TidemarkError('bad-request', 'A cursor needs a client with a name')
    return client
  }
}

/**
 * The address that calls are relative to: `/v1/` where none is given.
 * @throws bad-request
 */
export function baseOf(url: string | URL): URL {
  const base = URL.canParse(url) ? new URL(url) : undefined
  const protocol = base?.protocol.replace(/^ws/, 'http')
  if (
    base === undefined ||
    (protocol !== 'http:' && protocol !== 'https:') ||
    base.username ||
    base.password ||
    base.search
  )
    throw new TidemarkError('bad-request', 'The address is http://host:port[/path] or https://…, without credentials')
  const path = base.pathname === '/' ? '/v1' : base.pathname
  return new URL(`${protocol}//${base.host}${path.replace(/\/?$/, '/')}`)
}
