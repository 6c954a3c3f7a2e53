import { describe, expect, onTestFinished, test } from 'vitest'
import { SEED, tempDir } from '../parts.ts'
import { clock } from './clock.ts'
import { KINDS, mounted, restored } from './restored.ts'
import { add, type FaultClass, NOTHING, type Tally, table } from './tally.ts'

const CYCLES = {
  restored: Number(process.env.RESTORED_CYCLES ?? 2 * KINDS.restored),
  mounted: Number(process.env.MOUNTED_CYCLES ?? KINDS.mounted),
  clock: Number(process.env.CLOCK_CYCLES ?? 2),
}

const rows = new Map<string, Tally>()

async function run(kind: FaultClass, cycles: number): Promise<void> {
  let tally = NOTHING
  for (let cycle = 0; cycle < cycles; cycle++) tally = add(tally, await kind.cycle(SEED + cycle, tempDir()))
  rows.set(kind.name, tally)
  onTestFinished(() => console.log(`seed ${SEED}\n${table(new Map([[kind.name, tally]]))}`))
  expect(tally.cycles).toBe(cycles)
}

function missing(kind: FaultClass): boolean {
  const what = kind.missing()
  if (what !== undefined) console.warn(`SKIPPED: ${kind.name}, for want of ${what}`)
  return what !== undefined
}

test(
  'a directory that is not what it was is refused by a code, or readers hear reset; nothing is resumed in silence',
  {
    timeout: 120_000,
  },
  () => run(restored, CYCLES.restored),
)

describe.skipIf(missing(mounted))('mounts', () => {
  test('what lies over a log is not taken for it, and the log is whole when it goes', { timeout: 60_000 }, () =>
    run(mounted, CYCLES.mounted),
  )
})

describe.skipIf(missing(clock))('a clock that jumps an hour', () => {
  test('times never fall, nothing is lost, and every retry gets its first answer', { timeout: 120_000 }, () =>
    run(clock, CYCLES.clock),
  )
})
