import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { blockKey } from '../../src/log/level/keys.ts'
import { openLog } from '../../src/log/open.ts'
import { append } from '../log/reading.ts'
import { numberOf, withRows } from '../log/stored.ts'
import { range, tempDir } from '../parts.ts'
import { startTestServer } from '../server/serve.ts'
import { here as run } from './here.ts'

/** A stopped log; `flipped`: with a bit of its log file turned. */
async function stored(flipped = false): Promise<string> {
  const dir = join(tempDir(), 'log')
  const log = await openLog({ dir })
  for (const i of range(1, 20)) await append(log, 'orders', [i])
  await log.close()
  if (flipped) {
    const path = join(dir, 'store', readdirSync(join(dir, 'store')).find((name) => name.endsWith('.log'))!)
    const bytes = readFileSync(path)
    bytes[Math.floor(bytes.length / 2)]! ^= 4
    writeFileSync(path, bytes)
  }
  return dir
}

test('verify ends with 0 for a whole log, and says how much it read', async () => {
  const dir = await stored()
  const { code, out, err } = await run(['verify', '--data', dir])
  expect([code, err]).toEqual([0, ''])
  expect(out).toMatch(/^whole: 1 channels, 20 events in 20 blocks/)
  const json = await run(['verify', '--data', dir, '--json'])
  expect(JSON.parse(json.out)).toMatchObject({ whole: true, events: 20, findings: [] })
})

test('verify ends with 65 for a damaged log, and says where', async () => {
  const dir = await stored(true)
  const { code, out } = await run(['verify', '--data', dir])
  expect(code).toBe(65)
  expect(out).toMatch(/^file +\d+\.log at \d+/m)
  const json = await run(['verify', '--data', dir, '--json'])
  expect(json.code).toBe(65)
  const { findings } = JSON.parse(json.out) as { findings: Record<string, unknown>[] }
  expect(findings).toContainEqual(expect.objectContaining({ code: 'data-loss', part: 'file' }))
  // The server says the same when it is asked to open it.
  expect((await run(['serve', '--data', dir, '--port', '0'])).code).toBe(65)
})

test('verify says that a log is in use, or is not there', async () => {
  const dir = await stored()
  const log = await openLog({ dir })
  expect((await run(['verify', '--data', dir])).code).toBe(75)
  await log.close()
  expect((await run(['verify', '--data', join(dir, 'none')])).code).toBe(1)
})

test('verify --url lets a running server verify itself', async () => {
  const { url } = await startTestServer()
  for (const data of [1, 2, 3]) await run(['append', 'orders', '--data', `${data}`, '--url', url])
  const { code, out } = await run(['verify', '--url', url, '--json'])
  expect(code).toBe(0)
  expect(JSON.parse(out)).toMatchObject({ whole: true, findings: [], events: 3 })
  expect((await run(['verify', '--url', url, '--data', 'here'])).code).toBe(2)
})

test('verify --url tells what is damaged under a running server', async () => {
  const dir = await stored()
  await withRows(dir, async (rows) => rows.del(blockKey(await numberOf(rows, 'orders'), 7)))
  const log = await openLog({ dir })
  onTestFinished(() => log.close())
  const { url } = await startTestServer({ log })
  const { code, out } = await run(['verify', '--url', url, '--rate', '64KiB'])
  expect(code).toBe(65)
  expect(out).toMatch(/^events +orders +7–7/m)
})
