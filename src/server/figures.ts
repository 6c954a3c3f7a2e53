/** The calls of who watches the server: figures to make rates of, heads that move, cursors that lag, connections. */
import type { Doors } from '../doors/doors.ts'
import * as limits from '../doors/limits.ts'
import { APPEND_EVENTS_MAX, BLOCK_BYTES_MAX } from '../event.ts'
import type { ConnectionJson, FiguresJson, SettingJson } from '../wire.ts'
import type { App } from './app.ts'
import { Disk } from './disk.ts'
import * as schemas from './schemas.ts'
import * as admin from './schemas-admin.ts'
import { Survey } from './survey.ts'

/** What a server knows beside its doors. */
export interface Watched {
  /** When the server was started. */
  readonly startedAt: string
  /** Sockets included. */
  readonly connections: () => number
  readonly sockets: () => number
  /** Those whose other side takes least first, then the oldest. */
  readonly openConnections: (limit: number) => readonly ConnectionJson[]
  /** Where the server is reached. */
  readonly url: () => string
  /** Settings as they were given. */
  readonly settings: readonly SettingJson[]
  /** Directory of the log, on a disk to be watched. */
  readonly dir: string | undefined
}

export function addFigures(app: App, doors: Doors, watched: Watched): void {
  const { log } = doors
  const tags = ['server']
  const disk = watched.dir === undefined ? undefined : new Disk(watched.dir)
  const survey = new Survey(log)

  app.get(
    '/v1/admin/figures',
    {
      schema: {
        tags,
        summary: 'Counters and states, to make rates and charts of',
        querystring: schemas.NoQuery,
        response: { 200: admin.Figures, default: schemas.Refusal },
      },
    },
    async (): Promise<FiguresJson> => {
      const room = await disk?.figures()
      const { state, reason, pendingAppends, pendingBytes } = log.health()
      return {
        at: performance.now(),
        startedAt: watched.startedAt,
        state: doors.stopping.aborted ? 'stopping' : state,
        ...(reason !== undefined && { reason }),
        streamer: doors.switch.on ? 'on' : 'off',
        ...doors.metrics.figures(),
        connections: watched.connections(),
        sockets: watched.sockets(),
        pendingAppends,
        pendingBytes,
        memory: process.memoryUsage.rss(),
        ...(room && { disk: room }),
      }
    },
  )

  app.get(
    '/v1/admin/heads',
    {
      schema: {
        tags,
        summary: 'The heads that move most',
        description: 'All channels are looked at, every few seconds at most, for all who ask.',
        querystring: admin.ListHeads,
        response: { 200: admin.Heads, default: schemas.Refusal },
      },
    },
    async ({ query: { limit } }) => survey.heads(limit, admin.LIST_ROWS_MAX),
  )

  app.get(
    '/v1/admin/cursors',
    {
      schema: {
        tags: ['cursors'],
        summary: 'The cursors that lag most',
        description: 'Of one channel, or of all: these are looked at every few seconds at most, for all who ask.',
        querystring: admin.ListCursors,
        response: { 200: admin.WorstCursors, default: schemas.Refusal },
      },
    },
    async ({ query: { limit, channel } }) => survey.cursors(limit, admin.LIST_ROWS_MAX, channel),
  )

  app.get(
    '/v1/admin/connections',
    {
      schema: {
        tags,
        summary: 'Open connections: those whose other side takes least first, then the oldest',
        querystring: admin.ListConnections,
        response: { 200: admin.OpenConnections, default: schemas.Refusal },
      },
    },
    async ({ query: { limit } }) => ({
      count: watched.connections(),
      connections: [...watched.openConnections(limit)],
    }),
  )

  app.get(
    '/v1/admin/settings',
    {
      schema: {
        tags,
        summary: 'What this server was told, and its limits',
        querystring: schemas.NoQuery,
        response: { 200: admin.ShownSettings, default: schemas.Refusal },
      },
    },
    async () => ({
      server: doors.settings.server,
      url: watched.url(),
      settings: watched.settings,
      limits: {
        ...doors.settings.limits,
        eventsOfAnAppend: APPEND_EVENTS_MAX,
        bytesOfABlock: BLOCK_BYTES_MAX,
        bytesOfAnAppendAsSent: limits.APPEND_BYTES_MAX,
        bytesThatWaitForAWrite: limits.PENDING_BYTES_MAX,
        bytesOfAnswersNotTaken: limits.UNSENT_BYTES_MAX,
        msForARequest: limits.REQUEST_MS,
        msToTakeAnAnswer: limits.ANSWER_MS,
      },
    }),
  )
}
