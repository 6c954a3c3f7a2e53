/** A record as it came from a file: whoever made it, what it says is as it may be here, or it is refused. */
import { z } from 'zod'
import { ARRIVAL_CURSORS_MAX } from '../../src/doors/limits.ts'
import { TidemarkError } from '../../src/errors.ts'
import { CHANNEL_BYTES_MAX, isChannelName, SEQ_MAX, TIME_MAX } from '../../src/event.ts'
import * as schemas from '../../src/server/schemas.ts'
import { ARCHIVE_FORMAT, type ArchiveRecord, cut } from './record.ts'

const Count = z.number().int().min(0).max(SEQ_MAX)
const Seq = Count
const Time = z.number().int().min(0).max(TIME_MAX)
const Digest = z.string().regex(/^[0-9a-f]{64}$/)
/** Also one that can not be made any more, because a call has its name since. */
const Channel = z.string().max(CHANNEL_BYTES_MAX).refine(isChannelName)
const totals = { events: Count, cursors: Count, lost: Count, lostCursors: Count }

const Known = z.discriminatedUnion('is', [
  z.object({
    ...{ is: z.literal('archive'), format: z.literal(ARCHIVE_FORMAT), by: z.string(), time: Time },
    ...{ source: z.string(), channels: z.array(z.string()) },
  }),
  z
    .object({
      ...{ is: z.literal('channel'), channel: Channel, epoch: schemas.Epoch, head: Seq, trimmed: Seq, time: Time },
      settings: schemas.Settings,
    })
    .refine(({ head, trimmed }) => trimmed <= head),
  z.object({ is: z.literal('grown'), head: Seq, time: Time }),
  z.object({ is: z.literal('trimmed'), upTo: Seq }),
  z.object({ is: z.literal('lost'), after: Seq, upTo: Seq }),
  z.object({
    is: z.literal('cursors'),
    cursors: z
      .array(z.object({ client: schemas.Client, epoch: schemas.Epoch, seq: Seq, time: Time }))
      .max(ARRIVAL_CURSORS_MAX),
    damaged: z.array(schemas.Client).optional(),
  }),
  z.object({
    is: z.literal('end'),
    sum: z.object({ ...totals, bytes: Count, digest: Digest, cursorsDigest: Digest }),
  }),
  z.object({ is: z.literal('void') }),
  z.object({ ...{ is: z.literal('whole'), channels: Count }, ...totals, sha256: Digest }),
])

/**
 * @param text JSON of any record but blocks
 * @param at where it stands, for who is told
 * @throws data-loss { offset }; wrong-config for an archive of a newer format
 */
export function recordFrom(text: string, at: number): ArchiveRecord {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    throw cut(at, 'a record is no JSON')
  }
  const { is, format } = (value ?? {}) as { readonly is?: unknown; readonly format?: unknown }
  if (is === 'archive' && typeof format === 'number' && format > ARCHIVE_FORMAT)
    throw new TidemarkError('wrong-config', `The archive has format ${format}; this version reads ${ARCHIVE_FORMAT}`)
  const { success, data, error } = Known.safeParse(value)
  if (success) return data as ArchiveRecord
  const where = error.issues[0]!.path.join('.') || 'what it is'
  throw cut(at, `a record is not as it may be: ${where}`)
}
