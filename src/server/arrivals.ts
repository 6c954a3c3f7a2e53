/** The call that takes in a history that was kept elsewhere, piece by piece (log/arrival.ts). */
import { z } from 'zod'
import { splitBlocks } from '../block.ts'
import { callerOf } from '../doors/callers.ts'
import { checkRoom, type Doors } from '../doors/doors.ts'
import { ARRIVAL_BYTES_MAX, ARRIVAL_CURSORS_MAX } from '../doors/limits.ts'
import { TidemarkError } from '../errors.ts'
import { checkTime } from '../event.ts'
import { checkEvents } from '../formats/kept.ts'
import { type ArrivalPiece, readArrival, refuseArrival } from '../log/arrival.ts'
import { infoOrNone } from '../log/follow.ts'
import type { Settings } from '../log/log.ts'
import { type App, IMPORT_ROUTE } from './app.ts'
import { notOurs } from './channels.ts'
import * as schemas from './schemas.ts'

const Piece = z
  .strictObject({
    channel: schemas.Channel,
    from: schemas.Epoch.meta({ description: 'Its epoch where it comes from' }),
    head: schemas.Seq.meta({ description: 'Its head there' }),
    trimmed: schemas.Seq.meta({ description: 'What was trimmed there' }),
    sameEpoch: z.boolean().optional().meta({ description: 'Keep the epoch: nothing is appended there any more' }),
    blocks: z.string().optional().meta({ description: 'Base64 of whole blocks that chain from how far it came' }),
    lostUpTo: schemas.Seq.optional(),
    cursors: z
      .array(z.strictObject({ client: schemas.Client, epoch: schemas.Epoch, seq: schemas.Seq, time: schemas.Time }))
      .max(ARRIVAL_CURSORS_MAX)
      .optional(),
    end: z
      .strictObject({ settings: schemas.Settings, time: schemas.Time.nullable() })
      .optional()
      .meta({ description: 'All of it came: from now on the channel is there' }),
    drop: z.literal(true).optional().meta({ description: 'It does not come after all' }),
  })
  .meta({ id: 'ArrivalPiece' })

const Arrived = z
  .object({
    channel: schemas.Channel,
    epoch: schemas.Epoch,
    head: schemas.Seq.meta({ description: 'How far it came' }),
    trimmed: schemas.Seq,
    isWhole: z.boolean().meta({ description: 'The channel is there' }),
  })
  .meta({ id: 'Arrived' })

export function addArrivals(app: App, doors: Doors): void {
  app.post(
    IMPORT_ROUTE,
    {
      bodyLimit: ARRIVAL_BYTES_MAX,
      schema: {
        tags: ['server'],
        summary: 'Take in a piece of a history that was kept elsewhere',
        description:
          'With seqs and times as they are. Until its end came nobody sees it. A piece without anything of it begins it, or tells how far it came. A channel that holds another history is never mixed with it.',
        querystring: schemas.NoQuery,
        body: Piece,
        response: { 200: Arrived, default: schemas.Refusal },
      },
    },
    async ({ body: { channel, blocks, cursors, end, ...piece }, raw }) => {
      const { log, keeper, census } = doors
      if (!log.arrive) throw new TidemarkError('not-supported', 'This engine takes in no histories')
      checkRoom(doors, callerOf(raw))
      const isNew = (await infoOrNone(log, notOurs(channel))) === undefined
      if (isNew) await census.roomForChannel()
      const arrived = await log.arrive(channel, {
        ...(piece as ArrivalPiece),
        ...(blocks !== undefined && { blocks: blocksOf(channel, blocks) }),
        ...(cursors && { cursors: cursors.map((cursor) => ({ ...cursor, time: checkTime(cursor.time) })) }),
        ...(end && { end: { settings: end.settings as Settings, time: end.time === null ? 0 : checkTime(end.time) } }),
      })
      if (!end) return arrived
      // However much came with it: no append is its first.
      if (isNew) census.madeEmpty(channel)
      keeper.lookAt(await log.info(channel))
      return arrived
    },
  )
}

/** @throws bad-request */
function blocksOf(channel: string, base64: string): Uint8Array[] {
  const bytes = Buffer.from(base64, 'base64')
  // What is no base64 is passed over by Node.
  if (bytes.length !== Buffer.byteLength(base64, 'base64')) return refuseArrival(channel, 'its blocks are no base64')
  return readArrival(channel, () => {
    const blocks = splitBlocks(bytes)
    for (const block of blocks) checkEvents(channel, block)
    return blocks
  })
}
