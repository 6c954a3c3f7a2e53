/** `GET /v1/channels/{channel}/events`: a page from a position, at once or as soon as there is one. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { crc32 } from 'node:zlib'
import type { Principal } from '../access/principal.ts'
import { seenByCaller } from '../doors/callers.ts'
import type { Doors } from '../doors/doors.ts'
import { sameHistory } from '../epoch.ts'
import { hasCode, TidemarkError } from '../errors.ts'
import { checkCursorName, checkEpoch, checkPosition, checkSeq, type Position } from '../event.ts'
import { refuse } from '../formats/json.ts'
import { infoOrNone, readOrWait, seqAt, type Wait } from '../log/follow.ts'
import type { ChannelInfo, Page } from '../log/log.ts'
import type { Source } from '../log/seen.ts'
import { READ_BYTES, READ_EVENTS, READ_EVENTS_MAX, WAIT_SECONDS_MAX } from '../wire.ts'
import { type PageAnswer, pageAnswer, type ReadType, sendAnswer, WITH_TO } from './bodies.ts'
import { acceptedType, checkMethod, parsePath, parseQuery, READ_TYPES } from './http.ts'

interface Asked {
  readonly channel: string
  readonly epoch: string | undefined
  /** From this client's cursor, in place of `after`. */
  readonly client: string | undefined
  readonly after: Position
  /** Most events. */
  readonly limit: number
  /** Seconds; undefined when it was not spoken of. */
  readonly wait: number | undefined
}

/** @throws what is told to the caller; nothing is sent then */
export async function read(req: IncomingMessage, res: ServerResponse, doors: Doors, who: Principal): Promise<void> {
  checkMethod(req, 'GET')
  const type = acceptedType(req, READ_TYPES)
  const asked = askedOf(req.url!)
  who.need('read', asked.channel)
  if (asked.client !== undefined) doors.keeper.signs.saw(who.cursor(asked.client), asked.channel)
  const page = asked.wait
    ? await waitForPage(res, doors, asked, who)
    : await findPage(seenByCaller(doors.log, who), asked, who)
  await doors.pages.answer(page, () => answerPage(req, res, doors, asked, type, page))
}

function answerPage(
  req: IncomingMessage,
  res: ServerResponse,
  doors: Doors,
  asked: Asked,
  type: ReadType,
  page: Page,
): void {
  if (res.destroyed) return
  const answer = pageAnswer(page, type, asked.limit)
  const tag = mayKeep(page, answer, asked) ? tagOf(page, type, answer.last) : undefined
  const kept = tag === undefined ? undefined : { 'Cache-Control': 'private, no-cache', ETag: tag }
  if (tag !== undefined && isKnown(req.headers['if-none-match'], tag)) {
    const { 'Content-Type': _, 'Content-Length': __, ...headers } = answer.headers
    res.writeHead(304, { ...headers, ...kept })
    res.end()
    return
  }
  doors.metrics.delivered('poll', answer.count, answer.length)
  sendAnswer(res, answer, kept)
}

const QUERY = ['after', 'limit', 'wait', 'epoch', 'client'] as const

/** Who waits at one place asks for the same: what was asked last, and its address. */
let lastUrl: string | undefined
let lastAsked: Asked | undefined

/** @throws bad-request, not-found */
function askedOf(url: string): Asked {
  if (url !== lastUrl) {
    lastAsked = readAsked(url)
    lastUrl = url
  }
  return lastAsked!
}

function readAsked(url: string): Asked {
  const path = parsePath(url)
  if (path?.resource !== 'events') throw new TidemarkError('not-found', 'There is nothing at this address')
  const query = parseQuery(url, QUERY)
  const given = (name: (typeof QUERY)[number]): string | undefined => query.get(name)?.[0]
  const epoch = given('epoch')
  const client = given('client')
  if (client !== undefined && query.has('after')) refuse('A read begins at after or at the cursor of client, not both')
  return {
    channel: path.channel,
    epoch: epoch === undefined ? undefined : checkEpoch(epoch),
    client: client === undefined ? undefined : checkCursorName(client),
    after: checkPosition(given('after')),
    limit: within('limit', given('limit'), 1, READ_EVENTS_MAX) ?? READ_EVENTS,
    wait: within('wait', given('wait'), 0, WAIT_SECONDS_MAX),
  }
}

/** A number of a query. @throws bad-request */
export function within(field: string, given: string | undefined, least: number, most: number): number | undefined {
  if (given === undefined) return undefined
  const value = checkSeq(given, field)
  return value >= least && value <= most ? value : refuse(`${field} is ${least} … ${most}`, { field })
}

// ── Finding the page ─────────────────────────────────────────────────────────────────────────────────────────────

/** Ends, with an empty page if there is no other, when the time is over, the caller is gone or the server stops. */
async function waitForPage(res: ServerResponse, doors: Doors, asked: Asked, who: Principal): Promise<Page> {
  const wait = doors.waits.begin(res, asked.wait! * 1_000, who)
  const over = doors.metrics.follows('poll')
  try {
    const page = await findPage(seenByCaller(doors.log, who), asked, who, wait)
    who.stillNeed('read', asked.channel)
    return page
  } finally {
    over()
    wait.end()
  }
}

/** `earliest` is looked up this often while it moves under the lookup. */
const LOOKUPS_MAX = 3

/** @throws as Log.read */
function findPage(log: Source, asked: Asked, who: Principal, until?: Wait): Promise<Page> {
  const { client, after, epoch } = asked
  // The hot case: what the caller says is what is read.
  return client === undefined && after.at === 'seq'
    ? readFrom(log, asked, after.seq, epoch, until)
    : lookUpAndRead(log, asked, who, until)
}

function readFrom(log: Source, asked: Asked, after: number, epoch: string | undefined, until?: Wait): Promise<Page> {
  const limits = { events: asked.limit, bytes: READ_BYTES }
  const from = epoch === undefined ? { after } : { after, epoch }
  return until ? readOrWait(log, asked.channel, from, limits, until) : log.read(asked.channel, from, limits)
}

async function lookUpAndRead(log: Source, asked: Asked, who: Principal, until?: Wait): Promise<Page> {
  for (let lookups = 1; ; lookups++) {
    const place = await lookUp(log, asked, who, until !== undefined)
    try {
      return await readFrom(log, asked, place.after, place.epoch, until)
    } catch (error) {
      // What stands first now was trimmed since it was looked up.
      if (!place.isEarliest || !hasCode(error, 'gap') || lookups === LOOKUPS_MAX) throw error
    }
  }
}

interface LookedUp {
  readonly after: number
  readonly epoch: string | undefined
  /** The caller did not say a seq: wherever the history begins. */
  readonly isEarliest: boolean
}

/** The place that a caller means. @throws no-channel, unless it `waits`; epoch-changed */
async function lookUp(log: Source, asked: Asked, who: Principal, waits: boolean): Promise<LookedUp> {
  const { channel, epoch, client, after } = asked
  const isEarliest = client === undefined && after.at === 'earliest'
  // Whoever names an epoch has known the channel, and hears that it is gone.
  const info = waits && epoch === undefined ? await infoOrNone(log, channel) : await log.info(channel)
  if (info === undefined) return { after: 0, epoch, isEarliest }
  if (epoch !== undefined) checkHistory(info, epoch)
  if (client === undefined) return { after: await seqAt(log, info, after), epoch: info.epoch, isEarliest }
  const cursor = await log.cursor(who.cursor(client), channel)
  if (cursor === undefined) return { after: info.trimmed, epoch: info.epoch, isEarliest: true }
  checkHistory(info, cursor.epoch)
  // Of the run in which it was moved: what may have been missed since is told.
  return { after: cursor.seq, epoch: cursor.epoch, isEarliest }
}

function checkHistory({ channel, epoch, head, trimmed }: ChannelInfo, believed: string): void {
  if (sameHistory(epoch, believed)) return
  const facts = { channel, epoch, head, trimmed }
  throw new TidemarkError('epoch-changed', `The epoch of ${channel} is ${epoch}, not ${believed}`, facts)
}

// ── Answering ────────────────────────────────────────────────────────────────────────────────────────────────────

/** Only a page that is over, of a history that the caller names, stays as it is. */
function mayKeep(page: Page, { last }: PageAnswer, { after, client, epoch, wait }: Asked): boolean {
  const byNumber = after.at === 'seq' && client === undefined && wait === undefined
  return byNumber && epoch !== undefined && last < page.head
}

/**
 * Weak, because the head beside the events moves on: it changes with the events themselves (compaction and erase make
 * other blocks), with where the page ends and with how it is written.
 */
function tagOf(page: Page, type: ReadType, last: number): string {
  let crc = crc32(`${page.epoch} ${type} ${page.after} ${last} ${WITH_TO}`)
  // The crc of a block stands in its header.
  for (const block of page.blocks) crc = crc32(block.subarray(8, 12), crc)
  return `W/"${page.after}-${last}-${crc.toString(36)}"`
}

/** Whether `If-None-Match` names the tag. */
function isKnown(given: string | undefined, tag: string): boolean {
  if (given === undefined) return false
  const weak = (text: string): string => text.trim().replace(/^W\//, '')
  return given.trim() === '*' || given.split(',').some((each) => weak(each) === weak(tag))
}
