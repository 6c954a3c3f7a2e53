/** The shapes of the calls that a watching page makes: figures, heads, cursors and connections, each bounded. */
import { z } from 'zod'
import { Channel, Cursor, digits, Seq, Time } from './schemas.ts'
import { SURVEYED_CHANNELS_MAX } from './survey.ts'

/** Most rows of one answer; default LIST_ROWS. */
export const LIST_ROWS_MAX = 1_000
const LIST_ROWS = 100

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
