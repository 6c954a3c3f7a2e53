/** The two probes. They are asked often, and before all else when a server was started again: the router is not in it. */

import type { Doors } from '../doors/doors.ts'
import { TidemarkError } from '../errors.ts'
import type { HotCall } from './front.ts'
import { parseQuery, sendJson } from './http.ts'

/** How soon a caller may ask again whether the server is ready, ms. */
const READY_RETRY_MS = 1_000
const LIVE = JSON.stringify({ live: true })

/** `GET /livez`: the process answers. @throws bad-request */
export const live: HotCall = async (req, res) => {
  parseQuery(req.url!, [])
  sendJson(res, 200, LIVE)
}

/** `GET /readyz`: the log takes appends; the rest is for admins. @throws bad-request; unavailable, with the state */
export const ready: HotCall = async (req, res, doors, who) => {
  parseQuery(req.url!, [])
  const all = stateOf(doors)
  const facts = who.isAdmin ? all : { state: all.state }
  if (facts.state === 'ok') {
    sendJson(res, 200, JSON.stringify(facts))
    return
  }
  const reason = who.isAdmin ? doors.log.health().reason : undefined
  const why = reason ?? (facts.state === 'stopping' ? 'The server is stopping' : 'The log is not ready')
  throw new TidemarkError('unavailable', why, { ...facts, retryAfter: READY_RETRY_MS })
}

/** What the log promises, and the state of the server over it. */
export const stateOf = ({ log, stopping, switch: streamer }: Doors) => ({
  ...log.about,
  state: stopping.aborted ? ('stopping' as const) : log.health().state,
  streamer: streamer.on ? ('on' as const) : ('off' as const),
})
