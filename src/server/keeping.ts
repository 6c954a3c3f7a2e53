/** The calls of who watches what is kept: the space of channels, what limits would drop, and the runs in the background. */
import type { Doors } from '../doors/doors.ts'
import type { Retention } from '../retention.ts'
import type { PlanJson } from '../wire.ts'
import type { App } from './app.ts'
import type { Runs } from './runs.ts'
import * as schemas from './schemas.ts'
import * as admin from './schemas-admin.ts'
import { Space } from './space.ts'

export function addKeeping(app: App, { log, keeper }: Doors, runs: Runs): void {
  const tags = ['channels']
  const space = new Space(log, keeper)

  app.get(
    '/v1/admin/space',
    {
      schema: {
        tags,
        summary: 'Channels by the space that they take',
        description:
          'All channels are looked at, every few seconds at most, for all who ask; those that are shown are told as they are now.',
        querystring: admin.ListSpace,
        response: { 200: admin.Space, default: schemas.Refusal },
      },
    },
    async ({ query }) => space.of(query),
  )

  app.get(
    '/v1/admin/retention',
    {
      schema: {
        tags,
        summary: 'What limits would drop of a channel now',
        description:
          'Changes nothing. Without any limit: what the configuration says for this channel would; with `everything`, nothing.',
        querystring: admin.AskPlan,
        response: { 200: admin.Plan, default: schemas.Refusal },
      },
    },
    async ({ query: { channel, everything, consumed, ...limits } }): Promise<PlanJson> => {
      const asked = { ...limits, ...(consumed && { consumed: true }) } as Retention
      const isAsked = everything !== undefined || Object.values(asked).some((limit) => limit !== undefined)
      const found = keeper.inForce(channel, isAsked ? { retention: asked } : {})
      const info = await log.info(channel)
      const { epoch, head, trimmed } = info
      const { upTo, more } = await keeper.plan(info, found?.retention ?? {})
      return {
        ...{ channel, epoch, head, trimmed, upTo, more },
        ...(found && { retention: { ...found.retention, from: found.from } }),
      }
    },
  )

  app.get(
    '/v1/admin/runs',
    {
      schema: {
        tags: ['server'],
        summary: 'Work on histories in the background: what is under way, and what ended last, newest first',
        querystring: schemas.NoQuery,
        response: { 200: admin.RunList, default: schemas.Refusal },
      },
    },
    async () => ({ runs: runs.list() }),
  )
}
