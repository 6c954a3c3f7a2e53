/** The last fifteen minutes, as seen from this page: rates made of the server's counters. */
import { signal } from '@preact/signals'
import type { FiguresJson, HeadsJson } from '../wire.ts'
import { ask, every } from './ask.ts'
import { type Writes, writesOf } from './writes.ts'

const SAMPLE_MS = 2_000
const HISTORY_MS = 15 * 60_000
const SAMPLES_MAX = HISTORY_MS / SAMPLE_MS

/** One moment; null where nothing can be said of it. */
export interface Sample extends Writes {
  /** Seconds since 1970, as charts want it. */
  readonly time: number
  readonly appended: number | null
  readonly delivered: number | null
  readonly sockets: number
  readonly streams: number
  readonly polls: number
}

export const figures = signal<FiguresJson | undefined>()
/** Replaced at each sample. */
export const samples = signal<readonly Sample[]>([])

export interface HeadsSample {
  readonly time: number
  readonly rates: ReadonlyMap<string, number>
}
export const heads = signal<HeadsJson | undefined>()
export const headSamples = signal<readonly HeadsSample[]>([])

/** Samples as long as the page lives. */
export function watch(): void {
  void every(SAMPLE_MS, async () => take(await ask<FiguresJson>('admin/figures')), new AbortController().signal)
}

function take(now: FiguresJson): void {
  const before = figures.value
  figures.value = now
  const { sockets, followers } = now
  const states = { time: Date.now() / 1_000, sockets, streams: followers.sse, polls: followers.poll }
  samples.value = [...samples.value.slice(1 - SAMPLES_MAX), { ...states, ...ratesOf(before, now) }]
}

type Rates = Pick<Sample, 'appended' | 'delivered' | 'write' | 'slowWrite'>

function ratesOf(before: FiguresJson | undefined, now: FiguresJson): Rates {
  // Counters of a server that was started anew begin anew.
  if (before === undefined || before.startedAt !== now.startedAt || now.at <= before.at)
    return { appended: null, delivered: null, write: null, slowWrite: null }
  const seconds = (now.at - before.at) / 1_000
  const { write, slowWrite } = writesOf(before.groups, now.groups)
  return {
    appended: (now.appendedEvents - before.appendedEvents) / seconds,
    delivered: (now.deliveredEvents - before.deliveredEvents) / seconds,
    write,
    slowWrite,
  }
}

/** One look at the heads that move; for as long as somebody looks at them. */
export async function lookAtHeads(signal: AbortSignal): Promise<void> {
  const now = await ask<HeadsJson>('admin/heads?limit=10', { signal })
  const before = heads.value
  heads.value = now
  if (now.over === 0 || now.at === before?.at) return
  const rates = new Map(now.heads.map(({ channel, rate }) => [channel, rate]))
  headSamples.value = [...headSamples.value.slice(1 - SAMPLES_MAX), { time: Date.now() / 1_000, rates }]
}
