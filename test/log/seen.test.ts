import { setImmediate } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import type { Reader } from '../../src/audience.ts'
import { encodeBody } from '../../src/body.ts'
import { EARLIEST } from '../../src/event.ts'
import { Follower, hasEvents, readOrWait } from '../../src/log/follow.ts'
import type { Log } from '../../src/log/log.ts'
import { seenBy } from '../../src/log/seen.ts'
import { event, range, tempLog } from '../parts.ts'
import { ALL, append, BLOCKWISE, eventsOf, until, valueIn, watched } from './reading.ts'

const anna: Reader = { sub: 'anna', groups: [] }
const forBen = { users: ['ben'], groups: [] }

/** Appends values in one block, those of `hidden` for somebody else. */
const appendHiding = (log: Log, values: readonly number[], hidden: readonly number[]) =>
  log.append([
    {
      channel: 'c',
      body: encodeBody(values.map((value) => event(value, hidden.includes(value) ? { to: forBen } : {}))),
    },
  ])

describe('a log as a reader sees it', () => {
  test('withholds what is for others, keeps every seq, and gives all of it to who may see everything', async () => {
    const log = await tempLog()
    await appendHiding(log, range(1, 6), [2, 5, 6])
    const page = await seenBy(log, () => anna).read('c', { after: 0 }, ALL)
    expect(page).toMatchObject({ after: 0, last: 6, head: 6 })
    expect(eventsOf(page).map(({ seq, to }) => [seq, to])).toEqual([
      [1, null],
      [3, null],
      [4, null],
    ])
    const all = await seenBy(log, () => undefined).read('c', { after: 0 }, ALL)
    expect(eventsOf(all).map(({ to }) => to)).toEqual([null, forBen, null, null, forBen, forBen])
  })

  test('shares a page in which nothing is addressed with everybody else', async () => {
    const log = await tempLog()
    await append(log, 'c', [1, 2])
    const page = log.recent('c', { after: 0 }, ALL)
    expect(page?.isShared).toBe(true)
    expect(seenBy(log, () => anna).recent('c', { after: 0 }, ALL)).toBe(page)
  })

  test('asks for each page what its reader may see', async () => {
    const log = await tempLog()
    await appendHiding(log, [1], [1])
    let reader = anna
    const source = seenBy(log, () => reader)
    expect(hasEvents(await source.read('c', { after: 0 }, ALL))).toBe(false)
    reader = { sub: 'ben', groups: [] }
    expect(hasEvents(await source.read('c', { after: 0 }, ALL))).toBe(true)
  })

  test('is followed past what is withheld, which moves the place', async () => {
    const log = await tempLog()
    for (const value of range(1, 9)) await appendHiding(log, [value], [1, 2, 5, 9])
    const { follower } = await Follower.open(
      seenBy(log, () => anna),
      'c',
      { after: EARLIEST },
    )
    const seqs: number[] = []
    for (let item = await follower.next(BLOCKWISE); item; item = await follower.next(BLOCKWISE))
      if (item.is === 'page') seqs.push(...eventsOf(item.page).map(({ seq }) => seq))
    expect(seqs).toEqual([3, 4, 6, 7, 8])
    expect(follower.place.after).toBe(9)
  })
})

/** What `anna` polls for. */
const polled = (log: Log, after = 1, limits = ALL, signal?: AbortSignal) =>
  readOrWait(
    seenBy(log, () => anna),
    'c',
    { after },
    limits,
    until(log, signal),
  )

describe('a long poll past what is withheld', () => {
  test('does not end with it, and tells the positions that passed with the event that comes', async () => {
    const log = await tempLog()
    await append(log, 'c', [1])
    const poll = watched(polled(log))
    await appendHiding(log, [2, 3], [2, 3])
    await appendHiding(log, [4], [4])
    // Whatever the poll does with what came, it has done it by then.
    for (const _ of range(1, 20)) await setImmediate()
    expect(poll.settled).toBe(false)
    await appendHiding(log, [5, 6], [5])
    const page = await poll.promise
    expect(page).toMatchObject({ after: 1, last: 6 })
    expect(eventsOf(page).map(valueIn)).toEqual([6])
  })

  test('that is over tells how far it came', async () => {
    const log = await tempLog()
    await append(log, 'c', [1])
    const over = new AbortController()
    const poll = watched(polled(log, 1, ALL, over.signal))
    for (const value of range(2, 5)) await appendHiding(log, [value], [value])
    for (const _ of range(1, 20)) await setImmediate()
    over.abort()
    const page = await poll.promise
    expect(page).toMatchObject({ after: 1, last: 5, caughtUp: true })
    expect(eventsOf(page)).toEqual([])
  })

  test('begins amid a block, and reads through a history that holds nothing for its reader', async () => {
    const log = await tempLog()
    await appendHiding(log, range(1, 10), range(1, 10))
    for (const value of range(11, 40)) await appendHiding(log, [value], [value])
    await appendHiding(log, [41, 42], [41])
    const page = await polled(log, 7, BLOCKWISE)
    expect(page).toMatchObject({ after: 7, last: 42 })
    expect(eventsOf(page).map(valueIn)).toEqual([42])
  })
})
