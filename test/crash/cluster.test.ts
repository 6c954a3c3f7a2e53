/**
 * Two gateways over three nats-servers, and real clients: concurrent histories, and storms, while gateways are killed,
 * restarted one after the other, and clients led from one to the other. `CLUSTER_MINUTES=5 npm run torture:cluster` is the
 * long tier: for so long each, while the stream's leader is killed and nodes stand still, too.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, describe, expect, onTestFinished, test } from 'vitest'
import { type NatsOptions, openLog } from '../../src/log/open.ts'
import { Cable } from '../client/cable.ts'
import { inNode, storm } from '../client/storm.ts'
import { Victims } from '../client/victims.ts'
import { amidUnrest, Cluster, type Faults, IS_LONG, inWords, MINUTES, unrest } from '../log/cluster.ts'
import { natsProgram } from '../log/nats.ts'
import { range, SEED, tempDir } from '../parts.ts'
import type { World } from './clients.ts'
import { type Dice, dice } from './dice.ts'
import { answered, finalOf, type Ground, judge, play } from './histories.ts'
import { Server } from './server.ts'
import { add, NOTHING, table } from './tally.ts'

const program = await natsProgram()
const cluster = program === undefined ? undefined : await Cluster.start(program)
afterAll(() => cluster?.end())

const GATEWAYS = 2
/** Of a storm. */
const EVENTS = IS_LONG ? 60_000 : 4_000
/** A gateway that finds no leader ends; it is started again after this, ms. */
const AGAIN_MS = 200
/** Each part ends when what it has begun ends, after so long, ms. */
const TIMEOUT_MS = 180_000 + MINUTES * 120_000

const natsIn = (namespace: string): NatsOptions => ({ servers: cluster!.urls, namespace, durability: 'fsync' })

/** Calls go to one gateway and the other in turn; sockets through a line to either. */
class Gateways implements Ground {
  readonly befallen: Record<string, number> = {}
  readonly #namespace: string
  readonly #servers: readonly Server[]
  readonly #line: Cable
  #turn = 0

  private constructor(namespace: string, servers: readonly Server[], line: Cable) {
    this.#namespace = namespace
    this.#servers = servers
    this.#line = line
  }

  static async start(namespace: string): Promise<Gateways> {
    const flags = ['--engine', cluster!.urls.join(), '--nats-namespace', namespace, '--nats-sync', 'always']
    const servers = range(1, GATEWAYS).map(() => new Server(tempDir(), {}, flags))
    for (const server of servers) onTestFinished(() => server.kill())
    await Promise.all(servers.map(serve))
    return new Gateways(namespace, servers, await Cable.start(portOf(servers[0]!)))
  }

  get url(): string {
    return this.#servers[this.#turn++ % GATEWAYS]!.url
  }

  get streamerUrl(): string {
    return this.#line.url
  }

  async trouble(world: World, random: Dice): Promise<void> {
    const faults = { ...(IS_LONG && cluster!.faults(random, this.#namespace)), ...this.#faults(random, world) }
    Object.assign(this.befallen, await unrest(faults, random, world.over, 1))
  }

  async end(): Promise<void> {
    await Promise.all(this.#servers.map((server) => server.kill()))
  }

  #faults(random: Dice, world: World): Faults {
    const restart = async (which: number, signal: 'SIGKILL' | 'SIGTERM'): Promise<void> => {
      this.#line.target = portOf(this.#servers[(which + 1) % GATEWAYS]!)
      await this.#servers[which]!.kill(signal)
      await answered(world, 20)
      await serve(this.#servers[which]!)
      await answered(world, 20)
    }
    return {
      'gateway killed': () => restart(random(GATEWAYS), 'SIGKILL'),
      'gateways restarted in turn': async () => {
        for (const which of range(0, GATEWAYS - 1)) await restart(which, 'SIGTERM')
      },
      'clients led to the other gateway': async () => {
        for (const which of range(0, GATEWAYS - 1)) {
          this.#line.target = portOf(this.#servers[which]!)
          this.#line.cut()
          await answered(world, 20)
        }
      },
    }
  }
}

const portOf = ({ url }: Server): number => Number(new URL(url).port)

/** As an operator's supervisor does: again until it serves. */
async function serve(server: Server): Promise<void> {
  for (;;)
    try {
      return await server.start()
    } catch (error) {
      if (!String(error).includes('unavailable')) throw error
      await delay(AGAIN_MS)
    }
}

/** Appends of which nobody knows whether they happened, and the longest that one took with all its tries, ms. */
function figures({ calls }: World): { unknown: number; longest: number } {
  const sent = new Map<string, { start: number; end?: number }>()
  for (const call of calls) {
    if (call.op !== 'append') continue
    const { start, end } = sent.get(call.id) ?? call
    const done = call.outcome === 'unknown' ? end : Math.min(end ?? Number.POSITIVE_INFINITY, call.end!)
    sent.set(call.id, { start: Math.min(start, call.start), ...(done !== undefined && { end: done }) })
  }
  const all = [...sent.values()]
  const took = all.flatMap(({ start, end }) => (end === undefined ? [] : [end - start]))
  return { unknown: all.filter(({ end }) => end === undefined).length, longest: Math.max(0, ...took) }
}

const seconds = (ms: number): string => `${(ms / 1_000).toFixed(1)} s`
const isTime = (until: number, done: number): boolean => (IS_LONG ? performance.now() < until : done < 1)

describe.skipIf(!cluster)('two gateways over three nats-servers', { timeout: TIMEOUT_MS }, () => {
  test('Histories of concurrent clients through both, gateways killed and restarted amid them, keep every promise', async () => {
    const until = performance.now() + MINUTES * 60_000
    const befallen: Record<string, number> = {}
    let [tally, unknown, longest] = [NOTHING, 0, 0]
    for (let seed = SEED; isTime(until, seed - SEED); seed++) {
      const namespace = `h${seed}`
      const gateways = await Gateways.start(namespace)
      const world = await play(seed, gateways)
      await gateways.end()
      const final = await finalOf(await openLog({ dir: tempDir(), nats: natsIn(namespace) }))
      tally = add(tally, judge(seed, world, final))
      const found = figures(world)
      unknown += found.unknown
      longest = Math.max(longest, found.longest)
      for (const [name, times] of Object.entries(gateways.befallen)) befallen[name] = (befallen[name] ?? 0) + times
      await cluster!.drop(namespace)
    }
    console.log(
      `TEST_SEED=${SEED}; ${inWords(befallen)}; longest stall ${seconds(longest)}, ${unknown} appends of unknown outcome\n` +
        table(new Map([['histories over a cluster', tally]])),
    )
    expect(tally.acknowledged).toBeGreaterThan(0)
  })

  test('Storms: sockets cut, streamers switched, gateways killed and stopped, clients led to the other one', async () => {
    const until = performance.now() + MINUTES * 60_000
    for (let seed = SEED; isTime(until, seed - SEED); seed++) {
      const namespace = `s${seed}`
      const random = dice(seed)
      const servers = await Victims.start(range(1, GATEWAYS).map(() => [tempDir(), natsIn(namespace)]))
      let done: Awaited<ReturnType<typeof storm>> | undefined
      const befallen = await amidUnrest(cluster!.faults(random, namespace), random, async () => {
        done = await storm(seed, inNode, servers, EVENTS)
      })
      const { cuts, switches, kills, moves, longest } = done!
      console.log(
        `TEST_SEED=${seed}: a storm of ${EVENTS} events: ${cuts} cuts, ${switches} switches, ${kills} gateways ended, ` +
          `${moves} moves, ${befallen}: each event once, in order; longest stall ${seconds(longest)}`,
      )
      expect(kills).toBeGreaterThan(0)
      expect(cuts + switches).toBeGreaterThan(0)
      await cluster!.drop(namespace)
    }
  })
})
