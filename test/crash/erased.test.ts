import { expect, test } from 'vitest'
import { SEED, tempDir } from '../parts.ts'
import { erasedKills } from './erased.ts'

/** The long form is run by hand: ERASED_KILLS=50. */
const KILLS = Number(process.env.ERASED_KILLS ?? 6)

test(`what is erased is gone from the disk, and nothing else is, over ${KILLS} kills amid erasing`, {
  timeout: 300_000,
}, async () => {
  console.log(`erased: TEST_SEED=${SEED}`)
  const tally = await erasedKills(SEED, tempDir(), KILLS)
  console.log(JSON.stringify(tally))
  expect(tally.kills).toBe(KILLS)
  expect(tally.erased).toBeGreaterThan(0)
  // A run of kills few of which fall amid erasing proves little.
  expect(tally.amid.events + tally.amid.space).toBeGreaterThan(KILLS / 3)
})
