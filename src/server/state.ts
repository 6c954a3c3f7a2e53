/** `GET /v1/channels/{channel}/state`: the newest event of each key, page after page as it is true at one seq. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Principal } from '../access/principal.ts'
import type { Doors } from '../doors/doors.ts'
import { TidemarkError } from '../errors.ts'
import { checkEpoch, KEY_BYTES_MAX, SEQ_MAX } from '../event.ts'
import { refuse } from '../formats/json.ts'
import type { Page } from '../log/log.ts'
import { checkState, type StateAt } from '../log/states.ts'
import { READ_BYTES, READ_EVENTS_MAX, STATE_EVENTS } from '../wire.ts'
import { pageAnswer, sendAnswer } from './bodies.ts'
import { acceptedType, checkMethod, parsePath, parseQuery, READ_TYPES } from './http.ts'
import { within } from './read.ts'

interface Asked {
  readonly channel: string
  readonly prefix: string
  readonly limit: number
  readonly epoch: string | undefined
  /** The state of which this is another page. */
  readonly at: number | undefined
  readonly after: number
}

/** @throws what is told to the caller; nothing is sent then */
export async function state(req: IncomingMessage, res: ServerResponse, doors: Doors, who: Principal): Promise<void> {
  checkMethod(req, 'GET')
  const type = acceptedType(req, READ_TYPES)
  const asked = askedOf(req.url!)
  who.need('read', asked.channel)
  const page = await pageOf(doors, asked)
  // The first walk over a channel takes its time.
  who.stillNeed('read', asked.channel)
  await doors.pages.answer(page, () => {
    if (res.destroyed) return
    const answer = pageAnswer(page, type, Number.POSITIVE_INFINITY)
    doors.metrics.delivered('poll', answer.count, answer.length)
    sendAnswer(res, answer)
  })
}

async function pageOf({ log, states }: Doors, { channel, epoch, at, ...asked }: Asked): Promise<Page> {
  const limits = { events: asked.limit, bytes: READ_BYTES }
  const page = (place: StateAt) => states.page(channel, place, asked.after, limits, asked.prefix)
  if (at !== undefined) return page({ epoch: epoch!, at })
  if (epoch !== undefined) checkState(await log.info(channel), { epoch })
  return page(await states.open(channel))
}

/** @throws bad-request, not-found */
function askedOf(url: string): Asked {
  const path = parsePath(url)
  if (path?.resource !== 'state') throw new TidemarkError('not-found', 'There is nothing at this address')
  const query = parseQuery(url, ['prefix', 'limit', 'epoch', 'at', 'after'])
  const given = (name: string): string | undefined => query.get(name)?.[0]
  const epoch = given('epoch')
  const at = within('at', given('at'), 0, SEQ_MAX)
  const after = within('after', given('after'), 0, at ?? SEQ_MAX)
  if (at === undefined ? after !== undefined : epoch === undefined)
    refuse('Another page is asked for with epoch, at and after')
  const prefix = given('prefix') ?? ''
  if (Buffer.byteLength(prefix) > KEY_BYTES_MAX)
    refuse(`prefix has at most ${KEY_BYTES_MAX} bytes`, { field: 'prefix' })
  return {
    ...{ channel: path.channel, prefix, at, after: after ?? 0 },
    epoch: epoch === undefined ? undefined : checkEpoch(epoch),
    limit: within('limit', given('limit'), 1, READ_EVENTS_MAX) ?? STATE_EVENTS,
  }
}
