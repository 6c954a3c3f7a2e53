import { crc32 } from 'node:zlib'
import { describe, expect, onTestFinished, test } from 'vitest'
import { sealBlock } from '../../src/block.ts'
import { compactChannel } from '../../src/log/compact.ts'
import { blockKey, cursorKey, headKey, nameKey } from '../../src/log/level/keys.ts'
import type { Log } from '../../src/log/log.ts'
import { openLog } from '../../src/log/open.ts'
import { body, range, SEED, tempDir } from '../parts.ts'
import { ALL, append, BLOCKWISE, eventsOf, list, readAll, refusal, valueIn } from './reading.ts'
import { flip, numberOf, type Rows, withRows } from './stored.ts'

async function opened(dir: string): Promise<Log> {
  const log = await openLog({ dir })
  onTestFinished(() => log.close())
  return log
}

/** Channels `c` and `d`, each with five blocks of ten events: (0, 10] … (40, 50]. Closed. */
async function fill(): Promise<string> {
  const dir = tempDir()
  const log = await opened(dir)
  for (const first of [1, 11, 21, 31, 41]) for (const c of ['c', 'd']) await append(log, c, range(first, first + 9))
  await log.commit('web', 'c', { seq: 7 })
  await log.commit('web', 'd', { seq: 8 })
  await append(log, 'e', ['kept'], { idempotencyKey: 'k1' })
  await log.close()
  return dir
}

/** Edits what is stored, then opens the log. */
async function damaged(edit: (rows: Rows, number: number) => Promise<void>): Promise<Log> {
  const dir = await fill()
  await withRows(dir, async (rows) => edit(rows, await numberOf(rows, 'c')))
  return opened(dir)
}

/** The events of `c` are whole but for (after, upTo], which is told; reading on from `upTo` goes on. */
async function expectLoss(log: Log, { after, upTo }: { after: number; upTo: number }): Promise<void> {
  const { epoch } = await log.info('c')
  const loss = { code: 'data-loss', channel: 'c', epoch, trimmed: 0, head: 50, after, upTo }
  for (const limits of [ALL, BLOCKWISE]) {
    const values: unknown[] = []
    let position = 0
    while (position < after) {
      const page = await log.read('c', { epoch, after: position }, limits)
      expect(page.caughtUp).toBe(false)
      values.push(...eventsOf(page).map(valueIn))
      expect(page.last).toBeGreaterThan(position)
      position = page.last
    }
    expect(values).toEqual(range(1, after))
    expect(await refusal(log.read('c', { epoch, after }, limits))).toMatchObject(loss)
    expect((await readAll(log, 'c', { epoch, after: upTo }, limits)).map(valueIn)).toEqual(range(upTo + 1, 50))
  }
  // From amid the damage too, it is told and not skipped.
  if (upTo - after > 2)
    expect(await refusal(log.read('c', { after: after + 2 }, ALL))).toMatchObject({ ...loss, after: after + 2 })
  expect((await readAll(log, 'd')).map(valueIn)).toEqual(range(1, 50))
  // The channel goes on where it was.
  expect(await append(log, 'c', [51])).toMatchObject({ first: 51 })
  expect((await readAll(log, 'c', { after: upTo })).map(valueIn)).toEqual(range(upTo + 1, 51))
}

describe('a damaged level log', () => {
  test('A flipped bit anywhere in a stored block is data loss of that block alone', async () => {
    console.log(`damage: TEST_SEED=${SEED}`)
    for (const at of range(0, 11)) {
      // Every field of the header, then anywhere.
      const bit = at < 8 ? [0, 8, 16, 32, 64, 96, 160, 224][at]! + (SEED % 8) : 288 + ((SEED + at * 7_919) % 400)
      const log = await damaged((rows, c) => flip(rows, blockKey(c, 30), bit))
      await expectLoss(log, { after: 20, upTo: 30 })
      await log.close()
    }
  })

  test('A damaged first, and a damaged newest block are told', async () => {
    await expectLoss(await damaged((rows, c) => flip(rows, blockKey(c, 10), 300)), { after: 0, upTo: 10 })
    await expectLoss(await damaged((rows, c) => flip(rows, blockKey(c, 50), 300)), { after: 40, upTo: 50 })
  })

  test('A block that is cut, emptied or replaced by garbage is data loss', async () => {
    for (const cut of [0, 20, 36, 100])
      await expectLoss(
        await damaged(async (rows, c) => rows.put(blockKey(c, 30), (await rows.get(blockKey(c, 30)))!.slice(0, cut))),
        { after: 20, upTo: 30 },
      )
    const garbage = await damaged((rows, c) => rows.put(blockKey(c, 30), Buffer.alloc(500, 'garbage')))
    await expectLoss(garbage, { after: 20, upTo: 30 })
  })

  test('A missing block is data loss, never skipped: at the start, in the middle, and at the head', async () => {
    await expectLoss(await damaged((rows, c) => rows.del(blockKey(c, 10))), { after: 0, upTo: 10 })
    await expectLoss(await damaged((rows, c) => rows.del(blockKey(c, 30))), { after: 20, upTo: 30 })
    await expectLoss(await damaged((rows, c) => rows.del(blockKey(c, 50))), { after: 40, upTo: 50 })
    const two = await damaged(async (rows, c) => {
      for (const last of [20, 30]) await rows.del(blockKey(c, last))
    })
    await expectLoss(two, { after: 10, upTo: 30 })
  })

  test('A whole block in the place of another is data loss', async () => {
    // Of another channel, over the same range.
    const foreign = await damaged(async (rows, c) => {
      await rows.put(blockKey(c, 30), (await rows.get(blockKey(await numberOf(rows, 'd'), 30)))!)
    })
    await expectLoss(foreign, { after: 20, upTo: 30 })
    // Of this channel, over another range.
    const misplaced = await damaged(async (rows, c) => rows.put(blockKey(c, 30), (await rows.get(blockKey(c, 20)))!))
    await expectLoss(misplaced, { after: 20, upTo: 30 })
  })

  test('Whole blocks that do not touch are data loss of what lies between', async () => {
    const short = await damaged((rows, c) => {
      const block = sealBlock('c', [body(...range(24, 30))], { after: 23, time: Date.now() }, crc32)
      return rows.put(blockKey(c, 30), block)
    })
    await expectLoss(short, { after: 20, upTo: 23 })
  })

  test('Several damaged places are told one by one', async () => {
    const log = await damaged(async (rows, c) => {
      await flip(rows, blockKey(c, 20), 400)
      await rows.del(blockKey(c, 40))
    })
    const seen: unknown[] = []
    for (let after = 0; after < 50; ) {
      const page = await log.read('c', { after }, ALL).catch((error) => error)
      if (page.code === 'data-loss') {
        seen.push([page.details.after, page.details.upTo])
        after = page.details.upTo
      } else {
        seen.push(...eventsOf(page).map(valueIn))
        after = page.last
      }
    }
    expect(seen).toEqual([...range(1, 10), [10, 20], ...range(21, 30), [30, 40], ...range(41, 50)])
  })

  test('A damaged head or name row costs its own channel only, and is not written over', async () => {
    for (const rowKey of [(_: number) => nameKey('c'), (c: number) => headKey(c)])
      for (const bit of [0, 77, 150]) {
        const log = await damaged((rows, c) => flip(rows, rowKey(c), bit))
        for (const attempt of [
          () => log.read('c', { after: 0 }, ALL),
          () => log.info('c'),
          () => append(log, 'c', ['over it']),
          () => log.append(['fresh', 'd', 'c'].map((channel) => ({ channel, body: body('over it') }))),
          () => log.trim('c', 50),
          () => log.commit('web', 'c', { seq: 9 }),
        ])
          expect(await refusal(attempt())).toMatchObject({ code: 'data-loss', channel: 'c' })
        // The others are listed, and a refused append makes none.
        expect((await list(log.channels(''))).map(({ channel }) => channel)).toEqual(['d', 'e'])
        expect((await readAll(log, 'd')).map(valueIn)).toEqual(range(1, 50))
        expect(await append(log, 'd', ['goes on'])).toMatchObject({ first: 51 })
        expect(log.health().state).toBe('ok')
        await log.close()
      }
  })

  test('A damaged cursor is data loss for its client, until a seek sets it anew', async () => {
    const log = await damaged((rows, c) => flip(rows, cursorKey(c, 'web'), 33))
    expect(await refusal(log.cursor('web', 'c'))).toMatchObject({ code: 'data-loss' })
    expect(await refusal(log.commit('web', 'c', { seq: 9 }))).toMatchObject({ code: 'data-loss' })
    expect(await log.cursor('web', 'd')).toMatchObject({ seq: 8 })
    expect((await list(log.cursors({ client: 'web' }))).map(({ channel }) => channel)).toEqual(['d'])
    expect((await list(log.cursors({ channel: 'c' }))).filter(({ client }) => client === 'web')).toEqual([])
    await log.seek('web', 'c', { seq: 3 })
    expect(await log.cursor('web', 'c')).toMatchObject({ seq: 3 })
    expect((await readAll(log, 'c')).map(valueIn)).toEqual(range(1, 50))
  })

  test('A damaged receipt refuses its key rather than appending twice', async () => {
    const dir = await fill()
    await withRows(dir, async (rows) => {
      for await (const key of rows.keys()) if (key[0] === 'i'.charCodeAt(0)) await flip(rows, key, 100)
    })
    const log = await opened(dir)
    expect(await refusal(append(log, 'e', ['kept'], { idempotencyKey: 'k1' }))).toMatchObject({ code: 'data-loss' })
    expect(await append(log, 'e', ['next'], { idempotencyKey: 'k2' })).toMatchObject({ first: 2 })
  })

  test('Compaction leaves a channel in which damage is found as it is, and takes others', async () => {
    const log = await damaged((rows, c) => flip(rows, blockKey(c, 30), 333))
    const options = { minLag: 0, restTimes: 0 }
    for (const dryRun of [true, false])
      expect(await refusal(compactChannel(log, 'c', { ...options, dryRun }))).toMatchObject({
        ...{ code: 'data-loss', after: 20, upTo: 30 },
      })
    expect((await log.read('c', { after: 0 }, ALL)).blocks.length).toBe(2)
    expect(await compactChannel(log, 'd', options)).toMatchObject({ events: { before: 50, after: 50 }, complete: true })
    expect((await log.read('d', { after: 0 }, ALL)).blocks.length).toBe(1)
    await expectLoss(log, { after: 20, upTo: 30 })
  })

  test('Trimming what is damaged makes the channel whole again', async () => {
    const log = await damaged((rows, c) => flip(rows, blockKey(c, 20), 555))
    await log.trim('c', 20)
    expect((await readAll(log, 'c', { after: 20 })).map(valueIn)).toEqual(range(21, 50))
    expect((await list(log.channels(''))).map(({ channel }) => channel)).toEqual(['c', 'd', 'e'])
  })
})
