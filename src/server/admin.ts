/** The calls about the server itself: its state, its probes, its figures and the streamer's switch. */
import type { Doors } from '../doors/doors.ts'
import { type App, asRoute, sendAsIs } from './app.ts'
import { Metrics } from './metrics.ts'
import { live, ready, stateOf } from './probes.ts'
import * as schemas from './schemas.ts'

/** What a server knows beside its doors. */
export interface Running {
  /** When the server was started. */
  readonly startedAt: string
  /** Sockets included. */
  readonly connections: () => number
  readonly sockets: () => number
}

export function addAdmin(app: App, doors: Doors, open: Running, version: string): void {
  const { log } = doors
  const tags = ['server']
  const hot = asRoute(doors)
  const metrics = new Metrics(log, doors.metrics, doors.keeper.kept, version)

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
        startedAt: open.startedAt,
        ...stateOf(doors),
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

  app.get('/livez', {
    schema: {
      tags,
      summary: 'The process answers',
      querystring: schemas.NoQuery,
      response: { 200: schemas.Live, default: schemas.Refusal },
    },
    ...hot(live),
  })

  app.get('/readyz', {
    schema: {
      tags,
      summary: 'The log takes appends',
      querystring: schemas.NoQuery,
      response: { 200: schemas.Ready, default: schemas.Refusal },
    },
    ...hot(ready),
  })

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
      const { text, contentType } = await metrics.text()
      return sendAsIs(reply, contentType, text)
    },
  )
}
