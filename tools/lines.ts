/** Events from a stream of lines: cut, numbered, and sent on in batches as they come. */
import { isUtf8 } from 'node:buffer'
import { TidemarkError } from '../src/errors.ts'
import { APPEND_EVENTS_MAX } from '../src/event.ts'

/** Longest line, bytes; an event of the largest block in base64 fits. */
export const LINE_BYTES_MAX = 2 * 1024 * 1024
/** A batch is closed at this size, characters; a longer line is a batch by itself. */
const BATCH_CHARS = 256 * 1024

/**
 * The lines that each piece of the input completes; the last one needs no line break. A byte order mark at the
 * beginning is none of the first line.
 * @throws bad-request, too-large { line }, when every line before it was given out
 */
export async function* linesOf(input: AsyncIterable<Uint8Array>): AsyncGenerator<string[], void> {
  let parts: Uint8Array[] = []
  let size = 0
  /** Number of the first line that was not given out yet. */
  let number = 1
  const taken = (): { lines: string[]; wrong: TidemarkError | undefined } => {
    const bytes = Buffer.concat(parts, size)
    parts = []
    size = 0
    const found = decode(bytes, number)
    if (number === 1 && found.lines.length > 0) found.lines[0] = found.lines[0]!.replace(BYTE_ORDER_MARK, '')
    number += found.lines.length
    return found
  }
  for await (const piece of input) {
    const end = piece.lastIndexOf(0x0a)
    const head = piece.subarray(0, end)
    if (size + (end < 0 ? piece.length : piece.indexOf(0x0a)) > LINE_BYTES_MAX)
      throw new TidemarkError('too-large', `Line ${number}: a line holds at most ${LINE_BYTES_MAX} bytes`, {
        ...{ limit: LINE_BYTES_MAX, line: number },
      })
    if (end >= 0) {
      parts.push(head)
      size += head.length
      const { lines, wrong } = taken()
      yield lines
      if (wrong) throw wrong
    }
    if (end + 1 < piece.length) {
      parts.push(piece.subarray(end + 1))
      size += piece.length - end - 1
    }
  }
  if (size === 0) return
  const { lines, wrong } = taken()
  yield lines
  if (wrong) throw wrong
}

const BYTE_ORDER_MARK = /^\ufeff/

/** Whole lines up to the first one that is not UTF-8. @param number of the first one */
function decode(bytes: Buffer, number: number): { lines: string[]; wrong: TidemarkError | undefined } {
  if (isUtf8(bytes)) return { lines: bytes.toString('utf8').split('\n'), wrong: undefined }
  const lines: string[] = []
  for (let start = 0; ; ) {
    const end = bytes.indexOf(0x0a, start)
    const line = bytes.subarray(start, end < 0 ? undefined : end)
    if (!isUtf8(line)) {
      const at = number + lines.length
      return { lines, wrong: new TidemarkError('bad-request', `Line ${at} is not UTF-8`, { line: at }) }
    }
    lines.push(line.toString('utf8'))
    start = end + 1
  }
}

/** Lines of an input, with the number of the first one. */
export interface Batch {
  readonly lines: readonly string[]
  readonly number: number
}

/**
 * Sends what has come while more is coming: one batch is on its way at a time, so that order holds, and the reader
 * waits while a whole batch is waiting. An idle input is never kept back.
 */
export class Outbox {
  readonly #send: (batch: Batch) => Promise<void>
  #lines: string[] = []
  #chars = 0
  /** Number of the first line in `#lines`. */
  #number = 1
  #sending: Promise<void> | undefined
  #underWay: readonly [number, number] | undefined
  #failed: { readonly error: unknown } | undefined

  constructor(send: (batch: Batch) => Promise<void>) {
    this.#send = send
  }

  get #isFull(): boolean {
    return this.#lines.length >= APPEND_EVENTS_MAX || this.#chars >= BATCH_CHARS
  }

  /** A long line joins no batch that waits: together they could be more than one append holds. */
  #takes(line: string): boolean {
    return this.#lines.length === 0 || (!this.#isFull && this.#chars + line.length <= BATCH_CHARS)
  }

  /** Number of the first line and of the last one that wait for an answer. */
  get unanswered(): readonly [number, number] | undefined {
    return this.#underWay
  }

  /** Takes one line; an empty one counts as a line and is no event. @throws what an earlier batch failed with */
  async add(line: string): Promise<void> {
    while (!this.#takes(line) && this.#failed === undefined) {
      this.flush()
      await this.#sending
    }
    if (this.#failed) throw this.#failed.error
    this.#lines.push(line)
    this.#chars += line.length
    if (this.#isFull) this.flush()
  }

  /** Sends what is there as soon as nothing else is on its way. */
  flush(): void {
    if (this.#sending !== undefined || this.#lines.length === 0 || this.#failed !== undefined) return
    const batch = { lines: this.#lines, number: this.#number }
    this.#underWay = [batch.number, batch.number + batch.lines.length - 1]
    this.#number += batch.lines.length
    this.#lines = []
    this.#chars = 0
    this.#sending = this.#send(batch).then(
      () => this.#sent(),
      (error: unknown) => {
        this.#failed = { error }
        this.#sent()
      },
    )
  }

  #sent(): void {
    this.#sending = undefined
    this.#underWay = undefined
    this.flush()
  }

  /** Resolves when everything is answered. @throws what a batch failed with */
  async end(): Promise<void> {
    this.flush()
    while (this.#sending !== undefined) await this.#sending
    if (this.#failed) throw this.#failed.error
  }
}
