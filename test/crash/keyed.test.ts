import { expect, test } from 'vitest'
import { SEED, tempDir } from '../parts.ts'
import { keyedKills } from './keyed.ts'

/** The long form is run by hand: KEYED_KILLS=50. */
const KILLS = Number(process.env.KEYED_KILLS ?? 10)

test(`readers that keep a state by key outlive ${KILLS} kills amid compaction, and know in the end what is there`, {
  timeout: 300_000,
}, async () => {
  console.log(`keyed: TEST_SEED=${SEED}`)
  const tally = await keyedKills(SEED, tempDir(), KILLS)
  console.log(JSON.stringify(tally))
  expect(tally.kills).toBe(KILLS)
  expect(tally.seen).toBeGreaterThan(KILLS)
  expect(tally.rows).toBeGreaterThan(0)
  // A run of kills none of which falls amid a step of compaction proves nothing.
  const { replace, clean, reclaim } = tally.amid
  expect(replace + clean + reclaim).toBeGreaterThan(0)
})
