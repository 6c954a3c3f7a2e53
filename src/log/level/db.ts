/** LevelDB as we use it: its types, its options, and what it says when it does not open. */
import { type ChainedBatch, Level } from 'level'
import { TidemarkError } from '../../errors.ts'
import { systemError } from './cause.ts'
import { inUse } from './lock.ts'
import { storeDir } from './places.ts'

/** In Node a Level is a ClassicLevel, which its own types do not say. */
export type Db = Level<Uint8Array, Uint8Array> & {
  /** About how many bytes of tables lie between two keys. */
  approximateSize(start: Uint8Array, end: Uint8Array): Promise<number>
  compactRange(start: Uint8Array, end: Uint8Array): Promise<void>
}
export type Batch = ChainedBatch<Db, Uint8Array, Uint8Array>

const LEVEL_OPTIONS = {
  keyEncoding: 'view',
  valueEncoding: 'view',
  // Uncompressed, a flipped bit stays in one value; snappy spreads it, or loses rows without a word.
  compression: false,
  blockSize: 16 * 1024,
  maxFileSize: 16 * 1024 * 1024,
  cacheSize: 32 * 1024 * 1024,
} as const

/** @throws in-use, data-loss, io-error, storage-full */
export async function openDb(dir: string, createIfMissing: boolean, writeBufferSize: number): Promise<Db> {
  const db = new Level(storeDir(dir), { ...LEVEL_OPTIONS, writeBufferSize, createIfMissing }) as Db
  try {
    await db.open()
    return db
  } catch (error) {
    throw openError(dir, error)
  }
}

function openError(dir: string, error: unknown): TidemarkError {
  const cause = (error as { cause?: { code?: string; message?: string } }).cause
  const message = cause?.message ?? String(error)
  if (cause?.code === 'LEVEL_LOCKED') return inUse(dir, undefined, error)
  // A file that can not be opened now is no damage: what is told as damage here, an operator may accept as a loss.
  if (cause?.code === 'LEVEL_CORRUPTION' || /does not exist|No such file/.test(message))
    return new TidemarkError('data-loss', `The store in ${dir} is damaged: ${message}`, {}, { cause: error })
  return systemError(`The store in ${dir} does not open`, error)
}
