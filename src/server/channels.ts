/** The calls about channels as a whole: list, look, set, trim, delete. */
import type { Principal } from '../access/principal.ts'
import { callerOf } from '../doors/callers.ts'
import type { Doors } from '../doors/doors.ts'
import { TidemarkError } from '../errors.ts'
import { checkTime, formatTime, isSystemChannel } from '../event.ts'
import { infoOrNone, seqAt } from '../log/follow.ts'
import type { Keeper } from '../log/keeper.ts'
import type { ChannelInfo, Log, Settings } from '../log/log.ts'
import type { App } from './app.ts'
import * as schemas from './schemas.ts'

const infoJson = (info: ChannelInfo) => ({ ...info, time: info.time === 0 ? null : formatTime(info.time) })

/** Undefined bytes are not told: the engine does not know, or the channel was deleted just now. */
const withBytes = async (log: Log, info: ChannelInfo) => ({
  ...infoJson(info),
  bytes: await log.bytes?.(info.channel).catch(() => undefined),
})

/** The channels that a caller may list, in the order of their names: only where there can be some is looked. */
async function* listed(
  log: Log,
  who: Principal,
  prefix: string,
  after: string | undefined,
  onDamaged: (channel: string) => void,
): AsyncGenerator<ChannelInfo> {
  const tell = (channel: string): void => {
    if (who.may('list', channel)) onDamaged(channel)
  }
  for (const beginning of who.beginnings('list')) {
    if (!beginning.startsWith(prefix) && !prefix.startsWith(beginning)) continue
    const longer = beginning.length > prefix.length ? beginning : prefix
    for await (const info of log.channels(longer, after, tell)) if (who.may('list', info.channel)) yield info
  }
}

/** What is in force, as `retention` of a channel. */
const withRetention = (keeper: Keeper, { channel, settings }: ChannelInfo) => {
  const found = keeper.inForce(channel, settings)
  return found === undefined ? {} : { retention: { ...found.retention, from: found.from } }
}

/** Where its state is kept on disk: who says so, and how far the rows are, as `state` of a channel. */
async function withRows({ stateRows }: Log, { channel, settings }: ChannelInfo) {
  const asked = stateRows?.asked(channel, settings)
  if (!asked?.state) return {}
  // Damaged ones were voided: they are begun anew.
  const place = await stateRows!.place(channel).catch(() => undefined)
  return { state: { ...(place && { at: place.at, keys: place.rows }), from: asked.from } }
}

export function addChannels(app: App, doors: Doors): void {
  const { log } = doors
  const tags = ['channels']

  app.get(
    '/v1/channels',
    {
      schema: {
        tags,
        summary: 'Channels by name',
        querystring: schemas.ListChannels,
        response: { 200: schemas.Channels, default: schemas.Refusal },
      },
    },
    async ({ query: { prefix, after, limit, bytes }, raw }) => {
      const channels: ChannelInfo[] = []
      const damaged: string[] = []
      let next: { next?: string } = {}
      for await (const info of listed(log, callerOf(raw), prefix, after, (channel) => damaged.push(channel))) {
        if (channels.length === limit) {
          next = { next: channels.at(-1)!.channel }
          break
        }
        channels.push(info)
      }
      return {
        channels: await Promise.all(channels.map((info) => (bytes ? withBytes(log, info) : infoJson(info)))),
        ...next,
        ...(damaged.length > 0 && { damaged }),
      }
    },
  )

  app.get(
    '/v1/channels/:channel',
    {
      schema: {
        tags,
        summary: 'One channel',
        params: schemas.ChannelPath,
        querystring: schemas.NoQuery,
        response: { 200: schemas.ChannelInfo, default: schemas.Refusal },
      },
    },
    async ({ params: { channel } }) => {
      const info = await log.info(channel)
      return { ...(await withBytes(log, info)), ...withRetention(doors.keeper, info), ...(await withRows(log, info)) }
    },
  )

  app.put(
    '/v1/channels/:channel',
    {
      schema: {
        tags,
        summary: 'Make a channel, or replace its settings',
        params: schemas.ChannelPath,
        querystring: schemas.NoQuery,
        body: schemas.Settings,
        response: { 200: schemas.ChannelInfo, default: schemas.Refusal },
      },
    },
    async ({ params: { channel }, body }) => {
      const isNew = (await infoOrNone(log, notOurs(channel))) === undefined
      if (isNew) await doors.census.roomForChannel()
      const info = await log.configure(channel, body as Settings)
      if (isNew && info.head === 0) doors.census.madeEmpty(channel)
      doors.keeper.lookAt(info)
      return { ...infoJson(info), ...withRetention(doors.keeper, info) }
    },
  )

  app.delete(
    '/v1/channels/:channel',
    {
      schema: {
        tags,
        summary: 'End the history of a channel',
        description: 'Durable when answered. The name may be used again, under another epoch.',
        params: schemas.ChannelPath,
        querystring: schemas.DeleteQuery,
        response: { 204: schemas.Nothing, default: schemas.Refusal },
      },
    },
    async ({ params: { channel }, query: { epoch } }, reply) => {
      await log.delete(notOurs(channel), epoch)
      doors.census.deleted(channel)
      doors.states.forget(channel)
      return reply.code(204).send()
    },
  )

  app.post(
    '/v1/channels/:channel/trim',
    {
      schema: {
        tags,
        summary: 'Drop old events',
        description: 'Durable when answered. Less than is trimmed already changes nothing.',
        params: schemas.ChannelPath,
        querystring: schemas.NoQuery,
        body: schemas.Trim,
        response: { 200: schemas.ChannelInfo, default: schemas.Refusal },
      },
    },
    async ({ params: { channel }, body }) => {
      const { upTo, epoch } = await lastToDrop(log, notOurs(channel), body)
      return infoJson(await log.trim(channel, upTo, body.epoch ?? epoch))
    },
  )
}

/** System channels are read by everybody and changed by the server alone. */
export function notOurs(channel: string): string {
  if (isSystemChannel(channel))
    throw new TidemarkError('forbidden', 'Names beginning with _ are the system’s', { channel })
  return channel
}

/** The seq that a trim goes up to, in the history that it was found in; exactly one of the three is given. */
async function lastToDrop(
  log: Log,
  channel: string,
  trim: { upTo?: number | undefined; olderThan?: number | string | undefined; keepLast?: number | undefined },
): Promise<{ upTo: number; epoch?: string }> {
  if (trim.upTo !== undefined) return { upTo: trim.upTo }
  const info = await log.info(channel)
  const { epoch } = info
  if (trim.keepLast !== undefined) return { upTo: Math.max(info.head - trim.keepLast, 0), epoch }
  const { olderThan } = trim
  const time = typeof olderThan === 'number' ? Date.now() - olderThan * 1_000 : checkTime(olderThan)
  return { upTo: await seqAt(log, info, { at: 'time', time }), epoch }
}
