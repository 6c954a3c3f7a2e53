/** Rows of states are what the log says at their place, whole or not there; they are the setting's, and the channel's. */
import { setImmediate as nextTurn } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { encodeBody } from '../../src/body.ts'
import type { NewEvent } from '../../src/event.ts'
import { compactChannel } from '../../src/log/compact.ts'
import { erase } from '../../src/log/erase.ts'
import type { Capability, Log } from '../../src/log/log.ts'
import type { StatePlace, StateRow, StateRows } from '../../src/log/state-rows.ts'
import { StateWriter } from '../../src/log/state-writer.ts'
import { States } from '../../src/log/states.ts'
import { event, range } from '../parts.ts'
import { type Open, somewhere } from './contract.ts'
import { ALL, eventsOf, list } from './reading.ts'

const AT_ONCE = { restTimes: 0 } as const

const keyed = (key: string, value: unknown): NewEvent => event(value, { key })
const put = (log: Log, ...events: NewEvent[]) => log.append([{ channel: 'c', body: encodeBody(events) }])
/** Brings all rows to the head. */
export const look = (log: Log): Promise<void> => new StateWriter(log, { pace: { ...AT_ONCE, trimEvery: 0 } }).look()

async function rowsIn(rows: StateRows): Promise<[place: StatePlace | undefined, ...rows: [string, number][]]> {
  const found: [string, number][] = []
  const place = await rows.read('c', (some) => {
    found.push(...some.map(({ key, seq }) => [key, seq] as [string, number]))
    return true
  })
  return [place, ...found]
}
/** By key, as its sender wrote it. */
const sorted = (rows: readonly (readonly [string, number])[]) =>
  rows
    .map(([key, seq]) => [Buffer.from(key, 'latin1').toString(), seq] as const)
    .toSorted(([a], [b]) => (a < b ? -1 : 1))
const row = (key: string, seq: number): [string, StateRow] => [key, { key, seq, time: 5, event: 'any' }]

export function stateContract(open: Open, capabilities: readonly Capability[]): void {
  if (!capabilities.includes('stateRows')) {
    test('An engine without rows takes the setting, and states are made when they are asked for', async () => {
      const log = await open()
      expect((await log.configure('c', { state: true })).settings).toEqual({ state: true })
      await put(log, keyed('a', 1), keyed('a', 2))
      expect(log.stateRows).toBeUndefined()
      await look(log)
      expect((await new States(log).open('c')).at).toBe(2)
    })
    return
  }

  test('There are rows from the setting on, over the whole history, and none without', async () => {
    const log = await open()
    const rows = log.stateRows!
    await put(log, keyed('a', 1), event('none'), keyed('b', 1))
    expect([await rows.place('c'), await list(rows.channels())]).toEqual([undefined, []])
    await log.trim('c', 1)
    const { epoch } = await log.configure('c', { state: true, note: 'mine' })
    expect(await rowsIn(rows)).toEqual([{ set: expect.any(String), epoch, at: 1, trimmed: 1, rows: 0 }])
    expect(await list(rows.channels())).toEqual(['c'])
    await look(log)
    const [place, ...found] = await rowsIn(rows)
    expect([place, found]).toMatchObject([{ at: 3, rows: 1 }, [['b', 3]]])
    // Set again, they go on.
    await log.configure('c', { state: true })
    expect(await rows.place('c')).toEqual(place)
    await log.configure('c', {})
    expect([await rowsIn(rows), await list(rows.channels())]).toEqual([[undefined], []])
    await log.configure('c', { state: true })
    await expect.poll(() => rows.place('c')).toMatchObject({ at: 1, rows: 0 })
    expect((await rows.place('c'))!.set).not.toBe(place!.set)
    // A channel that is made with it has them from its first event on.
    await log.configure('d', { state: true })
    expect(await list(rows.channels())).toEqual(['c', 'd'])
  })

  test('Rows and place change together, only from the place that is known, and outlive closing and opening', async () => {
    const at = somewhere()
    let log = await open({ at })
    await put(log, ...range(1, 9).map((n) => keyed(`k${n}`, n)))
    const { epoch } = await log.configure('c', { state: true })
    const from = (await log.stateRows!.place('c'))!
    const change = { epoch, at: 4, trimmed: 0, rows: new Map([row('a', 2), row('ä', 3), row('b', 4)]) }
    const kept = (await log.stateRows!.keep('c', from, change))!
    expect(kept).toEqual({ ...from, at: 4, rows: 3 })
    // Whoever comes from elsewhere changes nothing.
    for (const other of [from, { ...kept, set: 'another' }])
      expect(await log.stateRows!.keep('c', other, { ...change, at: 9 })).toBeUndefined()
    const more = { ...change, at: 6, rows: new Map([row('a', 5), ['b', undefined], ['none', undefined]] as const) }
    await log.stateRows!.keep('c', kept, more)
    for (const reopened of [false, true]) {
      if (reopened) {
        await log.close()
        log = await open({ at })
      }
      const [place, ...found] = await rowsIn(log.stateRows!)
      expect([place, found]).toEqual([{ ...from, at: 6, rows: 2 }, expect.arrayContaining([['a', 5]])])
      expect(found.length).toBe(2)
    }
    await log.stateRows!.drop('c')
    expect((await rowsIn(log.stateRows!)).slice(1)).toEqual([])
    await expect.poll(() => log.stateRows!.place('c')).toMatchObject({ at: 0, rows: 0 })
  })

  test('A state begins with the rows, whatever was trimmed, appended or deleted since', async () => {
    const at = somewhere()
    let log = await open({ at })
    await log.configure('c', { state: true })
    const of = async (): Promise<unknown[]> => {
      const states = new States(log)
      const place = await states.open('c')
      return eventsOf(await states.page('c', place, 0, ALL)).map(({ seq, key }) => [seq, key])
    }
    await put(log, keyed('a', 1), keyed('b', 1), keyed('c', 1), keyed('d', 1))
    await look(log)
    await put(log, keyed('b', undefined), keyed('e', 1))
    await log.trim('c', 1)
    const all = [
      [3, 'c'],
      [4, 'd'],
      [6, 'e'],
    ]
    expect(await of()).toEqual(all)
    await log.close()
    log = await open({ at })
    expect(await of()).toEqual(all)
    await look(log)
    // What is trimmed has no row any more.
    expect(await log.stateRows!.place('c')).toMatchObject({ at: 6, trimmed: 1, rows: 3 })
    expect(await of()).toEqual(all)
    // Rows behind which all was trimmed say nothing.
    await put(log, keyed('f', 1), keyed('g', 1))
    await log.trim('c', 7)
    expect(await of()).toEqual([[8, 'g']])
    await look(log)
    await expect
      .poll(async () => {
        await look(log)
        return log.stateRows!.place('c')
      })
      .toMatchObject({ at: 8, rows: 1 })
    await log.delete('c')
    await put(log, keyed('x', 1))
    expect(await log.stateRows!.place('c')).toBeUndefined()
    expect(await of()).toEqual([[1, 'x']])
  })

  test('What erases a key takes its row out in the same write, and leaves the others as they are', async () => {
    const log = await open()
    await log.configure('c', { state: true })
    await put(log, keyed('a', 1), keyed('b', 1), keyed('ä', 1))
    await put(log, keyed('c', 1), keyed('a', 2))
    await look(log)
    await put(log, keyed('ä', 2))
    // Rows that are not so far keep an older one, which compaction takes out of the log.
    await compactChannel(log, 'c', { ...AT_ONCE, minLag: 0 })
    for (const [key, left] of [
      [
        'a',
        [
          ['b', 2],
          ['c', 4],
          ['ä', 3],
        ],
      ],
      [
        'ä',
        [
          ['b', 2],
          ['c', 4],
        ],
      ],
    ] as const) {
      await erase(log, 'c', { key }, AT_ONCE)
      const [place, ...found] = await rowsIn(log.stateRows!)
      expect([place, sorted(found)]).toMatchObject([{ at: 5, rows: left.length }, left])
    }
    // The channel had rows at every moment: none were made anew.
    await look(log)
    const [place, ...found] = await rowsIn(log.stateRows!)
    expect([place, sorted(found)]).toMatchObject([
      { at: 8, rows: 2 },
      [
        ['b', 2],
        ['c', 4],
      ],
    ])
    expect(await list(log.scrub!(async () => {}))).toEqual([])
  })

  test('What is appended to a key while its events are erased stays in the rows', async () => {
    const log = await open()
    await log.configure('c', { state: true })
    await put(log, keyed('a', 1), keyed('b', 1))
    await put(log, keyed('a', 2))
    const replace = log.replace!.bind(log)
    let replaced = 0
    log.replace = async (...asked) => {
      const isDone = await replace(...asked)
      if (++replaced === 1) {
        await put(log, keyed('a', 3))
        await look(log)
      }
      return isDone
    }
    expect(await erase(log, 'c', { key: 'a' }, AT_ONCE)).toMatchObject({ events: 2, tombstone: 4 })
    const [place, ...found] = await rowsIn(log.stateRows!)
    expect([replaced, place, sorted(found)]).toMatchObject([
      2,
      { at: 5, rows: 2 },
      [
        ['a', 5],
        ['b', 2],
      ],
    ])
    expect(await list(log.scrub!(async () => {}))).toEqual([])
  })

  test('One event that another of its key followed is erased beside the rows; a newest one, or a tombstone, voids them', async () => {
    for (const [seq, left] of [
      [
        1,
        [
          ['a', 4],
          ['c', 3],
        ],
      ],
      [
        2,
        [
          ['a', 4],
          ['c', 3],
        ],
      ],
      [
        5,
        [
          ['a', 4],
          ['b', 2],
          ['c', 3],
        ],
      ],
      [
        4,
        [
          ['a', 1],
          ['c', 3],
        ],
      ],
      [
        6,
        [
          ['a', 4],
          ['c', 3],
        ],
      ],
    ] as const) {
      const log = await open()
      await log.configure('c', { state: true })
      await put(log, keyed('a', 1), keyed('b', 1), keyed('c', 1))
      await put(log, keyed('a', 2), keyed('b', undefined))
      await look(log)
      // Behind the rows.
      await put(log, keyed('c', 2))
      const { set } = (await log.stateRows!.place('c'))!
      await erase(log, 'c', { seq }, AT_ONCE)
      const place = await log.stateRows!.place('c')
      expect([seq, place]).toMatchObject([seq, { at: seq < 3 ? 5 : 0 }])
      expect([seq, place!.set]).not.toEqual([seq, set])
      await erase(log, 'c', { seq: 6 }, AT_ONCE)
      await expect
        .poll(async () => {
          await look(log)
          const [place, ...found] = await rowsIn(log.stateRows!)
          return [place?.at, sorted(found)]
        })
        .toEqual([6, left])
    }
  })

  test('What compaction took out of the log is in no row either, when it is erased', async () => {
    for (const what of [{ seq: 1 }, { key: 'a' }] as const) {
      const log = await open()
      await log.configure('c', { state: true })
      await put(log, keyed('a', 1), keyed('b', 1))
      await look(log)
      await put(log, keyed('a', undefined))
      await compactChannel(log, 'c', { ...AT_ONCE, minLag: 0 })
      expect((await rowsIn(log.stateRows!)).length).toBe(3)
      expect(await erase(log, 'c', what, AT_ONCE)).toMatchObject({ events: 0 })
      expect((await rowsIn(log.stateRows!)).slice(1)).toEqual([])
      await look(log)
      expect((await rowsIn(log.stateRows!)).slice(1)).toEqual([['b', 2]])
    }
  })

  test('What was read before an event was erased is not kept after it, also where no row was of it', async () => {
    const log = await open()
    const change = { at: 3, trimmed: 0, rows: new Map([row('a', 3)]) }
    const from = async (channel: string): Promise<StatePlace> => {
      await log.configure(channel, { state: true })
      await log.append([{ channel, body: encodeBody([keyed('b', 1), keyed('a', 1), keyed('a', 2)]) }])
      return (await log.stateRows!.place(channel))!
    }
    for (const what of [{ seq: 3 }, { key: 'a' }] as const) {
      const place = await from('c')
      await erase(log, 'c', what, AT_ONCE)
      expect(await log.stateRows!.place('c')).toMatchObject({ at: 0, rows: 0 })
      expect(await log.stateRows!.keep('c', place, { ...change, epoch: place.epoch })).toBeUndefined()
      await log.delete('c')
    }
    // Amid it, a little later each time: it is refused, or taken out with the event.
    for (const turns of range(0, 25)) {
      const channel = `c${turns}`
      const place = await from(channel)
      const erasing = erase(log, channel, { key: 'a' }, AT_ONCE)
      for (const _ of range(1, turns)) await nextTurn()
      await Promise.all([erasing, log.stateRows!.keep(channel, place, { ...change, epoch: place.epoch })])
      const keys: string[] = []
      await log.stateRows!.read(channel, (some) => keys.push(...some.map(({ key }) => key)) > 0)
      expect([turns, keys]).toEqual([turns, []])
    }
  })

  test('Rows on their way are void when the newest event of a key is erased', async () => {
    const log = await open()
    await log.configure('c', { state: true })
    await put(log, keyed('a', 1), keyed('b', 1), keyed('a', 2))
    await look(log)
    const before = (await log.stateRows!.place('c'))!
    expect(before.at).toBe(3)
    await erase(log, 'c', { seq: 3 }, AT_ONCE)
    const change = { epoch: before.epoch, at: 3, trimmed: 0, rows: new Map([row('a', 3)]) }
    expect(await log.stateRows!.keep('c', before, change)).toBeUndefined()
    await expect
      .poll(async () => {
        await look(log)
        return rowsIn(log.stateRows!)
      })
      .toMatchObject([{ at: 3, rows: 2 }, ['a', 1], ['b', 2]])
  })

  test('A history from elsewhere has rows where its settings ask for them', async () => {
    const log = await open()
    const piece = { from: 'aaaaaaaaaa.bbbbbbbbbb', head: 0, trimmed: 0 }
    await log.arrive!('c', piece)
    await log.arrive!('c', { ...piece, end: { settings: { state: true }, time: 0 } })
    expect(await log.stateRows!.place('c')).toMatchObject({ at: 0, rows: 0 })
  })
}
