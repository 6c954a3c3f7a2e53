import { join } from 'node:path'
import { expect, test } from 'vitest'
import { blockKey } from '../../src/log/level/keys.ts'
import { openLog } from '../../src/log/open.ts'
import { append } from '../log/reading.ts'
import { flip, numberOf, withRows } from '../log/stored.ts'
import { range, tempDir } from '../parts.ts'
import { here as run } from './here.ts'

async function stored(): Promise<string> {
  const dir = join(tempDir(), 'log')
  const log = await openLog({ dir })
  for (const i of range(1, 5)) await append(log, 'orders', [`event ${2 * i - 1}`, `event ${2 * i}`])
  await append(log, 'files', [1])
  await log.commit('web', 'orders', { seq: 3 })
  await log.trim('orders', 2)
  await log.close()
  return dir
}

test('inspect shows the store and its channels', async () => {
  const dir = await stored()
  const { code, out } = await run(['inspect', '--data', dir])
  expect(code).toBe(0)
  expect(out).toMatch(/^store life +[0-9a-f]{10}$/m)
  expect(out).toMatch(/^orders +10 +2 +4 +\d+ +1 +[0-9a-f.]+$/m)
  const json = JSON.parse((await run(['inspect', '--data', dir, '--json'])).out) as Record<string, unknown>
  expect(json).toMatchObject({
    format: 1,
    mark: { original: true, commit: json.commit },
    channels: [
      { channel: 'files', head: 1, trimmed: 0, blocks: 1, cursors: 0 },
      { channel: 'orders', head: 10, trimmed: 2, blocks: 4, cursors: 1 },
    ],
  })
})

test('inspect shows the blocks of a channel, damaged ones too, and their events', async () => {
  const dir = await stored()
  await withRows(dir, async (rows) => flip(rows, blockKey(await numberOf(rows, 'orders'), 6), 300))
  const { out } = await run(['inspect', 'orders', '--data', dir])
  expect(out).toMatch(/^AFTER +LAST/)
  expect(out).toMatch(/^-? +6 .* DAMAGED$/m)
  expect(out).toMatch(/^ *6 +8 +2 .* whole$/m)
  const args = ['inspect', 'orders', '--data', dir, '--from', '7', '--count', '1']
  const json = JSON.parse((await run([...args, '--events', '--json'])).out) as Record<string, unknown>
  expect(json).toMatchObject({ after: 6, last: 8, whole: true, events: [{ seq: 7, data: '"event 7"' }, { seq: 8 }] })
  expect((await run([...args, '--events'])).out).toContain('"event 8"')
  expect((await run(['inspect', 'none', '--data', dir])).code).toBe(1)
  expect((await run(['inspect', 'orders', '--data', dir, '--from', 'x'])).code).toBe(2)
})
