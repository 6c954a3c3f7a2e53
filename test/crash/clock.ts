/**
 * A clock that jumps an hour forward and back while the mixed load runs, and from life to life: times in the log never
 * fall, what was answered is there, and every retry gets its first answer.
 */
import { execFileSync } from 'node:child_process'
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { Actor, Ledger } from './actor.ts'
import { dice } from './dice.ts'
import { Judge } from './judge.ts'
import { acknowledged, DEEDS_OF_A_LIFE, hold } from './kill.ts'
import { type FaultClass, NOTHING } from './tally.ts'

const HOUR_S = 3_600
const LIVES = 3
const JUMPS_OF_A_LIFE = 2
const WORKERS = 12

/** Debian keeps it beside its other libraries. */
const places = ['x86_64', 'aarch64'].map((cpu) => `/usr/lib/${cpu}-linux-gnu/faketime/libfaketime.so.1`)
const LIBRARY = places.find((path) => existsSync(path))

/** A clock of its own for a process, moved by `set`; timers go by the monotonic clock and do not see it. */
export function clockIn(dir: string): { env: Record<string, string>; set(seconds: number): void } {
  const file = join(dir, 'clock')
  const set = (seconds: number): void => writeFileSync(file, `${seconds < 0 ? '' : '+'}${seconds}s\n`)
  set(0)
  return {
    set,
    env: {
      ...{ LD_PRELOAD: LIBRARY!, FAKETIME_TIMESTAMP_FILE: file },
      ...{ FAKETIME_NO_CACHE: '1', DONT_FAKE_MONOTONIC: '1', FAKETIME_DONT_FAKE_MONOTONIC: '1' },
    },
  }
}

export const clock: FaultClass = {
  name: 'jumping clock',
  missing() {
    if (!LIBRARY) return 'libfaketime (apt: faketime)'
    const said = execFileSync(process.execPath, ['-p', 'Date.now()'], {
      env: { ...process.env, LD_PRELOAD: LIBRARY, FAKETIME: '-1000000s', DONT_FAKE_MONOTONIC: '1' },
    })
    return Number(said) < Date.now() - 900_000_000 ? undefined : 'a libfaketime that moves the clock of node'
  },
  async cycle(seed, dir) {
    const random = dice(seed)
    const [ledger, time, log] = [new Ledger(), clockIn(dir), join(dir, 'log')]
    const judge = new Judge(ledger)
    for (let life = 0; life < LIVES; life++) {
      const first = ((seed % 1e6) * LIVES + life) * DEEDS_OF_A_LIFE
      const actor = new Actor(ledger, { dir: log, workers: WORKERS, first, logOptions: {}, env: time.env })
      try {
        for (let jump = 0; jump < JUMPS_OF_A_LIFE; jump++) {
          const answers = actor.answered + 20 + random(40)
          await actor.until(({ answered }) => answered >= answers)
          time.set((random(3) - 1) * HOUR_S)
        }
        const answers = actor.answered + 20
        await actor.until(({ answered }) => answered >= answers)
        await delay(random(10))
      } finally {
        await actor.kill()
      }
      // The judge's own clock is the true one: a jump for the log, whenever the last one was not 0.
      await hold(log, judge, `seed ${seed}, life ${life}`)
    }
    return { ...NOTHING, cycles: 1, acknowledged: acknowledged(ledger) }
  },
}
