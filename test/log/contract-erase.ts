/** What is erased is read by nobody from then on, and nothing else is another one. */
import { expect, test } from 'vitest'
import { encodeBody } from '../../src/body.ts'
import { AUDIT_CHANNEL } from '../../src/event.ts'
import { compactChannel } from '../../src/log/compact.ts'
import { erase } from '../../src/log/erase.ts'
import type { Capability, Log } from '../../src/log/log.ts'
import { event, range } from '../parts.ts'
import { type Open, somewhere } from './contract.ts'
import { ALL, append, BLOCKWISE, eventsOf, readAll, refusal, valueIn } from './reading.ts'

const AT_ONCE = { restTimes: 0 } as const

/** Twelve events in three blocks, of keys a and b and none. */
async function fill(log: Log): Promise<void> {
  for (const first of [1, 5, 9]) {
    const events = range(first, first + 3).map((i) => event(`v${i}`, { key: [null, 'a', 'b'][i % 3]! }))
    await log.append([{ channel: 'c', body: encodeBody(events) }])
  }
}
const seqsOf = async (log: Log, after = 0): Promise<number[]> =>
  (await readAll(log, 'c', { after })).map(({ seq }) => seq)
const recordsOf = async (log: Log): Promise<unknown[]> =>
  (await readAll(log, AUDIT_CHANNEL)).map((it) => ({ type: it.type, ...(valueIn(it) as object) }))

export function eraseContract(open: Open, capabilities: readonly Capability[]): void {
  if (!capabilities.includes('erase')) {
    test('An engine that does not erase says so', async () => {
      const log = await open()
      await append(log, 'c', [1])
      expect(await refusal(erase(log, 'c', { seq: 1 }))).toMatchObject({ code: 'not-supported', capability: 'erase' })
    })
    return
  }

  test('One event is erased: from every place, and after closing and opening, all others are read', async () => {
    const at = somewhere()
    let log = await open({ at })
    await fill(log)
    const { epoch } = await log.info('c')
    const erased = { channel: 'c', epoch, events: 1, first: 6, last: 6, tombstone: null }
    expect(await erase(log, 'c', { seq: 6 }, { ...AT_ONCE, by: 'ann' })).toEqual(erased)
    for (const reopened of [false, true]) {
      if (reopened) {
        await log.close()
        log = await open({ at })
      }
      for (const after of range(0, 11))
        expect(await seqsOf(log, after)).toEqual(range(after + 1, 12).filter((seq) => seq !== 6))
    }
    const told = { who: 'ann', channel: 'c', epoch }
    expect(await recordsOf(log)).toEqual([
      { type: 'erase', ...told, seq: 6 },
      { type: 'erased', ...told, events: 1, first: 6, last: 6 },
    ])
    expect(await erase(log, 'c', { seq: 6 }, AT_ONCE)).toMatchObject({ events: 0, first: null })
  })

  test('Who reads page after page is given nothing of what is erased ahead of it', async () => {
    const log = await open()
    for (const _ of range(1, 4)) await fill(log)
    const { epoch } = await log.info('c')
    let after = 0
    for (const _ of range(1, 3)) after = (await log.read('c', { epoch, after }, BLOCKWISE)).last
    expect(after).toBe(12)
    await erase(log, 'c', { seq: 18 }, AT_ONCE)
    const seqs: number[] = []
    while (after < 48) {
      const page = await log.read('c', { epoch, after }, BLOCKWISE)
      seqs.push(...eventsOf(page).map(({ seq }) => seq))
      after = page.last
    }
    expect(seqs).toEqual(range(13, 48).filter((seq) => seq !== 18))
  })

  test('All events of a key are erased, and whoever holds one is told by a tombstone', async () => {
    const log = await open()
    await fill(log)
    const before = await log.info('c')
    expect(await erase(log, 'c', { key: 'a' }, AT_ONCE)).toMatchObject({ events: 4, first: 1, last: 10, tombstone: 13 })
    const left = await readAll(log, 'c')
    expect(left.map(({ seq }) => seq)).toEqual([2, 3, 5, 6, 8, 9, 11, 12, 13])
    expect(left.at(-1)).toMatchObject({ key: 'a', data: null })
    expect(await log.info('c')).toMatchObject({ epoch: before.epoch, head: 13, trimmed: 0 })
    // Nothing is left of it, so nothing more is appended.
    for (const key of ['a', 'none'])
      expect(await erase(log, 'c', { key }, AT_ONCE)).toMatchObject({ events: 0, tombstone: null })
    expect(await log.info('c')).toMatchObject({ head: 13 })
    await log.append([{ channel: 'c', body: encodeBody([event('anew', { key: 'a' })]) }])
    expect(await erase(log, 'c', { key: 'a' }, AT_ONCE)).toMatchObject({
      events: 2,
      first: 13,
      last: 14,
      tombstone: 15,
    })
    expect(JSON.stringify(await recordsOf(log))).not.toMatch(/anew|"a"/)
  })

  test('What is not there can not be erased', async () => {
    const log = await open()
    await fill(log)
    await log.trim('c', 3)
    for (const [seq, code] of [
      [0, 'ahead-of-head'],
      [3, 'gap'],
      [13, 'ahead-of-head'],
    ] as const)
      expect([seq, await refusal(erase(log, 'c', { seq }))]).toMatchObject([seq, { code }])
    expect(await refusal(erase(log, 'none', { key: 'a' }))).toMatchObject({ code: 'no-channel' })
    expect(await erase(log, 'c', { seq: 4 }, AT_ONCE)).toMatchObject({ events: 1 })
    expect(await seqsOf(log, 3)).toEqual(range(5, 12))
  })

  test('Erasing, compaction, trims and appends at once: each does what it says', async () => {
    const log = await open()
    for (const _ of range(1, 8)) await fill(log)
    const [erased] = await Promise.all([
      erase(log, 'c', { key: 'b' }, AT_ONCE),
      compactChannel(log, 'c', { ...AT_ONCE, minLag: 0 }),
      log.trim('c', 7),
      append(log, 'c', ['later']),
    ])
    expect(erased.tombstone).toBeGreaterThan(96)
    const left = await readAll(log, 'c', { after: 7 })
    expect(left.filter(({ key }) => key === 'b').map(({ seq, data }) => [seq, data])).toEqual([
      [erased.tombstone, null],
    ])
    expect(left.filter(({ key }) => key === null).length).toBe(8 * 4 - 2 + 1)
    expect((await log.read('c', { after: 7 }, ALL)).last).toBe(98)
  })
}
