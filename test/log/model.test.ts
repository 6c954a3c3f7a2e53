import fc from 'fast-check'
import { expect, test } from 'vitest'
import { openLog } from '../../src/log/open.ts'
import { range, SEED, tempDir } from '../parts.ts'
import { Pair } from './pair.ts'
import { step } from './steps.ts'

const RUNS = 500
/** Histories beside each other, each on a log of its own: most of the time a disk is waited for. */
const LANES = 4

test(`${RUNS} random histories over several channels, restarts included, are as the model says`, {
  timeout: 180_000,
}, async () => {
  console.log(`model: TEST_SEED=${SEED}`)
  const count: Record<string, number> = {}
  const root = tempDir()
  let runs = 0
  const history = fc.asyncProperty(
    fc.array(step, { minLength: 1, maxLength: 40, size: 'max' }),
    fc.constantFrom(0, 2_000, 1 << 20),
    async (steps, tailBytes) => {
      const dir = `${root}/${runs++}`
      const open = () => openLog({ dir, tailBytes })
      const pair = new Pair(await open(), open)
      try {
        for (const step of steps) {
          count[step.verb] = (count[step.verb] ?? 0) + 1
          await pair.take(step)
        }
        await pair.whole()
        await pair.take({ verb: 'reopen' })
      } finally {
        await pair.log.close()
      }
    },
  )
  // Shrinking a failure ends in time to tell the smallest history found by then.
  const limits = { numRuns: RUNS / LANES, interruptAfterTimeLimit: 150_000, markInterruptAsFailure: true }
  await Promise.all(range(0, LANES - 1).map((lane) => fc.assert(history, { seed: SEED + lane, ...limits })))
  console.log(`${runs} runs: ${JSON.stringify(count)}`)
  expect(runs).toBeGreaterThanOrEqual(RUNS)
})
