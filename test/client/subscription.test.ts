import { expect, test } from 'vitest'
import {
  HELD_BYTES_MAX,
  HELD_EVENTS_MAX,
  type Item,
  jsonFrame,
  newSubscription,
  type Start,
  type Subscription,
} from '../../src/client/subscription.ts'
import { sameHistory } from '../../src/epoch.ts'
import { hasCode, TidemarkError } from '../../src/errors.ts'
import { eventsOf } from './scripted.ts'

const frame = (first: number, last: number, fields: object = {}, bytes = 100) =>
  jsonFrame({ epoch: 'e1', after: first - 1, last, events: eventsOf(first, last), ...fields }, bytes)

const follow = (start: Start = { after: 0 }, onRoom: () => void = () => {}) => newSubscription('a', start, onRoom)

const brief = (item: Item): unknown => (item.is === 'events' ? item.events.map(({ seq }) => seq) : item.is)

async function take(subscription: Subscription, count: number): Promise<unknown[]> {
  const items: unknown[] = []
  while (items.length < count) items.push(brief((await subscription.take())!))
  return items
}

test('a frame that begins within what we have gives only what is new', async () => {
  const subscription = follow()
  expect(subscription.events(frame(1, 3))).toBe(true)
  expect(subscription.events(frame(2, 5))).toBe(true)
  expect(subscription.events(frame(4, 5))).toBe(true)
  expect(subscription.start).toEqual({ after: 5, epoch: 'e1' })
  expect(await take(subscription, 2)).toEqual([
    [1, 2, 3],
    [4, 5],
  ])
})

test('a frame that begins behind our place is not taken, and our place stays', () => {
  const subscription = follow({ after: 3, epoch: 'e1' })
  expect(subscription.events(frame(5, 6))).toBe(false)
  expect(subscription.start).toEqual({ after: 3, epoch: 'e1' })
})

test('a frame of another history is not taken without a reset', () => {
  const subscription = follow({ after: 3, epoch: 'e1' })
  expect(subscription.events(frame(4, 6, { epoch: 'e2' }))).toBe(false)
  subscription.reset({ epoch: 'e2', trimmed: 0, head: 6 })
  expect(subscription.events(frame(1, 6, { epoch: 'e2' }))).toBe(true)
})

test('the run that compaction raised is adopted', () => {
  const subscription = follow({ after: 3, epoch: 'e1~1' })
  expect(subscription.events(frame(4, 6, { epoch: 'e1~2' }))).toBe(true)
  expect(subscription.start).toEqual({ after: 6, epoch: 'e1~2' })
})

test('frames whose own events do not rise within their range are not taken', () => {
  for (const seqs of [
    [1, 3, 2],
    [1, 1],
    [0, 1],
    [2, 4],
  ]) {
    const events = seqs.map((seq) => ({ ...eventsOf(1, 1)[0]!, seq }))
    expect(follow().events(frame(1, 3, { events }))).toBe(false)
  }
})

test('what does not continue our place again and again is data-loss, told after what had arrived', async () => {
  const subscription = follow()
  subscription.events(frame(1, 2))
  for (let i = 0; i < 3; i++) expect(subscription.events(frame(8, 9))).toBe(false)
  expect(await take(subscription, 1)).toEqual([[1, 2]])
  await expect(subscription.take()).rejects.toMatchObject({ code: 'data-loss', details: { after: 2, upTo: 7 } })
})

test('progress forgives a broken chain', () => {
  const subscription = follow()
  for (let round = 0; round < 5; round++) {
    const after = subscription.place!.after
    expect(subscription.events(frame(after + 5, after + 6))).toBe(false)
    expect(subscription.events(frame(after + 5, after + 6))).toBe(false)
    expect(subscription.events(frame(after + 1, after + 2))).toBe(true)
  }
  expect(subscription.isOver).toBe(false)
})

test('a gap moves our place to what is left, and is told in its order', async () => {
  const subscription = follow()
  subscription.events(frame(1, 2))
  subscription.gap({ trimmed: 10 })
  subscription.events(frame(11, 12))
  expect(await take(subscription, 3)).toEqual([[1, 2], 'gap', [11, 12]])
  subscription.gap({ trimmed: 5 })
  expect(subscription.place).toEqual({ epoch: 'e1', after: 12 })
})

test('positions that pass without an event move our place, and are told', async () => {
  const subscription = follow()
  subscription.events(frame(1, 700, { events: [] }))
  subscription.events(frame(701, 1_000, { events: [] }))
  expect(subscription.start).toEqual({ after: 1_000, epoch: 'e1' })
  expect(await subscription.take()).toMatchObject({ is: 'events', after: 0, last: 700, events: [] })
  expect(await subscription.take()).toMatchObject({ is: 'events', after: 700, last: 1_000, events: [] })
})

test('being caught up is told once until there is something new', async () => {
  const subscription = follow()
  subscription.events(frame(1, 2))
  subscription.caughtup({ seq: 2 })
  subscription.caughtup({ seq: 2 })
  subscription.events(frame(3, 4))
  subscription.caughtup({ seq: 4 })
  expect(await take(subscription, 4)).toEqual([[1, 2], 'caughtup', [3, 4], 'caughtup'])
})

test('a subscription is full by events or by bytes, and tells when the app made room', async () => {
  let room = 0
  const many = follow({ after: 0 }, () => room++)
  for (let first = 1; !many.isFull; first += 100) many.events(frame(first, first + 99))
  expect(many.place!.after).toBeGreaterThanOrEqual(HELD_EVENTS_MAX)
  expect(many.place!.after).toBeLessThan(HELD_EVENTS_MAX + 100)
  await take(many, 25)
  expect(room).toBe(0)
  await take(many, 15)
  expect(room).toBeGreaterThan(0)
  const large = follow()
  large.events(frame(1, 1, {}, HELD_BYTES_MAX))
  expect(large.isFull).toBe(true)
})

test('a start that only the server knows is taken over from its answer', () => {
  const head = follow({ after: 'head' })
  expect(head.start).toEqual({ after: 'head' })
  head.subscribed({ epoch: 'e1', after: 40 })
  expect(head.start).toEqual({ after: 40, epoch: 'e1' })
})

test('an answer that a reset may follow moves nothing before the next frame settles it', () => {
  // The socket may be lost before the reset arrives; then it must be asked for again, as at first.
  const numbered = follow({ after: 50, epoch: 'e1' })
  numbered.subscribed({ epoch: 'e2', after: 0 })
  numbered.detach()
  expect(numbered.start).toEqual({ after: 50, epoch: 'e1' })
  const beyond = follow({ after: 50 })
  beyond.subscribed({ epoch: 'e1', after: 0 })
  expect(beyond.start).toEqual({ after: 50 })
  const run = follow({ after: 50, epoch: 'e1~1' })
  run.subscribed({ epoch: 'e1~2', after: 50 })
  expect(run.start).toEqual({ after: 50, epoch: 'e1~1' })
  const cursor = follow({ cursor: true })
  cursor.subscribed({ epoch: 'e1', after: 7 })
  cursor.detach()
  expect(cursor.start).toEqual({ cursor: true })
})

test('what comes after that answer settles it', () => {
  const cursor = follow({ cursor: true })
  cursor.subscribed({ epoch: 'e1', after: 7 })
  cursor.caughtup({ seq: 7 })
  expect(cursor.start).toEqual({ after: 7, epoch: 'e1' })
  const reset = follow({ after: 50, epoch: 'e1' })
  reset.subscribed({ epoch: 'e2', after: 0 })
  reset.reset({ epoch: 'e2', trimmed: 0, head: 9 })
  expect(reset.start).toEqual({ after: 0, epoch: 'e2' })
})

test('a channel that nobody made yet is followed from its first event, which is no reset', async () => {
  const subscription = follow({ after: 'earliest' })
  subscription.subscribed({ epoch: null, after: 0 })
  expect(subscription.start).toEqual({ after: 0 })
  expect(subscription.events(frame(1, 2))).toBe(true)
  expect(await take(subscription, 1)).toEqual([[1, 2]])
})

test('leaving forgets what is held; failing gives it out first', async () => {
  const left = follow()
  left.events(frame(1, 2))
  left.end()
  expect(await left.take()).toBeUndefined()
  const failed = follow()
  failed.events(frame(1, 2))
  failed.end(new TidemarkError('forbidden', 'no'))
  failed.events(frame(3, 4))
  expect(await take(failed, 1)).toEqual([[1, 2]])
  await expect(failed.take()).rejects.toSatisfy((error) => hasCode(error, 'forbidden'))
})

test('histories are the same but for the run of compaction', () => {
  expect(sameHistory('a.b', 'a.b~3')).toBe(true)
  expect(sameHistory('a.b~2', 'a.b~3')).toBe(true)
  expect(sameHistory('a.b', 'a.c')).toBe(false)
})
