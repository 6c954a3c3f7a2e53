import { expect, test } from 'vitest'
import { SEED, tempDir } from '../parts.ts'
import { KILLS, kill } from './kill.ts'
import { add, NOTHING, retries, table } from './tally.ts'

/** Directories at once: a process that starts and one whose log is read have a core each. */
const LANES = 2
const CYCLES = Math.ceil(Number(process.env.KILL_CYCLES ?? 100) / KILLS)

test(`nothing acknowledged is lost, torn or taken back, and nothing comes back, over ${CYCLES * KILLS} kills`, {
  timeout: 300_000,
}, async () => {
  console.log(`seed ${SEED}`)
  let tally = NOTHING
  const dirs = Array.from({ length: CYCLES }, tempDir)
  const lane = async (first: number): Promise<void> => {
    for (let cycle = first; cycle < CYCLES; cycle += LANES) {
      const one = await kill.cycle(SEED + cycle, dirs[cycle]!)
      tally = add(tally, one)
    }
  }
  await Promise.all(Array.from({ length: LANES }, (_, first) => lane(first)))
  console.log(`${table(new Map([[kill.name, tally]]))}\n${retries.answered} appends sent again`)
  expect(tally.cycles).toBe(CYCLES * KILLS)
  expect(tally.acknowledged).toBeGreaterThan(tally.cycles)
})
