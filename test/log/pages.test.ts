import { Level } from 'level'
import { expect, onTestFinished, test, vi } from 'vitest'
import type { Log } from '../../src/log/log.ts'
import { openLog } from '../../src/log/open.ts'
import { range, tempDir } from '../parts.ts'
import { append, BLOCKWISE, eventsOf, readAll, refusal, valueIn } from './reading.ts'

/** A log that keeps nothing in memory, whose channel `c` holds blocks of one event: 1 … `events`. */
async function filled(events: number): Promise<Log> {
  const log = await openLog({ dir: tempDir(), tailBytes: 0 })
  onTestFinished(() => log.close())
  for (const value of range(1, events)) await append(log, 'c', [value])
  return log
}

test('Between two pages of a reader the channel may grow', async () => {
  const log = await filled(6)
  const values: unknown[] = []
  for (let after = 0; ; ) {
    const page = await log.read('c', { after }, BLOCKWISE)
    values.push(...eventsOf(page).map(valueIn))
    if (page.caughtUp) break
    after = page.last
    if (after <= 10) await append(log, 'c', [page.head + 1])
  }
  expect(values).toEqual(range(1, 16))
})

test('Between two pages of a reader the channel may be trimmed, or made anew: it is told, and gets nothing old', async () => {
  const log = await filled(10)
  const { epoch } = await log.info('c')
  const next = (after: number) => log.read('c', { epoch, after }, BLOCKWISE)
  for (const after of [0, 1, 2]) expect((await next(after)).last).toBe(after + 1)
  await log.trim('c', 5)
  expect(await refusal(next(3))).toMatchObject({ code: 'gap', trimmed: 5 })
  for (const after of [5, 6]) expect((await next(after)).last).toBe(after + 1)
  await log.delete('c')
  await append(log, 'c', range(101, 110))
  expect(await refusal(next(7))).toMatchObject({ code: 'epoch-changed' })
  expect((await readAll(log, 'c', { after: 7 }, BLOCKWISE)).map(valueIn)).toEqual([108, 109, 110])
})

test('Many readers go on from the same places, each with everything', async () => {
  const log = await filled(40)
  const readers = range(1, 60).map(() => readAll(log, 'c', { after: 0 }, BLOCKWISE))
  for (const events of await Promise.all(readers)) expect(events.map(valueIn)).toEqual(range(1, 40))
})

test('A reader who goes on for ever, page by page, does not keep one view of the disk for ever', async () => {
  vi.useFakeTimers({ toFake: ['performance', 'setInterval', 'clearInterval'] })
  onTestFinished(() => void vi.useRealTimers())
  const made = vi.spyOn(Level.prototype, 'iterator')
  onTestFinished(() => made.mockRestore())
  const log = await filled(60)
  const iteratorsOver = async (first: number, last: number, pause: number): Promise<number> => {
    made.mockClear()
    for (const after of range(first, last)) {
      expect(eventsOf(await log.read('c', { after }, BLOCKWISE)).map(valueIn)).toEqual([after + 1])
      vi.advanceTimersByTime(pause)
    }
    return made.mock.calls.length
  }
  // In a hurry: one is enough.
  expect(await iteratorsOver(0, 19, 1)).toBe(1)
  // 15 s: what LevelDB would drop or delete meanwhile is held up for a moment only.
  expect(await iteratorsOver(20, 49, 500)).toBeGreaterThanOrEqual(4)
})
