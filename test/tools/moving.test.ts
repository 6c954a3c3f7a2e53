/** What must not be lost without a word when histories are carried: damaged channels, missed tombstones, a log that came first. */
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { encodeBody } from '../../src/body.ts'
import { sameHistory } from '../../src/epoch.ts'
import { type ErrorCode, TidemarkError } from '../../src/errors.ts'
import { compactChannel } from '../../src/log/compact.ts'
import { give } from '../../src/log/give.ts'
import { cursorKey, headKey } from '../../src/log/level/keys.ts'
import type { Log } from '../../src/log/log.ts'
import { makeStopped, openLog } from '../../src/log/open.ts'
import { type Taker, take } from '../../src/log/take.ts'
import { blocksCodec } from '../../tools/archive/blocks.ts'
import { Archivist, PartFile } from '../../tools/archive/file.ts'
import { ARCHIVE_FORMAT } from '../../tools/archive/record.ts'
import { tellGoingOn } from '../../tools/carrying.ts'
import type { Terminal } from '../../tools/terminal.ts'
import { list, refusal } from '../log/reading.ts'
import { flip, numberOf, withRows } from '../log/stored.ts'
import { event, range, tempDir } from '../parts.ts'
import { call } from '../server/calls.ts'
import { startTestServer } from '../server/serve.ts'
import { here as run } from './here.ts'

/** Of the server that serves this directory until the test ends, its address. */
async function servedFrom(dir: string): Promise<string> {
  const log = await openLog({ dir })
  onTestFinished(() => log.close())
  return (await startTestServer({ log })).url
}

/** A log of three channels; the head row of `b` is damaged. */
async function damagedLog(): Promise<string> {
  const dir = join(tempDir(), 'log')
  const log = await openLog({ dir })
  for (const channel of ['a', 'b', 'c']) await log.append([{ channel, body: encodeBody([event(1)]) }])
  await log.close()
  await withRows(dir, async (rows) => flip(rows, headKey(await numberOf(rows, 'b')), 9))
  return dir
}

test('A channel whose rows are damaged is missing in no archive and no copy without a word', async () => {
  const dir = await damagedLog()
  const told = expect.stringContaining('not carried: b')
  const work = tempDir()
  const carried = async (at: string, source: readonly string[]) => {
    const [backup, file, copied] = ['backup', 'export', 'copy'].map((name) => join(work, `${at}-${name}`))
    expect(await run(['backup', backup!, ...source])).toMatchObject({ code: 65, err: told })
    expect(await run(['export', '-o', file!, ...source])).toMatchObject({ code: 65, err: told })
    expect(await run(['export', ...source])).toMatchObject({ code: 65, err: told })
    expect(await run(['copy', source[1]!, copied!])).toMatchObject({ code: 65, err: told })
    // Others can be asked for without it, and are there whole.
    expect(await run(['export', 'a', 'c', '-o', `${file}-others`, ...source])).toMatchObject({ code: 0 })
    for (const archive of [backup!, file!]) {
      const { code, out } = await run(['import', archive, '--check', '--json'])
      expect([code, JSON.parse(out).names]).toEqual([0, ['a', 'c']])
    }
  }
  await carried('stopped', ['--data', dir])
  const url = await servedFrom(dir)
  await carried('served', ['--url', url])
})

test('A cursor whose row is damaged is missing in no archive, no copy and no list without a word', async () => {
  const dir = join(tempDir(), 'log')
  const filling = await openLog({ dir })
  await filling.append([{ channel: 'c', body: encodeBody([event(1)]) }])
  for (const client of ['app', 'web', 'zoo']) await filling.commit(client, 'c', { seq: 1 })
  await filling.close()
  await withRows(dir, async (rows) => flip(rows, cursorKey(await numberOf(rows, 'c'), 'web'), 9))
  const told = { code: 65, err: expect.stringContaining('1 cursors were damaged') }
  const work = tempDir()
  const carried = async (at: string, source: readonly string[]) => {
    const [file, backup, copied] = ['file', 'backup', 'copied'].map((name) => join(work, `${at}-${name}`))
    expect(await run(['backup', backup!, ...source])).toMatchObject(told)
    expect(await run(['copy', source[1]!, copied!])).toMatchObject(told)
    for (const format of ['blocks', 'lines']) {
      const of = `${file}-${format}`
      expect(await run(['export', '-o', of, '--format', format, ...source])).toMatchObject(told)
      // The archive says so, to whoever comes later.
      const { code, out } = await run(['import', of, '--check', '--json'])
      expect([code, JSON.parse(out)]).toMatchObject([0, { cursors: 2, lostCursors: 1 }])
      expect(await run(['import', of, '--data', `${of}-log`])).toMatchObject(told)
      expect(await run(['restore', of, '--data', `${of}-restored`])).toMatchObject(told)
    }
    const { out, ...ended } = await run(['export', ...source])
    expect(ended).toMatchObject(told)
    const records = out.split('\n').filter((line) => line.includes('"is":"cursors"'))
    expect(records.map((line) => JSON.parse(line))).toMatchObject([
      { cursors: [{ client: 'app' }, { client: 'zoo' }], damaged: ['web'] },
    ])
  }
  await carried('stopped', ['--data', dir])
  const url = await servedFrom(dir)
  await carried('served', ['--url', url])
  const listed = await run(['cursors', 'c', '--url', url])
  expect(listed).toMatchObject({ code: 65, out: expect.stringContaining('zoo'), err: expect.stringContaining('web') })
  const mine = (await call(`${url}/v1/cursors/web`)).json
  expect(mine).toEqual({ cursors: [], damaged: ['c'] })
})

test('A cursor that has missed tombstones does not look as one that has not, though the channel was told before they went', async () => {
  const [log, target] = [await openLog({ dir: tempDir() }), await openLog({ dir: tempDir() })]
  const append = (...events: ReturnType<typeof event>[]) => log.append([{ channel: 'c', body: encodeBody(events) }])
  await append(event(1, { key: 'k' }), event(2, { key: 'other' }))
  const { epoch } = await log.info('c')
  // It holds a value for k, and the tombstone is still to come.
  await log.commit('web', 'c', { seq: 2, epoch })
  await append(event(undefined, { key: 'k' }))
  for (const i of range(1, 10)) await append(event(i))
  const told: Log = new Proxy(log, {
    get(of, name) {
      if (name === 'channels')
        return async function* () {
          const infos = await list(of.channels(''))
          // Until the tombstone is old enough to go.
          do await compactChannel(of, 'c', { minLag: 1, tombstoneAge: 0, restTimes: 0 })
          while ((await of.info('c')).epoch === epoch)
          yield* infos
        }
      const member: unknown = Reflect.get(of, name)
      return typeof member === 'function' ? member.bind(of) : member
    },
  })
  await take(give(told), target as Taker)
  // The tombstone has gone, and with it the run of before.
  expect((await log.info('c')).epoch).not.toBe(epoch)
  const [cursor] = await list(target.cursors({ channel: 'c' }))
  expect(cursor).toMatchObject({ client: 'web', seq: 2 })
  expect(sameHistory(cursor!.epoch, (await target.info('c')).epoch)).toBe(false)
  await log.close()
  await target.close()
})

test('An export that is gone on with says of when it is', async () => {
  const dir = join(tempDir(), 'log')
  const log = await openLog({ dir })
  for (const channel of ['a', 'b']) await log.append([{ channel, body: encodeBody([event(1)]) }])
  await log.close()
  const file = join(tempDir(), 'all')
  expect(await run(['backup', file, '--data', dir])).toMatchObject({ code: 0 })
  const { time } = JSON.parse((await run(['import', file, '--check', '--json'])).out)
  writeFileSync(`${file}-2.part`, readFileSync(file).subarray(0, -10))
  const { code, err } = await run(['backup', `${file}-2`, '--data', dir])
  expect([code, err]).toEqual([0, expect.stringContaining(new Date(time).toISOString())])
})

test('Two never write one archive', async () => {
  const name = join(tempDir(), 'all')
  const open = () => PartFile.open(name, blocksCodec, { source: 'here', channels: [] }, {})
  const first = await open()
  expect(await refusal(open())).toMatchObject({ code: 'in-use', pid: process.pid })
  await first.close()
  await (await open()).close()
})

test('What has the name of an archive by now is not overwritten, whenever it came', async () => {
  const name = join(tempDir(), 'all')
  const open = () => PartFile.open(name, blocksCodec, { source: 'here', channels: [] }, {})
  // While the part was taken, and while it was written.
  const opening = open()
  writeFileSync(name, 'mine')
  expect(await refusal(opening)).toMatchObject({ code: 'cannot-create' })
  rmSync(name)
  const part = await open()
  const archivist = new Archivist(part, blocksCodec)
  await archivist.write({ is: 'archive', format: ARCHIVE_FORMAT, by: 'us', time: 1, source: 'here', channels: [] })
  await archivist.end()
  writeFileSync(name, 'mine')
  expect(await refusal(part.finish({}))).toMatchObject({ code: 'cannot-create' })
  await part.close()
  expect(readFileSync(name, 'utf8')).toBe('mine')
  expect(existsSync(`${name}.part`)).toBe(true)
})

test('What came to where a log was to be made is left there', async () => {
  const dir = join(tempDir(), 'log')
  const fill = async (draft: string) => {
    const log = await openLog({ dir: draft })
    await log.append([{ channel: 'c', body: encodeBody([event(1)]) }])
    await log.close()
    mkdirSync(dir)
    writeFileSync(join(dir, 'precious'), 'x')
  }
  expect(await refusal(makeStopped(dir, 'draft', fill))).toMatchObject({ code: 'cannot-create' })
  expect(existsSync(join(dir, 'precious'))).toBe(true)
  expect(existsSync(`${dir}.draft`)).toBe(true)
})

test('An archive with its epochs does not come back into the log that deleted its channels', async () => {
  const dir = join(tempDir(), 'log')
  const log = await openLog({ dir })
  await log.append([{ channel: 'c', body: encodeBody([event(1)]) }])
  await log.close()
  const file = join(tempDir(), 'all')
  expect(await run(['export', '-o', file, '--data', dir])).toMatchObject({ code: 0 })
  const again = await openLog({ dir })
  await again.append([{ channel: 'c', body: encodeBody([event('seen')]) }])
  await again.delete('c')
  await again.close()
  const refused = { code: 1, err: expect.stringContaining('Take it in under a new epoch') }
  expect(await run(['import', file, '--data', dir, '--same-epochs'])).toMatchObject(refused)
  expect(await run(['import', file, '--data', dir])).toMatchObject({ code: 0 })
})

test('That the same command goes on is said only of what passes', () => {
  const said = (code: ErrorCode, isStopped = false): string[] => {
    const lines: string[] = []
    const stopped = () => (isStopped ? AbortSignal.abort() : new AbortController().signal)
    const terminal = { stopped, say: (text: string) => lines.push(text) } as unknown as Terminal
    const error = new TidemarkError(code, 'it failed')
    expect(() => tellGoingOn({ terminal }, error, 'log.restoring-1 holds what came')).toThrow(error)
    return lines
  }
  const told = ['tidemark: log.restoring-1 holds what came; the same command goes on']
  expect(said('storage-full')).toEqual(told)
  expect(said('data-loss')).toEqual([])
  expect(said('data-loss', true)).toEqual(told)
})
