/**
 * Every moment of a run as a power cut may leave it: the calls of one scripted run are recorded; for many prefixes of
 * them the directory is built as it may look then, opened, and held against what had been answered by then.
 */
import { closeSync, fstatSync, mkdirSync, openSync, readSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import { find } from '../machine.ts'
import { playedOf, type Review, reviewLeft } from './critic.ts'
import { type Dice, dice } from './dice.ts'
import { Disk, FATES, MODELS, type Model } from './disk.ts'
import { type Step, sceneOf } from './scene.ts'
import { add, type FaultClass, NOTHING } from './tally.ts'
import { type Call, record } from './trace.ts'
import { mustHold } from './verdict.ts'
import { built } from './witness.ts'

/** Steps of the scene: enough for some ten log files, and compactions of them. */
const LENGTH = 220
/** Bad states that are told in full. */
const TOLD = 5

export interface ReplayOptions {
  readonly states: number
  readonly models?: readonly Model[]
}

interface Moment {
  /** Calls that were made before the cut. */
  readonly calls: number
  readonly model: Model
  readonly seed: number
}

export function replay({ states, models = MODELS }: ReplayOptions): FaultClass {
  return {
    name: `replay, ${models.join(' and ')}`,
    missing: () => (find('strace') ? undefined : 'strace'),
    async cycle(seed, dir) {
      const recorded = join(dir, 'recorded')
      mkdirSync(recorded)
      const player = [process.execPath, built('play.js'), join(recorded, 'log'), `${seed}`, `${LENGTH}`]
      const calls = (await record(player, recorded, join(dir, 'trace'))).filter(isOfTheLog)
      const scene = sceneOf(seed, LENGTH)
      const broken: unknown[] = []
      let tally = NOTHING
      for (const moment of momentsOf(calls, states, models, dice(seed))) {
        const state = join(dir, 'state')
        const { wrong, refused, ...found } = await judge(moment, calls, scene, recorded, state)
        tally = add(tally, found)
        if (wrong.length > 0 && broken.length < TOLD) broken.push({ ...moment, last: told(calls, moment), wrong })
        rmSync(state, { recursive: true, force: true })
      }
      return mustHold(`replay, seed ${seed}`, tally, broken)
    },
  }
}

/** LevelDB's diary and the names of lock holders are of no weight. */
const isOfTheLog = (call: Call): boolean =>
  call.call === 'say' || !/\/(LOG|LOG\.old|LOCK|holder\.json)$/.test('to' in call ? call.to : call.path)

/** Most moments lie at a sync, a change of names or an answer; a few anywhere. */
function momentsOf(calls: readonly Call[], states: number, models: readonly Model[], random: Dice): Moment[] {
  const turns = calls.flatMap(({ call }, i) => (call === 'write' ? [] : [i, i + 1]))
  return Array.from({ length: states }, (_, i) => ({
    calls: random(10) === 0 ? random(calls.length + 1) : turns[random(turns.length)]!,
    model: models[i % models.length]!,
    seed: random(2 ** 31),
  })).sort((a, b) => a.calls - b.calls)
}

async function judge(
  moment: Moment,
  calls: readonly Call[],
  scene: readonly Step[],
  recorded: string,
  root: string,
): Promise<Review> {
  const random = dice(moment.seed)
  const disk = new Disk(moment.model)
  const before = calls.slice(0, moment.calls)
  for (const call of before) disk.take(call)
  mkdirSync(root)
  const names = FATES[random(3)]!
  // Bytes that nobody synced do not overtake names that nobody synced, where anything keeps an order.
  const data = moment.model === 'strict' && names !== 'all' ? 'none' : FATES[random(3)]!
  disk.write(root, recorded, { data, names }, random)
  const dir = join(root, 'log')
  settle(join(dir, 'high-water'))
  const played = playedOf(before.flatMap((call) => (call.call === 'say' ? [call.line] : [])))
  const found = await reviewLeft(dir, scene, played)
  // LevelDB renames CURRENT and removes what the old one needs in one breath: no order, no guard. What is lost is told.
  const isTold = moment.model === 'unordered' && found.refused
  return isTold ? { ...found, lost: 0, holes: 0, wrong: [] } : found
}

/** The mark knows the inode and the birth of its file; here it is where it was written first. */
function settle(path: string): void {
  let fd: number
  try {
    fd = openSync(path, 'r+')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return
    throw error
  }
  try {
    for (const at of [0, 4_096]) {
      const slot = Buffer.alloc(36)
      if (readSync(fd, slot, 0, 36, at) < 36 || crc32(slot.subarray(0, 32)) !== slot.readUInt32BE(32)) continue
      slot.writeBigUInt64BE(fstatSync(fd, { bigint: true }).ino, 24)
      slot.writeUInt16BE(0, 14)
      slot.writeUInt32BE(crc32(slot.subarray(0, 32)), 32)
      writeSync(fd, slot, 0, 36, at)
    }
  } finally {
    closeSync(fd)
  }
}

/** The calls before a cut, for people. */
const told = (calls: readonly Call[], { calls: count }: Moment): string[] =>
  calls
    .slice(Math.max(0, count - 6), count)
    .map((call) => (call.call === 'say' ? `says ${call.line}` : `${call.call} ${call.path.split('/').at(-1)}`))
