/** `POST /v1/poll`: many channels with their cursors in one request. seats.ts reads; here the answer is made. */
import { Packr } from 'msgpackr'
import { readHeader } from '../block.ts'
import { TidemarkError, toProblem } from '../errors.ts'
import { JSON_TYPE } from '../event.ts'
import type { Page } from '../log/log.ts'
import { POLL_CHANNELS_MAX, type PollJson } from '../wire.ts'
import type { App } from './app.ts'
import { sendAsIs } from './app.ts'
import type { Doors } from './doors.ts'
import { acceptedType, untilGone } from './http.ts'
import { jsonFields } from './json.ts'
import { POLL_BYTES_MAX, SWITCH_NEWS_MS } from './limits.ts'
import { cutPage, eventsBytes } from './render.ts'
import * as schemas from './schemas.ts'
import { type Asked, type Rendered, readSeats, type Seat } from './seats.ts'

const MSGPACK_TYPE = 'application/msgpack'
const packr = new Packr({ useRecords: false })
/** A wait that is over. */
const AT_ONCE = { signal: AbortSignal.abort(), end: () => {} } as const

export function addPoll(app: App, doors: Doors): void {
  app.post(
    '/v1/poll',
    {
      bodyLimit: POLL_BYTES_MAX,
      schema: {
        tags: ['events'],
        summary: 'Poll many channels, with cursors',
        description:
          'Commits, then reads each channel from `after` or from the cursor of `client`; waits while none has anything to tell. `pages` holds the channels that moved or have a gap, a reset or an error, and those whose place was asked for by a word, in the order of the request. With `Accept: application/msgpack`, `blocks` stands in place of `events`.',
        body: schemas.Poll,
        response: {
          200: { content: { [JSON_TYPE]: { schema: schemas.PollAnswer }, [MSGPACK_TYPE]: { schema: schemas.Bytes } } },
          default: schemas.Refusal,
        },
      },
    },
    async (request, reply) => {
      const form = acceptedType(request.raw, [JSON_TYPE, MSGPACK_TYPE] as const)
      const { client, limit, wait } = request.body
      const channels = askedOf(request.bytes!, request.body.channels, client)
      const options = { client, channels, limit }
      const waiting = wait === 0 ? AT_ONCE : untilGone(reply.raw, doors.stopping, wait * 1_000)
      try {
        const answer =
          form === JSON_TYPE
            ? jsonAnswer(doors, await readSeats(doors, options, renderJson, waiting.signal))
            : msgpackAnswer(doors, await readSeats(doors, options, renderBlocks, waiting.signal))
        doors.metrics.delivered('poll', answer.events, answer.body.length)
        reply.header('vary', 'Accept, Accept-Encoding, Authorization, Cookie, Origin')
        return sendAsIs(reply, form, answer.body)
      } finally {
        waiting.end()
      }
    },
  )
}

/**
 * What is asked of each channel, in the order of the request: the order of an object's fields is not it where names
 * look like numbers. @throws bad-request
 */
function askedOf(
  bytes: Uint8Array,
  channels: Readonly<Record<string, Asked>>,
  client: string | undefined,
): Map<string, Asked | undefined> {
  const { start, end } = jsonFields(bytes).get('channels')!
  const names = [...jsonFields(bytes, start, end).keys()]
  if (names.length > POLL_CHANNELS_MAX)
    throw new TidemarkError('bad-request', `A poll names at most ${POLL_CHANNELS_MAX} channels`, {
      limit: POLL_CHANNELS_MAX,
    })
  return new Map(
    names.map((name) => {
      // `__proto__` is the one name that the schema passes over.
      if (!Object.hasOwn(channels, name)) return [name, undefined]
      const asked = channels[name]!
      if (asked.commit !== undefined && client === undefined)
        throw new TidemarkError('bad-request', 'A commit is for a client', { field: `channels/${name}/commit` })
      return [name, asked]
    }),
  )
}

// ── The answer ───────────────────────────────────────────────────────────────────────────────────────────────────

interface Answer {
  readonly body: Buffer
  readonly events: number
}

/** What stands in every page beside its events. */
function factsOf(seat: Seat<Rendered>) {
  const { channel, gap, reset } = seat
  const { page, form } = seat.page ?? {}
  const after = page?.after ?? seat.after
  const last = form?.last ?? after
  const { epoch, head, trimmed } = page ?? seat
  return {
    ...{ channel, epoch, after, last, head, trimmed, caughtUp: last >= head },
    ...(gap && { gap }),
    ...(reset && { reset }),
  }
}

function errorOf({ channel, error }: Seat<Rendered>) {
  const { type: _, title: __, ...facts } = toProblem(error)
  return { channel, error: facts }
}

function streamerOf({ switch: streamer, settings }: Doors): Pick<PollJson, 'streamer' | 'streamerRetryAfter'> {
  const turnedOn = streamer.on && Date.now() - streamer.changedAt < SWITCH_NEWS_MS
  return {
    streamer: streamer.on ? 'on' : 'off',
    ...(turnedOn && { streamerRetryAfter: settings.retryWindow }),
  }
}

const eventsOf = (seats: readonly Seat<Rendered>[]): number =>
  seats.reduce((sum, { page }) => sum + (page?.form.events ?? 0), 0)

interface JsonForm extends Rendered {
  /** Comma-joined events. */
  readonly text: Buffer
}

function renderJson(page: Page, limit: number): JsonForm {
  // Without keys every caller may see whom an event is addressed to.
  const { bytes: text, last, count } = eventsBytes(page, { limit, withTo: true })
  return { text, last, events: count, bytes: text.length }
}

function jsonAnswer(doors: Doors, seats: readonly Seat<JsonForm>[]): Answer {
  const parts: Buffer[] = []
  let text = '{"pages":['
  seats.forEach((seat, i) => {
    if (i > 0) text += ','
    if (seat.error) {
      text += JSON.stringify(errorOf(seat))
      return
    }
    text += `${JSON.stringify(factsOf(seat)).slice(0, -1)},"events":[`
    if (seat.page) {
      parts.push(Buffer.from(text), seat.page.form.text)
      text = ''
    }
    text += ']}'
  })
  parts.push(Buffer.from(`${text}],${JSON.stringify(streamerOf(doors)).slice(1)}`))
  return { body: Buffer.concat(parts), events: eventsOf(seats) }
}

interface BlocksForm extends Rendered {
  readonly blocks: readonly Uint8Array[]
}

function renderBlocks(page: Page, limit: number): BlocksForm {
  const { blocks, last } = cutPage(page, limit)
  let events = 0
  let bytes = 0
  for (const block of blocks) {
    events += readHeader(block).count
    bytes += block.length
  }
  return { blocks, last, events, bytes }
}

function msgpackAnswer(doors: Doors, seats: readonly Seat<BlocksForm>[]): Answer {
  const pages = seats.map((seat) =>
    seat.error ? errorOf(seat) : { ...factsOf(seat), blocks: Buffer.concat(seat.page?.form.blocks ?? []) },
  )
  return { body: packr.pack({ pages, ...streamerOf(doors) }), events: eventsOf(seats) }
}
