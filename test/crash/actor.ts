/** The parent's end of act.ts: one life of the process, and the ledger of everything that all lives on one directory said. */
import { retries } from './tally.ts'
import { Teller } from './teller.ts'

export type Placed = readonly [channel: string, epoch: string, first: number, last: number]

/** One deed as it was told. Moments are places in the order of all that was told. */
export interface Told {
  readonly n: number
  readonly asked: number
  /** The head expected, the cursor's seq, the seq trimmed to. */
  readonly seq?: number
  readonly epoch?: string
  done?: number
  answer?: unknown
  /** Refused, so that nothing may have happened; `unknown` outcomes stay open. */
  refused?: string
}

export class Ledger {
  readonly deeds = new Map<number, Told>()
  /** Newest seq that a reader saw, by channel and epoch. */
  readonly saw = new Map<string, Map<string, number>>()
  readonly wrong: unknown[] = []
  answered = 0
  #moment = 0

  take(said: Record<string, unknown>): void {
    const moment = this.#moment++
    if ('ask' in said) this.deeds.set(said.ask as number, { n: said.ask as number, asked: moment, ...pick(said) })
    else if ('done' in said) {
      const deed = this.deeds.get(said.done as number)
      // A deed that had nothing to do was not asked for.
      if (deed) Object.assign(deed, { done: moment, answer: said.answer })
      this.answered++
    } else if ('failed' in said) {
      const deed = this.deeds.get(said.failed as number)
      if (deed && !said.unknown && deed.done === undefined) deed.refused = said.code as string
    } else if ('saw' in said) {
      const [channel, epoch, seq] = said.saw as [string, string, number]
      this.saw.set(channel, (this.saw.get(channel) ?? new Map()).set(epoch, seq))
    } else if ('again' in said) retries.answered++
    else if ('wrong' in said) this.wrong.push(said)
  }
}

const pick = ({ seq, epoch }: Record<string, unknown>): object => ({
  ...(seq !== undefined && { seq: seq as number }),
  ...(epoch !== undefined && { epoch: epoch as string }),
})

/** One life. Whoever starts one kills it, in any case. */
export class Actor {
  readonly #teller: Teller
  /** Times that it began to open, and to close, its log. */
  openings = 0
  closings = 0
  answered = 0
  #said = (): void => {}

  constructor(
    ledger: Ledger,
    args: { dir: string; workers: number; first: number; logOptions: object; env?: Readonly<Record<string, string>> },
  ) {
    const { dir, workers, first, logOptions, env } = args
    this.#teller = new Teller({ program: 'act.js', args: [dir, `${workers}`, `${first}`], logOptions, env }, (said) => {
      ledger.take(said)
      if ('opening' in said) this.openings++
      else if ('closing' in said) this.closings++
      else if ('done' in said) this.answered++
      this.#said()
    })
  }

  get over(): Promise<void> {
    return this.#teller.over
  }

  /** Resolves when `what` holds of what was said so far. @throws when the process ends before that */
  async until(what: (actor: Actor) => boolean): Promise<void> {
    while (!what(this)) {
      this.#teller.goesOn()
      await Promise.race([
        this.over,
        new Promise<void>((resolve) => {
          this.#said = resolve
        }),
      ])
    }
  }

  kill(): Promise<void> {
    return this.#teller.kill()
  }
}
