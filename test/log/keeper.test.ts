import { afterEach, beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest'
import { readHeader } from '../../src/block.ts'
import { TidemarkError } from '../../src/errors.ts'
import { Keeper, type KeeperOptions } from '../../src/log/keeper.ts'
import { cursorKey } from '../../src/log/level/keys.ts'
import { CURSOR_RENEW_MS, type Log } from '../../src/log/log.ts'
import { openLog } from '../../src/log/open.ts'
import { Signs } from '../../src/log/signs.ts'
import { type Retention, readRetentionRule } from '../../src/retention.ts'
import { body, range, tempDir, tempLog } from '../parts.ts'
import { logWith } from '../server/serve.ts'
import { append, list, readAll } from './reading.ts'
import { flip, numberOf, withRows } from './stored.ts'

const SECOND = 1_000
const DAY = 86_400 * SECOND
const START = Date.UTC(2026, 10, 23)

/** Works as fast as it can, without a grace for cursors. */
const AT_ONCE = { restTimes: 0, grace: 0, cursorsEvery: 0 }
const keeperOf = (log: Log, options: KeeperOptions = {}): Keeper => new Keeper(log, { pace: AT_ONCE, ...options })

const set = (log: Log, retention: Retention, channel = 'c') => log.configure(channel, { retention })
const trimmedOf = async (log: Log, channel = 'c'): Promise<number> => (await log.info(channel)).trimmed
const pass = (ms: number): unknown => vi.setSystemTime(Date.now() + ms)
const seqsOf = async (log: Log, channel = 'c'): Promise<number[]> => {
  const after = await trimmedOf(log, channel)
  return (await readAll(log, channel, { after })).map(({ seq }) => seq)
}

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['Date'], now: START })
})
afterEach(() => {
  vi.useRealTimers()
})

describe('limits', () => {
  test('events: the newest stay, exactly so many, in the middle of a block too', async () => {
    const log = await tempLog()
    const keeper = keeperOf(log)
    await set(log, { maxEvents: 7 })
    await append(log, 'c', range(1, 7))
    await keeper.look()
    expect(await trimmedOf(log)).toBe(0)
    await append(log, 'c', range(8, 10))
    await keeper.look()
    expect(await seqsOf(log)).toEqual(range(4, 10))
    await keeper.look()
    expect(keeper.kept).toMatchObject({ trims: 1, events: 3, looks: 3 })
  })

  test('age: what is older goes, what is as old stays, and a channel at rest empties', async () => {
    const log = await tempLog()
    const keeper = keeperOf(log)
    await set(log, { maxAge: 100 })
    for (const value of range(1, 10)) {
      await append(log, 'c', [value, value])
      pass(10 * SECOND)
    }
    // Now at 100 s: events 1 and 2 are as old as may be.
    await keeper.look()
    expect(await trimmedOf(log)).toBe(0)
    pass(1)
    await keeper.look()
    expect(await trimmedOf(log)).toBe(2)
    pass(45 * SECOND)
    await keeper.look()
    expect(await seqsOf(log)).toEqual(range(11, 20))
    pass(DAY)
    await keeper.look()
    expect(await log.info('c')).toMatchObject({ trimmed: 20, head: 20 })
    await append(log, 'c', ['next'])
    await keeper.look()
    expect(await seqsOf(log)).toEqual([21])
  })

  test('bytes: the blocks that stay take no more, and no block more could stay; also when others trim, and after a restart', async () => {
    const dir = tempDir()
    let log = await openLog({ dir, tailBytes: 0 })
    let keeper = keeperOf(log)
    const sizes: [last: number, bytes: number][] = []
    await set(log, { maxBytes: 5_000 })
    const grow = async (): Promise<void> => {
      for (let i = 0; i < 5; i++) {
        const { last } = await append(
          log,
          'c',
          range(1, 3).map((n) => 'x'.repeat((n * 137 * (sizes.length + 1)) % 700)),
        )
        const page = await log.read('c', { after: last - 1 }, { events: 1, bytes: 1 })
        sizes.push([last, page.blocks[0]!.length])
      }
    }
    /** The seq that blocks from the newest back on fit behind. */
    const expected = (max: number): number => {
      let bytes = 0
      let at = sizes.length - 1
      while (at > 0 && bytes + sizes[at]![1] + sizes[at - 1]![1] <= max) bytes += sizes[at--]![1]
      return at === 0 ? 0 : sizes[at - 1]![0]
    }
    for (let round = 0; round < 12; round++) {
      await grow()
      if (round === 4) await log.trim('c', (await trimmedOf(log)) + 4)
      if (round === 7) {
        await log.close()
        log = await openLog({ dir, tailBytes: 0 })
        keeper = keeperOf(log)
      }
      const before = await trimmedOf(log)
      await keeper.look()
      expect(await trimmedOf(log)).toBe(Math.max(before, expected(5_000)))
    }
    await set(log, { maxBytes: 1 })
    await keeper.look()
    expect(await trimmedOf(log)).toBe(sizes.at(-2)![0])
    await log.close()
  })

  test('bytes: together with age and events, the count stays right', async () => {
    const log = await tempLog()
    const keeper = keeperOf(log)
    await set(log, { maxBytes: 4_000, maxEvents: 40 })
    for (const round of range(1, 30)) {
      // Small blocks meet the limit of events, large ones the limit of bytes.
      const width = round % 10 < 5 ? 10 : 400
      await append(
        log,
        'c',
        range(1, 7).map(() => 'x'.repeat(width)),
      )
      await keeper.look()
      const { head, trimmed } = await log.info('c')
      const { blocks } = await log.read('c', { after: trimmed }, { events: 10_000, bytes: 1 << 20 })
      const bytes = blocks.reduce((sum, block) => sum + block.length, 0)
      expect(head - trimmed).toBeLessThanOrEqual(40)
      expect(bytes).toBeLessThanOrEqual(4_000)
      const first = readHeader(blocks[0]!)
      // One block more would not fit.
      if (trimmed > 0 && first.after === trimmed && head - trimmed < 40) expect(bytes + 7 * 410).toBeGreaterThan(4_000)
    }
  })

  test('a channel’s own settings win whole over rules, the first rule over those behind it, and nothing is touched elsewhere', async () => {
    const log = await tempLog()
    const rules = ['logs/**: events=5', 'logs/a: events=1', 'x*: events=2, age=1d'].map(readRetentionRule)
    const keeper = keeperOf(log, { rules })
    const kept = { 'logs/a': 5, 'logs/b/c': 3, 'logs/d': 10, x1: 2, other: 10, _system: 10 }
    await set(log, { maxEvents: 3 }, 'logs/b/c')
    await set(log, {}, 'logs/d')
    for (const channel of Object.keys(kept)) await append(log, channel, range(1, 10))
    await keeper.look()
    for (const [channel, stay] of Object.entries(kept))
      expect([channel, (await seqsOf(log, channel)).length]).toEqual([channel, stay])
    expect(keeper.inForce('logs/a', {})).toEqual({ retention: { maxEvents: 5 }, from: 'pattern logs/**' })
    expect(keeper.inForce('logs/b/c', { retention: { maxEvents: 3 } })).toMatchObject({ from: 'channel' })
    expect(keeper.inForce('logs/d', { retention: {} })).toBeUndefined()
  })

  test('a channel made anew is another one: nothing that was counted before counts', async () => {
    const log = await tempLog()
    const keeper = keeperOf(log, { rules: [readRetentionRule('c: bytes=3000, age=1h')] })
    await append(
      log,
      'c',
      range(1, 30).map(() => 'x'.repeat(90)),
    )
    await keeper.look()
    await log.delete('c')
    for (const _ of range(1, 3)) await append(log, 'c', ['x'.repeat(800)])
    await keeper.look()
    expect(await seqsOf(log)).toEqual([1, 2, 3])
    await append(log, 'c', ['x'.repeat(800)])
    await keeper.look()
    expect(await seqsOf(log)).toEqual([2, 3, 4])
  })

  test('nothing is done while the log is closed, and a failure is told and tried again', async () => {
    const log = await tempLog()
    const notices: string[] = []
    const keeper = keeperOf(log, { onNotice: (_level, message) => notices.push(message) })
    await set(log, { maxEvents: 1 })
    await append(log, 'c', [1, 2])
    const failing = new Proxy(log, {
      get: (target, name) => {
        const verb: unknown = Reflect.get(target, name)
        if (name === 'trim' && keptBack) return () => Promise.reject(new Error('not now'))
        return typeof verb === 'function' ? verb.bind(target) : verb
      },
    })
    let keptBack = true
    const put = keeperOf(failing)
    await expect(put.look()).rejects.toThrow('not now')
    keptBack = false
    await put.look()
    expect(await seqsOf(log)).toEqual([2])
    await log.close()
    await keeper.look()
    expect(keeper.kept.looks).toBe(0)
  })
})

test('a plan is what the next look does, and changes nothing; what was dropped last and the age of what stays are known', async () => {
  const log = await tempLog()
  const keeper = keeperOf(log)
  for (const value of range(1, 12)) {
    await append(log, 'c', [value, 'x'.repeat(300)])
    pass(10 * SECOND)
  }
  await log.commit('web', 'c', { seq: 7 })
  const first = await log.info('c')
  expect(await keeper.oldest(first)).toBe(START)
  expect(keeper.dropped(first)).toBeUndefined()
  expect(await keeper.plan(first, {})).toEqual({ upTo: 0, more: false })
  const dropped: number[] = []
  for (const retention of [
    { maxEvents: 22 },
    { maxAge: 100 },
    { consumed: true },
    { consumed: true, maxEvents: 2 },
    { maxBytes: 2_000 },
    { maxEvents: 1, maxBytes: 1_000_000 },
  ]) {
    const info = await log.info('c')
    const { upTo, more } = await keeper.plan(info, retention)
    expect([await log.info('c'), more]).toEqual([info, false])
    await set(log, retention)
    await keeper.look()
    const now = await log.info('c')
    expect([retention, now.trimmed]).toEqual([retention, upTo])
    if (upTo > info.trimmed) dropped.push(upTo)
    const since = { epoch: now.epoch, time: Date.now(), events: dropped.at(-1)! - (dropped.at(-2) ?? 0) }
    expect(keeper.dropped(now)).toEqual(since)
    expect(await keeper.oldest(now)).toBe(START + Math.floor(now.trimmed / 2) * 10 * SECOND)
  }
  expect(dropped).toEqual([2, 4, 7, expect.any(Number), 23])
  expect(keeper.looks).toEqual({ last: Date.now(), next: undefined })
  await log.trim('c', 24)
  expect(await keeper.oldest(await log.info('c'))).toBeUndefined()
  await log.delete('c')
  await append(log, 'c', [1])
  expect(keeper.dropped(await log.info('c'))).toBeUndefined()
})

test('what was read for one plan is not read again for the next one, nor by the look that does it', async () => {
  const log = await tempLog()
  let read = 0
  const counted = logWith(log, {
    read: async (...of) => {
      const page = await log.read(...of)
      read += page.blocks.length
      return page
    },
  })
  const keeper = keeperOf(counted)
  const blocks = 8
  for (const value of range(1, blocks)) await append(log, 'c', [value, 'x'.repeat(600_000)])
  const readFor = async (work: () => Promise<unknown>): Promise<number> => {
    read = 0
    await work()
    return read
  }
  const plan = async (maxBytes: number) => (await keeper.plan(await log.info('c'), { maxBytes })).upTo
  const upTo: number[] = []
  const ask = (maxBytes: number) => readFor(async () => upTo.push(await plan(maxBytes)))
  // Together, they are counted once.
  expect(await readFor(() => Promise.all([plan(1_300_000), plan(1_300_000)]))).toBeLessThanOrEqual(3 * blocks)
  // A page is two of them: where it stopped is looked at again.
  expect(await ask(1_300_000)).toBeLessThanOrEqual(2)
  await append(log, 'c', [9, 'x'.repeat(600_000)])
  expect(await ask(1_300_000)).toBeLessThanOrEqual(1 + 3)
  expect(upTo).toEqual([12, 14])
  await set(log, { maxBytes: 1_300_000 })
  expect(await readFor(() => keeper.look())).toBeLessThanOrEqual(2)
  expect(await trimmedOf(log)).toBe(14)
  expect(await readFor(() => keeper.look())).toBe(0)
  // Less than was asked for before.
  await append(log, 'c', [10, 'x'.repeat(600_000)])
  await ask(100)
  await ask(1_300_000)
  expect(upTo.slice(2)).toEqual([18, 16])
})

describe('consumed', () => {
  test('alone: what every cursor has passed goes, and nothing while nobody has one', async () => {
    const log = await tempLog()
    const keeper = keeperOf(log)
    await set(log, { consumed: true })
    await append(log, 'c', range(1, 20))
    await keeper.look()
    expect(await trimmedOf(log)).toBe(0)
    await log.commit('a', 'c', { seq: 12 })
    await log.commit('b', 'c', { seq: 5 })
    await keeper.look()
    expect(await trimmedOf(log)).toBe(5)
    await log.commit('b', 'c', { seq: 20 })
    await keeper.look()
    expect(await trimmedOf(log)).toBe(12)
    await log.forget('a', 'c')
    await keeper.look()
    expect(await trimmedOf(log)).toBe(20)
  })

  test('beside a limit: it keeps what is beyond the limit until it was passed, and what is within it in any case', async () => {
    const log = await tempLog()
    const keeper = keeperOf(log)
    await set(log, { consumed: true, maxEvents: 5 })
    await append(log, 'c', range(1, 20))
    await log.commit('a', 'c', { seq: 9 })
    await keeper.look()
    expect(await trimmedOf(log)).toBe(9)
    await log.commit('a', 'c', { seq: 20 })
    await keeper.look()
    expect(await trimmedOf(log)).toBe(15)
    await set(log, { consumed: true, maxBytes: 1 })
    await append(log, 'c', range(1, 2))
    await log.seek('a', 'c', { seq: 16 })
    await append(log, 'c', [3])
    await keeper.look()
    expect(await trimmedOf(log)).toBe(15)
    await log.commit('a', 'c', { seq: 22 })
    await keeper.look()
    expect(await trimmedOf(log)).toBe(22)
  })

  test('a cursor of another history has passed nothing', async () => {
    const log = await tempLog()
    const keeper = keeperOf(log)
    await append(log, 'c', range(1, 20))
    const old = new Proxy(log, {
      get: (target, name) => {
        const verb: unknown = Reflect.get(target, name)
        if (name === 'cursors')
          return async function* () {
            for await (const cursor of log.cursors({ channel: 'c' })) yield { ...cursor, epoch: 'other.life' }
          }
        return typeof verb === 'function' ? verb.bind(target) : verb
      },
    })
    await set(log, { consumed: true })
    await log.commit('a', 'c', { seq: 20 })
    await keeperOf(old).look()
    expect(await trimmedOf(log)).toBe(0)
    await keeper.look()
    expect(await trimmedOf(log)).toBe(20)
  })
})

test('nobody knows what a damaged cursor has passed: nothing is dropped until it is set anew', async () => {
  const dir = tempDir()
  const filling = await openLog({ dir })
  await append(filling, 'c', range(1, 20))
  await filling.configure('c', { retention: { consumed: true } })
  for (const client of ['a', 'b']) await filling.commit(client, 'c', { seq: 12 })
  await filling.close()
  await withRows(dir, async (rows) => flip(rows, cursorKey(await numberOf(rows, 'c'), 'b'), 9))
  const log = await openLog({ dir })
  onTestFinished(() => log.close())
  const keeper = keeperOf(log)
  const planned = async () => (await keeper.plan(await log.info('c'), { consumed: true })).upTo
  expect(await planned()).toBe(0)
  await keeper.look()
  expect(await trimmedOf(log)).toBe(0)
  await log.seek('b', 'c', { seq: 7 })
  expect(await planned()).toBe(7)
  await keeper.look()
  expect(await trimmedOf(log)).toBe(7)
  // Behind what is trimmed by now, it keeps nothing and gives nothing back.
  await log.trim('c', 10)
  expect(await planned()).toBe(10)
})

describe('signs of life', () => {
  const cursorsOf = async (log: Log) => (await list(log.cursors({ channel: 'c' }))).map(({ client }) => client)

  test('a silent cursor is forgotten, not a moment early, and pins nothing after that', async () => {
    const log = await tempLog()
    const keeper = keeperOf(log, { cursorTtl: 10 * DAY })
    await set(log, { consumed: true })
    await append(log, 'c', range(1, 10))
    await log.commit('silent', 'c', { seq: 2 })
    await log.commit('alive', 'c', { seq: 6 })
    pass(10 * DAY - 1)
    await log.commit('alive', 'c', { seq: 8 })
    await keeper.look()
    expect([await trimmedOf(log), await cursorsOf(log)]).toEqual([2, ['alive', 'silent']])
    pass(1)
    await keeper.look()
    expect([await trimmedOf(log), await cursorsOf(log)]).toEqual([8, ['alive']])
    expect(keeper.kept.cursors).toBe(1)
  })

  test('in every channel, also without retention', async () => {
    const log = await tempLog()
    const keeper = keeperOf(log, { cursorTtl: DAY })
    for (const channel of range(1, 250).map((i) => `c${i}`)) {
      await append(log, channel, [1])
      await log.commit('web', channel, { seq: 1 })
    }
    pass(DAY)
    await keeper.look()
    expect(await list(log.cursors({ client: 'web' }))).toEqual([])
    expect(keeper.kept).toMatchObject({ cursors: 250, trims: 0 })
  })

  test('none is forgotten within the grace after the start', async () => {
    const log = await tempLog()
    await append(log, 'c', [1])
    await log.commit('web', 'c', { seq: 1 })
    pass(90 * DAY)
    await new Keeper(log, { pace: { restTimes: 0, cursorsEvery: 0 } }).look()
    expect(await cursorsOf(log)).toEqual(['web'])
  })

  test('who is there, or was heard of, or commits the same again, keeps its cursor', async () => {
    const log = await tempLog()
    const keeper = keeperOf(log, { cursorTtl: 10 * DAY })
    await append(log, 'c', range(1, 5))
    for (const client of ['stays', 'polls', 'commits', 'gone']) await log.commit(client, 'c', { seq: 3 })
    const leave = keeper.signs.add(() => [
      ['stays', 'c'],
      ['stays', 'unknown'],
      ['never', 'c'],
    ])
    for (const _ of range(1, 3)) {
      pass(6 * DAY)
      keeper.signs.saw('polls', 'c')
      expect(await log.commit('commits', 'c', { seq: 1 })).toMatchObject({ seq: 3, time: Date.now() })
      await keeper.look()
    }
    expect(await cursorsOf(log)).toEqual(['commits', 'polls', 'stays'])
    for (const { seq, time } of await list(log.cursors({ channel: 'c' }))) expect([seq, time]).toEqual([3, Date.now()])
    leave()
    pass(10 * DAY)
    keeper.signs.saw('polls', 'c')
    await keeper.look()
    expect(await cursorsOf(log)).toEqual(['polls'])
  })

  test('a cursor that can not be renewed holds up no other', async () => {
    const log = await tempLog()
    await append(log, 'c', [1])
    for (const client of ['a', 'b']) await log.commit(client, 'c', { seq: 1 })
    for (const code of ['no-channel', 'epoch-changed', 'ahead-of-head', 'data-loss'] as const) {
      const signs = new Signs(
        logWith(log, {
          commit: async (client, ...rest) => {
            if (client === 'a') throw new TidemarkError(code, 'no')
            return log.commit(client, ...rest)
          },
        }),
      )
      pass(CURSOR_RENEW_MS)
      for (const client of ['a', 'b']) signs.saw(client, 'c')
      await signs.renew(async () => {})
      expect((await log.cursor('b', 'c'))!.time, code).toBe(Date.now())
    }
  })

  test('a sign of life costs a write only when the cursor has not been renewed for long', async () => {
    const groups: number[] = []
    const log = await tempLog({ onGroup: ({ tasks }) => groups.push(tasks) })
    const keeper = keeperOf(log)
    await append(log, 'c', [1])
    await Promise.all(range(1, 250).map((i) => log.commit(`w${i}`, 'c', { seq: 1 })))
    const renew = async (): Promise<number> => {
      groups.length = 0
      for (const i of range(1, 250)) keeper.signs.saw(`w${i}`, 'c')
      await keeper.look()
      return groups.length
    }
    expect(await renew()).toBe(0)
    pass(CURSOR_RENEW_MS)
    expect(await renew()).toBeLessThanOrEqual(3)
    expect(await renew()).toBe(0)
  })
})

test('a started keeper acts soon after an append, and not after it was closed', async () => {
  const log = await tempLog()
  const keeper = keeperOf(log, { pace: { ...AT_ONCE, lookEvery: 3_600_000 } })
  await set(log, { maxEvents: 3 })
  keeper.start()
  await vi.waitFor(() => expect(keeper.kept.looks).toBe(1), 10_000)
  await append(log, 'c', range(1, 10))
  await vi.waitFor(async () => expect(await trimmedOf(log)).toBe(7), 10_000)
  await append(log, 'c', range(1, 10))
  await vi.waitFor(async () => expect(await trimmedOf(log)).toBe(17), 10_000)
  expect(keeper.kept.looks).toBe(1)
  await keeper.close()
  await log.append([{ channel: 'c', body: body(1, 2) }])
  expect(await trimmedOf(log)).toBe(17)
})
