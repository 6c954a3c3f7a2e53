/**
 * One WebSocket from opening to close: hello and welcome, frames in and out, and the watch over a line that has gone
 * silent. It never comes back by itself; connection.ts decides what follows.
 */
import { TidemarkError } from '../errors.ts'
import { CLOSE, type ServerMessage } from '../wire.ts'
import type { Codec } from './codec.ts'

/** What we use of a WebSocket; a browser's and the `ws` package's both have it. */
export interface Socket {
  binaryType: string
  readonly protocol: string
  readonly readyState: number
  onopen: ((event: never) => void) | null
  onmessage: ((event: never) => void) | null
  onclose: ((event: never) => void) | null
  onerror: ((event: never) => void) | null
  send(data: string | Uint8Array<ArrayBuffer>): void
  close(code?: number, reason?: string): void
  /** Only outside browsers: stop reading, go on reading, cut the connection. */
  pause?(): void
  resume?(): void
  terminate?(): void
}

export type SocketClass = new (url: string, protocols: string[]) => Socket

/** A socket that brought no `welcome` after so long is none, ms. */
export const CONNECT_MS = 10_000
/** Heartbeats without any frame, until we ask with a ping and until the line counts as dead. */
const SILENT_PING = 2
const SILENT_DEAD = 2.5

export type Welcome = Extract<ServerMessage, { op: 'welcome' }>

export interface LineOptions {
  readonly url: string
  readonly WebSocket: SocketClass
  /** By subprotocol, in order of preference. */
  readonly codecs: ReadonlyMap<string, Codec>
  readonly token: string | undefined
  readonly client: string | undefined
  onWelcome(welcome: Welcome): void
  /** `size` of the frame, characters or bytes. */
  onMessage(message: ServerMessage, size: number): void
  /** Once, whoever ended it. 1006 where the line died or never opened. */
  onClose(code: number, reason: string): void
}

const HELLO_REF = 0
/** A refused hello, as the close that says the same. */
const HELLO_REFUSED: Record<string, number> = {
  unauthorized: CLOSE.unauthorized,
  forbidden: CLOSE.forbidden,
  'too-many': CLOSE.tooMany,
  unavailable: CLOSE.tryAgain,
}

export class Line {
  readonly #options: LineOptions
  readonly #socket: Socket
  #codec: Codec | undefined
  #welcome: Welcome | undefined
  #isOver = false
  #heard = 0
  #pinged = false
  #paused = false
  #timer: ReturnType<typeof setTimeout> | undefined

  constructor(options: LineOptions) {
    this.#options = options
    const socket = new options.WebSocket(options.url, [...options.codecs.keys()])
    this.#socket = socket
    // `ws` gives views without a copy under its own default.
    if (socket.binaryType === 'blob') socket.binaryType = 'arraybuffer'
    this.#timer = setTimeout(() => this.#end(1006, 'no welcome'), CONNECT_MS)
    socket.onopen = () => this.#open()
    socket.onmessage = ({ data }: { data: unknown }) => this.#message(data)
    socket.onclose = ({ code, reason }: { code: number; reason: string }) => this.#end(code, reason)
    // Every error is followed by a close, which says all that a page may know.
    socket.onerror = () => {}
  }

  /** What the server said at the beginning; undefined before that. */
  get welcome(): Welcome | undefined {
    return this.#welcome
  }

  get codec(): Codec {
    if (this.#codec === undefined) throw new TidemarkError('internal', 'The socket is not open yet')
    return this.#codec
  }

  send(frame: string | Uint8Array): void {
    if (!this.#isOver) this.#socket.send(frame as string | Uint8Array<ArrayBuffer>)
  }

  get canPause(): boolean {
    return this.#socket.pause !== undefined && this.#socket.resume !== undefined
  }

  /** Stops reading. Nothing is heard meanwhile, so nobody watches either. */
  pause(): void {
    this.#paused = true
    this.#socket.pause?.()
  }

  resume(): void {
    this.#paused = false
    this.#heard = Date.now()
    this.#socket.resume?.()
  }

  /** Ends it from our side; `onClose` is not told. */
  close(): void {
    if (this.#isOver) return
    this.#isOver = true
    this.#drop(1000, '')
  }

  #open(): void {
    const codec = this.#options.codecs.get(this.#socket.protocol) ?? [...this.#options.codecs.values()].at(-1)!
    this.#codec = codec
    const { token, client } = this.#options
    this.send(
      codec.encode({
        op: 'hello',
        ref: HELLO_REF,
        ...(token === undefined ? {} : { token }),
        ...(client === undefined ? {} : { client }),
      }),
    )
  }

  #message(data: unknown): void {
    if (this.#isOver) return
    this.#heard = Date.now()
    this.#pinged = false
    const size = typeof data === 'string' ? data.length : (data as ArrayBuffer).byteLength
    const message = this.#decode(data)
    if (message instanceof Error) this.#end(1007, `a frame that can not be read: ${message.message}`)
    else if (message.op === 'welcome') this.#greeted(message)
    else if (message.op === 'error' && message.ref === HELLO_REF)
      this.#end(HELLO_REFUSED[message.code] ?? CLOSE.badFrame, message.detail)
    else this.#options.onMessage(message, size)
  }

  #decode(data: unknown): ServerMessage | Error {
    try {
      return this.codec.decode(data)
    } catch (error) {
      return error instanceof Error ? error : new Error(String(error))
    }
  }

  #greeted(welcome: Welcome): void {
    clearTimeout(this.#timer)
    this.#welcome = welcome
    this.#watch(welcome.heartbeat)
    this.#options.onWelcome(welcome)
  }

  /**
   * A timer that comes late (a tab in the background, a machine that slept) proves nothing about the line: so a
   * silent server is asked once and has half a heartbeat to answer.
   */
  #watch(heartbeat: number): void {
    this.#timer = setTimeout(
      () => {
        const silent = Date.now() - this.#heard
        if (this.#paused || silent < SILENT_PING * heartbeat) this.#pinged = false
        else if (this.#pinged) return this.#end(1006, 'no heartbeat')
        else {
          this.#pinged = true
          this.send(this.codec.encode({ op: 'ping' }))
        }
        this.#watch(heartbeat)
      },
      heartbeat * (SILENT_DEAD - SILENT_PING),
    )
  }

  #end(code: number, reason: string): void {
    if (this.#isOver) return
    this.#isOver = true
    this.#drop(3000, 'giving up')
    this.#options.onClose(code, reason)
  }

  #drop(code: number, reason: string): void {
    clearTimeout(this.#timer)
    const socket = this.#socket
    socket.onopen = socket.onmessage = socket.onclose = null
    if (this.#paused) socket.resume?.()
    // Closing says goodbye and waits for the other side; a line that is not open, or dead, has nobody to wait for.
    if (socket.terminate && code !== 1000) socket.terminate()
    else socket.close(code, reason)
  }
}
