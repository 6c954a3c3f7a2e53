import { describe, expect, test } from 'vitest'
import { SEED, tempDir } from '../parts.ts'
import { replay } from './replay.ts'

const STATES = Number(process.env.REPLAY_STATES ?? 300)

const lacks = replay({ states: 1 }).missing()
if (lacks) console.warn(`NO ${lacks} HERE: the replay of power cuts is SKIPPED`)

describe.skipIf(lacks)('power cuts at recorded moments', () => {
  for (const [model, what] of [
    ['ext4', 'every fsync puts earlier names on disk'],
    ['strict', 'a name is on disk when its directory was synced'],
  ] as const)
    test(`nothing acknowledged is lost, and nothing is refused, where ${what}`, { timeout: 900_000 }, async () => {
      console.log(`seed ${SEED}`)
      const tally = await replay({ states: STATES / 2, models: [model] }).cycle(SEED, tempDir())
      console.log(`replay, ${model}: ${JSON.stringify(tally)}`)
      expect(tally).toMatchObject({ cycles: Math.floor(STATES / 2), lost: 0, duplicated: 0, holes: 0, falseAlarms: 0 })
      expect(tally.acknowledged).toBeGreaterThan(0)
    })
})
