/** Histories that are carried while everything goes on at their source: what arrives is what was there, at one moment of each channel. */
import { expect, test } from 'vitest'
import { encodeBody } from '../../src/body.ts'
import { sameHistory } from '../../src/epoch.ts'
import { isTombstone, type NewEvent } from '../../src/event.ts'
import type { Piece } from '../../src/log/carry.ts'
import { compactChannel } from '../../src/log/compact.ts'
import { give } from '../../src/log/give.ts'
import { blockKey } from '../../src/log/level/keys.ts'
import { type Log, Page, type Place, type ReadLimits } from '../../src/log/log.ts'
import { openLog } from '../../src/log/open.ts'
import { type Taker, take } from '../../src/log/take.ts'
import { verifyLog } from '../../src/log/verify.ts'
import { event, range, SEED, tempDir, tempLog } from '../parts.ts'
import { randomFrom } from '../tools/disk.ts'
import { ALL, append, list, readAll, refusal, valueIn } from './reading.ts'
import { numberOf, withRows } from './stored.ts'

const takerOf = (log: Log): Taker => log as Taker

/** A log each of whose pages is one block, so that much can come between two of them. */
const blockwise = (log: Log): Log =>
  new Proxy(log, {
    get(target, name) {
      if (name === 'read')
        return (channel: string, from: { after: number }) => target.read(channel, from, { events: 1, bytes: 1 })
      const member: unknown = Reflect.get(target, name)
      return typeof member === 'function' ? member.bind(target) : member
    },
  })

/** Newest value by key, of events in their order. */
function stateOf(events: readonly NewEvent[]): Map<string, unknown> {
  const state = new Map<string, unknown>()
  for (const each of events)
    if (each.key !== null) {
      if (isTombstone(each)) state.delete(each.key)
      else state.set(each.key, valueIn(each))
    }
  return state
}

interface History {
  readonly channel: string
  readonly epoch: string
  /** All that was ever appended, from seq 1. */
  readonly events: NewEvent[]
}

/** Changes a log at random, and remembers every history that there ever was. */
class Changer {
  readonly histories: History[] = []
  readonly #log: Log
  readonly #random: (below: number) => number
  #count = 0

  constructor(log: Log, random: (below: number) => number) {
    this.#log = log
    this.#random = random
  }

  async append(channel: string): Promise<void> {
    const events = range(0, this.#random(6)).map(() => this.#event())
    const [appended] = await this.#log.append([{ channel, body: encodeBody(events) }])
    this.#of(channel, appended!.epoch).events.push(...events)
  }

  #of(channel: string, epoch: string): History {
    const known = this.histories.find((each) => each.channel === channel && sameHistory(each.epoch, epoch))
    if (known) return known
    const made = { channel, epoch, events: [] }
    this.histories.push(made)
    return made
  }

  #event(): NewEvent {
    const kind = this.#random(5)
    if (kind === 0) return event(++this.#count)
    const key = `k${this.#random(6)}`
    return kind === 1 ? event(undefined, { key }) : event(++this.#count, { key })
  }

  async change(): Promise<void> {
    const channel = ['a', 'b', 'c'][this.#random(3)]!
    const info = await this.#log.info(channel).catch(() => undefined)
    const kind = this.#random(12)
    if (!info || kind < 6) return this.append(channel)
    if (kind < 8) {
      await compactChannel(this.#log, channel, { minLag: this.#random(8), tombstoneAge: 0, restTimes: 0 })
      return
    }
    if (kind === 8) await this.#log.trim(channel, this.#random(info.head + 1))
    else if (kind === 9 && this.#random(4) === 0) await this.#log.delete(channel)
    else await this.#log.commit(`c${this.#random(3)}`, channel, { seq: this.#random(info.head + 1), epoch: info.epoch })
  }
}

test('Amid appends, trims, deletes and compactions each channel comes as it was at one moment, and no deleted key comes back', async () => {
  console.log(`seed ${SEED}`)
  const random = randomFrom(SEED)
  let [voids, trims] = [0, 0]
  // Seldom chance has trimmed none of 25.
  for (let run = 1; run <= 25 || ((voids === 0 || trims === 0) && run <= 250); run++) {
    const log = await openLog({ dir: tempDir() })
    const target = await openLog({ dir: tempDir() })
    const changer = new Changer(log, random)
    for (const channel of ['a', 'b', 'c']) for (const _ of range(1, 5 + random(15))) await changer.append(channel)
    for (const _ of range(1, 10)) await changer.change()
    const pieces = async function* (): AsyncGenerator<Piece> {
      for await (const piece of give(blockwise(log))) {
        if (piece.is === 'void') voids++
        if (piece.is === 'trimmed') trims++
        yield piece
        for (let i = random(3); i > 0; i--) await changer.change()
      }
    }
    const heads = new Map<string, { epoch: string; trimmed: number; head: number }>()
    const watched = async function* (): AsyncGenerator<Piece> {
      let open = ''
      for await (const piece of pieces()) {
        if (piece.is === 'channel') {
          open = piece.channel
          heads.set(open, { ...piece })
        } else if (piece.is === 'void') heads.delete(open)
        else if (piece.is === 'grown') heads.get(open)!.head = piece.head
        yield piece
      }
    }
    const sameEpoch = run % 2 === 0
    // Beside each other, or each as it comes.
    const smallBytes = run % 3 === 0 ? 0 : 1_000_000
    const taken = await take(watched(), takerOf(target), { sameEpoch, isAlone: true, smallBytes })
    expect(taken.channels).toBe(heads.size)
    const infos = await list(target.channels(''))
    expect(infos.map(({ channel }) => channel)).toEqual([...heads.keys()].sort())
    for (const { channel, epoch, head, trimmed } of infos) {
      const given = heads.get(channel)!
      expect(head).toBe(given.head)
      if (sameEpoch) expect(epoch).toBe(given.epoch)
      const history = changer.histories.find(
        (each) => each.channel === channel && sameHistory(each.epoch, given.epoch),
      )!
      const there = await readAll(target, channel, { after: trimmed })
      for (const { seq, data, key } of there) expect({ data, key }).toEqual(pick(history.events[seq - 1]!))
      // What nobody may compact is all there.
      const plain = range(trimmed + 1, head).filter((seq) => history.events[seq - 1]!.key === null)
      expect(there.filter(({ key }) => key === null).map(({ seq }) => seq)).toEqual(plain)
      // And who builds a state of it has the one of that moment.
      if (trimmed === 0) expect(stateOf(there)).toEqual(stateOf(history.events.slice(0, head)))
      for (const cursor of await list(target.cursors({ channel })))
        if (sameHistory(cursor.epoch, epoch)) expect(cursor.seq).toBeLessThanOrEqual(head)
    }
    expect(await verifyLog(target)).toMatchObject({ whole: true })
    await target.close()
    await log.close()
  }
  console.log(`${voids} channels begun anew or deleted, ${trims} trimmed meanwhile`)
  expect(voids).toBeGreaterThan(0)
  expect(trims).toBeGreaterThan(0)
}, 120_000)

const pick = ({ data, key }: NewEvent) => ({ data: data && Buffer.from(data), key })

test('Small channels share writes, and each is whole or not there when one of them is refused', async () => {
  const log = await tempLog()
  const names = range(100, 299).map((i) => `c${i}`)
  await Promise.all(names.map((name) => append(log, name, [name, name])))
  for (const name of names) await log.commit('web', name, { seq: 1 })
  let writes = 0
  const target = await openLog({ dir: tempDir(), onGroup: () => void writes++ })
  expect(await take(give(log), takerOf(target), { isAlone: true })).toMatchObject({ channels: 200, cursors: 200 })
  // Each by itself takes four.
  console.log(`${writes} writes`)
  expect(writes).toBeLessThan(names.length / 2)
  for (const name of names) expect((await readAll(target, name)).map(valueIn)).toEqual([name, name])
  await target.close()
  const other = await openLog({ dir: tempDir() })
  await append(other, 'c150', ['mine'])
  expect(await refusal(take(give(log), takerOf(other)))).toMatchObject({ code: 'epoch-changed', channel: 'c150' })
  const there = await list(other.channels(''))
  expect(there.map(({ channel }) => channel)).toEqual(names.slice(0, there.length))
  expect(await verifyLog(other)).toMatchObject({ whole: true, events: 2 * there.length - 1 })
  await other.delete('c150')
  await take(give(log), takerOf(other))
  expect(await verifyLog(other)).toMatchObject({ whole: true, events: 400, cursors: 200 })
  await other.close()
})

test('Events that are lost are lost there, too, and all others come', async () => {
  const dir = tempDir()
  const log = await openLog({ dir })
  for (const i of range(1, 20)) await append(log, 'c', [i])
  await log.close()
  await withRows(dir, async (rows) => {
    const number = await numberOf(rows, 'c')
    for (const last of [7, 8, 20]) await rows.del(blockKey(number, last))
  })
  const damaged = await openLog({ dir })
  const target = await tempLog()
  expect(await take(give(damaged), takerOf(target))).toMatchObject({ channels: 1, events: 17, lost: 3 })
  await damaged.close()
  expect(await target.losses?.()).toEqual([
    { channel: 'c', after: 6, upTo: 8 },
    { channel: 'c', after: 19, upTo: 20 },
  ])
  expect(await verifyLog(target)).toMatchObject({ whole: true, events: 17 })
  expect(await refusal(target.read('c', { after: 6 }, ALL))).toMatchObject({ code: 'data-loss', upTo: 8 })
  expect((await target.read('c', { after: 8 }, ALL)).last).toBe(19)
})

test('What was taken is compared with what was given: events, their times, cursors', async () => {
  const log = await tempLog()
  await append(log, 'c', [1, 2])
  const { epoch } = await log.info('c')
  await log.commit('web', 'c', { seq: 2, epoch })
  const given = await list(give(log))
  const takenBy = (target: Log, pieces: readonly Piece[] = given) =>
    take(
      (async function* () {
        yield* pieces
      })(),
      takerOf(target),
      { isAlone: true },
    )
  const digest = 'a'.repeat(64)
  for (const wrong of [{ digest }, { cursorsDigest: digest }, { events: 3 }, { cursors: 0 }, { lost: 1 }]) {
    const target = await tempLog()
    const pieces = given.map((piece) => (piece.is === 'end' ? { ...piece, sum: { ...piece.sum, ...wrong } } : piece))
    expect(await refusal(takenBy(target, pieces))).toMatchObject({ code: 'data-loss' })
    expect(await list(target.channels(''))).toEqual([])
  }
  // A disk that gives something else than it was given.
  const other = await tempLog()
  await append(other, 'c', [1, 3])
  await other.commit('web', 'c', { seq: 1 })
  for (const verb of ['read', 'cursors'] as const) {
    const target = await tempLog()
    const lying = new Proxy(target, {
      get(of, name) {
        if (name === 'read' && verb === 'read')
          return async (channel: string, { after, epoch = '' }: Place, limits: ReadLimits) =>
            new Page({ ...(await other.read(channel, { after }, limits)), epoch })
        const member: unknown = Reflect.get(name === verb ? other : of, name)
        return typeof member === 'function' ? member.bind(name === verb ? other : of) : member
      },
    })
    expect([verb, await refusal(takenBy(lying))]).toMatchObject([verb, { code: 'data-loss' }])
  }
})

test('What comes out of order, or is not what was given, does not become a channel', async () => {
  const log = await tempLog()
  for (const i of range(1, 9)) await append(log, 'c', [i])
  const given = await list(give(blockwise(log)))
  for (const i of range(1, given.length - 2)) {
    const target = await tempLog()
    const without = given.filter((_, j) => j !== i)
    const outcome = take(
      (async function* () {
        yield* without
      })(),
      takerOf(target),
    )
    expect(await refusal(outcome)).toMatchObject({ code: expect.stringMatching(/^(?:seq-conflict|data-loss)$/) })
    expect(await list(target.channels(''))).toEqual([])
  }
})
