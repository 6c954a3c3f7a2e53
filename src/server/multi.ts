/** `POST /v1/append`: one append to several channels, all or nothing. */
import { performance } from 'node:perf_hooks'
import { callerOf } from '../doors/callers.ts'
import { appendFor, checkRoom, type Doors } from '../doors/doors.ts'
import { MULTI_APPEND_BYTES_MAX } from '../doors/limits.ts'
import { TidemarkError } from '../errors.ts'
import { checkChannel, checkIdempotencyKey, checkSeq, isSystemChannel } from '../event.ts'
import { jsonItems, jsonValue, knownFields, type Span } from '../formats/json.ts'
import { parseJsonEvents } from '../formats/parse.ts'
import type { Append } from '../log/log.ts'
import { POLL_CHANNELS_MAX } from '../wire.ts'
import type { App } from './app.ts'
import * as schemas from './schemas.ts'

export function addMultiAppend(app: App, doors: Doors): void {
  const { log, metrics } = doors
  app.post(
    '/v1/append',
    {
      bodyLimit: MULTI_APPEND_BYTES_MAX,
      onRequest: async ({ raw }) => checkRoom(doors, callerOf(raw)),
      // The events are read from the bytes, where their data stand verbatim; the schema is for the OpenAPI page.
      validatorCompiler: () => () => true,
      schema: {
        tags: ['events'],
        summary: 'Append to several channels at once',
        description:
          'All or nothing; each channel once. With an `Idempotency-Key` header a retry is answered as the first time, with status 200.',
        body: schemas.MultiAppend,
        response: { 200: schemas.MultiAppended, 201: schemas.MultiAppended, default: schemas.Refusal },
      },
    },
    async (request, reply) => {
      const started = performance.now()
      const key = request.headers['idempotency-key']
      const who = callerOf(request.raw)
      const checked = key === undefined ? undefined : checkIdempotencyKey(key)
      const entries = readAppends(request.bytes ?? noBody())
      for (const { channel } of entries) who.need('append', channel)
      const answers = await appendFor(doors, who, entries, checked)
      const duplicate = answers[0]!.duplicate
      if (!duplicate) {
        const events = entries.reduce((sum, { body }) => sum + body.count, 0)
        const bytes = entries.reduce((sum, { body }) => sum + body.bytes.length, 0)
        metrics.appended('http', events, bytes, performance.now() - started)
      }
      return reply.code(duplicate ? 200 : 201).send({
        appended: answers.map(({ channel, epoch, first, last, head }) => ({ channel, epoch, first, last, head })),
        durability: log.about.durability,
        ...(duplicate && { duplicate }),
      })
    },
  )
}

const refuse = (why: string, field: string): never => {
  throw new TidemarkError('bad-request', why, { field })
}

const noBody = (): never => {
  throw new TidemarkError('unsupported-type', 'This call takes application/json')
}

/** @throws bad-request, too-large, forbidden (a system channel) */
export function readAppends(bytes: Uint8Array): Append[] {
  const fields = knownFields(bytes, undefined, ['appends'])
  const entries = jsonItems(bytes, fields.get('appends') ?? refuse('appends is a list', 'appends'), POLL_CHANNELS_MAX)
  if (entries.length === 0) refuse('appends has at least one entry', 'appends')
  return entries.map((span, i) => readAppend(bytes, span, `appends/${i}/`))
}

function readAppend(bytes: Uint8Array, span: Span, where: string): Append {
  const fields = knownFields(bytes, span, ['channel', 'events', 'expectedSeq'], where)
  const value = (name: string): unknown => {
    const at = fields.get(name)
    return at && jsonValue(bytes, at)
  }
  const channel = checkChannel(value('channel'))
  if (isSystemChannel(channel)) throw new TidemarkError('forbidden', 'Only the server appends to it', { channel })
  const body = parseJsonEvents(bytes, fields.get('events') ?? refuse('events is a list', `${where}events`))
  const expectedSeq = value('expectedSeq')
  if (expectedSeq === undefined) return { channel, body }
  return { channel, body, expectedSeq: checkSeq(expectedSeq, `${where}expectedSeq`) }
}
