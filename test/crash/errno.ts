/**
 * A system call of the store fails: {write, fdatasync, fsync, openat, rename, unlink} × {EIO, ENOSPC, EMFILE} × the
 * n-th × {once, for ever}, on one kind of the store's files, while opening and while running.
 *
 * LevelDB itself would acknowledge later writes and lose them at the next start; the log must not. Whatever fails, the
 * process says it by a code, and everything that was acknowledged before and after is there at the next open, once.
 */
import { mkdirSync, readFileSync, realpathSync } from 'node:fs'
import { join } from 'node:path'
import { encodeBody } from '../../src/body.ts'
import type { Log } from '../../src/log/log.ts'
import { openLog } from '../../src/log/open.ts'
import { find } from '../machine.ts'
import { dice } from './dice.ts'
import type { FaultClass, Tally } from './tally.ts'
import { mustHold, openAnyway, tallyOf } from './verdict.ts'
import { type Answer, examine, Life } from './witness.ts'

type Errno = 'EIO' | 'ENOSPC' | 'EMFILE'

/** Files of a store by what they are for. */
type Files = 'log' | 'table' | 'manifest' | 'mark' | 'holder' | 'directory'

/**
 * Which calls meet which files; how many of them come while a log opens, and how many at least in a life, counted on
 * the thread that makes them. LevelDB's own notes (LOG) are left out: it goes on without them.
 */
const CALLS: readonly (readonly [call: string, files: Files, opening: number, life: number])[] = [
  ['write', 'log', 3, 150],
  ['write', 'table', 3, 200],
  ['write', 'manifest', 3, 20],
  ['write', 'mark', 2, 35],
  ['write', 'holder', 1, 1],
  ['fdatasync', 'log', 3, 35],
  ['fdatasync', 'table', 1, 20],
  ['fdatasync', 'manifest', 2, 20],
  ['fdatasync', 'mark', 1, 2],
  ['fsync', 'directory', 3, 16],
  ['openat', 'log', 2, 14],
  ['openat', 'table', 3, 30],
  ['openat', 'manifest', 4, 4],
  ['openat', 'mark', 1, 1],
  ['openat', 'holder', 1, 1],
  ['openat', 'directory', 5, 45],
  ['rename', 'manifest', 1, 1],
  ['unlink', 'log', 1, 12],
  ['unlink', 'table', 2, 15],
  ['unlink', 'manifest', 1, 1],
]

export interface Case {
  readonly call: string
  readonly files: Files
  readonly errno: Errno
  readonly ever: boolean
  /** The first call that may fail, and the last. */
  readonly from: number
  readonly to: number
}

/** Every combination, in an order that spreads any run of neighbours over all of them. */
export const CASES: readonly Case[] = spread(
  CALLS.flatMap(([call, files, opening, life]) =>
    (['EIO', 'ENOSPC', 'EMFILE'] as const).flatMap((errno) =>
      [false, true].flatMap((ever) => [
        { call, files, errno, ever, from: 1, to: opening },
        ...(life > opening ? [{ call, files, errno, ever, from: opening + 1, to: life }] : []),
      ]),
    ),
  ),
)

/** Small log files: the log goes on to another, and compacts, every few dozen appends. */
const WRITE_BUFFER_BYTES = 64 * 1024
/** Answers of a life that no fault ended. */
const ANSWERS = 300
/** Answers after a fault that passed. */
const ANSWERS_AFTER = 60
/** Failures of a life whose fault stays. */
const FAILURES = 24
/** File numbers that a life may reach; calls on later files do not fail. */
const FILE_NUMBERS = 400
/** A life that has not shown what it does by then hangs, ms. */
const PATIENCE_MS = 30_000

const strace = find('strace')

export const errno: FaultClass = {
  name: 'errno',
  missing: () => (strace ? undefined : 'strace'),
  cycle: async (seed, dir) => (await suffer(CASES[seed % CASES.length]!, seed, dir)).tally,
}

export interface Suffered {
  readonly tally: Tally
  /** Calls that were made to fail. */
  readonly hits: number
  readonly says: string
}

/** One case in an empty directory; throws when a promise is broken. */
export async function suffer(what: Case, seed: number, base: string): Promise<Suffered> {
  const random = dice(seed)
  const dir = join(realpathSync(base), 'log')
  mkdirSync(dir)
  const nth = what.from + random(what.to - what.from + 1)
  const closes = random(2) === 0
  const before = random(3) === 0 ? [] : await prepare(dir, 20 + random(60))
  const name = `${what.call} ${what.files} ${what.errno} ${what.ever ? 'from' : 'at'} ${nth}, ${before.length > 0 ? 'old' : 'new'} log, seed ${seed}`
  const trace = join(base, 'trace')
  const life = new Life(
    { dir, workers: 8, seed, startAt: 1_000_000, options: { writeBufferBytes: WRITE_BUFFER_BYTES } },
    failing(dir, what, nth, trace),
  )
  try {
    const said = await endure(life, what, closes)
    const hits = readFileSync(trace, 'utf8').split('(INJECTED)').length - 1
    const broken = judgeLife(life, life.failures.slice(0, said), what, hits)
    if (broken.length > 0) throw new Error(`${name}: ${broken.join('; ')}`)
    const tally = await examineAfter(name, dir, [...before, ...life.answers], life)
    const says = `${name}: ${hits} hits, ${life.refused ?? 'opened'}, ${life.answers.length} answers, ${life.failures.length} failures (${life.failures[0]?.code ?? '-'})`
    return { tally, hits, says }
  } finally {
    await life.kill()
  }
}

/** Runs the life until the fault has shown what it does, then ends it. How many failures it said before its end began. */
async function endure(life: Life, { ever }: Case, closes: boolean): Promise<number> {
  const patience = setTimeout(() => void life.kill(), PATIENCE_MS)
  const isOver = (): boolean => life.child.exitCode !== null || life.child.signalCode !== null
  try {
    await Promise.race([life.ready.catch(() => {}), life.over])
    await life.until(() => life.failures.length > 0 || life.answers.length >= ANSWERS)
    if (ever) await life.until(() => life.failures.length >= FAILURES || life.answers.length >= ANSWERS)
    else {
      const { length } = life.answers
      await life.until(() => life.answers.length >= length + ANSWERS_AFTER)
    }
    const said = life.failures.length
    if (!isOver() && !closes) {
      await life.kill()
      return said
    }
    await life.close()
    const first = life.failures[0]
    if (life.child.signalCode !== null)
      throw new Error(
        `ended by ${life.child.signalCode}, or not within ${PATIENCE_MS} ms: ${life.answers.length} answers, the first ${first?.answersBefore} before ${life.failures.length} failures; ${life.stderr}`,
      )
    return said
  } finally {
    clearTimeout(patience)
  }
}

/** What the process itself may say and do under this fault. */
function judgeLife(life: Life, failures: Life['failures'], what: Case, hits: number): string[] {
  const broken: string[] = []
  const { exitCode } = life.child
  if (exitCode !== null && exitCode !== 0 && life.refused === undefined && life.notClosed === undefined)
    broken.push(`ended with ${exitCode} and no code: ${life.stderr}`)
  if (life.refused !== undefined && !isHonest(life.refused, what)) broken.push(`refused with ${life.refused}`)
  if (life.notClosed !== undefined && !isHonest(life.notClosed, what)) broken.push(`not closed: ${life.notClosed}`)
  const write = what.errno === 'ENOSPC' ? 'storage-full' : 'unavailable'
  const first = failures[0]
  if (first && first.code !== write) broken.push(`failed with ${first.code}, not ${write}; ${first.why ?? ''}`)
  const odd = failures.find(({ code }) => code !== 'unavailable' && code !== 'storage-full')
  if (odd) broken.push(`failed with ${odd.code}: ${odd.why}`)
  const read = life.reads.find((read) => read !== 'unavailable' && read !== 'no-channel' && typeof read !== 'number')
  if (read !== undefined) broken.push(`a read failed with ${read}`)
  const complaints = life.complaints.filter((said) => (said as { code?: string }).code !== 'unavailable')
  if (complaints.length > 0) broken.push(JSON.stringify(complaints.slice(0, 3)))
  if (hits === 0 && (life.refused !== undefined || failures.length > 0))
    broken.push('failed, and nothing was made to fail')
  // Nothing that can't be synced is acknowledged.
  const blocked = what.ever && what.files === 'log' && (what.call === 'write' || what.call === 'fdatasync')
  if (blocked && first && life.answers.length > first.answersBefore)
    broken.push(`${life.answers.length - first.answersBefore} answers while no log file can be written`)
  return broken
}

/** A failing disk is no damage, and no error of ours. */
const isHonest = (code: string, { errno }: Case): boolean =>
  code === 'io-error' || code === 'cannot-create' || code === (errno === 'ENOSPC' ? 'storage-full' : 'unavailable')

/** The disk is whole again: the log opens, holds everything once, and takes more. */
async function examineAfter(where: string, dir: string, answers: readonly Answer[], life: Life): Promise<Tally> {
  const { log, refused } = await openAnyway({ dir })
  try {
    const found = await examine(log, answers, life.saw)
    const tally = tallyOf(answers, found, { refused: refused !== undefined, complaints: [] })
    mustHold(where, tally, { refused: refused?.message, ...found, lost: found.lost.slice(0, 5) })
    await appendOne(log, 2_000_000)
    return tally
  } finally {
    await log.close()
  }
}

/** One event, as the appender makes them. */
export async function appendOne(log: Log, n: number, channel = 'a', pad = ''): Promise<Answer> {
  const data = Buffer.from(JSON.stringify({ n, i: 0, of: 1, channel, pad }))
  const body = encodeBody([{ type: 'crash', key: null, id: null, contentType: null, to: null, data }])
  const answers = await log.append([{ channel, body }])
  return { n, at: answers.map(({ channel, epoch, first, last }) => [channel, epoch, first, last] as const) }
}

/** A log with a past, whose files the next open must read. */
async function prepare(dir: string, appends: number): Promise<Answer[]> {
  const log = await openLog({ dir, writeBufferBytes: WRITE_BUFFER_BYTES })
  const answers: Answer[] = []
  for (let n = 0; n < appends; n++) answers.push(await appendOne(log, n, n % 3 === 0 ? 'a' : 'e', 'x'.repeat(4_000)))
  await log.close()
  return answers
}

/** `strace` before a command. Files are told apart by name: node's own calls must not be hit. */
export function failing(dir: string, what: Omit<Case, 'from' | 'to'>, nth: number, trace: string): string[] {
  const calls = what.call === 'write' ? 'write,pwrite64' : what.call
  return [
    ...[strace!, '-f', '--seccomp-bpf', '-qq', '-o', trace],
    ...namesOf(dir, what.files).flatMap((path) => ['-P', path]),
    ...['-e', `trace=${calls}`, '-e', `inject=${calls}:error=${what.errno}:when=${nth}${what.ever ? '+' : ''}`],
  ]
}

function namesOf(dir: string, files: Files): string[] {
  const store = join(dir, 'store')
  const numbered = (suffix: string): string[] =>
    Array.from({ length: FILE_NUMBERS }, (_, i) => join(store, `${String(i).padStart(6, '0')}.${suffix}`))
  switch (files) {
    case 'log':
      return numbered('log')
    case 'table':
      return numbered('ldb')
    case 'manifest':
      return [
        ...numbered('dbtmp'),
        ...Array.from({ length: FILE_NUMBERS }, (_, i) => join(store, `MANIFEST-${String(i).padStart(6, '0')}`)),
        join(store, 'CURRENT'),
      ]
    case 'mark':
      return [join(dir, 'high-water')]
    case 'holder':
      return [join(dir, 'holder.json')]
    case 'directory':
      return [store, dir]
  }
}

function spread<T>(values: readonly T[]): T[] {
  const random = dice(1)
  const shuffled = [...values]
  for (let i = shuffled.length - 1; i > 0; i--) {
    const j = random(i + 1)
    ;[shuffled[i], shuffled[j]] = [shuffled[j]!, shuffled[i]!]
  }
  return shuffled
}
