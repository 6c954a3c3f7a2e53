/** Verification finds each kind of damage, says where, and finds nothing where nothing is. */
import { cpSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import {
  blockKey,
  clientKey,
  cursorKey,
  decodeHead,
  encodeCursor,
  encodeHead,
  headKey,
  nameKey,
} from '../../src/log/level/keys.ts'
import { openLog, verifyStopped } from '../../src/log/open.ts'
import { type Report, verifyLog } from '../../src/log/verify.ts'
import { range, tempDir } from '../parts.ts'
import { append, refusal } from './reading.ts'
import { flip, numberOf, type Rows, withRows } from './stored.ts'

/** Channels `c` and `d`, five blocks of ten events each, `c` trimmed to 10; cursors, a receipt, a deleted channel. */
async function fill(dir = tempDir()): Promise<string> {
  const log = await openLog({ dir })
  onTestFinished(() => log.close())
  for (const first of [1, 11, 21, 31, 41]) for (const c of ['c', 'd']) await append(log, c, range(first, first + 9))
  await append(log, 'gone', range(1, 10))
  await log.commit('web', 'gone', { seq: 3 })
  await log.commit('web', 'c', { seq: 17 })
  await log.commit('web', 'd', { seq: 8 })
  await append(log, 'e', ['kept'], { idempotencyKey: 'k1' })
  await log.trim('c', 10)
  await log.delete('gone')
  await log.close()
  return dir
}

async function damaged(edit: (rows: Rows, number: number) => Promise<unknown>): Promise<Report> {
  const dir = await fill()
  await withRows(dir, async (rows) => edit(rows, await numberOf(rows, 'c')))
  return verifyStopped(dir)
}

const brief = ({ findings }: Report) =>
  findings.map(({ part, channel, after, upTo }) => [part, channel, ...(upTo === undefined ? [] : [after, upTo])])

describe('verification of a stopped level log', () => {
  test('A whole log is whole, in log files, in tables and in both, and nothing in it is touched', async () => {
    const dir = await fill()
    const state = (): unknown =>
      (readdirSync(dir, { recursive: true }) as string[])
        .filter((name) => statSync(join(dir, name)).isFile())
        .map((name) => [name, statSync(join(dir, name)).mtimeMs, readFileSync(join(dir, name)).toString('base64')])
    for (const _ of range(1, 3)) {
      const before = state()
      expect(await verifyStopped(dir)).toMatchObject({ whole: true, findings: [], losses: [], channels: 3, cursors: 2 })
      expect(state()).toEqual(before)
      const log = await openLog({ dir })
      await append(log, 'c', ['more'])
      await log.close()
    }
  })

  test('A log in use is not verified from outside; where there is none, that is said', async () => {
    const dir = tempDir()
    const log = await openLog({ dir })
    onTestFinished(() => log.close())
    expect(await refusal(verifyStopped(dir))).toMatchObject({ code: 'in-use', pid: process.pid })
    expect(await refusal(verifyStopped(join(dir, 'none')))).toMatchObject({ code: 'not-found' })
  })

  test('A damaged or missing block is told with its channel and range', async () => {
    expect(brief(await damaged((rows, c) => rows.del(blockKey(c, 30))))).toEqual([['events', 'c', 20, 30]])
    expect(brief(await damaged((rows, c) => rows.del(blockKey(c, 20))))).toEqual([['events', 'c', 10, 20]])
    expect(brief(await damaged((rows, c) => rows.del(blockKey(c, 50))))).toEqual([['events', 'c', 40, 50]])
    const flipped = await damaged((rows, c) => flip(rows, blockKey(c, 30), 300))
    expect(flipped.whole).toBe(false)
    expect(brief(flipped)).toContainEqual(['events', 'c', 20, 30])
    const foreign = await damaged(async (rows, c) =>
      rows.put(blockKey(c, 30), (await rows.get(blockKey(await numberOf(rows, 'd'), 30)))!),
    )
    expect(brief(foreign)).toContainEqual(['events', 'c', 20, 30])
  })

  test('A head that lies below or beyond its blocks is told', async () => {
    const withHead = (head: number) =>
      damaged(async (rows, c) => {
        const key = headKey(c)
        await rows.put(key, encodeHead(key, { ...decodeHead(key, (await rows.get(key))!), head }))
      })
    expect(brief(await withHead(60))).toEqual([['events', 'c', 50, 60]])
    expect(brief(await withHead(40))).toEqual([['events', 'c']])
  })

  test('Damaged rows are told: head, name, cursor, receipt', async () => {
    expect(brief(await damaged((rows, c) => flip(rows, headKey(c), 77)))).toEqual([['head', 'c']])
    expect(brief(await damaged((rows, c) => rows.del(headKey(c))))).toEqual([['head', 'c']])
    const nameless = await damaged((rows) => flip(rows, nameKey('c'), 3))
    expect(brief(nameless)).toContainEqual(['head', 'c'])
    expect(brief(await damaged((rows, c) => flip(rows, cursorKey(c, 'web'), 33)))).toEqual([['cursor', 'c']])
    expect(brief(await damaged((rows) => rows.del(clientKey('web', 'c'))))).toEqual([['cursor', 'c']])
    const receipt = await damaged(async (rows) => {
      for await (const key of rows.keys()) if (key[0] === 'i'.charCodeAt(0)) await flip(rows, key, 100)
    })
    expect(brief(receipt)).toEqual([['receipt', undefined]])
  })

  test('Damaged rows are told by a running log too, which leaves them out of its listings', async () => {
    const online = async (edit: (rows: Rows, number: number) => Promise<unknown>) => {
      const dir = await fill()
      await withRows(dir, async (rows) => edit(rows, await numberOf(rows, 'c')))
      const log = await openLog({ dir })
      onTestFinished(() => log.close())
      lag = (await log.lagging(10)).cursors.map(({ cursor: { client, channel } }) => `${client} ${channel}`)
      return brief(await verifyLog(log))
    }
    let lag: string[] = []
    expect(await online(async () => {})).toEqual([])
    expect(lag).toContain('web c')
    expect(await online((rows, c) => flip(rows, headKey(c), 77))).toEqual([['head', 'c']])
    expect(lag).not.toContain('web c')
    expect(await online((rows, c) => rows.del(headKey(c)))).toEqual([['head', 'c']])
    expect(lag).not.toContain('web c')
    expect(await online((rows) => flip(rows, nameKey('c'), 3))).toEqual([['head', 'c']])
    expect(lag).not.toContain('web c')
    expect(await online((rows, c) => flip(rows, cursorKey(c, 'web'), 33))).toEqual([['cursor', 'c']])
    expect(lag).not.toContain('web c')
    const receipt = await online(async (rows) => {
      for await (const key of rows.keys()) if (key[0] === 'i'.charCodeAt(0)) await flip(rows, key, 100)
    })
    expect(receipt).toEqual([['receipt', undefined]])
  })

  test('A cursor beyond the head, and one of a channel that is not there, are told', async () => {
    const ahead = await damaged(async (rows, c) => {
      const { life } = decodeHead(headKey(c), (await rows.get(headKey(c)))!)
      const key = cursorKey(c, 'web')
      const { unpack } = await import('msgpackr')
      const store = unpack((await rows.get(Buffer.from('mstore')))!.subarray(0, -4)) as { life: string }
      await rows.put(key, encodeCursor(key, { epoch: `${store.life}.${life}`, seq: 51, time: 1 }))
    })
    expect(brief(ahead)).toEqual([['cursor', 'c']])
    const orphan = await damaged(async (rows) => {
      const key = cursorKey(77, 'web')
      await rows.put(key, encodeCursor(key, { epoch: 'x.y', seq: 1, time: 1 }))
    })
    expect(brief(orphan)).toEqual([['cursor', undefined]])
  })

  test('A copy, and a store behind its high-water mark, are told', async () => {
    const dir = await fill()
    const copy = join(tempDir(), 'copy')
    cpSync(dir, copy, { recursive: true })
    expect(brief(await verifyStopped(copy))).toEqual([['mark', undefined]])
    const store = join(tempDir(), 'store')
    cpSync(join(dir, 'store'), store, { recursive: true })
    await fill(dir)
    for (const name of readdirSync(join(dir, 'store'))) writeFileSync(join(dir, 'store', name), '')
    cpSync(store, join(dir, 'store'), { recursive: true, force: true })
    expect((await verifyStopped(dir)).findings.map(({ part }) => part)).toContain('mark')
  })
})
