/** The list of channels that a search finds, kept fresh: by one loop, so that no answer overtakes another. */
import { signal } from '@preact/signals'
import type { ChannelInfoJson, ChannelsJson } from '../wire.ts'
import { ask, every, wordsOf } from './ask.ts'

/** Most channels of one answer. */
const PAGE = 1_000
/** Most channels that are listed; a longer list asks for more of a name. */
const LISTED_MAX = 20_000
/** From a key to the search for it, ms. */
const TYPING_MS = 120
const SEEN_MS = 2_000
/** Rates that are kept of channels that were seen. */
const SEEN_MAX = 10_000

export interface Listed {
  /** What was searched for; undefined before the first list. */
  readonly search: string | undefined
  readonly channels: readonly ChannelInfoJson[]
  /** `loading` while pages come, `cut` where there are too many; else why not. */
  readonly state: 'loading' | 'all' | 'cut' | string
}

/** They outlive the page, so that coming back finds the place again. */
export const listed = signal<Listed>({ search: undefined, channels: [], state: 'loading' })
/** The row that the keyboard is at, -1 for none. */
export const at = signal(-1)
/** Pages that come after `End` was pressed move it on. */
export const toEnd = signal(false)
/** Rows that went away above what is seen, less those that came. */
export const dropped = signal(0)
/** The rows in sight, and a few beyond. */
export const seen = signal({ first: 0, last: 0 })

/** What was seen last of a channel's head, and how fast it moved. */
export const seenHeads = new Map<string, { head: number; at: number; rate: number }>()

/** Lists what is searched for and looks again at what is seen, until it is over. */
export async function watchList(search: string, over: AbortSignal): Promise<void> {
  const { search: before, channels } = listed.peek()
  if (before !== search && channels.length > 0) await new Promise((resolve) => setTimeout(resolve, TYPING_MS))
  let isFirst = true
  await every(
    SEEN_MS,
    async (signal) => {
      const { search: of, state } = listed.peek()
      if (of !== search || state === 'loading') await list(search, signal)
      else if (isFirst || (state !== 'all' && state !== 'cut')) await listAnew(search, signal)
      isFirst = false
      if (!signal.aborted) await lookAtSeen(search, signal)
    },
    over,
  )
}

/** Shows page by page, the first one as soon as it is there. */
async function list(search: string, signal: AbortSignal): Promise<void> {
  await load(search, signal, (channels, state) => {
    listed.value = { search, channels, state }
    if (state !== 'loading') at.value = Math.min(at.peek(), channels.length - 1)
  })
}

/** Shows the same list as it is now: at once, and nothing moves from where a person looks or stands. */
async function listAnew(search: string, signal: AbortSignal): Promise<void> {
  await load(search, signal, (channels, state) => {
    if (state === 'loading') return
    const before = listed.peek().channels
    const placeOf = (index: number): number => {
      const name = before[index]?.channel
      if (name === undefined) return index
      const place = channels.findIndex(({ channel }) => channel >= name)
      return place < 0 ? channels.length - 1 : place
    }
    const { first, last } = seen.peek()
    const selected = at.peek()
    const isSelectedSeen = selected >= first && selected < last
    const anchor = isSelectedSeen ? selected : first
    toEnd.value = false
    // Who is at the top sees what comes there.
    if (isSelectedSeen || first > 0) dropped.value += anchor - placeOf(anchor)
    at.value = placeOf(selected)
    listed.value = { search, channels, state }
  })
}

async function load(
  search: string,
  signal: AbortSignal,
  show: (channels: readonly ChannelInfoJson[], state: Listed['state']) => void,
): Promise<void> {
  const found: ChannelInfoJson[] = []
  const query = new URLSearchParams({ prefix: search, limit: String(PAGE) })
  try {
    for (;;) {
      const { channels, next } = await ask<ChannelsJson>(`channels?${query}`, { signal })
      if (signal.aborted) return
      found.push(...channels)
      const isCut = found.length >= LISTED_MAX
      show(found.slice(), next === undefined ? 'all' : isCut ? 'cut' : 'loading')
      if (next === undefined || isCut) return
      query.set('after', next)
    }
  } catch (error) {
    if (!signal.aborted) listed.value = { ...listed.peek(), search, state: wordsOf(error) }
  }
}

/** What is seen is asked for again, in one call; where names came or went, all are listed anew. */
async function lookAtSeen(search: string, signal: AbortSignal): Promise<void> {
  const { channels: all, state } = listed.peek()
  const { first, last } = seen.peek()
  const rows = all.slice(first, last)
  if (rows.length === 0 && (all.length > 0 || state !== 'all')) return
  const query = new URLSearchParams({ prefix: search, limit: String(Math.max(rows.length, 1)), bytes: '1' })
  const before = all[first - 1]
  if (before !== undefined) query.set('after', before.channel)
  const { channels } = await ask<ChannelsJson>(`channels?${query}`, { signal })
  if (signal.aborted) return
  const now = performance.now()
  if (seenHeads.size > SEEN_MAX) seenHeads.clear()
  for (const { channel, head } of channels) {
    const known = seenHeads.get(channel)
    const moved = known === undefined ? 0 : ((head - known.head) * 1_000) / (now - known.at)
    seenHeads.set(channel, { head, at: now, rate: Math.max(moved, 0) })
  }
  const isSame = channels.length === rows.length && channels.every(({ channel }, i) => channel === rows[i]!.channel)
  if (!isSame) return await listAnew(search, signal)
  const fresh = all.slice()
  fresh.splice(first, channels.length, ...channels)
  listed.value = { ...listed.peek(), channels: fresh }
}
