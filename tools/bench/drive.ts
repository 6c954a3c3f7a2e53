/** Starts the load programs and reads their reports. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Child } from './child.ts'
import { BYTES_AFTER_STAMP } from './events.ts'
import { compiled, type Programs } from './programs.ts'
import type { Slots } from './sockets.ts'

/** Longest wait for events that were sent to arrive. */
const ARRIVAL_MS = 60_000
/** After the last event that was wanted: more within this time would be too many. */
const SURPLUS_MS = 150

export interface LoadOptions {
  readonly port: number
  /** A request file (requests.ts); the client of NATS makes its own. */
  readonly requests?: Uint8Array
  /** `nats`: through its client for Node (publish.ts). */
  readonly protocol: 'http' | 'ws' | 'lines' | 'nats'
  /** Of protocol `lines`: the lines of an answer. */
  readonly lines?: number
  /** Of protocol `nats`: events of a request. */
  readonly size?: number
  readonly connections: number
  /** Requests in flight on each connection. Default 1. */
  readonly depth?: number
  /** The number of channels that requests go to in turn (requests.ts `inTurn`). Default 1. */
  readonly channels?: number
  /** Events a second in all. Default: as fast as they are answered. */
  readonly rate?: number
  /** Measured time; with `warm` seconds before it. */
  readonly seconds?: number
  readonly warm?: number
  /** Instead of a time: this many requests. */
  readonly count?: number
}

/** What load.c prints, and what the server used meanwhile. */
export interface LoadReport {
  readonly answered: number
  readonly events: number
  readonly seconds: number
  readonly p50us: number
  readonly p99us: number
  /** Events that were sent and answered in all, the warm-up included. */
  readonly total: number
  /** Of the stamps of all events, modulo 2^64. */
  readonly sum: string
  readonly errors: number
  readonly late: number
  /** CPU seconds of the load program. */
  readonly cpu: number
  /** CPU seconds of the server within the measured time; undefined where it can't be known. */
  readonly serverCpu: number | undefined
}

export interface DrainOptions {
  readonly port: number
  readonly connections: number
  readonly mode: 'stream' | 'ws' | 'poll' | 'longpoll' | 'xread'
  /** The seq after which polls begin, default 0; of `ws`: after which the first message of events must begin. */
  readonly from?: number
  /** Of `ws`: the number of channels that connections follow in turn (requests.ts `inTurn`). Default 1. */
  readonly channels?: number
  readonly opening?: Uint8Array
  /** A connection is open once this text came. */
  readonly ready?: string
}

/** What drain.c prints. */
export interface DrainReport {
  readonly events: number
  readonly frames: number
  readonly bytes: number
  /** Fewest and most events of a connection. */
  readonly least: number
  readonly most: number
  /** Connections that got the same events in the same order as the first of their channel. */
  readonly agree: number
  /** Pages or messages that did not begin where they had to, or whose events were not as many as they said. */
  readonly holes: number
  /** Gaps, resets, ends and errors. */
  readonly told: number
  /** Of the first connection of each channel: the sum of the stamps, and a digest of their order. */
  readonly sum: string
  readonly order: number
  readonly closed: number
  /** When the first opening was sent; first and last arrival: microseconds of one clock, 0 when nothing came. */
  readonly asked: number
  readonly first: number
  readonly last: number
  readonly p50us: number
  readonly p99us: number
  readonly maxus: number
  readonly cpu: number
  /** Of the latency, so that it can be joined with that of others. */
  readonly slots: Slots
}

/** Starts programs; their input files lie in `dir`. */
export class Drive {
  readonly #programs: Programs
  readonly #dir: string
  #files = 0

  constructor(programs: Programs, dir: string) {
    this.#programs = programs
    this.#dir = dir
  }

  #file(bytes: Uint8Array): string {
    const path = join(this.#dir, `input-${this.#files++ % 8}`)
    writeFileSync(path, bytes)
    return path
  }

  /** Runs a load to its end. A refused request is an error. @param warmed when the measured time begins */
  async load(server: Child, options: LoadOptions, warmed?: () => Promise<void>): Promise<LoadReport> {
    const { requests, ...flags } = options
    const given = { ...flags, requests: requests && this.#file(requests) }
    const isClient = options.protocol === 'nats'
    const command = isClient ? compiled('tools/bench/publish.js') : this.#programs.command('load')
    const child = Child.start('load', [...command, ...flagsOf(given)])
    await child.json('phase')
    const before = server.usage()
    await warmed?.()
    await child.json('phase')
    const after = server.usage()
    const report = await child.json<LoadReport>('answered')
    await child.ended()
    if (report.errors > 0) throw new Error(`${report.errors} requests were refused\n${child.stderr}`)
    return { ...report, serverCpu: before && after ? after.cpu - before.cpu : undefined }
  }

  /** Starts receivers; resolves when every connection is open. */
  async drain(options: DrainOptions): Promise<Drain> {
    const { opening, ...flags } = options
    const given = { ...flags, skip: BYTES_AFTER_STAMP, opening: opening && this.#file(opening) }
    const child = Child.start('drain', [...this.#programs.command('drain'), ...flagsOf(given)])
    await child.json('ready')
    return new Drain(child)
  }

  /** Starts a sender of `body` (which holds `events` events); resolves when it listens. */
  async send(options: {
    connections: number
    events: number
    seconds: number
    body: Uint8Array
  }): Promise<{ child: Child; port: number }> {
    const given = { ...options, body: this.#file(options.body) }
    const child = Child.start('send', [...this.#programs.command('send'), ...flagsOf(given)])
    const { port } = await child.json<{ port: number }>('port')
    return { child, port }
  }
}

const flagsOf = (flags: object): string[] =>
  Object.entries(flags).flatMap(([name, value]) => (value === undefined ? [] : [`--${name}`, String(value)]))

/** Receivers that are running. */
export class Drain {
  readonly #child: Child

  constructor(child: Child) {
    this.#child = child
  }

  async reset(): Promise<void> {
    this.#child.send('reset')
    await this.#child.json('reset')
  }

  /** Latencies count from now on. */
  async resetLatency(): Promise<void> {
    this.#child.send('latency')
    await this.#child.json('reset')
  }

  async report(): Promise<DrainReport> {
    this.#child.send('report')
    return this.#child.json<DrainReport>('events')
  }

  /** Waits until this many events came. After ARRIVAL_MS: what came till then; the caller compares. */
  async arrived(events: number): Promise<DrainReport> {
    this.#child.send(`until ${events}`)
    const timer = setTimeout(() => this.#child.send('report'), ARRIVAL_MS)
    const report = await this.#child.json<DrainReport>('events')
    clearTimeout(timer)
    return report
  }

  /** Waits until this many events came, then a moment for events too many; times are those of the first moment. */
  async exactly(wanted: number): Promise<DrainReport> {
    const report = await this.arrived(wanted)
    await new Promise((resolve) => setTimeout(resolve, SURPLUS_MS))
    const { events, least, most, agree, sum, closed } = await this.report()
    return { ...report, events, least, most, agree, sum, closed }
  }

  async stop(): Promise<void> {
    await this.#child.stop('SIGKILL')
  }
}
