/**
 * The shapes of the HTTP calls but the two hot ones: what they take is checked by these, and /openapi.json is made of
 * them. Unknown fields are refused everywhere. What answers hold is described, and checked in tests only.
 */
import { z } from 'zod'
import { ERRORS, TidemarkError } from '../errors.ts'
import {
  APPEND_EVENTS_MAX,
  CHANNEL_BYTES_MAX,
  CURSOR_NAME_BYTES_MAX,
  checkChannel,
  checkCursorName,
  checkEpoch,
  checkPosition,
  checkSeq,
  checkTime,
  ID_BYTES_MAX,
  SEQ_MAX,
} from '../event.ts'
import { RETENTION_AGE_MAX } from '../retention.ts'
import {
  POLL_CHANNELS_MAX,
  READ_EVENTS,
  READ_EVENTS_MAX,
  SSE_CHANNELS_MAX,
  STATE_EVENTS,
  WAIT_SECONDS_MAX,
} from '../wire.ts'
import { digits } from './digits.ts'

/** Longest `settings.note`, characters. */
export const NOTE_MAX = 1_000
/** Most channels of one `GET /v1/channels` answer; default LIST_CHANNELS. */
export const LIST_CHANNELS_MAX = 1_000
export const LIST_CHANNELS = 100

/** A schema whose rule is one of the words' own checks, so that it stands in one place. */
const word = <Schema extends z.ZodType>(schema: Schema, check: (value: unknown) => unknown) =>
  schema.superRefine((value, context) => {
    try {
      check(value)
    } catch (error) {
      if (!(error instanceof TidemarkError)) throw error
      context.addIssue({ code: 'custom', message: error.message })
    }
  })

// ── Words ────────────────────────────────────────────────────────────────────────────────────────────────────────

export const Channel = word(z.string().max(CHANNEL_BYTES_MAX), checkChannel).meta({
  description: 'A channel; in a path `/` and `%2F` mean the same',
  examples: ['orders'],
})
export const Client = word(z.string().max(CURSOR_NAME_BYTES_MAX), checkCursorName).meta({
  description:
    'A client: the name that one follower keeps its cursors under. Admins say and are told whole names, with the subject before a ~',
  examples: ['web-42'],
})
export const Epoch = word(z.string().max(32), checkEpoch).meta({
  description: "The life of a channel's history, opaque",
})
export const Seq = word(z.number(), checkSeq).meta({ type: 'integer', minimum: 0, maximum: SEQ_MAX })
export const Time = z.string().meta({ format: 'date-time', description: 'RFC 3339, UTC, with milliseconds' })
const After = word(z.union([z.number(), z.string()]), checkPosition).meta({
  description: 'A seq, or `earliest`, `head`, `head-50`, `time:<RFC 3339>`: the events after it',
  examples: [41, 'head'],
})

export const ChannelPath = z.strictObject({ channel: Channel })
export const CursorPath = z.strictObject({ channel: Channel, client: Client })
export const ClientPath = z.strictObject({ client: Client })
export const NoQuery = z.strictObject({})
/** A client that did not get a part asks by another address: the browser may remember this one's failure. */
export const PartQuery = z.strictObject({ again: z.string().optional() })

// ── Events and pages (their data are not looked at here) ─────────────────────────────────────────────────────────

const Audience = z.strictObject({ users: z.array(z.string()).optional(), groups: z.array(z.string()).optional() })

export const NewEvent = z
  .strictObject({
    type: z.string().optional(),
    key: z.string().optional(),
    id: z.string().optional(),
    contentType: z.string().optional(),
    data: z.unknown().optional(),
    dataBase64: z.string().optional(),
    to: Audience.optional(),
  })
  .meta({ id: 'NewEvent', description: 'An event as it is appended: data, a key or a type at least' })

export const EventRead = z
  .object({
    seq: Seq,
    time: Time,
    type: z.string().optional(),
    key: z.string().optional(),
    id: z.string().optional(),
    contentType: z.string().optional(),
    data: z.unknown().optional(),
    dataBase64: z.string().optional(),
    tombstone: z.literal(true).optional(),
    to: Audience.optional(),
  })
  .meta({ id: 'Event', description: 'An event as it is read' })

export const Page = z
  .object({
    channel: Channel,
    epoch: Epoch,
    after: Seq,
    last: Seq,
    head: Seq,
    trimmed: Seq,
    caughtUp: z.boolean(),
    events: z.array(EventRead),
  })
  .meta({ id: 'Page', description: "Events after a position. The next request's `after` is this `last`" })

export const StatePage = Page.extend({ at: Seq }).meta({
  id: 'StatePage',
  description: 'The newest event of each key with after < seq ≤ last, as it is true at the seq `at`',
})

const ANSWERED = { channel: Channel, epoch: Epoch, first: Seq, last: Seq, head: Seq }
const DURABILITY = z.enum(['fsync', 'replicated', 'memory', 'unknown'])

// The hot calls check by themselves; these describe them.

export const AppendQuery = z.strictObject({
  expectedSeq: z.string().optional().meta({ type: 'integer', description: 'The head that the writer believes' }),
  type: z.string().optional().meta({ description: 'Of the one event of a raw body, as are key and id' }),
  key: z.string().optional(),
  id: z.string().optional(),
})

export const AppendHeaders = z.object({
  'idempotency-key': z
    .string()
    .max(ID_BYTES_MAX)
    .optional()
    .meta({ description: 'One per append, 1–128 printable ASCII' }),
})

export const AppendBody = z.union([NewEvent, z.array(NewEvent).min(1).max(APPEND_EVENTS_MAX)])

export const ReadQuery = z.strictObject({
  after: z.string().optional().meta({ description: 'A position; default `earliest`' }),
  limit: digits(1, READ_EVENTS_MAX, READ_EVENTS),
  wait: digits(0, WAIT_SECONDS_MAX, 0),
  epoch: Epoch.optional(),
  client: Client.optional().meta({ description: 'From the cursor of this client, in place of `after`' }),
})

export const StateQuery = z.strictObject({
  prefix: z.string().optional().meta({ description: 'Keys that begin with it' }),
  limit: digits(1, READ_EVENTS_MAX, STATE_EVENTS),
  epoch: Epoch.optional(),
  at: z.string().optional().meta({ type: 'integer', description: 'With `epoch`: of which state this is another page' }),
  after: z.string().optional().meta({ type: 'integer', description: 'With `at`: the `last` of the page before' }),
})

export const StreamQuery = z.strictObject({
  channel: z
    .array(z.string())
    .min(1)
    .max(SSE_CHANNELS_MAX)
    .meta({ description: 'A channel, with where to begin: `orders`, `orders@41`, `orders@x1:41`' }),
  named: z.enum(['0', '1']).optional().meta({ description: '0 sends every event as `message`' }),
})

export const Appended = z
  .object({ ...ANSWERED, durability: DURABILITY, duplicate: z.literal(true).optional() })
  .meta({ id: 'Appended' })

export const Problem = z
  .looseObject({
    type: z.string(),
    title: z.string(),
    status: z.number(),
    code: z.enum(Object.keys(ERRORS) as [keyof typeof ERRORS]),
    detail: z.string(),
  })
  .meta({ id: 'Problem', description: 'RFC 9457. `code` never changes; /errors explains each' })

/** Every failed call. */
export const Refusal = { content: { 'application/problem+json': { schema: Problem } } }

// ── POST /v1/append ──────────────────────────────────────────────────────────────────────────────────────────────

/** Its `events` are left as text by the parser (`data` is kept verbatim), so this only describes them. */
export const MultiAppend = z
  .strictObject({
    appends: z
      .array(
        z.strictObject({
          channel: Channel,
          events: z.array(NewEvent).min(1).max(APPEND_EVENTS_MAX),
          expectedSeq: Seq.optional(),
        }),
      )
      .min(1)
      .max(POLL_CHANNELS_MAX),
  })
  .meta({ id: 'MultiAppend', description: 'Appends to several channels, each once: all or nothing' })

export const MultiAppended = z
  .object({
    appended: z.array(z.object(ANSWERED)),
    durability: DURABILITY,
    duplicate: z.literal(true).optional(),
  })
  .meta({ id: 'MultiAppended' })

// ── POST /v1/poll ────────────────────────────────────────────────────────────────────────────────────────────────

export const PollChannel = z.strictObject({
  commit: Seq.optional().meta({ description: 'Moves the cursor of `client` before reading' }),
  after: After.optional(),
  epoch: Epoch.nullish().meta({ description: 'The history that the caller knows; null for none' }),
  tell: z
    .boolean()
    .optional()
    .meta({ description: 'Has a page though nothing moved: where it stands, of which history' }),
})

export const Poll = z
  .strictObject({
    client: Client.optional(),
    channels: z.record(z.string(), PollChannel).meta({ maxProperties: POLL_CHANNELS_MAX }),
    wait: z.number().min(0).max(WAIT_SECONDS_MAX).default(0).meta({ description: 'Seconds to wait for something' }),
    limit: z.number().int().min(1).max(READ_EVENTS_MAX).default(READ_EVENTS),
    streamer: z
      .enum(['on', 'off'])
      .optional()
      .meta({ description: 'As the caller was told last; it does not wait where the switch stands otherwise' }),
  })
  .meta({ id: 'Poll' })

const PollPage = z.union([
  Page.extend({
    epoch: Epoch.nullable(),
    gap: z.object({ after: Seq, trimmed: Seq }).optional(),
    reset: z.literal(true).optional(),
  }),
  z.object({
    channel: z.string(),
    error: z.looseObject({ code: z.string(), status: z.number(), detail: z.string() }),
  }),
])

export const PollAnswer = z
  .object({
    pages: z.array(PollPage),
    streamer: z.enum(['on', 'off']),
    streamerRetryAfter: z.number().optional(),
  })
  .meta({ id: 'PollAnswer' })

// ── Cursors ──────────────────────────────────────────────────────────────────────────────────────────────────────

export const CursorMove = z
  .strictObject({ seq: Seq, epoch: Epoch.optional(), seek: z.boolean().default(false) })
  .meta({ id: 'CursorMove', description: 'Forward only, unless `seek`' })

export const Cursor = z
  .object({ client: Client, channel: Channel, epoch: Epoch, seq: Seq, lag: Seq, time: Time })
  .meta({ id: 'Cursor' })

export const Cursors = z.object({ cursors: z.array(Cursor), damaged: z.array(z.string()).optional() })

// ── Channels ─────────────────────────────────────────────────────────────────────────────────────────────────────

const RETENTION = {
  maxAge: z.number().int().min(1).max(RETENTION_AGE_MAX).optional().meta({ description: 'Older events go; seconds' }),
  maxEvents: z.number().int().min(1).max(SEQ_MAX).optional().meta({ description: 'So many seqs up to the head stay' }),
  maxBytes: z.number().int().min(1).max(SEQ_MAX).optional().meta({ description: 'Most bytes of the blocks that stay' }),
  consumed: z.boolean().optional().meta({ description: 'Nothing goes that a living cursor has not passed' }),
}

export const InForce = z
  .object({ ...RETENTION, from: z.string() })
  .meta({ description: 'What is in force for this one channel, and who says so: `channel` or `pattern …`' })

export const Settings = z
  .strictObject({
    note: z.string().max(NOTE_MAX).optional(),
    retention: z
      .strictObject(RETENTION)
      .optional()
      .meta({ description: 'In place of what the configuration says for this channel; `{}` keeps everything' }),
    state: z.boolean().optional().meta({ description: 'The newest event of each key is kept on disk, too' }),
  })
  .meta({ id: 'Settings' })

export const ChannelInfo = z
  .object({
    channel: Channel,
    epoch: Epoch,
    head: Seq,
    trimmed: Seq,
    time: Time.nullable(),
    settings: Settings,
    bytes: z.number().optional().meta({
      description:
        'About what its events take on disk, without those written last; where it was asked for and is known',
    }),
    retention: InForce.optional(),
    state: z.object({ at: Seq.optional(), keys: z.number().optional(), from: z.string() }).optional().meta({
      description:
        'Of this one channel, where its state is kept on disk: at which seq what is kept is true, and who says so',
    }),
  })
  .meta({ id: 'Channel' })

export const ListChannels = z.strictObject({
  prefix: z.string().max(CHANNEL_BYTES_MAX).default(''),
  after: z.string().max(CHANNEL_BYTES_MAX).optional().meta({ description: 'A name: those behind it are listed' }),
  limit: digits(1, LIST_CHANNELS_MAX, LIST_CHANNELS),
  bytes: z.literal('1').optional().meta({ description: 'Each with about what its events take on disk' }),
})

export const Channels = z.object({
  channels: z.array(ChannelInfo),
  next: Channel.optional().meta({ description: 'There are more: the next `after`' }),
  damaged: z
    .array(Channel)
    .optional()
    .meta({ description: 'Names whose channels can not be told: their rows are damaged' }),
})

const MeantEpoch = Epoch.optional().meta({ description: 'The history that is meant; another one is left alone' })

export const DeleteQuery = z.strictObject({ epoch: MeantEpoch })

export const Trim = z
  .strictObject({
    upTo: Seq.optional().meta({ description: 'The last seq to drop' }),
    olderThan: z
      .union([z.number().min(0), word(z.string(), checkTime)])
      .optional()
      .meta({ description: 'Drops events from before this time: RFC 3339, or a number of seconds ago' }),
    keepLast: Seq.optional().meta({ description: 'How many seqs up to the head stay' }),
    epoch: MeantEpoch,
  })
  .refine(({ epoch, ...trim }) => Object.values(trim).filter((given) => given !== undefined).length === 1, {
    message: 'takes exactly one of upTo, olderThan, keepLast',
  })
  .meta({ id: 'Trim', description: 'Exactly one of upTo, olderThan and keepLast' })

// ── Server ───────────────────────────────────────────────────────────────────────────────────────────────────────

const ABOUT = {
  engine: z.string(),
  durability: DURABILITY,
  capabilities: z.array(z.string()).readonly(),
  idWindow: z.number().meta({ description: 'How long an idempotency key is remembered at least, ms' }),
  state: z.string(),
  streamer: z.enum(['on', 'off']),
}

export const Ready = z
  .object(ABOUT)
  .partial()
  .required({ state: true })
  .meta({ id: 'Ready', description: 'Only the state for who is no admin' })

export const Status = z
  .object({
    ...ABOUT,
    server: z.string(),
    reason: z.string().optional(),
    startedAt: Time,
    connections: z.number(),
    sockets: z.number(),
    pendingAppends: z.number(),
    pendingBytes: z.number(),
    memory: z.number().meta({ description: 'Resident memory of the process, bytes' }),
  })
  .meta({ id: 'Status' })

export const Streamer = z.strictObject({ on: z.boolean() }).meta({ id: 'Streamer' })

export const Nothing = z.undefined().meta({ description: 'Done; there is nothing to say' })
export const Live = z.object({ live: z.literal(true) })
/** An answer of lines without an end. */
export const Lines = z.string()
/** An answer of MessagePack. */
export const Bytes = z.string().meta({ contentEncoding: 'binary' })
/** An answer that is not JSON. */
export const textOf = (type: string) => ({ content: { [type]: { schema: z.string() } } })
export const OpenApi = z.looseObject({ openapi: z.string() })
