import { describe, expect, test } from 'vitest'
import { find } from '../machine.ts'
import { SEED, tempDir } from '../parts.ts'
import { powerCuts } from './power.ts'
import { add, NOTHING } from './tally.ts'
import { Broken } from './verdict.ts'
import { missing } from './volume.ts'

const CUTS = Number(process.env.POWER_CYCLES ?? 12)
const CUTS_OF_AN_IMAGE = 12

for (const type of ['ext4', 'xfs'] as const) {
  const cuts = powerCuts(type, { cuts: Math.min(CUTS, CUTS_OF_AN_IMAGE) })
  const lacks = cuts.missing()
  if (lacks) console.warn(`NO ${lacks} HERE: power cuts on ${type} are SKIPPED`)

  describe.skipIf(lacks)(`power cuts on ${type}`, () => {
    test(`nothing acknowledged is lost, torn or taken back over ${CUTS} cuts`, { timeout: 600_000 }, async () => {
      console.log(`seed ${SEED}`)
      let tally = NOTHING
      for (let seed = SEED; tally.cycles < CUTS; seed += 1_000) tally = add(tally, await cuts.cycle(seed, tempDir()))
      console.log(`power cuts on ${type}: ${JSON.stringify(tally)}`)
      expect(tally).toMatchObject({ lost: 0, duplicated: 0, holes: 0, falseAlarms: 0 })
      expect(tally.acknowledged).toBeGreaterThan(CUTS)
    })
  })
}

const eatmydata = find('eatmydata')
const lacks = eatmydata ? missing('xfs_io', 'mkfs.ext4') : 'eatmydata'
if (lacks) console.warn(`NO ${lacks} HERE: the control of the power cuts is SKIPPED`)

describe.skipIf(lacks)('the control', () => {
  test('where fsync does nothing, a power cut is seen to lose what was acknowledged', async () => {
    const cuts = powerCuts('ext4', { cuts: 3, wrap: [eatmydata!] })
    const broken = await cuts.cycle(SEED, tempDir()).catch((error: unknown) => error)
    expect(broken).toBeInstanceOf(Broken)
    expect((broken as Broken).tally.lost).toBeGreaterThan(0)
    console.log(
      `control: ${(broken as Broken).tally.lost} of ${(broken as Broken).tally.acknowledged} lost, as it must be`,
    )
  })
})
