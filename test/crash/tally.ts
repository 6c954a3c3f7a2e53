/** What the harnesses of this directory share: a class of faults, what its cycles did and found, and the table of all. */

/** What one cycle of a fault class did and found. */
export interface Tally {
  readonly cycles: number
  /** Events whose append was answered. */
  readonly acknowledged: number
  readonly lost: number
  readonly duplicated: number
  /** Silent holes, torn appends, wrong bytes, things taken back. */
  readonly holes: number
  /** Refused, or reported as damage, where nothing was lost. */
  readonly falseAlarms: number
}

export interface FaultClass {
  readonly name: string
  /** Undefined when it can run here, else what is missing. */
  missing(): string | undefined
  /** One cycle in an empty directory, a function of its seed; throws with the evidence when a promise is broken. */
  cycle(seed: number, dir: string): Promise<Tally>
}

/** Appends that were sent again under their idempotency key and answered, by all cycles of this process so far. */
export const retries = { answered: 0 }

export const NOTHING: Tally = { cycles: 0, acknowledged: 0, lost: 0, duplicated: 0, holes: 0, falseAlarms: 0 }

export function add(a: Tally, b: Tally): Tally {
  return {
    cycles: a.cycles + b.cycles,
    acknowledged: a.acknowledged + b.acknowledged,
    lost: a.lost + b.lost,
    duplicated: a.duplicated + b.duplicated,
    holes: a.holes + b.holes,
    falseAlarms: a.falseAlarms + b.falseAlarms,
  }
}

const COLUMNS = ['fault class', 'cycles', 'acknowledged events', 'lost', 'duplicated', 'holes', 'false alarms']

/** One line a class, in their order, and the sum; columns aligned. It reads as Markdown too. */
export function table(rows: ReadonlyMap<string, Tally>): string {
  const sum = [...rows.values()].reduce(add, NOTHING)
  const lines = [...rows, ['all', sum] as const].map(([name, tally]) => [
    name,
    ...[tally.cycles, tally.acknowledged, tally.lost, tally.duplicated, tally.holes, tally.falseAlarms].map((n) =>
      n.toLocaleString('en-US'),
    ),
  ])
  const widths = COLUMNS.map((title, i) => Math.max(title.length, ...lines.map((line) => line[i]!.length)))
  const draw = (cells: readonly string[]): string =>
    `| ${cells.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join(' | ')} |`
  const rule = `| ${widths.map((width, i) => (i === 0 ? '-'.repeat(width) : `${'-'.repeat(width - 1)}:`)).join(' | ')} |`
  return [draw(COLUMNS), rule, ...lines.map(draw)].join('\n')
}
