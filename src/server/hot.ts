/**
 * What is taken off before the router, which costs more than these do: append and read with their streams, the poll
 * of many channels, and the two probes. The router knows them all the same (events.ts, admin.ts), for `/openapi.json` and for `Allow`.
 */
import type { IncomingMessage } from 'node:http'
import { append } from './append.ts'
import type { HotCall } from './front.ts'
import { wantsStream } from './http.ts'
import { poll } from './poll.ts'
import { live, ready } from './probes.ts'
import { read } from './read.ts'
import { stream } from './sse.ts'

const CHANNELS = '/v1/channels/'
const EVENTS = '/events'
/** Several channels, as a stream only. */
const ALL_EVENTS = '/v1/events'
const POLL = '/v1/poll'
const PROBES: ReadonlyMap<string, HotCall> = new Map([
  ['/readyz', ready],
  ['/livez', live],
])

const OPEN: ReadonlySet<HotCall> = new Set(PROBES.values())

/** Whether it asks for no credential; every other one asks for the right on each of its channels. */
export const isOpenCall = (call: HotCall): boolean => OPEN.has(call)

/** The hot call that a request is; undefined when it is none. @throws not-acceptable */
export function hotCall(req: IncomingMessage): HotCall | undefined {
  const url = req.url!
  if (url === POLL) return req.method === 'POST' ? poll : undefined
  const mark = url.indexOf('?')
  const end = mark < 0 ? url.length : mark
  if (!url.endsWith(EVENTS, end)) return req.method === 'GET' ? PROBES.get(url) : undefined
  if (end === ALL_EVENTS.length && url.startsWith(ALL_EVENTS)) return req.method === 'GET' ? stream : undefined
  // `/v1/channels/events` is a channel of that name.
  if (!url.startsWith(CHANNELS) || end <= CHANNELS.length + EVENTS.length) return undefined
  if (req.method === 'POST') return append
  if (req.method !== 'GET') return undefined
  return wantsStream(req) ? stream : read
}
