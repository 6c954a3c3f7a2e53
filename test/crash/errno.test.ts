import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { openLog } from '../../src/log/open.ts'
import { find } from '../machine.ts'
import { SEED, tempDir } from '../parts.ts'
import { examine, Life } from './witness.ts'

/**
 * One system call of LevelDB's log is made to fail, as a full or failing disk does. LevelDB itself would acknowledge
 * later writes and lose them at the next start; the log must not.
 */
const strace = find('strace')

const FAULTS = [
  { name: 'ENOSPC on a write of the log file', call: 'write', inject: 'write:error=ENOSPC:when=5' },
  { name: 'EIO on a write of the log file', call: 'write', inject: 'write:error=EIO:when=9' },
  { name: 'EIO on fdatasync', call: 'fdatasync', inject: 'fdatasync:error=EIO:when=6' },
  { name: 'ENOSPC on fdatasync', call: 'fdatasync', inject: 'fdatasync:error=ENOSPC:when=3' },
] as const

/** `strace` before a command, failing calls on the first LevelDB log file under `dir`. */
const wrap = (dir: string, call: string, inject: string): string[] => [
  ...[strace!, '-f', '--seccomp-bpf', '-qq', '-o', '/dev/null', '-P', join(dir, 'store', '000003.log')],
  ...['-e', `trace=${call}`, '-e', `inject=${inject}`],
]

describe.skipIf(!strace)('a disk that fails', () => {
  for (const { name, call, inject } of FAULTS)
    test(`${name}: the log says so, opens again, and loses nothing that it acknowledges later`, async () => {
      const dir = tempDir()
      const life = new Life({ dir, workers: 8, seed: SEED, startAt: 0 }, wrap(dir, call, inject))
      onTestFinished(() => life.kill())
      await life.ready
      await life.until(() => life.failures.length > 0)
      const failed = life.failures[0]
      expect(failed?.code).toBe(inject.includes('ENOSPC') ? 'storage-full' : 'unavailable')
      const before = life.answers.length
      await life.until(() => life.answers.length > before + 100)
      const after = life.answers.length - before
      await life.kill()
      const log = await openLog({ dir })
      const findings = await examine(log, life.answers, life.saw)
      await log.close()
      console.log(
        `${name}: ${before} answers before, ${life.failures.length} failed, ${after} after, ${findings.lost.length} lost`,
      )
      expect(after).toBeGreaterThan(100)
      expect({ ...findings, events: 0, complaints: life.complaints }).toEqual({
        ...{ events: 0, lost: [], torn: [], duplicated: [], takenBack: [], complaints: [] },
      })
    })

  test('an append is neither answered nor seen by a reader when its fsync fails', async () => {
    const dir = tempDir()
    // The first sync of this file is the store's own row; every later one fails, the first group's with it.
    const life = new Life(
      { dir, workers: 4, seed: SEED, startAt: 0 },
      wrap(dir, 'fdatasync', 'fdatasync:error=EIO:when=2+'),
    )
    onTestFinished(() => life.kill())
    await life.ready
    await life.until(() => life.failures.length >= 4)
    await life.kill()
    expect(life.failures.slice(0, 4)).toMatchObject(
      Array(4).fill({ code: 'unavailable', answersBefore: 0, sawBefore: 0 }),
    )
  })
})
