import { describe, expect, test } from 'vitest'
import { SEED, tempDir } from '../parts.ts'
import type { Model } from './disk.ts'
import { replay } from './replay.ts'
import type { Tally } from './tally.ts'

const STATES = Number(process.env.REPLAY_STATES ?? 300)

const lacks = replay({ states: 1 }).missing()
if (lacks) console.warn(`NO ${lacks} HERE: the replay of power cuts is SKIPPED`)

async function run(model: Model, states: number): Promise<Tally> {
  console.log(`seed ${SEED}`)
  const tally = await replay({ states: Math.ceil(states), models: [model] }).cycle(SEED, tempDir())
  console.log(`replay, ${model}: ${JSON.stringify(tally)}`)
  expect(tally).toMatchObject({ cycles: Math.ceil(states), lost: 0, duplicated: 0, holes: 0, falseAlarms: 0 })
  expect(tally.acknowledged).toBeGreaterThan(0)
  return tally
}

describe.skipIf(lacks)('power cuts at recorded moments', { timeout: 900_000 }, () => {
  test('nothing acknowledged is lost, and nothing is refused, where every fsync puts earlier names on disk', () =>
    run('ext4', STATES * 0.4))

  test('nothing acknowledged is lost, and nothing is refused, where a name is on disk when its directory was synced', () =>
    run('strict', STATES * 0.45))

  test('what is lost where names keep no order is told', () => run('unordered', STATES * 0.15))
})
