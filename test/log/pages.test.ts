import { setTimeout as delay } from 'node:timers/promises'
import { Level } from 'level'
import { expect, onTestFinished, test, vi } from 'vitest'
import { erase } from '../../src/log/erase.ts'
import type { Log } from '../../src/log/log.ts'
import { openLog } from '../../src/log/open.ts'
import { range, tempDir } from '../parts.ts'
import { failable } from './failable.ts'
import { ALL, append, BLOCKWISE, eventsOf, readAll, refusal, valueIn } from './reading.ts'
import type { Rows } from './stored.ts'

/** Every key of a block of events. */
const BLOCKS = { gte: Buffer.from('e'), lt: Buffer.from('f') }

/** A log that keeps nothing in memory, whose channel `c` holds blocks of one event: 1 … `events`, or texts that begin so. */
async function filled(events: number, length = 0): Promise<Log> {
  const log = await openLog({ dir: tempDir(), tailBytes: 0 })
  onTestFinished(() => log.close())
  for (const value of range(1, events)) await append(log, 'c', [length > 0 ? `${value}`.padEnd(length) : value])
  return log
}

/** LevelDB's iterators, watched: what happens behind each read, given how many rows it gave, is waited for. */
function behindReads(happens: (rows: number) => unknown) {
  const begin = Level.prototype.iterator
  const made = vi.spyOn(Level.prototype, 'iterator').mockImplementation(function (this: Rows, options: object) {
    const rows = begin.call(this, options)
    const nextv = rows.nextv.bind(rows)
    return Object.assign(rows, {
      nextv: async (size: number) => {
        const some = await nextv(size)
        await happens(some.length)
        return some
      },
    })
  } as never)
  onTestFinished(() => made.mockRestore())
  return made
}

test('A page of a few events reads little more than it holds, whatever the blocks hold', async () => {
  const log = await filled(150, 200)
  for (const first of [1, 1_001, 2_001, 3_001])
    await append(
      log,
      'large',
      range(first, first + 999).map((value) => `${value} ${'x'.repeat(200)}`),
    )
  const given: number[] = []
  behindReads((rows) => void given.push(rows))
  const few = { events: 100, bytes: ALL.bytes }
  expect((await log.read('large', { after: 1_500 }, few)).last).toBe(2_000)
  expect((await log.read('c', { after: 10 }, few)).last).toBe(110)
  // What is read ahead would be given by then.
  await log.close()
  expect(given[0]).toBe(1)
  expect(given.length).toBeLessThanOrEqual(3)
})

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

test('Who asks for a page that is being read gets the same page, unless the channel has changed since', async () => {
  const log = await filled(6)
  const goOn: (() => void)[] = []
  let isHeld = true
  const made = behindReads(() => isHeld && new Promise<void>((resolve) => goOn.push(resolve)))
  const read = () => log.read('c', { after: 0 }, ALL)
  const of = async (page: ReturnType<typeof read>) => eventsOf(await page).map(valueIn)
  const held = async (many: number) => {
    await expect.poll(() => goOn.length).toBe(many)
    expect(made).toHaveBeenCalledTimes(many)
  }
  const [one, two, less] = [read(), read(), log.read('c', { after: 0 }, BLOCKWISE)]
  await held(2)
  await append(log, 'c', [7])
  const grown = read()
  await held(3)
  // Erasing puts other blocks in the place of these, at the same head, and then waits until those are let go of.
  isHeld = false
  const erasing = erase(log, 'c', { seq: 3 }, { restTimes: 0 })
  await expect.poll(() => Promise.race([of(read()), delay(20)])).toEqual([1, 2, 4, 5, 6, 7])
  for (const each of goOn) each()
  expect(await two).toBe(await one)
  expect(await of(one)).toEqual(range(1, 6))
  expect(await of(less)).toEqual([1])
  expect(await of(grown)).toEqual(range(1, 7))
  await erasing
  // One that is over is read anew.
  expect(await read()).not.toBe(await read())
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

test('A place that is trimmed while LevelDB fails to read there is a gap, not a loss', async () => {
  const log = await filled(10)
  const iterator = vi.spyOn(Level.prototype, 'iterator')
  onTestFinished(() => iterator.mockRestore())
  iterator.mockImplementationOnce(function (this: Rows, options: object) {
    iterator.mockRestore()
    return Object.assign(this.iterator(options), {
      nextv: async () => {
        await log.trim('c', 5)
        await expect.poll(async () => (await this.keys(BLOCKS).all()).length).toBe(5)
        throw Object.assign(new Error('Corruption'), { code: 'LEVEL_CORRUPTION' })
      },
    })
  } as never)
  expect(await refusal(log.read('c', { after: 0 }, ALL))).toMatchObject({ code: 'gap', trimmed: 5 })
  expect((await readAll(log, 'c', { after: 5 })).map(valueIn)).toEqual(range(6, 10))
})

test('Readers amid failed writes and a close go on, or hear that the log is closing', async () => {
  const { log, failNextWrite } = await failable({ tailBytes: 0 })
  for (const value of range(1, 60)) await append(log, 'c', [value])
  const heads: number[] = []
  const readers = range(1, 12).map(async (reader) => {
    for (let rounds = 0; ; rounds++) {
      const limits = reader % 2 ? BLOCKWISE : { events: 7, bytes: 300 }
      const events = await readAll(log, 'c', { after: reader }, limits).catch((error) => error)
      if (!Array.isArray(events)) return { rounds, code: events.code }
      expect(events.map(({ seq }) => seq)).toEqual(range(reader + 1, events.at(-1)!.seq))
      heads.push(events.at(-1)!.seq)
    }
  })
  for (let failed = 0; failed < 8; failed++) {
    failNextWrite()
    expect(await refusal(append(log, 'c', ['undecided']))).toMatchObject({ outcome: 'unknown' })
    await expect.poll(() => log.health().state).toBe('ok')
    await append(log, 'c', ['decided'])
  }
  await expect.poll(() => heads.at(-1)).toBe(68)
  await log.close()
  for (const { code } of await Promise.all(readers)) expect(code).toBe('unavailable')
})
