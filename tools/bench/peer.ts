/** What another server is to the workloads that measure it, and what those that start one share. */
import { randomInt } from 'node:crypto'
import { connect, createServer } from 'node:net'
import type { DrainOptions, LoadOptions } from './drive.ts'
import type { Target } from './target.ts'

/** How a load sends appends to it. */
export type Sending = Pick<LoadOptions, 'protocol' | 'lines' | 'size' | 'requests'>
/** How a receiver takes everything from the first event on. The port is the target's where none is given. */
export type Receiving = Pick<DrainOptions, 'mode' | 'opening' | 'ready'> & { readonly port?: number }

/** One way to run a peer. */
export interface Peer {
  /** With its version. */
  readonly name: string
  /** What an acknowledged event has survived. */
  readonly durability: string
  /** W1 … W7: where it can be compared. */
  readonly workloads: string
  /** Starts it on a free port, with what `dir` holds; resolves with its first good answer. */
  start(dir: string, node?: readonly string[]): Promise<Target>
  /** Requests of `size` events each; undefined where it takes only one at a time. */
  sending(size: number): Sending | undefined
  receiving(target: Target): Receiving
  /** It delivers to one subscriber in another order than to the next when there are many publishers. */
  readonly reorders?: boolean
  /** A Node process: it can be told to collect garbage. */
  readonly isNode?: boolean
  /** How many events it holds, where it can be asked. */
  stored?(port: number): Promise<number>
  /** Its ordinary client for Node (reader.ts), and where that is installed. */
  readonly reader?: { readonly kind: string; readonly modules: string }
}

/** Below those that systems give out by themselves: Linux from 32,768 on. */
const PORTS = [10_000, 32_000] as const

/**
 * A port of 127.0.0.1 that nobody listens on, nor is given who asks for any port: what was ended at it can begin there
 * again. Another call may choose the same.
 */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = randomInt(...PORTS)
    const server = createServer()
    const isFree = await new Promise<boolean>((resolve) => {
      server.once('error', () => resolve(false)).listen(port, '127.0.0.1', () => resolve(true))
    })
    if (!isFree) continue
    await new Promise((resolve) => server.close(resolve))
    return port
  }
}

/** Longest wait for an answer, and for a server to be there. */
const ANSWER_MS = 60_000
/** Between two questions whether it is there. */
const ASK_MS = 2

/** Sends a question to a server that may not listen yet, until what it says holds `wanted`; resolves with the match. */
export async function question(port: number, text: string, wanted: RegExp): Promise<RegExpExecArray> {
  for (const end = Date.now() + ANSWER_MS; ; ) {
    const match = await ask(port, text, wanted)
    if (match !== null) return match
    if (Date.now() > end) throw new Error(`port ${port} did not answer ${JSON.stringify(text)} with ${wanted}`)
    await new Promise((resolve) => setTimeout(resolve, ASK_MS))
  }
}

/** Null when the connection fails, or a whole second brings nothing that matches. */
function ask(port: number, text: string, wanted: RegExp): Promise<RegExpExecArray | null> {
  return new Promise((resolve) => {
    let heard = ''
    const socket = connect(port, '127.0.0.1', () => socket.write(text))
    const end = (match: RegExpExecArray | null): void => {
      socket.destroy()
      resolve(match)
    }
    socket.setTimeout(1_000, () => end(null))
    socket.on('error', () => end(null)).on('close', () => end(null))
    socket.on('data', (bytes) => {
      heard += bytes.toString('latin1')
      const match = wanted.exec(heard)
      // A server that is still loading says so, and is asked again.
      if (match !== null || heard.startsWith('-LOADING')) end(match)
    })
  })
}
