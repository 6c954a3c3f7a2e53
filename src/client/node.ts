/** The client for Node, with the `ws` package as its WebSocket (Node before 22 has none of its own). */
import { type ClientOptions, WebSocket } from 'ws'
import { Tidemark, type TidemarkOptions } from './client.ts'
import type { Socket } from './socket.ts'

/** Largest frame that is taken from a server, bytes. */
const FRAME_BYTES_MAX = 16 * 1024 * 1024
/** A server that does not say goodbye within this is cut, ms; nobody who leaves waits for a server that hangs. */
const CLOSE_MS = 2_000

/** `closeTimeout` is documented by `ws`, and missing in its types. */
const OPTIONS: ClientOptions & { closeTimeout: number } = {
  perMessageDeflate: false,
  maxPayload: FRAME_BYTES_MAX,
  closeTimeout: CLOSE_MS,
}

/** A `ws` socket as the client uses it: nothing is compressed, and it can stop reading. */
export class NodeSocket extends WebSocket {
  constructor(url: string, protocols: string[]) {
    super(url, protocols, OPTIONS)
  }
}

/**
 * A client for Node.
 * @throws bad-request
 */
export function connect(url: string | URL, options: TidemarkOptions = {}): Tidemark {
  return new Tidemark(url, {
    WebSocket: NodeSocket as unknown as new (url: string, protocols: string[]) => Socket,
    ...options,
  })
}
