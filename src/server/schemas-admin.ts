/** The shapes of the calls that a watching page makes: figures, heads, cursors and connections, each bounded. */
import { z } from 'zod'
import type { Problem } from '../errors.ts'
import { CHANNEL_BYTES_MAX, SEQ_MAX } from '../event.ts'
import { RETENTION_AGE_MAX } from '../retention.ts'
import { digits, digitsOrNone } from './digits.ts'
import { Channel, Cursor, Epoch, InForce, Seq, Time } from './schemas.ts'
import { SPACE_ORDERS } from './space.ts'
import { SURVEYED_CHANNELS_MAX } from './survey.ts'

/** Most rows of one answer; default LIST_ROWS. */
export const LIST_ROWS_MAX = 1_000
const LIST_ROWS = 100
/** Of the channels by their space: of each row one block may be read. */
const SPACE_ROWS_MAX = 200

const count = (description: string) => z.number().meta({ description })

export const Figures = z
  .object({
    at: count('The clock that rates are made with, ms: it never goes back while the server runs'),
    startedAt: Time,
    state: z.string(),
    reason: z.string().optional(),
    streamer: z.enum(['on', 'off']),
    appends: count('Appends that were answered as durable'),
    appendedEvents: count('Events of those appends'),
    appendedBytes: count('Bytes of their bodies as they are kept'),
    deliveredEvents: count('Events given to readers'),
    deliveredBytes: count('Bytes of the answers and frames that held them'),
    failures: count('Refused or failed calls'),
    groups: z
      .object({
        seconds: z.number(),
        count: z.number(),
        changes: z.number(),
        bytes: z.number(),
        bounds: z.array(z.number()).readonly(),
        counts: z.array(z.number()).readonly(),
      })
      .optional()
      .meta({
        description:
          'Writes of the log with their fsync: seconds spent, how many, the changes that shared them, and how many took up to each of `bounds` seconds; the last of `counts` is those beyond',
      }),
    followers: z.object({ poll: z.number(), sse: z.number(), stream: z.number() }),
    connections: z.number(),
    sockets: z.number(),
    pendingAppends: z.number(),
    pendingBytes: z.number(),
    memory: count('Resident memory of the process, bytes'),
    disk: z.object({ free: z.number(), size: z.number(), used: count('Bytes of the files of the log') }).optional(),
  })
  .meta({ id: 'Figures', description: 'Counters since the start and states of now: two answers make a rate' })

const limit = digits(1, LIST_ROWS_MAX, LIST_ROWS)

export const ListHeads = z.strictObject({ limit })
export const Heads = z
  .object({
    at: count('When they were looked at, as in Figures'),
    over: count('Since the look before, ms; 0 at the first look, which tells no rates'),
    channels: count('Channels that were looked at'),
    complete: z.boolean().meta({ description: `False beyond ${SURVEYED_CHANNELS_MAX} channels` }),
    heads: z.array(z.object({ channel: Channel, head: Seq, trimmed: Seq, rate: count('Events a second') })),
  })
  .meta({ id: 'Heads', description: 'The channels whose heads moved most between two looks at all of them' })

export const ListCursors = z.strictObject({ limit, channel: Channel.optional() })
export const WorstCursors = z
  .object({
    cursors: z.array(Cursor),
    found: count('How many there are'),
  })
  .meta({ id: 'WorstCursors' })

export const ListConnections = z.strictObject({ limit })
export const OpenConnections = z
  .object({
    count: count('All that are open'),
    connections: z.array(
      z.object({
        address: z.string().meta({ description: 'Address and port of the other side; no two are the same' }),
        door: z.enum(['stream', 'sse', 'poll', 'http', 'idle']),
        client: z.string().nullable(),
        subscriptions: z.number(),
        waiting: count('Bytes that the other side has not taken'),
        since: Time,
      }),
    ),
  })
  .meta({ id: 'OpenConnections' })

export const ShownSettings = z
  .object({
    server: z.string(),
    url: z.string(),
    settings: z.array(z.object({ name: z.string(), value: z.string(), from: z.string() })).readonly(),
    limits: z.record(z.string(), z.number()),
  })
  .meta({ id: 'ShownSettings', description: 'What holds for this server, and where each value came from; no secrets' })

export const ListSpace = z.strictObject({
  channel: Channel.optional().meta({ description: 'This one alone, as it is now' }),
  holds: z.string().max(CHANNEL_BYTES_MAX).default('').meta({ description: 'Names that hold this, in any case' }),
  by: z
    .enum(SPACE_ORDERS)
    .default('bytes')
    .meta({ description: 'Most first; names in their order, `time` newest first' }),
  reverse: z.literal('1').optional(),
  skip: digits(0, SURVEYED_CHANNELS_MAX, 0),
  limit: digits(1, SPACE_ROWS_MAX, LIST_ROWS),
})
const estimate = 'About what its events take on disk, without those written last, where the engine knows it'
export const Space = z
  .object({
    channels: count('Channels that were looked at'),
    complete: z.boolean().meta({ description: `False beyond ${SURVEYED_CHANNELS_MAX} channels` }),
    found: count('Those that were asked for'),
    events: count('Seqs that all of these keep'),
    bytes: z.number().optional().meta({ description: 'About what they take together' }),
    keeper: z
      .object({
        lookedAt: Time.nullable(),
        nextLookAt: Time.nullable(),
        trims: z.number(),
        events: z.number(),
        cursors: z.number(),
      })
      .meta({
        description: 'What retention did since the start: looks at all channels, seqs dropped, cursors forgotten',
      }),
    rows: z.array(
      z.object({
        channel: Channel,
        epoch: Epoch,
        head: Seq,
        trimmed: Seq,
        time: Time.nullable(),
        bytes: z.number().optional().meta({ description: estimate }),
        oldest: Time.nullable().meta({
          description: 'Of the oldest event; null: there is none, or it can not be read',
        }),
        retention: InForce.optional(),
        dropped: z
          .object({ time: Time, events: z.number() })
          .optional()
          .meta({ description: 'What retention dropped of it last, since the start' }),
      }),
    ),
  })
  .meta({ id: 'Space', description: 'Channels by the space that they take' })

/** The limits of a channel's settings, in a query. */
export const AskPlan = z.strictObject({
  channel: Channel,
  maxAge: digitsOrNone(1, RETENTION_AGE_MAX),
  maxEvents: digitsOrNone(1, SEQ_MAX),
  maxBytes: digitsOrNone(1, SEQ_MAX),
  consumed: z.literal('1').optional(),
  everything: z.literal('1').optional().meta({ description: 'Of a channel whose settings say to keep everything' }),
})
export const Plan = z
  .object({
    channel: Channel,
    epoch: Epoch,
    head: Seq,
    trimmed: Seq,
    upTo: Seq.meta({ description: 'The last seq that would go; `trimmed` when none would' }),
    more: z.boolean().meta({ description: 'There was more to read than at one look: more may go' }),
    retention: InForce.optional(),
  })
  .meta({ id: 'RetentionPlan', description: 'What limits would drop now' })

export const RunList = z.object({
  runs: z.array(
    z.object({
      work: z.enum(['compact', 'erase', 'verify']),
      channel: Channel.optional(),
      running: z.boolean(),
      startedAt: Time.optional(),
      finishedAt: Time.optional(),
      dryRun: z.boolean().optional(),
      phase: z.string().optional(),
      seq: Seq.optional(),
      trimmed: Seq.optional(),
      head: Seq.optional(),
      freed: z.number().optional(),
      bytes: z.number().optional(),
      report: z.unknown().optional(),
      failed: z.custom<Problem>().optional(),
      stopped: z.literal(true).optional(),
    }),
  ),
})
