/**
 * The process that the crash tests kill: a mixed append load on one log, each answer told on stdout as it comes.
 *
 *   node appender.js DIR WORKERS SEED      lines: {"pid"} · {"n", "at": [[channel, epoch, first, last]…], "key"?, "dup"?} · {"failed": code, "n", "why"?} · {"saw": [channel, seq]}
 *   and {"refused": code} when the log does not open, {"read": blocks or code} beside each failure, {"notClosed": code}. LOG_OPTIONS: more options of the log, as JSON. SIGTERM closes.
 *
 * Event n carries { n, i, of }, so that whoever reads the log back knows which append it belongs to.
 */
import { inspect } from 'node:util'
import { decodeBlock } from '../../src/block.ts'
import { encodeBody } from '../../src/body.ts'
import { ERRORS, toTidemarkError } from '../../src/errors.ts'
import { Follower } from '../../src/log/follow.ts'
import { openLog } from '../../src/log/open.ts'
import { dice } from './dice.ts'
import { tell } from './telling.ts'

const [dir, workers, seed, startAt] = [
  process.argv[2]!,
  Number(process.argv[3]),
  Number(process.argv[4]),
  Number(process.argv[5]),
]
const CHANNELS = ['a', 'b', 'c/d', 'e']

const random = dice(seed)

/** A log that does not open, or does not close, is told by its code, and by the exit code of that. */
function refuse(what: 'refused' | 'notClosed', error: unknown): never {
  const { code, message } = toTidemarkError(error)
  tell({ [what]: code, message })
  process.exit(ERRORS[code].exit)
}

const logOptions = process.env.LOG_OPTIONS ? (JSON.parse(process.env.LOG_OPTIONS) as object) : {}
const log = await openLog({ dir, ...logOptions }).catch((error: unknown) => refuse('refused', error))
process.once('SIGTERM', () => {
  log.close().then(
    () => process.exit(0),
    (error: unknown) => refuse('notClosed', error),
  )
})
let n = startAt

function bodyOf(append: number, channel: string, count: number) {
  const events = Array.from({ length: count }, (_, i) => ({
    ...{ type: 'crash', key: null, id: null, contentType: null, to: null },
    data: Buffer.from(JSON.stringify({ n: append, i, of: count, channel, pad: 'x'.repeat(random(300)) })),
  }))
  return encodeBody(events)
}

async function work(): Promise<void> {
  for (;;) {
    const append = n++
    const several = random(5) === 0
    const channels = several ? CHANNELS.slice(0, 2 + random(3)) : [CHANNELS[random(CHANNELS.length)]!]
    const entries = channels.map((channel) => ({
      channel,
      body: bodyOf(append, channel, 1 + random(random(6) === 0 ? 200 : 4)),
    }))
    const key = random(3) === 0 ? `key-${append}` : undefined
    const options = key === undefined ? {} : { idempotencyKey: key }
    try {
      const answers = await log.append(entries, options)
      tell({ n: append, at: answers.map(({ channel, epoch, first, last }) => [channel, epoch, first, last]), key })
      if (key !== undefined && random(2) === 0) {
        const again = await log.append(entries, options)
        if (!again[0]!.duplicate || again[0]!.first !== answers[0]!.first) tell({ twice: append })
      }
    } catch (error) {
      const { code } = toTidemarkError(error)
      // What was not foreseen is to be found: its words, and where it was.
      tell({ failed: code, n: append, ...(code === 'internal' && { why: inspect(error) }) })
      await probe(channels[0]!)
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
  }
}

/** Reads from the start of a channel, while it is being said that nothing can be written. */
async function probe(channel: string): Promise<void> {
  try {
    const { blocks } = await log.read(channel, { after: 0 }, { events: 100, bytes: 1 << 20 })
    tell({ read: blocks.length })
  } catch (error) {
    tell({ read: toTidemarkError(error).code })
  }
}

/** A reader beside the load: what it saw must never be taken back. */
async function look(channel: string): Promise<void> {
  const life = new AbortController().signal
  const { follower } = await Follower.open(log, channel, { after: { at: 'earliest' } })
  for (;;) {
    const item = await follower.next({ events: 500, bytes: 1 << 20 })
    if (item === undefined) await follower.changed(life)
    else if (item.is === 'page') tell({ saw: [channel, decodeBlock(item.page.blocks.at(-1)!).at(-1)!.seq] })
    else if (item.is !== 'caughtup') tell({ told: item.is, channel })
  }
}

tell({ pid: process.pid })
for (const channel of CHANNELS)
  look(channel).catch((error) => tell({ lost: channel, code: toTidemarkError(error).code }))
await Promise.all(Array.from({ length: workers }, work))
