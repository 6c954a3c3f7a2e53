/** Salvage makes a whole log of what is whole, and lists the rest. */
import { readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { blockKey, cursorKey, encodeSweep, headKey, nameKey, sweepKey } from '../../src/log/level/keys.ts'
import { scanLog } from '../../src/log/level/scan.ts'
import { type LogOptions, openLog, salvageStopped, verifyStopped } from '../../src/log/open.ts'
import { range, tempDir } from '../parts.ts'
import { ALL, append, list, readAll, refusal, valueIn } from './reading.ts'
import { flip, numberOf, type Rows, withRows } from './stored.ts'

async function opened(dir: string, options: Partial<LogOptions> = {}) {
  const log = await openLog({ dir, ...options })
  onTestFinished(() => log.close())
  return log
}

/** Channels `c` and `d`, each with five blocks of ten events, `d` trimmed to 10; a note, cursors, a receipt. */
async function fill(): Promise<string> {
  const dir = join(tempDir(), 'log')
  const log = await opened(dir)
  await log.configure('c', { note: 'ours' })
  for (const first of [1, 11, 21, 31, 41]) for (const c of ['c', 'd']) await append(log, c, range(first, first + 9))
  await log.commit('web', 'c', { seq: 7 })
  await append(log, 'e', ['kept'], { idempotencyKey: 'k1' })
  await append(log, 'gone', [1])
  await log.trim('d', 10)
  await log.delete('gone')
  await log.close()
  return dir
}

async function salvaged(edit: (rows: Rows, number: number) => Promise<unknown>) {
  const dir = await fill()
  await withRows(dir, async (rows) => edit(rows, await numberOf(rows, 'c')))
  return { dir, into: `${dir}-saved`, report: await salvageStopped(dir, `${dir}-saved`) }
}

describe('salvage', () => {
  test('Of a whole log it makes another life of the same: seqs, times, cursors, settings, receipts', async () => {
    const dir = await fill()
    const before = await opened(dir)
    const [old, events] = [await before.info('c'), await readAll(before, 'c')]
    await before.close()
    const report = await salvageStopped(dir, `${dir}-saved`)
    expect(report).toMatchObject({ whole: true, lost: [], findings: [], channels: 3, events: 91, cursors: 1 })
    const log = await opened(`${dir}-saved`)
    const info = await log.info('c')
    expect({ ...info, epoch: '' }).toEqual({ ...old, epoch: '' })
    expect(info.epoch).not.toBe(old.epoch)
    expect(await readAll(log, 'c')).toEqual(events)
    expect((await readAll(log, 'd', { after: 10 })).map(valueIn)).toEqual(range(11, 50))
    expect(await refusal(log.read('d', { after: 0 }, ALL))).toMatchObject({ code: 'gap' })
    expect(await log.cursor('web', 'c')).toMatchObject({ seq: 7, epoch: old.epoch })
    expect(await append(log, 'e', ['kept'], { idempotencyKey: 'k1' })).toMatchObject({ duplicate: true, first: 1 })
    expect((await list(log.channels(''))).map(({ channel }) => channel)).toEqual(['c', 'd', 'e'])
    // Numbers go on: what is new does not mix with what is old.
    await append(log, 'new', ['first'])
    expect((await readAll(log, 'new')).map(valueIn)).toEqual(['first'])
    expect(await append(log, 'c', [51])).toMatchObject({ first: 51 })
  })

  test('A lost block stays a hole that readers are told, and that verify knows; what comes after is there', async () => {
    for (const [last, after] of [
      [10, 0],
      [30, 20],
      [50, 40],
    ] as const) {
      const { into, report } = await salvaged((rows, c) => flip(rows, blockKey(c, last), 300))
      expect(report).toMatchObject({ whole: false, lost: [{ channel: 'c', after, upTo: last }] })
      const log = await opened(into)
      const { epoch } = await log.info('c')
      expect(await refusal(log.read('c', { epoch, after }, ALL))).toMatchObject({
        code: 'data-loss',
        after,
        upTo: last,
      })
      expect((await readAll(log, 'c', { after: last })).map(valueIn)).toEqual(range(last + 1, 50))
      await log.close()
      expect(await verifyStopped(into)).toMatchObject({
        ...{ whole: true, findings: [], losses: [{ channel: 'c', after, upTo: last }] },
      })
      // New damage is told beside it.
      await withRows(into, async (rows) => rows.del(blockKey(await numberOf(rows, 'd'), 30)))
      expect((await verifyStopped(into)).findings).toMatchObject([{ channel: 'd', after: 20, upTo: 30 }])
    }
  })

  test('What was trimmed or deleted and not cleared yet does not come back where rows are damaged', async () => {
    const { into, report } = await salvaged(async (rows, c) => {
      // As right after a trim of `c` to 20 and a delete of `d`, with the head row of the one and the tombstone of the other lost.
      const d = await numberOf(rows, 'd')
      await rows.put(sweepKey(c), encodeSweep(sweepKey(c), { upTo: 20 }))
      await rows.put(sweepKey(d), encodeSweep(sweepKey(d), { upTo: 50, deleted: 'd' }))
      await flip(rows, headKey(c), 7)
    })
    expect(report).toMatchObject({ whole: false, lost: [] })
    const log = await opened(into)
    expect((await list(log.channels(''))).map(({ channel }) => channel)).toEqual(['c', 'e'])
    expect(await log.info('c')).toMatchObject({ trimmed: 20, head: 50 })
    expect((await readAll(log, 'c', { after: 20 })).map(valueIn)).toEqual(range(21, 50))
  })

  test('Without a head row the keys of damaged blocks tell how far a channel went', async () => {
    const { into, report } = await salvaged(async (rows, c) => {
      await flip(rows, headKey(c), 7)
      for (const last of [40, 50]) await flip(rows, blockKey(c, last), 300)
    })
    expect(report.lost).toEqual([{ channel: 'c', after: 30, upTo: 50 }])
    const log = await opened(into)
    expect(await refusal(log.read('c', { after: 30 }, ALL))).toMatchObject({ code: 'data-loss', upTo: 50 })
    expect(await append(log, 'c', ['next'])).toMatchObject({ first: 51 })
  })

  test('It refuses places that it would harm or could not finish in, before anything is made', async () => {
    const dir = await fill()
    symlinkSync(tempDir(), `${dir}-link`)
    for (const into of [dir, join(dir, 'saved'), join(dir, 'store', 'saved'), `${dir}-link`])
      expect([into, (await refusal(salvageStopped(dir, into))).code]).toEqual([into, 'cannot-create'])
    expect(await refusal(salvageStopped(`${dir}-none`, join(dir, '..', 'x', 'y')))).toMatchObject({ code: 'not-found' })
    expect(readdirSync(join(dir, '..')).sort()).toEqual(['log', 'log-link'])
    expect((await verifyStopped(dir)).whole).toBe(true)
  })

  test('A block with a wrong crc is never taken, whatever its LevelDB block says', async () => {
    const { into } = await salvaged((rows, c) => flip(rows, blockKey(c, 30), 500))
    await withRows(into, async (rows) => {
      expect(await rows.get(blockKey(await numberOf(rows, 'c'), 30))).toBeUndefined()
    })
  })

  test('A channel without its head or its name row is put together from the rest', async () => {
    const headless = await salvaged((rows, c) => flip(rows, headKey(c), 40))
    expect(headless.report.whole).toBe(false)
    expect((await readAll(await opened(headless.into), 'c')).map(valueIn)).toEqual(range(1, 50))
    for (const lose of [(rows: Rows) => flip(rows, nameKey('c'), 3), (rows: Rows) => rows.del(nameKey('c'))]) {
      const nameless = await salvaged(lose)
      expect(nameless.report.whole).toBe(false)
      const log = await opened(nameless.into)
      expect((await readAll(log, 'c')).map(valueIn)).toEqual(range(1, 50))
      expect(await log.cursor('web', 'c')).toMatchObject({ seq: 7 })
    }
  })

  test('A damaged cursor is left out and told', async () => {
    const { into, report } = await salvaged((rows, c) => flip(rows, cursorKey(c, 'web'), 40))
    expect(report).toMatchObject({ whole: false, findings: [{ part: 'cursor', client: 'web', channel: 'c' }] })
    expect(await (await opened(into)).cursor('web', 'c')).toBeUndefined()
  })

  test('Records that LevelDB drops because they lie off its blocks are found', async () => {
    const dir = tempDir()
    const log = await opened(dir)
    for (const i of range(1, 200)) await append(log, 'c', [`${i} ${'x'.repeat(1_000)}`])
    await log.close()
    const name = readdirSync(join(dir, 'store')).find((name) => name.endsWith('.log'))!
    const path = join(dir, 'store', name)
    const bytes = readFileSync(path)
    const { records } = scanLog(bytes)
    // A write that failed half way, and a log that went on behind it: everything after lies off by so much.
    const cut = records[40]!.offset
    writeFileSync(path, Buffer.concat([bytes.subarray(0, cut), bytes.subarray(cut, cut + 333), bytes.subarray(cut)]))
    const saved = `${dir}-saved`
    onTestFinished(() => rmSync(saved, { recursive: true, force: true }))
    const report = await salvageStopped(dir, saved)
    expect(report.lost).toEqual([])
    expect((await readAll(await opened(saved), 'c')).length).toBe(200)
    // LevelDB itself finds less.
    const left = await opened(dir, { acceptDataLoss: true })
    const page = await left.read('c', { after: 0 }, ALL)
    expect(page.last).toBeLessThan(200)
  })

  test('A store whose CURRENT and MANIFEST are gone is read all the same; the original is not touched', async () => {
    const dir = await fill()
    await (await opened(dir)).close()
    for (const name of readdirSync(join(dir, 'store')))
      if (/^(?:CURRENT|MANIFEST)/.test(name)) rmSync(join(dir, 'store', name))
    expect(await refusal(openLog({ dir }))).toMatchObject({ code: 'data-loss' })
    const state = (): unknown =>
      (readdirSync(dir, { recursive: true }) as string[])
        .sort()
        .map((name) => [name, statSync(join(dir, name)).mtimeMs])
    const before = state()
    const report = await salvageStopped(dir, `${dir}-saved`)
    expect(state()).toEqual(before)
    expect(report).toMatchObject({ lost: [], events: 91 })
    expect((await readAll(await opened(`${dir}-saved`), 'c')).map(valueIn)).toEqual(range(1, 50))
  })

  test('It does not write over anything, and nothing is left of one that failed', async () => {
    const dir = await fill()
    expect(await refusal(salvageStopped(dir, dir))).toMatchObject({ code: 'cannot-create' })
    expect(await refusal(salvageStopped(join(dir, 'none'), `${dir}-saved`))).toMatchObject({ code: 'not-found' })
    const log = await opened(dir)
    expect(await refusal(salvageStopped(dir, `${dir}-saved`))).toMatchObject({ code: 'in-use' })
    await log.close()
    expect(readdirSync(join(dir, '..'))).toEqual(['log'])
  })
})
