/** How rounds share the time, by a clock that only turns move. */
import { setImmediate as nextTurn } from 'node:timers/promises'
import { afterEach, expect, test, vi } from 'vitest'
import { Rounds } from '../../src/doors/rounds.ts'
import { range } from '../parts.ts'

afterEach(() => {
  vi.restoreAllMocks()
})

/** Rounds whose clock and rests are this test's: a rest is told, and is over in the next turn of the event loop. */
function timed(): { rounds: Rounds; rests: number[]; pass(ms: number): void } {
  let now = 0
  const rests: number[] = []
  vi.spyOn(performance, 'now').mockImplementation(() => now)
  vi.spyOn(globalThis, 'setTimeout').mockImplementation(((wake: () => void, ms: number) => {
    rests.push(ms)
    setImmediate(wake)
  }) as typeof setTimeout)
  const pass = (ms: number): void => {
    now += ms
  }
  return { rounds: new Rounds(), rests, pass }
}

/** Two rounds of `members` turns, each of which takes a tenth of a millisecond. Counts what others had of the second one. */
async function twoRounds(members: number, bytes: number, events = 2): Promise<{ rests: number[]; looks: number }> {
  const { rounds, rests, pass } = timed()
  let had = 0
  const member = {
    turn(): void {
      pass(0.1)
      rounds.gave(events, bytes)
      if (++had <= members) rounds.join(member)
    },
  }
  for (const _ of range(1, members)) rounds.join(member)
  while (had <= members) await nextTurn()
  let looks = 0
  for (; had < 2 * members; looks++) await nextTurn()
  return { rests, looks }
}

test('an idle server gives everyone a turn at once; who joins meanwhile is in the next round', async () => {
  const { rounds, rests } = timed()
  const turns: string[] = []
  rounds.join({ turn: () => turns.push('a') })
  rounds.join({
    turn() {
      turns.push('b')
      rounds.join({ turn: () => turns.push('c') })
    },
  })
  expect(turns).toEqual([])
  await nextTurn()
  expect(turns).toEqual(['a', 'b'])
  await nextTurn()
  expect(turns).toEqual(['a', 'b', 'c'])
  expect(rests).toEqual([])
})

test('a round of little goes out in short slices and is followed by a rest as long as itself', async () => {
  const { rests, looks } = await twoRounds(80, 200)
  expect(rests[0]).toBeGreaterThan(7.9)
  expect(rests[0]).toBeLessThan(8.1)
  expect(looks).toBeGreaterThanOrEqual(4)
})

test('after a round that took a while no rest is shorter than 3 ms, after a short one there is none', async () => {
  const loaded = await twoRounds(10, 200)
  expect(loaded.rests[0]).toBeGreaterThan(2.9)
  expect(loaded.rests[0]).toBeLessThan(3.1)
  vi.restoreAllMocks()
  expect((await twoRounds(3, 200)).rests).toEqual([])
})

test('no rest is longer than 20 ms', async () => {
  const { rests } = await twoRounds(1_000, 200)
  expect(rests[0]).toBeGreaterThan(19)
  expect(rests[0]).toBeLessThanOrEqual(20)
})

test('a round of much is followed by no rest, and others get few looks at the next one, however long it takes', async () => {
  const little = await twoRounds(1_000, 200)
  vi.restoreAllMocks()
  const much = await twoRounds(1_000, 64 * 1024)
  expect(much.rests).toEqual([])
  expect(much.looks).toBeLessThanOrEqual(8)
  expect(little.looks).toBeGreaterThan(4 * much.looks)
})

test('where each turn gave one event there is no rest, and others get few looks', async () => {
  const alone = await twoRounds(1_000, 200, 1)
  expect(alone.rests).toEqual([])
  expect(alone.looks).toBeLessThanOrEqual(8)
})
