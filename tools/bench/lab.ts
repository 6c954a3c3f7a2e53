/** What every workload works with: the scale, the load programs, and servers that are started and ended for a row. */
import { mkdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { Drive, type LoadReport } from './drive.ts'
import type { Count, Measure } from './figures.ts'
import type { Peer } from './peer.ts'
import { type Per, profile, profiled } from './profile.ts'
import type { Programs } from './programs.ts'
import type { Scale } from './scale.ts'
import { makeChannel, removeDir, startBare, startTidemark, type Target } from './target.ts'
import { hasStrace, traced } from './trace.ts'

export interface LabOptions {
  /** An empty directory, on the file system that is measured. */
  readonly dir: string
  readonly scale: Scale
  readonly programs: Programs
  readonly profile: boolean
  /** One server for many rows, until the bench ends, to save time; else each row has a fresh one. */
  readonly share: boolean
  /** Only rows whose name holds this text, or one of several with a `|` between them. */
  readonly rows: string | undefined
  readonly peers: readonly Peer[]
}

export interface Server extends Target {
  readonly data: string
  /** What an answered append has survived, as the server says. */
  readonly durability: string
  /** Ends it and removes what it stored; a shared one lives on. */
  stop(): Promise<void>
}

/** Where a profiled server writes, beside its log. */
const PROFILE = 'cpu-profile.json'

export class Lab {
  readonly scale: Scale
  readonly drive: Drive
  readonly language: string
  /** --profile: system calls are counted in this pass, in place of a profile. */
  tracing = false
  readonly profiles: { readonly row: string; readonly lines: readonly string[] }[] = []
  /** What a workload needs and can't be had, and why. */
  readonly missing = new Set<string>()
  /** Peers that broke under the work, and how. */
  readonly failures: string[] = []
  readonly #options: LabOptions
  readonly #sharedBare = new Map<string, Server>()
  #shared: Server | undefined
  #dirs = 0

  constructor(options: LabOptions) {
    this.#options = options
    this.scale = options.scale
    this.drive = new Drive(options.programs, options.dir)
    this.language = options.programs.language === 'c' ? 'C' : 'Node'
  }

  /** Whether a row was asked for. */
  wants(row: string): boolean {
    const texts = this.#options.rows?.toLowerCase().split('|')
    return texts === undefined || texts.some((text) => row.toLowerCase().includes(text))
  }

  /** Whether system calls are counted in a pass of their own. */
  get traces(): boolean {
    return this.#options.profile && hasStrace()
  }

  newDir(): string {
    const dir = join(this.#options.dir, `d${this.#dirs++}`)
    mkdirSync(dir)
    return dir
  }

  get dir(): string {
    return this.#options.dir
  }

  /** A running Tidemark with this channel: on an empty log, or the shared one. */
  async tidemark(channel: string): Promise<Server> {
    const server = this.#shared ?? (await this.fresh())
    if (this.#options.share) this.#shared = server
    await makeChannel(server.port, channel)
    return this.#options.share ? { ...server, stop: async () => {} } : server
  }

  /** Rows share servers. */
  get shares(): boolean {
    return this.#options.share
  }

  /** A Tidemark of its own on a log that holds one event more, in the channel `probe`. @param flags more of `serve` */
  async fresh(flags: readonly string[] = []): Promise<Server> {
    const dir = this.newDir()
    const data = join(dir, 'log')
    const profiles = this.#options.profile ? profiled(join(dir, PROFILE)) : {}
    const target = await startTidemark({ data, flags, ...profiles })
    const durability = await makeChannel(target.port, 'probe')
    const stop = async (): Promise<void> => {
      await target.child.stop('SIGKILL')
      removeDir(dir)
    }
    return { ...target, data, durability, stop }
  }

  /** Does the work that is measured; with --profile, finds out what the server does meanwhile, for each of `per`. */
  async watched<T>(server: Server, row: string, work: () => Promise<T>, per: Per<T>): Promise<T> {
    if (!this.#options.profile) return work()
    const [result, lines] = this.tracing
      ? await traced(server.child, work, per)
      : await profile(server.child, join(dirname(server.data), PROFILE), work, per)
    this.profiles.push({ row, lines })
    return result
  }

  /** A bare server: a new one, or the shared one of this mode. */
  async bare(mode: 'http' | 'net' | 'ws'): Promise<Server> {
    const server = this.#sharedBare.get(mode) ?? (await this.freshBare(mode))
    if (!this.#options.share) return server
    this.#sharedBare.set(mode, server)
    return { ...server, stop: async () => {} }
  }

  /** The peers that a workload can be done with. */
  peersIn(workload: string): readonly Peer[] {
    return this.#options.peers.filter((peer) => peer.workloads.includes(workload))
  }

  /** What is measured of a peer on a server of its own. One that breaks under the work does not end the bench. */
  async *ofPeer(
    peer: Peer,
    measure: (server: Server) => AsyncIterable<Measure>,
    node?: readonly string[],
  ): AsyncGenerator<Measure> {
    let server: Server | undefined
    try {
      server = await this.#startPeer(peer, node)
      yield* measure(server)
    } catch (error) {
      this.failures.push(`${peer.name}: ${(error as Error).message.trim()}`)
    } finally {
      await server?.stop()
    }
  }

  async #startPeer(peer: Peer, node?: readonly string[]): Promise<Server> {
    const data = this.newDir()
    const target = await peer.start(data, node)
    const stop = async (): Promise<void> => {
      await target.child.stop('SIGKILL')
      removeDir(data)
    }
    return { ...target, data, durability: peer.durability, stop }
  }

  /** A bare server of its own. */
  async freshBare(mode: 'http' | 'net' | 'ws'): Promise<Server> {
    const data = this.newDir()
    const target = await startBare(mode, data)
    const stop = async (): Promise<void> => {
      await target.child.stop('SIGKILL')
      removeDir(data)
    }
    return { ...target, data, durability: 'fsync', stop }
  }
}

/** What was done is told for each event of a load. */
export const appendedOnly = ({ total }: LoadReport): Readonly<Record<string, number>> => ({ 'appended event': total })

/** Rate, latency and CPU time of a load, as a measure. */
export function appendMeasure(
  row: Pick<Measure, 'name' | 'subject' | 'durability' | 'work'> & { limits?: readonly string[] },
  report: LoadReport,
  counts: readonly Count[],
): Measure {
  return {
    ...row,
    figure: report.events / report.seconds,
    unit: 'events/s',
    cpu: report.serverCpu === undefined ? undefined : (report.serverCpu / report.events) * 1e6,
    p50: report.p50us / 1e3,
    p99: report.p99us / 1e3,
    counts,
    facts: { total: report.total, late: report.late, loadCpuSeconds: report.cpu, seconds: report.seconds },
  }
}

/** 1000 → `1,000`. */
export const grouped = (n: number): string => n.toLocaleString('en')
