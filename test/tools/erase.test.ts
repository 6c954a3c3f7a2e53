import { join } from 'node:path'
import { expect, test } from 'vitest'
import { encodeBody } from '../../src/body.ts'
import type { Log } from '../../src/log/log.ts'
import { openLog } from '../../src/log/open.ts'
import { event, tempDir } from '../parts.ts'
import { startTestServer } from '../server/serve.ts'
import { here as run } from './here.ts'

async function fill(log: Log): Promise<void> {
  for (const key of ['ann', 'ben', 'ann', 'cy'])
    await log.append([{ channel: 'people', body: encodeBody([event('x', { key })]) }])
}

test('erase takes events out of a stopped log', async () => {
  const dir = join(tempDir(), 'log')
  const log = await openLog({ dir })
  await fill(log)
  await log.close()
  const args = ['erase', 'people', '--data', dir]
  expect((await run([...args, '--key', 'ann'])).out).toBe('people: 2 events of 1–3 erased, tombstone at 5\n')
  expect((await run([...args, '--key', 'ann'])).out).toBe('people: there was nothing to erase\n')
  const { code, out } = await run([...args, '--seq', '2', '--json'])
  expect([code, JSON.parse(out)]).toMatchObject([0, { events: 1, first: 2, last: 2, tombstone: null }])
  expect(JSON.parse((await run(['verify', '--data', dir, '--json'])).out)).toMatchObject({ whole: true, channels: 2 })
  for (const wrong of [
    [],
    ['--seq', '1', '--key', 'ann'],
    ['--seq', '0'],
    ['--seq', '1', '--url', 'http://127.0.0.1:1'],
  ])
    expect([wrong, (await run([...args, ...wrong])).code]).toEqual([wrong, 2])
})

test('erase lets a running server do it, and says why it could not', async () => {
  const { url, log } = await startTestServer()
  await fill(log)
  const args = ['erase', 'people', '--url', url]
  expect((await run([...args, '--seq', '4'])).out).toBe('people: event 4 erased\n')
  const { code, err } = await run([...args, '--seq', '40'])
  expect([code, err]).toMatchObject([1, expect.stringContaining('ahead-of-head')])
})
