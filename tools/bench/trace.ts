/** `--profile`, second pass: which system calls a server makes, counted by strace, under which it is much slower. */
import { spawnSync } from 'node:child_process'
import { Child } from './child.ts'
import type { Per } from './profile.ts'

const SHOWN = 8

/** Undefined where there is no strace. */
export const hasStrace = (): boolean => spawnSync('strace', ['-V'], { stdio: 'ignore' }).status === 0

/** Does `work` while strace counts the calls of all threads; returns the most frequent as lines, for each event. */
export async function traced<T>(child: Child, work: () => Promise<T>, per: Per<T>): Promise<[T, string[]]> {
  const strace = Child.start('strace', ['strace', '-f', '-c', '-S', 'calls', '-p', String(child.pid)])
  const attached = await strace
    .line((line) => (line.includes('attached') ? true : undefined))
    .catch((error: Error) => error.message)
  if (attached !== true) return [await work(), [`strace: ${String(attached).split('\n').at(-2) ?? attached}`]]
  const result = await work()
  strace.signal('SIGINT')
  await strace.ended()
  return [result, linesOf(strace.stderr, per(result))]
}

/** Rows of strace are: share of time, seconds, µs a call, calls, errors if any, name. */
function linesOf(report: string, per: Readonly<Record<string, number>>): string[] {
  const calls = [...report.matchAll(/^ *[\d.]+ +[\d.]+ +\d+ +(\d+) +(?:\d+ +)?(\w+)$/gm)].filter(
    ([, , name]) => name !== 'total',
  )
  const all = calls.reduce((sum, [, n]) => sum + Number(n), 0)
  return Object.entries(per).map(([name, events]) => {
    const each = calls.slice(0, SHOWN).map(([, n, call]) => `${call} ${(Number(n) / events).toFixed(3)}`)
    return `under strace, for each ${name}: ${(all / events).toFixed(2)} system calls: ${each.join(' · ')}`
  })
}
