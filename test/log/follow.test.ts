import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { checkPosition, EARLIEST, formatTime, type Position } from '../../src/event.ts'
import { Follower, type From, type Item } from '../../src/log/follow.ts'
import type { Log } from '../../src/log/log.ts'
import { range, tempLog } from '../parts.ts'
import { ALL, amid, append, BLOCKWISE, eventsOf, never, refusal, valueIn, watched } from './reading.ts'

const EARLIEST_FROM: From = { after: EARLIEST }
const at = (after: number | string, epoch?: string): From => ({ after: checkPosition(after), epoch })

const follow = async (log: Log, from: From = EARLIEST_FROM, channel = 'c'): Promise<Follower> =>
  (await Follower.open(log, channel, from)).follower

/** What the follower has to say now: pages as their values, all else as it is. */
async function said(follower: Follower, limits = ALL): Promise<unknown[]> {
  const items: unknown[] = []
  for (let item = await follower.next(limits); item; item = await follower.next(limits)) items.push(readable(item))
  return items
}
const readable = (item: Item): unknown => (item.is === 'page' ? eventsOf(item.page).map(valueIn) : item)

describe('a follower', () => {
  test('reads history, says once that it has caught up, then goes on with what comes', async () => {
    const log = await tempLog()
    await append(log, 'c', [1, 2, 3])
    const { follower, opened } = await Follower.open(log, 'c', EARLIEST_FROM)
    const { epoch } = await log.info('c')
    expect(opened).toEqual({ channel: 'c', epoch, after: 0, trimmed: 0, head: 3 })
    expect(await said(follower)).toEqual([[1, 2, 3], { is: 'caughtup', seq: 3 }])
    expect(await said(follower)).toEqual([])
    await append(log, 'c', [4])
    await follower.changed(never())
    expect(await said(follower)).toEqual([[4]])
    expect(follower.place).toEqual({ epoch, after: 4 })
  })

  test('begins amid a block with the events after its place only', async () => {
    const log = await tempLog()
    await append(log, 'c', range(1, 10))
    const { epoch } = await log.info('c')
    for (const from of [at(7), at('7', epoch), at('head-3')])
      expect(await said(await follow(log, from))).toEqual([[8, 9, 10], { is: 'caughtup', seq: 10 }])
    expect(await said(await follow(log, at('head')))).toEqual([{ is: 'caughtup', seq: 10 }])
    expect(await said(await follow(log, at(10)))).toEqual([{ is: 'caughtup', seq: 10 }])
  })

  test('amid appends gives each event once and in order, however fast they come', async () => {
    const log = await tempLog()
    await append(log, 'c', [1])
    const collect = async (limits = ALL): Promise<unknown[]> => {
      const follower = await follow(log)
      const values: unknown[] = []
      while (values.length < 400) {
        const item = await follower.next(limits)
        if (item?.is === 'page') values.push(...eventsOf(item.page).map(valueIn))
        else if (item === undefined) await follower.changed(never())
        else expect(item.is).toBe('caughtup')
      }
      return values
    }
    const followers = [collect(), collect(BLOCKWISE), collect({ events: 3, bytes: 1e6 }), collect()]
    for (const i of range(2, 400)) {
      const appended = append(log, 'c', [i])
      if (i % 4 === 0) await appended
    }
    for (const values of await Promise.all(followers)) expect(values).toEqual(range(1, 400))
  })

  test('does not miss an append that falls between its last read and its wait', async () => {
    const log = await tempLog()
    await append(log, 'c', [1])
    const follower = await follow(log)
    await said(follower)
    for (const i of range(2, 20)) {
      // Durable, and every waiter woken, before this reader begins to wait.
      await append(log, 'c', [i])
      await follower.changed(never())
      expect(await said(follower)).toEqual([[i]])
    }
  })

  test('says that it has caught up again after each time that it was behind', async () => {
    const log = await tempLog()
    await append(log, 'c', [1])
    const follower = await follow(log)
    await said(follower)
    for (const i of range(2, 5)) await append(log, 'c', [i])
    expect(await said(follower, BLOCKWISE)).toEqual([[2], [3], [4], [5], { is: 'caughtup', seq: 5 }])
    await append(log, 'c', [6])
    expect(await said(follower, BLOCKWISE)).toEqual([[6]])
  })

  test('that starts below what was trimmed is told the gap, and goes on after it', async () => {
    const log = await tempLog()
    await append(log, 'c', range(1, 10))
    await log.trim('c', 6)
    const { follower, opened } = await Follower.open(log, 'c', at(2))
    expect(opened).toMatchObject({ after: 2, trimmed: 6, head: 10 })
    expect(await said(follower)).toEqual([
      { is: 'gap', after: 2, trimmed: 6 },
      [7, 8, 9, 10],
      { is: 'caughtup', seq: 10 },
    ])
  })

  test('that is overtaken by a trim is told the gap, and goes on after it', async () => {
    const log = await tempLog()
    await append(log, 'c', [1])
    const follower = await follow(log)
    await said(follower)
    for (const i of range(2, 6)) await append(log, 'c', [i])
    await log.trim('c', 4)
    await follower.changed(never())
    expect(await said(follower)).toEqual([{ is: 'gap', after: 1, trimmed: 4 }, [5, 6], { is: 'caughtup', seq: 6 }])
    for (const i of range(7, 9)) await append(log, 'c', [i])
    await log.trim('c', 9)
    await follower.changed(never())
    expect(await said(follower)).toContainEqual({ is: 'gap', after: 6, trimmed: 9 })
    expect(follower.place.after).toBe(9)
  })

  test('from the earliest never begins with a gap', async () => {
    const log = await tempLog()
    await append(log, 'c', range(1, 10))
    await log.trim('c', 6)
    expect(await said(await follow(log))).toEqual([[7, 8, 9, 10], { is: 'caughtup', seq: 10 }])
    await log.trim('c', 10)
    expect(await said(await follow(log))).toEqual([{ is: 'caughtup', seq: 10 }])
  })

  test('of a channel that was deleted and made again is reset to the new history', async () => {
    const log = await tempLog()
    await append(log, 'c', [1, 2, 3])
    const follower = await follow(log)
    await said(follower)
    const wait = follower.changed(never())
    await Promise.all([log.delete('c'), append(log, 'c', range(11, 15))])
    await wait
    const { epoch } = await log.info('c')
    expect(await said(follower)).toEqual([
      { is: 'reset', epoch, trimmed: 0, head: 5 },
      range(11, 15),
      { is: 'caughtup', seq: 5 },
    ])
    expect(follower.place).toEqual({ epoch, after: 5 })
  })

  test('is reset by a new history even where its seq exists in that too', async () => {
    const log = await tempLog()
    await append(log, 'c', [1, 2, 3])
    const { epoch: old } = await log.info('c')
    await log.delete('c')
    await append(log, 'c', range(11, 19))
    await log.trim('c', 2)
    const { epoch } = await log.info('c')
    for (const after of [0, 2, 3, 9, 20])
      expect(await said(await follow(log, at(after, old)))).toEqual([
        { is: 'reset', epoch, trimmed: 2, head: 9 },
        range(13, 19),
        { is: 'caughtup', seq: 9 },
      ])
  })

  test('whose place is beyond the head is reset, never left waiting', async () => {
    const log = await tempLog()
    await append(log, 'c', range(1, 5))
    const { epoch } = await log.info('c')
    for (const from of [at(6), at(6, epoch), at(1e15)]) {
      const { follower, opened } = await Follower.open(log, 'c', from)
      expect(opened).toMatchObject({ after: 0, head: 5 })
      await follower.changed(never())
      expect(await said(follower)).toEqual([
        { is: 'reset', epoch, trimmed: 0, head: 5 },
        range(1, 5),
        { is: 'caughtup', seq: 5 },
      ])
    }
  })

  test('goes on from the cursor of its client; without one it begins at the earliest', async () => {
    const log = await tempLog()
    await append(log, 'c', range(1, 10))
    await log.commit('web', 'c', { seq: 7 })
    expect(await said(await follow(log, { client: 'web' }))).toEqual([[8, 9, 10], { is: 'caughtup', seq: 10 }])
    await log.trim('c', 4)
    expect(await said(await follow(log, { client: 'new' }))).toEqual([range(5, 10), { is: 'caughtup', seq: 10 }])
    await log.trim('c', 9)
    expect(await said(await follow(log, { client: 'web' }))).toEqual([
      { is: 'gap', after: 7, trimmed: 9 },
      [10],
      { is: 'caughtup', seq: 10 },
    ])
  })

  test('of a channel that does not exist waits for its first event', async () => {
    const log = await tempLog()
    const { follower, opened } = await Follower.open(log, 'c', EARLIEST_FROM)
    expect(opened).toEqual({ channel: 'c', epoch: null, after: 0, trimmed: 0, head: 0 })
    expect(await said(follower)).toEqual([])
    const wait = watched(follower.changed(never()))
    await append(log, 'other', [1])
    expect(wait.settled).toBe(false)
    await append(log, 'c', [1, 2])
    await wait.promise
    expect(await said(follower)).toEqual([[1, 2], { is: 'caughtup', seq: 2 }])
    const { epoch } = await log.info('c')
    expect(follower.place).toEqual({ epoch, after: 2 })
  })

  test('that knew a history of a channel that is gone is told so, then waits for the next one', async () => {
    const log = await tempLog()
    for (const after of [0, 5]) {
      const follower = await follow(log, at(after, 'old'))
      await follower.changed(never())
      expect(await said(follower)).toEqual([{ is: 'reset', epoch: null, trimmed: 0, head: 0 }])
      const wait = follower.changed(never())
      await append(log, 'c', [1])
      await wait
      expect(await said(follower)).toEqual([[1], { is: 'caughtup', seq: 1 }])
      await log.delete('c')
    }
  })

  test('of a channel without events has caught up at once', async () => {
    const log = await tempLog()
    await log.configure('c', {})
    const follower = await follow(log)
    expect(await said(follower)).toEqual([{ is: 'caughtup', seq: 0 }])
    await append(log, 'c', [1])
    expect(await said(follower)).toEqual([[1]])
  })

  test('ends with no-channel when its channel is deleted, and says so once', async () => {
    const log = await tempLog()
    await append(log, 'c', [1])
    const follower = await follow(log)
    await said(follower)
    const wait = follower.changed(never())
    await log.delete('c')
    await wait
    expect(await follower.next(ALL)).toMatchObject({ is: 'ended', error: { code: 'no-channel' } })
    expect(await follower.next(ALL)).toBeUndefined()
    await follower.changed(never())
    await append(log, 'c', [1])
    expect(await follower.next(ALL)).toBeUndefined()
  })

  test('stops waiting with the reason of its signal, and keeps its place', async () => {
    const log = await tempLog()
    await append(log, 'c', [1])
    const follower = await follow(log)
    await said(follower)
    const gone = new AbortController()
    const wait = follower.changed(gone.signal)
    gone.abort('enough')
    await expect(wait).rejects.toBe('enough')
    await append(log, 'c', [2])
    expect(await said(follower)).toEqual([[2]])
  })

  test('is refused, not ended, while the log is closed: its place outlives that', async () => {
    const log = await tempLog()
    await append(log, 'c', [1])
    const follower = await follow(log)
    const { place } = follower
    const waiting = refusal(log.changed('c', { after: 1 }, never()))
    await log.close()
    expect(await refusal(follower.next(ALL))).toMatchObject({ code: 'unavailable' })
    expect(await waiting).toMatchObject({ code: 'unavailable' })
    expect(follower.place).toEqual(place)
  })

  test('opens whatever happens to the channel meanwhile', async () => {
    const cases: readonly [verb: 'read' | 'cursor' | 'info', from: From, happens: (log: Log) => Promise<unknown>][] = [
      ['info', EARLIEST_FROM, (log) => log.trim('c', 5)],
      ['info', at('head-2'), (log) => log.trim('c', 10)],
      ['info', { client: 'web' }, (log) => log.delete('c')],
      ['info', at('time:2000-01-01T00:00:00Z'), (log) => log.trim('c', 10)],
      ['read', at('time:2000-01-01T00:00:00Z'), (log) => log.trim('c', 10)],
      ['info', at('time:2000-01-01T00:00:00Z'), (log) => log.delete('c')],
      ['info', at('time:2000-01-01T00:00:00Z'), (log) => Promise.all([log.delete('c'), append(log, 'c', [1])])],
      ['cursor', { client: 'web' }, (log) => Promise.all([log.delete('c'), append(log, 'c', [1])])],
    ]
    for (const [i, [verb, from, happens]] of cases.entries()) {
      const log = await tempLog()
      for (const first of [1, 6]) await append(log, 'c', range(first, first + 4))
      await log.commit('web', 'c', { seq: 3 })
      const racing = amid(log, verb, () => happens(log))
      const outcome = await Follower.open(racing, 'c', from).then(
        async ({ follower }) => await said(follower),
        (error) => error,
      )
      expect([i, outcome]).toEqual([i, expect.any(Array)])
    }
  })
})

describe('a position', () => {
  /** Blocks of 1, 2, … 8 events, two at each second of a day in 2040. */
  async function timed(): Promise<{ log: Log; times: number[] }> {
    const log = await tempLog()
    const start = Date.UTC(2040, 0, 1)
    const times: number[] = []
    vi.useFakeTimers({ toFake: ['Date'], now: start })
    onTestFinished(() => void vi.useRealTimers())
    for (const size of range(1, 8)) {
      const now = start + Math.ceil(size / 2) * 1_000
      vi.setSystemTime(now)
      await append(log, 'c', range(times.length + 1, times.length + size))
      times.push(...range(1, size).map(() => now))
    }
    return { log, times }
  }
  const openedAt = async (log: Log, position: Position): Promise<number> =>
    (await Follower.open(log, 'c', { after: position })).opened.after

  test('in time is before the first event at or after that time', async () => {
    const { log, times } = await timed()
    const moments = [0, ...new Set(times.flatMap((time) => [time - 1, time, time + 1, time + 500])), 1e13]
    for (const trimmed of [0, 4, 20, 36]) {
      await log.trim('c', trimmed)
      for (const time of moments) {
        const first = range(trimmed + 1, times.length).find((seq) => times[seq - 1]! >= time)
        const expected = first === undefined ? times.length : first - 1
        expect([formatTime(time), await openedAt(log, { at: 'time', time })]).toEqual([formatTime(time), expected])
      }
    }
  })

  test('counted back from the head ends at what is retained', async () => {
    const { log } = await timed()
    await log.trim('c', 10)
    for (const [position, after] of [
      ['head', 36],
      ['head-0', 36],
      ['head-1', 35],
      ['head-26', 10],
      ['head-27', 10],
      [`head-${Number.MAX_SAFE_INTEGER}`, 10],
      ['earliest', 10],
      [undefined, 10],
      ['time:2039-12-31T23:59:59Z', 10],
    ] as const)
      expect([position, await openedAt(log, checkPosition(position))]).toEqual([position, after])
  })

  test('in an empty channel is its start', async () => {
    const log = await tempLog()
    await log.configure('c', {})
    for (const position of ['earliest', 'head', 'head-5', 'time:2026-01-01T00:00:00Z', 0])
      expect(await openedAt(log, checkPosition(position))).toBe(0)
  })
})
