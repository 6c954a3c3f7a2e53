/**
 * kill -9: a process that appends, commits, trims, deletes, closes and opens is killed at a moment that falls anywhere,
 * one in four of them amid a close or an open; what its log holds then is held against what the process had said.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { openLog } from '../../src/log/open.ts'
import { Actor, Ledger, type Placed } from './actor.ts'
import { dice } from './dice.ts'
import { Judge } from './judge.ts'
import { add, type FaultClass, NOTHING, type Tally } from './tally.ts'
import { mustHold } from './verdict.ts'

/** Kills of one directory: a log that has been killed before is killed again. */
export const KILLS = 10
const WORKERS = 12
/** Small enough that log files rotate and tables are made amid it. */
const LOG_OPTIONS = { writeBufferBytes: 128 * 1024 }
export const DEEDS_OF_A_LIFE = 1e6

export const kill: FaultClass = {
  name: 'kill -9',
  missing: () => undefined,
  async cycle(seed, dir) {
    const ledger = new Ledger()
    const judge = new Judge(ledger)
    let tally = NOTHING
    for (let life = 0; life < KILLS; life++) tally = add(tally, await oneKill(seed, life, dir, ledger, judge))
    // From the start once more: what was whole after one kill is whole after all of them.
    await hold(dir, new Judge(ledger), `seed ${seed}, from the start`)
    return { ...tally, acknowledged: acknowledged(ledger) }
  },
}

async function oneKill(seed: number, life: number, dir: string, ledger: Ledger, judge: Judge): Promise<Tally> {
  const random = dice(seed * KILLS + life)
  const first = ((seed % 1e6) * KILLS + life) * DEEDS_OF_A_LIFE
  const actor = new Actor(ledger, { dir, workers: WORKERS, first, logOptions: LOG_OPTIONS })
  try {
    const where = random(8)
    if (where === 0) await actor.until(({ openings }) => openings > 0)
    else if (where === 1) await actor.until(({ closings }) => closings > 0)
    else {
      const answers = 1 + random(150)
      await actor.until(({ answered }) => answered >= answers)
    }
    await delay(random(40) / 4)
  } finally {
    await actor.kill()
  }
  return hold(dir, judge, `seed ${seed}, kill ${life}`)
}

/** @throws Broken when the log does not hold what it must */
export async function hold(dir: string, judge: Judge, what: string): Promise<Tally> {
  const log = await openLog({ dir, ...LOG_OPTIONS })
  try {
    const { lost, duplicated, broken } = await judge.examine(log)
    const tally = { ...NOTHING, lost: lost.length, duplicated: duplicated.length, holes: broken.length }
    return mustHold(what, { ...tally, cycles: 1 }, { lost, duplicated, broken })
  } finally {
    await log.close()
  }
}

/** Events whose append was answered. */
export function acknowledged(ledger: Ledger): number {
  let events = 0
  for (const { answer } of ledger.deeds.values())
    if (Array.isArray(answer) && Array.isArray(answer[0]))
      for (const [, , first, last] of answer as Placed[]) events += last - first + 1
  return events
}
