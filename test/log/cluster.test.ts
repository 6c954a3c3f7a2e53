import { setTimeout as delay } from 'node:timers/promises'
import { connect } from '@nats-io/transport-node'
import { afterAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import type { Appended, Log } from '../../src/log/log.ts'
import { openLog } from '../../src/log/open.ts'
import { range } from '../parts.ts'
import { logContract, type Open } from './contract.ts'
import { natsCluster, natsProgram } from './nats.ts'
import { ALL, append, eventsOf, readAll, valueIn } from './reading.ts'

const program = await natsProgram()
const cluster = program === undefined ? undefined : await natsCluster(program)
afterAll(() => Promise.all([...(cluster?.values() ?? [])].map((server) => server.end())))

let places = 0

/** Opens a log that is closed when the test ends. */
async function opened(namespace: string): Promise<Log> {
  const servers = [...cluster!.values()].map(({ url }) => url)
  const log = await openLog({ dir: 'nowhere', nats: { servers, namespace, durability: 'fsync' } })
  onTestFinished(() => log.close())
  return log
}

const open: Open = (() => {
  const names = new Map<string, string>()
  return ({ at } = {}) => {
    const name = (at !== undefined && names.get(at)) || `r${++places}`
    if (at !== undefined) names.set(at, name)
    return opened(name)
  }
})()

/** The server that leads the stream of a log's events. */
async function leaderOf(namespace: string): Promise<string> {
  const nc = await connect({ servers: [...cluster!.values()].map(({ url }) => url) })
  try {
    const answer = await nc.request(`$JS.API.STREAM.INFO.TIDEMARK_${namespace}`, '', { timeout: 5_000 })
    return answer.json<{ cluster: { leader: string } }>().cluster.leader
  } finally {
    await nc.close()
  }
}

describe.skipIf(!cluster)('three nats-servers', { timeout: 60_000 }, () => {
  logContract('jetstream in a cluster', open, ['multiChannel'])

  test('While the leader is killed again and again appends go on: 0 answered lost, none twice, order kept', {
    timeout: 150_000,
  }, async () => {
    const namespace = 'kills'
    const logs = [await opened(namespace), await opened(namespace)]
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
      await vi.waitFor(() => expect(acked.size).toBeGreaterThan(before + 40), { timeout: 40_000 })
    }
    const killed: string[] = []
    for (const _ of range(1, 2)) {
      await goesOn()
      const leader = await leaderOf(namespace)
      killed.push(leader)
      await cluster!.get(leader)!.kill()
      await goesOn()
      await cluster!.get(leader)!.start()
    }
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
      `leaders ${killed.join(', ')} killed: ${acked.size} answered, 0 lost, 0 twice; ` +
        `longest stall ${(longest / 1_000).toFixed(1)} s; refused ${JSON.stringify(refusals)}`,
    )
  })
})
