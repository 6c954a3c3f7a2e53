/** States: exact at one seq whatever happens meanwhile, then live from there; in bounded memory. */
import { crc32 } from 'node:zlib'
import { expect, test } from 'vitest'
import { checkBlock, decodeBlock, type Span, sealBlock, spansOf } from '../../src/block.ts'
import { encodeBody } from '../../src/body.ts'
import { BLOCK_BYTES_MAX, type Event, type NewEvent } from '../../src/event.ts'
import { compactChannel } from '../../src/log/compact.ts'
import { Follower } from '../../src/log/follow.ts'
import { blockKey } from '../../src/log/level/keys.ts'
import type { Log, ReadLimits } from '../../src/log/log.ts'
import { openLog } from '../../src/log/open.ts'
import { StateFirst } from '../../src/log/state-first.ts'
import { StateWriter } from '../../src/log/state-writer.ts'
import { type StateAt, States } from '../../src/log/states.ts'
import { blocksOf } from '../../src/log/versions.ts'
import { dice } from '../crash/dice.ts'
import { event, range, SEED, tempDir, tempLog } from '../parts.ts'
import { History } from './keyed.ts'
import { ALL, amid, eventsOf, refusal, valueIn } from './reading.ts'
import { flip, numberOf, withRows } from './stored.ts'

const RUNS = Number(process.env.STATE_RUNS ?? 40)
const STEPS = 120
const ALL_OF_IT = { minLag: 0, tombstoneAge: -60_000, restTimes: 0 } as const

const keyed = (key: string, value: unknown): NewEvent => event(value, { key })
const put = (log: Log, ...events: NewEvent[]) => log.append([{ channel: 'c', body: encodeBody(events) }])

/** All of a state, page by page. */
async function whole(states: States, place: StateAt, limits = ALL, prefix = ''): Promise<Event[]> {
  const events: Event[] = []
  for (let after = 0; after < place.at; ) {
    const page = await states.page('c', place, after, limits, prefix)
    expect([page.after, page.at]).toEqual([after, place.at])
    expect(page.last).toBeGreaterThan(after)
    events.push(...eventsOf(page))
    after = page.last
  }
  return events
}
const stateOf = async (states: States, limits = ALL, prefix = ''): Promise<unknown[]> =>
  (await whole(states, await states.open('c'), limits, prefix)).map((it) => [it.seq, it.key, valueIn(it)])

test('the newest event of each key, without those that are deleted, have no key or are trimmed', async () => {
  const log = await tempLog()
  const states = new States(log)
  expect(await refusal(states.open('c'))).toMatchObject({ code: 'no-channel' })
  await put(log, keyed('a', 1), keyed('b', 1), event('none'), keyed('a', 2), keyed('ä', 1))
  await put(log, event('for', { to: { users: ['u'], groups: [] } }), keyed('b', undefined), keyed('c', 1))
  const all = [
    [4, 'a', 2],
    [5, 'ä', 1],
    [8, 'c', 1],
  ]
  for (const events of [1, 2, 10]) expect(await stateOf(states, { events, bytes: 1 << 20 })).toEqual(all)
  expect(await stateOf(states, ALL, 'ä')).toEqual([all[1]])
  expect(await stateOf(states, ALL, 'x')).toEqual([])
  const place = await states.open('c')
  await put(log, keyed('b', 2), keyed('c', undefined))
  expect(await stateOf(states)).toEqual([all[0], all[1], [9, 'b', 2]])
  // The older one is what it was, but for what is trimmed.
  expect((await whole(states, place)).map(({ seq }) => seq)).toEqual([4, 5, 8])
  await log.trim('c', 4)
  expect((await whole(states, place)).map(({ seq }) => seq)).toEqual([5, 8])
  expect(await stateOf(states)).toEqual([all[1], [9, 'b', 2]])
  await log.trim('c', 10)
  expect(await stateOf(states)).toEqual([])
})

test('a state that nobody was told is not made up', async () => {
  const log = await tempLog()
  const states = new States(log)
  await put(log, keyed('a', 1), keyed('a', 2))
  const { epoch, at } = await states.open('c')
  expect(await refusal(states.page('c', { epoch, at: 1 }, 0, ALL))).toMatchObject({
    code: 'gap',
    epoch,
    at: 1,
    head: 2,
  })
  expect(await refusal(states.page('c', { epoch: 'other', at }, 0, ALL))).toMatchObject({
    code: 'epoch-changed',
    epoch,
  })
  expect(await refusal(new States(log).page('c', { epoch, at }, 0, ALL))).toMatchObject({ code: 'gap' })
  states.forget('c')
  expect(await refusal(states.page('c', { epoch, at }, 0, ALL))).toMatchObject({ code: 'gap' })
})

test('those who ask together share one walk, and each has what was there when it asked', async () => {
  const log = await tempLog({ tailBytes: 0 })
  for (const i of range(1, 50)) await put(log, ...range(1, 100).map((n) => keyed(`k${n % 70}`, i)))
  let reads = 0
  const counted: Log = new Proxy(log, {
    get(target, name) {
      const verb = Reflect.get(target, name)
      if (name === 'read' || name === 'recent') reads++
      return typeof verb === 'function' ? verb.bind(target) : verb
    },
  })
  const states = new States(counted)
  const first = states.open('c')
  const more = range(1, 20).map(async (n) => {
    const [appended] = await put(log, keyed(`more${n}`, n))
    return [appended!.last, await states.open('c')] as const
  })
  await first
  for (const [seq, { at }] of await Promise.all(more)) expect(at).toBeGreaterThanOrEqual(seq)
  expect(reads).toBeLessThan(2 * 50)
  const before = reads
  await states.open('c')
  expect(reads).toBe(before)
})

test('what comes while it is made is in it or behind it', async () => {
  const log = await tempLog()
  await put(log, keyed('a', 1), keyed('b', 1))
  const racing = amid(log, 'read', () => put(log, keyed('a', 2)))
  const states = new States(racing)
  const place = await states.open('c')
  const events = await whole(states, place)
  expect([place.at, events.map(({ seq }) => seq)]).toEqual([2, [1, 2]])
  expect(await stateOf(states)).toEqual([
    [2, 'b', 1],
    [3, 'a', 2],
  ])
})

test('a tombstone that goes while a state is made takes what it deleted with it', async () => {
  const log = await tempLog({ tailBytes: 0 })
  await put(log, keyed('a', 1))
  await put(log, ...range(1, 999).map((n) => keyed(`k${n}`, n)))
  await put(log, keyed('a', undefined), keyed('z', 1))
  const states = new States(amid(log, 'read', () => compactChannel(log, 'c', ALL_OF_IT)))
  const place = await states.open('c')
  expect(place.epoch).toMatch(/~1$/)
  const keys = (await whole(states, place)).map(({ key }) => key)
  expect([keys.length, keys.includes('a')]).toEqual([1_000, false])
})

test('a tombstone that goes after a state was told is told to who goes on from that state', async () => {
  const log = await tempLog()
  const states = new States(log)
  await put(log, keyed('a', 1), keyed('b', 1))
  const source = new StateFirst(log, states)
  const { follower } = await Follower.open(source, 'c', { after: { at: 'seq', seq: 0 } })
  const one = { events: 1, bytes: 1 }
  expect(await follower.next(one)).toMatchObject({ page: { last: 1, at: 2 } })
  await put(log, keyed('a', undefined), keyed('c', 1))
  await states.open('c')
  await compactChannel(log, 'c', ALL_OF_IT)
  await put(log, keyed('d', 1))
  await states.open('c')
  const told: unknown[] = []
  for (let item = await follower.next(ALL); item?.is !== 'caughtup'; item = await follower.next(ALL))
    told.push(item?.is === 'page' ? eventsOf(item.page).map(({ key }) => key) : item?.is)
  expect(told).toEqual([['b'], 'reset', ['b', 'c', 'd']])
})

test('memory has a bound: too large, no room beside others that are read, room where nobody reads any more', async () => {
  const log = await tempLog()
  const data = 'x'.repeat(1_000)
  for (const key of range(1, 100)) await put(log, keyed(`k${key}`, data))
  const small = new States(log, { bytes: 50_000 })
  for (const _ of [1, 2]) expect(await refusal(small.open('c'))).toMatchObject({ code: 'too-large', limit: 50_000 })
  const body = encodeBody(range(1, 60).map((key) => keyed(`k${key}`, data)))
  await log.append([{ channel: 'd', body }])
  const states = new States(log, { bytes: 150_000 })
  await states.open('c')
  expect(await refusal(states.open('d'))).toMatchObject({ code: 'too-many', retryAfter: 60_000 })
  states.forget('c')
  await states.open('d')
  expect(await refusal(states.open('c'))).toMatchObject({ code: 'too-many' })
})

test('an older state is kept until as much was overwritten as it takes, and 4 MiB at least', async () => {
  const log = await tempLog()
  const states = new States(log)
  const data = 'x'.repeat(500_000)
  await put(log, keyed('a', data), keyed('b', 1))
  const place = await states.open('c')
  let rounds = 0
  for (; rounds < 20; rounds++) {
    await put(log, keyed('a', `${rounds}${data}`))
    await states.open('c')
    const page = await states.page('c', place, 0, ALL).catch((error: { code: string }) => error.code)
    if (page === 'gap') break
    expect((await whole(states, place)).map(({ seq }) => seq)).toEqual([1, 2])
  }
  expect(rounds).toBeGreaterThanOrEqual(4)
  expect(rounds).toBeLessThan(20)
  expect((await stateOf(states)).length).toBe(2)
})

test('damage is told, and other channels are read', async () => {
  const dir = tempDir()
  const log = await openLog({ dir })
  for (const n of range(1, 5)) await put(log, keyed(`k${n}`, n))
  await log.append([{ channel: 'd', body: encodeBody([keyed('a', 1)]) }])
  await log.close()
  await withRows(dir, async (rows) => flip(rows, blockKey(await numberOf(rows, 'c'), 3), 500))
  const damaged = await openLog({ dir })
  const states = new States(damaged)
  for (const _ of [1, 2])
    expect(await refusal(states.open('c'))).toMatchObject({ code: 'data-loss', after: 2, upTo: 3 })
  expect((await states.open('d')).at).toBe(1)
  await damaged.close()
})

test('blocks of a state hold its events and no other one, however far apart, however large', () => {
  const large = spansOf(
    sealBlock('c', [encodeBody([keyed('large', 'x'.repeat(BLOCK_BYTES_MAX - 60))])], { after: 0, time: 5 }, crc32),
  )[0]!
  const little = spansOf(sealBlock('c', [encodeBody([keyed('a', 1)])], { after: 0, time: 5 }, crc32))[0]!
  const span = (from: Span, seq: number, time: number): Span => ({ ...from, seq, time })
  const far = 2 ** 33
  const cases: [number, Span[], number][] = [
    [0, [], 9],
    [3, [span(little, 4, 1)], 4],
    [3, [span(little, far, 1), span(little, far + 1, 2 ** 32), span(little, 3 * far, 2 ** 33)], 4 * far],
    [0, [span(large, 7, 1), span(little, 8, 1), span(large, 9, 2)], 12],
    [0, [span(little, 2, 1), span(large, 3, 1), span(large, 40, 2)], 40],
    [0, range(1, 2_500).map((n) => span(little, n * 2, n)), 5_001],
  ]
  for (const [after, spans, last] of cases) {
    let at = after
    const found = blocksOf('c', after, { spans, last }).flatMap((block) => {
      const header = checkBlock('c', block, crc32)
      expect(header.after).toBe(at)
      expect(block.length).toBeLessThanOrEqual(BLOCK_BYTES_MAX)
      at = header.last
      return decodeBlock(block).map(({ seq, time }) => [seq, time])
    })
    expect(at).toBe(last)
    expect(found).toEqual(spans.map(({ seq, time }) => [seq, time]))
  }
})

// ── The model ────────────────────────────────────────────────────────────────────────────────────────────────────

const count = {
  ...{ pages: 0, wholes: 0, begun: 0, resets: 0, live: 0, compactions: 0, cleaned: 0, trims: 0, lives: 0 },
  ...{ settings: 0, rows: 0, voids: 0 },
}

/** What happens to one channel, and those who read its state meanwhile. */
class World {
  readonly random: (below: number) => number
  readonly #dir = tempDir()
  history = new History()
  log!: Log
  states!: States
  #writer!: StateWriter
  trimmed = 0

  constructor(random: (below: number) => number) {
    this.random = random
  }

  async open(): Promise<void> {
    // Some restarts find everything on disk, some channels are longer than what is in memory.
    this.log = await openLog({ dir: this.#dir, tailBytes: this.random(2) * (1 << 20) })
    this.states = new States(this.log)
    this.#writer = new StateWriter(this.log, { pace: { batch: 1, lookEvery: 5, trimEvery: 0, restTimes: 0 } })
    // Its rows follow by themselves, or when they are told to.
    if (this.random(2) === 0) this.#writer.start()
  }

  async close(): Promise<void> {
    await this.#writer.close()
    await this.log.close()
  }

  async disturb(): Promise<void> {
    const kind = this.random(46)
    if (kind < 28) await this.append()
    else if (kind < 32) await this.#trim()
    else if (kind < 35) await this.#compact()
    else if (kind === 35) this.states.forget('c')
    else if (kind === 36) {
      await this.close()
      await this.open()
    } else if (kind > 37 && kind < 41) {
      await this.log.configure('c', { state: this.random(6) > 0 })
      count.settings++
    } else if (kind > 40) await this.#keep()
    else if (kind === 37 && this.random(4) === 0) {
      await this.log.delete('c')
      this.history = new History()
      this.trimmed = 0
      count.lives++
      await this.append()
    }
  }

  async append(): Promise<void> {
    const events = range(0, this.random(5)).map((i) => {
      const kind = this.random(8)
      if (kind === 0) return event('none', kind < this.random(2) ? { to: { users: ['u'], groups: [] } } : {})
      return keyed(`k${this.random(9)}`, kind < 3 ? undefined : this.history.head + i + 1)
    })
    await put(this.log, ...events)
    this.history.add(events)
  }

  /** Rows of the state as it is now, or none; what is read next begins with them. */
  async #keep(): Promise<void> {
    await this.#writer.look()
    const place = await this.log.stateRows!.place('c')
    if ((place?.rows ?? 0) > 0) count.rows++
    this.states.forget('c')
    if (this.random(8) > 0) return
    await this.log.stateRows!.drop('c')
    count.voids++
  }

  async #trim(): Promise<void> {
    const upTo = Math.max(this.trimmed, this.random(this.history.head + 1) - this.random(40))
    await this.log.trim('c', upTo)
    this.trimmed = upTo
    count.trims++
  }

  async #compact(): Promise<void> {
    const { epoch } = await this.log.info('c')
    await compactChannel(this.log, 'c', {
      ...ALL_OF_IT,
      minLag: this.random(20),
      ...(this.random(3) === 0 && { tombstoneAge: 60_000 }),
    })
    count.compactions++
    if ((await this.log.info('c')).epoch !== epoch) count.cleaned++
  }

  /** What a state holds at a seq: all that is not trimmed, and perhaps what was trimmed while it was read. */
  judge(at: number, found: readonly Event[], trimmedBefore: number): void {
    const should = this.history.stateAt(at)
    for (const it of found) {
      expect([it.key, should.get(it.key!)]).toEqual([it.key, it.seq])
      expect(it.seq).toBeGreaterThan(trimmedBefore)
      expect(valueIn(it)).toEqual(valueIn(this.history.events[it.seq - 1]!))
    }
    const there = found.map(({ seq }) => seq)
    expect(there).toEqual([...new Set(there)].sort((a, b) => a - b))
    for (const [key, seq] of should)
      if (seq > this.trimmed) expect([key, there]).toEqual([key, expect.arrayContaining([seq])])
  }

  get limits(): ReadLimits {
    return { events: 1 + this.random(6), bytes: 1 + this.random(400) }
  }
}

/** Reads states page by page, as over HTTP, while other things happen. */
class Pager {
  readonly #world: World
  #place: StateAt | undefined
  #history: History | undefined
  #trimmed = 0
  #events: Event[] = []
  #after = 0

  constructor(world: World) {
    this.#world = world
  }

  async step(): Promise<void> {
    const { states, history, trimmed, limits } = this.#world
    if (!this.#place) {
      this.#place = await states.open('c')
      expect(this.#place.at).toBe(history.head)
      ;[this.#events, this.#after, this.#trimmed, this.#history] = [[], 0, trimmed, history]
    }
    const { at } = this.#place
    try {
      const page = await states.page('c', this.#place, this.#after, limits)
      count.pages++
      expect(page.after).toBe(this.#after)
      expect(page.trimmed).toBe(this.#world.trimmed)
      const events = eventsOf(page)
      for (const { seq } of events) expect(seq).toBeGreaterThan(this.#world.trimmed)
      this.#events.push(...events)
      this.#after = page.last
      if (page.last < at) return
      this.#world.judge(at, this.#events, this.#trimmed)
      expect(this.#history).toBe(history)
      count.wholes++
    } catch (error) {
      // It was forgotten, the server restarted, or the channel is another one.
      expect(['gap', 'epoch-changed']).toContain((error as { code?: string }).code ?? error)
      count.begun++
    }
    this.#place = undefined
  }
}

/** Begins with the state, then goes on live, as over a socket. */
class Live {
  readonly #world: World
  #states: States | undefined
  #follower: Follower | undefined
  #state = new Map<string, Event>()
  #history: History | undefined
  #trimmed = 0
  #after = 0
  #isWhole = false

  constructor(world: World) {
    this.#world = world
  }

  async #begin(): Promise<void> {
    const { states, log } = this.#world
    const source = new StateFirst(log, states)
    if (this.#world.random(2) === 0) await source.open('c')
    this.#follower = (await Follower.open(source, 'c', { after: { at: 'seq', seq: 0 } })).follower
    this.#states = states
    this.#anew(0)
  }

  #anew(after: number): void {
    this.#state.clear()
    this.#after = after
    this.#isWhole = false
    this.#history = this.#world.history
    this.#trimmed = this.#world.trimmed
  }

  /** False at the head. */
  async step(): Promise<boolean> {
    const { history, states, trimmed, limits } = this.#world
    // A restart of the server: where the state was whole it goes on as ever, else it begins anew.
    if (this.#states !== states) await this.#begin()
    const item = await this.#follower!.next(limits)
    if (item === undefined || item.is === 'caughtup') return false
    if (item.is === 'reset') {
      count.resets++
      this.#anew(item.trimmed)
      return true
    }
    if (item.is !== 'page') return expect.fail(`${item.is}`)
    const { page } = item
    const events = eventsOf(page)
    expect(page.after).toBe(this.#after)
    expect(this.#history).toBe(history)
    this.#after = page.last
    if (page.at === undefined) {
      expect(this.#isWhole || page.after === 0 || page.after === trimmed).toBe(true)
      this.#isWhole = true
      history.judge(page.after, page.last, events)
      count.live++
    }
    for (const it of events)
      if (it.key !== null && it.data === null) this.#state.delete(it.key)
      else if (it.key !== null) this.#state.set(it.key, it)
    if (page.at !== undefined && page.last === page.at) {
      this.#isWhole = true
      count.wholes++
      this.#judge(page.at)
    }
    return true
  }

  /** At its seq, and at the head: between them compaction may have taken what stood there for a while. */
  #judge(at: number): void {
    const known = [...this.#state.values()].sort((a, b) => a.seq - b.seq)
    this.#world.judge(at, known, this.#trimmed)
  }

  async toHead(): Promise<void> {
    while (await this.step());
    this.#judge(this.#world.history.head)
  }
}

test(`${RUNS} channels with all that happens to them: each state is exact, and goes on from where it is`, async () => {
  for (let run = 0; run < RUNS; run++) {
    const random = dice(SEED + run)
    const world = new World(random)
    await world.open()
    await world.append()
    const pagers = range(1, 3).map(() => new Pager(world))
    const lives = range(1, 3).map(() => new Live(world))
    try {
      for (let step = 0; step < STEPS; step++) {
        if (random(3) === 0) await world.disturb()
        await pagers[random(3)]!.step()
        await lives[random(3)]!.step()
      }
      for (const live of lives) await live.toHead()
    } catch (error) {
      throw new Error(`TEST_SEED=${SEED} run ${run}`, { cause: error })
    } finally {
      await world.close()
    }
  }
  console.log(`seed ${SEED}: ${JSON.stringify(count)}`)
  for (const what of Object.values(count)) expect(what).toBeGreaterThan(0)
}, 120_000)
