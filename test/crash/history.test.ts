import { describe, expect, test } from 'vitest'
import { SEED, tempDir } from '../parts.ts'
import { histories } from './histories.ts'
import { type AppendCall, type Broken, type Call, check, type Final } from './history.ts'
import { add, NOTHING, retries, table } from './tally.ts'

/** Histories at once: each waits for its server to start for much of its time. */
const LANES = 2
const HISTORIES = Number(process.env.HISTORIES ?? 10)

/** The log in the end: `c` holds the events A B C D, and the cursor of `web` at 3. */
const FINAL: ReadonlyMap<string, Final> = new Map([
  ['c', { epoch: 'x', events: ['A', 'B', 'C', 'D'], cursors: new Map([['web', 3]]) }],
  ['d', { epoch: 'y', events: ['E'], cursors: new Map() }],
])

/** An append of `c` that was answered between two moments, at `first`. */
const appended = (id: string, [start, end]: [number, number], first: number, ...texts: string[]): AppendCall => ({
  ...({ op: 'append', who: id[0]!, id, start, end, outcome: 'answered', entries: [{ channel: 'c', texts }] } as const),
  placed: [{ channel: 'c', epoch: 'x', first, last: first + texts.length - 1 }],
})
const read = ([start, end]: [number, number], after: number, head: number, ...texts: string[]): Call => ({
  ...({ op: 'read', who: 'r', channel: 'c', epoch: 'x', start, end, after, head } as const),
  events: texts.map((text, i) => [after + 1 + i, text]),
})
const followed = (end: number, ...events: [number, string][]): Call => ({
  ...{ op: 'follow', who: 'f', channel: 'c', epoch: 'x', end, events },
})
const commit = ([start, end]: [number, number | undefined], asked?: number, seq?: number): Call => ({
  ...({ op: 'cursor', who: 'web', channel: 'c', start } as const),
  ...(end !== undefined && { end }),
  ...(asked !== undefined && { asked }),
  ...(seq !== undefined && { seq }),
})
const unanswered = (id: string, start: number, ...texts: string[]): AppendCall => ({
  ...({ op: 'append', who: id[0]!, id, start, outcome: 'unknown', entries: [{ channel: 'c', texts }] } as const),
})
const conflict = (id: string, [start, end]: [number, number], expected: number, head: number): AppendCall => ({
  ...({ op: 'append', who: id[0]!, id, start, end, outcome: 'refused', head } as const),
  entries: [{ channel: 'c', texts: ['refused'], expected }],
})
const expecting = (call: AppendCall, expected: number): AppendCall => ({
  ...call,
  entries: call.entries.map((entry) => ({ ...entry, expected })),
})

const GOOD: readonly Call[] = [
  expecting(appended('p-0', [0, 4], 1, 'A', 'B'), 0),
  conflict('q-0', [1, 6], 0, 2),
  read([5, 7], 0, 2, 'A', 'B'),
  // Sent twice under its key, answered once.
  unanswered('p-1', 8, 'C'),
  appended('p-1', [10, 12], 3, 'C'),
  // Never answered, and there.
  unanswered('r-0', 11, 'D'),
  // Never answered, and not there.
  unanswered('r-1', 11, 'nowhere'),
  followed(9, [1, 'A'], [2, 'B']),
  followed(14, [3, 'C']),
  commit([9, 10], 2, 2),
  commit([13, undefined], 3),
  commit([15, 16], undefined, 3),
]

/** Final of `c` with other events or another cursor. */
const ending = (events: readonly string[], cursor = 3): ReadonlyMap<string, Final> =>
  new Map([...FINAL, ['c', { epoch: 'x', events, cursors: new Map([['web', cursor]]) }]])

const several = (outcome: 'answered' | 'unknown'): AppendCall => ({
  ...({ op: 'append', who: 's', id: 's-0', start: 20, end: 21, outcome } as const),
  entries: [
    { channel: 'c', texts: ['S'] },
    { channel: 'd', texts: ['E'] },
  ],
})

const BAD: readonly [what: string, broken: Broken, calls: readonly Call[], final?: ReadonlyMap<string, Final>][] = [
  ['an answered append is not there', 'lost', [appended('p-2', [20, 21], 5, 'F')]],
  ['an answered append is there twice', 'duplicated', [], ending(['A', 'B', 'C', 'D', 'C'])],
  ['an unanswered append is there twice', 'duplicated', [], ending(['A', 'B', 'C', 'D', 'D'])],
  ['an append is elsewhere than answered', 'misplaced', [], ending(['A', 'B', 'D', 'C'])],
  [
    'an append is answered with another channel',
    'misplaced',
    [
      {
        ...unanswered('r-0', 20, 'D'),
        end: 21,
        outcome: 'answered',
        placed: [{ channel: 'd', epoch: 'y', first: 1, last: 1 }],
      },
    ],
  ],
  ['half of an append is there', 'torn', [unanswered('r-2', 20, 'F', 'G')], ending(['A', 'B', 'C', 'D', 'F'])],
  ['one of two channels has its part', 'torn', [several('unknown')]],
  ['a refused append is there', 'refused-but-there', [], ending(['A', 'B', 'C', 'D', 'refused'])],
  ['a retry is appended again', 'answered-twice', [appended('p-1', [20, 21], 4, 'C')]],
  ['a later append stands before', 'order', [appended('z-0', [20, 30], 4, 'D'), appended('z-1', [20.5, 31], 3, 'C')]],
  ['a winner does not stand behind what it expected', 'expected', [expecting(appended('z-0', [0, 20], 3, 'C'), 1)]],
  ['two win the same head', 'expected', [expecting(appended('z-0', [0, 20], 1, 'A', 'B'), 0)]],
  ['a conflict with the right head', 'expected', [conflict('z-0', [5, 20], 2, 2)]],
  ['a conflict tells a head of long ago', 'went-back', [conflict('z-0', [13, 20], 4, 1)]],
  ['a reader saw what is not there', 'taken-back', [read([20, 21], 4, 5, 'F')]],
  ['a reader saw other bytes', 'taken-back', [read([20, 21], 3, 4, 'other')]],
  ['a follower saw what is not there', 'taken-back', [followed(20, [4, 'F'])]],
  ['a head goes back from read to read', 'went-back', [read([8, 9], 2, 2), read([20, 21], 2, 4), read([22, 23], 2, 3)]],
  ['a read does not show what was answered', 'went-back', [read([13, 14], 2, 2)]],
  [
    'an append stands before a head told earlier',
    'went-back',
    [read([8, 8.5], 4, 4), appended('z-0', [9, 20], 3, 'C')],
  ],
  ['a follower misses an event', 'hole', [followed(20, [5, 'E'])], ending(['A', 'B', 'C', 'D', 'E'])],
  ['a follower gets an event twice', 'hole', [followed(20, [3, 'C'])]],
  ['a page leaves an event out', 'hole', [{ ...read([20, 21], 1, 4), events: [[3, 'C']] } as Call]],
  ['a cursor goes back', 'cursor-behind', [commit([20, 21], undefined, 2)]],
  ['a commit is answered with less', 'cursor-behind', [commit([13, 21], 3, 2)]],
  ['an answered commit is lost', 'cursor-behind', [], ending(['A', 'B', 'C', 'D'], 2)],
  ['a cursor is ahead of what was asked', 'cursor-ahead', [], ending(['A', 'B', 'C', 'D'], 4)],
  ['a cursor knows what is asked later', 'cursor-ahead', [commit([11, 12], undefined, 3)]],
  ['a read shows another history', 'epoch', [{ ...read([20, 21], 2, 4), epoch: 'z' } as Call]],
]

describe('the history checker', () => {
  test('A history that keeps every promise passes', () => {
    expect(check(GOOD, FINAL)).toEqual([])
  })

  test.each(BAD)('%s: %s', (_, broken, calls, final = FINAL) => {
    expect(check([...GOOD, ...calls], final).map((it) => it.broken)).toContain(broken)
  })
})

test(`${HISTORIES} histories over every door, the server killed and stopped amid them, keep every promise`, {
  timeout: 60_000 + HISTORIES * 30_000,
}, async () => {
  console.log(`seed ${SEED}`)
  let tally = NOTHING
  const dirs = Array.from({ length: HISTORIES }, tempDir)
  const lane = async (first: number): Promise<void> => {
    for (let i = first; i < HISTORIES; i += LANES) {
      const one = await histories.cycle(SEED + i, dirs[i]!)
      tally = add(tally, one)
    }
  }
  await Promise.all(Array.from({ length: LANES }, (_, first) => lane(first)))
  console.log(`${table(new Map([[histories.name, tally]]))}\n${retries.answered} appends sent again`)
  expect(tally.cycles).toBe(HISTORIES)
  expect(retries.answered).toBeGreaterThan(HISTORIES)
})
