/**
 * kill -9 amid compaction by key: readers that keep a state by key outlive the process that appends and compacts; what
 * each may see after a kill, and must know in the end, is held against all that was appended. So is the state that
 * begins with the rows which the process kept meanwhile, wherever the kill left them.
 */
import type { Log } from '../../src/log/log.ts'
import { openLog } from '../../src/log/open.ts'
import { States } from '../../src/log/states.ts'
import { verifyLog } from '../../src/log/verify.ts'
import { History, KeyedReader } from '../log/keyed.ts'
import { eventsOf } from '../log/reading.ts'
import { type Dice, dice } from './dice.ts'
import { CHANNEL, keyedEvents } from './keyed-script.ts'
import { killedWhen } from './teller.ts'

/** Small enough that log files rotate and tables are made amid it. */
const LOG_OPTIONS = { writeBufferBytes: 128 * 1024 }
const READERS = 4
/** Appends of one life are numbered from here on. */
const APPENDS_OF_A_LIFE = 1e6

/** Where kills fell, and what the readers were told. */
export interface KeyedTally {
  readonly kills: number
  readonly appended: number
  /** By what was under way; a kill counts where it fell amid such a step. */
  readonly amid: Readonly<Record<'replace' | 'clean' | 'reclaim' | 'keep' | 'drop', number>>
  /** Lives that left rows of a state to begin with. */
  readonly rows: number
  readonly seen: number
  readonly gaps: number
  readonly resets: number
}

interface Life {
  readonly done: Map<number, number>
  asked: number | undefined
  trim: number
  trimmed: number
  steps: number
  readonly under: Set<string>
}

/** One directory, killed so many times. @throws when anything that a reader may rely on does not hold */
export async function keyedKills(seed: number, dir: string, kills: number): Promise<KeyedTally> {
  const random = dice(seed)
  const history = new History()
  const readers: KeyedReader[] = []
  const amid = { replace: 0, clean: 0, reclaim: 0, keep: 0, drop: 0 }
  let rows = 0
  let bounds = { trim: 0, trimmed: 0 }
  for (let life = 0; life < kills; life++) {
    const said = await oneLife(dir, (seed % 1e6) * kills * APPENDS_OF_A_LIFE + life * APPENDS_OF_A_LIFE + 1, random)
    for (const verb of said.under) amid[verb as keyof typeof amid]++
    for (const [n, first] of said.done) {
      if (first !== history.head + 1) throw new Error(`append ${n} was answered ${first}, the head was ${history.head}`)
      history.add(keyedEvents(n))
    }
    bounds = { trim: Math.max(bounds.trim, said.trim), trimmed: Math.max(bounds.trimmed, said.trimmed) }
    const log = await openLog({ dir, ...LOG_OPTIONS })
    try {
      await judge(log, history, said, bounds)
      if (await judgeState(log, history)) rows++
      while (readers.length < READERS) readers.push(await KeyedReader.begin(history, log, CHANNEL))
      for (const reader of readers) {
        await comeBack(reader, log, random, `reader-${readers.indexOf(reader)}`)
        for (let pages = random(12); pages > 0 && (await reader.goOn({ events: 1 + random(60), bytes: 1e6 })); pages--);
      }
    } finally {
      await log.close()
    }
  }
  const log = await openLog({ dir, ...LOG_OPTIONS })
  try {
    for (const reader of readers) {
      await reader.comeBack(log)
      while (await reader.goOn({ events: 1_000, bytes: 1e6 }));
      reader.judge()
    }
  } finally {
    await log.close()
  }
  const sum = (what: 'seen' | 'gaps' | 'resets'): number => readers.reduce((all, { count }) => all + count[what], 0)
  return { kills, appended: history.head, amid, rows, seen: sum('seen'), gaps: sum('gaps'), resets: sum('resets') }
}

async function judge(
  log: Log,
  history: History,
  { asked, done }: Life,
  bounds: { readonly trim: number; readonly trimmed: number },
): Promise<void> {
  const { head, trimmed } = await log.info(CHANNEL)
  // What was asked for and not answered is there whole, or not at all.
  if (asked !== undefined && !done.has(asked) && head > history.head) history.add(keyedEvents(asked))
  if (trimmed > bounds.trim || trimmed < bounds.trimmed)
    throw new Error(`trimmed is ${trimmed}: ${bounds.trim} was asked, ${bounds.trimmed} answered`)
  await history.judgeAll(log, CHANNEL)
  const { whole, findings } = await verifyLog(log)
  if (!whole) throw new Error(JSON.stringify(findings))
}

/** The state at the head: the newest of each key that is not trimmed. True when it began with rows. */
async function judgeState(log: Log, history: History): Promise<boolean> {
  const begunWith = await log.stateRows!.place(CHANNEL)
  const states = new States(log)
  const place = await states.open(CHANNEL)
  const found: [string, number][] = []
  for (let after = 0; after < place.at; ) {
    const page = await states.page(CHANNEL, place, after, { events: 100, bytes: 1e6 })
    found.push(...eventsOf(page).map(({ key, seq }): [string, number] => [key!, seq]))
    after = page.last
  }
  const { trimmed } = await log.info(CHANNEL)
  const should = [...history.stateAt(history.head)].filter(([, seq]) => seq > trimmed)
  const byKey = (of: [string, number][]): string => JSON.stringify(of.sort())
  if (byKey(found) !== byKey(should)) throw new Error(`the state is ${byKey(found)}, not ${byKey(should)}`)
  return (begunWith?.rows ?? 0) > 0
}

/** By what it was told last, or by its cursor. */
async function comeBack(reader: KeyedReader, log: Log, random: Dice, client: string): Promise<void> {
  const { epoch, after } = reader.place
  if (random(2) === 0 || epoch === undefined) return reader.comeBack(log)
  await log.seek(client, CHANNEL, { seq: after, epoch })
  return reader.comeBack(log, { client })
}

const VERBS = ['replace', 'replace', 'clean', 'reclaim', 'keep', 'keep'] as const

/** Kills the process after some steps of compaction, amid one of a kind or soon after it. */
async function oneLife(dir: string, first: number, random: Dice): Promise<Life> {
  const life: Life = { done: new Map(), asked: undefined, trim: 0, trimmed: 0, steps: 0, under: new Set() }
  const steps = random(40)
  const verb = VERBS[random(VERBS.length)]!
  const args = { program: 'squeeze.js', args: [dir, `${first}`], logOptions: LOG_OPTIONS }
  await killedWhen(
    () => life.steps > steps && life.under.has(verb),
    args,
    (said) => take(life, said),
    random,
  )
  return life
}

function take(life: Life, said: Record<string, unknown>): void {
  if ('ask' in said) life.asked = said.ask as number
  else if ('done' in said) life.done.set(said.done as number, said.first as number)
  else if ('trim' in said) life.trim = Math.max(life.trim, said.trim as number)
  else if ('trimmed' in said) life.trimmed = Math.max(life.trimmed, said.trimmed as number)
  else if ('verb' in said) {
    life.steps++
    if (said.is === 'asked') life.under.add(said.verb as string)
    else life.under.delete(said.verb as string)
  }
}
