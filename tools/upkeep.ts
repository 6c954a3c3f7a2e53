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
  readonly failed?: { readonly code: ErrorCode; readonly detail: string }
}

/** @throws what the run failed with, and as Http.call; the signal's reason on Ctrl-C, while the server goes on */
export async function byServer<Report>(
  run: Run,
  channel: string,
  verb: 'compact' | 'erase',
  asked: object,
): Promise<Report> {
  const { terminal } = run
  const signal = terminal.stopped()
  const path = `${pathOf(channel)}/${verb}`
  let state = await ask<State<Report>>(run, { method: 'POST', path, body: JSON.stringify(asked), signal })
  signal.addEventListener('abort', () => terminal.say('tidemark: the server goes on with it by itself'))
  while (state.running) {
    const { phase = 'reading', seq = 0, head = 0 } = state
    terminal.progress(lineOf(verb, { phase, seq }, head))
    await pause(ASK_MS, signal)
    signal.throwIfAborted()
    state = await ask<State<Report>>(run, { path, signal })
  }
  if (state.report) return state.report
  const { code = 'unavailable', detail = 'The server did not come to an end with it' } = state.failed ?? {}
  throw new TidemarkError(code, detail)
}

/** How far it is, in one line. */
export const lineOf = (
  verb: string,
  { phase, seq }: { readonly phase: string; readonly seq: number },
  head: number,
): string => `${verb}: ${phase}, ${head === 0 ? 100 : Math.floor((seq / head) * 100)} % (seq ${seq} of ${head})`
