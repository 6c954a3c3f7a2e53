/** Rows of states in LevelDB: a start goes on from them, damage among them is found and mended, and erasing takes them. */
import { cpSync } from 'node:fs'
import { expect, onTestFinished, test } from 'vitest'
import { encodeBody } from '../../src/body.ts'
import { compactChannel } from '../../src/log/compact.ts'
import { erase } from '../../src/log/erase.ts'
import { clearingKey, encodeClearing, placeKey, stateKey } from '../../src/log/level/keys.ts'
import type { Log } from '../../src/log/log.ts'
import { openLog, salvageStopped, verifyStopped } from '../../src/log/open.ts'
import { StateWriter } from '../../src/log/state-writer.ts'
import { States } from '../../src/log/states.ts'
import { verifyLog } from '../../src/log/verify.ts'
import { readRetentionRule } from '../../src/retention.ts'
import { dice } from '../crash/dice.ts'
import { event, range, SEED, tempDir } from '../parts.ts'
import { look } from './contract-state.ts'
import { ALL, eventsOf, list } from './reading.ts'
import { flip, numberOf, type Rows, withRows } from './stored.ts'

const AT_ONCE = { restTimes: 0, trimEvery: 0 } as const
const KEYS = 70

async function opened(dir: string, ...rules: readonly string[]): Promise<Log> {
  // Nothing is in memory: what is read is counted.
  const log = await openLog({ dir, tailBytes: 0, retain: rules.map(readRetentionRule) })
  onTestFinished(() => log.close())
  return log
}

const put = (log: Log, channel: string, values: readonly number[]) =>
  log.append([{ channel, body: encodeBody(values.map((n) => event(n, { key: `k${n % KEYS}` }))) }])

/** Blocks of a hundred events of `c`, whose state is kept on disk. */
async function fill(log: Log, blocks: number): Promise<void> {
  await log.configure('c', { state: true })
  for (const block of range(1, blocks)) await put(log, 'c', range(block * 100, block * 100 + 99))
}

/** A closed log whose rows are at its head. */
async function dirWithRows(blocks: number): Promise<string> {
  const dir = tempDir()
  const log = await opened(dir)
  await fill(log, blocks)
  await look(log)
  await log.close()
  return dir
}

async function stateOf(log: Log): Promise<[seq: number, key: string | null][]> {
  const states = new States(log)
  return eventsOf(await states.page('c', await states.open('c'), 0, ALL)).map(({ seq, key }) => [seq, key])
}

/** The log, and how many events were read of it. */
function counted(log: Log): { readonly log: Log; readonly read: { events: number } } {
  const read = { events: 0 }
  const over = new Proxy(log, {
    get(target, name) {
      const member: unknown = Reflect.get(target, name)
      if (typeof member !== 'function') return member
      return async (...args: unknown[]) => {
        const answer = await Reflect.apply(member, target, args)
        if (name === 'read') read.events += eventsOf(answer).length
        return answer
      }
    },
  })
  // At once is not at all here: everything is read.
  return {
    log: new Proxy(over, { get: (of, name) => (name === 'recent' ? () => undefined : Reflect.get(of, name)) }),
    read,
  }
}

test('After a start a state is made from its rows and what came behind them, whatever the history is long', async () => {
  const dir = tempDir()
  let log = await opened(dir)
  await fill(log, 80)
  await look(log)
  await put(log, 'c', range(1, 40))
  const whole = counted(log)
  await log.configure('c', {})
  const should = await stateOf(whole.log)
  expect(whole.read.events).toBe(8_040)
  await log.configure('c', { state: true })
  await expect.poll(() => log.stateRows!.place('c')).toBeDefined()
  // The writer itself reads each event once.
  const writing = counted(log)
  await look(writing.log)
  expect(writing.read.events).toBe(8_040)
  await put(log, 'c', [1, 2, 3])
  await log.close()
  log = await opened(dir)
  const { log: again, read } = counted(log)
  const state = await stateOf(again)
  expect(read.events).toBe(3)
  expect(state.length).toBe(KEYS)
  expect(state.slice(-3)).toEqual([
    [8_041, 'k1'],
    [8_042, 'k2'],
    [8_043, 'k3'],
  ])
  expect(state.slice(0, -3)).toEqual(should.filter(([, key]) => !['k1', 'k2', 'k3'].includes(key as string)))
  const { findings } = await verifyLog(log)
  expect(findings).toEqual([])
})

test('Rows follow by themselves, in batches, and end with the server', async () => {
  const log = await opened(tempDir())
  await fill(log, 3)
  const writer = new StateWriter(log, { pace: { batch: 1, lookEvery: 3_600_000, restTimes: 0 } })
  writer.start()
  const at = async (): Promise<number | undefined> => (await log.stateRows!.place('c'))?.at
  await expect.poll(at).toBe(300)
  await put(log, 'c', range(1, 50))
  await expect.poll(at).toBe(350)
  // One that is set later is told of.
  await log.configure('d', { state: true })
  await put(log, 'd', [1])
  await expect.poll(async () => (await log.stateRows!.place('d'))?.at).toBe(1)
  await writer.close()
  await put(log, 'c', [1])
  expect(await at()).toBe(350)
  // Voided while nobody appends, they are told of when they are begun anew.
  const another = new StateWriter(log, { pace: { batch: 1, lookEvery: 3_600_000, restTimes: 0 } })
  another.start()
  await expect.poll(at).toBe(351)
  await log.stateRows!.drop('c')
  await expect.poll(at).toBe(351)
  await another.close()
})

test('Rows that stand ahead of a tombstone that is gone are not gone on with', async () => {
  const dir = tempDir()
  let log = await opened(dir)
  await log.configure('c', { state: true })
  await put(log, 'c', [1, 2, 3])
  await look(log)
  const gone = event(undefined, { key: 'k2' })
  await log.append([{ channel: 'c', body: encodeBody([gone, event(9, { key: 'k9' })]) }])
  await compactChannel(log, 'c', { minLag: 0, tombstoneAge: -60_000, restTimes: 0 })
  const should = [
    [1, 'k1'],
    [3, 'k3'],
    [5, 'k9'],
  ]
  expect(await stateOf(log)).toEqual(should)
  await log.close()
  log = await opened(dir)
  expect(await stateOf(log)).toEqual(should)
  await expect
    .poll(async () => {
      await look(log)
      return log.stateRows!.place('c')
    })
    .toMatchObject({ at: 5, rows: 3, epoch: expect.stringMatching(/~1$/) })
  expect(await stateOf(log)).toEqual(should)
})

test('Rows of a log that was opened as a copy are begun anew under its own epochs', async () => {
  const dir = tempDir()
  const log = await opened(dir)
  await fill(log, 3)
  await look(log)
  const should = await stateOf(log)
  await log.close()
  const copy = `${tempDir()}/copy`
  cpSync(dir, copy, { recursive: true })
  const other = await openLog({ dir: copy, acceptCopy: true })
  onTestFinished(() => other.close())
  const { epoch } = await other.info('c')
  expect((await other.stateRows!.place('c'))!.epoch).not.toBe(epoch)
  expect((await new States(other).open('c')).epoch).toBe(epoch)
  expect(await stateOf(other)).toEqual(should)
  await expect
    .poll(async () => {
      await look(other)
      return other.stateRows!.place('c')
    })
    .toMatchObject({ epoch, at: 300, rows: KEYS })
})

test('Rows of a history that is over are void when anything is erased: they may hold what the log lost', async () => {
  const dir = await dirWithRows(1)
  const copy = `${tempDir()}/copy`
  cpSync(dir, copy, { recursive: true })
  const other = await openLog({ dir: copy, acceptCopy: true })
  onTestFinished(() => other.close())
  const { epoch } = await other.info('c')
  expect(await other.stateRows!.place('c')).toMatchObject({ at: 100, epoch: expect.not.stringContaining(epoch) })
  await erase(other, 'c', { key: 'k7' }, { restTimes: 0 })
  expect(await other.stateRows!.place('c')).toMatchObject({ at: 0, epoch })
})

/** What is done to stored rows, by what of it is told. */
const DAMAGES: readonly [string, (rows: Rows, number: number) => Promise<unknown>][] = [
  ['a bit of a row', (rows, c) => flip(rows, stateKey(c, 'k7'), SEED % 400)],
  ['a bit of the place', (rows, c) => flip(rows, placeKey(c), SEED % 400)],
  ['a row that is gone', (rows, c) => rows.del(stateKey(c, 'k7'))],
  ['an older row', async (rows, c) => rows.put(stateKey(c, 'k7'), older)],
  ['the row of another key', async (rows, c) => rows.put(stateKey(c, 'k7'), (await rows.get(stateKey(c, 'k8')))!)],
  ['a row too many', async (rows, c) => rows.put(stateKey(c, 'k'), Buffer.alloc(40))],
  ['an empty row', async (rows, c) => rows.put(stateKey(c, 'k7'), Buffer.alloc(0))],
]
/** The row of k7 as it was. */
let older: Uint8Array

test('Damaged rows are told by verify and never answered; they are made anew', async () => {
  console.log(`state rows: TEST_SEED=${SEED}`)
  for (const [what, damage] of DAMAGES) {
    const dir = await dirWithRows(3)
    let log: Log
    await withRows(dir, async (rows) => {
      older = (await rows.get(stateKey(await numberOf(rows, 'c'), 'k7')))!
    })
    log = await opened(dir)
    await put(log, 'c', [7, 8])
    await look(log)
    const should = await stateOf(log)
    await log.close()
    await withRows(dir, async (rows) => damage(rows, await numberOf(rows, 'c')))
    const stopped = await verifyStopped(dir)
    expect([what, stopped.findings[0]]).toMatchObject([what, { part: 'state', channel: 'c' }])
    log = await opened(dir)
    // Whoever looks first finds it.
    if ((DAMAGES.findIndex(([each]) => each === what) + SEED) % 2 === 0)
      expect([what, (await verifyLog(log)).findings[0]]).toMatchObject([what, { part: 'state', channel: 'c' }])
    expect([what, await stateOf(log)]).toEqual([what, should])
    await expect
      .poll(async () => {
        await look(log)
        return log.stateRows!.place('c')
      })
      .toMatchObject({ at: 302, rows: KEYS })
    expect((await verifyLog(log)).findings).toEqual([])
    await log.close()
    expect((await verifyStopped(dir)).findings).toEqual([])
  }
})

test('A damaged row that would be overwritten is found by who writes it', async () => {
  const dir = await dirWithRows(3)
  await withRows(dir, async (rows) => flip(rows, stateKey(await numberOf(rows, 'c'), 'k7'), SEED % 400))
  const log = await opened(dir)
  const before = await log.stateRows!.place('c')
  await put(log, 'c', [7])
  await look(log)
  expect((await log.stateRows!.place('c'))?.set).not.toBe(before!.set)
  expect((await stateOf(log)).at(-1)).toEqual([301, 'k7'])
})

test('What salvage makes has rows that are made anew; rows that were being cleared are cleared after a start', async () => {
  const dir = tempDir()
  let log = await opened(dir)
  await fill(log, 3)
  await look(log)
  const should = await stateOf(log)
  await log.close()
  const saved = `${tempDir()}/saved`
  await salvageStopped(dir, saved)
  log = await opened(saved)
  expect(await log.stateRows!.place('c')).toMatchObject({ at: 0, rows: 0 })
  expect(await stateOf(log)).toEqual(should)
  await log.close()
  // As a process leaves it that ends with the write that voids them.
  await withRows(dir, async (rows) => {
    const number = await numberOf(rows, 'c')
    const key = clearingKey(number)
    await rows.put(key, encodeClearing(key, { channel: 'c' }))
    await rows.del(placeKey(number))
  })
  expect((await verifyStopped(dir)).findings).toEqual([])
  log = await opened(dir)
  await expect.poll(() => log.stateRows!.place('c')).toMatchObject({ at: 0, rows: 0 })
  expect(await stateOf(log)).toEqual(should)
  expect(await list(log.stateRows!.channels())).toEqual(['c'])
})

test('Patterns ask for rows: of channels that are made since, of those that were there, and no more when they are gone', async () => {
  const dir = tempDir()
  const names = async (of: Log) => list(of.stateRows!.channels())
  let log = await opened(dir)
  for (const channel of ['a', 'b', 'c', 'own']) await put(log, channel, range(1, 100))
  await log.configure('own', { state: true })
  await log.configure('b', { state: false })
  expect(await names(log)).toEqual(['own'])
  await log.close()

  log = await opened(dir, 'new: events=5', 'b*: state', 'c: state=off', '**: state')
  // As it was left: only who looks changes it, once.
  expect([await names(log), await list(log.stateRows!.unsettled())]).toEqual([['own'], ['a']])
  const writer = new StateWriter(log, { pace: AT_ONCE })
  await writer.look()
  expect([(await names(log)).sort(), await list(log.stateRows!.unsettled())]).toEqual([['a', 'own'], []])
  expect(await log.stateRows!.place('a')).toMatchObject({ at: 100, rows: KEYS })
  // From its first event on; and the settings of a channel win over all patterns.
  await put(log, 'new', [1])
  await log.configure('bb', { note: 'mine' })
  await log.configure('a', { note: 'theirs' })
  expect((await names(log)).sort()).toEqual(['a', 'bb', 'new', 'own'])
  await log.configure('own', { state: false })
  await log.configure('b', {})
  expect((await names(log)).sort()).toEqual(['a', 'b', 'bb', 'new'])
  // What is voided is begun anew.
  const { set } = (await log.stateRows!.place('a'))!
  await log.stateRows!.drop('a')
  await expect.poll(() => log.stateRows!.place('a')).toMatchObject({ at: 0, rows: 0 })
  expect((await log.stateRows!.place('a'))!.set).not.toBe(set)
  await log.close()

  log = await opened(dir, 'a: state', 'never: state')
  await look(log)
  expect(await names(log)).toEqual(['a'])
  await log.close()
  expect((await verifyStopped(dir)).findings).toEqual([])
})

test('Whatever is erased, compacted and trimmed, a state that begins with rows is what a replay of the log is', async () => {
  console.log(`state rows: TEST_SEED=${SEED}`)
  const random = dice(SEED)
  const done = { erased: 0, kept: 0, anew: 0 }
  for (const _ of range(1, 4)) {
    const log = await opened(tempDir())
    const plain = new Proxy(log, {
      get(target, name) {
        const verb: unknown = Reflect.get(target, name)
        return name === 'stateRows' ? undefined : typeof verb === 'function' ? verb.bind(target) : verb
      },
    })
    await log.configure('c', { state: true })
    let trimmed = 0
    for (const __ of range(1, 30)) {
      const { head } = await log.info('c')
      const kind = random(10)
      if (kind < 4 || head === 0) {
        const events = range(0, random(4)).map((i) => {
          const key = random(9) === 0 ? null : `k${random(4)}`
          return event(key !== null && random(4) === 0 ? undefined : head + i, { key })
        })
        await log.append([{ channel: 'c', body: encodeBody(events) }])
      } else if (kind < 6) await look(log)
      else if (kind === 6) await compactChannel(log, 'c', { minLag: random(5), tombstoneAge: -60_000, restTimes: 0 })
      else if (kind === 7 && random(3) === 0) ({ trimmed } = await log.trim('c', trimmed + random(4)))
      else if (head > trimmed) {
        const before = await log.stateRows!.place('c')
        const what = random(2) === 0 ? { key: `k${random(4)}` } : { seq: trimmed + 1 + random(head - trimmed) }
        done.erased += (await erase(log, 'c', what, { restTimes: 0 })).events
        const after = await log.stateRows!.place('c')
        if (before && before.at > trimmed) done[after?.at === before.at ? 'kept' : 'anew']++
      }
      expect(await stateOf(log)).toEqual(await stateOf(plain))
    }
    expect((await verifyLog(log)).findings).toEqual([])
    await log.close()
  }
  for (const times of Object.values(done)) expect(times).toBeGreaterThan(0)
})
