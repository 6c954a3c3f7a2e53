/**
 * Four ways to follow a channel that holds a tree, each rebuilding the tree for itself: by WebSocket, by server-sent
 * events, by long polls, and by a process with a named cursor that is killed at random.
 */
import { createParser } from 'eventsource-parser'
import { onTestFinished } from 'vitest'
import { connect } from '../../src/client/node.ts'
import type { EventJson, PageJson } from '../../src/wire.ts'
import { nodeText } from './disk.ts'
import { Program } from './program.ts'

/** A tree as a follower knows it. */
export class Copy {
  readonly nodes = new Map<string, string>()
  /** The newest seq that was taken up. */
  seq = 0
  #told: (() => void)[] = []

  apply({ seq, type, key, data }: Pick<EventJson, 'seq' | 'type' | 'key' | 'data'>): void {
    this.seq = seq
    if (type === 'node.removed') this.nodes.delete(key!)
    else this.nodes.set(key!, nodeText(data as { kind: string }))
    for (const told of this.#told.splice(0)) told()
  }

  clear(): void {
    this.nodes.clear()
    this.seq = 0
  }

  async reaches(seq: number): Promise<void> {
    while (this.seq < seq) await new Promise<void>((resolve) => this.#told.push(resolve))
  }

  get sorted(): Map<string, string> {
    return new Map([...this.nodes].sort())
  }
}

export interface Follower {
  readonly name: string
  readonly copy: Copy
}

/** Ends with the test. */
function life(): AbortSignal {
  const ending = new AbortController()
  onTestFinished(() => ending.abort())
  return ending.signal
}

export function bySocket(url: string, channel: string): Follower {
  const copy = new Copy()
  const client = connect(url)
  onTestFinished(() => client.close())
  void (async () => {
    for await (const item of client.channel(channel).followItems()) {
      if (item.is === 'reset') copy.clear()
      if (item.is === 'events') for (const event of item.events) copy.apply(event)
    }
  })()
  return { name: 'WebSocket', copy }
}

/** What a killed server does to a request that is under way. */
const isCut = (error: unknown): boolean => error instanceof TypeError

/** @param cut is asked after each event: true drops the connection, and the next one resumes with Last-Event-ID. */
export function bySse(url: string, channel: string, cut: () => boolean): Follower {
  const copy = new Copy()
  const signal = life()
  let lastId: string | undefined
  const once = async (): Promise<void> => {
    const dropped = new AbortController()
    const response = await fetch(`${url}/v1/channels/${channel}/events?after=earliest&named=0`, {
      headers: { accept: 'text/event-stream', ...(lastId !== undefined && { 'last-event-id': lastId }) },
      signal: AbortSignal.any([signal, dropped.signal]),
    })
    if (!response.ok) return void (await response.text())
    const parser = createParser({
      onEvent: ({ id, event, data }) => {
        if (dropped.signal.aborted) return
        if (id !== undefined) lastId = id
        if (event === 'tidemark.reset') copy.clear()
        if (event === undefined || event === 'message') {
          if (data === '') return
          copy.apply(JSON.parse(data) as EventJson)
          if (cut()) dropped.abort()
        }
      },
    })
    const text = new TextDecoder()
    for await (const piece of response.body!) parser.feed(text.decode(piece, { stream: true }))
  }
  void (async () => {
    while (!signal.aborted)
      try {
        await once()
      } catch (error) {
        if (!isCut(error) && (error as Error).name !== 'AbortError') throw error
        await new Promise(setImmediate)
      }
  })()
  return { name: 'SSE', copy }
}

export function byLongPoll(url: string, channel: string): Follower {
  const copy = new Copy()
  const signal = life()
  void (async () => {
    let place = 'after=earliest'
    while (!signal.aborted)
      try {
        const response = await fetch(`${url}/v1/channels/${channel}/events?${place}&wait=20&limit=700`, { signal })
        const page = (await response.json()) as PageJson
        if (!response.ok) continue
        for (const event of page.events) copy.apply(event)
        place = `after=${page.last}&epoch=${page.epoch}`
      } catch (error) {
        if (signal.aborted) return
        if (!isCut(error)) throw error
        await new Promise(setImmediate)
      }
  })()
  return { name: 'long poll', copy }
}

/** @param lives gives the number of lines after which each process is killed. */
export function byKilledCursor(url: string, channel: string, client: string, lives: () => number): Follower {
  const copy = new Copy()
  const signal = life()
  const once = async (): Promise<void> => {
    const tail = new Program(['tail', channel, '--client', client, '--url', url, '--json', '--patience', '1m'])
    const dies = lives()
    let taken = 0
    const take = (): number => {
      const lines = tail.lines
      for (; taken < lines.length; taken++) {
        const line = JSON.parse(lines[taken]!) as EventJson & { is?: string }
        if (line.is === 'reset') copy.clear()
        else if (line.is === undefined) copy.apply(line)
      }
      return taken
    }
    await tail
      .until(() => take() >= dies)
      .catch((error: unknown) => {
        // The end of the test kills it too; only one that ended by itself has failed.
        if (tail.child.signalCode === null) throw error
      })
    await tail.kill('SIGKILL')
    // What it had written may be committed: it counts as read.
    take()
  }
  void (async () => {
    while (!signal.aborted)
      try {
        await once()
      } catch (error) {
        if (!signal.aborted) throw error
      }
  })()
  return { name: 'killed cursor', copy }
}
