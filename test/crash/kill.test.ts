import { expect, test } from 'vitest'
import { SEED, tempDir } from '../parts.ts'
import { KILLS, kill } from './kill.ts'
import { add, NOTHING, table } from './tally.ts'

const CYCLES = Math.ceil(Number(process.env.KILL_CYCLES ?? 100) / KILLS)

test(`nothing acknowledged is lost, torn or taken back, and nothing comes back, over ${CYCLES * KILLS} kills`, {
  timeout: 300_000,
}, async () => {
  console.log(`seed ${SEED}`)
  let tally = NOTHING
  for (let cycle = 0; cycle < CYCLES; cycle++) tally = add(tally, await kill.cycle(SEED + cycle, tempDir()))
  console.log(table(new Map([[kill.name, tally]])))
  expect(tally.cycles).toBe(CYCLES * KILLS)
  expect(tally.acknowledged).toBeGreaterThan(tally.cycles)
})
