/** Work on the history of a channel of the log that is being served, in the background, at a slow pace: compaction, erasing. */
import { z } from 'zod'
import { callerOf } from '../doors/callers.ts'
import type { Doors } from '../doors/doors.ts'
import { type Problem, TidemarkError, toProblem } from '../errors.ts'
import { checkKey, formatTime } from '../event.ts'
import { type Compacted, compactChannel } from '../log/compact.ts'
import { type Erased, erase } from '../log/erase.ts'
import type { App } from './app.ts'
import { notOurs } from './channels.ts'
import type { Runs } from './runs.ts'
import * as schemas from './schemas.ts'

/** What is told of a run, whichever work it is. */
const run = {
  running: z.boolean(),
  startedAt: z.string().optional(),
  finishedAt: z.string().optional(),
  phase: z
    .string()
    .optional()
    .meta({ description: 'What it does: reading, rewriting, cleaning, erasing or reclaiming' }),
  seq: z.number().optional().meta({ description: 'How far that is' }),
  head: z.number().optional().meta({ description: 'The head when it began' }),
  trimmed: z.number().optional().meta({ description: 'What was trimmed then: phases begin there' }),
  failed: z.custom<Problem>().optional().meta({ description: 'Why it did not come to its end' }),
  stopped: z.literal(true).optional().meta({ description: 'It was told to end; what it had done stays' }),
}
const ended = { description: 'Of a run that came to its end' }
const Compaction = z
  .object({
    ...run,
    dryRun: z.boolean().optional(),
    freed: z.number().optional().meta({ description: 'While it runs: bytes of blocks less than before' }),
    report: z.custom<Compacted>().optional().meta(ended),
  })
  .meta({ id: 'Compaction' })
const Erasing = z.object({ ...run, report: z.custom<Erased>().optional().meta(ended) }).meta({ id: 'Erasing' })

const SECONDS_MAX = 3_153_600_000
const Seconds = z.number().min(0).max(SECONDS_MAX)
const Compact = z
  .strictObject({
    dryRun: z.boolean().optional().meta({ description: 'Change nothing, tell what would be' }),
    minLag: z.number().int().min(0).optional().meta({ description: 'So many of the newest events are not touched' }),
    minAge: Seconds.optional().meta({ description: 'Younger events are not touched, seconds' }),
    tombstoneAge: Seconds.optional().meta({ description: 'How long a tombstone stays visible, seconds' }),
  })
  .meta({ id: 'Compact' })
const Erase = z
  .union([z.strictObject({ seq: z.number().int().min(1) }), z.strictObject({ key: z.string().min(1) })])
  .meta({ id: 'Erase', description: 'Exactly one of seq and key' })

interface State {
  readonly running: boolean
  readonly dryRun?: boolean
  readonly startedAt?: string
  readonly head?: number
  readonly trimmed?: number
  readonly finishedAt?: string
  readonly phase?: string
  readonly seq?: number
  readonly report?: unknown
  readonly failed?: Problem
  readonly stopped?: true
}

/** The run that was begun last. */
interface Begun {
  readonly verb: Verb
  readonly channel: string
  readonly stopping: AbortController
  state: State
  /** Resolves when it is not running any more. */
  ended: Promise<void>
}

type Verb = 'compact' | 'erase'
const DOING = { compact: 'compacted', erase: 'worked on to erase events' } as const
const inMs = (seconds: number | undefined): number | undefined => (seconds === undefined ? undefined : seconds * 1_000)

/** One run at a time for the whole server; the last one is remembered. */
class Upkeep {
  readonly #doors: Doors
  readonly #runs: Runs
  #last: Begun | undefined

  constructor(doors: Doors, runs: Runs) {
    this.#doors = doors
    this.#runs = runs
  }

  of(verb: Verb, channel: string): State {
    return this.#lastOf(verb, channel)?.state ?? { running: false }
  }

  #lastOf(verb: Verb, channel: string): Begun | undefined {
    return this.#last?.verb === verb && this.#last.channel === channel ? this.#last : undefined
  }

  /** Ends a run, if it is under way; resolves when it has ended. */
  async stop(verb: Verb, channel: string): Promise<State> {
    const last = this.#lastOf(verb, channel)
    last?.stopping.abort()
    await last?.ended
    return last?.state ?? { running: false }
  }

  /** @param work is given what tells how far it is, and what ends it @throws busy */
  start(
    verb: Verb,
    channel: string,
    about: Pick<State, 'head' | 'trimmed' | 'dryRun'>,
    work: (told: (progress: object) => void, signal: AbortSignal) => Promise<unknown>,
  ): State {
    const last = this.#last
    if (last?.state.running)
      throw new TidemarkError('busy', `${last.channel} is being ${DOING[last.verb]}`, { channel: last.channel })
    const begun = { startedAt: formatTime(Date.now()), ...about }
    const stopping = new AbortController()
    const mine: Begun = { verb, channel, stopping, state: { running: true, ...begun }, ended: Promise.resolve() }
    this.#last = mine
    this.#runs.add(() => ({ work: verb, channel, ...mine.state }))
    const told = (progress: object): void => {
      mine.state = { ...mine.state, ...progress }
    }
    const over = (outcome: Partial<State>): void => {
      mine.state = { running: false, ...begun, finishedAt: formatTime(Date.now()), ...outcome }
    }
    const { stopping: serverStopping, logger } = this.#doors
    mine.ended = work(told, AbortSignal.any([serverStopping, stopping.signal])).then(
      (report) => {
        over({ report })
        logger.info({ call: verb, report, ...about }, 'A run came to its end')
      },
      (error) => {
        const { phase, seq } = mine.state
        const how = { ...(phase !== undefined && { phase }), ...(seq !== undefined && { seq }) }
        if (serverStopping.aborted)
          over({ failed: toProblem(new TidemarkError('unavailable', 'The server is stopping, and this run with it')) })
        else if (stopping.signal.aborted && (error as Error | undefined)?.name === 'AbortError') {
          over({ stopped: true, ...how })
          logger.info({ call: verb, channel, ...how }, 'A run was told to end')
        } else {
          over({ failed: toProblem(error) })
          this.#doors.failed('http', error, { call: verb, channel })
        }
      },
    )
    return mine.state
  }
}

export function addUpkeep(app: App, doors: Doors, runs: Runs): void {
  const { log, keeper, states } = doors
  const upkeep = new Upkeep(doors, runs)
  const erased = (channel: string): void => {
    // A state holds copies; it is made anew from what is left.
    states.forget(channel)
    keeper.recount(channel)
  }
  const about = { tags: ['channels'], params: schemas.ChannelPath, querystring: schemas.NoQuery }

  /** How far a run is, and its end before its time. */
  const addRun = (
    verb: Verb,
    run: typeof Compaction | typeof Erasing,
    texts: Readonly<Record<'of' | 'stop' | 'stays', string>>,
  ) => {
    const address = `/v1/channels/:channel/${verb}`
    const response = { 200: run, default: schemas.Refusal }
    const summary = `How far ${texts.of} is, and what it came to`
    app.get(address, { schema: { ...about, summary, response } }, async ({ params: { channel } }) => {
      await log.info(channel)
      return upkeep.of(verb, channel) as z.infer<typeof run>
    })
    const description = `Answered when it has ended. ${texts.stays}`
    app.delete(
      address,
      { schema: { ...about, summary: texts.stop, description, response } },
      async ({ params: { channel } }) => {
        await log.info(notOurs(channel))
        return (await upkeep.stop(verb, channel)) as z.infer<typeof run>
      },
    )
  }
  addRun('compact', Compaction, {
    of: 'compaction of a channel',
    stop: 'End compaction of a channel that is under way',
    stays: 'What it had done stays, and another run goes on with it.',
  })
  addRun('erase', Erasing, {
    of: 'erasing in a channel',
    stop: 'End erasing in a channel that is under way',
    stays: 'What it had erased stays erased; asked for again, it is ended.',
  })

  app.post(
    '/v1/channels/:channel/compact',
    {
      schema: {
        ...about,
        summary: 'Keep the newest event of each key',
        description: 'In the background, one run at a time: while one is under way, of whichever channel, `409 busy`.',
        body: Compact,
        response: { 200: Compaction, default: schemas.Refusal },
      },
    },
    async ({ params: { channel }, body: { dryRun = false, minLag, ...ages } }) => {
      const { head, trimmed } = await log.info(notOurs(channel))
      need(log.about.capabilities.includes('compact'), 'compact')
      const options = { dryRun, minLag, minAge: inMs(ages.minAge), tombstoneAge: inMs(ages.tombstoneAge) }
      const onReplaced = (): void => keeper.recount(channel)
      return upkeep.start('compact', channel, { dryRun, head, trimmed }, (onProgress, signal) =>
        compactChannel(log, channel, { ...options, signal, onReplaced, onProgress }),
      ) as z.infer<typeof Compaction>
    },
  )

  app.post(
    '/v1/channels/:channel/erase',
    {
      schema: {
        ...about,
        summary: 'Erase one event, or all events of a key',
        description: 'In the background, one run at a time, with compaction: while one is under way, `409 busy`.',
        body: Erase,
        response: { 200: Erasing, default: schemas.Refusal },
      },
    },
    async ({ params: { channel }, body, raw }) => {
      const { head, trimmed } = await log.info(notOurs(channel))
      need(log.about.capabilities.includes('erase'), 'erase')
      const what = 'key' in body ? { key: checkKey(body.key) } : body
      const by = callerOf(raw).name
      return upkeep.start('erase', channel, { head, trimmed }, (onProgress, signal) =>
        erase(log, channel, what, { signal, by, onProgress, onReplaced: () => erased(channel) }),
      ) as z.infer<typeof Erasing>
    },
  )
}

/** @throws not-supported */
function need(can: boolean, capability: Verb): void {
  if (!can) throw new TidemarkError('not-supported', `This engine can not ${capability}`, { capability })
}
