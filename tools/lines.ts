/** Events from a stream of lines: cut, numbered, and sent on in batches as they come. */
import { TidemarkError } from '../src/errors.ts'
import { APPEND_EVENTS_MAX } from '../src/event.ts'

/** Longest line, bytes; an event of the largest block in base64 fits. */
export const LINE_BYTES_MAX = 2 * 1024 * 1024
/** A batch is closed at this size, characters; a longer line is a batch by itself. */
const BATCH_CHARS = 256 * 1024

/** The lines that each piece of the input completes; the last one needs no line break. @throws bad-request, too-large */
export async function* linesOf(input: AsyncIterable<Uint8Array>): AsyncGenerator<string[], void> {
  const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
  let parts: Uint8Array[] = []
  let size = 0
  const text = (): string => {
    const bytes = Buffer.concat(parts, size)
    parts = []
    size = 0
    try {
      return utf8.decode(bytes)
    } catch (cause) {
      throw new TidemarkError('bad-request', 'The input is not UTF-8', {}, { cause })
    }
  }
  for await (const piece of input) {
    const end = piece.lastIndexOf(0x0a)
    const head = piece.subarray(0, end + 1)
    if (size + (end < 0 ? piece.length : piece.indexOf(0x0a)) > LINE_BYTES_MAX)
      throw new TidemarkError('too-large', `A line holds at most ${LINE_BYTES_MAX} bytes`, { limit: LINE_BYTES_MAX })
    if (end >= 0) {
      parts.push(head)
      size += head.length
      yield text().slice(0, -1).split('\n')
    }
    if (end + 1 < piece.length) {
      parts.push(piece.subarray(end + 1))
      size += piece.length - end - 1
    }
  }
  if (size > 0) yield [text()]
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
  #failed: { readonly error: unknown } | undefined

  constructor(send: (batch: Batch) => Promise<void>) {
    this.#send = send
  }

  get #isFull(): boolean {
    return this.#lines.length >= APPEND_EVENTS_MAX || this.#chars >= BATCH_CHARS
  }

  /** Takes one line; an empty one counts as a line and is no event. @throws what an earlier batch failed with */
  async add(line: string): Promise<void> {
    while (this.#isFull && this.#failed === undefined) await this.#sending
    if (this.#failed) throw this.#failed.error
    this.#lines.push(line)
    this.#chars += line.length
    if (this.#isFull) this.flush()
  }

  /** Sends what is there as soon as nothing else is on its way. */
  flush(): void {
    if (this.#sending !== undefined || this.#lines.length === 0 || this.#failed !== undefined) return
    const batch = { lines: this.#lines, number: this.#number }
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
    this.flush()
  }

  /** Resolves when everything is answered. @throws what a batch failed with */
  async end(): Promise<void> {
    this.flush()
    while (this.#sending !== undefined) await this.#sending
    if (this.#failed) throw this.#failed.error
  }
}
