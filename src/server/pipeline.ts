/**
 * Requests that came before the answer to an earlier one of their connection was taken. Node takes up all of them at
 * once; answers that nobody reads would then be made, and held, by the dozen. So each waits until what is before it
 * has left, and nothing more is read from its connection meanwhile. Appends do not wait: their answers are small, and
 * those that come together share a write.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'

/**
 * Whoever asks for more without having read what is made already waits so long for each byte of it, ms: 200 ms a MiB.
 * The kernel takes some MiB for a caller that reads nothing.
 */
const MS_PER_BYTE = 200 / 2 ** 20
const APPEND = /^[^?]*\/events(?:\?|$)/

/** A connection with requests that wait. */
interface Held {
  waiting: number
  /** What of it was written when the one that is answered now began, bytes. */
  written: number
}

export class Pipeline {
  readonly #held = new WeakMap<Socket, Held>()

  /** @param before the answer before it on its connection @param begin is called at once, later, or, when the connection is gone, never */
  take(req: IncomingMessage, before: ServerResponse | undefined, begin: () => void): void {
    const { socket } = req
    if (isAppend(req)) begin()
    else if (before === undefined || before.writableFinished || before.destroyed) begin()
    else this.#hold(socket, before, () => !socket.destroyed && begin())
  }

  #hold(socket: Socket, before: ServerResponse, begin: () => void): void {
    const held = this.#held.get(socket) ?? { waiting: 0, written: socket.bytesWritten }
    this.#held.set(socket, held)
    if (held.waiting++ === 0) socket.pause()
    const next = (): void => {
      if (--held.waiting === 0) {
        this.#held.delete(socket)
        socket.resume()
      }
      begin()
    }
    before.once('close', () => {
      const wait = (socket.bytesWritten - held.written) * MS_PER_BYTE
      held.written = socket.bytesWritten
      if (wait < 1) next()
      else setTimeout(next, wait)
    })
  }
}

const isAppend = ({ method, url }: IncomingMessage): boolean => method === 'POST' && APPEND.test(url!)
