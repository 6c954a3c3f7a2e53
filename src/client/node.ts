/** The client for Node, with the `ws` package as its WebSocket (Node before 22 has none of its own). */
import { type ClientOptions, WebSocket } from 'ws'
import { Tidemark, type TidemarkOptions } from './client.ts'
import { GIVEN_UP, type SocketClass } from './stream.ts'

/** Largest frame that is taken from a server, bytes. */
const FRAME_BYTES_MAX = 16 * 1024 * 1024
/** A server that does not say goodbye within this is cut, ms; nobody who leaves waits for a server that hangs. */
const CLOSE_MS = 2_000
/** An app that holds full pages makes us stop reading so long, ms; one that needs longer leaves its channel for a while. */
const PAUSE_MS = 250

/** `closeTimeout` is documented by `ws`, and missing in its types. */
const OPTIONS: ClientOptions & { closeTimeout: number } = {
  perMessageDeflate: false,
  maxPayload: FRAME_BYTES_MAX,
  closeTimeout: CLOSE_MS,
}

/** A `ws` socket as the client uses it: nothing is compressed, and it can stop reading. */
export class NodeSocket extends WebSocket {
  /** Set while it is not read. */
  #held: ReturnType<typeof setTimeout> | undefined

  constructor(url: string, protocols: string[]) {
    super(url, protocols, OPTIONS)
    // Every error is followed by a close, which says all that a client may know.
    this.on('error', () => {})
  }

  hold(isLong: () => void): void {
    if (this.#held) return
    this.pause()
    // Not for longer: other channels, answers and heartbeats wait behind what is not read.
    this.#held = setTimeout(() => {
      isLong()
      this.release()
    }, PAUSE_MS)
  }

  release(): void {
    if (!this.#held) return
    clearTimeout(this.#held)
    this.#held = undefined
    this.resume()
  }

  /** Says goodbye and waits for the other side, unless there is nobody to wait for. */
  override close(code?: number): void {
    this.release()
    if (code === GIVEN_UP) this.terminate()
    else super.close(code)
  }
}

/**
 * A client for Node.
 * @throws bad-request
 */
export function connect(url: string | URL, options: TidemarkOptions = {}): Tidemark {
  return new Tidemark(url, { WebSocket: NodeSocket as unknown as SocketClass, ...options })
}
