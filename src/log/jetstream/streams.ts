/** The streams in NATS: how they are made, and what is asked of those that are there. */
import { randomBytes } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import type { JetStreamAccountStats, JetStreamManager, StreamConfig, StreamInfo } from '@nats-io/jetstream'
import { TidemarkError } from '../../errors.ts'
import { isUnreachable, Leaderless } from './failures.ts'

/** A stream that is made in a cluster may wait for its leader, ms. */
const SETUP_MS = 15_000
const RETRY_MS = 100
/** How long an idempotency key is remembered, unless told: NATS keeps each in memory for as long. */
const ID_WINDOW_MS = 120_000
const NANOS = 1_000_000
/** The largest block with its headers, bytes: what NATS takes by default. */
export const PAYLOAD_MIN = 1024 * 1024
const REPLICAS = 3

/** Names of what a log is in NATS. */
export interface Names {
  /** The stream of events; their subjects are `PREFIX.e.CHANNEL`, told anew as `PREFIX.live.CHANNEL`. */
  readonly events: string
  readonly prefix: string
  /** The key-value bucket of cursors. */
  readonly bucket: string
}

export const namesIn = (namespace: string): Names => ({
  events: `TIDEMARK_${namespace}`,
  prefix: `tidemark.${namespace}`,
  bucket: `TIDEMARK_${namespace}_CURSORS`,
})

/** What is so for as long as the streams are there. */
export interface Facts {
  /** First half of every epoch. */
  readonly life: string
  readonly replicas: number
  readonly storage: 'file' | 'memory'
  readonly idWindow: number
}

/**
 * Finds the streams, or makes them.
 * @param isCluster where nobody says how many replicas: three then, else one @throws wrong-config; what NATS throws
 */
export async function findOrMake(
  jsm: JetStreamManager,
  { events, prefix, bucket }: Names,
  wanted: {
    readonly replicas: number | undefined
    readonly isCluster: boolean
    readonly idWindow: number | undefined
    readonly maxBytes: number | undefined
  },
): Promise<Facts> {
  const copies = wanted.replicas ?? (wanted.isCluster ? REPLICAS : 1)
  const common = { num_replicas: copies, storage: 'file', allow_direct: true } as const
  const found = await have(jsm, {
    ...common,
    name: events,
    subjects: [`${prefix}.e.*`],
    republish: { src: `${prefix}.e.*`, dest: `${prefix}.live.{{wildcard(1)}}` },
    duplicate_window: (wanted.idWindow ?? ID_WINDOW_MS) * NANOS,
    allow_atomic: true,
    ...(wanted.maxBytes !== undefined && { max_bytes: wanted.maxBytes, discard: 'new' as StreamConfig['discard'] }),
    metadata: { 'tidemark.life': randomBytes(5).toString('hex'), 'tidemark.format': '1' },
  })
  // A key-value bucket as NATS has them, so that its own tools show it.
  const cursors = await have(jsm, {
    ...common,
    name: `KV_${bucket}`,
    subjects: [`$KV.${bucket}.>`],
    max_msgs_per_subject: 1,
    discard: 'new' as StreamConfig['discard'],
    allow_rollup_hdrs: true,
    deny_delete: true,
  })
  const life = lifeOf(found)
  if (found.metadata?.['tidemark.format'] !== '1' || life === '')
    throw new TidemarkError('wrong-config', `The stream ${events} is not one of this version of Tidemark`)
  const fault = faultOf(found, prefix)
  if (fault !== undefined) throw new TidemarkError('wrong-config', `The stream ${events} ${fault}`)
  if (cursors.max_age > 0 || cursors.max_msgs > 0 || cursors.discard !== 'new')
    throw new TidemarkError('wrong-config', `The stream ${cursors.name} drops cursors by age or number`)
  const { num_replicas: replicas, storage, duplicate_window } = found
  return { life, replicas, storage, idWindow: duplicate_window / NANOS }
}

/** First half of every epoch; empty when the stream is none of ours. */
export const lifeOf = ({ metadata }: StreamConfig): string => metadata?.['tidemark.life'] ?? ''

/** Why a stream can not hold the events, in words; undefined when it can. Others may have made it, or changed it. */
export function faultOf(found: StreamConfig, prefix: string): string | undefined {
  const { max_msgs, max_bytes, discard, republish, subjects = [] } = found
  if (found.allow_rollup_hdrs) return 'takes rollups, which would remove events'
  if (found.retention !== 'limits' || found.max_age > 0 || found.max_msgs_per_subject > 0)
    return 'drops events by itself: it must have no age, no limit by subject, and the retention `limits`'
  if ((max_msgs > 0 || max_bytes > 0) && discard !== 'new')
    return 'drops its oldest when it is full: discard must be `new`'
  if (found.max_msg_size > 0 && found.max_msg_size < PAYLOAD_MIN) return `takes no messages of ${PAYLOAD_MIN} bytes`
  if (subjects.length !== 1 || subjects[0] !== `${prefix}.e.*` || found.subject_transform !== undefined)
    return `does not take ${prefix}.e.* as it is`
  if (
    republish?.src !== `${prefix}.e.*` ||
    republish.dest !== `${prefix}.live.{{wildcard(1)}}` ||
    republish.headers_only
  )
    return `does not republish its messages to ${prefix}.live`
  if (found.deny_purge || found.sealed || !found.allow_direct) return 'must allow purges, writes and direct reads'
  return undefined
}

/**
 * How long ago, ms, the leader of a stream heard of as many replicas as make it one. While it has none, any replica
 * answers in its place, as far as that has come.
 * @throws Leaderless when one did
 */
export function unheard({ config, cluster }: StreamInfo): number {
  // Only of itself a leader says since when, and only when it has applied what was stored before.
  if (config.num_replicas > 1 && cluster?.leader_since === undefined) throw new Leaderless()
  const heard = (cluster?.replicas ?? []).map(({ offline, active }) => (offline ? Number.POSITIVE_INFINITY : active))
  return (heard.sort((a, b) => a - b)[Math.ceil(heard.length / 2) - 1] ?? 0) / NANOS
}

/** What is left of a limit. */
export interface Left {
  readonly free: number
  readonly size: number
}

/** What is left for a stream within a limit of its own; undefined where it has none. */
export function leftIn({ config, state }: StreamInfo): { bytes: Left | undefined; messages: Left | undefined } {
  return { bytes: leftOf(config.max_bytes, state.bytes), messages: leftOf(config.max_msgs, state.messages) }
}

/** What is left for one copy of a stream within the account's limit; undefined where it has none. */
export function leftFor(account: JetStreamAccountStats, { replicas, storage }: Facts): Left | undefined {
  const tiers = account.tiers as Readonly<Record<string, JetStreamAccountStats>> | undefined
  const { limits, ...used } = tiers?.[`R${replicas}`] ?? account
  const left = storage === 'file' ? leftOf(limits.max_storage, used.storage) : leftOf(limits.max_memory, used.memory)
  return left && { free: left.free / replicas, size: left.size / replicas }
}

const leftOf = (limit: number, used: number): Left | undefined =>
  limit > 0 ? { free: limit - used, size: limit } : undefined

/** The tighter one. */
export const less = (a: Left | undefined, b: Left | undefined): Left | undefined =>
  a !== undefined && (b === undefined || a.free <= b.free) ? a : b

async function have(
  jsm: JetStreamManager,
  { storage, ...config }: Omit<Partial<StreamConfig>, 'storage'> & { name: string; storage: 'file' },
): Promise<StreamConfig> {
  for (const until = performance.now() + SETUP_MS; ; ) {
    try {
      return (await jsm.streams.info(config.name)).config
    } catch (error) {
      if (performance.now() > until) throw error
      if ((error as Error).name !== 'StreamNotFoundError' && !isUnreachable(error)) throw error
      const made = await jsm.streams
        .add({ ...config, storage: storage as StreamConfig['storage'] })
        .catch((failure: unknown) => failure as Error)
      if (!(made instanceof Error)) continue
      // Another gateway may make it at the same moment: then it is found.
      if (!isUnreachable(made) && !/already in use/.test(made.message)) throw made
      await delay(RETRY_MS)
    }
  }
}
