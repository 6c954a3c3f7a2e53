/** For W9: nats-servers, and gateways (servers of Tidemark over them), that are started and ended for a row. */
import type { Lab, Server } from './lab.ts'
import {
  askNats,
  makeStream,
  messagesIn,
  NATS_DURABILITY,
  type Nats,
  natsProgram,
  type Sync,
  startNats,
} from './nats.ts'
import { versionOf } from './packages.ts'
import { whyMissing } from './peers.ts'
import { makeChannel, removeDir } from './target.ts'

/** What a gateway's log is in NATS, with no namespace given. */
const STREAM = 'TIDEMARK_main'
const subjectOf = (channel: string): string => `tidemark.main.e.${Buffer.from(channel).toString('base64url')}`

export const syncName = (sync: Sync): string => (sync === 'always' ? 'sync always' : 'sync default')

export interface Gateway extends Server {
  readonly nats: Nats
}

/** Flags of `serve` over this NATS. */
export const overNats = ({ port }: Nats, sync: Sync): readonly string[] => [
  ...['--engine', `nats://127.0.0.1:${port}`],
  ...(sync === 'always' ? ['--nats-sync', 'always'] : []),
]

export class Gateways {
  /** Of nats-server. */
  readonly version: string
  readonly #lab: Lab
  readonly #program: string
  readonly #shared = new Map<Sync, Gateway>()
  readonly #second = new Map<Sync, Server>()

  private constructor(lab: Lab, program: string, version: string) {
    this.#lab = lab
    this.#program = program
    this.version = version
  }

  /** Undefined, and told by the bench, where no nats-server can be had. */
  static async open(lab: Lab): Promise<Gateways | undefined> {
    try {
      const program = await natsProgram()
      return new Gateways(lab, program, await versionOf(program, '--version'))
    } catch (error) {
      lab.missing.add(whyMissing('nats-server', error))
      return undefined
    }
  }

  /** Starts a nats-server on what `dir` holds. */
  start(dir: string, sync: Sync): Promise<Nats> {
    return startNats(this.#program, dir, sync)
  }

  /** A nats-server alone, with the stream of nats.ts. */
  async direct(sync: Sync): Promise<Server> {
    const data = this.#lab.newDir()
    const nats = await this.start(data, sync)
    await makeStream(nats.port)
    const stop = async (): Promise<void> => {
      await nats.child.stop('SIGKILL')
      removeDir(data)
    }
    return { ...nats, data, durability: NATS_DURABILITY[sync], stop }
  }

  /** A gateway over a nats-server of its own, or the shared one, with this channel. */
  async gateway(channel: string, sync: Sync): Promise<Gateway> {
    const gateway = this.#shared.get(sync) ?? (await this.#fresh(sync))
    if (this.#lab.shares) this.#shared.set(sync, gateway)
    await makeChannel(gateway.port, channel)
    return this.#lab.shares ? { ...gateway, stop: async () => {} } : gateway
  }

  async #fresh(sync: Sync): Promise<Gateway> {
    const dir = this.#lab.newDir()
    const nats = await this.start(dir, sync)
    const server = await this.#over(nats, sync)
    const stop = async (): Promise<void> => {
      await server.stop()
      await nats.child.stop('SIGKILL')
      removeDir(dir)
    }
    return { ...server, nats, stop }
  }

  /** One more gateway over the same NATS. */
  async second({ nats }: Gateway, sync: Sync): Promise<Server> {
    const server = this.#second.get(sync) ?? (await this.#over(nats, sync))
    if (!this.#lab.shares) return server
    this.#second.set(sync, server)
    return { ...server, stop: async () => {} }
  }

  /** @throws when it does not answer with the durability of that NATS */
  async #over(nats: Nats, sync: Sync): Promise<Server> {
    const server = await this.#lab.fresh(overNats(nats, sync))
    const wanted = sync === 'always' ? 'fsync' : 'unknown'
    if (server.durability !== wanted) throw new Error(`a gateway answers with ${server.durability}, not ${wanted}`)
    return { ...server, durability: NATS_DURABILITY[sync] }
  }

  /** Ends those that are shared. */
  async end(): Promise<void> {
    for (const server of [...this.#second.values(), ...this.#shared.values()]) await server.stop()
  }
}

/** Blocks and changes that the log holds. */
export const messagesOf = ({ port }: Nats): Promise<number> => messagesIn(port, STREAM)

/** Writes that a gateway tried, this one to `channel` included: it numbers them, and its messages tell. */
export async function triesOf({ port }: Server, nats: Nats, channel: string): Promise<number> {
  await makeChannel(port, channel)
  const query = JSON.stringify({ last_by_subj: subjectOf(channel) })
  const answer = await askNats(nats.port, `STREAM.MSG.GET.${STREAM}`, query, /"hdrs":"([^"]+)"/)
  const headers = Buffer.from(answer[1]!, 'base64').toString()
  const tries = /^Tidemark-Try: ?\S+\.(\d+)\r?$/m.exec(headers)?.[1]
  if (tries === undefined) throw new Error(`a message of a gateway tells no number of tries: ${headers}`)
  return Number(tries)
}
