/** A disk that is almost full: appends are refused before the end, what frees space goes on, and so do appends after. */
import { execFileSync } from 'node:child_process'
import { rmSync, statfsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { type LogOptions, openLog } from '../../src/log/open.ts'
import { append, readAll, refusal, valueIn } from '../log/reading.ts'
import { range, tempDir } from '../parts.ts'

const MIB = 1024 * 1024
const mayMount = process.platform === 'linux' && process.getuid?.() === 0
if (!mayMount) console.warn('NO ROOT HERE: the tests of an almost full disk are SKIPPED')

/** A disk of 64 MiB of its own. */
function smallDisk(): string {
  const dir = tempDir()
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64m', 'tmpfs', dir])
  onTestFinished(() => void execFileSync('umount', ['-l', dir]))
  return dir
}

async function opened(disk: string, options: Partial<LogOptions> = {}) {
  const log = await openLog({ dir: join(disk, 'log'), ...options })
  onTestFinished(() => log.close())
  return log
}

/** Leaves so much room on the disk; returns what gives it back. */
function fill(disk: string, leave: number): () => void {
  const { bavail, bsize } = statfsSync(disk)
  const filler = join(disk, 'filler')
  writeFileSync(filler, Buffer.alloc(bavail * bsize - leave, 1))
  return () => rmSync(filler)
}

/** Appends until one is answered; refusals on the way are of one kind. */
async function appendAgain(log: Awaited<ReturnType<typeof openLog>>, value: unknown): Promise<void> {
  for (;;)
    try {
      await append(log, 'c', [value])
      return
    } catch (error) {
      expect(error).toMatchObject({ code: 'storage-full' })
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
}

describe.skipIf(!mayMount)('a disk that is almost full', () => {
  test('refuses appends below the watermark, takes what frees space, and goes on by itself', async () => {
    const disk = smallDisk()
    const told: string[] = []
    const log = await opened(disk, { onNotice: (level) => told.push(level) })
    await append(log, 'c', range(1, 5))
    await append(log, 'd', [1])
    // A quarter of a small disk is kept: 16 MiB.
    const empty = fill(disk, 10 * MIB)
    await expect.poll(() => log.health().state).toBe('full')
    const refused = await refusal(append(log, 'c', [6]))
    expect(refused).toMatchObject({ code: 'storage-full' })
    // Nothing was tried, so nothing is unknown.
    expect(refused.outcome).toBeUndefined()
    expect(await log.commit('web', 'c', { seq: 3 })).toMatchObject({ seq: 3 })
    expect(await log.trim('c', 2)).toMatchObject({ trimmed: 2 })
    await log.delete('d')
    expect((await readAll(log, 'c', { after: 2 })).map(valueIn)).toEqual([3, 4, 5])
    empty()
    await appendAgain(log, 6)
    expect(log.health().state).toBe('ok')
    expect((await readAll(log, 'c', { after: 2 })).map(valueIn)).toEqual([3, 4, 5, 6])
    expect(told).toEqual(['error', 'info'])
  })

  test('the watermark is where it was set, and can be turned off', async () => {
    const disk = smallDisk()
    fill(disk, 12 * MIB)
    const high = await opened(disk, { minFreeBytes: 13 * MIB })
    expect(await refusal(append(high, 'c', [1]))).toMatchObject({ code: 'storage-full' })
    await high.close()
    const low = await opened(disk, { minFreeBytes: 4 * MIB })
    await append(low, 'c', [1])
    await low.close()
    const off = await opened(disk, { minFreeBytes: 0 })
    await append(off, 'c', [2])
    expect((await readAll(off, 'c')).map(valueIn)).toEqual([1, 2])
  })
})
