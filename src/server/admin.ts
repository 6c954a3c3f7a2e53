/** The calls about the server itself: its state, its probes, its figures and the streamer's switch. */
import { TidemarkError } from '../errors.ts'
import { formatTime } from '../event.ts'
import { type App, sendAsIs } from './app.ts'
import type { Doors } from './doors.ts'
import * as schemas from './schemas.ts'

/** How soon a caller may ask again whether the server is ready, ms. */
const READY_RETRY_MS = 1_000

/** How many there are at this moment. */
export interface OpenNow {
  /** Sockets included. */
  readonly connections: () => number
  readonly sockets: () => number
}

export function addAdmin(app: App, doors: Doors, open: OpenNow): void {
  const { log } = doors
  const tags = ['server']
  const startedAt = Date.now()
  const streamer = () => (doors.switch.on ? ('on' as const) : ('off' as const))
  const about = () => ({
    ...log.about,
    state: doors.stopping.aborted ? 'stopping' : log.health().state,
    streamer: streamer(),
  })

  app.get(
    '/v1/admin/status',
    {
      schema: {
        tags,
        summary: 'The server and its log at a glance',
        querystring: schemas.NoQuery,
        response: { 200: schemas.Status, default: schemas.Refusal },
      },
    },
    async () => {
      const { reason, pendingAppends, pendingBytes } = log.health()
      return {
        server: doors.settings.server,
        startedAt: formatTime(startedAt),
        ...about(),
        ...(reason === undefined ? {} : { reason }),
        connections: open.connections(),
        sockets: open.sockets(),
        pendingAppends,
        pendingBytes,
        memory: process.memoryUsage.rss(),
      }
    },
  )

  app.get(
    '/v1/admin/streamer',
    {
      schema: {
        tags,
        summary: 'Where the switch of the streamer stands',
        querystring: schemas.NoQuery,
        response: { 200: schemas.Streamer, default: schemas.Refusal },
      },
    },
    async () => ({ on: doors.switch.on }),
  )

  app.put(
    '/v1/admin/streamer',
    {
      schema: {
        tags,
        summary: 'Turn the streamer on or off',
        description:
          'Off: sockets are closed with a hint and their clients go on by polling. On: they come back. It survives restarts and holds for every gateway of one log; SSE and polls are left alone.',
        querystring: schemas.NoQuery,
        body: schemas.Streamer,
        response: { 200: schemas.Streamer, default: schemas.Refusal },
      },
    },
    async ({ body: { on } }) => {
      await doors.switch.set(on)
      return { on: doors.switch.on }
    },
  )

  app.get(
    '/livez',
    {
      schema: {
        tags,
        summary: 'The process answers',
        querystring: schemas.NoQuery,
        response: { 200: schemas.Live, default: schemas.Refusal },
      },
    },
    async () => ({ live: true as const }),
  )

  app.get(
    '/readyz',
    {
      schema: {
        tags,
        summary: 'The log takes appends',
        querystring: schemas.NoQuery,
        response: { 200: schemas.Ready, default: schemas.Refusal },
      },
    },
    async () => {
      const facts = about()
      if (facts.state === 'ok') return facts
      const why =
        log.health().reason ?? (facts.state === 'stopping' ? 'The server is stopping' : 'The log is not ready')
      throw new TidemarkError('unavailable', why, { ...facts, retryAfter: READY_RETRY_MS })
    },
  )

  app.get(
    '/metrics',
    {
      schema: {
        tags,
        summary: 'Figures for Prometheus',
        querystring: schemas.NoQuery,
        response: { 200: schemas.textOf('text/plain'), default: schemas.Refusal },
      },
    },
    async (_, reply) => {
      const { text, contentType } = await doors.metrics.text()
      return sendAsIs(reply, contentType, text)
    },
  )
}
