/** The one place where an engine is chosen. */
import { resolve } from 'node:path'
import { TidemarkError } from '../errors.ts'
import type { RetentionRule } from '../retention.ts'
import type { BlocksPart, BlockView, StoreView } from './level/inspect.ts'
import type { Salvaged } from './level/salvage.ts'
import type { Durability, Log } from './log.ts'
import type { Report, VerifyOptions } from './verify.ts'

/** Where a log on NATS JetStream is, and how it is reached. */
export interface NatsOptions {
  /** `nats://host:port`, one for each server that may be asked first. */
  readonly servers: readonly string[]
  /** Names the streams: logs of several names share one NATS. Letters, digits, `_` and `-`. Default `main`. */
  readonly namespace?: string
  /** Servers that keep each event; default three in a cluster, else one. Counts when the streams are made. */
  readonly replicas?: number | undefined
  /** Most bytes that the events take on each of them, when the streams are made. Default: what NATS has. */
  readonly maxBytes?: number | undefined
  /** A credentials file's content. */
  readonly credentials?: Uint8Array
  readonly user?: string
  readonly password?: string
  readonly tls?: { readonly ca?: string; readonly cert?: string; readonly key?: string }
  /** What an operator knows of the servers' disks: `fsync` where they run with `sync_interval: always`. */
  readonly durability?: Durability | undefined
}

export interface LogOptions {
  /** The log is kept in NATS JetStream, and nothing in `dir`. */
  readonly nats?: NatsOptions
  /** Directory of the embedded log. */
  readonly dir: string
  /** False: there must be a log already; a directory without one is `data-loss`. Default: a new one is made. */
  readonly create?: boolean
  /** Opens a directory that was copied; its history becomes a new one (every epoch changes). */
  readonly acceptCopy?: boolean
  /** Opens a log whose newest acknowledged events are lost; its history becomes a new one. */
  readonly acceptDataLoss?: boolean
  /** How long an idempotency key is remembered at least, ms. Default 24 h. */
  readonly idWindow?: number
  /** Of which channels the newest event of each key is kept on disk, where their settings don't say. */
  readonly retain?: readonly RetentionRule[]
  /** Budget for the newest blocks in memory with their ready-made forms, bytes. Default 64 MiB. */
  readonly tailBytes?: number
  /** When LevelDB goes on to another log file, bytes, at least 64 KiB. Default 16 MiB; less only to see it happen. */
  readonly writeBufferBytes?: number
  /** Space on the disk, or left by NATS, below which appends are refused, bytes; 0 is off. Default 128 MiB, less of a small one. */
  readonly minFreeBytes?: number
  /** Told of each write: how long it took with its fsync, how many appends and other changes, how many bytes. */
  readonly onGroup?: (group: { readonly seconds: number; readonly tasks: number; readonly bytes: number }) => void
  /** Told about what an operator should know; never about single requests. */
  readonly onNotice?: (
    level: 'info' | 'warn' | 'error',
    message: string,
    facts: Readonly<Record<string, unknown>>,
  ) => void
}

/** @throws in-use, data-loss, wrong-config (a copy, a NATS that is too old), cannot-create, io-error, unavailable */
export async function openLog(options: LogOptions): Promise<Log> {
  if (options.nats) {
    const { openJetStream } = await import('./jetstream/engine.ts')
    return openJetStream(options.nats, options)
  }
  const { openLevel } = await import('./level/engine.ts')
  return openLevel(options)
}

/**
 * Verifies the stopped log in a directory, and changes nothing there.
 * @throws in-use, not-found, io-error; the signal's reason
 */
export async function verifyStopped(dir: string, options?: VerifyOptions): Promise<Report> {
  const { verifyLevel } = await import('./level/verify.ts')
  return verifyLevel(dir, options)
}

/**
 * Makes a new log of all that is whole in a stopped one, which it leaves as it is.
 * @throws in-use, not-found, cannot-create, storage-full, io-error; the signal's reason
 */
export async function salvageStopped(dir: string, into: string, options?: VerifyOptions): Promise<Salvaged> {
  const { salvageLevel } = await import('./level/salvage.ts')
  return salvageLevel(dir, into, options)
}

/**
 * Makes a new log beside a directory and gives it that name when all of it is there and verified. What a run that was
 * stopped left is gone on with by the next one with the same `draft`.
 * @param dir must not exist, or be empty
 * @param draft what the log is called beside it meanwhile: `DIR.DRAFT`
 * @param fill closes what it opens
 * @throws cannot-create; data-loss when it is not whole; what `fill` throws
 */
export async function makeStopped<T>(
  dir: string,
  draft: string,
  fill: (dir: string) => Promise<T>,
  options?: VerifyOptions,
): Promise<T> {
  const { makePlaceFor, nameDraft } = await import('./level/places.ts')
  const target = resolve(dir)
  const path = `${target}.${draft}`
  makePlaceFor(target)
  const filled = await fill(path)
  const { findings } = await verifyStopped(path, options)
  if (findings[0]) throw new TidemarkError('data-loss', `${path} is not whole: ${findings[0].detail}`)
  nameDraft(path, target)
  return filled
}

/** Takes a file for this process alone, until it is released. @throws in-use { pid } */
export async function lockFile(path: string): Promise<() => Promise<void>> {
  const { takeFile } = await import('./level/lock.ts')
  return takeFile(path)
}

/** What is in a stopped log. @throws in-use, not-found, io-error */
export async function inspectStopped(dir: string): Promise<StoreView> {
  const { inspectLevel } = await import('./level/inspect.ts')
  return inspectLevel(dir)
}

/** Blocks of one of its channels. @throws as inspectStopped; no-channel */
export async function inspectChannel(dir: string, channel: string, part: BlocksPart): Promise<readonly BlockView[]> {
  const { inspectBlocks } = await import('./level/inspect.ts')
  return inspectBlocks(dir, channel, part)
}
