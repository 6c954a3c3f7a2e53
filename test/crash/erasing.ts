/**
 * The process that the kills amid erasing end: it appends events of people and of others to one channel, whose state is
 * kept on disk, and erases one person after the other while it goes on appending.
 *
 *   node erasing.js DIR LIFE      the people of this life are its own      LOG_OPTIONS: more options of the log, as JSON
 *
 *   {"ask": n} · {"done": n, "first": seq} · {"erase": key} · {"erased": key} · {"verb", "is": "asked" | "done"}
 */
import { writeSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { encodeBody } from '../../src/body.ts'
import { erase } from '../../src/log/erase.ts'
import type { Log } from '../../src/log/log.ts'
import { openLog } from '../../src/log/open.ts'
import { StateWriter } from '../../src/log/state-writer.ts'
import { APPENDS, CHANNEL, PEOPLE, peopleEvents, personOf } from './erasing-script.ts'

const [dir, life] = [process.argv[2]!, Number(process.argv[3])]
const logOptions = process.env.LOG_OPTIONS ? (JSON.parse(process.env.LOG_OPTIONS) as object) : {}

/** Told with one synchronous write: a line that the parent has is a line that was said before the kill. */
const tell = (line: unknown): void => {
  writeSync(1, `${JSON.stringify(line)}\n`)
}

const log = await openLog({ dir, ...logOptions })
await log.configure(CHANNEL, { state: true })

async function append(n: number): Promise<void> {
  tell({ ask: n })
  const [answer] = await log.append([{ channel: CHANNEL, body: encodeBody(peopleEvents(life, n)) }])
  tell({ done: n, first: answer!.first })
}

/** The log, each step of erasing told before and after it is taken. */
const told = new Proxy(log, {
  get(target, name) {
    const verb: unknown = Reflect.get(target, name)
    if (name !== 'replace' && name !== 'reclaim') return typeof verb === 'function' ? verb.bind(target) : verb
    return async (...args: unknown[]) => {
      tell({ verb: name, is: 'asked' })
      const answer: unknown = await (verb as (...args: unknown[]) => Promise<unknown>).apply(target, args)
      tell({ verb: name, is: 'done' })
      return answer
    }
  },
}) as Log

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
