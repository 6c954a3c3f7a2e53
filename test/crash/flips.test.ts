import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { SEED } from '../parts.ts'
import { flips, holes } from './flips.ts'
import { add, type FaultClass, NOTHING, type Tally } from './tally.ts'

/** Damage is the same everywhere, and no sync is tried here: in memory, cycles are several times faster. */
const PLACE = existsSync('/dev/shm') ? '/dev/shm' : tmpdir()
const FLIPS = Number(process.env.FLIPS ?? 150)

async function run(of: FaultClass, cycles: number): Promise<Tally> {
  let tally = NOTHING
  for (let i = 0; i < cycles; i++) {
    const dir = mkdtempSync(join(PLACE, 'tidemark-'))
    try {
      tally = add(tally, await of.cycle(SEED + i, dir))
    } catch (error) {
      throw new Error(`seed ${SEED + i}: ${(error as Error).message}`, { cause: error })
    } finally {
      rmSync(dir, { recursive: true, force: true })
    }
  }
  console.log(`${of.name}, seeds ${SEED}…: ${JSON.stringify(tally)}`)
  return tally
}

const CLEAN = { lost: 0, duplicated: 0, holes: 0, falseAlarms: 0 }

test('A flipped bit anywhere in a store changes nothing, or is told', { timeout: 3_600_000 }, async () => {
  expect(await run(flips, FLIPS)).toMatchObject({ cycles: FLIPS, ...CLEAN })
})

test('A file that is cut, zeroed, written over or gone changes nothing, or is told', {
  timeout: 3_600_000,
}, async () => {
  const cycles = Math.ceil(FLIPS / 3)
  expect(await run(holes, cycles)).toMatchObject({ cycles, ...CLEAN })
})
