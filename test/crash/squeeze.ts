/**
 * The process that the keyed kills end: it appends events with keys to one channel, trims it at times, compacts it over
 * and over, tombstones included, and keeps its state on disk, with as little rest as it can.
 *
 *   node squeeze.js DIR FIRST      appends FIRST, FIRST + 1, …      LOG_OPTIONS: more options of the log, as JSON
 *
 *   {"ask": n} · {"done": n, "first": seq} · {"trim": seq} · {"trimmed": seq} · {"verb", "is": "asked" | "done"}
 */
import { setTimeout as delay } from 'node:timers/promises'
import { encodeBody } from '../../src/body.ts'
import { compactChannel } from '../../src/log/compact.ts'
import type { Log } from '../../src/log/log.ts'
import { openLog } from '../../src/log/open.ts'
import type { StateRows } from '../../src/log/state-rows.ts'
import { StateWriter } from '../../src/log/state-writer.ts'
import { dice } from './dice.ts'
import { CHANNEL, keyedEvents } from './keyed-script.ts'
import { tell, toldOf } from './telling.ts'

const [dir, first] = [process.argv[2]!, Number(process.argv[3])]
const logOptions = process.env.LOG_OPTIONS ? (JSON.parse(process.env.LOG_OPTIONS) as object) : {}

const random = dice(first)
const log = await openLog({ dir, ...logOptions })
let head = 0

async function append(): Promise<void> {
  for (let n = first; ; n++) {
    tell({ ask: n })
    const body = encodeBody(keyedEvents(n))
    const [answer] = await log.append([{ channel: CHANNEL, body }])
    tell({ done: n, first: answer!.first })
    head = answer!.last
    if (random(60) > 0) continue
    const upTo = Math.max(0, head - 40 - random(200))
    tell({ trim: upTo })
    tell({ trimmed: (await log.trim(CHANNEL, upTo)).trimmed })
  }
}

const rows = toldOf<StateRows>(log.stateRows!, ['keep', 'drop'])
const told = toldOf<Log>(log, ['replace', 'clean', 'reclaim'])

async function compact(): Promise<void> {
  for (;;) {
    const tombstoneAge = random(3) === 0 ? 60_000 : -60_000
    const newestBytes = random(3) === 0 ? 500 : 1 << 20
    await compactChannel(told, CHANNEL, { minLag: random(3) * 20, tombstoneAge, newestBytes, restTimes: 0 })
  }
}

/** Rows that go at times, and come again. */
async function keepState(): Promise<void> {
  await log.configure(CHANNEL, { state: true })
  const withRows = new Proxy(log, {
    get(target, name) {
      const member: unknown = Reflect.get(target, name)
      return name === 'stateRows' ? rows : typeof member === 'function' ? member.bind(target) : member
    },
  })
  const writer = new StateWriter(withRows, { pace: { batch: 1, lookEvery: 20, trimEvery: 0, restTimes: 0 } })
  for (;;) {
    await writer.look()
    await delay(random(3))
    if (random(150) === 0) await rows.drop(CHANNEL)
  }
}

tell({ opened: true })
tell({ ask: first - 1 })
const [begun] = await log.append([{ channel: CHANNEL, body: encodeBody(keyedEvents(first - 1)) }])
tell({ done: first - 1, first: begun!.first })
await Promise.all([append(), compact(), keepState()])
