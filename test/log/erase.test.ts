/** What was erased is in no file of the store any more. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { encodeBody } from '../../src/body.ts'
import { compactChannel } from '../../src/log/compact.ts'
import { erase } from '../../src/log/erase.ts'
import type { Log } from '../../src/log/log.ts'
import { openLog } from '../../src/log/open.ts'
import { StateWriter } from '../../src/log/state-writer.ts'
import { event, range, tempDir } from '../parts.ts'
import { ALL, BLOCKWISE, readAll } from './reading.ts'

const AT_ONCE = { restTimes: 0 } as const
const SECRET = 'the-night-was-dark'
/** Small enough that log files rotate and tables are made amid it. */
const OPTIONS = { writeBufferBytes: 64 * 1024 }

/** Events of one append. */
const TOGETHER = 10

/** Names of the files of a log in which a text stands. */
const filesWith = (dir: string, text: string): string[] =>
  readdirSync(dir, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .filter((path) => readFileSync(path).includes(text))

async function opened(dir: string): Promise<Log> {
  const log = await openLog({ dir, ...OPTIONS })
  onTestFinished(() => log.close())
  return log
}

/** So many events of two keys, the secret in those of one of them, another channel's between them. */
async function fill(log: Log, count: number): Promise<void> {
  const secretIn = (channel: string, i: number): boolean => channel === 'c' && i % 7 === 0
  for (let first = 1; first <= count; first += TOGETHER)
    for (const channel of ['c', 'd']) {
      const events = range(first, Math.min(count, first + TOGETHER - 1)).map((i) => {
        const data = `${secretIn(channel, i) ? SECRET : 'nothing'} ${i} ${'x'.repeat(300)}`
        return event(data, { key: secretIn(channel, i) ? 'ann' : `k${i % 50}` })
      })
      await log.append([{ channel, body: encodeBody(events) }])
    }
}

test('Of an event that is in memory alone, in LevelDB’s log, or in its tables, nothing is left', async () => {
  for (const [count, moves] of [
    [10, []],
    [10, ['reopen']],
    [1_500, []],
    [1_500, ['reopen', 'reclaim']],
    [1_500, ['compact']],
  ] as const) {
    const dir = tempDir()
    let log = await opened(dir)
    await fill(log, count)
    for (const move of moves)
      if (move === 'reclaim') await log.reclaim!('c', 0, count)
      else if (move === 'compact') await compactChannel(log, 'c', { ...AT_ONCE, minLag: 0 })
      else {
        await log.close()
        log = await opened(dir)
      }
    expect(filesWith(dir, SECRET).length).toBeGreaterThan(0)
    // Readers that stand amid it hold on to nothing.
    for (const after of [1, 5]) await log.read('c', { after }, BLOCKWISE)
    if (moves.length === 0 && count === 10)
      expect(await erase(log, 'c', { seq: 7 }, AT_ONCE)).toMatchObject({ events: 1 })
    else {
      const { events, tombstone } = await erase(log, 'c', { key: 'ann' }, AT_ONCE)
      expect([events > 0, tombstone]).toEqual([true, count + 1])
    }
    expect([count, moves, filesWith(dir, SECRET)]).toEqual([count, moves, []])
    expect((await readAll(log, 'd', undefined, ALL)).length).toBe(count)
    await log.close()
    expect(filesWith(dir, SECRET)).toEqual([])
  }
})

test('Of rows of a state nothing is left either, whatever of them was overwritten before', async () => {
  for (const [count, moves] of [
    [10, []],
    [400, ['reopen']],
    [400, ['off']],
    [3, ['reopen', 'off']],
    [400, ['interrupt', 'compact']],
  ] as const) {
    const dir = tempDir()
    let log = await opened(dir)
    const writer = (): StateWriter => new StateWriter(log, { pace: AT_ONCE })
    await log.configure('c', { state: true })
    // The rows take each event of the key in turn.
    for (const _ of range(1, 2)) {
      await fill(log, count)
      await writer().look()
    }
    expect(await log.stateRows!.place('c')).toMatchObject({ at: 2 * count })
    if (moves.some((move) => move === 'reopen')) {
      await log.close()
      log = await opened(dir)
    }
    if (moves.some((move) => move === 'off')) await log.configure('c', {})
    if (moves.some((move) => move === 'interrupt')) {
      const gone = new AbortController()
      const onProgress = ({ phase }: { phase: string }): void => {
        if (phase === 'reclaiming') gone.abort('enough')
      }
      const run = erase(log, 'c', { key: 'ann' }, { ...AT_ONCE, signal: gone.signal, onProgress })
      await expect(run).rejects.toBe('enough')
      await compactChannel(log, 'c', { ...AT_ONCE, minLag: 0 })
    } else await erase(log, 'c', { key: 'ann' }, AT_ONCE)
    expect([count, moves, filesWith(dir, SECRET)]).toEqual([count, moves, []])
    await writer().look()
    await log.close()
    expect([count, moves, filesWith(dir, SECRET)]).toEqual([count, moves, []])
  }
})

test('The space of rows that count no more is given back', async () => {
  const dir = tempDir()
  const log = await opened(dir)
  const found = (): number =>
    filesWith(dir, SECRET).reduce((sum, path) => sum + readFileSync(path, 'latin1').split(SECRET).length - 1, 0)
  await fill(log, 30)
  await log.reclaim!('c', 0, 30)
  const ofEvents = found()
  expect(ofEvents).toBeGreaterThan(0)
  await log.configure('c', { state: true })
  await new StateWriter(log, { pace: AT_ONCE }).look()
  // Out of memory, into a table.
  await log.stateRows!.reclaim('c')
  expect(found()).toBe(ofEvents + 1)
  await log.stateRows!.drop('c')
  await log.stateRows!.reclaim('c')
  expect(found()).toBe(ofEvents)
})

test('What an erasing that was interrupted left on disk is gone after the next compaction, or when it is asked for again', async () => {
  for (const end of ['compact', 'erase'] as const) {
    const dir = tempDir()
    const log = await opened(dir)
    await fill(log, 1_500)
    const gone = new AbortController()
    const onProgress = ({ phase }: { phase: string }): void => {
      if (phase === 'erasing') gone.abort('enough')
    }
    await expect(erase(log, 'c', { key: 'ann' }, { ...AT_ONCE, signal: gone.signal, onProgress })).rejects.toBe(
      'enough',
    )
    expect(filesWith(dir, SECRET).length).toBeGreaterThan(0)
    if (end === 'compact') await compactChannel(log, 'c', { ...AT_ONCE, minLag: 0 })
    else await erase(log, 'c', { key: 'ann' }, AT_ONCE)
    expect([end, filesWith(dir, SECRET)]).toEqual([end, []])
  }
})
