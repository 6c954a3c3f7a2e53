import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { SEED, tempDir } from '../parts.ts'
import { full } from './full.ts'
import { add, NOTHING, type Tally, table } from './tally.ts'

const CYCLES = Number(process.env.FULL_CYCLES ?? 1)

const missing = full.map((of) => of.missing()).find((what) => what !== undefined)
if (missing) console.warn(`NO ${missing} HERE: the tests of a full disk are SKIPPED`)

describe.skipIf(missing)('a disk that is really full', () => {
  const rows = new Map<string, Tally>()
  for (const { name, cycle } of full)
    test(`${name}, ${CYCLES} times: refused as storage-full, read meanwhile, goes on by itself, nothing lost`, {
      timeout: 60_000 * CYCLES,
    }, async () => {
      const base = tempDir()
      for (let i = 0; i < CYCLES; i++) {
        const dir = join(base, `${i}`)
        mkdirSync(dir)
        rows.set(name, add(rows.get(name) ?? NOTHING, await cycle(SEED + i, dir)))
      }
      expect(rows.get(name)).toMatchObject({ cycles: CYCLES, lost: 0, duplicated: 0, holes: 0, falseAlarms: 0 })
    })
  test('the table', () => {
    console.log(`seed ${SEED}\n${table(rows)}`)
    expect(rows.size).toBe(full.length)
  })
})
