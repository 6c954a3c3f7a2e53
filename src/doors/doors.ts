/**
 * What every door is given: the log, and what the doors of one server share.
 *
 * A handler of a door throws; the server's front (server.ts) turns what was thrown into a problem, logs it with its
 * code and counts it. A handler that has sent its headers already ends its answer itself and calls `Doors.failed`.
 */
import type { Logger } from 'pino'
import type { Keyring } from '../access/keyring.ts'
import type { Principal } from '../access/principal.ts'
import { hasCode, TidemarkError } from '../errors.ts'
import type { Limits } from '../limits.ts'
import type { Keeper } from '../log/keeper.ts'
import type { Append, Appended, Log } from '../log/log.ts'
import type { States } from '../log/states.ts'
import type { Audit } from './audit.ts'
import type { Census } from './census.ts'
import type { Counts } from './counts.ts'
import type { Guard } from './guard.ts'
import { PENDING_BYTES_MAX } from './limits.ts'
import type { Pages } from './pages.ts'
import type { StreamerSwitch } from './switch.ts'
import type { Waits } from './waits.ts'

export interface DoorSettings {
  /** Name and version of this server, told in `welcome` and in /v1/admin/status: `tidemark/0.1.0`. */
  readonly server: string
  /**
   * Prefix of the calls without a slash at its end, `/v1` unless configured. Only for texts that name an address:
   * the front rewrites `req.url` so that handlers always see `/v1/…`.
   */
  readonly path: string
  /** Clients that are sent away (a stop, the switch) spread their return over this window, ms. */
  readonly retryWindow: number
  /** False: only `PUT /v1/channels/…` makes channels, appends do not. */
  readonly createChannels: boolean
  /** A socket without anything else to say shows that it lives this often, a stream in any case; ms. */
  readonly heartbeat: number
  /** How much callers may have. */
  readonly limits: Limits
}

export interface Doors {
  readonly log: Log
  /** Drops what is beyond retention; told who is there. */
  readonly keeper: Keeper
  /** The newest event of each key, of channels that are asked for it. */
  readonly states: States
  /** The credentials that are good. */
  readonly keyring: Keyring
  readonly switch: StreamerSwitch
  /** What waits for channels to change. */
  readonly waits: Waits
  /** Whose turn it is of those who are behind. */
  readonly pages: Pages
  /** Never given event data, credentials or query strings. */
  readonly logger: Logger
  readonly metrics: Counts
  readonly audit: Audit
  readonly guard: Guard
  readonly census: Census
  /**
   * Aborts when the server begins to stop, before it stops accepting: waiting polls answer their empty page, SSE
   * streams end, no new wait begins. Appends are taken and answered until their connection closes.
   */
  readonly stopping: AbortSignal
  readonly settings: DoorSettings
  /**
   * Logs and counts a failure that was told to a caller in the door's own way (an `error` message, a broken stream).
   * Refusals of ours are one line with the code; what is `internal` is logged with its cause.
   */
  failed(door: 'http' | 'sse' | 'stream', error: unknown, facts?: Readonly<Record<string, unknown>>): void
}

/**
 * Appends for a caller, and makes channels while there is room for more.
 * @param key the idempotency key as the caller gave it, checked @throws as Log.append
 */
export async function appendFor(
  doors: Doors,
  who: Principal,
  entries: readonly Append[],
  key: string | undefined,
): Promise<readonly Appended[]> {
  const create = mayMake(doors)
  try {
    const options = key === undefined ? { create } : { create, idempotencyKey: who.idempotencyKey(key) }
    const answers = await doors.log.append(entries, options)
    for (const answer of answers) doors.census.appended(answer)
    return answers
  } catch (error) {
    throw create ? error : unmade(doors, error)
  }
}

/** Whether an append makes its channel now. */
export const mayMake = ({ settings, census }: Doors): boolean => settings.createChannels && census.mayMake

/** Why there is no channel, for an append that was not to make one. */
export const unmade = ({ settings, census }: Doors, error: unknown): unknown =>
  settings.createChannels && hasCode(error, 'no-channel') ? census.noChannel() : error

/** Before the body of an append is read: what waits for the disk is bounded, and what one caller sends. @throws too-many */
export function checkRoom({ log, guard }: Doors, who: Principal): void {
  if (log.health().pendingBytes >= PENDING_BYTES_MAX)
    throw new TidemarkError('too-many', 'Too many appends wait to be written', { retryAfter: 1_000 })
  guard.append(who)
}

/** A random hint in 0 … retryWindow: when a client that is sent away should come back, ms. */
export function retryAfter(doors: Doors): number {
  return Math.floor(Math.random() * doors.settings.retryWindow)
}
