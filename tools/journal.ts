/**
 * Where the server's own log lines go: stdout, without ever waiting for it. A disk that is full or a reader that has
 * stopped reading costs lines, never the serving.
 */
import { writeSync } from 'node:fs'

const STDOUT = 1
/** Lines that a slow reader has not taken, bytes; beyond it new ones are dropped. */
const WAITING_BYTES_MAX = 1024 * 1024
/** Until a reader that took nothing is tried again, ms. */
const RETRY_MS = 100

/** A destination of pino's. */
export class Journal {
  /** Told of the first line that is dropped, and why. */
  readonly #onDropped: (why: string) => void
  #waiting: Buffer[] = []
  #bytes = 0
  #dropped = 0
  /** The last line was written in part, and the rest of it is gone. */
  #isCut = false
  #retry: NodeJS.Timeout | undefined

  constructor(onDropped: (why: string) => void) {
    this.#onDropped = onDropped
  }

  /** Lines that are nowhere. */
  get dropped(): number {
    return this.#dropped
  }

  write(line: string): void {
    const bytes = Buffer.from(this.#isCut && this.#waiting.length === 0 ? `\n${line}` : line)
    if (this.#bytes + bytes.length > WAITING_BYTES_MAX) {
      this.#drop(1, 'nobody reads it')
      return
    }
    this.#waiting.push(bytes)
    this.#bytes += bytes.length
    this.flushSync()
  }

  /** Writes what can be written now. */
  flushSync(): void {
    clearTimeout(this.#retry)
    try {
      for (let bytes = this.#waiting[0]; bytes !== undefined; bytes = this.#waiting[0]) {
        const written = writeSync(STDOUT, bytes)
        this.#bytes -= written
        this.#isCut = written < bytes.length
        if (this.#isCut) this.#waiting[0] = bytes.subarray(written)
        else this.#waiting.shift()
      }
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code === 'EAGAIN') this.#retry = setTimeout(() => this.flushSync(), RETRY_MS).unref()
      else this.#drop(this.#waiting.splice(0).length, String(code))
    }
  }

  #drop(lines: number, why: string): void {
    if (this.#waiting.length === 0) this.#bytes = 0
    if (this.#dropped === 0) this.#onDropped(why)
    this.#dropped += lines
  }
}
