/** A cluster of real nats-servers and what befalls it; and how long one may look at that: `CLUSTER_MINUTES`. */
import { setTimeout as delay } from 'node:timers/promises'
import { connect } from '@nats-io/transport-node'
import { freePort } from '../../tools/bench/peer.ts'
import type { Dice } from '../crash/dice.ts'
import { range } from '../parts.ts'
import { Control } from './control.ts'
import { NatsServer } from './nats.ts'
import type { Routes } from './routes.ts'

/** Of the long tier, for each of its parts; 0: a small form of each. */
export const MINUTES = Number(process.env.CLUSTER_MINUTES ?? 0)
export const IS_LONG = MINUTES > 0
/** A node that stands still does so for this long, ms. */
const PAUSE_MS = 30_000
const SIZE = 3
/** A server that was killed is started again within this, ms. */
const DOWN_MS = 3_000
/** Between two things that befall a cluster, ms. */
const REST_MS = 2_000
const ASK_MS = 2_000
/** A cluster is whole again within this, ms. */
const WHOLE_MS = 120_000

interface StreamInfo {
  readonly cluster?: {
    readonly leader?: string
    readonly replicas?: readonly { readonly current: boolean; readonly offline?: boolean }[]
  }
}

export class Cluster {
  /** By their names in it: `n1`, `n2`, `n3`. */
  readonly #servers: ReadonlyMap<string, NatsServer>
  readonly #routes: Routes | undefined

  private constructor(servers: ReadonlyMap<string, NatsServer>, routes: Routes | undefined) {
    this.#servers = servers
    this.#routes = routes
  }

  /** @param routes between them, where one of them is to be cut off */
  static async start(program: string, routes?: Routes): Promise<Cluster> {
    const names = range(1, SIZE).map((i) => `n${i}`)
    const ports = await Promise.all(names.map(freePort))
    const ways = await Promise.all(ports.map((port, i) => routes?.to(names[i]!, port) ?? port))
    const servers = new Map(
      names.map((name, i) => {
        const others = ways.filter((_, other) => other !== i).map((way) => `"nats://127.0.0.1:${way}"`)
        const listen = `listen: "127.0.0.1:${ports[i]}", advertise: "127.0.0.1:${ways[i]}"`
        const cluster = `cluster { name: c, ${listen}, routes: [${others.join(', ')}] }`
        return [name, new NatsServer(program, { more: `server_name: ${name}\n${cluster}` })]
      }),
    )
    await Promise.all([...servers.values()].map((server) => server.start()))
    return new Cluster(servers, routes)
  }

  get names(): readonly string[] {
    return [...this.#servers.keys()]
  }

  urlOf(name: string): string {
    return this.#servers.get(name)!.url
  }

  get urls(): readonly string[] {
    return [...this.#servers.values()].map(({ url }) => url)
  }

  async end(): Promise<void> {
    await Promise.all([...this.#servers.values()].map((server) => server.end()))
    this.#routes?.end()
  }

  /** NATS's own client beside the gateways of a log, in the same stream. */
  control(namespace: string): Promise<Control> {
    return Control.start(this.urls, `tidemark.${namespace}.e.control`)
  }

  /** Asks JetStream until it answers. */
  async #ask<T>(ask: (request: (subject: string) => Promise<unknown>) => Promise<T | undefined>): Promise<T> {
    for (const until = performance.now() + WHOLE_MS; ; await delay(100)) {
      try {
        // One that stands still may be asked first: then another one.
        const nc = await connect({ servers: [...this.urls], timeout: ASK_MS })
        try {
          const answer = await ask(async (name) =>
            (await nc.request(`$JS.API.${name}`, '', { timeout: ASK_MS })).json(),
          )
          if (answer !== undefined) return answer
        } finally {
          await nc.close()
        }
      } catch (error) {
        if (performance.now() > until) throw error
      }
      if (performance.now() > until) throw new Error('The cluster is not whole again')
    }
  }

  /** The server that leads the stream of a log's events. */
  leaderOf(namespace: string): Promise<string> {
    return this.#ask(async (request) => {
      const { cluster } = (await request(`STREAM.INFO.TIDEMARK_${namespace}`)) as StreamInfo
      return cluster?.leader || undefined
    })
  }

  /** Resolves when each stream has a leader, and each of its replicas all of it. */
  async whole(): Promise<void> {
    await this.#ask(async (request) => {
      const { streams } = (await request('STREAM.NAMES')) as { streams: readonly string[] | null }
      for (const name of streams ?? []) {
        const { cluster } = (await request(`STREAM.INFO.${name}`)) as StreamInfo
        const isWhole = cluster?.leader && cluster.replicas?.every(({ current, offline }) => current && !offline)
        // One that is gone meanwhile says nothing.
        if (cluster && !isWhole) return undefined
      }
      return true
    })
  }

  /** Removes a log's streams. */
  async drop(namespace: string): Promise<void> {
    for (const name of [`TIDEMARK_${namespace}`, `KV_TIDEMARK_${namespace}_CURSORS`])
      await this.#ask(async (request) => (await request(`STREAM.DELETE.${name}`)) ?? true)
  }

  async kill(name: string): Promise<void> {
    await this.#servers.get(name)!.kill()
  }

  async restart(name: string): Promise<void> {
    await this.#servers.get(name)!.start()
  }

  /** Stops servers in their places, or lets them go on. */
  pause(names: readonly string[], isPaused: boolean): void {
    for (const name of names) this.#servers.get(name)!.pause(isPaused)
  }

  /** What befalls it, by name; each is over when the cluster is whole again. @param namespace of the log that is meant by then */
  faults(random: Dice, namespace: string | (() => string)): Faults {
    const anyone = () => `n${1 + random(this.#servers.size)}`
    return {
      'leader killed': async () => {
        const leader = await this.leaderOf(typeof namespace === 'string' ? namespace : namespace())
        await this.kill(leader)
        await delay(random(DOWN_MS))
        await this.restart(leader)
        await this.whole()
      },
      'node stopped for 30 s': async () => {
        const name = anyone()
        this.pause([name], true)
        await delay(PAUSE_MS)
        this.pause([name], false)
        await this.whole()
      },
    }
  }
}

/** What befalls those that are tested, by name; false where it did not. */
export type Faults = Readonly<Record<string, () => Promise<unknown>>>

/** Lets one thing after another befall whom it will until that is over; how often each did. @param rounds of all */
export async function unrest(
  faults: Faults,
  random: Dice,
  over: AbortSignal,
  rounds = Number.POSITIVE_INFINITY,
): Promise<Record<string, number>> {
  const counts: Record<string, number> = {}
  const total = rounds * Object.keys(faults).length
  let names: string[] = []
  for (let done = 0; done < total && !over.aborted; done++) {
    // Each as often as the others, in any order.
    if (names.length === 0) names = Object.keys(faults)
    const [name] = names.splice(random(names.length), 1)
    if ((await faults[name!]!()) !== false) counts[name!] = (counts[name!] ?? 0) + 1
    await delay(random(REST_MS))
  }
  return counts
}

/** While something is done, unrest in the long tier; how often each fault came, in words. */
export async function amidUnrest(faults: Faults, random: Dice, work: () => Promise<void>): Promise<string> {
  if (!IS_LONG) {
    await work()
    return 'no faults'
  }
  const over = new AbortController()
  const troubling = unrest(faults, random, over.signal)
  try {
    // A fault that can not be made ends it, too.
    await Promise.race([work(), troubling])
  } finally {
    over.abort()
  }
  return inWords(await troubling)
}

export const inWords = (counts: Readonly<Record<string, number>>): string =>
  Object.entries(counts)
    .map(([name, times]) => `${times} × ${name}`)
    .join(', ')
