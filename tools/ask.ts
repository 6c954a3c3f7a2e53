/** Asking a running server, as every command does that is not the server itself. */
import { readFileSync } from 'node:fs'
import { newBackoff, pause } from '../src/client/backoff.ts'
import { baseOf } from '../src/client/client.ts'
import { type Call, type Http, newHttp } from '../src/client/http.ts'
import { hintOf, isPassing } from '../src/client/refusal.ts'
import { newTokens } from '../src/client/token.ts'
import type { Settings } from '../src/config.ts'
import { TidemarkError } from '../src/errors.ts'
import { checkChannel } from '../src/event.ts'
import type { Run } from './command.ts'

/** Longest pause between two tries, ms. */
const RETRY_MS_MAX = 2_000

/** What a command shows the server: a key or token, never given as a flag. @throws wrong-config */
export function credentialOf({ token, tokenFile }: Pick<Settings, 'token' | 'tokenFile'>): string | undefined {
  if (tokenFile === undefined) return token
  try {
    return readFileSync(tokenFile, 'utf8').trim()
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    throw new TidemarkError('wrong-config', `The token file ${tokenFile} can not be read (${code})`, {}, { cause })
  }
}

/** @param settings.url the server's address, or a whole base address where it serves under another path than `/v1`. */
export function connect(settings: Pick<Settings, 'url' | 'token' | 'tokenFile'>): Http {
  return newHttp(baseOf(settings.url), newTokens(credentialOf(settings)), fetch)
}

/** One question, one answer. @throws as Http.call */
export async function ask<T>(run: Pick<Run, 'settings'>, call: Call): Promise<T> {
  return (await connect(run.settings).call<T>(call)).value
}

/**
 * Asks again, for at most `patience` ms or until the signal, while nobody said no. An append asked this way carries an
 * idempotency key.
 * @param failed is told of each try that failed.
 * @throws the last failure; the signal's reason when it aborted while an answer was awaited.
 */
export async function askPatiently<T>(
  http: Http,
  call: Call,
  patience: number,
  failed?: (error: unknown) => void,
): Promise<T> {
  const until = performance.now() + patience
  const backoff = newBackoff(undefined, RETRY_MS_MAX)
  for (;;)
    try {
      return (await http.call<T>(call)).value
    } catch (error) {
      failed?.(error)
      if (!isPassing(error)) throw error
      const wait = backoff.next(hintOf(error))
      if (performance.now() + wait >= until) throw error
      await pause(wait, call.signal)
      if (call.signal?.aborted) throw error
    }
}

/** Failures of a connection that never came to be. */
const NOT_CONNECTED = new Set<unknown>([
  'ECONNREFUSED',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ENOTFOUND',
  'EAI_AGAIN',
  'UND_ERR_CONNECT_TIMEOUT',
])

/** Whether a try that failed may have done what it asked for: not when it never left, or was sent away unread. */
export function mayHaveArrived(error: unknown): boolean {
  if (!(error instanceof TidemarkError)) return true
  const reason = error.cause instanceof Error ? error.cause.cause : undefined
  return error.code !== 'too-many' && !NOT_CONNECTED.has((reason as NodeJS.ErrnoException | undefined)?.code)
}

/**
 * Whether a running server is meant. A directory that is named wins over a server that is only configured.
 * @throws bad-request when both are named
 */
export function isOnline({ config: { origins } }: Pick<Run, 'config'>): boolean {
  if (origins.url.source === 'flag' && origins.data.source === 'flag')
    throw wrongUsage('Give --data or --url, not both')
  if (origins.url.source === 'default' || origins.data.source === 'flag') return false
  return origins.url.source === 'flag' || origins.data.source === 'default'
}

/** A name from the command line. @throws bad-request */
export const channelOf = (arg: Run['args'][number]): string => checkChannel(arg)

export const pathOf = (channel: string): string => `channels/${encodeURIComponent(channel)}`

/** A usage that the options alone can't rule out. */
export const wrongUsage = (why: string): TidemarkError => new TidemarkError('bad-request', why)
