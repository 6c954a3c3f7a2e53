/**
 * The directory of an embedded log, and the LevelDB in it: opening with every guard, and one way to write.
 *
 *   DIR/            0700
 *     store/        LevelDB
 *     high-water    how far commits have come (mark.ts)
 *     holder.json   who holds the lock (lock.ts)
 */
import { randomBytes } from 'node:crypto'
import { existsSync, readdirSync, rmSync } from 'node:fs'
import { resolve } from 'node:path'
import { TidemarkError } from '../../errors.ts'
import type { LogOptions } from '../open.ts'
import { systemError } from './cause.ts'
import { type Batch, type Db, openDb } from './db.ts'
import { faultsBeforeOpen } from './files.ts'
import {
  COMMIT_KEY,
  decodeCommit,
  decodeStore,
  encodeCommit,
  encodeStore,
  type Range,
  STORE_FORMAT,
  STORE_KEY,
} from './keys.ts'
import { type Lock, takeLock } from './lock.ts'
import { Mark } from './mark.ts'
import { makeDir, markPath, newestLog, storeDir, syncDir, syncTree } from './places.ts'
import { hasRoomToOpen } from './room.ts'

export type Notice = NonNullable<LogOptions['onNotice']>

/** LevelDB goes on to another log file when this much was written, unless `writeBufferBytes` says otherwise. */
const WRITE_BUFFER_BYTES = 16 * 1024 * 1024
/** Free space that LevelDB needs to open again and to compact; below it appends are refused (room.ts). */
export const RESERVE_BYTES = 64 * 1024 * 1024 + 4 * WRITE_BUFFER_BYTES
/** A clock that is so far behind the last write is worth a word, ms. */
const CLOCK_BEHIND_MS = 60_000
/** What an operation takes in LevelDB's memory beyond its bytes, at least; a guess that only must not be too low. */
const OPERATION_BYTES = 64

export class Store {
  readonly dir: string
  readonly #lock: Lock
  readonly #notice: Notice
  readonly #writeBufferBytes: number
  #db: Db
  #mark: Mark
  /** Until then the mark may say on disk that nothing was acknowledged. */
  #isMarkSynced = false
  /** The store's own part of every epoch. */
  life: string
  /** That, and those that it had before. */
  readonly lives: Set<string>
  #commit: number
  #time: number
  #newestLog: number
  #bytesSinceLog = 0
  /** Of LevelDB, that are under way or did not end well: each makes it go on to another log file, however little was written. */
  #compactions = 0

  constructor(dir: string, lock: Lock, options: LogOptions, db: Db, mark: Mark, rows: StoreRows) {
    this.dir = dir
    this.#lock = lock
    this.#notice = noticeOf(options)
    this.#writeBufferBytes = writeBufferOf(options)
    this.#db = db
    this.#mark = mark
    this.life = rows.life
    this.lives = new Set([...(rows.before ?? []), rows.life])
    this.#commit = rows.commit
    this.#time = rows.time
    this.#newestLog = newestLog(dir)
  }

  /** @throws in-use, data-loss, wrong-config (a copy, a foreign directory, a newer format), cannot-create, storage-full, io-error */
  static async open(options: LogOptions): Promise<Store> {
    const dir = resolve(options.dir)
    // Events may be private: nothing in the directory is readable by others.
    process.umask(0o077)
    if (options.create === false && !existsSync(dir)) throw expected(dir)
    try {
      makeDir(dir)
    } catch (cause) {
      throw new TidemarkError('cannot-create', `${dir} can not be made: ${(cause as Error).message}`, {}, { cause })
    }
    const lock = await takeLock(dir)
    try {
      return await openLocked(dir, lock, options)
    } catch (error) {
      await lock.release()
      throw systemError(`The log in ${dir} does not open`, error)
    }
  }

  get db(): Db {
    return this.#db
  }

  /** False between two lives of LevelDB, and when it did not open again. */
  get isOpen(): boolean {
    return this.#db.status === 'open'
  }

  /** The clock that receipts are filed by: it never goes back, not even over restarts; ms. */
  now(): number {
    this.#time = Math.max(this.#time, Date.now())
    return this.#time
  }

  /**
   * One atomic write, on disk when it resolves: LevelDB's log is synced, its directory too where the log file is new,
   * and the high-water mark has moved.
   *
   * The caller adds operations to a chained batch: `db.batch(operations, options)` clones every one of them and is
   * several times slower. After a rejection nothing may be acknowledged until `reopen`.
   */
  async write(batch: Batch, bytes: number): Promise<void> {
    const commit = this.#commit + 1
    batch.put(COMMIT_KEY, encodeCommit({ commit, time: this.now() }))
    this.#bytesSinceLog += bytes + batch.length * OPERATION_BYTES
    await batch.write({ sync: true })
    // A log file is new only after the one before was filled. LevelDB syncs the file, never its directory entry.
    if (this.#compactions > 0 || this.#bytesSinceLog > this.#writeBufferBytes / 2) this.syncNewLog()
    this.#commit = commit
    try {
      this.#mark.write(this.life, commit)
      // From here on a missing store is a loss, not an interrupted creation.
      if (!this.#isMarkSynced) this.#mark.sync()
      this.#isMarkSynced = true
    } catch (error) {
      if (!this.#isMarkSynced) throw error
      // The commit itself is on disk; a mark that lags only sees less.
      this.#notice('error', 'The high-water mark can not be written', { error: String(error) })
    }
  }

  /** Gives the space of removed rows back, one range at a time. */
  async compact({ gte, lte }: Range): Promise<void> {
    this.#compactions++
    await this.#db.compactRange(gte, lte)
    this.syncNewLog()
    this.#compactions--
  }

  /** Starts a life: the store row and the mark say so, at this commit. */
  async begin(life: string, commit: number): Promise<void> {
    const batch = this.#db.batch()
    const before = [...this.lives].filter((other) => other !== life)
    const row = { format: STORE_FORMAT, life, ...(before.length > 0 && { before }) }
    batch.put(STORE_KEY, encodeStore(STORE_KEY, row))
    batch.put(COMMIT_KEY, encodeCommit({ commit, time: this.now() }))
    await batch.write({ sync: true })
    this.life = life
    this.lives.add(life)
    this.#commit = commit
    this.#mark.write(life, commit)
    this.#mark.sync()
  }

  /** Syncs the directory when LevelDB has gone on to another log file. */
  syncNewLog(): void {
    const newest = newestLog(this.dir)
    if (newest === this.#newestLog) return
    syncDir(storeDir(this.dir))
    this.#newestLog = newest
    this.#bytesSinceLog = 0
  }

  /** True when there is room to open again after the disk was full. */
  hasRoom(): boolean {
    return hasRoomToOpen(storeDir(this.dir), RESERVE_BYTES)
  }

  /**
   * Closes LevelDB and opens it again, after a failed write: what is on disk then is the truth.
   * @throws data-loss when acknowledged commits are gone; whatever LevelDB throws.
   */
  async reopen(): Promise<void> {
    await this.#db.close()
    // Kept at once: if a row can't be read now, the next try must close what this one opened.
    this.#db = await openDb(this.dir, false, this.#writeBufferBytes)
    const rows = readRows(this.#db)
    if (!rows || rows.life !== this.life || rows.commit < this.#commit)
      throw new TidemarkError('data-loss', 'Acknowledged events are missing after the log was opened again')
    this.#commit = rows.commit
    syncDir(storeDir(this.dir))
    this.#newestLog = newestLog(this.dir)
    this.#bytesSinceLog = 0
  }

  async close(): Promise<void> {
    try {
      await this.#db.close()
      this.#mark.close()
      this.#lock.sayEnded()
    } catch (error) {
      throw systemError(`The log in ${this.dir} does not close`, error)
    } finally {
      await this.#lock.release()
    }
  }
}

interface StoreRows {
  readonly life: string
  readonly before?: readonly string[] | undefined
  readonly commit: number
  readonly time: number
}

const noticeOf = (options: LogOptions): Notice => options.onNotice ?? (() => {})
const writeBufferOf = (options: LogOptions): number => options.writeBufferBytes ?? WRITE_BUFFER_BYTES

/** Exactly as long as a mark's slot holds. */
export const newLife = (): string => randomBytes(5).toString('hex')

async function openLocked(dir: string, lock: Lock, options: LogOptions): Promise<Store> {
  const notice = noticeOf(options)
  const onMarkError = (error: Error): void =>
    notice('error', 'The high-water mark can not be synced', { error: error.message })
  const marked = existsSync(markPath(dir))
  const stored = existsSync(storeDir(dir)) && readdirSync(storeDir(dir)).length > 0
  if (!marked && !stored) {
    if (options.create === false) {
      lock.sayEnded()
      throw expected(dir)
    }
    return create(dir, lock, options, onMarkError)
  }

  const mark = marked ? Mark.open(markPath(dir), onMarkError) : undefined
  let db: Db | undefined
  try {
    const state = mark?.read()
    // Nothing was ever acknowledged here: a creation that was interrupted may go on.
    const unborn = state?.commit === 0 || (!state && !stored && mark?.isFirstSlot === true)
    if (!stored && !unborn && options.acceptDataLoss !== true)
      throw lost(dir, 'the store is gone, only its high-water mark is left', { marked: state?.commit ?? 'unreadable' })
    const damage = stored && !unborn ? damageIn(dir, notice, lock.badEnds) : undefined
    if (damage && options.acceptDataLoss !== true) throw damage
    db = unborn ? await openUnborn(dir, options) : await openDb(dir, !stored, writeBufferOf(options))
    const found = readRows(db)
    if (!found && stored && !unborn && options.acceptDataLoss !== true)
      throw lost(dir, 'the store holds no store row', {})
    const rows = found ?? { life: newLife(), commit: 0, time: Date.now() }
    if (rows.time - Date.now() > CLOCK_BEHIND_MS)
      notice('warn', 'The clock is behind the last write: idempotency keys are remembered for longer', {
        lastWrite: new Date(rows.time).toISOString(),
      })
    const complaint = unborn && !found ? undefined : (judge(dir, rows, state) ?? damage)
    if (complaint && !accepts(complaint, options)) throw complaint
    const store = new Store(dir, lock, options, db, mark ?? Mark.create(markPath(dir), onMarkError), rows)
    if (complaint) {
      if (state) store.lives.add(state.life)
      // The commit number goes on past both, whatever was accepted.
      await store.begin(newLife(), Math.max(rows.commit, state?.commit ?? 0) + 1)
      notice('warn', 'Opened all the same; every channel has a new epoch', { why: complaint.message })
    } else if (!found) await store.begin(rows.life, 0)
    else if (options.acceptDataLoss || options.acceptCopy) notice('info', 'Nothing to accept: the log is whole', {})
    syncTree(dir)
    return store
  } catch (error) {
    await db?.close()
    mark?.close()
    throw error
  }
}

const expected = (dir: string): TidemarkError =>
  new TidemarkError('data-loss', `There is no log in ${dir}, and --no-create says that there is one. Is it mounted?`)

/** What may be there before a log is: keys are made before the first start. */
const AT_HOME: ReadonlySet<string> = new Set(['holder.json', 'store', 'keys.json'])

/** A directory that is truly new. The mark comes first, so that an interrupted creation is told from a loss. */
async function create(
  dir: string,
  lock: Lock,
  options: LogOptions,
  onMarkError: (error: Error) => void,
): Promise<Store> {
  const strangers = readdirSync(dir).filter((name) => !AT_HOME.has(name))
  if (strangers.length > 0) {
    // Nothing of ours stays where others are at home.
    lock.sayEnded()
    const some = strangers.slice(0, 3).join(', ')
    throw new TidemarkError('wrong-config', `${dir} is not empty and not a log: it holds ${some}`)
  }
  let mark: Mark | undefined
  let db: Db | undefined
  try {
    const life = newLife()
    mark = Mark.create(markPath(dir), onMarkError)
    mark.write(life, 0)
    mark.sync()
    syncDir(dir)
    db = await openDb(dir, true, writeBufferOf(options))
    const store = new Store(dir, lock, options, db, mark, { life, commit: 0, time: Date.now() })
    await store.begin(life, 0)
    syncTree(dir)
    return store
  } catch (error) {
    await db?.close()
    mark?.close()
    if (error instanceof TidemarkError) throw error
    throw new TidemarkError(
      'cannot-create',
      `No log can be made in ${dir}: ${(error as Error).message}`,
      {},
      { cause: error },
    )
  }
}

/** What is wrong with a store beside its mark; undefined when nothing is. */
function judge(dir: string, rows: StoreRows, mark: ReturnType<Mark['read']>): TidemarkError | undefined {
  if (!mark) return lost(dir, 'the high-water mark is missing or unreadable', { commit: rows.commit })
  if (mark.commit === 0 && rows.commit === 0) return undefined
  if (!mark.original)
    return new TidemarkError(
      'wrong-config',
      `${dir} is a copy of another log. --accept-copy opens it as a log of its own, with new epochs`,
      { copy: true },
    )
  if (mark.life !== rows.life) return lost(dir, 'the store is of another life than its high-water mark', {})
  if (rows.commit < mark.commit)
    return lost(dir, `commits ${rows.commit + 1}–${mark.commit} are gone`, { commit: rows.commit, marked: mark.commit })
  return undefined
}

/** What is wrong with LevelDB's own files, which it would hide (files.ts). */
function damageIn(dir: string, notice: Notice, badEnds: number): TidemarkError | undefined {
  const onTorn = (file: string, offset: number): void =>
    notice('info', 'The last write before the end was not finished; it was never acknowledged', { file, offset })
  const [fault, ...more] = faultsBeforeOpen(storeDir(dir), onTorn, badEnds)
  if (!fault) return undefined
  const { file, offset, what } = fault
  const where = offset === undefined ? file : `${file} at ${offset}`
  return new TidemarkError(
    'data-loss',
    `The store in ${dir} is damaged: ${where}: ${what}. tidemark salvage saves what is whole; --accept-data-loss opens what LevelDB still finds, with new epochs`,
    { file, ...(offset !== undefined && { offset }), faults: 1 + more.length },
  )
}

/** A copy is accepted as a copy; a loss only as a loss. */
const accepts = (complaint: TidemarkError, options: LogOptions): boolean =>
  complaint.code === 'wrong-config' ? options.acceptCopy === true : options.acceptDataLoss === true

const lost = (dir: string, what: string, facts: Record<string, unknown>): TidemarkError =>
  new TidemarkError(
    'data-loss',
    `Acknowledged events of ${dir} may be lost: ${what}. --accept-data-loss opens what is left, with new epochs`,
    facts,
  )

/** A store in which nothing was acknowledged yet: one that a power cut left half made is made anew. */
async function openUnborn(dir: string, options: LogOptions): Promise<Db> {
  try {
    return await openDb(dir, true, writeBufferOf(options))
  } catch (error) {
    // LevelDB never syncs its first MANIFEST, so CURRENT may name an empty one.
    const hasTables = existsSync(storeDir(dir)) && readdirSync(storeDir(dir)).some((name) => name.endsWith('.ldb'))
    if (hasTables || !(error instanceof TidemarkError && error.code === 'data-loss')) throw error
    rmSync(storeDir(dir), { recursive: true })
    return openDb(dir, true, writeBufferOf(options))
  }
}

/** Undefined when there is no store row yet. */
function readRows(db: Db): StoreRows | undefined {
  const row = db.getSync(STORE_KEY)
  const commit = db.getSync(COMMIT_KEY)
  if (row === undefined || commit === undefined) return undefined
  const { format, life, before } = decodeStore(STORE_KEY, row)
  if (format > STORE_FORMAT)
    throw new TidemarkError('wrong-config', `The log has format ${format}; this version reads up to ${STORE_FORMAT}`)
  return { life, before, ...decodeCommit(commit) }
}
