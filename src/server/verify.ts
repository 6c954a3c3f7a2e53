/** Verification of the log that is being served: one run at a time, in the background, at a bounded rate. */
import { z } from 'zod'
import type { Doors } from '../doors/doors.ts'
import { type Problem, TidemarkError, toProblem } from '../errors.ts'
import { formatTime } from '../event.ts'
import { type Report, verifyLog } from '../log/verify.ts'
import type { RunJson } from '../wire.ts'
import type { App } from './app.ts'
import type { Runs } from './runs.ts'
import * as schemas from './schemas.ts'

/** Read a second unless the caller says otherwise, bytes: a small part of what a disk gives. */
const RATE = 32 * 1024 * 1024
const RATE_MIN = 64 * 1024

const Verification = z
  .object({
    running: z.boolean(),
    startedAt: z.string().optional(),
    finishedAt: z.string().optional(),
    bytes: z.number().optional().meta({ description: 'Read so far' }),
    report: z.custom<Report>().optional().meta({ description: 'Of the last run that came to its end' }),
    failed: z.custom<Problem>().optional().meta({ description: 'Why the last run did not' }),
  })
  .meta({ id: 'Verification' })

const Ask = z.strictObject({
  rate: z.number().int().min(RATE_MIN).optional().meta({ description: 'Most bytes a second' }),
})

interface State {
  running: boolean
  startedAt?: string
  finishedAt?: string
  bytes?: number
  report?: Report
  failed?: Problem
}

/** As one of many runs: its findings are many, and told by its own call. */
function told({ report, ...state }: State): Omit<RunJson, 'work'> {
  if (report === undefined) return state
  const { findings, losses, ...sums } = report
  return { ...state, report: { ...sums, findings: findings.length, losses: losses.length } }
}

export function addVerify(app: App, doors: Doors, runs: Runs): void {
  const tags = ['server']
  const response = { 200: Verification, default: schemas.Refusal }
  let state: State = { running: false }

  const run = async (rate: number): Promise<void> => {
    state = { running: true, startedAt: formatTime(Date.now()), bytes: 0 }
    // The findings of the last run alone are kept whole.
    let mine = told(state)
    runs.add(() => ({ work: 'verify', ...mine }))
    const ended = (outcome: Pick<State, 'report' | 'failed'>): void => {
      state = { ...state, running: false, finishedAt: formatTime(Date.now()), ...outcome }
      mine = told(state)
    }
    try {
      const report = await verifyLog(doors.log, {
        rate,
        signal: doors.stopping,
        onProgress: ({ bytes }) => {
          state = { ...state, bytes }
          mine = told(state)
        },
      })
      ended({ report })
      if (!report.whole)
        doors.logger.error({ findings: report.findings.slice(0, 5) }, 'Verification found the log damaged')
    } catch (error) {
      const stopped = new TidemarkError('unavailable', 'The server is stopping, and verification with it')
      ended({ failed: toProblem(doors.stopping.aborted ? stopped : error) })
      if (!doors.stopping.aborted) doors.failed('http', error, { call: 'verify' })
    }
  }

  app.get(
    '/v1/admin/verify',
    { schema: { tags, summary: 'How far verification is, and what it found', querystring: schemas.NoQuery, response } },
    async () => ({ ...state }),
  )

  app.post(
    '/v1/admin/verify',
    {
      schema: {
        tags,
        summary: 'Verify the log in the background',
        description: 'One run at a time: while one is under way, this answers how far it is.',
        querystring: schemas.NoQuery,
        body: Ask,
        response,
      },
    },
    async ({ body: { rate = RATE } }) => {
      if (!state.running) void run(rate)
      return { ...state }
    },
  )
}
