/** Why a write or an open failed. LevelDB's errors carry the system's words, not its numbers. */
import { TidemarkError } from '../../errors.ts'

export function reasonOf(error: unknown): string {
  const { message, cause } = error as { message?: string; cause?: { message?: string } }
  return [message, cause?.message].filter(Boolean).join(': ') || String(error)
}

export const isDiskFull = (error: unknown): boolean => /No space left|Disk quota|ENOSPC|EDQUOT/.test(reasonOf(error))

export const isCorruption = (error: unknown): boolean =>
  (error as { code?: string }).code === 'LEVEL_CORRUPTION' || /Corruption/.test(reasonOf(error))

/** True for what LevelDB throws. What a read at once (`getSync`) met on the disk comes without a code, in LevelDB's words. */
export const isOfStore = (error: unknown): boolean =>
  `${(error as { code?: unknown } | null)?.code}`.startsWith('LEVEL_') ||
  `${(error as { message?: unknown } | null)?.message}`.startsWith('IO error: ')

/** What is told of a log that was closed under some work: it goes on after it was opened again. */
export const unavailable = (cause: unknown): TidemarkError =>
  new TidemarkError('unavailable', 'The log is not available now', { retryAfter: 1_000 }, { cause })

/** Ours stay as they are. */
export function orUnavailable(error: unknown): never {
  throw error instanceof TidemarkError ? error : unavailable(error)
}

/** What the system refused, as one of our errors; ours stay as they are. */
export function systemError(what: string, error: unknown): TidemarkError {
  if (error instanceof TidemarkError) return error
  const code = isDiskFull(error) ? 'storage-full' : 'io-error'
  return new TidemarkError(code, `${what}: ${reasonOf(error)}`, {}, { cause: error })
}
