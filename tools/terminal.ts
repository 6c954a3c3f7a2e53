/** What a command has to do with its surroundings: results on stdout, messages on stderr, an end on Ctrl-C. */
import { ERRORS, TidemarkError, toProblem } from '../src/errors.ts'

export interface Terminal {
  readonly input: AsyncIterable<Uint8Array> & { readonly isTTY?: boolean }
  /**
   * A result, one or more whole lines. Resolves when it left this process.
   * @param done What was done before, said as a message where the result can't be written.
   */
  print(text: string, done?: string): Promise<void>
  /** A message for people. */
  say(message: string): void
  /** Where a progress bar is drawn; undefined where nobody looks. */
  readonly screen?: NodeJS.WriteStream
  /** How far it is: a line in place of the one before, on a terminal only. None takes it away. */
  progress(text?: string): void
  /** Lets the process end though its input is open. */
  close(): void
  /** Aborts at the first Ctrl-C or SIGTERM after the first call; the second one ends the process. */
  stopped(): AbortSignal
}

export class ProcessTerminal implements Terminal {
  #stopping: AbortController | undefined
  #done: string | undefined
  #isRead = false

  constructor() {
    // Whoever reads our results may stop reading (`| head`): that is an end, not a failure.
    process.stdout.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EPIPE') process.exit(0)
      const done = this.#done === undefined ? '' : `; done all the same: ${this.#done}`
      this.say(`tidemark: stdout does not take the result (${error.code})${done}`)
      process.exit(ERRORS['io-error'].exit)
    })
    // Nobody listens to messages any more; results and work go on.
    process.stderr.on('error', () => undefined)
  }

  get input(): typeof process.stdin {
    this.#isRead = true
    return process.stdin
  }

  print(text: string, done?: string): Promise<void> {
    this.#done = done
    return new Promise((resolve) => {
      process.stdout.write(`${text}\n`, () => resolve())
    })
  }

  get screen(): NodeJS.WriteStream {
    return process.stderr
  }

  say(message: string): void {
    process.stderr.write(`${message}\n`)
  }

  progress(text = ''): void {
    if (process.stderr.isTTY) process.stderr.write(`\r${text.slice(0, process.stderr.columns - 1)}\u001b[K`)
  }

  close(): void {
    if (this.#isRead) process.stdin.destroy()
  }

  stopped(): AbortSignal {
    if (this.#stopping) return this.#stopping.signal
    const stopping = new AbortController()
    const stop = () => stopping.abort()
    process.once('SIGINT', stop)
    process.once('SIGTERM', stop)
    this.#stopping = stopping
    return stopping.signal
  }
}

/** As shells have it for what Ctrl-C ended. */
const INTERRUPTED = 130

/** Tells what went wrong; returns the exit code. Of ours one line, of a mistake in this program the whole trace. */
export function tellFailure(terminal: Terminal, error: unknown, json: boolean): number {
  if ((error as Error | undefined)?.name === 'AbortError') {
    terminal.say('tidemark: stopped')
    return INTERRUPTED
  }
  if (!(error instanceof TidemarkError)) {
    terminal.say(`tidemark: ${error instanceof Error ? error.stack : String(error)}`)
    return ERRORS.internal.exit
  }
  if (json) {
    const { type: _type, status: _status, ...problem } = toProblem(error)
    terminal.say(JSON.stringify(problem))
  } else terminal.say(`tidemark: ${printable(error.message)} (${error.code})`)
  return ERRORS[error.code].exit
}

/** Rows as aligned columns, under their names if there are any; numbers to the right. */
export function table(head: readonly string[] | undefined, rows: readonly (readonly (string | number)[])[]): string {
  const cells = (head ? [head, ...rows] : rows).map((row) => row.map((cell) => printable(String(cell))))
  const columns = cells[0]?.map((_, column) => ({
    width: Math.max(...cells.map((row) => row[column]!.length)),
    isNumber: rows.length > 0 && rows.every((row) => typeof row[column] === 'number'),
  }))
  const line = (row: readonly string[]) =>
    row.map((cell, i) => (columns![i]!.isNumber ? cell.padStart(columns![i]!.width) : cell.padEnd(columns![i]!.width)))
  return cells.map((row) => line(row).join('  ').trimEnd()).join('\n')
}

/** Control characters and those that turn the direction of text, which could make a terminal show something else. */
const UNSAFE = /[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g

/** A text that others wrote, safe to show: `\u001b` in place of an escape. */
export const printable = (text: string): string =>
  text.replace(UNSAFE, (unsafe) => `\\u${unsafe.charCodeAt(0).toString(16).padStart(4, '0')}`)
