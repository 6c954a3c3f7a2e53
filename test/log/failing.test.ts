/** A write that fails in the middle of a running log. What real disks do is in test/crash; here LevelDB is made to fail. */
import { Level } from 'level'
import { expect, onTestFinished, test, vi } from 'vitest'
import { headKey } from '../../src/log/level/keys.ts'
import { openLog } from '../../src/log/open.ts'
import { tempDir } from '../parts.ts'
import { ALL, append, list, never, refusal } from './reading.ts'
import { flip, numberOf, type Rows } from './stored.ts'

/** A log, the LevelDB in it, and a way to make its next write fail. */
async function failable() {
  const open = vi.spyOn(Level.prototype, 'open')
  const log = await openLog({ dir: tempDir() })
  const rows = open.mock.contexts.at(-1) as unknown as Rows
  onTestFinished(async () => {
    vi.restoreAllMocks()
    await log.close()
  })
  const failNextWrite = () => {
    const batch = rows.batch.bind(rows)
    const made = vi.spyOn(Level.prototype, 'batch') as unknown as { mockImplementationOnce(make: () => unknown): void }
    made.mockImplementationOnce(() =>
      Object.assign(batch(), { write: () => Promise.reject(new Error('Input/output error')) }),
    )
  }
  return { log, rows, open, failNextWrite }
}

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
