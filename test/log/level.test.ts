import { once } from 'node:events'
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { Follower } from '../../src/log/follow.ts'
import { encodeSweep, sweepKey } from '../../src/log/level/keys.ts'
import type { Log } from '../../src/log/log.ts'
import { type LogOptions, openLog } from '../../src/log/open.ts'
import { range, SEED, tempDir } from '../parts.ts'
import { logContract, type Open } from './contract.ts'
import { ALL, append, list, readAll, refusal, seqsAndValues, valueIn } from './reading.ts'
import { flip, withRows } from './stored.ts'

/** Opens a log that is closed when the test ends. */
async function opened(dir: string, options: Partial<LogOptions> = {}): Promise<Log> {
  const log = await openLog({ dir, ...options })
  onTestFinished(() => log.close())
  return log
}

function opener(options: Partial<LogOptions>): Open {
  const dirs = new Map<string, string>()
  return ({ at } = {}) => {
    const dir = (at !== undefined && dirs.get(at)) || tempDir()
    if (at !== undefined) dirs.set(at, dir)
    return opened(dir, options)
  }
}

logContract('level', opener({}), ['multiChannel', 'compact', 'erase', 'stateRows'])
logContract('level that keeps nothing in memory', opener({ tailBytes: 0 }), [
  'multiChannel',
  'compact',
  'erase',
  'stateRows',
])

/** Five events in `c` and one cursor, two in `d`; closed. Answers the epoch of `c`. */
async function fill(dir: string): Promise<string> {
  const log = await opened(dir)
  await append(log, 'c', [1, 2, 3])
  const { epoch } = await append(log, 'c', [4, 5], { idempotencyKey: 'k1' })
  await append(log, 'd', ['x', 'y'])
  await log.commit('web', 'c', { seq: 4 })
  await log.close()
  return epoch
}

/** Every event that `fill` wrote, under epochs that are not the ones of then. */
async function expectAnotherLife(log: Log, old: string): Promise<void> {
  const { epoch, head } = await log.info('c')
  expect(epoch).not.toBe(old)
  expect((await readAll(log, 'c', { epoch, after: 0 })).map(valueIn)).toEqual(range(1, 5))
  expect(head).toBe(5)
  expect((await readAll(log, 'd')).map(valueIn)).toEqual(['x', 'y'])
  for (const after of [0, 5, 6])
    expect(await refusal(log.read('c', { epoch: old, after }, ALL))).toMatchObject({ code: 'epoch-changed', epoch })
}

describe('the directory of a level log', () => {
  test('A log in use is not opened again; the refusal names the process', async () => {
    const dir = tempDir()
    const log = await opened(dir)
    await append(log, 'c', [1])
    for (const path of [dir, join(dir, '.'), `${dir}/`])
      expect(await refusal(openLog({ dir: path }))).toMatchObject({ code: 'in-use', pid: process.pid })
    for (const options of [{ acceptCopy: true }, { acceptDataLoss: true }])
      expect(await refusal(openLog({ dir, ...options }))).toMatchObject({ code: 'in-use' })
    await append(log, 'c', [2])
    await log.close()
    expect((await readAll(await opened(dir), 'c')).map(valueIn)).toEqual([1, 2])
  })

  test('Whoever asks for its holder and never hangs up does not hold up the close', async () => {
    const dir = tempDir()
    const log = await opened(dir)
    const { dev, ino } = statSync(dir, { bigint: true })
    const asking = connect({ path: `\0tidemark:${dev}:${ino}`, allowHalfOpen: true })
    onTestFinished(() => void asking.destroy())
    await once(asking, 'readable')
    await log.close()
    await (await openLog({ dir })).close()
  })

  test('Nothing in it is readable by others, whatever the umask was', async () => {
    const dir = join(tempDir(), 'deep', 'log')
    const umask = process.umask(0o022)
    onTestFinished(() => void process.umask(umask))
    await fill(dir)
    const readable = ['.', ...(readdirSync(dir, { recursive: true }) as string[])].filter(
      (name) => (statSync(join(dir, name)).mode & 0o077) !== 0,
    )
    expect(readable).toEqual([])
  })

  test('A directory that holds something else is refused and left as it was', async () => {
    const dir = tempDir()
    writeFileSync(join(dir, 'notes.txt'), 'mine')
    expect(await refusal(openLog({ dir }))).toMatchObject({ code: 'wrong-config' })
    expect(readFileSync(join(dir, 'notes.txt'), 'utf8')).toBe('mine')
    expect(existsSync(join(dir, 'store'))).toBe(false)
    expect(await refusal(openLog({ dir: join(dir, 'notes.txt', 'log') }))).toMatchObject({ code: 'cannot-create' })
  })

  test('A copied directory is refused, and accepted as a log of its own under new epochs', async () => {
    const [dir, copy] = [tempDir(), join(tempDir(), 'copy')]
    const epoch = await fill(dir)
    cpSync(dir, copy, { recursive: true })
    for (const options of [{}, { acceptDataLoss: true }])
      expect(await refusal(openLog({ dir: copy, ...options }))).toMatchObject({ code: 'wrong-config' })
    const log = await opened(copy, { acceptCopy: true })
    await expectAnotherLife(log, epoch)
    const now = await log.info('c')
    await append(log, 'c', [6])
    await log.close()
    // Accepted once; from now on it is itself.
    const again = await opened(copy)
    expect(await again.info('c')).toMatchObject({ epoch: now.epoch, head: 6 })
    const original = await opened(dir)
    expect(await original.info('c')).toMatchObject({ epoch, head: 5 })
  })

  test('In an accepted copy a cursor still tells its old history, until the client commits in the new one', async () => {
    const [dir, copy] = [tempDir(), join(tempDir(), 'copy')]
    const old = await fill(dir)
    cpSync(dir, copy, { recursive: true })
    const log = await opened(copy, { acceptCopy: true })
    const { epoch } = await log.info('c')
    expect(await log.cursor('web', 'c')).toMatchObject({ epoch: old, seq: 4 })
    const { follower } = await Follower.open(log, 'c', { client: 'web' })
    expect(await follower.next(ALL)).toEqual({ is: 'reset', epoch, trimmed: 0, head: 5 })
    expect(follower.place).toEqual({ epoch, after: 0 })
    expect(await refusal(log.commit('web', 'c', { seq: 5, epoch: old }))).toMatchObject({ code: 'epoch-changed' })
    expect(await log.commit('web', 'c', { seq: 2, epoch })).toMatchObject({ epoch, seq: 2 })
    expect(await log.commit('web', 'c', { seq: 1, epoch })).toMatchObject({ epoch, seq: 2 })
    expect(await list(log.cursors({ client: 'web' }))).toMatchObject([{ channel: 'c', epoch, seq: 2 }])
  })

  test('An older copy put in its place is refused as a copy', async () => {
    const dir = join(tempDir(), 'log')
    const epoch = await fill(dir)
    cpSync(dir, `${dir}.backup`, { recursive: true })
    const log = await opened(dir)
    await append(log, 'c', [6])
    await log.close()
    rmSync(dir, { recursive: true })
    renameSync(`${dir}.backup`, dir)
    expect(await refusal(openLog({ dir }))).toMatchObject({ code: 'wrong-config' })
    await expectAnotherLife(await opened(dir, { acceptCopy: true }), epoch)
  })

  test('A copy is refused also where its mark was given the inode number of the one before', async () => {
    const dir = tempDir()
    await fill(dir)
    const path = join(dir, 'high-water')
    const bytes = readFileSync(path)
    rmSync(path)
    writeFileSync(path, bytes)
    // File systems give out the numbers of removed files again; here it is made sure of.
    const { ino } = statSync(path, { bigint: true })
    for (const at of [0, 4_096]) {
      if (bytes.length < at + 36) continue
      bytes.writeBigUInt64BE(ino, at + 24)
      bytes.writeUInt32BE(crc32(bytes.subarray(at, at + 32)), at + 32)
    }
    writeFileSync(path, bytes, { flag: 'r+' })
    expect(await refusal(openLog({ dir }))).toMatchObject({ code: 'wrong-config' })
    await (await openLog({ dir, acceptCopy: true })).close()
    await (await openLog({ dir })).close()
  })

  test('A store that is behind its high-water mark is data loss, and opens only when that is accepted', async () => {
    const dir = tempDir()
    const epoch = await fill(dir)
    const backup = join(tempDir(), 'store')
    cpSync(join(dir, 'store'), backup, { recursive: true })
    const before = await opened(dir)
    await append(before, 'c', [6])
    await before.close()
    rmSync(join(dir, 'store'), { recursive: true })
    cpSync(backup, join(dir, 'store'), { recursive: true })
    for (const options of [{}, { acceptCopy: true }])
      expect(await refusal(openLog({ dir, ...options }))).toMatchObject({ code: 'data-loss' })
    const log = await opened(dir, { acceptDataLoss: true })
    await expectAnotherLife(log, epoch)
    expect(await append(log, 'c', ['other six'])).toMatchObject({ first: 6 })
    await log.close()
    expect(await seqsAndValues(await opened(dir), 'c', { after: 5 })).toEqual([[6, 'other six']])
  })

  test('A write-ahead file that vanished or was cut is data loss, not an older log', async () => {
    for (const damage of ['gone', 'cut'] as const) {
      const dir = tempDir()
      await fill(dir)
      const newest = readdirSync(join(dir, 'store'))
        .filter((name) => name.endsWith('.log'))
        .sort()
        .at(-1)!
      const path = join(dir, 'store', newest)
      if (damage === 'gone') rmSync(path)
      else writeFileSync(path, readFileSync(path).subarray(0, statSync(path).size - 5))
      expect(await refusal(openLog({ dir }))).toMatchObject({ code: 'data-loss' })
      const log = await opened(dir, { acceptDataLoss: true })
      await append(log, 'new', ['goes on'])
      await log.close()
    }
  })

  test('A mark whose store is gone or emptied is data loss; nothing is made in its place unasked', async () => {
    for (const emptied of [false, true]) {
      const dir = tempDir()
      await fill(dir)
      rmSync(join(dir, 'store'), { recursive: true })
      if (emptied) mkdirSync(join(dir, 'store'))
      for (const options of [{}, { acceptCopy: true }])
        expect(await refusal(openLog({ dir, ...options }))).toMatchObject({ code: 'data-loss' })
      expect(emptied ? readdirSync(join(dir, 'store')) : existsSync(join(dir, 'store'))).toEqual(emptied ? [] : false)
      const log = await opened(dir, { acceptDataLoss: true })
      expect(await list(log.channels(''))).toEqual([])
      expect(await append(log, 'c', ['anew'])).toMatchObject({ first: 1 })
    }
  })

  test('A store without its current file is data loss; its tables are not deleted', async () => {
    const dir = tempDir()
    await fill(dir)
    // Opened twice, so that the events lie in a table.
    await (await opened(dir)).close()
    const tables = (): string[] => readdirSync(join(dir, 'store')).filter((name) => name.endsWith('.ldb'))
    const before = tables()
    expect(before.length).toBeGreaterThan(0)
    rmSync(join(dir, 'store', 'CURRENT'))
    for (const options of [{}, { acceptCopy: true }, { acceptDataLoss: true }])
      expect(await refusal(openLog({ dir, ...options }))).toMatchObject({ code: 'data-loss' })
    expect(tables()).toEqual(before)
  })

  test('A store whose mark is gone or unreadable is data loss; one torn slot of it is not', async () => {
    for (const damage of ['gone', 'garbage', 'empty'] as const) {
      const dir = tempDir()
      const epoch = await fill(dir)
      const mark = join(dir, 'high-water')
      if (damage === 'gone') rmSync(mark)
      else writeFileSync(mark, damage === 'empty' ? '' : Buffer.alloc(8_192, 7))
      expect(await refusal(openLog({ dir }))).toMatchObject({ code: 'data-loss' })
      await expectAnotherLife(await opened(dir, { acceptDataLoss: true }), epoch)
    }
    for (const slot of [0, 4_096]) {
      const dir = tempDir()
      const epoch = await fill(dir)
      const mark = readFileSync(join(dir, 'high-water'))
      mark.fill(7, slot, Math.min(slot + 36, mark.length))
      writeFileSync(join(dir, 'high-water'), mark, { flag: 'r+' })
      expect(await (await opened(dir)).info('c')).toMatchObject({ epoch, head: 5 })
    }
  })

  test('Accepting a loss or a copy of a log that is whole changes nothing', async () => {
    const dir = tempDir()
    const epoch = await fill(dir)
    for (const options of [{ acceptCopy: true }, { acceptDataLoss: true }]) {
      const log = await opened(dir, options)
      expect(await log.info('c')).toMatchObject({ epoch, head: 5 })
      await log.close()
    }
  })

  test('A log that was only made, and closed or left before its first write, opens', async () => {
    const dir = tempDir()
    await (await opened(dir)).close()
    const log = await opened(dir)
    expect(await list(log.channels(''))).toEqual([])
    await log.close()
    const unborn = tempDir()
    await (await opened(unborn)).close()
    rmSync(join(unborn, 'store'), { recursive: true })
    expect(await append(await opened(unborn), 'c', ['first'])).toMatchObject({ first: 1 })
  })
})

describe('what a level log keeps', () => {
  test('Appends, deletes and trims that are under way together happen in the order they were asked', async () => {
    const log = await opened(tempDir())
    const [, , trimmed, , again] = await Promise.all([
      append(log, 'c', [1, 2, 3]),
      append(log, 'c', [4]),
      log.trim('c', 4),
      log.delete('c'),
      append(log, 'c', ['new']),
    ])
    expect(trimmed).toMatchObject({ trimmed: 4, head: 4 })
    expect(again).toMatchObject({ first: 1, last: 1 })
    expect(again.epoch).not.toBe(trimmed.epoch)
    expect(await seqsAndValues(log, 'c', { epoch: again.epoch, after: 0 })).toEqual([[1, 'new']])
  })

  test('An idempotency key is remembered for its window, over midnight and restarts, and not for ever', async () => {
    const dir = tempDir()
    const HOUR = 3_600_000
    const start = Date.UTC(2040, 0, 1, 23, 30)
    vi.useFakeTimers({ toFake: ['Date'], now: start })
    onTestFinished(() => void vi.useRealTimers())
    const log = await opened(dir, { idWindow: 24 * HOUR })
    const send = (log: Log) => append(log, 'c', ['a'], { idempotencyKey: 'k1' })
    const first = await send(log)
    for (const hours of [0, 1, 23.9]) {
      vi.setSystemTime(start + hours * HOUR)
      expect(await send(log)).toEqual({ ...first, duplicate: true })
    }
    await log.close()
    const again = await opened(dir, { idWindow: 24 * HOUR })
    expect(await send(again)).toEqual({ ...first, duplicate: true })
    await again.close()
    // A clock that was put back does not make it forget.
    vi.setSystemTime(start - 73 * HOUR)
    const later = await opened(dir, { idWindow: 24 * HOUR })
    expect(await send(later)).toEqual({ ...first, duplicate: true })
    vi.setSystemTime(start + 73 * HOUR)
    expect(await send(later)).toMatchObject({ first: 2 })
  })

  test('What was trimmed or deleted is cleared from disk, also when the log was closed amid it', async () => {
    const dir = tempDir()
    const log = await opened(dir)
    // One block each, more than a slice of clearing holds.
    for (const c of ['trimmed', 'deleted'])
      for (let i = 0; i < 600; i += 50) {
        const big = 'x'.repeat(70_000)
        await Promise.all(range(1, 50).map((n) => append(log, c, [i + n === 600 ? 'last' : n === 1 ? big : i + n])))
      }
    for (const i of range(1, 600)) await log.commit(`client-${i}`, 'deleted', { seq: i })
    await append(log, 'kept', ['x'])
    await log.commit('client-1', 'kept', { seq: 1 })
    await Promise.all([log.trim('trimmed', 599), log.delete('deleted')])
    await log.close()
    const rowsLeft = async (): Promise<Record<string, number>> => {
      const again = await opened(dir)
      await append(again, 'kept', ['a turn for the sweeper'])
      await again.close()
      return await withRows(dir, async (rows) => {
        const count: Record<string, number> = { c: 0, d: 0, x: 0 }
        for await (const key of rows.keys()) {
          const prefix = String.fromCharCode(key[0]!)
          if (prefix in count) count[prefix]!++
        }
        return count
      })
    }
    // Left are the cursor of `kept` on both its sides, and no work.
    await expect.poll(rowsLeft, { timeout: 20_000, interval: 1 }).toEqual({ c: 1, d: 1, x: 0 })
    const again = await opened(dir)
    expect(await seqsAndValues(again, 'trimmed', { after: 599 })).toEqual([[600, 'last']])
    expect(await list(again.cursors({ client: 'client-1' }))).toMatchObject([{ channel: 'kept', seq: 1 }])
  })

  test('A trim to the head and the delete behind it leave nothing on disk', async () => {
    const dir = tempDir()
    const log = await opened(dir)
    const channels = range(1, 40).map((i) => `c${i}`)
    for (const c of channels) {
      await append(log, c, range(1, 3))
      await Promise.all(range(1, 10).map((client) => log.commit(`client-${client}`, c, { seq: 1 })))
    }
    // Some in one write, some while what the trim left is being cleared.
    const end = async (c: string, i: number): Promise<void> => {
      if (i % 4 === 0) await Promise.all([log.trim(c, 3), log.delete(c)])
      else {
        await log.trim(c, 3)
        for (let turns = i % 8; turns > 0; turns--) await append(log, 'kept', [turns])
        await log.delete(c)
      }
    }
    await Promise.all(channels.map(end))
    await log.close()
    const left = async (): Promise<string[]> => {
      const again = await opened(dir)
      for (const turn of range(1, 200)) await append(again, 'kept', [turn])
      await again.close()
      return withRows(dir, async (rows) => (await rows.keys().all()).map((key) => Buffer.from(key).toString('latin1')))
    }
    const work = async () => (await left()).filter((key) => /^[cdx]/.test(key)).length
    await expect.poll(work, { timeout: 20_000, interval: 1 }).toBe(0)
    const keys = await left()
    expect(keys.filter((key) => key.startsWith('n'))).toEqual(['nkept'])
    // Blocks and heads of one channel: kind and number.
    expect(new Set(keys.filter((key) => /^[eh]/.test(key)).map((key) => key.slice(1, 5))).size).toBe(1)
  })

  test('A damaged row of clearing work holds up its own channel only, and is told', async () => {
    const dir = tempDir()
    const log = await opened(dir)
    await append(log, 'c', [1])
    await log.close()
    const [damaged, whole] = [sweepKey(0), sweepKey(1)]
    await withRows(dir, async (rows) => {
      for (const key of [damaged, whole]) await rows.put(key, encodeSweep(key, { upTo: 0 }))
      await flip(rows, damaged, SEED)
    })
    const left = async (): Promise<boolean[]> => {
      const notices: string[] = []
      const again = await openLog({ dir, onNotice: (level) => notices.push(level) })
      await append(again, 'c', ['a turn for the sweeper'])
      await expect.poll(() => notices).toContain('warn')
      await again.close()
      return withRows(dir, async (rows) => {
        const found = await rows.getMany([damaged, whole])
        return found.map((row) => row !== undefined)
      })
    }
    expect(await left()).toEqual([true, false])
  })

  test('Cursors of a new history are listed though those of the old one are still being cleared', async () => {
    const log = await opened(tempDir())
    await append(log, 'c', ['old'])
    const clients = range(1, 1_200).map((i) => `client-${i}`)
    await Promise.all(clients.map((client) => log.commit(client, 'c', { seq: 1 })))
    await log.delete('c')
    await append(log, 'c', ['new'])
    await Promise.all(clients.map((client) => log.commit(client, 'c', { seq: 1 })))
    // Every answer is a group later; the clearing takes a few.
    for (const i of range(1, 40)) await append(log, 'other', [i])
    const { epoch } = await log.info('c')
    for (const client of clients.filter((_, i) => i % 100 === 0))
      expect(await list(log.cursors({ client }))).toMatchObject([{ client, channel: 'c', epoch, seq: 1 }])
  })
})
