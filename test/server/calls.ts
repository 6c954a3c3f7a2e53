/** Calls as a client makes them, and bytes as no client would send them. */
import { connect, type Socket } from 'node:net'
import { type Logger, pino } from 'pino'
import { onTestFinished } from 'vitest'
import type { Problem } from '../../src/errors.ts'

export interface Answer<Body = unknown> {
  readonly status: number
  readonly headers: Headers
  readonly text: string
  /** The body as JSON, if it is. */
  readonly json: Body
}

// biome-ignore lint/suspicious/noExplicitAny: tests look into answers as they like; the schemas are checked on the way out
type Json = any

/** One call; a body that is not text is sent as JSON. Never follows a redirect. */
export async function call<Body = Json>(
  url: string,
  method = 'GET',
  body?: unknown,
  headers: Record<string, string> = {},
): Promise<Answer<Body>> {
  const init: RequestInit = { method, headers: { ...headers }, redirect: 'manual' }
  if (body !== undefined) {
    init.body = typeof body === 'string' || body instanceof Uint8Array ? (body as BodyInit) : JSON.stringify(body)
    init.headers = { 'content-type': 'application/json', ...headers }
  }
  const res = await fetch(url, init)
  const text = await res.text()
  const json = text !== '' && /\bjson/.test(res.headers.get('content-type') ?? '') ? JSON.parse(text) : undefined
  return { status: res.status, headers: res.headers, text, json }
}

/** The problem that a call must have been answered with. */
export function problemOf(answer: Answer): Problem {
  if (answer.headers.get('content-type') !== 'application/problem+json')
    throw new Error(`Not a problem: ${answer.status} ${answer.headers.get('content-type')} ${answer.text}`)
  return answer.json as Problem
}

/** Bytes as they stand on a connection: for what no HTTP client would send. */
export class RawConnection {
  readonly socket: Socket
  #received = ''

  private constructor(socket: Socket) {
    this.socket = socket
    socket.setEncoding('latin1').on('data', (text: string) => {
      this.#received += text
    })
    // A server may cut what it refuses; tests look at what was received.
    socket.on('error', () => {})
  }

  static async open(port: number): Promise<RawConnection> {
    const socket = connect(port, '127.0.0.1')
    onTestFinished(() => void socket.destroy())
    await new Promise<void>((resolve, reject) => socket.once('connect', resolve).once('error', reject))
    return new RawConnection(socket)
  }

  send(text: string): this {
    this.socket.write(text, 'latin1')
    return this
  }

  get received(): string {
    return this.#received
  }

  /** All that was received until the other side closed. */
  async toEnd(): Promise<string> {
    if (!this.socket.destroyed) await new Promise((resolve) => this.socket.once('close', resolve))
    return this.#received
  }

  /** All that was received, as soon as it matches. */
  async until(pattern: RegExp): Promise<string> {
    while (!pattern.test(this.#received)) {
      if (this.socket.destroyed) throw new Error(`Closed before ${pattern}: ${this.#received}`)
      await new Promise<void>((resolve) => {
        const more = () => {
          this.socket.off('data', more).off('close', more)
          resolve()
        }
        this.socket.on('data', more).on('close', more)
      })
    }
    return this.#received
  }
}

/** A logger that keeps its lines. */
export function loggerTo(lines: Record<string, unknown>[], level = 'debug'): Logger {
  return pino({ level }, { write: (line: string) => void lines.push(JSON.parse(line)) })
}
