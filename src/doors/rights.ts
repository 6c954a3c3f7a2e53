/**
 * What each call and each message of a socket asks of its caller, in one place. Whatever does not stand here is
 * refused: a route without a row ends the start of the router, a message without one does not compile.
 */
import type { Operation, Principal } from '../access/principal.ts'
import type { Request } from '../formats/intake.ts'

/**
 * `open`: of nobody anything. `known`: a good credential; the call itself asks for each channel that it is given.
 * An operation: on the channel of its address or message.
 */
export type Right = 'open' | 'known' | 'admin' | Operation

/** By method and address. HEAD is as GET. */
export const ROUTE_RIGHTS: Readonly<Record<string, Right>> = {
  'GET /livez': 'open',
  'GET /readyz': 'open',
  'GET /errors': 'open',
  'GET /openapi.json': 'open',
  'GET /client.js': 'open',
  'GET /client-append.js': 'open',
  'GET /client-poll.js': 'open',
  'GET /client-msgpack.js': 'open',
  'GET /client-bell.js': 'open',
  'GET /client-state.js': 'open',
  'GET /console': 'open',
  'GET /console/': 'open',
  'GET /console/:file': 'open',
  'GET /metrics': 'admin',

  'POST /v1/channels/:channel/events': 'append',
  'POST /v1/append': 'known',
  'GET /v1/channels/:channel/events': 'read',
  'GET /v1/channels/:channel/state': 'read',
  'GET /v1/events': 'known',
  'POST /v1/poll': 'known',
  'GET /v1/stream': 'known',

  // Commit or seek, as its body says.
  'PUT /v1/channels/:channel/cursors/:client': 'known',
  'GET /v1/channels/:channel/cursors/:client': 'read',
  'DELETE /v1/channels/:channel/cursors/:client': 'seek',
  'GET /v1/channels/:channel/cursors': 'list',
  'GET /v1/cursors/:client': 'known',

  'GET /v1/channels': 'known',
  'GET /v1/channels/:channel': 'list',
  'PUT /v1/channels/:channel': 'admin',
  'DELETE /v1/channels/:channel': 'admin',
  'POST /v1/channels/:channel/trim': 'admin',
  'POST /v1/channels/:channel/compact': 'admin',
  'GET /v1/channels/:channel/compact': 'admin',
  'DELETE /v1/channels/:channel/compact': 'admin',
  'POST /v1/channels/:channel/erase': 'admin',
  'GET /v1/channels/:channel/erase': 'admin',
  'DELETE /v1/channels/:channel/erase': 'admin',

  // Only a token becomes a cookie; who leaves needs none.
  'POST /v1/session': 'known',
  'DELETE /v1/session': 'open',

  'GET /v1/admin/status': 'admin',
  'GET /v1/admin/streamer': 'admin',
  'PUT /v1/admin/streamer': 'admin',
  'GET /v1/admin/figures': 'admin',
  'GET /v1/admin/heads': 'admin',
  'GET /v1/admin/cursors': 'admin',
  'GET /v1/admin/connections': 'admin',
  'GET /v1/admin/settings': 'admin',
  'GET /v1/admin/space': 'admin',
  'GET /v1/admin/retention': 'admin',
  'GET /v1/admin/runs': 'admin',
  'GET /v1/admin/verify': 'admin',
  'POST /v1/admin/verify': 'admin',
  'POST /v1/admin/import': 'admin',
}

/** By `op`. Before `hello` was answered there is no other one. */
export const OP_RIGHTS: Readonly<Record<Exclude<Request['op'], 'refused'>, Right>> = {
  hello: 'open',
  ping: 'known',
  refresh: 'known',
  subscribe: 'read',
  unsubscribe: 'known',
  commit: 'commit',
  append: 'append',
}

/** @throws Error for a route that nobody gave a right */
export function rightOf(method: string, url: string): Right {
  const right = ROUTE_RIGHTS[`${method === 'HEAD' ? 'GET' : method} ${url}`]
  if (right === undefined) throw new Error(`${method} ${url} has no row in doors/rights.ts`)
  return right
}

/** @param channel checked, where the right is an operation @throws unauthorized, forbidden */
export function check(who: Principal, right: Right, channel: string): void {
  if (right === 'open') return
  if (right === 'known') who.known()
  else if (right === 'admin') who.needAdmin()
  else who.need(right, channel)
}
