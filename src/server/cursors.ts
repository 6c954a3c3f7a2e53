/** The calls about cursors: what a client has handled in a channel, and how far behind it is. */
import { Readable } from 'node:stream'
import type { Principal } from '../access/principal.ts'
import { callerOf } from '../doors/callers.ts'
import type { Doors } from '../doors/doors.ts'
import { TidemarkError } from '../errors.ts'
import { formatTime, JSON_TYPE } from '../event.ts'
import { infoOrNone } from '../log/follow.ts'
import { lagOf } from '../log/lag.ts'
import type { ChannelInfo, Cursor, CursorName, Log } from '../log/log.ts'
import type { CursorJson } from '../wire.ts'
import { type App, sendAsIs } from './app.ts'
import * as schemas from './schemas.ts'

/** A long list is written in pieces of about this many characters. */
const LIST_PIECE = 16_384

/** A cursor as it is answered. @param client the name that the caller gave it */
export function cursorJson(cursor: Cursor, info: ChannelInfo, client = cursor.client): CursorJson {
  const { channel, epoch, seq, time } = cursor
  return { client, channel, epoch, seq, lag: lagOf(cursor, info), time: formatTime(time) }
}

export function addCursors(app: App, doors: Doors): void {
  const { log } = doors
  const tags = ['cursors']

  app.get(
    '/v1/channels/:channel/cursors/:client',
    {
      schema: {
        tags,
        summary: 'One cursor',
        params: schemas.CursorPath,
        querystring: schemas.NoQuery,
        response: { 200: schemas.Cursor, default: schemas.Refusal },
      },
    },
    async ({ params: { channel, client }, raw }) => {
      const cursor = await log.cursor(callerOf(raw).cursor(client), channel)
      if (cursor === undefined) throw neverSet(client, channel)
      return cursorJson(cursor, await log.info(channel), client)
    },
  )

  app.put(
    '/v1/channels/:channel/cursors/:client',
    {
      schema: {
        tags,
        summary: 'Commit (forward only) or seek',
        description: 'A lower seq without `seek` is no error: the cursor is answered as it stands.',
        params: schemas.CursorPath,
        querystring: schemas.NoQuery,
        body: schemas.CursorMove,
        response: { 200: schemas.Cursor, default: schemas.Refusal },
      },
    },
    async ({ params: { channel, client }, body: { seq, epoch, seek }, raw }) => {
      const who = callerOf(raw)
      who.need(seek ? 'seek' : 'commit', channel)
      const to = epoch === undefined ? { seq } : { seq, epoch }
      const whole = who.cursor(client)
      await doors.census.roomForCursor(who, whole, channel)
      const cursor = seek ? await log.seek(whole, channel, to) : await log.commit(whole, channel, to)
      return cursorJson(cursor, await log.info(channel), client)
    },
  )

  app.delete(
    '/v1/channels/:channel/cursors/:client',
    {
      schema: {
        tags,
        summary: 'Forget a cursor',
        params: schemas.CursorPath,
        querystring: schemas.NoQuery,
        response: { 204: schemas.Nothing, default: schemas.Refusal },
      },
    },
    async ({ params: { channel, client }, raw }, reply) => {
      const who = callerOf(raw)
      const whole = who.cursor(client)
      if (!(await log.forget(whole, channel))) throw neverSet(client, channel)
      doors.census.forgot(who, whole, channel)
      return reply.code(204).send()
    },
  )

  app.get(
    '/v1/channels/:channel/cursors',
    {
      schema: {
        tags,
        summary: 'The cursors of a channel, with their lag: all for admins, else the caller’s own',
        params: schemas.ChannelPath,
        querystring: schemas.NoQuery,
        response: { 200: schemas.Cursors, default: schemas.Refusal },
      },
    },
    async ({ params: { channel }, raw }, reply) => {
      const info = await log.info(channel)
      return sendAsIs(
        reply,
        JSON_TYPE,
        cursorList(
          callerOf(raw),
          (onDamaged) => log.cursors({ channel }, onDamaged),
          'client',
          () => info,
        ),
      )
    },
  )

  app.get(
    '/v1/cursors/:client',
    {
      schema: {
        tags,
        summary: 'All cursors of a client, with their lag',
        params: schemas.ClientPath,
        querystring: schemas.NoQuery,
        response: { 200: schemas.Cursors, default: schemas.Refusal },
      },
    },
    async ({ params: { client }, raw }, reply) => {
      const who = callerOf(raw)
      return sendAsIs(
        reply,
        JSON_TYPE,
        cursorList(
          who,
          (onDamaged) => log.cursors({ client: who.cursor(client) }, onDamaged),
          'channel',
          ({ channel }) => infoOrNone(log, channel),
        ),
      )
    },
  )
}

const neverSet = (client: string, channel: string): TidemarkError =>
  new TidemarkError('not-found', 'This client has no cursor in this channel: it stands at earliest', {
    client,
    channel,
  })

/**
 * `{"cursors":[…]}`, written as the log gives them out: a channel may have any number. A failure on the way cuts the
 * connection, so that half a list never looks whole. Of others than admins it holds their own, where they may list.
 * @param named by what a damaged one is told
 */
function cursorList(
  who: Principal,
  cursors: (onDamaged: (cursor: CursorName) => void) => ReturnType<Log['cursors']>,
  named: keyof CursorName,
  infoOf: (cursor: Cursor) => ChannelInfo | undefined | Promise<ChannelInfo | undefined>,
): Readable {
  async function* texts() {
    let text = '{"cursors":['
    let comma = ''
    const damaged: string[] = []
    const onDamaged = ({ client, channel }: CursorName): void => {
      const name = who.ownName(client)
      if (name !== undefined && who.may('list', channel)) damaged.push({ client: name, channel }[named])
    }
    for await (const cursor of cursors(onDamaged)) {
      const name = who.ownName(cursor.client)
      if (name === undefined || !who.may('list', cursor.channel)) continue
      const info = await infoOf(cursor)
      // Its channel was deleted since it was listed.
      if (info === undefined) continue
      text += comma + JSON.stringify(cursorJson(cursor, info, name))
      comma = ','
      if (text.length < LIST_PIECE) continue
      yield text
      text = ''
    }
    yield `${text}]${damaged.length > 0 ? `,"damaged":${JSON.stringify(damaged)}` : ''}}`
  }
  return Readable.from(texts(), { objectMode: false })
}
