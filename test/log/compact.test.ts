/** Compaction amid everything: readers of every kind, appends, trims and restarts between any two of its steps. */
import { crc32 } from 'node:zlib'
import { expect, test } from 'vitest'
import { checkBlock, decodeBlock, type Header, readHeader, sealBlock, spansOf } from '../../src/block.ts'
import { encodeBody } from '../../src/body.ts'
import { BLOCK_BYTES_MAX, type NewEvent } from '../../src/event.ts'
import { type CompactOptions, compactChannel } from '../../src/log/compact.ts'
import { Follower } from '../../src/log/follow.ts'
import type { Log } from '../../src/log/log.ts'
import { Newest } from '../../src/log/newest.ts'
import { openLog } from '../../src/log/open.ts'
import { Packing, type Stretch } from '../../src/log/packing.ts'
import { dice } from '../crash/dice.ts'
import { event, range, SEED, tempDir } from '../parts.ts'
import { BLOCKWISE, eventsOf, readAll, valueIn } from './reading.ts'

const RUNS = Number(process.env.COMPACT_RUNS ?? 40)
const STEPS = 60
const READERS = 5

/** A reader that keeps a state by key, and who it is when it comes back. */
interface Reader {
  readonly client: string
  readonly state: Map<string, unknown>
  follower: Follower
  after: number
  /** What it knows begins behind this seq. */
  since: number
}

const count = { compactions: 0, replaced: 0, thrownAway: 0, resets: 0, gaps: 0, cleaned: 0, seen: 0 }

class World {
  readonly #random: (below: number) => number
  readonly #events: NewEvent[] = []
  /** The newest seq of each key. */
  readonly #newest = new Map<string, number>()
  readonly #readers: Reader[] = []
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
    else if (kind === 7) await this.log.trim('c', Math.max(0, this.#random(this.#events.length + 1) - 30))
    else if (kind === 8) await this.#comeBack(this.#any())
    else await this.#goOn(this.#any())
  }

  async append(): Promise<void> {
    const events = range(0, this.#random(4)).map((i) => {
      const key = this.#random(5) === 0 ? null : `k${this.#random(6)}`
      const isTombstone = key !== null && this.#random(4) === 0
      return event(isTombstone ? undefined : this.#events.length + i + 1, { key })
    })
    await this.log.append([{ channel: 'c', body: encodeBody(events) }])
    for (const it of events) if (this.#events.push(it) && it.key !== null) this.#newest.set(it.key, this.#events.length)
  }

  async follow(): Promise<void> {
    const client = `reader-${this.#readers.length}`
    const { follower, opened } = await Follower.open(this.log, 'c', { after: { at: 'earliest' } })
    this.#readers.push({ client, state: new Map(), follower, after: opened.after, since: opened.after })
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
          const answer: unknown = await (verb as (...args: unknown[]) => Promise<unknown>).apply(target, args)
          await beside
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
      const expected = [...this.#newest].flatMap(([key, seq]) => {
        const newest = this.#events[seq - 1]!
        return seq > reader.since && newest.data !== null ? [[key, valueIn(newest)] as const] : []
      })
      expect(new Map([...reader.state].sort())).toEqual(new Map(expected.sort()))
    }
    const { trimmed } = await this.log.info('c')
    this.#judge(trimmed, this.#events.length, await readAll(this.log, 'c', { after: trimmed }))
  }

  #any(): Reader {
    return this.#readers[this.#random(this.#readers.length)]!
  }

  /** By what it was told last, or by its cursor. */
  async #comeBack(reader: Reader): Promise<void> {
    const { client } = reader
    const { epoch, after } = reader.follower.place
    const from = { after: { at: 'seq', seq: after }, epoch } as const
    if (this.#random(2) === 0 || epoch === undefined)
      reader.follower = (await Follower.open(this.log, 'c', from)).follower
    else {
      await this.log.seek(client, 'c', { seq: after, epoch })
      if (this.#random(2) === 0) await this.log.commit(client, 'c', { seq: after })
      reader.follower = (await Follower.open(this.log, 'c', { client })).follower
    }
  }

  /** False at the head. */
  async #goOn(reader: Reader): Promise<boolean> {
    const limits = [BLOCKWISE, { events: 7, bytes: 1e6 }, { events: 1e4, bytes: 300 }][this.#random(3)]!
    const item = await reader.follower.next(limits)
    if (item === undefined || item.is === 'caughtup') return false
    if (item.is === 'ended') throw item.error
    if (item.is === 'page') {
      const { page } = item
      const events = eventsOf(page)
      expect(page.after).toBe(reader.after)
      this.#judge(page.after, page.last, events)
      for (const { key, ...it } of events)
        if (key !== null && it.data === null) reader.state.delete(key)
        else if (key !== null) reader.state.set(key, valueIn({ key, ...it }))
      count.seen += events.length
      reader.after = page.last
    } else {
      count[item.is === 'gap' ? 'gaps' : 'resets']++
      reader.state.clear()
      reader.since = reader.after = item.trimmed
    }
    return true
  }

  /** Of a stretch: each event is what was appended, in order, and what is not there was free to go. */
  #judge(after: number, last: number, events: ReturnType<typeof eventsOf>): void {
    const there = new Set(events.map(({ seq }) => seq))
    expect([...there]).toEqual([...there].sort((a, b) => a - b))
    expect(events.length).toBe(there.size)
    for (const it of events) {
      const { key, data } = this.#events[it.seq - 1]!
      expect({ key: it.key, data: it.data && Buffer.from(it.data) }).toEqual({ key, data: data && Buffer.from(data) })
    }
    for (const seq of range(after + 1, last)) {
      if (there.has(seq)) continue
      const { key, data } = this.#events[seq - 1]!
      expect([seq, key !== null && (this.#newest.get(key)! > seq || data === null)]).toEqual([seq, true])
    }
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
    } catch (error) {
      throw new Error(`TEST_SEED=${seed} COMPACT_RUNS=1: ${(error as Error).message}`, { cause: error })
    } finally {
      await world.log.close()
    }
  }
  console.log(JSON.stringify(count))
  for (const [what, times] of Object.entries(count)) expect([what, times > 0]).toEqual([what, true])
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
