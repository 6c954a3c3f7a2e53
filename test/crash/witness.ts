/** Holds what a killed process had said against what its log holds. */
import { type ChildProcess, spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { decodeBlock } from '../../src/block.ts'
import type { Log } from '../../src/log/log.ts'
import type { LogOptions } from '../../src/log/open.ts'

export interface Answer {
  readonly n: number
  readonly at: readonly (readonly [channel: string, epoch: string, first: number, last: number])[]
  readonly key?: string
}

/** Children run from dist/, wherever this file runs from. */
export const built = (name: string): string =>
  fileURLToPath(new URL(import.meta.url.endsWith('.ts') ? `../../dist/test/crash/${name}` : name, import.meta.url))

const APPENDER = built('appender.js')

export interface LifeArgs {
  readonly dir: string
  readonly workers: number
  readonly seed: number
  readonly startAt: number
  /** More options of the log. */
  readonly options?: Partial<LogOptions>
}

/** One life of the appender, and everything it said. Whoever starts one kills it, in any case. */
export class Life {
  readonly child: ChildProcess
  readonly answers: Answer[] = []
  /** Newest seq that a reader saw, by channel. */
  readonly saw = new Map<string, number>()
  readonly failures: { code: string; why?: string; n: number; answersBefore: number; sawBefore: number }[] = []
  readonly complaints: unknown[] = []
  /** Of reads while writes failed: blocks, or a code. */
  readonly reads: (number | string)[] = []
  /** Why the log did not open. */
  refused: string | undefined
  notClosed: string | undefined
  readonly ready: Promise<void>
  readonly over: Promise<void>
  /** Of the appender itself; `child` may be what wraps it. */
  #pid: number | undefined
  #text = ''
  #stderr = ''
  #said = (): void => {}

  constructor(args: LifeArgs, wrap: readonly string[] = []) {
    const command = [
      ...wrap,
      process.execPath,
      APPENDER,
      args.dir,
      `${args.workers}`,
      `${args.seed}`,
      `${args.startAt}`,
    ]
    this.child = spawn(command[0]!, command.slice(1), {
      stdio: ['ignore', 'pipe', 'pipe'],
      // strace's `when` counts by thread.
      env: {
        ...process.env,
        ...(wrap.length > 0 && { UV_THREADPOOL_SIZE: '1' }),
        LOG_OPTIONS: JSON.stringify(args.options ?? {}),
      },
    })
    let isReady = (): void => {}
    this.ready = new Promise((resolve, reject) => {
      isReady = resolve
      this.child.once('close', (code, signal) => reject(new Error(`ended early: ${code ?? signal}\n${this.#stderr}`)))
    })
    this.ready.catch(() => {})
    this.over = new Promise((resolve) => this.child.once('close', () => resolve()))
    this.child.stderr!.on('data', (chunk) => {
      this.#stderr += chunk
    })
    this.child.stdout!.on('data', (chunk) => {
      const lines = (this.#text + chunk).split('\n')
      // A last line without an end was not said whole.
      this.#text = lines.pop()!
      for (const line of lines) {
        const said = JSON.parse(line)
        if ('pid' in said) {
          this.#pid = said.pid
          isReady()
        } else this.#take(said)
      }
      this.#said()
    })
  }

  /** Resolves when `what` holds of what was said so far, or the process is over. */
  async until(what: (life: Life) => boolean): Promise<void> {
    while (!what(this) && this.child.exitCode === null && this.child.signalCode === null)
      await Promise.race([
        this.over,
        new Promise<void>((resolve) => {
          this.#said = resolve
        }),
      ])
  }

  get stderr(): string {
    return this.#stderr
  }

  /** Asks the appender to close its log, and waits for its end. */
  async close(): Promise<void> {
    const isRunning = this.child.exitCode === null && this.child.signalCode === null
    if (isRunning && this.#pid !== undefined) process.kill(this.#pid, 'SIGTERM')
    await this.over
  }

  async kill(): Promise<void> {
    this.#end()
    await this.over
  }

  /** A wrapper that is killed would leave the appender running. */
  #end(): void {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return
    if (this.#pid !== undefined) process.kill(this.#pid, 'SIGKILL')
    else this.child.kill('SIGKILL')
  }

  #take(said: Record<string, unknown>): void {
    if ('at' in said) this.answers.push(said as unknown as Answer)
    else if ('saw' in said) {
      const [channel, seq] = said.saw as [string, number]
      this.saw.set(channel, seq)
    } else if ('failed' in said)
      this.failures.push({
        code: said.failed as string,
        ...(said.why !== undefined && { why: said.why as string }),
        n: said.n as number,
        answersBefore: this.answers.length,
        sawBefore: this.saw.size,
      })
    else if ('read' in said) this.reads.push(said.read as number | string)
    else if ('refused' in said) this.refused = said.refused as string
    else if ('notClosed' in said) this.notClosed = said.notClosed as string
    else this.complaints.push(said)
  }
}

export interface Findings {
  /** Events read back. */
  events: number
  lost: Answer[]
  /** Appends whose events are there in part, or more than once. */
  torn: number[]
  duplicated: number[]
  /** Channels whose head lies below what a reader saw. */
  takenBack: string[]
}

/** Reads every channel from `after` (by channel) to its head; the engine's own checks find holes. */
export async function examine(
  log: Log,
  answers: readonly Answer[],
  saw: ReadonlyMap<string, number>,
  after: Map<string, number> = new Map(),
): Promise<Findings> {
  const findings: Findings = { events: 0, lost: [], torn: [], duplicated: [], takenBack: [] }
  const found = new Map<string, { seq: number; count: number; of: number; first: number }>()
  const partners = new Map<number, Set<string>>()
  for await (const { channel, head } of log.channels('')) {
    let position = after.get(channel) ?? 0
    while (position < head) {
      const page = await log.read(channel, { after: position }, { events: 10_000, bytes: 1 << 20 })
      for (const block of page.blocks)
        for (const event of decodeBlock(block, position)) {
          findings.events++
          const { n, i, of } = JSON.parse(Buffer.from(event.data!).toString())
          const id = `${n} ${channel}`
          const known = found.get(id)
          if (!known) found.set(id, { seq: event.seq, count: 1, of, first: event.seq - i })
          else if (event.seq - i !== known.first) findings.duplicated.push(n)
          else known.count++
          partners.set(n, (partners.get(n) ?? new Set()).add(channel))
        }
      position = page.last
    }
    after.set(channel, position)
    if ((saw.get(channel) ?? 0) > head) findings.takenBack.push(channel)
  }
  for (const [id, { count, of }] of found) if (count !== of) findings.torn.push(Number(id.split(' ')[0]))
  for (const answer of answers) {
    for (const [channel, , first] of answer.at)
      if (found.get(`${answer.n} ${channel}`)?.first !== first) findings.lost.push(answer)
    if (answer.at.length !== partners.get(answer.n)?.size) findings.torn.push(answer.n)
  }
  return findings
}
