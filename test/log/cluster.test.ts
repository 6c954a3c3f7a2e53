/**
 * Three nats-servers and two gateways: the model, and appends while the stream's leader is killed.
 * `CLUSTER_MINUTES=5 npm run torture:cluster` is the long tier: for so long each, while nodes are killed and stopped,
 * and amid that the contract once, which `jetstream.test.ts` asks of one nats-server in any case.
 */
import { setTimeout as delay } from 'node:timers/promises'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { hasCode } from '../../src/errors.ts'
import type { Appended, Log } from '../../src/log/log.ts'
import { openLog } from '../../src/log/open.ts'
import { dice } from '../crash/dice.ts'
import { range, SEED } from '../parts.ts'
import { alternating, Patience } from './alternating.ts'
import { amidUnrest, Cluster, IS_LONG, MINUTES, unrest } from './cluster.ts'
import { logContract, type Open } from './contract.ts'
import { natsProgram } from './nats.ts'
import { Pair } from './pair.ts'
import { ALL, append, eventsOf, list, readAll, valueIn } from './reading.ts'
import { step } from './steps.ts'

const program = await natsProgram()
const cluster = program === undefined ? undefined : await Cluster.start(program)
afterAll(() => cluster?.end())

const GATEWAYS = 2
/** Histories of the small form. */
const HISTORIES = 2
const random = dice(SEED)
let places = 0

/** Opens a log; in the long tier, as soon as it can be. */
async function opened(namespace: string): Promise<Log> {
  const nats = { servers: cluster!.urls, namespace, durability: 'fsync' } as const
  for (;;)
    try {
      return await openLog({ dir: 'nowhere', nats })
    } catch (error) {
      if (!IS_LONG || !hasCode(error, 'unavailable')) throw error
    }
}

/** Two gateways as one log. */
const both = async (namespace: string, patience?: Patience): Promise<Log> =>
  alternating(await Promise.all(range(1, GATEWAYS).map(() => opened(namespace))), patience)

const emptied = async (log: Log): Promise<void> => {
  for (const { channel } of await list(log.channels('')))
    await log.delete(channel).catch((error: unknown) => {
      // A replica that lags lists what is gone.
      if (!IS_LONG || !hasCode(error, 'no-channel')) throw error
    })
}

const told = ({ refused, longest, calls }: Patience): string =>
  `${calls} calls, longest ${(longest / 1_000).toFixed(1)} s, refused and tried again ${JSON.stringify(refused)}`

describe.skipIf(!cluster)('three nats-servers and two gateways', { timeout: IS_LONG ? 300_000 : 60_000 }, () => {
  const patience = IS_LONG ? new Patience() : undefined
  /** To make streams takes longer than to empty them. */
  const free: string[] = []
  const names = new Map<string, string>()
  const open: Open = async ({ at, isUntouched } = {}) => {
    const known = at === undefined ? undefined : names.get(at)
    const name = known ?? (isUntouched ? undefined : free.pop()) ?? `r${++places}`
    if (at !== undefined) names.set(at, name)
    const log = await both(name, patience)
    onTestFinished(async () => {
      await log.close()
      if (known === undefined) free.push(name)
    })
    if (known === undefined) await emptied(log)
    return log
  }
  const asOneLog = () => {
    const over = new AbortController()
    let troubling: Promise<Record<string, number>> | undefined
    beforeAll(() => {
      if (patience) troubling = unrest(cluster!.faults(random), random, over.signal)
      // It is awaited in the end.
      troubling?.catch(() => undefined)
    })
    afterAll(async () => {
      over.abort()
      if (patience) console.log(`contract: ${JSON.stringify(await troubling)}; ${told(patience)}`)
    }, 300_000)
    logContract('jetstream in a cluster', open, ['multiChannel'])
  }
  if (IS_LONG) describe('as one log', asOneLog)

  test('Random histories through both, reopened amid them, are as the model says', {
    timeout: 120_000 + MINUTES * 120_000,
  }, async () => {
    const patience = IS_LONG ? new Patience() : undefined
    const until = performance.now() + MINUTES * 60_000
    let runs = 0
    const open = () => both('model', patience)
    const one = fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 40, size: 'max' }), async (steps) => {
      if (IS_LONG && performance.now() > until) return
      runs++
      const log = await open()
      await emptied(log)
      const pair = new Pair(log, open, { isRemote: true, isTroubled: IS_LONG })
      try {
        for (const step of steps) await pair.take(step)
        await pair.whole()
      } finally {
        await pair.log.close()
      }
    })
    const numRuns = IS_LONG ? 10_000 : HISTORIES
    const work = () => fc.assert(one, { seed: SEED, numRuns, endOnFailure: IS_LONG })
    await (await opened('model')).close()
    const befallen = await amidUnrest(cluster!.faults(random, 'model'), random, work)
    console.log(`model: TEST_SEED=${SEED}, ${runs} histories; ${befallen}; ${patience ? told(patience) : ''}`)
  })

  test('While the leader is killed appends go on: 0 answered lost, none twice, order kept', {
    timeout: 150_000 + MINUTES * 120_000,
  }, async () => {
    const namespace = 'kills'
    const logs = await Promise.all(range(1, GATEWAYS).map(() => opened(namespace)))
    for (const log of logs) onTestFinished(() => log.close())
    const acked = new Map<string, Appended>()
    const refusals: Record<string, number> = {}
    let longest = 0
    let isOver = false
    const produce = async (producer: string, log: Log): Promise<void> => {
      for (let n = 1; !isOver; n++) {
        const value = `${producer}/${n}`
        const started = performance.now()
        while (!acked.has(value)) {
          const outcome = await append(log, 'c', [value], { idempotencyKey: value }).catch((error) => error)
          if (outcome.code === undefined) acked.set(value, outcome)
          else {
            expect(outcome.code).toBe('unavailable')
            const kind = outcome.details.outcome ?? 'refused'
            refusals[kind] = (refusals[kind] ?? 0) + 1
            await delay(50)
          }
        }
        longest = Math.max(longest, performance.now() - started)
      }
    }
    const producing = ['a', 'b', 'c', 'd'].map((name, i) => produce(name, logs[i % 2]!))
    const gone = new AbortController()
    const seen: unknown[] = []
    const following = (async () => {
      for (let after = 0; !gone.signal.aborted; ) {
        await logs[1]!.changed('c', { after }, gone.signal).catch(() => undefined)
        const page = await logs[1]!.read('c', { after }, ALL).catch(() => undefined)
        if (!page) continue
        seen.push(...eventsOf(page).map(valueIn))
        after = page.last
      }
    })()
    const goesOn = async (): Promise<void> => {
      const before = acked.size
      await vi.waitFor(() => expect(acked.size).toBeGreaterThan(before + 40), { timeout: 120_000 })
    }
    await goesOn()
    const leader = await cluster!.leaderOf(namespace)
    await cluster!.kill(leader)
    await goesOn()
    await cluster!.restart(leader)
    await cluster!.whole()
    const befallen = await amidUnrest(cluster!.faults(random, namespace), random, () => delay(MINUTES * 60_000))
    await goesOn()
    isOver = true
    await Promise.all(producing)
    const values = (await readAll(logs[0]!, 'c')).map(valueIn) as string[]
    expect(new Set(values).size, 'nothing is there twice').toBe(values.length)
    for (const [value, { first }] of acked) expect(values[first - 1]).toBe(value)
    expect(values.filter((value) => !acked.has(value))).toEqual([])
    await vi.waitFor(() => expect(seen.length).toBe(values.length), { timeout: 20_000 })
    gone.abort()
    await following
    expect(seen).toEqual(values)
    console.log(
      `leader ${leader} killed, ${befallen}: ${acked.size} answered, 0 lost, 0 twice; ` +
        `longest stall ${(longest / 1_000).toFixed(1)} s; refused ${JSON.stringify(refusals)}`,
    )
  })
})
