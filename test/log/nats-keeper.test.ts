import { setTimeout as delay } from 'node:timers/promises'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { Lease } from '../../src/log/jetstream/lease.ts'
import { Link } from '../../src/log/jetstream/link.ts'
import { Keeper } from '../../src/log/keeper.ts'
import type { Log } from '../../src/log/log.ts'
import { type NatsOptions, openLog } from '../../src/log/open.ts'
import { readRetentionRule } from '../../src/retention.ts'
import { body, range } from '../parts.ts'
import { Line } from './line.ts'
import { natsOfFile } from './nats.ts'
import { append, list } from './reading.ts'

const nats = await natsOfFile()

let places = 0
const newPlace = (): string => `k${++places}`

async function opened(options: Partial<NatsOptions>): Promise<Log> {
  const log = await openLog({ dir: 'nowhere', idWindow: 500, nats: { servers: [nats!.url], ...options } })
  onTestFinished(() => log.close())
  return log
}

/** Appends one event to each of so many channels. */
async function fill(log: Log, channels: number): Promise<void> {
  for (let from = 1; from <= channels; from += 100)
    await log.append(range(from, Math.min(from + 99, channels)).map((i) => ({ channel: `c${i}`, body: body(i) })))
}

const held = (leases: readonly Lease[]): Lease[] => leases.filter(({ isHeld }) => isHeld)

describe.skipIf(!nats)('what one gateway does for all', () => {
  test('One holds the lease at a time; one that gives it back, or is gone, is followed by another', async () => {
    const namespace = newPlace()
    const pace = { renew: 40, hold: 150, take: 500 }
    const notices: string[] = []
    const made = await Promise.all(
      range(1, 3).map(async () => {
        const line = new Line(nats!.url)
        const link = await Link.open({ servers: [await line.open()], namespace }, {})
        onTestFinished(() => link.nc.close())
        const lease = new Lease(link, (why) => void notices.push(why), pace)
        onTestFinished(() => lease.close())
        return { line, lease }
      }),
    )
    const leases = made.map(({ lease }) => lease)
    let most = 0
    const watching = setInterval(() => {
      most = Math.max(most, held(leases).length)
    }, 1)
    onTestFinished(() => clearInterval(watching))
    for (const lease of leases) lease.seek()
    const holder = async (but?: Lease): Promise<Lease> => {
      await vi.waitFor(() => expect(held(leases).filter((lease) => lease !== but)).toHaveLength(1), { timeout: 10_000 })
      return held(leases).find((lease) => lease !== but)!
    }
    const first = await holder()
    // It stays where it is.
    await delay(4 * pace.take)
    expect(held(leases)).toEqual([first])
    // Nothing of it is heard any more, and it hears nothing.
    const { line } = made.find(({ lease }) => lease === first)!
    line.ends = 'silent'
    line.passes = 0
    const second = await holder(first)
    line.heal()
    await delay(4 * pace.take)
    expect(held(leases)).toEqual([second])
    await second.close()
    await holder(second)
    expect(most).toBe(1)
    expect(notices).toEqual([])
  })

  test('Of two gateways one keeps what retention says, and the other one goes on when it is closed', async () => {
    const namespace = newPlace()
    const logs = [await opened({ namespace }), await opened({ namespace })]
    const keepers = logs.map((log) => new Keeper(log, { pace: { lookEvery: 20, restTimes: 0 } }))
    for (const keeper of keepers) keeper.start()
    onTestFinished(async () => void (await Promise.all(keepers.map((keeper) => keeper.close()))))
    await logs[0]!.configure('c', { retention: { maxEvents: 2 } })
    await append(logs[0]!, 'c', range(1, 5))
    await vi.waitFor(async () => expect((await logs[1]!.info('c')).trimmed).toBe(3), { timeout: 10_000 })
    // A look is counted when it is over, which is after its trims.
    const hasLooked = (keeper: Keeper | undefined) => keeper!.kept.looks > 0
    await vi.waitUntil(() => keepers.some(hasLooked), { timeout: 10_000 })
    const [one, other] = hasLooked(keepers[0]) ? [0, 1] : [1, 0]
    expect(keepers[other]!.kept.looks).toBe(0)
    await keepers[one]!.close()
    await logs[one]!.close()
    await append(logs[other]!, 'c', range(6, 9))
    await vi.waitFor(async () => expect((await logs[other]!.info('c')).trimmed).toBe(7), { timeout: 10_000 })
    await vi.waitUntil(() => hasLooked(keepers[other]), { timeout: 10_000 })
  })

  test('What a gateway trimmed and did not clear away before it ended goes all the same', async () => {
    const namespace = newPlace()
    const gone = await opened({ namespace })
    for (const i of range(1, 10)) await append(gone, 'c', [i])
    await gone.trim('c', 8)
    await gone.close()
    const log = await opened({ namespace })
    const link = await Link.open({ servers: [nats!.url], namespace }, {})
    onTestFinished(() => link.nc.close())
    expect(await link.next(link.subjectOf('c'), 1)).toMatchObject({ seq: 1 })
    const keeper = new Keeper(log, { pace: { restTimes: 0 } })
    await vi.waitFor(
      async () => {
        await keeper.look()
        expect((await link.next(link.subjectOf('c'), 1))?.seq).toBe(9)
      },
      { timeout: 10_000 },
    )
  })

  test('A look at all channels, a listing, and forgetting cursors ask NATS far less than once a channel', async () => {
    const namespace = newPlace()
    const line = new Line(nats!.url)
    const log = await opened({ namespace, servers: [await line.open()] })
    await fill(log, 1_200)
    for (const i of range(1, 20)) await log.commit('web', `c${i}`, { seq: 1 })
    const rules = [readRetentionRule('**: events=10')]
    const keeper = new Keeper(log, { rules, cursorTtl: 1, pace: { restTimes: 0, grace: 0, cursorsEvery: 0 } })
    await vi.waitFor(() => expect(log.isKeeper).toBe(true))
    const asked = async (work: () => Promise<unknown>): Promise<number> => {
      const before = line.sent
      await work()
      return line.sent - before
    }
    // A question for each cursor that goes, and two for its going; the pulse asks, too.
    expect(await asked(() => keeper.look())).toBeLessThan(160)
    expect(keeper.kept.cursors).toBe(20)
    expect(await asked(() => keeper.look())).toBeLessThan(40)
    expect(await asked(() => list(log.channels('')))).toBeLessThan(20)
  })
})
