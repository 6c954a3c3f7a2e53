/**
 * The process that the kill tests kill: it does the deeds of script.ts on one log, several at once, and tells each before
 * it asks for it and after its answer.
 *
 *   node act.js DIR WORKERS FIRST      deeds FIRST, FIRST + 1, …      LOG_OPTIONS: more options of the log, as JSON
 *
 *   {"pid"} · {"ask": n, "seq"?, "epoch"?} · {"done": n, "answer"} · {"failed": n, "code", "unknown"?} · {"saw": [channel, epoch, seq]}
 *   {"again": n} when a retry was answered as at first · {"opening": true} · {"closing": true} · {"wrong": what …}
 */
import { decodeBlock } from '../../src/block.ts'
import { toTidemarkError } from '../../src/errors.ts'
import { compactChannel } from '../../src/log/compact.ts'
import { Follower } from '../../src/log/follow.ts'
import { Keeper } from '../../src/log/keeper.ts'
import type { Log } from '../../src/log/log.ts'
import { openLog } from '../../src/log/open.ts'
import { readRetentionRule } from '../../src/retention.ts'
import { dice } from './dice.ts'
import { bodyOf, CHANNELS, type Deed, deedOf, EXPECTED, KEPT, REBORN, TRIMMED } from './script.ts'
import { tell } from './telling.ts'

const [dir, workers, first] = [process.argv[2]!, Number(process.argv[3]), Number(process.argv[4])]
const logOptions = process.env.LOG_OPTIONS ? (JSON.parse(process.env.LOG_OPTIONS) as object) : {}

const random = dice(first)
/** As answers told them. */
const heads = new Map<string, { epoch: string; head: number }>()
let next = first
let log: Promise<Log> = open()

async function open(): Promise<Log> {
  tell({ opening: true })
  const opened = await openLog({ dir, ...logOptions })
  for (const channel of CHANNELS) look(opened, channel)
  return opened
}

let turning: Promise<unknown> | undefined

/** What comes meanwhile is refused, or waits for the next life. */
async function reopen(): Promise<void> {
  turning ??= turn().finally(() => {
    turning = undefined
  })
  await turning
}

async function turn(): Promise<void> {
  const before = await log
  tell({ closing: true })
  log = before.close().then(open)
  await log
}

async function append(n: number, deed: Extract<Deed, { do: 'append' }>): Promise<void> {
  const believed = heads.get(EXPECTED)?.head ?? 0
  const entries = deed.entries.map(({ channel, count }) => ({
    ...{ channel, body: bodyOf(n, channel, count) },
    ...(deed.expects && { expectedSeq: believed }),
  }))
  const options = deed.key === undefined ? {} : { idempotencyKey: deed.key }
  tell({ ask: n, ...(deed.expects && { seq: believed }) })
  const answers = await (await log).append(entries, options)
  for (const { channel, epoch, head } of answers) heads.set(channel, { epoch, head })
  tell({ done: n, answer: answers.map(({ channel, epoch, first, last }) => [channel, epoch, first, last]) })
  if (deed.key === undefined || random(3) > 0) return
  const again = await (await log).append(entries, options)
  if (!again[0]!.duplicate || again[0]!.first !== answers[0]!.first) tell({ wrong: 'appended twice', n })
  else tell({ again: n })
}

async function act(n: number): Promise<void> {
  const deed = deedOf(n)
  if (deed.do === 'append') await append(n, deed)
  else {
    const answer = await change(n, deed)
    tell({ done: n, answer })
  }
}

async function change(n: number, deed: Exclude<Deed, { do: 'append' }>): Promise<unknown> {
  if (deed.do === 'commit') {
    const { head, epoch } = heads.get(deed.channel) ?? { head: 0, epoch: undefined }
    if (epoch === undefined) return undefined
    const seq = Math.max(0, head - random(30))
    tell({ ask: n, seq, epoch })
    return (await (await log).commit(deed.client, deed.channel, { seq, epoch })).seq
  }
  if (deed.do === 'keep') return keep(n, await log)
  if (deed.do === 'trim') {
    const seq = Math.max(0, (heads.get(TRIMMED)?.head ?? 0) - random(60))
    tell({ ask: n, seq })
    const { trimmed, epoch } = await (await log).trim(TRIMMED, seq)
    return [epoch, trimmed]
  }
  tell({ ask: n })
  if (deed.do === 'reopen') return reopen()
  if (deed.do === 'compact') {
    const channel = [...KEPT, TRIMMED][random(4)]!
    const { events } = await compactChannel(await log, channel, { minLag: random(2) * 20, restTimes: 0 })
    if (events.before !== events.after) tell({ wrong: 'compaction dropped events without keys', n })
    return channel
  }
  return (await log).delete(REBORN)
}

/** The keeper's look at all channels; what it trims to is told before it asks the log for it. */
async function keep(n: number, kept: Log): Promise<unknown> {
  const rules = ['events', 'bytes'].map((limit) =>
    readRetentionRule(`${TRIMMED}: ${limit}=${1 + random(limit === 'events' ? 60 : 9_000)}`),
  )
  let answer: unknown
  tell({ ask: n, seq: 0 })
  const told = new Proxy(kept, {
    get(target, name) {
      const verb: unknown = Reflect.get(target, name)
      if (name !== 'trim') return typeof verb === 'function' ? verb.bind(target) : verb
      return async (channel: string, upTo: number, meant?: string) => {
        tell({ ask: n, seq: upTo })
        const info = await kept.trim(channel, upTo, meant)
        answer = [info.epoch, info.trimmed]
        return info
      }
    },
  })
  await new Keeper(told, { rules: [rules[random(2)]!], pace: { restTimes: 0 } }).look()
  return answer
}

async function work(): Promise<void> {
  for (;;) {
    const n = next++
    try {
      await act(n)
    } catch (error) {
      const { code, details } = toTidemarkError(error)
      if (code === 'seq-conflict') heads.set(EXPECTED, { epoch: String(details.epoch), head: Number(details.head) })
      tell({ failed: n, code, ...(details.outcome === 'unknown' && { unknown: true }) })
      if (code === 'unavailable') await log
    }
  }
}

/** A reader beside the load, until its log is closed: what it saw must never be taken back. */
async function look(reading: Log, channel: string): Promise<void> {
  try {
    const life = new AbortController().signal
    const { follower } = await Follower.open(reading, channel, { after: { at: 'head', back: 0 } })
    for (;;) {
      const item = await follower.next({ events: 500, bytes: 1 << 20 })
      if (item === undefined) await follower.changed(life)
      else if (item.is === 'page')
        tell({ saw: [channel, item.page.epoch, decodeBlock(item.page.blocks.at(-1)!).at(-1)!.seq] })
      else if (item.is === 'ended')
        return channel === REBORN ? look(reading, channel) : tell({ wrong: item.error.code })
    }
  } catch (error) {
    const { code } = toTidemarkError(error)
    if (code !== 'unavailable') tell({ wrong: 'a reader failed', channel, code })
  }
}

tell({ pid: process.pid })
await Promise.all(Array.from({ length: workers }, work))
