/** `POST /v1/poll`: many channels with their cursors in one request. seats.ts reads; here the answer is made. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { Packr } from 'msgpackr'
import type { Principal } from '../access/principal.ts'
import type { Doors } from '../doors/doors.ts'
import { POLL_BYTES_MAX, SWITCH_NEWS_MS } from '../doors/limits.ts'
import { TidemarkError, toProblem } from '../errors.ts'
import { JSON_TYPE, mediaType } from '../event.ts'
import { bytesIn, countOn, cutPage } from '../formats/render.ts'
import type { Page } from '../log/log.ts'
import type { PollJson } from '../wire.ts'
import { askedPoll } from './asked.ts'
import {
  answerOf,
  type Body,
  type Bytes,
  behindFirst,
  joined,
  type PageAnswer,
  pageAnswer,
  sendAnswer,
} from './bodies.ts'
import { acceptedType, checkMethod, readBody } from './http.ts'
import { type Rendered, readSeats, type Seat } from './seats.ts'

export const MSGPACK_TYPE = 'application/msgpack'
const POLL_TYPES = [JSON_TYPE, MSGPACK_TYPE] as const
const packr = new Packr({ useRecords: false })

/** @throws what is told to the caller; nothing is sent then */
export async function poll(req: IncomingMessage, res: ServerResponse, doors: Doors, who: Principal): Promise<void> {
  checkMethod(req, 'POST')
  const type = acceptedType(req, POLL_TYPES)
  if (mediaType(req.headers['content-type'] ?? '') !== JSON_TYPE)
    throw new TidemarkError('unsupported-type', 'This call takes application/json')
  who.known()
  const asked = askedPoll(await readBody(req, res, POLL_BYTES_MAX))
  // A body may come slower than its credential ends.
  who.known()
  // Who does not know yet how the switch stands is told at once: the turn that would end its wait is over.
  const isNews = asked.streamer !== undefined && asked.streamer !== streamerOf(doors).streamer
  const wait = asked.wait === 0 || isNews ? undefined : doors.waits.begin(res, asked.wait * 1_000, who, true)
  try {
    const answer =
      type === JSON_TYPE
        ? jsonAnswer(doors, await readSeats(doors, asked, who, renderJson, wait))
        : msgpackAnswer(doors, await readSeats(doors, asked, who, renderBlocks, wait))
    if (res.destroyed) return
    const { body, events } = answer
    doors.metrics.delivered('poll', events, body.length)
    sendAnswer(res, answerOf(type, body))
  } finally {
    wait?.end()
  }
}

// ── The answer ───────────────────────────────────────────────────────────────────────────────────────────────────

interface PollAnswer {
  readonly body: Bytes
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
  seats.reduce((sum, { page }) => sum + (page?.form.count ?? 0), 0)

const renderJson = (page: Page, limit: number): PageAnswer => pageAnswer(page, JSON_TYPE, limit)

function jsonAnswer(doors: Doors, seats: readonly Seat<PageAnswer>[]): PollAnswer {
  const parts: Body[] = ['{"pages":[']
  seats.forEach((seat, i) => {
    if (i > 0) parts.push(',')
    if (seat.error) parts.push(latin1(JSON.stringify(errorOf(seat))))
    else if (seat.page) addPage(parts, seat, seat.page.form.bytes)
    else parts.push(`${JSON.stringify(factsOf(seat)).slice(0, -1)},"events":[]}`)
  })
  parts.push(`],${JSON.stringify(streamerOf(doors)).slice(1)}`)
  return { body: joined(parts), events: eventsOf(seats) }
}

/** The page as whoever reads its channel alone is given it, behind what came before it. */
function addPage(parts: Body[], { gap, reset }: Seat<PageAnswer>, page: Body): void {
  if (!gap && !reset) {
    parts.push(page)
    return
  }
  const before = JSON.stringify({ ...(gap && { gap }), ...(reset && { reset }) })
  parts.push(`${before.slice(0, -1)},`, ...behindFirst(page))
}

/** Refusals may hold any name that a caller came up with; all else here is ASCII or bytes. */
const latin1 = (text: string): string => Buffer.from(text).toString('latin1')

interface BlocksForm extends Rendered {
  readonly blocks: readonly Uint8Array[]
}

function renderBlocks(page: Page, limit: number): BlocksForm {
  const cut = cutPage(page, limit)
  const { blocks, last } = cut
  return { blocks, last, count: countOn(cut), length: bytesIn(blocks) }
}

function msgpackAnswer(doors: Doors, seats: readonly Seat<BlocksForm>[]): PollAnswer {
  const pages = seats.map((seat) =>
    seat.error ? errorOf(seat) : { ...factsOf(seat), blocks: Buffer.concat(seat.page?.form.blocks ?? []) },
  )
  return { body: packr.pack({ pages, ...streamerOf(doors) }), events: eventsOf(seats) }
}
