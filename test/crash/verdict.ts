/** What is said of a log that was opened after a fault: counted, and thrown with the evidence when it broke a promise. */
import { TidemarkError } from '../../src/errors.ts'
import type { Log } from '../../src/log/log.ts'
import { type LogOptions, openLog } from '../../src/log/open.ts'
import type { Tally } from './tally.ts'
import type { Answer, Findings } from './witness.ts'

/** A promise was broken. */
export class Broken extends Error {
  readonly tally: Tally

  constructor(where: string, tally: Tally, evidence: unknown) {
    super(`${where}: ${JSON.stringify(tally)}\n${JSON.stringify(evidence, undefined, 1).slice(0, 4_000)}`)
    this.tally = tally
  }
}

/** @throws Broken, unless nothing was lost, doubled, torn, taken back or refused. */
export function mustHold(where: string, tally: Tally, evidence: unknown): Tally {
  if (tally.lost + tally.duplicated + tally.holes + tally.falseAlarms > 0) throw new Broken(where, tally, evidence)
  return tally
}

export const eventsOf = (answers: readonly Answer[]): number =>
  answers.reduce((sum, { at }) => sum + at.reduce((events, [, , first, last]) => events + last - first + 1, 0), 0)

/** One cycle's findings as numbers; a log that was refused though nothing is missing in it was a false alarm. */
export function tallyOf(
  answers: readonly Answer[],
  found: Findings,
  { refused, complaints }: { readonly refused: boolean; readonly complaints: readonly unknown[] },
): Tally {
  const lost = eventsOf([...new Set(found.lost)])
  const duplicated = found.duplicated.length
  const holes = found.torn.length + found.takenBack.length + complaints.length
  const falseAlarms = refused && lost + holes === 0 ? 1 : 0
  return { cycles: 1, acknowledged: eventsOf(answers), lost, duplicated, holes, falseAlarms }
}

/**
 * Opens a log as a server does. One that is refused is opened all the same, with every loss accepted, so that it shows
 * whether anything is missing.
 */
export async function openAnyway(options: LogOptions): Promise<{ log: Log; refused?: TidemarkError }> {
  try {
    return { log: await openLog(options) }
  } catch (error) {
    if (!(error instanceof TidemarkError)) throw error
    return { log: await openLog({ ...options, acceptDataLoss: true, acceptCopy: true }), refused: error }
  }
}
