/** Asking a running server, as every command does that is not the server itself. */
import { Backoff, pause } from '../src/client/backoff.ts'
import { baseOf } from '../src/client/client.ts'
import { type Call, Http, hintOf, isPassing, Token } from '../src/client/http.ts'
import type { Settings } from '../src/config.ts'
import { TidemarkError } from '../src/errors.ts'
import { checkChannel } from '../src/event.ts'
import type { Run } from './command.ts'

/** Longest pause between two tries, ms. */
const RETRY_MS_MAX = 2_000

/** @param settings.url the server's address, or a whole base address where it serves under another path than `/v1`. */
export function connect({ url }: Pick<Settings, 'url'>): Http {
  return new Http(baseOf(url), new Token(undefined), fetch)
}

/** One question, one answer. @throws as Http.call */
export async function ask<T>(run: Pick<Run, 'settings'>, call: Call): Promise<T> {
  return (await connect(run.settings).call<T>(call)).value
}

/**
 * Asks again, for at most `patience` ms, while nobody said no. An append asked this way carries an idempotency key.
 * @throws the last failure.
 */
export async function askPatiently<T>(http: Http, call: Call, patience: number): Promise<T> {
  const until = performance.now() + patience
  const backoff = new Backoff(undefined, RETRY_MS_MAX)
  for (;;)
    try {
      return (await http.call<T>(call)).value
    } catch (error) {
      if (!isPassing(error)) throw error
      const wait = backoff.next(hintOf(error))
      if (performance.now() + wait >= until) throw error
      await pause(wait, call.signal)
    }
}

/** A name from the command line. @throws bad-request */
export const channelOf = (arg: Run['args'][number]): string => checkChannel(arg)

export const pathOf = (channel: string): string => `channels/${encodeURIComponent(channel)}`

/** A usage that the options alone can't rule out. */
export const wrongUsage = (why: string): TidemarkError => new TidemarkError('bad-request', why)
