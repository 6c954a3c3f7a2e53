import { describe, expect, test } from 'vitest'
import { SEED, tempDir } from '../parts.ts'
import { points } from './points.ts'

const POINTS = process.env.POINTS === 'all' ? Number.POSITIVE_INFINITY : Number(process.env.POINTS ?? 30)

const lacks = points({ points: 1 }).missing()
if (lacks) console.warn(`NO ${lacks} HERE: kills at every sync, rename, removal and new file are SKIPPED`)

describe.skipIf(lacks)('kills at points', () => {
  test('nothing acknowledged is lost, torn or taken back, whichever call is the last', {
    timeout: 900_000,
  }, async () => {
    console.log(`seed ${SEED}`)
    let known = { met: 0, all: 0 }
    const onMet = (met: number, all: number): void => {
      known = { met, all }
    }
    const tally = await points({ points: POINTS, onMet }).cycle(SEED, tempDir())
    console.log(`kills at ${known.met} of ${known.all} points: ${JSON.stringify(tally)}`)
    expect(tally).toMatchObject({ lost: 0, duplicated: 0, holes: 0, falseAlarms: 0 })
    expect(known.met).toBeGreaterThan(tally.cycles / 2)
  })
})
