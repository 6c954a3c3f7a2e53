import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { SEED, tempDir } from '../parts.ts'
import { CASES, errno, failing, suffer } from './errno.ts'
import { add, NOTHING, table } from './tally.ts'
import { Life } from './witness.ts'

/** A sample of neighbours of the spread list; `ERRNO_CASES=192` is all of them. */
const COUNT = Number(process.env.ERRNO_CASES ?? 24)

const missing = errno.missing()
if (missing) console.warn(`NO ${missing} HERE: the errno sweep is SKIPPED`)

describe.skipIf(missing)('a disk that fails', () => {
  test(`${COUNT} of ${CASES.length} cases: said by a code, and nothing that was acknowledged is lost`, {
    timeout: 30_000 + COUNT * 20_000,
  }, async () => {
    console.log(`seed ${SEED}`)
    const base = tempDir()
    let tally = NOTHING
    let hits = 0
    for (let i = 0; i < COUNT; i++) {
      const seed = SEED + i
      const dir = join(base, `${i}`)
      mkdirSync(dir)
      const suffered = await suffer(CASES[seed % CASES.length]!, seed, dir)
      tally = add(tally, suffered.tally)
      if (suffered.hits > 0) hits++
    }
    console.log(`the call was made to fail in ${hits} of ${COUNT} cases\n${table(new Map([['errno', tally]]))}`)
    // A sweep that hits nothing proves nothing.
    expect(hits).toBeGreaterThan(COUNT * 0.8)
  })

  test('an append is neither answered nor seen by a reader when its fsync fails', async () => {
    const dir = join(tempDir(), 'log')
    // The first sync of this file is the store's own row; every later one fails, the first group's with it.
    const fault = { call: 'fdatasync', files: 'log', errno: 'EIO', ever: true } as const
    const life = new Life({ dir, workers: 4, seed: SEED, startAt: 0 }, failing(dir, fault, 2, '/dev/null'))
    onTestFinished(() => life.kill())
    await life.ready
    await life.until(() => life.failures.length >= 4)
    await life.kill()
    expect(life.failures.slice(0, 4)).toMatchObject(
      Array(4).fill({ code: 'unavailable', answersBefore: 0, sawBefore: 0 }),
    )
  })
})
