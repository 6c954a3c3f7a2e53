import { expect, onTestFinished, test } from 'vitest'
import { openLog } from '../../src/log/open.ts'
import { SEED, tempDir } from '../parts.ts'
import { examine, Life } from './witness.ts'

const CYCLES = Number(process.env.KILL_CYCLES ?? 100)

test(`nothing acknowledged is lost, torn or taken back over ${CYCLES} kills of the process`, {
  timeout: 300_000,
}, async () => {
  console.log(`seed ${SEED}`)
  const dir = tempDir()
  const after = new Map<string, number>()
  const total = { answers: 0, events: 0, lost: 0, torn: 0, duplicated: 0, takenBack: 0, twice: 0 }
  for (let cycle = 0; cycle < CYCLES; cycle++) {
    const life = new Life({ dir, workers: 16, seed: SEED + cycle, startAt: cycle * 1e7 })
    onTestFinished(() => life.kill())
    await life.ready
    // A moment that falls anywhere in a write: after so many answers, then at once or a little later.
    const answers = 1 + ((SEED + cycle * 7919) % 400)
    await life.until(() => life.answers.length >= answers)
    await new Promise((resolve) => setTimeout(resolve, ((SEED + cycle * 104_729) % 40) / 2))
    await life.kill()
    const log = await openLog({ dir })
    try {
      const findings = await examine(log, life.answers, life.saw, after)
      total.answers += life.answers.length
      total.events += findings.events
      total.lost += findings.lost.length
      total.torn += findings.torn.length
      total.duplicated += findings.duplicated.length
      total.takenBack += findings.takenBack.length
      total.twice += life.complaints.length
      expect({ cycle, ...findings, events: 0, complaints: life.complaints }).toEqual({
        ...{ cycle, events: 0, lost: [], torn: [], duplicated: [], takenBack: [], complaints: [] },
      })
    } finally {
      await log.close()
    }
  }
  console.log(`${CYCLES} kills: ${JSON.stringify(total)}`)
  expect(total.answers).toBeGreaterThan(CYCLES)
})
