/**
 * Power cuts: the log lies on an image of its own, ext4 or xfs, and the file system is shut down under it as a cut
 * would do it: what was not synced is gone, the journal is replayed at the next mount. Needs root and loop devices.
 */
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { LogOptions } from '../../src/log/open.ts'
import { type Dice, dice } from './dice.ts'
import { add, type FaultClass, NOTHING, type Tally } from './tally.ts'
import { mustHold, openAnyway, tallyOf } from './verdict.ts'
import { missing, Volume } from './volume.ts'
import { type Answer, examine, Life } from './witness.ts'

export type FileSystem = 'ext4' | 'xfs'

/** xfs takes nothing smaller than 300 MiB; the file is sparse. */
const IMAGE_BYTES = 320 * 1024 * 1024
/** Most answers that a life gives before its cut. */
const ANSWERS_MAX = 300
const LATER_MS = 20

export interface PowerOptions {
  /** Cuts of one cycle: the image is the same, the log grows over them. */
  readonly cuts: number
  /** A command before the process that is cut. */
  readonly wrap?: readonly string[]
}

/** Power cuts while a mixed load is appended; all that was ever answered is looked for after each of them. */
export function powerCuts(type: FileSystem, { cuts, wrap = [] }: PowerOptions): FaultClass {
  return {
    name: `power cut, ${type}`,
    missing: () => missing('xfs_io', `mkfs.${type}`),
    async cycle(seed, dir) {
      const volume = new Volume(type, dir, IMAGE_BYTES)
      try {
        return await cutAgain(volume, seed, cuts, wrap, `power cut, ${type}, seed ${seed}`)
      } finally {
        volume.remove()
      }
    },
  }
}

async function cutAgain(
  volume: Volume,
  seed: number,
  cuts: number,
  wrap: readonly string[],
  where: string,
): Promise<Tally> {
  const throwDice = dice(seed)
  const dir = join(volume.dir, 'log')
  const answers: Answer[] = []
  const saw = new Map<string, number>()
  let tally = NOTHING
  for (let cut = 0; cut < cuts; cut++) {
    const options: Partial<LogOptions> = throwDice(2) === 0 ? {} : { writeBufferBytes: 64 * 1024 }
    const life = new Life({ dir, workers: 12, seed: seed + cut, startAt: cut * 1e7, options }, wrap)
    try {
      await untilSomeMoment(life, throwDice)
      // The shutdown takes a moment of its own, in which the kernel may let an fsync go undone: what is told after its
      // beginning is not held against the log.
      answers.push(...life.answers)
      for (const [channel, seq] of life.saw) saw.set(channel, Math.max(seq, saw.get(channel) ?? 0))
      volume.cut()
    } finally {
      await life.kill()
    }
    await volume.unmount()
    volume.mount()
    const { log, refused } = await openAnyway({ dir })
    try {
      const found = await examine(log, answers, saw)
      const now = tallyOf(answers, found, { refused: refused !== undefined, complaints: life.complaints })
      const acknowledged = now.acknowledged - tally.acknowledged
      tally = mustHold(`${where}, cut ${cut}`, add(tally, { ...now, acknowledged }), {
        ...{ refused: refused?.message, torn: found.torn, takenBack: found.takenBack, complaints: life.complaints },
        ...{ duplicated: found.duplicated, lost: found.lost.slice(0, 5), failures: life.failures.slice(0, 3) },
      })
    } finally {
      await log.close()
    }
  }
  return tally
}

/** During the first open, or after so many answers, and then at once or a little later. */
async function untilSomeMoment(life: Life, throwDice: Dice): Promise<void> {
  const answers = throwDice(ANSWERS_MAX)
  const later = throwDice(LATER_MS * 2) / 2
  // A life that opens for 100 ms is cut within them once in a while.
  if (throwDice(8) === 0) await delay(throwDice(400))
  else {
    await life.ready
    await life.until(() => life.answers.length >= answers)
    await delay(later)
  }
}
