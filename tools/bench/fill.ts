/** Stores many events, as W4 and W6 want them. */
import type { Count } from './figures.ts'
import type { Lab } from './lab.ts'
import { httpAppends } from './requests.ts'
import { channelState, type Target } from './target.ts'

const CONNECTIONS = 16

export interface Filled {
  readonly events: number
  /** Of the events' stamps. */
  readonly sum: string
  readonly perSecond: number
}

/** Appends `events` events in batches over HTTP JSON; every one is answered when it resolves. */
export async function fill(lab: Lab, target: Target, channel: string, events: number): Promise<Filled> {
  const { batch } = lab.scale
  const requests = httpAppends(target.port, channel, 'json', batch)
  const load = {
    port: target.port,
    requests,
    protocol: 'http',
    connections: CONNECTIONS,
    count: events / batch,
  } as const
  const report = await lab.drive.load(target.child, load)
  return { events: report.total, sum: report.sum, perSecond: report.events / report.seconds }
}

/** The head of a channel that holds `wanted` events. */
export async function headCount(target: Target, channel: string, wanted: number, what: string): Promise<Count> {
  return { what, wanted, got: (await channelState(target.port, channel)).head }
}
