/** The program in this process, for tests that need no process of its own: the same command lines, a terminal of ours. */
import { onTestFinished } from 'vitest'
import { runProgram } from '../../tools/program.ts'
import type { Terminal } from '../../tools/terminal.ts'
import type { Ran } from './program.ts'

export class TestTerminal implements Terminal {
  readonly input: AsyncIterable<Uint8Array> & { readonly isTTY?: boolean }
  out = ''
  err = ''
  readonly #stopping = new AbortController()
  #told: (() => void)[] = []

  constructor(input = '', isTTY = false) {
    const bytes = async function* (): AsyncGenerator<Uint8Array> {
      if (input !== '') yield Buffer.from(input)
    }
    this.input = Object.assign(bytes(), { isTTY })
  }

  async print(text: string): Promise<void> {
    this.out += `${text}\n`
    for (const told of this.#told.splice(0)) told()
  }

  say(message: string): void {
    this.err += `${message}\n`
    for (const told of this.#told.splice(0)) told()
  }

  stopped(): AbortSignal {
    return this.#stopping.signal
  }

  progress(): void {}

  close(): void {}

  /** Ctrl-C. */
  stop(): void {
    this.#stopping.abort()
  }

  /** Whole lines of the results as JSON. */
  get values(): Record<string, unknown>[] {
    return this.out
      .split('\n')
      .slice(0, -1)
      .map((line) => JSON.parse(line) as Record<string, unknown>)
  }

  /** Resolves when the check holds, asked again with each output. */
  async until(check: () => boolean): Promise<void> {
    while (!check()) await new Promise<void>((resolve) => this.#told.push(resolve))
  }
}

/** Runs a command line to its end. */
export async function here(
  args: readonly string[],
  options: { readonly input?: string; readonly isTTY?: boolean } = {},
): Promise<Ran> {
  const terminal = new TestTerminal(options.input, options.isTTY)
  const code = await runProgram(args, terminal)
  return { code, out: terminal.out, err: terminal.err }
}

/** Starts one that runs until it is stopped; stopped when the test ends. `ended` is its exit code. */
export function starting(args: readonly string[]): TestTerminal & { readonly ended: Promise<number> } {
  const terminal = new TestTerminal()
  const ended = runProgram(args, terminal)
  onTestFinished(async () => {
    terminal.stop()
    await ended
  })
  return Object.assign(terminal, { ended })
}
