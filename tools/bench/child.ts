/**
 * Processes of the bench. Each is known here from its start to its end, so that Ctrl-C and failures leave none behind;
 * a process is ended by its own id and in no other way.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'

/** Longest wait for a process that was asked to end; then it is killed. */
const STOP_MS = 15_000
/** Kept of what a process says on stderr, for the message when it fails. */
const STDERR_CHARS = 4_000
/** Lines that nobody has asked for yet; a server's log is cut to the newest. */
const LINES_MAX = 1_000
/** Clock ticks a second in /proc/PID/stat: fixed by the kernel's interface. */
const TICKS = 100
const PAGE_BYTES = 4_096

const living = new Set<Child>()
/** Everything is being ended: nothing may start any more. */
let ending = false

export interface Usage {
  /** Seconds of user and system time. */
  readonly cpu: number
  /** Resident memory, bytes: mapped files, as LevelDB's tables, count where they were read. */
  readonly rss: number
  /** What of it is no file's, bytes. */
  readonly own: number
}

export class Child {
  readonly name: string
  readonly #process: ChildProcess
  readonly #ended: Promise<void>
  #lines: string[] = []
  #waiting: (() => void)[] = []
  #stderr = ''
  #exit: string | undefined

  private constructor(name: string, process: ChildProcess) {
    this.name = name
    this.#process = process
    living.add(this)
    this.#ended = new Promise((resolve) => {
      const end = (how: string): void => {
        this.#exit ??= how
        living.delete(this)
        this.#wake()
        resolve()
      }
      process.once('error', (error) => end(error.message))
      process.once('close', (code, signal) => end(`ended with ${signal ?? code}`))
    })
    createInterface({ input: process.stdout! }).on('line', (line) => this.#hear(line))
    createInterface({ input: process.stderr! }).on('line', (line) => {
      this.#stderr = `${this.#stderr}${line}\n`.slice(-STDERR_CHARS)
      this.#hear(line)
    })
  }

  /** Starts a program; `name` stands in messages. */
  static start(name: string, command: readonly string[], env: NodeJS.ProcessEnv = process.env, cwd?: string): Child {
    if (ending) throw new Error(`${name} is not started: the bench is ending`)
    const [file, ...args] = command
    return new Child(name, spawn(file!, args, { stdio: ['pipe', 'pipe', 'pipe'], env, cwd }))
  }

  /** The end of what it said on stderr. */
  get stderr(): string {
    return this.#stderr
  }

  get pid(): number {
    return this.#process.pid!
  }

  /** The next line (of stdout or stderr) that `match` takes; lines before it are dropped. Throws when the process ends. */
  async line<T>(match: (line: string) => T | undefined): Promise<T> {
    for (;;) {
      while (this.#lines.length > 0) {
        const found = match(this.#lines.shift()!)
        if (found !== undefined) return found
      }
      if (this.#exit !== undefined) throw new Error(`${this.name} ${this.#exit}\n${this.#stderr}`)
      await new Promise<void>((resolve) => this.#waiting.push(resolve))
    }
  }

  /** The next JSON line that has this field. */
  json<T>(field: string): Promise<T> {
    return this.line((line) => {
      if (!line.startsWith('{')) return undefined
      const value = JSON.parse(line) as T & object
      return field in value ? value : undefined
    })
  }

  send(line: string): void {
    this.#process.stdin!.write(`${line}\n`)
  }

  /** Undefined where there is no /proc, or when the process is gone. */
  usage(): Usage | undefined {
    try {
      const stat = readFileSync(`/proc/${this.pid}/stat`, 'utf8')
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
      const status = readFileSync(`/proc/${this.pid}/status`, 'utf8')
      return {
        cpu: (Number(fields[11]) + Number(fields[12])) / TICKS,
        rss: Number(fields[21]) * PAGE_BYTES,
        own: Number(/^RssAnon:\s+(\d+) kB$/m.exec(status)?.[1]) * 1_024,
      }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
      throw error
    }
  }

  signal(signal: NodeJS.Signals): void {
    this.#process.kill(signal)
  }

  /** Asks the process to end and waits until it has; after STOP_MS it is killed. */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    if (this.#exit !== undefined) return
    this.signal(signal)
    const timer = setTimeout(() => this.signal('SIGKILL'), STOP_MS)
    await this.#ended
    clearTimeout(timer)
  }

  /** Waits until the process ends by itself. */
  async ended(): Promise<void> {
    await this.#ended
  }

  #hear(line: string): void {
    this.#lines.push(line)
    if (this.#lines.length > LINES_MAX) this.#lines = this.#lines.slice(-LINES_MAX / 2)
    this.#wake()
  }

  #wake(): void {
    const waiting = this.#waiting
    this.#waiting = []
    for (const resolve of waiting) resolve()
  }
}

/** For the very end of this process, however it came: nothing is awaited. */
export function killAll(): void {
  ending = true
  for (const child of living) child.signal('SIGKILL')
}

/** Kills what still runs, and waits until all of it has ended. Afterwards nothing can be started. */
export async function stopAll(): Promise<void> {
  ending = true
  await Promise.all([...living].map((child) => child.stop('SIGKILL')))
}
