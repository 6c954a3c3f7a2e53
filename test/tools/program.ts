/** The built program as a process of its own, for tests: started, fed, listened to, killed, and gone when the test ends. */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { onTestFinished } from 'vitest'
import { freePort } from '../../tools/bench/peer.ts'
import { tempDir } from '../parts.ts'

const built = (path: string): string => fileURLToPath(new URL(`../../dist/${path}`, import.meta.url))
const PROGRAM = built('bin/tidemark.js')

export interface Surroundings {
  readonly env?: Readonly<Record<string, string>>
  readonly cwd?: string
  /** A file in place of the stdout that is listened to. */
  readonly stdout?: string
  /** Another program than `tidemark`, below dist/. */
  readonly program?: string
}

/** Nothing of our own configuration reaches a test. */
const cleanEnv = (): Record<string, string | undefined> =>
  Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('TIDEMARK_')))

export class Program {
  readonly child: ChildProcessWithoutNullStreams
  out = ''
  err = ''
  readonly #ended: Promise<unknown>
  #told: (() => void)[] = []

  constructor(args: readonly string[], { env = {}, cwd, stdout, program }: Surroundings = {}) {
    const words = [process.execPath, program === undefined ? PROGRAM : built(program), ...args]
    const [file, ...given] = stdout === undefined ? words : ['/bin/sh', '-c', `exec "$@" >${stdout}`, 'sh', ...words]
    this.child = spawn(file!, given, { env: { ...cleanEnv(), ...env }, ...(cwd && { cwd }) })
    this.#ended = once(this.child, 'close')
    // A program that ended does not read its input any more; what it said is what counts.
    this.child.stdin.on('error', () => undefined)
    this.child.stdout.setEncoding('utf8').on('data', (text: string) => {
      this.out += text
      this.#tell()
    })
    this.child.stderr.setEncoding('utf8').on('data', (text: string) => {
      this.err += text
      this.#tell()
    })
    void this.#ended.then(() => this.#tell())
    onTestFinished(async () => {
      this.child.kill('SIGKILL')
      await this.#ended
    })
  }

  #tell(): void {
    for (const told of this.#told.splice(0)) told()
  }

  get hasEnded(): boolean {
    return this.child.exitCode !== null || this.child.signalCode !== null
  }

  /** Whole lines of stdout. */
  get lines(): string[] {
    return this.out.split('\n').slice(0, -1)
  }

  /** Whole lines of stdout as JSON. */
  get values(): Record<string, unknown>[] {
    return this.lines.map((line) => JSON.parse(line) as Record<string, unknown>)
  }

  /** Resolves when the check gives something, asked again with each output. Rejects when the program ends before. */
  async until<T>(check: () => T | undefined | false): Promise<T> {
    for (;;) {
      const found = check()
      if (found !== undefined && found !== false) return found
      if (this.hasEnded) throw new Error(`it ended with ${this.child.exitCode}: ${this.err}${this.out}`)
      await new Promise<void>((resolve) => this.#told.push(resolve))
    }
  }

  /** The exit code when it ended, −1 when a signal ended it; all output is there then. */
  async ended(): Promise<number> {
    await this.#ended
    return this.child.exitCode ?? -1
  }

  async kill(signal: NodeJS.Signals): Promise<number> {
    this.child.kill(signal)
    return this.ended()
  }
}

export interface Ran {
  readonly code: number
  readonly out: string
  readonly err: string
}

/** Runs a command to its end. */
export async function run(args: readonly string[], options: Surroundings & { input?: string } = {}): Promise<Ran> {
  const program = new Program(args, options)
  program.child.stdin.end(options.input ?? '')
  const code = await program.ended()
  return { code, out: program.out, err: program.err }
}

export interface Serving extends Program {
  readonly url: string
}

/** A server on a directory and a port of its own, where it can be started again; resolves when it is serving. */
export async function serving(args: readonly string[] = [], data = tempDir(), given?: number): Promise<Serving> {
  const port = given ?? (await freePort())
  const program = new Program(['serve', '--port', String(port), '--data', `${data}/log`, ...args])
  const { url } = await program.until(() => program.values.find(({ msg }) => msg === 'Serving'))
  return Object.assign(program, { url: String(url).replace(/\/v1$/, '') })
}
