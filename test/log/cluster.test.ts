/**
 * Three nats-servers and two gateways: the model, and appends while the stream's leader is killed.
 * `CLUSTER_MINUTES=5 npm run torture:cluster` is the long tier: for so long each, while nodes are killed and stopped,
 * and amid that the contract once, which `jetstream.test.ts` asks of one nats-server in any case.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { connect } from '@nats-io/transport-node'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { hasCode } from '../../src/errors.ts'
import type { ChannelInfo, Log } from '../../src/log/log.ts'
import { openLog } from '../../src/log/open.ts'
import { dice } from '../crash/dice.ts'
import { body, range, SEED } from '../parts.ts'
import { alternating, Patience } from './alternating.ts'
import { amidUnrest, Cluster, IS_LONG, MINUTES, unrest } from './cluster.ts'
import { logContract, type Open } from './contract.ts'
import { natsProgram } from './nats.ts'
import { Pair } from './pair.ts'
import { ALL, append, list, readAll, valueIn } from './reading.ts'
import { Routes } from './routes.ts'
import { step } from './steps.ts'
import { Traffic } from './traffic.ts'

const program = await natsProgram()
const cluster = program === undefined ? undefined : await Cluster.start(program)
afterAll(() => cluster?.end())

const GATEWAYS = 2
/** Histories of the small form. */
const HISTORIES = 2
const random = dice(SEED)
let places = 0

/** Opens a log; in the long tier, as soon as it can be. */
async function opened(namespace: string, servers = cluster!.urls): Promise<Log> {
  const nats = { servers, namespace, durability: 'fsync' } as const
  for (;;)
    try {
      return await openLog({ dir: 'nowhere', nats })
    } catch (error) {
      if (!IS_LONG || !hasCode(error, 'unavailable')) throw error
    }
}

/** Closed when the test ends. */
async function opening(...place: Parameters<typeof opened>): Promise<Log> {
  const log = await opened(...place)
  onTestFinished(() => log.close())
  return log
}

/** Two gateways as one log. */
const both = async (namespace: string, patience?: Patience): Promise<Log> =>
  alternating(await Promise.all(range(1, GATEWAYS).map(() => opened(namespace))), patience)

const emptied = async (log: Log): Promise<void> => {
  for (const { channel } of await list(log.channels(''))) await log.delete(channel)
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
    const logs = await Promise.all(range(1, GATEWAYS).map(() => opening(namespace)))
    const control = await cluster!.control(namespace)
    const traffic = new Traffic(logs)
    await traffic.goesOn()
    const leader = await cluster!.leaderOf(namespace)
    await cluster!.kill(leader)
    await traffic.goesOn()
    await cluster!.restart(leader)
    await cluster!.whole()
    const befallen = await amidUnrest(cluster!.faults(random, namespace), random, () => delay(MINUTES * 60_000))
    await traffic.goesOn()
    await control.end()
    await traffic.end()
    console.log(`leader ${leader} killed, ${befallen}: ${traffic.told}; ${control.told}`)
  })

  test('An append that the replicas take late is stored once, however often it was sent', async () => {
    const namespace = 'late'
    await opening(namespace)
    const leader = await cluster!.leaderOf(namespace)
    const log = await opening(namespace, [cluster!.urlOf(leader)])
    const { epoch } = await append(log, 'c', ['first'])
    const nc = await connect({ servers: [cluster!.urlOf(leader)] })
    onTestFinished(() => nc.close())
    const sent = nc.subscribe(`tidemark.${namespace}.e.*`)
    await nc.flush()
    const others = cluster!.names.filter((name) => name !== leader)
    onTestFinished(() => cluster!.pause(others, false))
    cluster!.pause(others, true)
    // Without a key: only its place tells that it is there already.
    const appending = append(log, 'c', ['late'])
    await vi.waitFor(() => expect(sent.getReceived()).toBeGreaterThan(2), { timeout: 15_000 })
    cluster!.pause(others, false)
    expect(await appending).toMatchObject({ epoch, first: 2, last: 2 })
    expect((await readAll(log, 'c')).map(valueIn)).toEqual(['first', 'late'])
    await cluster!.whole()
  })

  test('What one gateway deleted no other lists', async () => {
    const [a, b] = await Promise.all(range(1, GATEWAYS).map(() => opening('listed')))
    await a!.append([{ channel: 'stays', body: body(0) }])
    for (const i of range(1, 40)) {
      await append(a!, `c${i}`, [i])
      expect((await list(b!.channels(''))).map(({ channel }) => channel)).toEqual([`c${i}`, 'stays'])
      await a!.commit('web', 'stays', { seq: 1 })
      expect((await list(b!.cursors({ client: 'web' }))).map(({ seq }) => seq)).toEqual([1])
      await a!.delete(`c${i}`)
      expect((await list(b!.channels(''))).map(({ channel }) => channel)).toEqual(['stays'])
      await a!.forget('web', 'stays')
      expect(await list(b!.cursors({ client: 'web' }))).toEqual([])
    }
  })

  test('A key is known to every gateway while its append is on its way, and of none when its channel was deleted', async () => {
    const logs = await Promise.all(range(1, GATEWAYS).map(() => opening('keys')))
    const [a, b] = logs as [Log, Log]
    for (const round of range(1, 20)) {
      const entries = ['a', 'b'].map((channel) => ({ channel, body: body(round) }))
      const answers = await Promise.all(logs.map((log) => log.append(entries, { idempotencyKey: `k${round}` })))
      for (const answer of answers) expect(answer.map(({ first }) => first)).toEqual([round, round])
      expect(answers.filter(([first]) => first!.duplicate).length).toBe(1)
    }
    const first = await append(b, 'c', [1], { idempotencyKey: 'k' })
    // The other one is not told: it does not follow the channel.
    await a.delete('c')
    const anew = await append(b, 'c', [2], { idempotencyKey: 'k' })
    expect(anew).toMatchObject({ first: 1 })
    expect(anew.duplicate).toBeUndefined()
    expect(anew.epoch).not.toBe(first.epoch)
  })

  const ROLES = ['leader', 'follower'] as const
  if (IS_LONG)
    test.for(ROLES)(
      'A %s that is cut off from the others while a gateway still reaches it: nobody is told wrong, all resumes',
      {
        timeout: 300_000,
      },
      async (role) => {
        const routes = new Routes()
        const parted = await Cluster.start(program!, routes)
        onTestFinished(() => parted.end())
        const namespace = 'parted'
        await opening(namespace, parted.urls)
        const leader = await parted.leaderOf(namespace)
        const name = role === 'leader' ? leader : parted.names.find((name) => name !== leader)!
        const others = parted.names.filter((other) => other !== name).map((other) => parted.urlOf(other))
        const [there, elsewhere] = [await opening(namespace, [parted.urlOf(name)]), await opening(namespace, others)]
        const control = await parted.control(namespace)
        const traffic = new Traffic([there, elsewhere])
        await traffic.goesOn()
        const cutAt = performance.now()
        const since = (): string => `${((performance.now() - cutAt) / 1_000).toFixed(1)} s`
        routes.cutOff(name)
        const healed = new AbortController()
        const moving = movesBetween(elsewhere, there, healed.signal)
        const said = vi.waitFor(() => expect(there.health().state).not.toBe('ok'), { timeout: 60_000 }).then(since)
        const went = traffic.goesOn([0]).then(since)
        await traffic.goesOn([1])
        const othersWent = since()
        console.log(
          `a ${role} cut off: said after ${await said}; appends elsewhere after ${othersWent}, through it ${await went}`,
        )
        routes.heal()
        healed.abort()
        await traffic.goesOn()
        await parted.whole()
        await vi.waitFor(() => expect([there, elsewhere].map((log) => log.health().state)).toEqual(['ok', 'ok']), {
          timeout: 30_000,
        })
        await traffic.goesOn()
        const moves = await moving
        await control.end()
        await traffic.end()
        console.log(
          `a ${role} cut off: ${traffic.told}; ${JSON.stringify(moves)} moves between gateways; ${control.told}`,
        )
      },
    )
})

/** A client that has all that one gateway has, and goes on with the other: it is served, or told to come again. */
async function movesBetween(from: Log, to: Log, over: AbortSignal): Promise<Record<string, number>> {
  const found: Record<string, number> = {}
  while (!over.aborted) {
    const { epoch, head } = await readyInfo(from)
    const outcome = await to.read('c', { epoch, after: head }, ALL).catch((error) => error)
    if (outcome.code !== undefined) expect(outcome.code).toBe('unavailable')
    const kind = outcome.code ?? 'served'
    found[kind] = (found[kind] ?? 0) + 1
    await delay(50)
  }
  return found
}

async function readyInfo(log: Log): Promise<ChannelInfo> {
  for (;;)
    try {
      return await log.info('c')
    } catch (error) {
      if (!hasCode(error, 'unavailable')) throw error
    }
}
