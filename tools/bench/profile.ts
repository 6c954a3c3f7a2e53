/** `--profile`: what the server's CPU time went into while a row was measured, and what else it did. */
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { HOME } from '../../src/server/home.ts'
import type { Child } from './child.ts'
import type { Work } from './profiler.ts'

const SHOWN = 16

interface ProfileNode {
  readonly id: number
  readonly callFrame: { readonly functionName: string; readonly url: string; readonly lineNumber: number }
  readonly children?: readonly number[]
}

interface CpuProfile {
  readonly nodes: readonly ProfileNode[]
  readonly samples: readonly number[]
  readonly timeDeltas: readonly number[]
  /** What profiler.ts adds. */
  readonly work: Work
}

/** What a result is a count of, by name, such as `appended event`: what was done is told for each of them. */
export type Per<T> = (result: T) => Readonly<Record<string, number>>

/** Idle time, and the profiler itself. */
const NOT_WORK: ReadonlySet<string> = new Set(['(idle)', 'dispatch'])

/** Flags and environment of a node process that profiles itself when it is told to (profiler.ts). */
export const profiled = (path: string): { node: readonly string[]; env: Readonly<Record<string, string>> } => ({
  node: ['--import', fileURLToPath(new URL('./profiler.js', import.meta.url))],
  env: { BENCH_PROFILE: path },
})

/** Does `work` under a profile of the process; returns its result, and in lines the functions that took most time and what was done. */
export async function profile<T>(
  child: Child,
  path: string,
  work: () => Promise<T>,
  per: Per<T>,
): Promise<[T, string[]]> {
  child.signal('SIGWINCH')
  await child.json('profiling')
  const result = await work()
  child.signal('SIGWINCH')
  await child.json('profiled')
  const profile = JSON.parse(readFileSync(path, 'utf8')) as CpuProfile
  return [result, [...topFunctions(profile), ...workLines(profile.work, per(result))]]
}

const few = (value: number): string => String(Number(value.toPrecision(3)))

function workLines(work: Work, per: Readonly<Record<string, number>>): string[] {
  const { seconds, loop, memory, gcMs, gcCount, level, kernel } = work
  const share = few(gcMs / (10 * seconds))
  const { reads, writes, bytesRead, bytesWritten, switches } = kernel
  const each = Object.entries(per).flatMap(([name, n]) => {
    const of = (counts: Readonly<Record<string, number>>): string =>
      Object.entries(counts)
        .map(([what, count]) => `${what} ${few(count / n)}`)
        .join(' · ')
    return [
      ...(Object.keys(level).length > 0 ? [`for each ${name}: LevelDB ${of(level)}`] : []),
      `for each ${name}: ${of({ 'reads (all files and sockets)': reads, writes, 'bytes read': bytesRead, 'bytes written': bytesWritten, 'waits of the main thread': switches })}`,
    ]
  })
  return [
    `event loop late by p50 ${few(loop.p50)}, p99 ${few(loop.p99)}, at most ${few(loop.max)} ms · garbage collection ${share} % of the time, ${gcCount} times`,
    `heap ${few(memory.heapUsed)} MiB, at most ${few(memory.heapPeak)} · external ${few(memory.external)} · resident ${few(memory.rss)}`,
    ...each,
  ]
}

/** The functions of a profile that took most time themselves, as lines: share of the time that was not idle. */
function topFunctions(profile: CpuProfile): string[] {
  const nodes = new Map(profile.nodes.map((node) => [node.id, node]))
  const parents = new Map(profile.nodes.flatMap((node) => (node.children ?? []).map((child) => [child, node] as const)))
  const times = new Map<string, number>()
  let all = 0
  profile.samples.forEach((id, i) => {
    const node = nodes.get(id)!
    if (NOT_WORK.has(node.callFrame.functionName) && node.callFrame.url === '') return
    const name = nameOf(node, parents)
    const time = profile.timeDeltas[i]!
    all += time
    times.set(name, (times.get(name) ?? 0) + time)
  })
  const top = [...times].toSorted((a, b) => b[1] - a[1]).slice(0, SHOWN)
  return top.map(([name, time]) => `${((100 * time) / all).toFixed(1).padStart(5)} %  ${name}`)
}

/** A function of JavaScript with its place; one of C++ with the function of JavaScript that called it. */
function nameOf(node: ProfileNode, parents: ReadonlyMap<number, ProfileNode>): string {
  const { functionName, url, lineNumber } = node.callFrame
  if (url === '') {
    const caller = parents.get(node.id)
    const root = caller === undefined || caller.callFrame.functionName === '(root)'
    return root ? functionName : `${functionName || '(unnamed)'} <- ${nameOf(caller, parents)}`
  }
  const whole = url.startsWith('file:') ? fileURLToPath(url) : url
  const short = whole.startsWith(HOME) ? whole.slice(HOME.length + 1) : whole.replace(/^.*node_modules\//, '')
  return `${functionName || '(anonymous)'} ${short}:${lineNumber + 1}`
}
