/** `POST /v1/channels/{channel}/events`: new events as JSON, NDJSON, MessagePack or raw bytes, to one channel. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Principal } from '../access/principal.ts'
import { BODY_BYTES_MAX, type Body, encodeBody } from '../body.ts'
import { appendFor, checkRoom, type Doors } from '../doors/doors.ts'
import { APPEND_BYTES_MAX } from '../doors/limits.ts'
import { TidemarkError } from '../errors.ts'
import {
  checkContentType,
  checkEvent,
  checkId,
  checkIdempotencyKey,
  checkKey,
  checkSeq,
  checkType,
  isSystemChannel,
  JSON_TYPE,
  mediaType,
} from '../event.ts'
import { BYTES_TYPE } from '../formats/fields.ts'
import { parseJsonBody, parseMsgpackBody } from '../formats/parse.ts'
import type { Appended } from '../log/log.ts'
import { checkMethod, parsePath, parseQuery, readBody, sendJson } from './http.ts'
import { appendLines, type Target } from './lines.ts'

const NDJSON_TYPE = 'application/x-ndjson'
const MSGPACK_TYPE = 'application/msgpack'
/** Types in which an event says everything itself; with any other one the query does. */
const EVENT_TYPES: ReadonlySet<string> = new Set([JSON_TYPE, NDJSON_TYPE, MSGPACK_TYPE])

/** @throws what is told to the caller; nothing is sent then */
export async function append(req: IncomingMessage, res: ServerResponse, doors: Doors, who: Principal): Promise<void> {
  checkMethod(req, 'POST')
  const type = bodyType(req)
  const query = parseQuery(req.url!, EVENT_TYPES.has(type) ? EVENT_QUERY : RAW_QUERY)
  const target = targetOf(req, query)
  who.need('append', target.channel)
  checkRoom(doors, who)
  if (type === NDJSON_TYPE) {
    const answer = await appendLines(req, res, doors, target, who)
    sendAppended(res, doors, answer, `,"appended":${answer.appended}`)
    return
  }
  const body = await readEvents(req, res, type, query)
  // A body may come slower than the right to send it ends.
  who.need('append', target.channel)
  const started = performance.now()
  const { channel, expectedSeq, idempotencyKey } = target
  const entry = expectedSeq === undefined ? { channel, body } : { channel, body, expectedSeq }
  const [appended] = await appendFor(doors, who, [entry], idempotencyKey)
  if (!appended!.duplicate) doors.metrics.appended('http', body.count, body.bytes.length, performance.now() - started)
  sendAppended(res, doors, appended!)
}

const EVENT_QUERY = ['expectedSeq'] as const
const RAW_QUERY = ['expectedSeq', 'type', 'key', 'id'] as const
type Query = ReturnType<typeof parseQuery>

/** The body's media type; '' when none is given. @throws unsupported-type */
function bodyType(req: IncomingMessage): string {
  const { 'content-type': given = '', 'content-encoding': encoding = 'identity' } = req.headers
  if (encoding !== 'identity') throw unsupported('A body is taken as it is, without Content-Encoding')
  const type = mediaType(given)
  if (EVENT_TYPES.has(type) && !/^[^;]*(?:;\s*charset\s*=\s*"?utf-?8"?\s*)?$/i.test(given))
    throw unsupported(`${type} is UTF-8 and has no other parameter`)
  return type
}

const unsupported = (why: string): TidemarkError => new TidemarkError('unsupported-type', why)

/** @throws not-found, forbidden, bad-request */
function targetOf(req: IncomingMessage, query: Query): Target {
  const path = parsePath(req.url!)
  if (path?.resource !== 'events') throw new TidemarkError('not-found', 'There is nothing at this address')
  const { channel } = path
  if (isSystemChannel(channel)) throw new TidemarkError('forbidden', 'Only the server appends to it', { channel })
  const expectedSeq = query.get('expectedSeq')
  const idempotencyKey = req.headers['idempotency-key']
  return {
    channel,
    ...(expectedSeq && { expectedSeq: checkSeq(expectedSeq[0], 'expectedSeq') }),
    ...(idempotencyKey !== undefined && { idempotencyKey: checkIdempotencyKey(idempotencyKey) }),
  }
}

/** @throws bad-request, too-large, unsupported-type */
async function readEvents(req: IncomingMessage, res: ServerResponse, type: string, query: Query): Promise<Body> {
  switch (type) {
    case JSON_TYPE:
      return parseJsonBody(await readBody(req, res, APPEND_BYTES_MAX))
    case MSGPACK_TYPE:
      return parseMsgpackBody(await readBody(req, res, APPEND_BYTES_MAX))
    default:
      return readRaw(req, res, query)
  }
}

/** One event whose data are the bytes as they came. Nothing at all, not even a type of it, is no data. */
async function readRaw(req: IncomingMessage, res: ServerResponse, query: Query): Promise<Body> {
  const type = query.get('type')
  const key = query.get('key')
  const id = query.get('id')
  const fields = {
    type: type ? checkType(type[0]) : null,
    key: key ? checkKey(key[0]) : null,
    id: id ? checkId(id[0]) : null,
    to: null,
  }
  const given = req.headers['content-type']
  const contentType = rawType(given)
  const data = await readBody(req, res, BODY_BYTES_MAX)
  const event =
    given === undefined && data.length === 0
      ? { ...fields, contentType: null, data: null }
      : { ...fields, contentType, data }
  return encodeBody([checkEvent(event)])
}

function rawType(contentType = BYTES_TYPE): string | null {
  try {
    return checkContentType(contentType)
  } catch (cause) {
    throw new TidemarkError('unsupported-type', 'Content-Type is a media type of at most 128 bytes', {}, { cause })
  }
}

/** Names and epochs need no escapes in JSON. */
function sendAppended(res: ServerResponse, doors: Doors, appended: Appended, more = ''): void {
  const { channel, epoch, first, last, head, duplicate } = appended
  const { durability } = doors.log.about
  const told = duplicate ? `${more},"duplicate":true` : more
  sendJson(
    res,
    duplicate ? 200 : 201,
    `{"channel":"${channel}","epoch":"${epoch}","first":${first},"last":${last},"head":${head},"durability":"${durability}"${told}}`,
  )
}
