import { readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test, vi } from 'vitest'
import { Follower } from '../../src/log/follow.ts'
import { Keeper } from '../../src/log/keeper.ts'
import type { Log } from '../../src/log/log.ts'
import { openLog } from '../../src/log/open.ts'
import { dice } from '../crash/dice.ts'
import { body, range, SEED, tempDir } from '../parts.ts'
import { ALL, eventsOf, valueIn } from './reading.ts'

const CLIENTS = 1_000
const STAY = 100
const DAYS = 40
const TTL_DAYS = 7
const VANISH_DAY = 5
const DAY_MS = 86_400_000
/** Appended in a day. */
const EVENTS = 60
const EVENT_BYTES = 2_000

/** A client that keeps nothing but its cursor: takes all there is, holds it against what was appended, and commits. */
async function catchUp(log: Log, client: string, appended: readonly number[]): Promise<void> {
  const { follower, opened } = await Follower.open(log, 'c', { client })
  let at = opened.after
  for (;;) {
    const item = await follower.next(ALL)
    if (item === undefined || item.is === 'caughtup') break
    if (item.is !== 'page') return expect.fail(`${client} lost something: ${JSON.stringify(item)}`)
    for (const event of eventsOf(item.page)) {
      const [value] = valueIn(event) as [number]
      if (event.seq !== ++at || value !== appended[at - 1])
        expect.fail(`${client} read ${event.seq} (${value}) at ${at}`)
    }
  }
  await log.commit(client, 'c', { seq: at })
}

const bytesIn = (dir: string): number =>
  readdirSync(dir, { recursive: true }).reduce((sum, file) => sum + statSync(join(dir, `${file}`)).size, 0)

test(`${CLIENTS} clients, ${CLIENTS - STAY} vanish: the log stays bounded, those that stay lose nothing, over a restart too`, {
  timeout: 120_000,
}, async () => {
  console.log(`vanished clients: TEST_SEED=${SEED}`)
  const random = dice(SEED)
  vi.useFakeTimers({ toFake: ['Date'], now: Date.UTC(2026, 0, 1) })
  const dir = tempDir()
  const open = () => openLog({ dir, writeBufferBytes: 64 * 1024 })
  let log = await open()
  const keeperOf = () =>
    new Keeper(log, { cursorTtl: TTL_DAYS * DAY_MS, pace: { restTimes: 0, grace: 0, cursorsEvery: 0 } })
  let keeper = keeperOf()
  try {
    await log.configure('c', { retention: { consumed: true } })
    const clients = range(1, CLIENTS).map((i) => `client-${i}`)
    const appended: number[] = []
    const retained: number[] = []
    let forgotten = 0
    for (const day of range(1, DAYS)) {
      const values = range(1, EVENTS).map((i) => day * 1_000 + i)
      appended.push(...values)
      const events = values.map((value) => body([value, 'x'.repeat(EVENT_BYTES)]))
      await Promise.all(events.map((body) => log.append([{ channel: 'c', body }])))
      const living = day < VANISH_DAY ? clients : clients.slice(0, STAY)
      // Some come every other day only; on the first day all do.
      const come = living.filter((_, i) => day === 1 || (i + day) % 2 === 0 || random(2) === 0)
      // Of those of this day some come while the keeper works.
      const late = day === 1 ? [] : come.splice(0, STAY / 4)
      await Promise.all(come.map((client) => catchUp(log, client, appended)))
      await Promise.all([keeper.look(), ...late.map((client) => catchUp(log, client, appended))])
      const { head, trimmed } = await log.info('c')
      retained.push(head - trimmed)
      if (day === 20) {
        forgotten += keeper.kept.cursors
        await log.close()
        log = await open()
        keeper = keeperOf()
      }
      vi.setSystemTime(Date.now() + DAY_MS)
    }
    const most = Math.max(...retained)
    const last = retained.slice(-10)
    console.log(
      `retained: at most ${most} of ${appended.length} events, at the end ${last.join()}; files ${bytesIn(dir)} bytes`,
    )
    // What the vanished pin until they are forgotten, and what those who stay have not come for.
    expect(most).toBeLessThanOrEqual((TTL_DAYS + 3) * EVENTS)
    expect(most).toBeGreaterThanOrEqual((TTL_DAYS - 1) * EVENTS)
    for (const events of last) expect(events).toBeLessThanOrEqual(3 * EVENTS)
    expect(forgotten).toBe(CLIENTS - STAY)
    let left = 0
    for await (const { client } of log.cursors({ channel: 'c' })) if (clients.includes(client)) left++
    expect(left).toBe(STAY)
    // LevelDB gives space back when it compacts, a little later than it was freed.
    expect(bytesIn(dir)).toBeLessThan((DAYS * EVENTS * EVENT_BYTES) / 2)
    for (const client of clients.slice(0, STAY)) await catchUp(log, client, appended)
    await keeper.look()
    expect(await log.info('c')).toMatchObject({ head: appended.length, trimmed: appended.length })
  } finally {
    vi.useRealTimers()
    await log.close()
  }
})
