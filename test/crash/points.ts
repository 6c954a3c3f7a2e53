/**
 * kill -9 at every point that matters: each sync, rename, removal and creation of a file that a scripted run asks for,
 * one after the other. The process dies as it asks; the next point is what comes after it.
 */
import { mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { find } from '../machine.ts'
import { playedOf, reviewLeft } from './critic.ts'
import { type Dice, dice } from './dice.ts'
import { sceneOf } from './scene.ts'
import { add, type FaultClass, NOTHING } from './tally.ts'
import { type Call, linesOf, record, straceOf } from './trace.ts'
import { mustHold } from './verdict.ts'
import { built } from './witness.ts'

/** Steps of the scene: a few log files, a trim, a delete, a close and an open. */
const LENGTH = 60

/** The n-th call of its kind on a path. */
interface Point {
  readonly calls: string
  readonly path: string
  readonly nth: number
}

export interface PointsOptions {
  /** Taken by the dice; all of them when there are no more. */
  readonly points: number
  /** Told how many of the points were met, of how many that there are. */
  readonly onMet?: (met: number, all: number) => void
}

export function points({ points: most, onMet }: PointsOptions): FaultClass {
  return {
    name: 'kill at a point',
    missing: () => (find('strace') ? undefined : 'strace'),
    async cycle(seed, dir) {
      const root = join(dir, 'stage')
      const player = [process.execPath, built('play.js'), join(root, 'log'), `${seed}`, `${LENGTH}`]
      mkdirSync(root)
      const all = pointsOf(await record(player, root, join(dir, 'trace')))
      const scene = sceneOf(seed, LENGTH)
      let tally = NOTHING
      let met = 0
      for (const point of sample(all, most, dice(seed))) {
        rmSync(root, { recursive: true, force: true })
        mkdirSync(root)
        const { lines, signal } = await linesOf([...killAt(point), ...player])
        if (signal === 'SIGKILL') met++
        const { wrong, refused, ...found } = await reviewLeft(join(root, 'log'), scene, playedOf(lines))
        tally = mustHold(`kill at a point, seed ${seed}`, add(tally, found), {
          point,
          refused,
          wrong,
          said: lines.slice(-4),
        })
      }
      onMet?.(met, all.length)
      return tally
    },
  }
}

const KINDS = { sync: 'fsync,fdatasync', rename: 'rename', unlink: 'unlink', create: 'openat', mkdir: 'mkdir' } as const

function pointsOf(calls: readonly Call[]): Point[] {
  const counts = new Map<string, number>()
  const found: Point[] = []
  for (const one of calls) {
    if (one.call === 'say' || one.call === 'write' || one.call === 'truncate') continue
    const id = `${one.call} ${one.path}`
    const nth = (counts.get(id) ?? 0) + 1
    counts.set(id, nth)
    found.push({ calls: KINDS[one.call], path: one.path, nth })
  }
  return found
}

/** Without --seccomp-bpf, under which strace sends no signals. */
const killAt = ({ calls, path, nth }: Point): string[] =>
  straceOf('-o', '/dev/null', '-P', path, '-e', `trace=${calls}`, '-e', `inject=${calls}:signal=SIGKILL:when=${nth}`)

/** In their order. */
function sample<T>(all: readonly T[], most: number, random: Dice): T[] {
  const left = [...all.keys()]
  const taken: number[] = []
  while (taken.length < most && left.length > 0) taken.push(...left.splice(random(left.length), 1))
  return taken.sort((a, b) => a - b).map((i) => all[i]!)
}
