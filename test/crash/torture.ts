/**
 * The long tier: cycles of every fault class, the same time for each, until it is over, and the table of what was found.
 *
 *   npm run torture -- --minutes 30 --seed 7 --only errno,kill
 *
 * Cycle k of a class has the seed S + k, so a failed one is run again by `--only CLASS --seed SEED --cycles 1`. A
 * cycle's directory is removed when it passed and kept when it failed.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { Command, InvalidArgumentError } from 'commander'
import { provide } from '../machine.ts'
import { clock } from './clock.ts'
import { errno } from './errno.ts'
import { flips, holes } from './flips.ts'
import { full } from './full.ts'
import { histories } from './histories.ts'
import { kill } from './kill.ts'
import { points } from './points.ts'
import { powerCuts } from './power.ts'
import { replay } from './replay.ts'
import { mounted, restored } from './restored.ts'
import { add, type FaultClass, NOTHING, retries, type Tally, table } from './tally.ts'
import { Broken } from './verdict.ts'

const CLASSES: readonly FaultClass[] = [
  kill,
  points({ points: 40 }),
  powerCuts('ext4', { cuts: 5 }),
  powerCuts('xfs', { cuts: 5 }),
  replay({ states: 400 }),
  errno,
  ...full,
  histories,
  restored,
  mounted,
  clock,
  flips,
  holes,
]

/** A class that failed so often has said enough, and keeps a directory each time. */
const FAILURES_MAX = 5
/** How often it is told how far this has come, ms. */
const PROGRESS_MS = 60_000
/** How long running cycles may take to tear down what they made when this is interrupted, ms. */
const GRACE_MS = 60_000
/** Cycles wait for disks and processes most of the time, and disturb each other when there are many. */
const JOBS_MAX = 4

interface Options {
  readonly minutes: number
  readonly seed: number
  readonly jobs: number
  readonly cycles?: number
  readonly only?: readonly string[]
}

interface Failure {
  readonly name: string
  readonly seed: number
  readonly dir: string
  readonly error: unknown
}

/** A class and the turns that it had; times in ms. */
interface Turns {
  readonly of: FaultClass
  begun: number
  spent: number
  lately: number
}

const isBefore = (a: Turns, b: Turns): boolean => a.spent < b.spent || (a.spent === b.spent && a.begun <= b.begun)

const slug = (name: string): string => name.replace(/[^a-z0-9]+/gi, '-')

class Torture {
  readonly #options: Options
  readonly #rows = new Map<string, Tally>()
  readonly #turns: readonly Turns[]
  readonly #failures: Failure[] = []
  readonly #started = performance.now()
  #interrupted = false

  constructor(options: Options, classes: readonly FaultClass[]) {
    this.#options = options
    this.#turns = classes.map((of) => ({ of, begun: 0, spent: 0, lately: 0 }))
  }

  /** Exit code: 1 when a promise was broken or nothing was run. */
  async run(): Promise<number> {
    const progress = setInterval(() => console.log(this.#progress()), PROGRESS_MS)
    const interrupt = (): void => this.#interrupt()
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, interrupt)
    await Promise.all(Array.from({ length: this.#options.jobs }, () => this.#work()))
    clearInterval(progress)
    this.#report()
    return this.#failures.length > 0 || this.#rows.size === 0 ? 1 : 0
  }

  async #work(): Promise<void> {
    for (let turns = this.#next(); turns && !this.#interrupted; turns = this.#next()) {
      const seed = this.#options.seed + turns.begun++
      // Charged before it runs, so that one class does not take all the places.
      const charged = turns.lately
      turns.spent += charged
      const started = performance.now()
      await this.#cycle(turns.of, seed)
      turns.lately = performance.now() - started
      turns.spent += turns.lately - charged
    }
  }

  /** The class that had the least time; undefined when time or cycles are used up. */
  #next(): Turns | undefined {
    if (performance.now() - this.#started >= this.#options.minutes * 60_000) return undefined
    const { cycles = Number.POSITIVE_INFINITY } = this.#options
    const open = this.#turns.filter((turns) => turns.begun < cycles && this.#failuresOf(turns) < FAILURES_MAX)
    return open.reduce<Turns | undefined>(
      (least, turns) => (least && isBefore(least, turns) ? least : turns),
      undefined,
    )
  }

  #failuresOf({ of }: Turns): number {
    return this.#failures.filter(({ name }) => name === of.name).length
  }

  async #cycle(of: FaultClass, seed: number): Promise<void> {
    const dir = mkdtempSync(join(tmpdir(), 'tidemark-torture-'))
    try {
      this.#count(of.name, await of.cycle(seed, dir))
    } catch (error) {
      // What an interruption did to a cycle says nothing.
      if (!this.#interrupted) {
        const failure = { name: of.name, seed, dir, error }
        this.#count(of.name, error instanceof Broken ? error.tally : { ...NOTHING, cycles: 1 })
        this.#failures.push(failure)
        console.error(`FAILED: ${describe(failure)}`)
        return
      }
    }
    rmSync(dir, { recursive: true, force: true })
  }

  #count(name: string, tally: Tally): void {
    this.#rows.set(name, add(this.#rows.get(name) ?? NOTHING, tally))
  }

  /** Running cycles end by themselves and tear down what they made; a second signal does not wait for them. */
  #interrupt(): void {
    if (this.#interrupted) process.exit(130)
    this.#interrupted = true
    console.log('Interrupted: waiting for the cycles that run')
    setTimeout(() => {
      this.#report()
      process.exit(130)
    }, GRACE_MS).unref()
  }

  #progress(): string {
    const minutes = Math.round((performance.now() - this.#started) / 60_000)
    const { cycles, acknowledged, lost } = [...this.#rows.values()].reduce(add, NOTHING)
    return `${minutes} min: ${cycles} cycles, ${acknowledged} acknowledged events, ${lost} lost, ${this.#failures.length} failed`
  }

  #report(): void {
    const rows = new Map(this.#turns.map(({ of: { name } }) => [name, this.#rows.get(name) ?? NOTHING]))
    console.log(
      `\nseed ${this.#options.seed}; ${this.#progress()}\n\n${table(rows)}\n${retries.answered} appends sent again`,
    )
    for (const failure of this.#failures) console.log(`\nFAILED: ${describe(failure)}`)
  }
}

const describe = ({ name, seed, dir, error }: Failure): string =>
  `${name}, kept in ${dir}, again with --only ${slug(name)} --seed ${seed} --cycles 1\n${error instanceof Error ? error.stack : error}`

/** The classes that can run here; says loudly which can not. */
function able(only: readonly string[] | undefined): FaultClass[] {
  const asked = CLASSES.filter(({ name }) => only?.some((prefix) => slug(name).startsWith(prefix)) ?? true)
  return asked.filter((of) => {
    const missing = of.missing()
    if (missing !== undefined) console.warn(`NO ${missing} HERE: ${of.name} is NOT RUN`)
    return missing === undefined
  })
}

function numberFrom(least: number, text: string): number {
  const value = Number(text)
  if (!Number.isFinite(value) || value < least) throw new InvalidArgumentError(`A number from ${least} on.`)
  return value
}

function wholeFrom(least: number, text: string): number {
  const value = numberFrom(least, text)
  if (!Number.isSafeInteger(value)) throw new InvalidArgumentError('A whole number.')
  return value
}

function names(text: string): string[] {
  const given = text.split(',')
  const unknown = given.find((prefix) => !CLASSES.some(({ name }) => slug(name).startsWith(prefix)))
  if (unknown !== undefined)
    throw new InvalidArgumentError(
      `No class ${unknown}; there are ${CLASSES.map(({ name }) => slug(name)).join(', ')}.`,
    )
  return given
}

const program = new Command('torture')
  .description('Runs every class of faults against the log, in turn, and counts what was lost.')
  .option('--minutes <n>', 'how long', (text) => numberFrom(0, text), 30)
  .option('--seed <n>', 'of the first cycle of each class', (text) => wholeFrom(0, text), Date.now() % 2 ** 31)
  .option('--only <classes>', 'names or their beginnings, with commas between', names)
  .option('--cycles <n>', 'at most so many of each class', (text) => wholeFrom(1, text))
  .option('--jobs <n>', 'cycles at a time', (text) => wholeFrom(1, text), Math.min(JOBS_MAX, availableParallelism()))
  .addHelpText('after', `\nClasses: ${CLASSES.map(({ name }) => slug(name)).join(', ')}`)
  .parse()
const options = program.opts<Options>()
provide()
const classes = able(options.only)
console.log(
  `seed ${options.seed}, ${options.minutes} minutes, ${options.jobs} at a time: ${classes.map(({ name }) => name).join(' · ')}`,
)
process.exit(await new Torture(options, classes).run())
