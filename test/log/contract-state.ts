/** Rows of states are what the log says at their place, whole or not there; they are the setting's, and the channel's. */
import { expect, test } from 'vitest'
import { encodeBody } from '../../src/body.ts'
import type { NewEvent } from '../../src/event.ts'
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
const look = (log: Log): Promise<void> => new StateWriter(log, { pace: { ...AT_ONCE, trimEvery: 0 } }).look()

async function rowsIn(rows: StateRows): Promise<[place: StatePlace | undefined, ...rows: [string, number][]]> {
  const found: [string, number][] = []
  const place = await rows.read('c', (some) => {
    found.push(...some.map(({ key, seq }) => [key, seq] as [string, number]))
    return true
  })
  return [place, ...found]
}
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

  test('What erases an event voids the rows in the same write, also those that are on their way', async () => {
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
