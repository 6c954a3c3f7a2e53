/**
 * A disk that is really full: a small tmpfs, or an ext4 image, filled by the log itself beside a filler file. Appends
 * answer `storage-full`, reads and follows go on meanwhile, and appends go on by themselves once the filler is gone.
 *
 * With the watermark off, LevelDB runs into ENOSPC; with it on it never does, and no append has an unknown outcome.
 */
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { decodeBlock } from '../../src/block.ts'
import { type TidemarkError, toTidemarkError } from '../../src/errors.ts'
import { Follower } from '../../src/log/follow.ts'
import type { Log } from '../../src/log/log.ts'
import { openLog } from '../../src/log/open.ts'
import { type Dice, dice } from './dice.ts'
import { appendOne } from './errno.ts'
import type { FaultClass, Tally } from './tally.ts'
import { eventsOf, mustHold, openAnyway, tallyOf } from './verdict.ts'
import { missing, Volume } from './volume.ts'
import { type Answer, examine } from './witness.ts'

const MIB = 1024 * 1024
const CHANNELS = ['a', 'b']
/** The largest keeps all in a log file, which needs its own size again when it is opened. */
const BUFFERS = [64 * 1024, MIB, 16 * MIB] as const
/** Of the disk: what is given back is enough to open again. */
const LEAST_FILLER = 0.48
const APPENDERS = 8
/** Refusals of one appender while the disk is full. */
const REFUSALS = 20
/** Most rounds of one cycle: the disk fills, and has room again. */
const ROUNDS = 2
/** A wait that takes this long will not end, ms. */
const PATIENCE_MS = 30_000

export interface FullOptions {
  readonly kind: 'tmpfs' | 'ext4'
  readonly isWatermarked: boolean
}

export const fullDisk = ({ kind, isWatermarked }: FullOptions): FaultClass => ({
  name: `full disk, ${kind}${isWatermarked ? ', watermark' : ''}`,
  missing: () => (kind === 'tmpfs' ? missing() : missing('mkfs.ext4')),
  async cycle(seed, base) {
    const random = dice(seed)
    const size = (isWatermarked ? 48 + random(17) : 16 + random(49)) * MIB
    const volume = new Volume(kind, base, size)
    const where = `full disk, ${kind} of ${size / MIB} MiB, watermark ${isWatermarked ? 'on' : 'off'}, seed ${seed}`
    try {
      return await fillAgain(volume, random, isWatermarked, where)
    } finally {
      volume.remove()
    }
  },
})

/** The four that the fast tier and the long one run. */
export const full: readonly FaultClass[] = (['tmpfs', 'ext4'] as const).flatMap((kind) =>
  [false, true].map((isWatermarked) => fullDisk({ kind, isWatermarked })),
)

async function fillAgain(volume: Volume, random: Dice, isWatermarked: boolean, where: string): Promise<Tally> {
  const dir = join(volume.dir, 'log')
  const filler = join(volume.dir, 'filler')
  const written: string[] = []
  const options = {
    dir,
    writeBufferBytes: isWatermarked ? 64 * 1024 : BUFFERS[random(BUFFERS.length)]!,
    ...(!isWatermarked && { minFreeBytes: 0 }),
    onNotice: (level: string, message: string) => void (level === 'error' && written.push(message)),
  }
  const answers: Answer[] = []
  const n = { next: 0 }
  const log = await openLog(options)
  const atFirst = volume.free
  const end = new AbortController()
  const follower = follow(log, 'a', end.signal)
  try {
    for (let round = 0, rounds = 1 + random(ROUNDS); round < rounds; round++) {
      const { free, size } = volume
      // Too much of the disk is the log's own by now: emptying the rest would not give it room to open again.
      // Compaction may need as much as the log has, and a watermark keeps a quarter of a small disk.
      const more = (1 + random(5)) * MIB
      if (free < size * 0.6 || (isWatermarked && atFirst - free + more > size / 5)) break
      // The log fills the rest.
      const rest = isWatermarked ? size / 4 + more : free * (random(40) / 100)
      fill(filler, Math.max(size * LEAST_FILLER, free - rest))
      const appenders = Array.from({ length: APPENDERS }, (_, i) =>
        appendUntilFull(log, n, CHANNELS[i % CHANNELS.length]!, answers, random),
      )
      const refusals = (await patient(`${where}: no end of the disk`, Promise.all(appenders))).flat()
      const odd = refusals.find(({ code }) => code !== 'storage-full')
      if (odd) throw new Error(`${where}: an append failed with ${odd.code}: ${odd.message}`)
      const undecided = refusals.filter(({ details }) => details.outcome === 'unknown')
      if (isWatermarked && undecided.length > 0)
        throw new Error(`${where}: the watermark let LevelDB run into the end: ${written.join('; ')}`)
      await readsGoOn(log, answers, follower, where)
      rmSync(filler)
      await patient(`${where}: appends do not go on by themselves`, appendAgain(log, n, answers))
    }
    await patient(`${where}: the follower stopped`, follower.reached(await headOf(log, 'a')))
  } finally {
    end.abort()
    await log.close()
  }
  return judge(dir, answers, where, follower.errors)
}

/** A file of so many bytes, or of what there is room for. */
function fill(path: string, bytes: number): void {
  try {
    writeFileSync(path, Buffer.alloc(Math.floor(bytes), 1))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error
  }
}

/** Appends until it was refused so often that everyone waits for room. */
async function appendUntilFull(
  log: Log,
  n: { next: number },
  channel: string,
  answers: Answer[],
  random: Dice,
): Promise<TidemarkError[]> {
  const refusals: TidemarkError[] = []
  while (refusals.length < REFUSALS)
    try {
      answers.push(await appendOne(log, n.next++, channel, 'x'.repeat(1_000 + random(60_000))))
    } catch (error) {
      refusals.push(toTidemarkError(error))
      await delay(5)
    }
  return refusals
}

/** One append after the other, until one is answered. */
async function appendAgain(log: Log, n: { next: number }, answers: Answer[]): Promise<void> {
  for (;;)
    try {
      answers.push(await appendOne(log, n.next++))
      return
    } catch (error) {
      if (toTidemarkError(error).code !== 'storage-full') throw error
      await delay(20)
    }
}

/** While the disk is full: everything that was answered can be read from the disk's beginning, and followers have it. */
async function readsGoOn(log: Log, answers: readonly Answer[], follower: Following, where: string): Promise<void> {
  const { lost } = await examine(log, answers, new Map())
  if (lost.length > 0) throw new Error(`${where}: ${lost.length} answered appends can not be read while it is full`)
  const newest = Math.max(
    0,
    ...answers.flatMap(({ at }) => at.filter(([channel]) => channel === 'a').map(([, , , last]) => last)),
  )
  await patient(`${where}: the follower stopped while the disk is full`, follower.reached(newest))
}

interface Following {
  /** Resolves when the follower has everything up to `seq`. */
  reached(seq: number): Promise<void>
  readonly errors: string[]
}

/** Follows a channel from its start; whatever is not the next event is an error. */
function follow(log: Log, channel: string, signal: AbortSignal): Following {
  const errors: string[] = []
  let seq = 0
  let moved = (): void => {}
  const run = async (): Promise<void> => {
    const { follower } = await Follower.open(log, channel, { after: { at: 'earliest' } })
    while (!signal.aborted) {
      const item = await follower.next({ events: 500, bytes: MIB })
      if (item === undefined) await follower.changed(signal)
      else if (item.is === 'page') {
        for (const block of item.page.blocks)
          for (const event of decodeBlock(block, seq)) {
            if (event.seq !== seq + 1) errors.push(`${event.seq} after ${seq}`)
            seq = event.seq
          }
        moved()
      } else if (item.is !== 'caughtup') errors.push(JSON.stringify(item))
    }
  }
  run().catch((error: unknown) => {
    if (!signal.aborted) errors.push(String(error))
    moved()
  })
  const reached = async (target: number): Promise<void> => {
    while (seq < target && errors.length === 0)
      await new Promise<void>((resolve) => {
        moved = resolve
      })
    if (errors.length > 0) throw new Error(`a follower was told ${errors[0]}`)
  }
  return { reached, errors }
}

const headOf = async (log: Log, channel: string): Promise<number> => (await log.info(channel)).head

/** The disk has room: the log opens as it is, and holds every answered append once. */
async function judge(
  dir: string,
  answers: readonly Answer[],
  where: string,
  errors: readonly string[],
): Promise<Tally> {
  const { log, refused } = await openAnyway({ dir })
  try {
    const found = await examine(log, answers, new Map())
    const tally = tallyOf(answers, found, { refused: refused !== undefined, complaints: errors })
    if (eventsOf(answers) === 0) throw new Error(`${where}: nothing was ever answered`)
    return mustHold(where, tally, { refused: refused?.message, errors, ...found, lost: found.lost.slice(0, 5) })
  } finally {
    await log.close()
  }
}

async function patient<T>(what: string, work: Promise<T>): Promise<T> {
  const end = new AbortController()
  const late = delay(PATIENCE_MS, undefined, { signal: end.signal }).then(
    () => Promise.reject(new Error(what)),
    () => new Promise<never>(() => {}),
  )
  try {
    return await Promise.race([work, late])
  } finally {
    end.abort()
  }
}
