/** A process of a crash test, of those that tell what they do in lines of JSON. Whoever starts one kills it, in any case. */
import { type ChildProcess, spawn } from 'node:child_process'
import { setTimeout as delay } from 'node:timers/promises'
import type { Dice } from './dice.ts'
import { built } from './witness.ts'

export interface TellerArgs {
  /** Its file, in dist/test/crash. */
  readonly program: string
  readonly args: readonly string[]
  /** Of the log that it opens. */
  readonly logOptions: object
  readonly env?: Readonly<Record<string, string>> | undefined
}

export class Teller {
  readonly child: ChildProcess
  readonly over: Promise<void>
  #stderr = ''

  /** @param take is given each line that was said whole */
  constructor({ program, args, logOptions, env }: TellerArgs, take: (said: Record<string, unknown>) => void) {
    this.child = spawn(process.execPath, [built(program), ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...env, LOG_OPTIONS: JSON.stringify(logOptions) },
    })
    this.over = new Promise((resolve) => this.child.once('close', () => resolve()))
    this.child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr += text
    })
    let text = ''
    this.child.stdout!.setEncoding('utf8').on('data', (chunk: string) => {
      const lines = (text + chunk).split('\n')
      // A last line without an end was not said whole.
      text = lines.pop()!
      for (const line of lines) take(JSON.parse(line))
    })
  }

  get hasEnded(): boolean {
    return this.child.exitCode !== null || this.child.signalCode !== null
  }

  /** @throws when the process has ended, with what it said of that */
  goesOn(): void {
    if (this.hasEnded) throw new Error(`It ended by itself: ${this.child.exitCode}\n${this.#stderr}`)
  }

  async kill(): Promise<void> {
    if (!this.hasEnded) this.child.kill('SIGKILL')
    await this.over
  }
}

/** One life: killed when it has come far enough, or a moment later. @throws when it ends by itself */
export async function killedWhen(
  isFar: () => boolean,
  args: TellerArgs,
  take: (said: Record<string, unknown>) => void,
  random: Dice,
): Promise<void> {
  let reach = (): void => {}
  const far = new Promise<void>((resolve) => {
    reach = resolve
  })
  const teller = new Teller(args, (said) => {
    take(said)
    if (isFar()) reach()
  })
  try {
    await Promise.race([far, teller.over])
    teller.goesOn()
    if (random(3) > 0) await delay(random(12) / 4)
  } finally {
    await teller.kill()
  }
}
