/** The built server as a process that is killed, started again and stopped for a while; always at the same address. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { freePort } from '../../tools/bench/peer.ts'
import { built } from './witness.ts'

const PROGRAM = built('../../bin/tidemark.js')

export class Server {
  readonly #data: string
  readonly #env: Readonly<Record<string, string>>
  readonly #flags: readonly string[]
  #child: ChildProcess | undefined
  #port = 0

  /** `env`: more of its surroundings, as a clock of its own; `flags`: of every start. */
  constructor(data: string, env: Readonly<Record<string, string>> = {}, flags: readonly string[] = []) {
    this.#data = data
    this.#env = env
    this.#flags = flags
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}`
  }

  /** Resolves when it is serving. @throws with what it said when it ends before that */
  async start(...options: readonly string[]): Promise<void> {
    this.#port ||= await freePort()
    const error = await this.#spawn(options)
    if (error !== undefined) throw new Error(`The server does not start: ${error}`)
  }

  /** What it said when it ended before it was serving; undefined when it is. */
  async #spawn(options: readonly string[]): Promise<string | undefined> {
    const args = [
      'serve',
      '--port',
      `${this.#port}`,
      '--data',
      this.#data,
      '--log-level',
      'info',
      ...this.#flags,
      ...options,
    ]
    const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('TIDEMARK_')))
    const child = spawn(process.execPath, [PROGRAM, ...args], { env: { ...env, ...this.#env } })
    this.#child = child
    let [out, err] = ['', '']
    child.stderr.setEncoding('utf8').on('data', (text) => {
      err += text
    })
    return new Promise((resolve) => {
      child.once('close', () => resolve(out + err))
      child.stdout.setEncoding('utf8').on('data', (text) => {
        out += text
        // A fault of its own, which its callers are told nothing of.
        if (text.includes('"level":"error"')) console.error(text)
        if (out.includes('"msg":"Serving"')) resolve(undefined)
      })
    })
  }

  /** It stands still, as a machine does that is suspended. */
  async pause(ms: number): Promise<void> {
    this.#child!.kill('SIGSTOP')
    try {
      await delay(ms)
    } finally {
      this.#child!.kill('SIGCONT')
    }
  }

  async kill(signal: 'SIGKILL' | 'SIGTERM' = 'SIGKILL'): Promise<void> {
    const child = this.#child
    if (!child || child.exitCode !== null || child.signalCode !== null) return
    child.kill(signal)
    await once(child, 'close')
  }
}
