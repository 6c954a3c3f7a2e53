/** Failures of NATS, told apart by what they mean to a write or a read. The library's classes are not loaded for it. */
import { TidemarkError } from '../../errors.ts'

/** When to come back, told to a caller who is refused, ms. */
const RETRY_AFTER_MS = 1_000

/** The message before is another one than the writer believed. */
const WRONG_LAST = 10071
/** In a cluster: a message of this subject is on its way to the replicas; nobody says whose. */
const ONE_IS_ON_ITS_WAY = 10164
/** A message of the same id is on its way: soon it is stored, or not. */
const SAME_ON_ITS_WAY = new Set([10158])
/** Of a batch not all came to one leader: nothing of it is stored. */
const HALF_A_BATCH = new Set([10176])
/** Within a batch: another append came first. */
const SAME_IN_BATCH = new Set([10201])
/** Limits of the account, the server or the stream: bytes, memory, messages. */
const NO_ROOM = new Set([10002, 10023, 10028, 10047, 10077])

interface NatsFailure extends Error {
  /** The API's own code, 10xxx, or an HTTP-like one of a status. */
  readonly code?: number | string
  /** HTTP-like. */
  readonly status?: number
}

const codeOf = (error: unknown): number => Number((error as NatsFailure).code)

export const isOneOnItsWay = (error: unknown): boolean => codeOf(error) === ONE_IS_ON_ITS_WAY
export const isConflict = (error: unknown): boolean => codeOf(error) === WRONG_LAST || isOneOnItsWay(error)
export const isSameOnItsWay = (error: unknown): boolean => SAME_ON_ITS_WAY.has(codeOf(error))
export const isSameInBatch = (error: unknown): boolean => SAME_IN_BATCH.has(codeOf(error))
export const isNoRoom = (error: unknown): boolean => NO_ROOM.has(codeOf(error))

/** Nobody was there to take it: it can not have been stored. */
export const isUnsent = (error: unknown): boolean =>
  ['JetStreamNotEnabled', 'NoRespondersError'].includes((error as Error).name) ||
  isUnavailableStatus(error) ||
  HALF_A_BATCH.has(codeOf(error)) ||
  isUnsentRequest(error)

const isUnsentRequest = (error: unknown): boolean =>
  (error as { isNoResponders?: () => boolean }).isNoResponders?.() === true

const isUnavailableStatus = (error: unknown): boolean => {
  const { status, code } = error as NatsFailure
  return (status === 503 || code === 503 || code === 408) && !isNoRoom(error)
}

const UNREACHABLE = new Set([
  'TimeoutError',
  'RequestError',
  'ClosedConnectionError',
  'ConnectionError',
  'DrainingConnectionError',
])

/** NATS did not answer, or said that it can not now: what failed may be tried again. */
export const isUnreachable = (error: unknown): boolean =>
  isUnsent(error) || isSameOnItsWay(error) || UNREACHABLE.has((error as Error).name)

/** Who answered may lead no more. */
export class Unled extends Error {
  override readonly name = 'ConnectionError'
  override readonly message = 'The server that leads the stream is cut off from its replicas'
}

/** Who answered does not lead the stream, and knows of nobody who does. */
export class Leaderless extends Error {
  override readonly name = 'ConnectionError'
  override readonly message = 'The server that answered knows of none that leads the stream'
}

export const closing = (): TidemarkError =>
  new TidemarkError('unavailable', 'The log is closing', { retryAfter: RETRY_AFTER_MS })

/** @param doubtful what was sent may be stored all the same */
export const unavailable = (cause: unknown, doubtful = false): TidemarkError =>
  new TidemarkError(
    'unavailable',
    doubtful ? 'NATS did not answer: whether this was done is not known' : 'NATS does not answer now',
    { retryAfter: RETRY_AFTER_MS, ...(doubtful && { outcome: 'unknown' }) },
    { cause },
  )

/** What a caller is told: our own errors as they are, others by what they mean. */
export function told(error: unknown): unknown {
  if (error instanceof TidemarkError) return error
  if (isUnreachable(error)) return unavailable(error)
  if (isNoRoom(error))
    return new TidemarkError(
      'storage-full',
      'NATS has no room for more',
      { retryAfter: RETRY_AFTER_MS },
      { cause: error },
    )
  return error
}
