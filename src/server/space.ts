/**
 * Channels by the space that they take: a look at all of them, shared by all who ask at about the same time, and of
 * those that are shown what they are now.
 */
import { hasCode } from '../errors.ts'
import { formatTime } from '../event.ts'
import { infoOrNone } from '../log/follow.ts'
import type { Keeper } from '../log/keeper.ts'
import type { ChannelInfo, Log } from '../log/log.ts'
import type { SpaceJson, SpaceRowJson } from '../wire.ts'
import { Look, SURVEYED_CHANNELS_MAX } from './survey.ts'

export const SPACE_ORDERS = ['bytes', 'events', 'trimmed', 'time', 'channel'] as const
type Order = (typeof SPACE_ORDERS)[number]

/** Channels whose size is asked for at once. */
const SLICE = 100
/** Channels whose oldest event is looked for at once: of each one a block is in memory. */
const ROWS_AT_ONCE = 8
/** Why the oldest event of a channel can not be told now. */
const NOT_NOW = ['no-channel', 'epoch-changed', 'gap', 'ahead-of-head', 'data-loss'] as const

/** A channel as it was at the look; about 200 bytes. */
interface Seen {
  readonly channel: string
  readonly time: number
  readonly trimmed: number
  readonly events: number
  readonly bytes: number | undefined
}

interface Found {
  readonly seen: readonly Seen[]
  readonly complete: boolean
  /** In the orders that were asked for. */
  readonly sorted: Map<Order, readonly Seen[]>
}

const ORDERS: Readonly<Record<Order, (a: Seen, b: Seen) => number>> = {
  // Where the engine does not know, events are all that is known.
  bytes: (a, b) => (b.bytes ?? 0) - (a.bytes ?? 0) || b.events - a.events,
  events: (a, b) => b.events - a.events,
  trimmed: (a, b) => b.trimmed - a.trimmed,
  time: (a, b) => b.time - a.time,
  channel: (a, b) => (a.channel < b.channel ? -1 : 1),
}

export interface SpaceQuery {
  readonly channel?: string | undefined
  readonly holds: string
  readonly by: Order
  readonly reverse?: '1' | undefined
  readonly skip: number
  readonly limit: number
}

const timeOf = (ms: number | undefined): string | null => (ms === undefined || ms === 0 ? null : formatTime(ms))

export class Space {
  readonly #log: Log
  readonly #keeper: Keeper
  readonly #look = new Look<Found>()

  constructor(log: Log, keeper: Keeper) {
    this.#log = log
    this.#keeper = keeper
  }

  /** @throws no-channel for one that is asked for by its name */
  async of(query: SpaceQuery): Promise<SpaceJson> {
    if (query.channel !== undefined) {
      const row = await this.#row(await this.#log.info(query.channel))
      const { head, trimmed, bytes } = row
      const sums = { events: head - trimmed, ...(bytes !== undefined && { bytes }) }
      return { channels: 1, complete: true, found: 1, ...sums, keeper: this.#kept(), rows: [row] }
    }
    const looked = await this.#look.at(() => this.#lookAtAll())
    const found = foundOf(looked, query)
    const { seen, complete } = looked
    const shown = found.slice(query.skip, query.skip + query.limit)
    return {
      ...{ channels: seen.length, complete, found: found.length, ...sumOf(found) },
      keeper: this.#kept(),
      rows: await this.#rows(shown.map(({ channel }) => channel)),
    }
  }

  async #lookAtAll(): Promise<Found> {
    const seen: Seen[] = []
    let slice: ChannelInfo[] = []
    const take = async () => {
      seen.push(...(await Promise.all(slice.map((info) => this.#seen(info)))))
      slice = []
    }
    let complete = true
    for await (const info of this.#log.channels('')) {
      if (seen.length + slice.length === SURVEYED_CHANNELS_MAX) {
        complete = false
        break
      }
      slice.push(info)
      if (slice.length === SLICE) await take()
    }
    await take()
    return { seen, complete, sorted: new Map() }
  }

  async #seen({ channel, head, trimmed, time }: ChannelInfo): Promise<Seen> {
    return { channel, time, trimmed, events: head - trimmed, bytes: await this.#bytes(channel) }
  }

  /** Undefined: the engine does not know, or the channel was deleted just now. */
  async #bytes(channel: string): Promise<number | undefined> {
    return this.#log.bytes?.(channel).catch(() => undefined)
  }

  /** As they are now; what is gone since the look is left out. */
  async #rows(channels: readonly string[]): Promise<SpaceRowJson[]> {
    const rows: SpaceRowJson[] = []
    for (let i = 0; i < channels.length; i += ROWS_AT_ONCE) {
      const infos = await Promise.all(channels.slice(i, i + ROWS_AT_ONCE).map((each) => infoOrNone(this.#log, each)))
      const there = infos.filter((info) => info !== undefined)
      rows.push(...(await Promise.all(there.map((info) => this.#row(info)))))
    }
    return rows
  }

  async #row(info: ChannelInfo): Promise<SpaceRowJson> {
    const { channel, epoch, head, trimmed, time, settings } = info
    const [bytes, oldest] = await Promise.all([this.#bytes(channel), this.#oldest(info)])
    const inForce = this.#keeper.inForce(channel, settings)
    const dropped = this.#keeper.dropped(info)
    return {
      ...{ channel, epoch, head, trimmed, time: timeOf(time), oldest: timeOf(oldest) },
      ...(bytes !== undefined && { bytes }),
      ...(inForce && { retention: { ...inForce.retention, from: inForce.from } }),
      ...(dropped && { dropped: { time: formatTime(dropped.time), events: dropped.events } }),
    }
  }

  async #oldest(info: ChannelInfo): Promise<number | undefined> {
    try {
      return await this.#keeper.oldest(info)
    } catch (error) {
      if (NOT_NOW.some((code) => hasCode(error, code))) return undefined
      throw error
    }
  }

  #kept(): SpaceJson['keeper'] {
    const { last, next } = this.#keeper.looks
    const { trims, events, cursors } = this.#keeper.kept
    return { lookedAt: timeOf(last), nextLookAt: timeOf(next), trims, events, cursors }
  }
}

/** Those that a query asks for, in its order. */
function foundOf({ seen, sorted }: Found, { holds, by, reverse }: SpaceQuery): readonly Seen[] {
  const all = sorted.get(by) ?? seen.toSorted(ORDERS[by])
  sorted.set(by, all)
  const part = holds.toLowerCase()
  const found = part === '' ? all : all.filter(({ channel }) => channel.toLowerCase().includes(part))
  return reverse ? found.toReversed() : found
}

function sumOf(found: readonly Seen[]): Pick<SpaceJson, 'events' | 'bytes'> {
  const sum = { events: 0, bytes: 0 }
  for (const { events, bytes = 0 } of found) {
    sum.events += events
    sum.bytes += bytes
  }
  return found.every(({ bytes }) => bytes !== undefined) ? sum : { events: sum.events }
}
