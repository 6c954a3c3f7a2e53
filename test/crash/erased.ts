/**
 * kill -9 amid erasing: what was answered as erased is in no file and in no answer, whatever is killed later; what was
 * being erased is so after it was asked for again; every other event is what it was, and so is the state.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { NewEvent } from '../../src/event.ts'
import { erase } from '../../src/log/erase.ts'
import type { Log } from '../../src/log/log.ts'
import { openLog } from '../../src/log/open.ts'
import { States } from '../../src/log/states.ts'
import { verifyLog } from '../../src/log/verify.ts'
import { ALL, eventsOf, readAll } from '../log/reading.ts'
import { type Dice, dice } from './dice.ts'
import { APPENDS, CHANNEL, PEOPLE, peopleEvents } from './erasing-script.ts'
import { killedWhen } from './teller.ts'

/** Small enough that log files rotate and tables are made amid it. */
const LOG_OPTIONS = { writeBufferBytes: 64 * 1024 }

export interface ErasedTally {
  readonly kills: number
  readonly appended: number
  /** People. */
  readonly erased: number
  /** Kills amid the erasing of one: before all of that one's events were gone, and behind that. */
  readonly amid: Readonly<Record<'events' | 'space', number>>
}

interface Life {
  readonly done: Map<number, number>
  asked: number | undefined
  readonly erased: string[]
  erasing: string | undefined
  steps: number
}

/** One directory, killed so many times. @throws when anything that was promised does not hold */
export async function erasedKills(seed: number, dir: string, kills: number): Promise<ErasedTally> {
  const random = dice(seed)
  /** By seq, all that was appended but tombstones. */
  const appended = new Map<number, NewEvent>()
  const gone = new Set<string>()
  const amid = { events: 0, space: 0 }
  for (let life = 0; life < kills; life++) {
    const said = await oneLife(dir, life, random)
    for (const key of said.erased) gone.add(key)
    for (const [n, first] of said.done)
      for (const [i, event] of peopleEvents(life, n).entries()) appended.set(first + i, event)
    const log = await openLog({ dir, ...LOG_OPTIONS })
    try {
      // A file that a read still held when its space was given back goes when the log is opened.
      expectNowhere(dir, gone, `after the kill of life ${life}`)
      await takeUnanswered(log, appended, life, said)
      if (said.erasing !== undefined) {
        const { events } = await erase(log, CHANNEL, { key: said.erasing }, { restTimes: 0 })
        amid[events > 0 ? 'events' : 'space']++
        gone.add(said.erasing)
      }
      await judge(log, appended, gone)
    } finally {
      await log.close()
    }
    expectNowhere(dir, gone, `after what life ${life} left was ended`)
  }
  return { kills, appended: appended.size, erased: gone.size, amid }
}

/** What was asked for and not answered is there whole, or not at all. */
async function takeUnanswered(
  log: Log,
  appended: Map<number, NewEvent>,
  life: number,
  { asked, done }: Life,
): Promise<void> {
  if (asked === undefined || done.has(asked)) return
  const should = peopleEvents(life, asked)
  const known = Math.max(0, ...appended.keys())
  const { head } = await log.info(CHANNEL)
  const found = (await readAll(log, CHANNEL, { after: Math.min(known, head) })).filter(({ data }) => data !== null)
  if (found.length === 0) return
  const first = found[0]!.seq - should.findIndex((event) => textOf(event) === textOf(found[0]!))
  for (const [i, event] of should.entries()) appended.set(first + i, event)
}

const textOf = ({ key, data }: NewEvent): string => `${key} ${data && Buffer.from(data)}`

/** Everything is there but what is gone, tombstones stand for that alone, and the state is what follows from it. */
async function judge(log: Log, appended: ReadonlyMap<number, NewEvent>, gone: ReadonlySet<string>): Promise<void> {
  const found = await readAll(log, CHANNEL)
  const there = new Set(found.map(({ seq }) => seq))
  const state = new Map<string, number>()
  for (const event of found) {
    const should = appended.get(event.seq)
    const isRight = should ? textOf(should) === textOf(event) : event.data === null && gone.has(event.key!)
    if (!isRight) throw new Error(`event ${event.seq} is ${textOf(event)}, not ${should && textOf(should)}`)
    if (event.data !== null && gone.has(event.key!)) throw new Error(`event ${event.seq} of ${event.key} is not gone`)
    if (event.key !== null && event.data !== null) state.set(event.key, event.seq)
  }
  for (const [seq, { key }] of appended)
    if (!there.has(seq) && !gone.has(key!)) throw new Error(`event ${seq} of ${key} is not there`)
  const states = new States(log)
  const place = await states.open(CHANNEL)
  const told = eventsOf(await states.page(CHANNEL, place, 0, ALL)).map(({ key, seq }) => `${key} ${seq}`)
  const should = [...state].map(([key, seq]) => `${key} ${seq}`)
  if (told.sort().join() !== should.sort().join()) throw new Error(`the state is ${told}, not ${should}`)
  const { whole, findings } = await verifyLog(log)
  if (!whole) throw new Error(JSON.stringify(findings))
}

/** @throws when a file of the log holds what was erased */
function expectNowhere(dir: string, gone: ReadonlySet<string>, when: string): void {
  for (const entry of readdirSync(dir, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue
    const path = join(entry.parentPath, entry.name)
    const bytes = readFileSync(path)
    for (const key of gone) if (bytes.includes(`secret of ${key}"`)) throw new Error(`${key} is in ${path} ${when}`)
  }
}

/** Kills the process after some steps, amid erasing. */
async function oneLife(dir: string, life: number, random: Dice): Promise<Life> {
  const said: Life = { done: new Map(), asked: undefined, erased: [], erasing: undefined, steps: 0 }
  // Erasing one person takes about as many steps as there are blocks with that person, and a few to give space back.
  const steps = random(PEOPLE * APPENDS)
  const args = { program: 'erasing.js', args: [dir, `${life}`], logOptions: LOG_OPTIONS }
  await killedWhen(
    () => said.steps > steps || said.erased.length === PEOPLE,
    args,
    (line) => take(said, line),
    random,
  )
  return said
}

function take(said: Life, line: Record<string, unknown>): void {
  if ('ask' in line) said.asked = line.ask as number
  else if ('done' in line) said.done.set(line.done as number, line.first as number)
  else if ('erase' in line) said.erasing = line.erase as string
  else if ('erased' in line) {
    said.erased.push(line.erased as string)
    said.erasing = undefined
  } else if ('verb' in line) said.steps++
}
