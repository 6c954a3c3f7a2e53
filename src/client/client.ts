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
import type { AppendedJson, NewEventJson, PageJson } from '../wire.ts'
import type { Bell } from './bell.ts'
import { type Committer, newCommitter, persist } from './commit.ts'
import { type Connection, newConnection, type State } from './connection.ts'
import {
  type EventOptions,
  type Events,
  type FollowOptions,
  type Items,
  type Loop,
  newEvents,
  newItems,
  type Source,
} from './follow.ts'
import type { Http } from './http.ts'
import { type AppendOptions, newOutbox, type Outbox } from './outbox.ts'
import { load, loadPolls } from './parts.ts'
import type { ReadOptions } from './read.ts'
import type { ChannelState, StateFeed, StateOptions } from './state.ts'
import type { SocketClass } from './stream.ts'
import { type ChannelEvent, newSubscription, type Place } from './subscription.ts'
import { newTokens, type TokenSource } from './token.ts'

export interface TidemarkOptions {
  /**
   * A credential, or a function that gives one; it is asked again before what it gave ends, and when the server refuses
   * that. What it throws is waited out, as a page that is offline is, but for a TidemarkError (`unauthorized`, say),
   * which ends the loops.
   */
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

/** Told about each new state; `error` says why every loop was ended or, when `waiting`, what is waited out. */
export type StateListener = (state: State, error?: TidemarkError) => void

export class Tidemark {
  /** This client's name. */
  declare readonly client: string | undefined
  /** @throws bad-request */
  declare readonly channel: (name: string) => Channel
  /** Calls the listener at each change; returns how to stop that. */
  declare readonly onState: (listener: StateListener) => () => void
  /**
   * Sends the last commits, waits for the appends that are on their way (both FLUSH_MS at most), and ends every loop
   * as if it had been left. Until then the socket stays, also when no loop is left.
   * @throws what kept a commit from being stored; everything is closed then, too.
   */
  declare readonly close: () => Promise<void>

  readonly #state: () => State

  /**
   * @param url The server's address; its path is where the interface lies, `/v1` if it has none.
   * @param ownBell How the tabs of a page share one waiting poll (bell.ts); browser.ts gives it.
   * @throws bad-request
   */
  constructor(
    url: string | URL,
    options: TidemarkOptions = {},
    ownBell?: (base: string, wake: () => void, token: string | undefined) => Promise<Bell>,
  ) {
    const base = baseOf(url)
    const { client, token, subprotocol, fetch = globalThis.fetch, WebSocket = globalThis.WebSocket } = options
    const listeners = new Set<StateListener>()
    /** Running loops, by channel. */
    const loops = new Map<string, Running>()
    const life = new AbortController()
    const tokens = newTokens(token)
    const http: Http = { call: async (call) => (await loadPolls()).newHttp(base, tokens, fetch).call(call) }
    const connection = newConnection(
      http,
      tokens,
      `${base}stream`.replace('http', 'ws'),
      client,
      WebSocket as SocketClass | undefined,
      subprotocol,
      (state, error) => {
        if (state === 'open') outbox.pump()
        // One that throws is nobody's fault but its own.
        for (const listener of listeners) queueMicrotask(() => listener(state, error))
      },
      ownBell && (async (wake) => ownBell(base.href, wake, await tokens.token())),
    )
    const outbox = newOutbox(async () =>
      (await load('append', () => import('./append.ts'))).newSender(http, connection),
    )
    this.#state = () => connection.state
    this.client = client && checkName(client, [client])
    this.channel = (name) =>
      newChannel(checkName(name, name.split('/')), client, http, connection, outbox, loops, life.signal)
    this.onState = (listener) => {
      listeners.add(listener)
      return () => listeners.delete(listener)
    }
    this.close = async () => {
      const flushed = Promise.allSettled([...loops.values()].map(({ committer }) => committer?.flush()))
      await outbox.close()
      const flushes = await flushed
      life.abort()
      connection.close()
      for (const flush of flushes) if (flush.status === 'rejected') throw flush.reason
    }
  }

  /** How this client is joined to the server; `idle` until the first loop begins. */
  get state(): State {
    return this.#state()
  }
}

interface Running {
  readonly loop: Loop<unknown>
  /** Of its automatic commits. */
  readonly committer: Committer | undefined
}

export interface Channel {
  readonly name: string

  /**
   * Appends one event, or up to 1,000 at once, all or nothing. Tries again by itself until somebody answers, always
   * under the same idempotency key, so that the events are there once, whatever is lost or restarted meanwhile (for as
   * long as the server remembers the key, a day unless told otherwise). What one channel is given in order is sent in
   * order, and again in order; only one that the server itself puts off (`too-many`, a write that failed) may come
   * behind later ones that were on their way with it.
   * @throws what the server refused (`seq-conflict`, `too-large`, `forbidden`, `storage-full` …); `too-many` when
   *   too many appends wait already; `unavailable` when the client is closed first; the signal's reason.
   */
  append(events: NewEventJson | readonly NewEventJson[], options?: AppendOptions): Promise<AppendedJson>

  /**
   * One page, over HTTP, once.
   * @throws `gap`, `epoch-changed`, `no-channel`, `data-loss`, `unavailable` …; the signal's reason.
   */
  read(options?: ReadOptions): Promise<PageJson>

  /**
   * The events of the newest `count` seqs as one page, over HTTP: fewer where some were trimmed, erased, compacted or
   * are withheld. To go on from there: `follow({ epoch, after: last })`.
   * @throws as `read`
   */
  last(count: number, options?: Pick<ReadOptions, 'signal'>): Promise<PageJson>

  /**
   * The newest event of each key, over HTTP, as it is true at one seq. To go on from there: `follow({ epoch, after: at })`;
   * or `follow({ state: true })`, which does both.
   * @throws `no-channel`, `too-large`, `data-loss`, `unavailable` …; the signal's reason.
   */
  state(options?: StateOptions): Promise<ChannelState>

  /**
   * Every event after a place, then each new one, for ever: the loop body is awaited before the next event. With
   * `cursor: true`, what the body has finished is committed by itself. Leave the loop by `break` or the signal.
   *
   * One loop per channel and client; a second one needs its own Tidemark.
   * @throws bad-request, too-many; from the loop: `gap` and `epoch-changed` where there is no handler, `data-loss`, `forbidden`,
   *   `unauthorized`; a commit that was not stored when the loop ends: `unavailable`. Lost connections are none of its
   *   business.
   */
  follow(options?: EventOptions): Events
  /**
   * The same as a callback, which is awaited before the next event. The promise resolves when the signal has ended the
   * loop, and rejects with what the loop would throw.
   */
  follow(options: EventOptions, onEvent: (event: ChannelEvent) => unknown): Promise<void>

  /** As `follow`, for those who keep a state of their own: whole batches, and each gap, reset and caughtup in its place. */
  followItems(options?: FollowOptions): Items

  /**
   * Moves this client's cursor: everything up to `seq` was handled. Resolves when that is durable. A lower seq than
   * the cursor's changes nothing.
   * @param options.epoch The history that `seq` is of. Default: that of the loop on this channel, else today's.
   * @throws bad-request, epoch-changed, ahead-of-head, no-channel, forbidden
   */
  commit(seq: number, options?: { epoch?: string | undefined }): Promise<void>
}

function newChannel(
  name: string,
  client: string | undefined,
  http: Http,
  connection: Connection,
  outbox: Outbox,
  loops: Map<string, Running>,
  life: AbortSignal,
): Channel {
  const loadState = () => load('state', () => import('./state.ts'))

  /** Over the socket where that means the same history, else over HTTP. */
  const commitTo = async (place: Place): Promise<unknown> =>
    connection.stream?.commit(name, place) ?? (await loadPolls()).commit(http, name, client, place)

  const read = async (options?: ReadOptions & { readonly last?: number }): Promise<PageJson> =>
    (await loadPolls()).read(http, name, client, options)

  const newLoop = <T>(options: FollowOptions, make: (source: Source) => Loop<T>): Loop<T> => {
    const { signal, state, cursor, after = cursor ? undefined : 'earliest', epoch, commit } = options
    if (state) {
      let feed: StateFeed | undefined
      return make({
        subscription: {
          get isLeft() {
            return feed?.isLeft
          },
          take: async () => {
            feed ??= (await persist(loadState, life)).newFeed(http, name, options, life, newLoop, newItems)
            return feed.take()
          },
        },
        leave: () => feed?.leave(),
      })
    }
    if (cursor ? !client || after !== undefined : !/^(\d+|earliest|head(-\d+)?|time:.+)$/.test(`${after}`))
      throw new TidemarkError('bad-request', 'No start')
    const subscription = newSubscription(name, { after, cursor, epoch }, connection.madeRoom)
    const committer = cursor && commit !== 'manual' ? newCommitter(commitTo, subscription.end) : undefined
    const drop = (): void => connection.remove(subscription)
    const leave = (): void => {
      signal?.removeEventListener('abort', drop)
      if (loops.get(name) === running) loops.delete(name)
      drop()
    }
    const loop = make({ subscription, committer, leave })
    const running = { loop, committer }
    if (signal?.aborted) subscription.end()
    else {
      connection.add(subscription)
      loops.set(name, running)
      // Its loop has commits to send yet.
      signal?.addEventListener('abort', drop)
    }
    return loop
  }

  return {
    name,
    read,
    state: async (options) => (await loadState()).readState(http, name, options),
    append: (events, options) => outbox.append(name, events, options),
    last: (last, options) => read({ ...options, last }),
    follow: ((options: EventOptions = {}, onEvent?: (event: ChannelEvent) => unknown) => {
      const loop = newLoop(options, (source) => newEvents(source, options))
      return onEvent ? each(loop, onEvent) : loop
    }) as Channel['follow'],
    followItems: (options = {}) => newLoop(options, newItems),
    commit: async (after, { epoch } = {}) => {
      const place = { epoch: epoch ?? loops.get(name)?.loop.place?.epoch ?? null, after }
      await persist(() => commitTo(place), life)
    },
  }
}

async function each(loop: Events, onEvent: (event: ChannelEvent) => unknown): Promise<void> {
  for await (const event of loop) await onEvent(event)
}

/** Names stand in paths, so what could lead elsewhere is refused here; the server knows the whole rule. */
function checkName(name: string, segments: readonly string[]): string {
  if (segments.every((segment) => /^(?!\.\.?$)[\w.:-]+$/.test(segment))) return name
  throw new TidemarkError('bad-request', `No name: ${name}`)
}

/**
 * The address that calls are relative to: `/v1/` where none is given.
 * @throws bad-request
 */
export function baseOf(url: string | URL): URL {
  const [, host, path] = /^(?:http|ws)(s?:\/\/[^/@?#\s]+)(\/[^?#]*[^/?#])?\/*$/i.exec(`${url}`) ?? []
  if (host) return new URL(`http${host}${path || '/v1'}/`)
  throw new TidemarkError('bad-request', `No address: ${url}`)
}
