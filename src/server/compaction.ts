/** Compaction of a channel of the log that is being served: one run at a time, in the background, at a slow pace. */
import { z } from 'zod'
import { type Problem, TidemarkError, toProblem } from '../errors.ts'
import { formatTime } from '../event.ts'
import { type Compacted, compactChannel, type Progress } from '../log/compact.ts'
import type { App } from './app.ts'
import { notOurs } from './channels.ts'
import type { Doors } from './doors.ts'
import * as schemas from './schemas.ts'

const Compaction = z
  .object({
    running: z.boolean(),
    dryRun: z.boolean().optional(),
    startedAt: z.string().optional(),
    finishedAt: z.string().optional(),
    phase: z.string().optional().meta({ description: 'What it does: reading, rewriting, cleaning or reclaiming' }),
    seq: z.number().optional().meta({ description: 'How far that is' }),
    head: z.number().optional().meta({ description: 'The head when it began' }),
    report: z.custom<Compacted>().optional().meta({ description: 'Of a run that came to its end' }),
    failed: z.custom<Problem>().optional().meta({ description: 'Why it did not' }),
  })
  .meta({ id: 'Compaction' })

const SECONDS_MAX = 3_153_600_000
const Seconds = z.number().min(0).max(SECONDS_MAX)
const Ask = z
  .strictObject({
    dryRun: z.boolean().optional().meta({ description: 'Change nothing, tell what would be' }),
    minLag: z.number().int().min(0).optional().meta({ description: 'So many of the newest events are not touched' }),
    minAge: Seconds.optional().meta({ description: 'Younger events are not touched, seconds' }),
    tombstoneAge: Seconds.optional().meta({ description: 'How long a tombstone stays visible, seconds' }),
  })
  .meta({ id: 'Compact' })

interface State extends Partial<Progress> {
  running: boolean
  readonly dryRun?: boolean
  readonly startedAt?: string
  readonly head?: number
  readonly finishedAt?: string
  readonly report?: Compacted
  readonly failed?: Problem
}

type Asked = z.infer<typeof Ask>
const inMs = (seconds: number | undefined): number | undefined => (seconds === undefined ? undefined : seconds * 1_000)

export function addCompaction(app: App, doors: Doors): void {
  const { log, keeper } = doors
  const tags = ['channels']
  const response = { 200: Compaction, default: schemas.Refusal }
  /** The last run, of whichever channel. */
  let last: { readonly channel: string; state: State } = { channel: '', state: { running: false } }

  const run = async (channel: string, head: number, { dryRun = false, minLag, ...ages }: Asked): Promise<void> => {
    const mine = { channel, state: { running: true, dryRun, startedAt: formatTime(Date.now()), head } as State }
    last = mine
    const ended = (outcome: Pick<State, 'report' | 'failed'>): void => {
      const { dryRun, startedAt, head } = mine.state
      mine.state = { running: false, dryRun, startedAt, finishedAt: formatTime(Date.now()), head, ...outcome } as State
    }
    try {
      const report = await compactChannel(log, channel, {
        ...{ dryRun, minLag, minAge: inMs(ages.minAge), tombstoneAge: inMs(ages.tombstoneAge) },
        signal: doors.stopping,
        onProgress: (progress) => Object.assign(mine.state, progress),
        onReplaced: () => keeper.recount(channel),
      })
      ended({ report })
      doors.logger.info({ ...report, dryRun }, 'Compaction came to its end')
    } catch (error) {
      const stopped = new TidemarkError('unavailable', 'The server is stopping, and compaction with it')
      ended({ failed: toProblem(doors.stopping.aborted ? stopped : error) })
      if (!doors.stopping.aborted) doors.failed('http', error, { call: 'compact', channel })
    }
  }

  app.get(
    '/v1/channels/:channel/compact',
    {
      schema: {
        tags,
        summary: 'How far compaction of a channel is, and what it came to',
        params: schemas.ChannelPath,
        querystring: schemas.NoQuery,
        response,
      },
    },
    async ({ params: { channel } }) => {
      await log.info(channel)
      return last.channel === channel ? { ...last.state } : { running: false }
    },
  )

  app.post(
    '/v1/channels/:channel/compact',
    {
      schema: {
        tags,
        summary: 'Keep the newest event of each key',
        description: 'In the background, one run at a time: while one is under way, of whichever channel, `409 busy`.',
        params: schemas.ChannelPath,
        querystring: schemas.NoQuery,
        body: Ask,
        response,
      },
    },
    async ({ params: { channel }, body }) => {
      const { head } = await log.info(notOurs(channel))
      if (!log.about.capabilities.includes('compact'))
        throw new TidemarkError('not-supported', 'This engine does not compact', { capability: 'compact' })
      if (last.state.running)
        throw new TidemarkError('busy', `${last.channel} is being compacted`, { channel: last.channel })
      void run(channel, head, body)
      return { ...last.state }
    },
  )
}
