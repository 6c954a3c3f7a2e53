/** The hot calls as the router knows them: on the OpenAPI page, and in the table of methods. */

import type { Doors } from '../doors/doors.ts'
import { TidemarkError } from '../errors.ts'
import { JSON_TYPE } from '../event.ts'
import { type App, asRoute } from './app.ts'
import { append } from './append.ts'
import type { HotCall } from './front.ts'
import { wantsStream } from './http.ts'
import { MSGPACK_TYPE, poll } from './poll.ts'
import { read } from './read.ts'
import * as schemas from './schemas.ts'
import { stream } from './sse.ts'
import { state } from './state.ts'

export function addEvents(app: App, doors: Doors): void {
  const tags = ['events']
  const hot = asRoute(doors)
  /** They check by themselves. */
  const unchecked = { validatorCompiler: () => () => true, exposeHeadRoute: false } as const

  app.post('/v1/channels/:channel/events', {
    ...unchecked,
    schema: {
      tags,
      summary: 'Append to a channel',
      description:
        'One event or an atomic batch as JSON or MessagePack, any number as NDJSON; any other content type is one event whose data is the body, with `type`, `key` and `id` from the query. A retry under the same `Idempotency-Key` is answered as the first time, with status 200.',
      params: schemas.ChannelPath,
      querystring: schemas.AppendQuery,
      headers: schemas.AppendHeaders,
      body: schemas.AppendBody,
      response: { 200: schemas.Appended, 201: schemas.Appended, default: schemas.Refusal },
    },
    ...hot(append),
  })

  app.get('/v1/channels/:channel/events', {
    ...unchecked,
    schema: {
      tags,
      summary: 'Read a channel: poll, long poll or stream',
      description:
        'Events after a position. With `wait`, as soon as there is one. With `Accept: text/event-stream`, for ever. As MessagePack, `blocks` stands in place of `events`.',
      params: schemas.ChannelPath,
      querystring: schemas.ReadQuery,
      response: {
        200: {
          content: {
            [JSON_TYPE]: { schema: schemas.Page },
            'application/x-ndjson': { schema: schemas.EventRead },
            'application/msgpack': { schema: schemas.Bytes },
            'text/event-stream': { schema: schemas.Lines },
          },
        },
        default: schemas.Refusal,
      },
    },
    ...hot(wantingRead),
  })

  app.get('/v1/channels/:channel/state', {
    ...unchecked,
    schema: {
      tags,
      summary: 'The newest event of each key',
      description:
        'As it is true at the seq `at`. While `last` is below it, the next page of the same state is asked for with `epoch`, `at` and `after` = `last`. What came since is read from `after` = `at`.',
      params: schemas.ChannelPath,
      querystring: schemas.StateQuery,
      response: {
        200: {
          content: {
            [JSON_TYPE]: { schema: schemas.StatePage },
            'application/x-ndjson': { schema: schemas.EventRead },
            'application/msgpack': { schema: schemas.Bytes },
          },
        },
        default: schemas.Refusal,
      },
    },
    ...hot(state),
  })

  app.post('/v1/poll', {
    ...unchecked,
    schema: {
      tags,
      summary: 'Poll many channels, with cursors',
      description:
        'Commits, then reads each channel from `after` or from the cursor of `client`; waits while none has anything to tell. `pages` holds the channels that moved or have a gap, a reset or an error, and those whose place was asked for by a word, in the order of the request. With `Accept: application/msgpack`, `blocks` stands in place of `events`.',
      body: schemas.Poll,
      response: {
        200: { content: { [JSON_TYPE]: { schema: schemas.PollAnswer }, [MSGPACK_TYPE]: { schema: schemas.Bytes } } },
        default: schemas.Refusal,
      },
    },
    ...hot(poll),
  })

  app.get('/v1/events', {
    ...unchecked,
    schema: {
      tags,
      summary: 'Follow several channels in one stream',
      querystring: schemas.StreamQuery,
      response: { 200: { content: { 'text/event-stream': { schema: schemas.Lines } } }, default: schemas.Refusal },
    },
    ...hot(stream),
  })

  app.get(
    '/v1/stream',
    {
      schema: {
        tags,
        summary: 'The WebSocket: many channels, appends and commits on one connection',
        description: 'Subprotocols `tidemark.v1.json` and `tidemark.v1.msgpack`; PROTOCOL.md tells the messages.',
        response: { 101: schemas.Nothing, default: schemas.Refusal },
      },
    },
    async (_, reply) => {
      reply.raw.setHeader('Upgrade', 'websocket')
      throw new TidemarkError('bad-request', 'This address is a WebSocket')
    },
  )
}

const wantingRead: HotCall = (req, res, doors, who) => (wantsStream(req) ? stream : read)(req, res, doors, who)
