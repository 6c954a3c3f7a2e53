/**
 * Requests that came before the answer to an earlier one of their connection was taken. Node takes up all of them at
 * once; answers that nobody reads would then be made, and held, by the dozen. So each waits until what is before it
 * has left, and nothing more is read from its connection meanwhile. Appends do not wait: their answers are small, and
 * those that come together share a write.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { inTurn } from './pace.ts'

const APPEND = /^[^?]*\/events(?:\?|$)/

export class Pipeline {
  /** Requests that wait, by their connection. */
  readonly #waiting = new WeakMap<Socket, number>()

  /** @param before the answer before it on its connection @param begin is called at once, later, or, when the connection is gone, never */
  take(req: IncomingMessage, before: ServerResponse | undefined, begin: () => void): void {
    if (isAppend(req)) {
      begin()
      return
    }
    if (before === undefined || before.writableFinished || before.destroyed) {
      inTurn(begin)
      return
    }
    const { socket } = req
    this.#hold(socket, 1)
    before.once('close', () => {
      this.#hold(socket, -1)
      inTurn(() => {
        if (!socket.destroyed) begin()
      })
    })
  }

  #hold(socket: Socket, more: 1 | -1): void {
    const waiting = (this.#waiting.get(socket) ?? 0) + more
    this.#waiting.set(socket, waiting)
    // Node reads on when an answer has left.
    if (waiting > 0) socket.pause()
    else socket.resume()
  }
}

const isAppend = ({ method, url }: IncomingMessage): boolean => method === 'POST' && APPEND.test(url!)
