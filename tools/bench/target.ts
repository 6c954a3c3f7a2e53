/** The servers that are measured: Tidemark as its users start it, and the bare servers that show the limit. */
import { mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { Child } from './child.ts'
import { compiled } from './programs.ts'

/** Longest wait for a server's first good answer. */
const READY_MS = 60_000
/** Between two questions whether it is there. */
const ASK_MS = 2

export interface Target {
  readonly child: Child
  readonly port: number
}

export interface TidemarkOptions {
  readonly data: string
  /** More flags of `serve`. */
  readonly flags?: readonly string[]
  /** Flags for node itself, and more environment. */
  readonly node?: readonly string[]
  readonly env?: Readonly<Record<string, string>>
}

/** What a channel's answers tell. */
export interface ChannelState {
  readonly head: number
  readonly epoch: string
}

/** Starts `tidemark serve` on a free port; resolves with its first good answer. */
export async function startTidemark(options: TidemarkOptions): Promise<Target> {
  // A profile names the files of functions, which the bundle has not.
  const [node, program] = compiled(options.node ? 'tools/tidemark.js' : 'bin/tidemark.js')
  const flags = ['serve', '--port', '0', '--data', options.data, ...(options.flags ?? [])]
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('TIDEMARK_')))
  const command = [node!, ...(options.node ?? []), program!, ...flags]
  const child = Child.start('tidemark serve', command, { ...env, ...options.env })
  const port = await child.line((line) => {
    const address = /http:\/\/127\.0\.0\.1:(\d+)/.exec(line)
    return address ? Number(address[1]) : undefined
  })
  await firstAnswer(`http://127.0.0.1:${port}/readyz`)
  return { child, port }
}

async function firstAnswer(url: string): Promise<void> {
  for (const end = Date.now() + READY_MS; ; ) {
    const status = await fetch(url).then(
      async (response) => {
        await response.arrayBuffer()
        return response.status
      },
      (error: Error) => error.message,
    )
    if (status === 200) return
    if (Date.now() > end) throw new Error(`${url} did not answer 200 in time, but ${status}`)
    await new Promise((resolve) => setTimeout(resolve, ASK_MS))
  }
}

/** Starts a bare server (bare.ts) that writes into `dir`. */
export async function startBare(
  mode: 'http' | 'net' | 'ws',
  dir: string,
  node: readonly string[] = [],
): Promise<Target> {
  mkdirSync(dir, { recursive: true })
  const [program, script] = compiled('tools/bench/bare.js')
  const child = Child.start(`bare ${mode}`, [program!, ...node, script!, '--mode', mode, '--dir', dir])
  const { port } = await child.json<{ port: number }>('port')
  return { child, port }
}

/** Asks a running Tidemark for a channel. */
export async function channelState(port: number, channel: string): Promise<ChannelState> {
  const response = await fetch(`http://127.0.0.1:${port}/v1/channels/${channel}`)
  const text = await response.text()
  if (response.status !== 200) throw new Error(`GET ${channel}: ${response.status} ${text}`)
  return JSON.parse(text) as ChannelState
}

/** The heads of all channels whose names begin with `prefix`. */
export async function headsOf(port: number, prefix: string): Promise<number[]> {
  const heads: number[] = []
  for (let after: string | undefined = ''; after !== undefined; ) {
    const query = new URLSearchParams({ prefix, limit: '1000', ...(after !== '' && { after }) })
    const response = await fetch(`http://127.0.0.1:${port}/v1/channels?${query}`)
    const text = await response.text()
    if (response.status !== 200) throw new Error(`GET channels: ${response.status} ${text}`)
    const page = JSON.parse(text) as { channels: readonly ChannelState[]; next?: string }
    heads.push(...page.channels.map((channel) => channel.head))
    after = page.next
  }
  return heads
}

/** Appends one event, so that the channel exists; tells what an answered append has survived. */
export async function makeChannel(port: number, channel: string): Promise<string> {
  const response = await fetch(`http://127.0.0.1:${port}/v1/channels/${channel}/events`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: '{"data":null}',
  })
  const text = await response.text()
  if (response.status !== 201) throw new Error(`POST ${channel}: ${response.status} ${text}`)
  return (JSON.parse(text) as { durability: string }).durability
}

export function removeDir(dir: string): void {
  rmSync(dir, { recursive: true, force: true })
}

/** The LevelDB directory within a log's directory. */
export const storeOf = (data: string): string => join(data, 'store')
