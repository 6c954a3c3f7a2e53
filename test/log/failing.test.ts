/** A write that fails in the middle of a running log. What real disks do is in test/crash; here LevelDB is made to fail. */
import { expect, test } from 'vitest'
import { headKey } from '../../src/log/level/keys.ts'
import { failable } from './failable.ts'
import { ALL, append, eventsOf, list, never, refusal, valueIn } from './reading.ts'
import { flip, numberOf } from './stored.ts'

test('A damaged row of a channel that is waited for does not hold up the log after a failed write', async () => {
  const { log, rows, failNextWrite } = await failable()
  for (const c of ['a', 'b']) await append(log, c, [1])
  const [ofA, ofB] = ['a', 'b'].map((c) => refusal(log.changed(c, { after: 1 }, never())))
  await flip(rows, headKey(await numberOf(rows, 'a')), 27)
  failNextWrite()
  expect(await refusal(append(log, 'b', [2]))).toMatchObject({ code: 'unavailable', outcome: 'unknown' })
  expect(await ofA).toMatchObject({ code: 'data-loss', channel: 'a' })
  await expect.poll(() => log.health().state).toBe('ok')
  expect(await append(log, 'b', [3])).toMatchObject({ channel: 'b' })
  await expect(ofB).rejects.toThrow()
})

test('While LevelDB does not open again every verb is unavailable, and for good when it never does', async () => {
  const { log, open, failNextWrite } = await failable()
  for (const c of ['a', 'b']) await append(log, c, [1])
  failNextWrite()
  open.mockImplementation(() =>
    Promise.reject(Object.assign(new Error('closed'), { cause: { code: 'LEVEL_IO_ERROR', message: 'EIO' } })),
  )
  expect(await refusal(append(log, 'b', [2]))).toMatchObject({ code: 'unavailable' })
  const verbs = () =>
    [
      log.read('a', { after: 0 }, ALL),
      log.read('unknown', { after: 0 }, ALL),
      log.info('a'),
      log.info('unknown'),
      log.bytes!('a'),
      log.bytes!('unknown'),
      log.changed('unknown', { after: 0 }, never()),
      log.cursor('web', 'a'),
      list(log.cursors({ client: 'web' })),
      list(log.channels('')),
      append(log, 'a', [2]),
      log.trim('a', 1),
    ].map(refusal)
  const during = verbs()
  await expect.poll(() => log.health().state, { timeout: 10_000 }).toBe('read-only')
  for (const verb of [...during, ...verbs()]) expect(await verb).toMatchObject({ code: 'unavailable' })
})

test('What a write that is on its way holds is seen by nobody, and what a failed one held by nobody until the log was opened again', async () => {
  const { log, nextWrite, failNextWrite } = await failable()
  const { epoch } = await append(log, 'c', [1])
  const recent = () => log.recent('c', { epoch, after: 0 }, ALL)
  const seen = () => eventsOf(recent()!).map(valueIn)
  let go = () => {}
  nextWrite(async (write) => {
    // It is on disk, and not answered yet.
    await write()
    await new Promise<void>((resolve) => {
      go = resolve
    })
  })
  const second = append(log, 'c', [2])
  await expect.poll(() => log.health().pendingAppends).toBe(1)
  await new Promise((resolve) => setTimeout(resolve, 20))
  expect(recent()).toMatchObject({ head: 1, last: 1 })
  expect(await log.read('c', { epoch, after: 0 }, ALL)).toMatchObject({ head: 1 })
  go()
  await second
  expect(seen()).toEqual([1, 2])
  failNextWrite()
  expect(await refusal(append(log, 'c', [3]))).toMatchObject({ outcome: 'unknown' })
  await expect.poll(() => log.health().state).toBe('ok')
  // Nothing of before is in memory.
  expect(recent()).toBeUndefined()
  expect(await log.read('c', { epoch, after: 0 }, ALL)).toMatchObject({ head: 2 })
  await log.trim('c', 1)
  expect(recent).toThrow('trimmed')
  await log.close()
  expect(recent()).toBeUndefined()
})
