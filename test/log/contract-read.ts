import { setImmediate } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { readHeader } from '../../src/block.ts'
import { encodeBody } from '../../src/body.ts'
import type { Log } from '../../src/log/log.ts'
import { event, range } from '../parts.ts'
import { type Open, somewhere } from './contract.ts'
import {
  ALL,
  append,
  BLOCKWISE,
  eventsOf,
  list,
  never,
  readAll,
  refusal,
  seqsAndValues,
  valueIn,
  watched,
} from './reading.ts'

/** Blocks of several sizes, one per append: 1, 2, … 12 events. */
async function fill(log: Log, channel: string): Promise<number> {
  let head = 0
  for (const size of range(1, 12)) head = (await append(log, channel, range(head + 1, head + size))).head
  return head
}

export function readContract(open: Open): void {
  test('A read from any place gives the events after it, once and in order', async () => {
    const at = somewhere()
    const before = await open({ at })
    const head = await fill(before, 'c')
    const expectAll = async (log: Log): Promise<void> => {
      const expectFrom = async (after: number): Promise<void> => {
        for (const limits of [ALL, BLOCKWISE, { events: 7, bytes: 300 }])
          expect((await readAll(log, 'c', { after }, limits)).map(valueIn)).toEqual(range(after + 1, head))
      }
      await Promise.all(range(0, head).map(expectFrom))
    }
    await expectAll(before)
    await before.close()
    await expectAll(await open({ at }))
  })

  test('A page says epoch, trimmed and head of the moment, and where it ends', async () => {
    const log = await open()
    const head = await fill(log, 'c')
    await log.trim('c', 4)
    const { epoch } = await log.info('c')
    const page = await log.read('c', { epoch, after: 5 }, ALL)
    expect(page).toMatchObject({ channel: 'c', epoch, after: 5, last: head, head, trimmed: 4, caughtUp: true })
    expect(eventsOf(page).map(valueIn)).toEqual(range(6, head))
  })

  test('A page that is read again says what has changed since', async () => {
    const log = await open()
    const head = await fill(log, 'c')
    const read = async (after: number): Promise<unknown> => {
      const { trimmed, head, blocks } = await log.read('c', { after }, ALL)
      return { trimmed, head, blocks: blocks.length }
    }
    for (const after of [0, 5, head - 1]) await read(after)
    await log.trim('c', 4)
    expect(await read(5)).toEqual({ trimmed: 4, head, blocks: 10 })
    expect(await read(head - 1)).toEqual({ trimmed: 4, head, blocks: 1 })
    expect(await read(head)).toEqual({ trimmed: 4, head, blocks: 0 })
    await append(log, 'c', ['next'])
    expect(await read(5)).toEqual({ trimmed: 4, head: head + 1, blocks: 11 })
    expect(await read(head - 1)).toEqual({ trimmed: 4, head: head + 1, blocks: 2 })
    expect(await read(head)).toEqual({ trimmed: 4, head: head + 1, blocks: 1 })
  })

  test('A page ends with the block that reaches a limit, and is never less than one block', async () => {
    const at = somewhere()
    const before = await open({ at })
    const head = await fill(before, 'c')
    const expectLimits = async (log: Log): Promise<void> => {
      const { blocks } = await log.read('c', { after: 0 }, ALL)
      const nextSize = (last: number): number => blocks.find((block) => readHeader(block).after === last)!.length
      const expectFrom = async (after: number): Promise<void> => {
        for (const [events, bytes] of [
          [1, 1e6],
          [5, 1e6],
          [20, 1e6],
          [1e4, 1],
          [1e4, 200],
          [1e4, 600],
        ] as const) {
          const page = await log.read('c', { after }, { events, bytes })
          const sizes = page.blocks.map((block) => block.length)
          const taken = eventsOf(page)
          expect(sizes.length).toBeGreaterThan(0)
          // Without its last block it is within both limits …
          const lastBlock = readHeader(page.blocks.at(-1)!)
          expect(taken.filter(({ seq }) => seq <= lastBlock.after).length).toBeLessThan(events)
          if (sizes.length > 1) expect(sum(sizes.slice(0, -1))).toBeLessThan(bytes)
          // … and it ends only where the next block would be beyond one.
          if (!page.caughtUp) expect(taken.length >= events || sum(sizes) + nextSize(page.last) > bytes).toBe(true)
        }
      }
      await Promise.all(range(0, head - 1).map(expectFrom))
    }
    await expectLimits(before)
    await before.close()
    await expectLimits(await open({ at }))
  })

  test('At the head a page is empty; reading never waits', async () => {
    const log = await open()
    const head = await fill(log, 'c')
    const page = await log.read('c', { after: head }, ALL)
    expect(page).toMatchObject({ after: head, last: head, head, caughtUp: true, blocks: [] })
    await log.configure('empty', {})
    expect(await log.read('empty', { after: 0 }, ALL)).toMatchObject({
      after: 0,
      last: 0,
      head: 0,
      trimmed: 0,
      blocks: [],
    })
  })

  test('Every place that is not in the history is refused by its name, with the facts of the moment', async () => {
    const log = await open()
    const head = await fill(log, 'c')
    await log.trim('c', 10)
    const { epoch } = await log.info('c')
    const facts = { epoch, trimmed: 10, head }
    const read = (after: number, epoch?: string) => refusal(log.read('c', epoch ? { epoch, after } : { after }, ALL))
    expect(await refusal(log.read('unknown', { after: 0 }, ALL))).toMatchObject({ code: 'no-channel' })
    for (const given of [undefined, epoch]) {
      for (const after of [0, 9]) expect(await read(after, given)).toMatchObject({ code: 'gap', after, ...facts })
      expect(await read(head + 1, given)).toMatchObject({ code: 'ahead-of-head', ...facts })
    }
    for (const after of [0, 10, head, head + 1])
      expect(await read(after, 'another')).toMatchObject({ code: 'epoch-changed', ...facts })
  })

  test('A position of a deleted history is told from one of the new one', async () => {
    const log = await open()
    const { epoch: old } = await append(log, 'c', ['a', 'b'])
    await log.delete('c')
    expect(await refusal(log.read('c', { epoch: old, after: 1 }, ALL))).toMatchObject({ code: 'no-channel' })
    const { epoch } = await append(log, 'c', ['x', 'y', 'z'])
    expect(await refusal(log.read('c', { epoch: old, after: 1 }, ALL))).toMatchObject({
      ...{ code: 'epoch-changed', epoch, trimmed: 0, head: 3 },
    })
    expect(await seqsAndValues(log, 'c', { epoch, after: 1 })).toEqual([
      [2, 'y'],
      [3, 'z'],
    ])
  })

  test('Readers amid appends see one history: every page goes on from the last', async () => {
    const log = await open()
    await append(log, 'c', [1])
    let done = false
    const writing = (async () => {
      for (const i of range(1, 150)) await Promise.all([append(log, 'c', [2 * i]), append(log, 'c', [2 * i + 1])])
      done = true
    })()
    const read = async (limits = ALL): Promise<unknown[]> => {
      const values: unknown[] = []
      for (let after = 0; ; ) {
        const atEnd = done
        const page = await log.read('c', { after }, limits)
        values.push(...eventsOf(page).map(valueIn))
        after = page.last
        if (atEnd && page.caughtUp) return values
        // A page from memory takes no turn of the event loop; the writer needs some.
        await setImmediate()
      }
    }
    const readers = await Promise.all([read(), read(BLOCKWISE), read({ events: 10, bytes: 500 })])
    await writing
    for (const values of readers) expect(values).toEqual(range(1, 301))
  })

  test('Large channels are read whole, from memory and from disk alike', async () => {
    const at = somewhere()
    const before = await open({ at })
    const data = new Uint8Array(100_000)
    for (const round of range(0, 4))
      await Promise.all(
        range(1, 20).map((i) =>
          before.append([{ channel: 'c', body: encodeBody([{ ...event(0), id: `${round * 20 + i}`, data }]) }]),
        ),
      )
    const ids = range(1, 100).map(String)
    expect((await readAll(before, 'c')).map(({ id }) => id)).toEqual(ids)
    await before.close()
    const log = await open({ at })
    expect((await readAll(log, 'c')).map(({ id }) => id)).toEqual(ids)
    expect((await readAll(log, 'c', { after: 0 }, BLOCKWISE)).map(({ id }) => id)).toEqual(ids)
  })

  test('changed resolves at once wherever a read would not be an empty page', async () => {
    const log = await open()
    const { epoch, head } = await append(log, 'c', ['a', 'b', 'c'])
    await log.trim('c', 2)
    await log.changed('c', { after: head - 1 }, never())
    await log.changed('c', { epoch, after: head - 1 }, never())
    await log.changed('c', { epoch, after: 0 }, never())
    await log.changed('c', { epoch, after: head + 1 }, never())
    await log.changed('c', { after: head + 1 }, never())
    await log.changed('c', { epoch: 'another', after: head }, never())
    await log.changed('unknown', { epoch, after: 0 }, never())
  })

  test('changed waits at the head until the next append, and a read then gives it', async () => {
    const log = await open()
    const { epoch, head } = await append(log, 'c', ['a'])
    const waits = [{ after: head }, { epoch, after: head }].map((from) => watched(log.changed('c', from, never())))
    await append(log, 'another', ['x'])
    await log.trim('c', 1)
    await log.commit('client', 'c', { seq: 1 })
    await log.configure('c', { note: 'n' })
    expect(waits.map(({ settled }) => settled)).toEqual([false, false])
    const appended = append(log, 'c', ['b'])
    await Promise.all(waits.map(({ promise }) => promise))
    expect(await seqsAndValues(log, 'c', { epoch, after: head })).toEqual([[2, 'b']])
    await appended
  })

  test('changed is woken by a delete, and by a history that begins anew', async () => {
    const log = await open()
    const first = await append(log, 'c', ['a'])
    const gone = log.changed('c', { epoch: first.epoch, after: 1 }, never())
    await log.delete('c')
    await gone
    expect(await refusal(log.read('c', { epoch: first.epoch, after: 1 }, ALL))).toMatchObject({ code: 'no-channel' })

    const second = await append(log, 'c', ['b'])
    const anew = log.changed('c', { epoch: second.epoch, after: 1 }, never())
    await log.delete('c')
    await append(log, 'c', ['c'])
    await anew
    const { epoch } = await log.info('c')
    expect(await refusal(log.read('c', { epoch: second.epoch, after: 1 }, ALL))).toMatchObject({
      ...{ code: 'epoch-changed', epoch, trimmed: 0, head: 1 },
    })
  })

  test('changed waits for a channel that does not exist, until it has something to read', async () => {
    const log = await open()
    const wait = watched(log.changed('c', { after: 0 }, never()))
    await append(log, 'another', ['x'])
    await log.configure('c', {})
    expect(wait.settled).toBe(false)
    await append(log, 'c', ['a'])
    await wait.promise
  })

  test('changed rejects with the reason of its signal, before and while it waits', async () => {
    const log = await open()
    const { head } = await append(log, 'c', ['a'])
    const gone = new AbortController()
    const waits = ['c', 'unknown'].map((c) => log.changed(c, { after: c === 'c' ? head : 0 }, gone.signal))
    const reason = new Error('the reader went away')
    gone.abort(reason)
    for (const wait of waits) await expect(wait).rejects.toBe(reason)
    await expect(log.changed('c', { after: head }, gone.signal)).rejects.toBe(reason)
    await append(log, 'c', ['b'])
    expect((await log.info('c')).head).toBe(2)
  })

  test('One signal may wait for many channels, and wait again', async () => {
    const log = await open()
    const gone = new AbortController()
    const names = range(1, 50).map((i) => `c${i}`)
    for (const after of [0, 1, 2]) {
      const waits = names.map((c) => log.changed(c, { after }, gone.signal))
      for (const c of names) await append(log, c, [after])
      await Promise.all(waits)
    }
    const waits = names.map((c) => refusalReason(log.changed(c, { after: 3 }, gone.signal)))
    gone.abort('done')
    expect(await Promise.all(waits)).toEqual(names.map(() => 'done'))
  })

  test('However appends and waits meet, no reader misses one', async () => {
    const log = await open()
    await append(log, 'c', [1])
    const follow = async (): Promise<unknown[]> => {
      const values: unknown[] = []
      for (let after = 0; after < 300; ) {
        const page = await log.read('c', { after }, ALL)
        values.push(...eventsOf(page).map(valueIn))
        after = page.last
        if (page.caughtUp && after < 300) await log.changed('c', { after }, never())
      }
      return values
    }
    const followers = range(1, 10).map(follow)
    for (const i of range(2, 300)) {
      const appended = append(log, 'c', [i])
      // Now and then several are under way at once.
      if (i % 3 === 0) await appended
    }
    for (const values of await Promise.all(followers)) expect(values).toEqual(range(1, 300))
  })

  test('info tells head, trimmed, the time of the newest event and the settings', async () => {
    const log = await open()
    expect(await refusal(log.info('c'))).toMatchObject({ code: 'no-channel' })
    const start = Date.now()
    const { epoch } = await append(log, 'c', ['a', 'b', 'c'])
    await log.trim('c', 1)
    const info = await log.info('c')
    expect(info).toEqual({ channel: 'c', epoch, head: 3, trimmed: 1, time: info.time, settings: {} })
    expect(info.time).toBeGreaterThanOrEqual(start)
    expect((await readAll(log, 'c', { after: 2 }))[0]!.time).toBe(info.time)
    expect(await list(log.channels('c'))).toEqual([info])
  })
}

const sum = (numbers: readonly number[]): number => numbers.reduce((a, b) => a + b, 0)
const refusalReason = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => 'resolved',
    (reason) => reason,
  )
