/**
 * The process that the kills amid erasing end: it appends events of people and of others to one channel, whose state is
 * kept on disk, and erases one person after the other while it goes on appending.
 *
 *   node erasing.js DIR LIFE      the people of this life are its own      LOG_OPTIONS: more options of the log, as JSON
 *
 *   {"ask": n} · {"done": n, "first": seq} · {"erase": key} · {"erased": key} · {"verb", "is": "asked" | "done"}
 */
import { setTimeout as delay } from 'node:timers/promises'
import { encodeBody } from '../../src/body.ts'
import { erase } from '../../src/log/erase.ts'
import type { Log } from '../../src/log/log.ts'
import { openLog } from '../../src/log/open.ts'
import { StateWriter } from '../../src/log/state-writer.ts'
import { APPENDS, CHANNEL, PEOPLE, peopleEvents, personOf } from './erasing-script.ts'
import { tell, toldOf } from './telling.ts'

const [dir, life] = [process.argv[2]!, Number(process.argv[3])]
const logOptions = process.env.LOG_OPTIONS ? (JSON.parse(process.env.LOG_OPTIONS) as object) : {}

const log = await openLog({ dir, ...logOptions })
await log.configure(CHANNEL, { state: true })

async function append(n: number): Promise<void> {
  tell({ ask: n })
  const [answer] = await log.append([{ channel: CHANNEL, body: encodeBody(peopleEvents(life, n)) }])
  tell({ done: n, first: answer!.first })
}

/** Each step of erasing is told before and after it is taken. */
const told = toldOf<Log>(log, ['replace', 'reclaim'])

const writer = new StateWriter(log, { pace: { batch: 1, lookEvery: 20, restTimes: 0 } })
writer.start()
for (let n = 0; n < APPENDS; n++) await append(n)

async function eraseAll(): Promise<void> {
  for (let i = 0; i < PEOPLE; i++) {
    const key = personOf(life, i)
    tell({ erase: key })
    await erase(told, CHANNEL, { key }, { restTimes: 0 })
    tell({ erased: key })
  }
}

/** Of others: what is erased is never appended again. */
async function goOn(): Promise<void> {
  for (let n = APPENDS; ; n++) {
    await append(n)
    await delay(1)
  }
}

await Promise.all([eraseAll(), goOn()])
