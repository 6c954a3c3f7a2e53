/** Real nats-servers for a test file: on loopback, their data in directories that go with the tests. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterAll } from 'vitest'
import { natsProgram as findProgram } from '../../tools/bench/nats.ts'

/** The program: named by NATS_SERVER_BIN, or fetched through apt; undefined, and said loudly, where neither works. */
export async function natsProgram(): Promise<string | undefined> {
  try {
    return await findProgram()
  } catch (error) {
    console.warn(`NO NATS-SERVER HERE: the tests of the JetStream engine are SKIPPED (${error})`)
    return undefined
  }
}

/** Whoever comes without a name is `all`; `deaf` is told of no message as it is stored. */
const USERS = `
authorization { users: [
  { user: all, password: all }
  { user: deaf, password: deaf, permissions: { subscribe: { deny: ["tidemark.*.live.>"] } } }
] }
no_auth_user: all
`

export interface NatsSettings {
  readonly jetstream?: string | null
  readonly more?: string
}

export class NatsServer {
  readonly #program: string
  readonly #jetstream: string | null
  #more: string
  readonly #dir = mkdtempSync(join(tmpdir(), 'tidemark-nats-'))
  #process: ChildProcess | undefined
  /** Chosen by the first start, and kept by later ones. */
  #port = -1

  /** @param jetstream settings of JetStream; null: it has none @param more lines of its configuration */
  constructor(program: string, { jetstream = 'sync_interval: always', more = USERS }: NatsSettings = {}) {
    this.#program = program
    this.#jetstream = jetstream
    this.#more = more
  }

  /** Another one of the same program. */
  another(settings?: NatsSettings): NatsServer {
    return new NatsServer(this.#program, settings)
  }

  get url(): string {
    return `nats://127.0.0.1:${this.#port}`
  }

  /** Starts it, on the data that there are; resolves when it takes connections. */
  async start(): Promise<void> {
    const file = join(this.#dir, 'nats.conf')
    const listen = `listen: "127.0.0.1:${this.#port}"`
    const store =
      this.#jetstream === null ? '' : `jetstream { store_dir: "${join(this.#dir, 'js')}", ${this.#jetstream} }`
    writeFileSync(file, [listen, store, this.#more].join('\n'))
    if (this.#process) return
    const child = spawn(this.#program, ['-c', file], { stdio: ['ignore', 'ignore', 'pipe'] })
    this.#process = child
    const lines: string[] = []
    await new Promise<void>((resolve, reject) => {
      createInterface({ input: child.stderr! }).on('line', (line) => {
        lines.push(line)
        const port = /client connections on 127\.0\.0\.1:(\d+)/.exec(line)?.[1]
        if (port !== undefined) this.#port = Number(port)
        if (line.includes('Server is ready')) resolve()
      })
      child.once('error', reject)
      child.once('exit', (code, signal) =>
        reject(new Error(`nats-server ended (${signal ?? code}): ${lines.join('\n')}`)),
      )
    })
  }

  /** Ends it, and starts it with other lines of configuration. */
  async restart(more: string): Promise<void> {
    this.#more = more
    await this.kill()
    await this.start()
  }

  /** Ends it at once, as a crash of its process would. */
  async kill(): Promise<void> {
    const child = this.#process
    this.#process = undefined
    if (!child || child.exitCode !== null || child.signalCode !== null) return
    child.kill('SIGKILL')
    await once(child, 'exit')
  }

  /** Stops the process in its place, or lets it go on. */
  pause(isPaused: boolean): void {
    this.#process?.kill(isPaused ? 'SIGSTOP' : 'SIGCONT')
  }

  async end(): Promise<void> {
    await this.kill()
    rmSync(this.#dir, { recursive: true, force: true })
  }
}

/** One for the tests of a file, which ends behind them; undefined, and said loudly, where it can't be had. */
export async function natsOfFile(settings?: NatsSettings): Promise<NatsServer | undefined> {
  const program = await natsProgram()
  if (program === undefined) return undefined
  const nats = new NatsServer(program, settings)
  await nats.start()
  afterAll(() => nats.end())
  return nats
}
