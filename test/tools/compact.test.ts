import { join } from 'node:path'
import { expect, test } from 'vitest'
import { encodeBody } from '../../src/body.ts'
import type { Log } from '../../src/log/log.ts'
import { openLog } from '../../src/log/open.ts'
import { lineOf } from '../../tools/upkeep.ts'
import { event, range, tempDir } from '../parts.ts'
import { call } from '../server/calls.ts'
import { startHeld, startTestServer } from '../server/serve.ts'
import { here as run, starting } from './here.ts'

async function fill(log: Log): Promise<void> {
  for (const i of range(1, 60))
    await log.append([{ channel: 'files', body: encodeBody([event(i, { key: `k${i % 3}` })]) }])
}

/** A stopped log. */
async function stored(): Promise<string> {
  const dir = join(tempDir(), 'log')
  const log = await openLog({ dir })
  await fill(log)
  await log.close()
  return dir
}

const eventsIn = async (dir: string): Promise<number> =>
  JSON.parse((await run(['verify', '--data', dir, '--json'])).out).events as number

test('compact tells what it would free, frees it, and finds nothing more', async () => {
  const dir = await stored()
  const args = ['compact', 'files', '--data', dir, '--min-lag', '0']
  const planned = await run([...args, '--dry-run', '--json'])
  expect([planned.code, planned.err]).toEqual([0, ''])
  expect(JSON.parse(planned.out)).toMatchObject({ events: { before: 60, after: 3 }, complete: true })
  expect(await eventsIn(dir)).toBe(60)
  const done = await run([...args, '--json'])
  expect(JSON.parse(done.out)).toEqual(JSON.parse(planned.out))
  expect(await eventsIn(dir)).toBe(3)
  expect((await run(args)).out).toMatch(/^files: left 3 of 3 events, .*\n0 events went \(0 tombstones\)/)
})

test('compact lets a running server do it, and says what became of it', async () => {
  const { url, log } = await startTestServer()
  await fill(log)
  const args = ['compact', 'files', '--url', url]
  expect((await run([...args, '--min-lag', '0', '--dry-run'])).out).toMatch(/^files: would leave 3 of 60 events/)
  expect((await run([...args, '--min-age', '1h'])).out).toMatch(/^files: left 60 of 60 events/)
  const { code, out } = await run([...args, '--min-lag', '0', '--json'])
  expect([code, JSON.parse(out)]).toMatchObject([0, { events: { before: 60, after: 3 } }])
  expect((await run(['compact', 'none', '--url', url])).err).toMatch(/no-channel/)
})

test('compact says what is wrong with its options', async () => {
  const dir = await stored()
  for (const wrong of [
    ['--min-lag', 'x'],
    ['--min-age', '5'],
    ['--tombstone-age', 'week'],
    ['--url', 'http://127.0.0.1:1'],
  ])
    expect([wrong, (await run(['compact', 'files', '--data', dir, ...wrong])).code]).toEqual([wrong, 2])
  expect((await run(['compact', 'none', '--data', dir])).err).toMatch(/no-channel/)
  expect((await run(['compact', 'files', '--data', join(dir, 'none')])).code).toBe(65)
})

test('Ctrl-C ends compact, and leaves a whole log', async () => {
  const dir = await stored()
  const compacting = starting(['compact', 'files', '--data', dir, '--min-lag', '0'])
  compacting.stop()
  expect(await compacting.ended).toBe(130)
  expect(JSON.parse((await run(['verify', '--data', dir, '--json'])).out)).toMatchObject({ whole: true })
})

test('Ctrl-C ends the run on the server, too, and says how far it was', async () => {
  const { url } = await startHeld()
  const run = `${url}/v1/channels/a/compact`
  const compacting = starting(['compact', 'a', '--url', url, '--min-lag', '0'])
  await expect.poll(async () => (await call(run)).json.running).toBe(true)
  compacting.stop()
  expect(await compacting.ended).toBe(130)
  expect(compacting.err).toMatch(/compact: .* of 40\): stopped there; what is done stays/)
  expect((await call(run)).json).toMatchObject({ running: false, stopped: true })
})

test('who watches a run that somebody else stops is told', async () => {
  const { url } = await startHeld()
  const run = `${url}/v1/channels/a/compact`
  const compacting = starting(['compact', 'a', '--url', url, '--min-lag', '0'])
  await expect.poll(async () => (await call(run)).json.running).toBe(true)
  await call(run, 'DELETE')
  expect(await compacting.ended).toBe(69)
  expect(compacting.err).toMatch(/stopped there[\s\S]*Somebody else stopped it/)
})

test('how far a run is counts from what was trimmed before it', () => {
  const at = (seq?: number) => lineOf('compact', { ...(seq && { seq }), phase: 'rewriting', trimmed: 100, head: 300 })
  expect(at(150)).toBe('compact: rewriting, 25 % (seq 150 of 300)')
  expect(at()).toBe('compact: rewriting, 0 % (seq 100 of 300)')
  expect(at(300)).toMatch(/, 100 %/)
  expect(lineOf('erase', { trimmed: 7, head: 7 })).toMatch(/, 100 %/)
})
