/** Archives: what goes in comes out, whichever way it is written; and what is cut, damaged or mixed is refused. */
import { cpSync, existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { encodeBody } from '../../src/body.ts'
import { blockKey } from '../../src/log/level/keys.ts'
import { openLog, verifyStopped } from '../../src/log/open.ts'
import { refusal } from '../log/reading.ts'
import { numberOf, withRows } from '../log/stored.ts'
import { event, range, SEED, tempDir } from '../parts.ts'
import { startGuarded } from '../server/guarded.ts'
import { startTestServer } from '../server/serve.ts'
import { randomFrom } from './disk.ts'
import { expectEveryPlace, filled, type Held, heldBy } from './held.ts'
import { here as run, starting } from './here.ts'

test.each(['blocks', 'lines'])(
  'As %s: what was exported is imported with every seq, time and cursor',
  async (format) => {
    const dir = await filled()
    const before = await heldBy(dir)
    const file = join(tempDir(), 'all.archive')
    expect(await run(['export', '--data', dir, '-o', file, '--format', format])).toMatchObject({ code: 0 })
    const into = join(tempDir(), 'new')
    expect(await run(['import', file, '--check'])).toMatchObject({ code: 0 })
    expect(await run(['import', file, '--data', into])).toMatchObject({ code: 0 })
    expect(await heldBy(into)).toEqual(before)
    await expectEveryPlace(into, dir)
    // Once more changes nothing.
    const again = await run(['import', file, '--data', into, '--json'])
    expect(JSON.parse(again.out)).toMatchObject({ channels: before.length, present: before.length })
    expect(await heldBy(into)).toEqual(before)
  },
)

test.each(['blocks', 'lines'])('As %s: with its epochs, every position that anybody holds is good', async (format) => {
  const dir = await filled()
  const before = await heldBy(dir, true)
  const file = join(tempDir(), 'all')
  await run(['export', '--data', dir, '-o', file, '--format', format])
  const into = join(tempDir(), 'new')
  expect(await run(['import', file, '--data', into, '--same-epochs'])).toMatchObject({ code: 0 })
  expect(await heldBy(into, true)).toEqual(before)
  // And only in this life of the log: an accepted copy tells it as another history.
  const copied = join(tempDir(), 'copied')
  cpSync(into, copied, { recursive: true })
  const log = await openLog({ dir: copied, acceptCopy: true })
  const { epoch, trimmed } = before.find(({ info }) => info.channel === 'files')!.info
  expect(await refusal(log.read('files', { epoch, after: trimmed }, { events: 1, bytes: 1 }))).toMatchObject({
    code: 'epoch-changed',
  })
  await log.close()
})

test('Lines can be made from an archive again, byte for byte, and go to stdout', async () => {
  const dir = await filled()
  const printed = await run(['export', 'orders', 'logs/**', '--data', dir])
  const lines = printed.out
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line))
  expect(lines.filter(({ is }) => is === 'channel').map(({ channel }) => channel)).toEqual(['logs/a', 'orders'])
  expect(lines.at(-1)).toMatchObject({ is: 'whole', channels: 2 })
  const file = join(tempDir(), 'some.ndjson')
  writeFileSync(file, printed.out)
  const into = join(tempDir(), 'new')
  expect(await run(['import', file, '--data', into])).toMatchObject({ code: 0 })
  const again = await run(['export', '--data', into])
  const events = (out: string) => out.split('\n').filter((line) => line.startsWith('{"seq"'))
  expect(events(again.out)).toEqual(events(printed.out))
})

test('An archive that is cut or changed anywhere is refused, and nothing of it is imported', async () => {
  const random = randomFrom(SEED)
  console.log(`seed ${SEED}`)
  const dir = await filled()
  for (const format of ['blocks', 'lines']) {
    const file = join(tempDir(), 'all')
    await run(['export', '--data', dir, '-o', file, '--format', format])
    const whole = readFileSync(file)
    const into = join(tempDir(), 'new')
    for (const i of range(1, 40)) {
      const bytes = Buffer.from(whole)
      const at = i === 1 ? whole.length - 1 : random(whole.length)
      if (i % 2 === 0) bytes[at]! ^= 1 << random(8)
      writeFileSync(file, i % 2 === 0 ? bytes : bytes.subarray(0, at))
      const { code, err } = await run(['import', file, '--data', into])
      // What does not begin as an archive is none.
      expect([format, i, at, code, err]).toEqual([format, i, at, at < 8 ? expect.any(Number) : 65, expect.any(String)])
      expect(code).not.toBe(0)
      expect(existsSync(into)).toBe(false)
    }
  }
})

test('Nothing is mixed into a channel that holds another history', async () => {
  const dir = await filled()
  const file = join(tempDir(), 'all')
  await run(['export', '--data', dir, '-o', file])
  const into = join(tempDir(), 'new')
  const log = await openLog({ dir: into })
  await log.append([{ channel: 'logs/a', body: encodeBody([event('mine')]) }])
  await log.close()
  const { code, err } = await run(['import', file, '--data', into])
  expect([code, err]).toEqual([1, expect.stringContaining('(epoch-changed)')])
  const held = await heldBy(into)
  expect(held.find(({ info }) => info.channel === 'logs/a')).toMatchObject({ info: { head: 1 } })
  // The others can be asked for by name.
  expect(await run(['import', file, 'orders/**', 'orders', '--data', into])).toMatchObject({ code: 0 })
})

test('Of a server to a server, as an admin only', async () => {
  const dir = await filled()
  const before = await heldBy(dir)
  const log = await openLog({ dir })
  onTestFinished(() => log.close())
  const [from, to] = [await startGuarded({ log }), await startGuarded()]
  const file = join(tempDir(), 'all')
  const keyFile = (key: string): string => {
    const path = join(tempDir(), 'key')
    writeFileSync(path, key)
    return path
  }
  const [key, other] = [keyFile(from.credentials.admin), keyFile(from.credentials.publish)]
  const toKey = keyFile(to.credentials.admin)
  const exporting = ['export', '--url', from.url, '-o', file, '--token-file']
  expect(await run([...exporting, other])).toMatchObject({ code: 77 })
  expect(existsSync(file)).toBe(false)
  // While events come, which are behind the head of then.
  const appending = range(1, 20).map((i) => log.append([{ channel: 'orders', body: encodeBody([event(i)]) }]))
  expect(await run([...exporting, key])).toMatchObject({ code: 0 })
  await Promise.all(appending)
  const importing = ['import', file, '--url', to.url, '--token-file']
  expect(await run([...importing, keyFile(to.credentials.granted)])).toMatchObject({ code: 77 })
  expect(await run([...importing, toKey])).toMatchObject({ code: 0 })
  const copied = join(tempDir(), 'copied')
  expect(await run(['copy', to.url, copied, '--token-file', toKey])).toMatchObject({ code: 0 })
  const orders = ({ info }: Held): boolean => info.channel === 'orders'
  const held = await heldBy(copied)
  expect(held.filter((channel) => !orders(channel))).toEqual(before.filter((channel) => !orders(channel)))
  expect(held.find(orders)!.info.head).toBeGreaterThanOrEqual(before.find(orders)!.info.head)
})

test('A copy goes between directories and servers alike', async () => {
  const dir = await filled()
  const before = await heldBy(dir)
  const { url, log, server } = await startTestServer()
  expect(await run(['copy', dir, url])).toMatchObject({ code: 0 })
  const last = join(tempDir(), 'last')
  expect(await run(['copy', url, last])).toMatchObject({ code: 0 })
  expect(await heldBy(last)).toEqual(before)
  expect(JSON.parse((await run(['copy', url, last, '--json'])).out)).toMatchObject({ present: before.length })
  // What came stays as it came, whatever has come behind it there.
  await log.append([{ channel: 'orders', body: encodeBody([event('late')]) }])
  expect(JSON.parse((await run(['copy', url, last, '--json'])).out)).toMatchObject({ present: before.length })
  expect(await heldBy(last)).toEqual(before)
  const file = join(tempDir(), 'later')
  expect(await run(['export', '--url', url, '-o', file])).toMatchObject({ code: 0 })
  const { code, err } = await run(['import', file, '--data', last])
  expect([code, err]).toEqual([1, expect.stringContaining('took in this history')])
  await server.close()
  await log.close()
})

test('An export that was stopped leaves no archive; the same command goes on with what there is', async () => {
  const dir = join(tempDir(), 'log')
  const log = await openLog({ dir })
  for (const channel of ['a', 'b'])
    for (const _ of range(1, 8))
      await log.append([{ channel, body: encodeBody(range(1, 300).map((i) => event(`${i}`.repeat(200)))) }])
  await log.close()
  const held = await heldBy(dir)
  for (const format of ['blocks', 'lines']) {
    const file = join(tempDir(), 'all')
    const part = `${file}.part`
    const command = ['export', '--data', dir, '-o', file, '--format', format]
    await run(command)
    const whole = readFileSync(file).length
    for (const share of [0, 0.01, 0.2, 0.5, 0.8, 0.99, 1]) {
      const bytes = readFileSync(file)
      const fresh = join(tempDir(), 'all')
      writeFileSync(`${fresh}.part`, bytes.subarray(0, Math.floor(whole * share)))
      const { code, err } = await run(['export', '--data', dir, '-o', fresh, '--format', format])
      expect([share, code, err]).toEqual([share, 0, share === 0 ? '' : expect.stringContaining('going on')])
      const into = join(tempDir(), 'new')
      expect(await run(['import', fresh, '--data', into])).toMatchObject({ code: 0 })
      expect(await heldBy(into)).toEqual(held)
    }
    expect(existsSync(part)).toBe(false)
    const stopped = starting(['export', '--data', dir, '-o', `${file}.2`])
    stopped.stop()
    expect(await stopped.ended).toBe(130)
    expect(existsSync(`${file}.2`)).toBe(false)
    // Another one is not gone on with it, nor is a file overwritten.
    writeFileSync(`${file}.2.part`, readFileSync(file).subarray(0, whole >> 1))
    expect(await run(['export', 'a', '--data', dir, '-o', `${file}.2`])).toMatchObject({ code: 73 })
    expect(await run(command)).toMatchObject({ code: 73 })
  }
})

test('What is lost in a log is lost in its archive, and told, and all else comes', async () => {
  const dir = join(tempDir(), 'log')
  const log = await openLog({ dir })
  for (const i of range(1, 9)) await log.append([{ channel: 'c', body: encodeBody([event(i)]) }])
  await log.close()
  await withRows(dir, async (rows) => rows.del(blockKey(await numberOf(rows, 'c'), 5)))
  for (const format of ['blocks', 'lines']) {
    const file = join(tempDir(), 'all')
    const { code, out } = await run(['export', '--data', dir, '-o', file, '--format', format])
    expect([code, out]).toEqual([65, expect.stringContaining('1 events are LOST')])
    const into = join(tempDir(), 'new')
    expect((await run(['import', file, '--data', into])).code).toBe(65)
    expect(await verifyStopped(into)).toMatchObject({ whole: true, events: 8, losses: [{ after: 4, upTo: 5 }] })
  }
})

test('Where there is no log, no archive or no directory for one, that is said', async () => {
  const dir = join(tempDir(), 'log')
  await (await openLog({ dir })).close()
  const none = join(tempDir(), 'none')
  for (const [code, said, ...args] of [
    [1, '--url a running server', 'backup', `${none}.tidemark`, '--data', none],
    [73, 'There is no directory', 'backup', join(none, 'all'), '--data', dir],
    [1, 'There is no file', 'restore', none, '--data', `${none}.log`],
    [1, 'There is no file', 'import', none, '--check'],
    [2, 'is no archive', 'import', import.meta.filename, '--check'],
  ] as const)
    expect([args, await run(args)]).toMatchObject([args, { code, err: expect.stringContaining(said) }])
})

test('An archive on its way that was damaged is gone on with from before the damage', async () => {
  const dir = join(tempDir(), 'log')
  const log = await openLog({ dir })
  for (const channel of ['a', 'b', 'c']) {
    await log.append([{ channel, body: encodeBody([event(channel)]) }])
    await log.configure(channel, { note: `this is ${channel}` })
  }
  await log.close()
  const held = await heldBy(dir)
  const file = join(tempDir(), 'all')
  expect(await run(['export', '--data', dir, '-o', file])).toMatchObject({ code: 0 })
  for (const text of ['this is b', '"b"']) {
    const bytes = readFileSync(file)
    bytes[bytes.indexOf(text) + 1]! ^= 1
    writeFileSync(`${file}.2.part`, bytes.subarray(0, -10))
    expect(await run(['export', '--data', dir, '-o', `${file}.2`])).toMatchObject({ code: 0 })
    const into = join(tempDir(), 'new')
    expect(await run(['import', `${file}.2`, '--data', into])).toMatchObject({ code: 0 })
    expect(await heldBy(into)).toEqual(held)
    rmSync(`${file}.2`)
  }
})

test('An archive on its way that was cut behind cursors is gone on with, and they come once', async () => {
  const dir = await filled()
  const held = await heldBy(dir)
  for (const [format, head] of [
    ['blocks', 9],
    ['lines', 0],
  ] as const) {
    const file = join(tempDir(), 'all')
    expect(await run(['export', '--data', dir, '-o', file, '--format', format])).toMatchObject({ code: 0 })
    const bytes = readFileSync(file)
    // What stands there is the end of a channel that has cursors.
    const end = bytes.indexOf('{"is":"end"', bytes.lastIndexOf('{"is":"cursors"')) - head
    for (const cut of [end, end + head + 5]) {
      writeFileSync(`${file}.2.part`, bytes.subarray(0, cut))
      expect(await run(['export', '--data', dir, '-o', `${file}.2`, '--format', format])).toMatchObject({ code: 0 })
      const into = join(tempDir(), 'new')
      expect(await run(['import', `${file}.2`, '--data', into])).toMatchObject({ code: 0 })
      expect(await heldBy(into)).toEqual(held)
      rmSync(`${file}.2`)
    }
  }
})

test('Nothing stands behind the last record, and what stood behind an archive on its way is cut off', async () => {
  const dir = await filled()
  for (const format of ['blocks', 'lines']) {
    const file = join(tempDir(), 'all')
    expect(await run(['export', '--data', dir, '-o', file, '--format', format])).toMatchObject({ code: 0 })
    const whole = readFileSync(file)
    // Longer than all that is still to come.
    writeFileSync(`${file}.2.part`, Buffer.concat([whole.subarray(0, whole.length >> 1), Buffer.alloc(whole.length)]))
    expect(await run(['export', '--data', dir, '-o', `${file}.2`, '--format', format])).toMatchObject({ code: 0 })
    expect(await run(['import', `${file}.2`, '--check'])).toMatchObject({ code: 0 })
    const start = whole.indexOf('{"is":"channel"') - (format === 'blocks' ? 9 : 0)
    const end = whole.indexOf('{"is":', start + 20) - (format === 'blocks' ? 9 : 0)
    writeFileSync(file, Buffer.concat([whole, whole.subarray(start, end)]))
    const told = { code: 65, err: expect.stringContaining('behind its last record') }
    expect(await run(['import', file, '--check'])).toMatchObject(told)
    // Not even the beginning of a frame or of a line.
    for (const more of [1, 7]) {
      writeFileSync(file, Buffer.concat([whole, whole.subarray(start, start + more)]))
      expect([format, more, await run(['import', file, '--check'])]).toMatchObject([format, more, { code: 65 }])
    }
  }
})

test('The system’s channels are in a backup alone, and are imported from none', async () => {
  const dir = await filled()
  const names = async (work: string): Promise<string[]> => {
    const file = join(tempDir(), 'all')
    const args = work === 'backup' ? [work, file, '--data', dir] : [work, '-o', file, '--data', dir]
    expect(await run(args)).toMatchObject({ code: 0 })
    const into = join(tempDir(), 'new')
    expect(await run(['import', file, '--data', into])).toMatchObject({ code: 0 })
    // Nor where they are asked for.
    expect(await run(['import', file, '_own', '--data', into])).toMatchObject({ code: 0 })
    expect((await heldBy(into, false, true)).map(({ info }) => info.channel)).toEqual(ours)
    return JSON.parse((await run(['import', file, '--check', '--json'])).out).names
  }
  const ours = (await heldBy(dir)).map(({ info }) => info.channel)
  expect(await names('export')).toEqual(ours)
  expect((await names('backup')).toSorted()).toEqual(['_own', ...ours].toSorted())
})
