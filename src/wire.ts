/**
 * What server and client say to each other: paths, messages, close codes. PROTOCOL.md explains each; the two ends
 * meet in this file and nowhere else.
 */
import type { Problem } from './errors.ts'

export const SUBPROTOCOL = { json: 'tidemark.v1.json', msgpack: 'tidemark.v1.msgpack' } as const

/** Those that the client knows by name stand alone, so that a page loads no table. */
export const CLOSE_BAD_FRAME = 4400
export const CLOSE_UNAUTHORIZED = 4401
export const CLOSE_STREAMER_OFF = 4503

/** WebSocket close codes that the server chooses; 1002, 1007, 1008 and 1009 come from the protocol itself. */
export const CLOSE = {
  goingAway: 1001,
  /** A text frame under the binary subprotocol, or the other way round. */
  unsupported: 1003,
  tooBig: 1009,
  internal: 1011,
  tryAgain: 1013,
  badFrame: CLOSE_BAD_FRAME,
  unauthorized: CLOSE_UNAUTHORIZED,
  forbidden: 4403,
  /** No hello, no pong, or no byte taken for STALLED_MS while behind. */
  timeout: 4408,
  tooMany: 4429,
  streamerOff: CLOSE_STREAMER_OFF,
} as const

/** Close codes after which a client does not come back; after 4401 once, with a new token. */
export const CLOSE_FINAL: readonly number[] = [1002, 1003, 1007, 1008, 1009, CLOSE_BAD_FRAME, 4403]

/** A close reason's hint, `retry=1234`: ms until the client should come back. */
export function retryOf(reason: string): number | undefined {
  const match = /\bretry=(\d{1,7})\b/.exec(reason)
  return match ? Number(match[1]) : undefined
}

// ── HTTP limits ──────────────────────────────────────────────────────────────────────────────────────────────────

/** Most events of one read answer; default READ_EVENTS. */
export const READ_EVENTS_MAX = 10_000
export const READ_EVENTS = 100
/** Default of an answer with a state. */
export const STATE_EVENTS = 1_000
/** Answers are cut near this many bytes, never below one event. */
export const READ_BYTES = 1024 * 1024
/** Longest long poll, seconds. */
export const WAIT_SECONDS_MAX = 55
/** Most channels of one `/v1/poll`, of one multi-channel append. */
export const POLL_CHANNELS_MAX = 1_000
/** Most channels of one `GET /v1/events`. */
export const SSE_CHANNELS_MAX = 32

// ── Events and pages as JSON ─────────────────────────────────────────────────────────────────────────────────────

export interface AudienceJson {
  users?: readonly string[]
  groups?: readonly string[]
}

/** An event as it is read. With a JSON content type `data` is the value and there is no `contentType`. */
export interface EventJson {
  seq: number
  /** RFC 3339, UTC, with milliseconds. */
  time: string
  type?: string
  key?: string
  id?: string
  contentType?: string
  data?: unknown
  dataBase64?: string
  tombstone?: true
  to?: AudienceJson
  /** On SSE, where one stream may carry several channels. */
  channel?: string
}

/** An event as it is appended. */
export interface NewEventJson {
  type?: string
  key?: string
  id?: string
  contentType?: string
  data?: unknown
  dataBase64?: string
  to?: AudienceJson
}

/** Answer of a read. As `application/msgpack`, `blocks` (a bin of whole blocks) stands in place of `events`. */
export interface PageJson {
  channel: string
  epoch: string
  after: number
  last: number
  head: number
  trimmed: number
  caughtUp: boolean
  /** Of a state: the seq at which it is true. */
  at?: number
  events: EventJson[]
}

export interface AppendedJson {
  channel: string
  epoch: string
  first: number
  last: number
  head: number
  durability: string
  duplicate?: true
}

export interface CursorJson {
  client: string
  channel: string
  epoch: string
  seq: number
  /** head − seq. */
  lag: number
  time: string
}

// ── What a watching page is told ─────────────────────────────────────────────────────────────────────────────────

/** Counters since the server's start, and states of now: two answers make a rate. */
export interface FiguresJson {
  /** The clock that rates are made with, ms. */
  at: number
  startedAt: string
  state: string
  reason?: string
  streamer: 'on' | 'off'
  appends: number
  appendedEvents: number
  appendedBytes: number
  deliveredEvents: number
  deliveredBytes: number
  failures: number
  groups?: GroupsJson
  followers: { poll: number; sse: number; stream: number }
  connections: number
  sockets: number
  pendingAppends: number
  pendingBytes: number
  memory: number
  disk?: { free: number; size: number; used: number }
}

/** Writes of the log with their fsync. */
export interface GroupsJson {
  seconds: number
  count: number
  changes: number
  bytes: number
  /** Seconds, and how many writes took up to each; the last count is of those beyond all bounds. */
  bounds: readonly number[]
  counts: readonly number[]
}

/** The channels whose heads moved most between two looks at all of them. */
export interface HeadsJson {
  at: number
  /** ms since the look before; 0 at the first one, which tells no rates. */
  over: number
  channels: number
  complete: boolean
  heads: { channel: string; head: number; trimmed: number; rate: number }[]
}

export interface WorstCursorsJson {
  cursors: CursorJson[]
  /** How many there are. */
  found: number
}

export interface ConnectionJson {
  address: string
  /** `idle`: nothing is under way on it. */
  door: 'stream' | 'sse' | 'poll' | 'http' | 'idle'
  client: string | null
  subscriptions: number
  /** Bytes that the other side has not taken. */
  waiting: number
  since: string
}

/** A setting as it was given, and where. */
export interface SettingJson {
  name: string
  value: string
  from: string
}

export interface ChannelInfoJson {
  channel: string
  epoch: string
  head: number
  trimmed: number
  /** Of the newest event; null when nothing was ever appended. */
  time: string | null
  settings: { note?: string; retention?: RetentionJson; state?: boolean }
  /** About what its events take on disk. */
  bytes?: number
  /** What is in force, and who says so; of one channel that was asked for. */
  retention?: RetentionJson & { from: string }
  /** Where its state is kept on disk, and who says so; without `at` and `keys` there are no rows yet. */
  state?: { at?: number; keys?: number; from: string }
}

/** What is kept of a channel; `maxAge` in seconds. */
export interface RetentionJson {
  maxAge?: number
  maxEvents?: number
  maxBytes?: number
  consumed?: boolean
}

/** Channels by the space that they take. */
export interface SpaceJson {
  channels: number
  complete: boolean
  /** Those that were asked for, and what they take together. */
  found: number
  events: number
  bytes?: number
  keeper: KeeperJson
  rows: SpaceRowJson[]
}

export interface SpaceRowJson extends Omit<ChannelInfoJson, 'settings' | 'state'> {
  /** Of the oldest event; null when there is none, or it can not be read. */
  oldest: string | null
  /** What retention dropped last, since the server's start. */
  dropped?: { time: string; events: number }
}

/** What retention did since the server's start. */
export interface KeeperJson {
  lookedAt: string | null
  nextLookAt: string | null
  trims: number
  events: number
  cursors: number
}

/** What limits would drop now. */
export interface PlanJson {
  channel: string
  epoch: string
  head: number
  trimmed: number
  /** The last seq that would go; `trimmed` when none would. */
  upTo: number
  /** There was more to read than at one look: more may go. */
  more: boolean
  retention?: RetentionJson & { from: string }
}

/** Work on histories in the background: what is under way, and what was. */
export interface RunJson {
  work: 'compact' | 'erase' | 'verify'
  channel?: string
  running: boolean
  startedAt?: string
  finishedAt?: string
  dryRun?: boolean
  phase?: string
  /** The phase goes over the seqs behind `trimmed` up to `head`, and is at `seq`. */
  seq?: number
  trimmed?: number
  head?: number
  /** Compaction: bytes of blocks less than before, so far. Verification: bytes read. */
  freed?: number
  bytes?: number
  report?: unknown
  failed?: Problem
  stopped?: true
}

export interface CursorsJson {
  cursors: CursorJson[]
  /** Clients of a channel, or channels of a client, whose cursors can not be told: their rows are damaged. */
  damaged?: string[]
}

export interface ChannelsJson {
  channels: ChannelInfoJson[]
  /** There are more: the next `after`. */
  next?: string
  /** Names whose channels can not be told: their rows are damaged. */
  damaged?: string[]
}

/** One channel of a `/v1/poll` answer. */
export type PollPageJson =
  | (Omit<PageJson, 'epoch'> & { epoch: string | null; gap?: { after: number; trimmed: number }; reset?: true })
  | { channel: string; error: Omit<Problem, 'type' | 'title'> }

export interface PollJson {
  pages: PollPageJson[]
  streamer: 'on' | 'off'
  /** ms over which clients spread their return to the streamer; when it was just turned on. */
  streamerRetryAfter?: number
}

// ── WebSocket messages ───────────────────────────────────────────────────────────────────────────────────────────

/** Chosen by the client, returned as it was: 1–64 characters or a whole number. */
export type Ref = string | number

export type ClientMessage =
  | { op: 'hello'; ref?: Ref; token?: string; client?: string }
  | {
      op: 'subscribe'
      ref?: Ref
      channel: string
      after?: number | string
      cursor?: true
      state?: true
      epoch?: string
    }
  | { op: 'unsubscribe'; ref?: Ref; channel: string }
  | { op: 'commit'; ref?: Ref; channel: string; seq: number; epoch?: string }
  | {
      op: 'append'
      ref: Ref
      channel: string
      events: NewEventJson[]
      expectedSeq?: number
      idempotencyKey?: string
    }
  | { op: 'refresh'; ref?: Ref; token: string }
  | { op: 'ping'; ref?: Ref }

/** Limits that a client must know, told in `welcome`. */
export interface WireLimits {
  /** Largest frame from a client, bytes. */
  frameBytes: number
  subscriptions: number
  appendEvents: number
}

/** A field that is `undefined` is not sent. */
export type ServerMessage =
  | {
      op: 'welcome'
      ref?: Ref | undefined
      server: string
      client: string | null
      heartbeat: number
      limits: WireLimits
      /** ms until the credential ends; absent when it never does. */
      expiresIn?: number | undefined
    }
  | {
      op: 'subscribed'
      ref?: Ref | undefined
      channel: string
      epoch: string | null
      after: number
      trimmed: number
      head: number
    }
  | { op: 'events'; channel: string; epoch: string; after: number; last: number; at?: number; events: EventJson[] }
  | { op: 'events'; channel: string; epoch: string; after: number; last: number; at?: number; blocks: Uint8Array }
  | { op: 'caughtup'; channel: string; seq: number }
  | { op: 'gap'; channel: string; after: number; trimmed: number }
  | { op: 'reset'; channel: string; epoch: string | null; trimmed: number; head: number }
  | { op: 'ended'; channel: string; code: string; detail: string; [detail: string]: unknown }
  | {
      op: 'committed'
      ref: Ref
      client: string
      channel: string
      epoch: string
      seq: number
      lag: number
      time: string
    }
  | ({ op: 'appended'; ref: Ref } & AppendedJson)
  | { op: 'unsubscribed'; ref?: Ref | undefined; channel: string }
  | {
      op: 'error'
      ref?: Ref | undefined
      channel?: string | undefined
      code: string
      detail: string
      [detail: string]: unknown
    }
  | { op: 'pong'; ref?: Ref | undefined }
  | { op: 'refreshed'; ref?: Ref | undefined; expiresIn?: number | undefined }
  | { op: 'heartbeat' }
  | { op: 'switch'; streamer: 'off'; retryAfter: number }
