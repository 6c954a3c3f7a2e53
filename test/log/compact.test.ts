/** Compaction amid everything: readers of every kind, appends, trims and restarts between any two of its steps. */
import { crc32 } from 'node:zlib'
import { expect, test } from 'vitest'
import { checkBlock, decodeBlock, type Header, readHeader, sealBlock, spansOf } from '../../src/block.ts'
import { encodeBody } from '../../src/body.ts'
import { TidemarkError } from '../../src/errors.ts'
import { BLOCK_BYTES_MAX } from '../../src/event.ts'
import { type CompactOptions, compactChannel, type Progress } from '../../src/log/compact.ts'
import { Keeper } from '../../src/log/keeper.ts'
import { blockKey } from '../../src/log/level/keys.ts'
import type { Log } from '../../src/log/log.ts'
import { Newest } from '../../src/log/newest.ts'
import { openLog } from '../../src/log/open.ts'
import { Packing, type Stretch } from '../../src/log/packing.ts'
import { verifyLog } from '../../src/log/verify.ts'
import { readRetentionRule } from '../../src/retention.ts'
import { dice } from '../crash/dice.ts'
import { event, range, SEED, tempDir, tempLog } from '../parts.ts'
import { failable } from './failable.ts'
import { History, KeyedReader } from './keyed.ts'
import { ALL, BLOCKWISE, readAll, refusal, valueIn } from './reading.ts'
import { flip, numberOf } from './stored.ts'

const RUNS = Number(process.env.COMPACT_RUNS ?? 40)
const STEPS = 60
const READERS = 5

const count = { compactions: 0, replaced: 0, thrownAway: 0, resets: 0, gaps: 0, cleaned: 0, seen: 0 }

class World {
  readonly #random: (below: number) => number
  readonly #history = new History()
  readonly #readers: KeyedReader[] = []
  readonly #options: { readonly dir: string; readonly tailBytes: number }
  log: Log

  constructor(random: (below: number) => number, options: { dir: string; tailBytes: number }, log: Log) {
    this.#random = random
    this.#options = options
    this.log = log
  }

  async step(): Promise<void> {
    const kind = this.#random(20)
    if (kind < 2) await this.compact()
    else if (kind === 2 && this.#random(5) === 0) await this.reopen()
    else await this.disturb()
  }

  async disturb(): Promise<void> {
    const kind = this.#random(20)
    if (kind < 7) await this.append()
    else if (kind === 7) await this.#trim()
    else if (kind === 8) await this.#comeBack(this.#any())
    else await this.#goOn(this.#any())
  }

  async append(): Promise<void> {
    const events = range(0, this.#random(4)).map((i) => {
      const key = this.#random(5) === 0 ? null : `k${this.#random(6)}`
      const isTombstone = key !== null && this.#random(4) === 0
      return event(isTombstone ? undefined : this.#history.head + i + 1, { key })
    })
    await this.log.append([{ channel: 'c', body: encodeBody(events) }])
    this.#history.add(events)
  }

  /** By a call, or by the keeper. */
  async #trim(): Promise<void> {
    const { head } = this.#history
    const upTo = Math.max(0, this.#random(head + 1) - 30)
    if (this.#random(2) === 0) await this.log.trim('c', upTo)
    else {
      const rules = [readRetentionRule(`c: events=${Math.max(1, head - upTo)}`)]
      await new Keeper(this.log, { rules, pace: { restTimes: 0 } }).look()
    }
  }

  async follow(): Promise<void> {
    this.#readers.push(await KeyedReader.begin(this.#history, this.log, 'c'))
  }

  /** Other things happen before and after each step of it. */
  async compact(): Promise<void> {
    const options: CompactOptions = {
      ...{ minLag: this.#random(3) * 4, restTimes: 0 },
      ...{ tombstoneAge: this.#random(4) === 0 ? 60_000 : -60_000, newestBytes: this.#random(3) === 0 ? 300 : 1 << 20 },
    }
    count.compactions++
    const amid = new Proxy(this.log, {
      get: (target, name) => {
        const verb: unknown = Reflect.get(target, name)
        if (!['read', 'replace', 'clean'].includes(String(name)))
          return typeof verb === 'function' ? verb.bind(target) : verb
        return async (...args: unknown[]) => {
          for (let i = this.#random(4); i > 0; i--) await this.disturb()
          // The writer takes up both in one turn.
          const beside = this.#random(4) === 0 ? this.disturb() : undefined
          // A verb that throws leaves nobody reading behind it: a reader takes one page at a time.
          const answer: unknown = await (verb as (...args: unknown[]) => Promise<unknown>)
            .apply(target, args)
            .finally(() => beside)
          if (name === 'replace') count[answer ? 'replaced' : 'thrownAway']++
          if (name === 'clean') count.cleaned++
          return answer
        }
      },
    })
    await compactChannel(amid, 'c', options)
  }

  async reopen(): Promise<void> {
    await this.log.close()
    this.log = await openLog(this.#options)
    for (const reader of this.#readers) await this.#comeBack(reader)
  }

  /** Everybody reads to the head, and knows what is there. */
  async whole(): Promise<void> {
    for (const reader of this.#readers) {
      while (await this.#goOn(reader));
      reader.judge()
    }
    await this.#history.judgeAll(this.log, 'c')
    expect(await verifyLog(this.log)).toMatchObject({ whole: true })
  }

  tally(): void {
    for (const { count: each } of this.#readers)
      for (const what of ['seen', 'gaps', 'resets'] as const) count[what] += each[what]
  }

  #any(): KeyedReader {
    return this.#readers[this.#random(this.#readers.length)]!
  }

  /** By what it was told last, or by its cursor. */
  async #comeBack(reader: KeyedReader): Promise<void> {
    const client = `reader-${this.#readers.indexOf(reader)}`
    const { epoch, after } = reader.place
    if (this.#random(2) === 0 || epoch === undefined) return reader.comeBack(this.log)
    await this.log.seek(client, 'c', { seq: after, epoch })
    if (this.#random(2) === 0) await this.log.commit(client, 'c', { seq: after })
    return reader.comeBack(this.log, { client })
  }

  #goOn(reader: KeyedReader): Promise<boolean> {
    return reader.goOn([BLOCKWISE, { events: 7, bytes: 1e6 }, { events: 1e4, bytes: 300 }][this.#random(3)]!)
  }
}

test(`${RUNS} random histories: whoever reads amid compaction sees all that stays, once and in order, and is told of tombstones`, {
  timeout: 240_000,
}, async () => {
  console.log(`compact: TEST_SEED=${SEED}`)
  for (const seed of range(SEED, SEED + RUNS - 1)) {
    const random = dice(seed)
    const options = { dir: tempDir(), tailBytes: [0, 2_000, 1 << 20][random(3)]! }
    const world = new World(random, options, await openLog(options))
    try {
      await world.append()
      for (const _ of range(1, READERS)) await world.follow()
      for (const _ of range(1, STEPS)) await world.step()
      await world.whole()
      await world.reopen()
      await world.whole()
      world.tally()
    } catch (error) {
      throw new Error(`TEST_SEED=${seed} COMPACT_RUNS=1: ${(error as Error).message}`, { cause: error })
    } finally {
      await world.log.close()
    }
  }
  console.log(JSON.stringify(count))
  for (const [what, times] of Object.entries(count)) expect([what, times > 0]).toEqual([what, true])
})

/** Forty blocks of one event, of four keys. */
async function fill(log: Log): Promise<History> {
  const history = new History()
  for (const i of range(1, 40)) {
    const events = [event(i, { key: `k${i % 4}` })]
    await log.append([{ channel: 'c', body: encodeBody(events) }])
    history.add(events)
  }
  return history
}

/** Does it once, when a run is so far. */
const once = (phase: Progress['phase'], work: () => void): CompactOptions => {
  let isDone = false
  const onProgress = (progress: Progress): void => {
    if (isDone || progress.phase !== phase) return
    isDone = true
    work()
  }
  return { minLag: 0, restTimes: 0, onProgress }
}

test('A write that fails ends a run, nothing is lost, and the next run goes on with it', async () => {
  const { log, failNextWrite } = await failable({ tailBytes: 0 })
  const history = await fill(log)
  // All of it is one stretch: it is replaced behind the last page.
  const failed = await refusal(compactChannel(log, 'c', once('rewriting', failNextWrite)))
  expect(failed).toMatchObject({ code: 'unavailable', outcome: 'unknown' })
  await history.judgeAll(log, 'c')
  expect((await log.read('c', { after: 0 }, ALL)).blocks.length).toBe(40)
  expect(await compactChannel(log, 'c', { minLag: 0, restTimes: 0 })).toMatchObject({
    events: { before: 40, after: 4 },
  })
  await history.judgeAll(log, 'c')
})

test('A run waits while the log takes nothing more', async () => {
  const log = await tempLog()
  const history = await fill(log)
  let refused = 0
  const busy = new Proxy(log, {
    get: (target, name) => {
      const verb: unknown = Reflect.get(target, name)
      if (name !== 'replace') return typeof verb === 'function' ? verb.bind(target) : verb
      return (...args: Parameters<NonNullable<Log['replace']>>) =>
        refused++ === 0 ? Promise.reject(new TidemarkError('too-many', 'Too many appends wait')) : log.replace!(...args)
    },
  })
  expect(await compactChannel(busy, 'c', { minLag: 0, restTimes: 0 })).toMatchObject({
    events: { before: 40, after: 4 },
  })
  expect(refused).toBe(2)
  await history.judgeAll(log, 'c')
})

test('What is damaged amid a run is not written over: it is told, and all else stays', async () => {
  const { log, rows } = await failable({ tailBytes: 0 })
  await fill(log)
  const c = await numberOf(rows, 'c')
  let flipped: Promise<void> | undefined
  const amid = once('rewriting', () => {
    flipped = flip(rows, blockKey(c, 20), 8 * 9)
  })
  const replace = log.replace!.bind(log)
  const slow = new Proxy(log, {
    get: (target, name) => {
      const verb: unknown = Reflect.get(target, name)
      if (name !== 'replace') return typeof verb === 'function' ? verb.bind(target) : verb
      return async (...args: Parameters<typeof replace>) => {
        await flipped
        return replace(...args)
      }
    },
  })
  expect(await refusal(compactChannel(slow, 'c', amid))).toMatchObject({ code: 'data-loss', after: 19, upTo: 20 })
  expect((await readAll(log, 'c', { after: 20 })).map(valueIn)).toEqual(range(21, 40))
  expect((await log.read('c', { after: 0 }, ALL)).last).toBe(19)
})

test('Verification goes on where tombstones are about to go amid it', async () => {
  const { log, rows } = await failable({ tailBytes: 0 })
  const { epoch } = (await log.append([{ channel: 'c', body: encodeBody([event('first')]) }]))[0]!
  for (const i of range(2, 9)) await log.append([{ channel: 'c', body: encodeBody([event(`${i}${'x'.repeat(1e5)}`)]) }])
  await flip(rows, blockKey(await numberOf(rows, 'c'), 9), 8 * 500)
  const amid = new Proxy(log, {
    get: (target, name) => {
      const verb: unknown = Reflect.get(target, name)
      if (name !== 'read') return typeof verb === 'function' ? verb.bind(target) : verb
      return async (...args: Parameters<Log['read']>) => {
        const page = await target.read(...args)
        if (page.epoch === epoch) await log.clean!('c', 8, epoch)
        return page
      }
    },
  })
  const { whole, findings } = await verifyLog(amid)
  expect([whole, findings]).toMatchObject([false, [{ part: 'events', channel: 'c', after: 8, upTo: 9 }]])
})

test('The keys that are held at once take no more memory than they may', () => {
  for (const letter of ['x', '水']) {
    const newest = new Newest(100_000)
    const keys = range(1, 1_000).map((i) => `${i}${letter.repeat(200)}`)
    const seen = new Map<string, number>()
    while (newest.next()) {
      keys.forEach((key, i) => void newest.note(key, i + 1))
      const held = keys.filter((key) => newest.of(key) !== undefined)
      expect(held.reduce((sum, key) => sum + Buffer.byteLength(key, 'utf16le'), 0)).toBeLessThan(101_000)
      for (const key of held) expect([key, seen.has(key)]).toEqual([key, false])
      for (const key of held) seen.set(key, newest.of(key)!)
    }
    expect([...seen.values()].sort((a, b) => a - b)).toEqual(range(1, 1_000))
  }
})

test('Packed blocks hold every event that stays, chain, and are no larger than a block may be', () => {
  const random = dice(SEED)
  console.log(`packing: TEST_SEED=${SEED}`)
  let merged = 0
  for (const _ of range(1, 60)) {
    const packing = new Packing('c')
    const old = new Map<number, Uint8Array>()
    const stays = new Map<number, number>()
    let [after, time] = [0, 1_700_000_000_000]
    const take = (stretch: Stretch | undefined): void => {
      if (!stretch) return
      merged += stretch.replaced.length - stretch.blocks.length
      for (const { last } of stretch.replaced) expect(old.delete(last)).toBe(true)
      for (const block of stretch.blocks) {
        checkBlock('c', block, crc32)
        expect(block.length).toBeLessThanOrEqual(BLOCK_BYTES_MAX)
        old.set(readHeader(block).last, block)
      }
    }
    for (const _ of range(1, 1 + random(60))) {
      const size = [1, 1, 5, 400, 1_000][random(5)]!
      const pad = 'x'.repeat(size > 5 ? random(970) : random(3_000))
      const bytes = encodeBody(range(1, size).map((i) => event(`${i}${pad}`)))
      // Weeks apart at times: more than the table of one block can say.
      time += random(4) === 0 ? random(3_000_000_000) : random(50)
      const block = sealBlock('c', [bytes], { after, time }, crc32)
      const header: Header = readHeader(block)
      old.set(header.last, block)
      const share = random(4)
      const spans = spansOf(block).filter(() => share === 3 || random(3) < share)
      for (const span of spans) stays.set(span.seq, span.time)
      const dropped = header.count - spans.length
      take(dropped === 0 && Packing.isLarge(header) ? packing.flush() : packing.add(header, spans, dropped, 0))
      after = header.last
    }
    take(packing.flush())
    const blocks = [...old].sort(([a], [b]) => a - b).map(([, block]) => block)
    let [end, from] = [0, 0]
    for (const block of blocks) {
      const header = readHeader(block)
      expect(header.after).toBe(end)
      expect(header.time).toBeGreaterThanOrEqual(from)
      end = header.last
      from = header.time
    }
    expect(end).toBe(after)
    const found = blocks.flatMap((block) => decodeBlock(block)).map(({ seq, time }) => [seq, time])
    expect(found).toEqual([...stays])
  }
  expect(merged).toBeGreaterThan(100)
})
