/** Work on one channel that a running server does in the background: begun, watched to its end. */
import { pause } from '../src/client/backoff.ts'
import { type ErrorCode, TidemarkError } from '../src/errors.ts'
import { ask, pathOf } from './ask.ts'
import type { Run } from './command.ts'

/** How often a server is asked how far it is, ms. */
const ASK_MS = 500

interface State<Report> {
  readonly running: boolean
  readonly phase?: string
  readonly seq?: number
  readonly head?: number
  readonly report?: Report
  readonly stopped?: true
  readonly failed?: { readonly code: ErrorCode; readonly detail: string }
}

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
    terminal.progress(howFar(verb, state))
    await pause(ASK_MS, signal)
    state = await ask<State<Report>>(run, signal.aborted ? { method: 'DELETE', path } : { path })
  }
  if (state.report) return state.report
  if (state.stopped) {
    terminal.progress()
    terminal.say(`tidemark: ${howFar(verb, state)}: stopped there; what is done stays, and another run goes on with it`)
    signal.throwIfAborted()
    throw new TidemarkError('unavailable', 'Somebody else stopped it')
  }
  const { code = 'unavailable', detail = 'The server did not come to an end with it' } = state.failed ?? {}
  throw new TidemarkError(code, detail)
}

const howFar = (verb: string, { phase = 'reading', seq = 0, head = 0 }: State<unknown>): string =>
  lineOf(verb, { phase, seq }, head)

/** How far it is, in one line. */
export const lineOf = (
  verb: string,
  { phase, seq }: { readonly phase: string; readonly seq: number },
  head: number,
): string => `${verb}: ${phase}, ${head === 0 ? 100 : Math.floor((seq / head) * 100)} % (seq ${seq} of ${head})`
