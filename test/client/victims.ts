/** Servers that a test kills and starts again, each a process of its own at a port of its own. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import { onTestFinished } from 'vitest'
import type { NatsOptions } from '../../src/log/open.ts'
import type { Dice } from '../crash/dice.ts'

/** One that does not start is tried again after this, ms: NATS may be electing. */
const AGAIN_MS = 200

/** What the log of a server is: a directory; or NATS, and then the directory is nobody's. */
export type Kept = readonly [dir: string, nats?: NatsOptions]

/** Resolves with undefined when it ended instead of serving. */
async function tryVictim(kept: Kept): Promise<Victim | undefined> {
  const args = kept.map((part) => (typeof part === 'string' ? part : JSON.stringify(part)))
  const child = spawn(process.execPath, ['dist/test/client/victim.js', ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  onTestFinished(() => void child.kill('SIGKILL'))
  const line = await Promise.race([
    once(createInterface(child.stdout!), 'line').then(([text]) => String(text)),
    once(child, 'exit').then(() => undefined),
  ])
  return line === undefined ? undefined : { child, port: Number(line) }
}

export interface Victim {
  readonly child: ChildProcess
  readonly port: number
}

/** A server, as soon as it serves. */
export async function startVictim(...kept: Kept): Promise<Victim> {
  for (;;) {
    const victim = await tryVictim(kept)
    if (victim) return victim
    if (kept[1] === undefined) throw new Error('The server ended')
    await delay(AGAIN_MS)
  }
}

export class Victims {
  readonly #kept: readonly Kept[]
  readonly #serving: (Victim | undefined)[]
  #starting: Promise<void> = Promise.resolve()

  private constructor(kept: readonly Kept[], serving: readonly Victim[]) {
    this.#kept = kept
    this.#serving = [...serving]
  }

  /** One server for each. */
  static async start(kept: readonly Kept[]): Promise<Victims> {
    return new Victims(kept, await Promise.all(kept.map((each) => startVictim(...each))))
  }

  /** Port of one of those that serve; 0 when none does. */
  any(random: Dice): number {
    const serving = this.#serving.filter((victim) => victim !== undefined)
    return serving[random(serving.length)]?.port ?? 0
  }

  /**
   * Ends one as a crash does or, where there are others, as an operator does, and starts it again.
   * @param lead where those who were with it go: told the port of the one that went and that of another one, which is
   * 0 for as long as none serves
   */
  async restart(random: Dice, lead: (gone: number, other: number) => void): Promise<void> {
    // Others may be all that there is until then.
    await this.#starting
    const which = random(this.#serving.length)
    const { child, port } = this.#serving[which]!
    this.#serving[which] = undefined
    const isAlone = this.#serving.every((victim) => victim === undefined)
    lead(port, isAlone ? 0 : this.any(random))
    child.kill(isAlone || random(2) === 0 ? 'SIGKILL' : 'SIGTERM')
    const starting = async (): Promise<void> => {
      if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
      const victim = await startVictim(...this.#kept[which]!)
      this.#serving[which] = victim
      if (isAlone) lead(0, victim.port)
    }
    this.#starting = starting()
    if (isAlone) await this.#starting
  }

  async end(): Promise<void> {
    await this.#starting
    for (const victim of this.#serving) {
      if (!victim) continue
      victim.child.kill('SIGKILL')
      if (victim.child.exitCode === null && victim.child.signalCode === null) await once(victim.child, 'exit')
    }
  }
}
