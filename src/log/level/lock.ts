/**
 * The second lock on a log's directory, beside LevelDB's own LOCK file. LevelDB's is a POSIX lock: opening and closing
 * the file anywhere in this process drops it. This one is a listening socket named after the directory's device and
 * inode; the kernel frees it with the process, however that ends, and whoever finds it taken asks it who holds it.
 */
import { readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { connect, createServer, type Server } from 'node:net'
import { join } from 'node:path'
import { TidemarkError } from '../../errors.ts'
import { systemError } from './cause.ts'

const HOLDER_FILE = 'holder.json'
const ASK_MS = 1_000
/** An answer is shorter than this. */
const ANSWER_MAX = 1_024

interface Holder {
  readonly pid: number
  readonly since: string
  /** How many before it, in a row, left without saying so: killed, ended over damage, or with the machine. */
  readonly badEnds: number
}

export interface Lock {
  /** How many holders before, in a row, left without saying so. */
  readonly badEnds: number
  /** Takes the holder's name away: what it held is closed. */
  sayEnded(): void
  release(): Promise<void>
}

/**
 * @param leavesTrace false for who only reads: nothing in the directory changes.
 * @throws in-use { pid }, storage-full, io-error
 */
export async function takeLock(dir: string, leavesTrace = true): Promise<Lock> {
  const left = readHolder(dir)
  const badEnds = left === undefined ? 0 : left.badEnds + 1
  const holder: Holder = { pid: process.pid, since: new Date().toISOString(), badEnds }
  const server = process.platform === 'linux' ? await listen(dir, socketName(dir), holder) : undefined
  const release = (): Promise<void> =>
    new Promise((resolve) => {
      if (server) server.close(() => resolve())
      else resolve()
    })
  try {
    if (leavesTrace) writeFileSync(join(dir, HOLDER_FILE), `${JSON.stringify(holder)}\n`)
  } catch (error) {
    await release()
    throw systemError(`${HOLDER_FILE} can not be written`, error)
  }
  return { release, badEnds, sayEnded: () => rmSync(join(dir, HOLDER_FILE), { force: true }) }
}

/** Takes a file for this process alone, as a log's directory is taken, until it is released. @throws in-use { pid } */
export async function takeFile(path: string): Promise<() => Promise<void>> {
  if (process.platform !== 'linux') return async () => {}
  const holder = { pid: process.pid, since: new Date().toISOString(), badEnds: 0 }
  const server = await listen(path, socketName(path), holder)
  return () => new Promise((resolve) => server.close(() => resolve()))
}

/** The refusal when a log, or a file, is in use, naming who said it holds it. */
export function inUse(path: string, holder: Holder | undefined = readHolder(path), cause?: unknown): TidemarkError {
  const who = holder ? `process ${holder.pid}, since ${holder.since}` : 'another process'
  return new TidemarkError('in-use', `${path} is in use by ${who}`, holder ? { pid: holder.pid } : {}, { cause })
}

/** An abstract socket: it lies in no directory and leaves nothing behind. One network namespace sees it; LevelDB's LOCK
 * keeps a writer of another one out, and nobody who only reads. */
function socketName(dir: string): string {
  const { dev, ino } = statSync(dir, { bigint: true })
  return `\0tidemark:${dev}:${ino}`
}

function listen(dir: string, name: string, holder: Holder): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => {
      socket.on('error', () => socket.destroy())
      // Whoever asks and does not hang up must not hold up the release.
      socket.end(JSON.stringify(holder), () => socket.destroy())
    })
    server.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EADDRINUSE') return reject(new TidemarkError('io-error', error.message, {}, { cause: error }))
      ask(name).then((other) => reject(inUse(dir, other)), reject)
    })
    // A log that nobody uses any more must not keep the process alive.
    server.listen(name, () => resolve(server.unref()))
  })
}

function ask(name: string): Promise<Holder | undefined> {
  return new Promise((resolve) => {
    let text = ''
    const done = (): void => {
      socket.destroy()
      resolve(parseHolder(text))
    }
    const socket = connect(name)
    socket.setTimeout(ASK_MS, done)
    socket.on('data', (chunk) => {
      text += chunk
      if (text.length > ANSWER_MAX) done()
    })
    // A holder that can't answer still holds the log: it goes unnamed.
    socket.on('error', done)
    socket.on('end', done)
  })
}

function readHolder(dir: string): Holder | undefined {
  try {
    return parseHolder(readFileSync(join(dir, HOLDER_FILE), 'utf8'))
  } catch (error) {
    // Beside a file there is none.
    if (['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) return undefined
    throw systemError(`${HOLDER_FILE} can not be read`, error)
  }
}

function parseHolder(text: string): Holder | undefined {
  const match = /^\{"pid":(\d+),"since":"([0-9TZ:.-]+)","badEnds":(\d+)\}\s*$/.exec(text)
  return match ? { pid: Number(match[1]), since: match[2]!, badEnds: Number(match[3]) } : undefined
}
