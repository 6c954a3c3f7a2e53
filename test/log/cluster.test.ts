/**
 * Three nats-servers and two gateways: the model, and appends while the stream's leader is killed.
 * `CLUSTER_MINUTES=5 npm run torture:cluster` is the long tier: for so long each, while nodes are killed and stopped,
 * and amid that, and gateways that are killed, the contract once, which `jetstream.test.ts` asks of one nats-server in
 * any case.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { connect } from '@nats-io/transport-node'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { hasCode } from '../../src/errors.ts'
import type { Log } from '../../src/log/log.ts'
import { openLog } from '../../src/log/open.ts'
import { dice } from '../crash/dice.ts'
import { body, range, SEED } from '../parts.ts'
import { alternating } from './alternating.ts'
import { amidUnrest, Cluster, IS_LONG, inWords, MINUTES, unrest } from './cluster.ts'
import { logContract, type Open } from './contract.ts'
import { buried } from './gateway.ts'
import { natsProgram } from './nats.ts'
import { Pair } from './pair.ts'
import { Patience, patient } from './patient.ts'
import { ALL, append, BLOCKWISE, eventsOf, list, readAll, valueIn } from './reading.ts'
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
  patience
    ? patient(GATEWAYS, () => opened(namespace), patience, namespace)
    : alternating(await Promise.all(range(1, GATEWAYS).map(() => opened(namespace))))

const emptied = async (log: Log): Promise<void> => {
  for (const { channel } of await list(log.channels(''))) await log.delete(channel)
}

describe.skipIf(!cluster)('three nats-servers and two gateways', { timeout: IS_LONG ? 300_000 : 60_000 }, () => {
  const patience = IS_LONG ? new Patience() : undefined
  /** To make streams takes longer than to empty them. */
  const free: string[] = []
  const names = new Map<string, string>()
  let newest = 'contract'
  const open: Open = async ({ at, isUntouched } = {}) => {
    const known = at === undefined ? undefined : names.get(at)
    const name = known ?? (isUntouched ? undefined : free.pop()) ?? `r${++places}`
    if (at !== undefined) names.set(at, name)
    const log = await both(name, patience)
    newest = name
    onTestFinished(async ({ task }) => {
      await log.close()
      if (known === undefined && task.result?.state !== 'fail') free.push(name)
    })
    if (known === undefined) await emptied(log)
    return log
  }
  const asOneLog = () => {
    const over = new AbortController()
    let troubling: Promise<Record<string, number>> | undefined
    beforeAll(async () => {
      if (!patience) return
      await (await opened(newest)).close()
      const faults = {
        ...cluster!.faults(random, () => newest),
        'gateway killed': () => patience.killOne(random, over.signal),
      }
      troubling = unrest(faults, random, over.signal)
      // It is awaited in the end.
      troubling.catch(() => undefined)
    })
    afterAll(async () => {
      over.abort()
      const befallen = inWords((await troubling) ?? {})
      await buried()
      if (patience) console.log(`contract: TEST_SEED=${SEED}; ${befallen}; ${patience.told}`)
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
    console.log(`model: TEST_SEED=${SEED}, ${runs} histories; ${befallen}; ${patience?.told ?? ''}`)
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

  test('What a server says of a stream that has no leader is not believed', async () => {
    const namespace = 'leaderless'
    await opening(namespace)
    const leader = await cluster!.leaderOf(namespace)
    const name = cluster!.names.find((name) => name !== leader)!
    const log = await opening(namespace, [cluster!.urlOf(name)])
    await append(log, 'c', [1])
    const nc = await connect({ servers: [cluster!.urlOf(name)] })
    onTestFinished(() => nc.close())
    const others = cluster!.names.filter((other) => other !== name)
    onTestFinished(() => cluster!.pause(others, false))
    cluster!.pause(others, true)
    // It answers as far as it has come, as soon as it wants to lead and has no votes.
    const answered = async () =>
      expect((await nc.request(`$JS.API.STREAM.INFO.TIDEMARK_${namespace}`, '')).json()).toHaveProperty('state')
    await vi.waitFor(answered, { timeout: 30_000, interval: 10 })
    let counted: number | undefined
    const counting = log.count!('channels', '', 9).then(
      (found) => {
        counted = found
      },
      (error) => expect(error).toMatchObject({ code: 'unavailable' }),
    )
    await expect(list(log.channels(''))).rejects.toMatchObject({ code: 'unavailable' })
    expect(counted).toBeUndefined()
    cluster!.pause(others, false)
    await counting
    await vi.waitFor(async () => expect(await list(log.channels(''))).toMatchObject([{ channel: 'c', head: 1 }]), {
      timeout: 30_000,
    })
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

  if (IS_LONG)
    test('A node that stands still and leads nothing holds up no read and no listing', async () => {
      const namespace = 'still'
      const log = await opening(namespace)
      for (const i of range(1, 40)) await append(log, 'c', [i])
      const leader = await cluster!.leaderOf(namespace)
      const [begun, still] = cluster!.names.filter((name) => name !== leader)
      await cluster!.kill(begun!)
      await cluster!.restart(begun!)
      await cluster!.whole()
      const reader = await opening(namespace, [cluster!.urlOf(begun!)])
      onTestFinished(() => cluster!.pause([still!], false))
      cluster!.pause([still!], true)
      // A server that was begun anew asks any of the others for what any replica may answer.
      const pages = await Promise.all(range(0, 39).map((after) => reader.read('c', { after }, BLOCKWISE)))
      expect(pages.flatMap(eventsOf).map(valueIn)).toEqual(range(1, 40))
      for (const infos of await Promise.all(range(1, 10).map(() => list(reader.channels('')))))
        expect(infos).toMatchObject([{ channel: 'c', head: 40 }])
      cluster!.pause([still!], false)
      await cluster!.whole()
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
        const repeating = repeatsBetween(elsewhere, there, healed.signal)
        // They are awaited in the end.
        for (const work of [moving, repeating]) work.catch(() => undefined)
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
        const found = { ...(await moving), ...(await repeating) }
        await control.end()
        await traffic.end()
        console.log(`a ${role} cut off: ${traffic.told}; ${JSON.stringify(found)} between gateways; ${control.told}`)
      },
    )
})

/**
 * A client that has all that one gateway has, and goes on with the other: it is served, and listed where it stands, or
 * told to come again.
 */
async function movesBetween(from: Log, to: Log, over: AbortSignal): Promise<Record<string, number>> {
  const found: Record<string, number> = {}
  const count = (name: string, { code }: { readonly code?: string }): boolean => {
    if (code !== undefined) expect(code).toBe('unavailable')
    const kind = code === undefined ? name : `not ${name}`
    found[kind] = (found[kind] ?? 0) + 1
    return code === undefined
  }
  while (!over.aborted) {
    const { epoch, head } = await ready(() => from.info('c'))
    await ready(() => from.commit('mover', 'c', { epoch, seq: head }))
    count('served', await to.read('c', { epoch, after: head }, ALL).catch((error) => error))
    const cursors = await list(to.cursors({ client: 'mover' })).catch((error) => error)
    if (count('listed', cursors)) expect(cursors).toMatchObject([{ channel: 'c', epoch, seq: head }])
    await delay(50)
  }
  return found
}

/** Another append under a key that one gateway has just taken, through the other, is told so, or to come again. */
async function repeatsBetween(from: Log, to: Log, over: AbortSignal): Promise<Record<string, number>> {
  const found: Record<string, number> = {}
  for (let n = 1; !over.aborted; n++) {
    const idempotencyKey = `k${n}`
    await ready(() => append(from, 'k', [n], { idempotencyKey }))
    const entry = { channel: 'k', body: body(-n), expectedSeq: 0 }
    const { code } = await to.append([entry], { idempotencyKey }).catch((error) => error)
    expect(['key-reused', 'unavailable']).toContain(code)
    const kind = `append ${code}`
    found[kind] = (found[kind] ?? 0) + 1
    await delay(50)
  }
  return found
}

async function ready<T>(ask: () => Promise<T>): Promise<T> {
  for (;;)
    try {
      return await ask()
    } catch (error) {
      if (!hasCode(error, 'unavailable')) throw error
    }
}
