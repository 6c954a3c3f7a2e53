/** The calls about sessions of pages: a token becomes a cookie, and no more. */

import { callerOf } from '../doors/callers.ts'
import type { Cookies } from '../doors/cookies.ts'
import type { Doors } from '../doors/doors.ts'
import type { Peers } from '../doors/peers.ts'
import { TidemarkError } from '../errors.ts'
import type { App } from './app.ts'
import * as schemas from './schemas.ts'

export function addSession(app: App, { keyring }: Doors, cookies: Cookies, peers: Peers): void {
  const tags = ['server']

  app.post(
    '/v1/session',
    {
      schema: {
        tags,
        summary: 'Turn a token into a cookie, for an EventSource',
        description:
          'The cookie ends with the token and counts for GET requests of this server’s own pages alone. Without keys there is none.',
        querystring: schemas.NoQuery,
        response: { 204: schemas.Nothing, default: schemas.Refusal },
      },
    },
    async ({ raw }, reply) => {
      const who = callerOf(raw)
      if (who.kind === 'client') reply.header('set-cookie', cookies.begin(who, peers.isSecure(raw)))
      else if (!keyring.isOpen) throw new TidemarkError('forbidden', 'A session stands for a token, not for a key')
      return reply.code(204).send()
    },
  )

  app.delete(
    '/v1/session',
    {
      schema: {
        tags,
        summary: 'End the session of a page',
        querystring: schemas.NoQuery,
        response: { 204: schemas.Nothing, default: schemas.Refusal },
      },
    },
    async ({ raw }, reply) =>
      reply
        .header('set-cookie', cookies.end(raw.headers.cookie, peers.isSecure(raw)))
        .code(204)
        .send(),
  )
}
