/** Work on one channel that a running server does in the background: begun, watched to its end. */
import { pause } from '../src/client/backoff.ts'
import { TidemarkError } from '../src/errors.ts'
import { shareOf } from '../src/units.ts'
import type { RunJson } from '../src/wire.ts'
import { ask, pathOf } from './ask.ts'
import type { Run } from './command.ts'

/** How often a server is asked how far it is, ms. */
const ASK_MS = 500

type State<Report> = Omit<RunJson, 'work' | 'report'> & { readonly report?: Report }

/**
 * Ctrl-C ends the run on the server, too; a second one ends the wait for that.
 * @throws what the run failed with, and as Http.call; the signal's reason when the run was stopped
 */
export async function byServer<Report>(
  run: Run,
  channel: string,
  verb: 'compact' | 'erase',
  asked: object,
): Promise<Report> {
  const { terminal } = run
  const signal = terminal.stopped()
  const path = `${pathOf(channel)}/${verb}`
  // Answered at once: what was asked for is known to have begun before it can be stopped.
  let state = await ask<State<Report>>(run, { method: 'POST', path, body: JSON.stringify(asked) })
  while (state.running) {
    terminal.progress(lineOf(verb, state))
    await pause(ASK_MS, signal)
    state = await ask<State<Report>>(run, signal.aborted ? { method: 'DELETE', path } : { path })
  }
  if (state.report) return state.report
  if (state.stopped) {
    terminal.progress()
    const left = state.dryRun ? 'it only looked' : 'what is done stays, and another run goes on with it'
    terminal.say(`tidemark: ${lineOf(verb, state)}: stopped there; ${left}`)
    signal.throwIfAborted()
    throw new TidemarkError('unavailable', 'Somebody else stopped it')
  }
  const { code = 'unavailable', detail = 'The server did not come to an end with it' } = state.failed ?? {}
  throw new TidemarkError(code, detail)
}

/** How far it is, in one line. */
export function lineOf(verb: string, run: Pick<RunJson, 'phase' | 'seq' | 'trimmed' | 'head'>): string {
  const { phase = 'reading', trimmed = 0, seq = trimmed, head = 0 } = run
  return `${verb}: ${phase}, ${Math.floor((shareOf(run) ?? 1) * 100)} % (seq ${seq} of ${head})`
}
