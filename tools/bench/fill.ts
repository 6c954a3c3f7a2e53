/** Stores many events, as W1, W4 and W6 want them. */
import type { LoadOptions } from './drive.ts'
import type { Count } from './figures.ts'
import type { Lab } from './lab.ts'
import type { Sending } from './peer.ts'
import { type Form, httpAppends, inTurn } from './requests.ts'
import { channelState, headsOf, type Target } from './target.ts'

const CONNECTIONS = 16
/** Producers that make channels: their appends share fsyncs. */
const MAKERS = 64
/** Events of an append of the quick fill: the most that one may hold. */
const QUICK_BATCH = 1_000

export interface Filled {
  readonly events: number
  /** Of the events' stamps. */
  readonly sum: string
  readonly perSecond: number
}

/** Appends `events` events in batches over HTTP JSON; every one is answered when it resolves. */
export function fill(lab: Lab, target: Target, channel: string, events: number): Promise<Filled> {
  const { batch } = lab.scale
  return fillBy(lab, target, { protocol: 'http', requests: httpAppends(target.port, channel, 'json', batch) }, events)
}

/** The same as quickly as it goes: largest batches, data that the server does not look into. */
export function fillQuickly(lab: Lab, target: Target, channel: string, events: number): Promise<Filled> {
  const requests = httpAppends(target.port, channel, 'opaque', QUICK_BATCH)
  return fillBy(lab, target, { protocol: 'http', requests }, events, QUICK_BATCH)
}

/** The same in whichever way; each request must hold `size` events. */
export async function fillBy(
  lab: Lab,
  target: Target,
  sending: Sending,
  events: number,
  size = lab.scale.batch,
): Promise<Filled> {
  const load: LoadOptions = { ...sending, port: target.port, connections: CONNECTIONS, count: events / size }
  const report = await lab.drive.load(target.child, load)
  return { events: report.total, sum: report.sum, perSecond: report.events / report.seconds }
}

/** Makes `channels` channels (requests.ts `nameInTurn`) of `each` events; resolves with the number of all events. */
export async function fillChannels(
  lab: Lab,
  target: Target,
  prefix: string,
  channels: number,
  each: number,
  form: Form = 'opaque',
): Promise<number> {
  const report = await lab.drive.load(target.child, {
    port: target.port,
    requests: httpAppends(target.port, inTurn(prefix), form, each),
    protocol: 'http',
    connections: MAKERS,
    channels,
    count: channels,
  })
  return report.total
}

/** The head of a channel that holds `wanted` events. */
export async function headCount(target: Target, channel: string, wanted: number, what: string): Promise<Count> {
  return { what, wanted, got: (await channelState(target.port, channel)).head }
}

/** The channels that begin with a prefix, and the events that they hold together. */
export async function headsCount(
  target: Target,
  prefix: string,
  channels: number,
  events: number,
): Promise<readonly Count[]> {
  const heads = await headsOf(target.port, `${prefix}-`)
  return [
    { what: 'channels', wanted: channels, got: heads.length },
    { what: 'events in all channels', wanted: events, got: heads.reduce((sum, head) => sum + head, 0) },
  ]
}
