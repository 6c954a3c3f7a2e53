/** All channels: searched by the beginning of their names, their heads and rates as far as they are seen. */
import { signal } from '@preact/signals'
import { useEffect } from 'preact/hooks'
import type { ChannelInfoJson, ChannelsJson } from '../wire.ts'
import { ask, useEvery, wordsOf } from './ask.ts'
import { channelHref, replaceQuery, route } from './route.ts'
import { type Column, Rows } from './rows.tsx'
import { age, bytes, count, rate } from './text.ts'

/** Most channels of one answer. */
const PAGE = 1_000
/** Most channels that are listed; a longer list asks for more of a name. */
const LISTED_MAX = 20_000
/** From a key to the search for it, ms. */
const TYPING_MS = 120
const SEEN_MS = 2_000
/** Rates that are kept of channels that were seen. */
const SEEN_MAX = 10_000

const COLUMNS: readonly Column[] = [
  { name: 'Channel' },
  { name: 'Head', is: 'number' },
  { name: 'Trimmed', is: 'number', wide: true },
  { name: 'Kept', is: 'number', wide: true },
  { name: 'Size', is: 'number', wide: true },
  { name: 'Events/s', is: 'number' },
  { name: 'Newest', wide: true },
]

/** They outlive the page, so that coming back finds the place again. */
const prefix = signal('')
const listed = signal<readonly ChannelInfoJson[]>([])
const progress = signal<'loading' | 'all' | 'cut' | string>('loading')
const at = signal(-1)
/** What was seen last of a channel's head, and how fast it moved. */
const seenHeads = new Map<string, { head: number; at: number; rate: number }>()
const seen = signal({ first: 0, last: 0 })
const looks = signal(0)

export function Channels() {
  const asked = route.value.query.get('prefix') ?? ''
  useEffect(() => {
    prefix.value = asked
  }, [asked])

  const search = prefix.value
  useEffect(() => {
    const life = new AbortController()
    const timer = setTimeout(() => void list(search, life.signal), listed.value.length === 0 ? 0 : TYPING_MS)
    replaceQuery('channels', { prefix: search })
    return () => {
      clearTimeout(timer)
      life.abort()
    }
  }, [search])
  useEvery(SEEN_MS, lookAtSeen, [search])

  const all = listed.value
  // Rates of what is seen are told by `looks`.
  void looks.value
  return (
    <main class="filled">
      <div class="bar">
        <h1>Channels</h1>
        <input
          type="search"
          class="search"
          placeholder="Names that begin with …"
          aria-label="Names that begin with"
          spellcheck={false}
          autocomplete="off"
          maxLength={200}
          value={search}
          onInput={({ currentTarget }) => {
            prefix.value = currentTarget.value
          }}
        />
        <span class="quiet" role="status">
          {stateOf(all.length)}
        </span>
      </div>
      <Rows
        label="Channels"
        kind="channels"
        columns={COLUMNS}
        count={all.length}
        cells={(i) => cellsOf(all[i]!)}
        at={at}
        onOpen={(i) => {
          location.hash = channelHref(all[i]!.channel)
        }}
        onSeen={(first, last) => {
          seen.value = { first, last }
        }}
        empty={progress.value === 'loading' ? 'Looking …' : 'No channel has a name that begins so'}
      />
    </main>
  )
}

function stateOf(length: number): string {
  if (progress.value === 'loading') return `${count(length)} …`
  if (progress.value === 'all') return count(length)
  return progress.value === 'cut' ? `the first ${count(length)}: search for more of a name` : progress.value
}

function cellsOf({ channel, head, trimmed, time, bytes: size }: ChannelInfoJson) {
  const known = seenHeads.get(channel)
  const newest = Math.max(head, known?.head ?? 0)
  return [
    <a href={channelHref(channel)} tabIndex={-1} title={channel}>
      {channel}
    </a>,
    count(newest),
    count(trimmed),
    count(newest - trimmed),
    size === undefined ? '' : size === 0 ? '–' : bytes(size),
    known === undefined ? '' : rate(known.rate),
    age(time),
  ]
}

/** Lists page by page; the first one shows at once. */
async function list(search: string, signal: AbortSignal): Promise<void> {
  progress.value = 'loading'
  const found: ChannelInfoJson[] = []
  const query = new URLSearchParams({ prefix: search, limit: String(PAGE) })
  try {
    for (;;) {
      const { channels, next } = await ask<ChannelsJson>(`channels?${query}`, { signal })
      if (signal.aborted) return
      if (found.length === 0) at.value = -1
      found.push(...channels)
      listed.value = found.slice()
      if (next === undefined || found.length >= LISTED_MAX) {
        progress.value = next === undefined ? 'all' : 'cut'
        return
      }
      query.set('after', next)
    }
  } catch (error) {
    if (!signal.aborted) progress.value = wordsOf(error)
  }
}

/** What is seen is asked for again, in one call, and moves as it does. */
async function lookAtSeen(signal: AbortSignal): Promise<void> {
  const { first, last } = seen.peek()
  const all = listed.peek()
  const rows = all.slice(first, last)
  if (rows.length === 0) return
  const query = new URLSearchParams({ prefix: prefix.peek(), limit: String(rows.length), bytes: '1' })
  const before = all[first - 1]
  if (before !== undefined) query.set('after', before.channel)
  const { channels } = await ask<ChannelsJson>(`channels?${query}`, { signal })
  if (signal.aborted || listed.peek() !== all) return
  const now = performance.now()
  if (seenHeads.size > SEEN_MAX) seenHeads.clear()
  for (const { channel, head } of channels) {
    const known = seenHeads.get(channel)
    const moved = known === undefined ? 0 : ((head - known.head) * 1_000) / (now - known.at)
    seenHeads.set(channel, { head, at: now, rate: Math.max(moved, 0) })
  }
  const isSame = channels.length === rows.length && channels.every(({ channel }, i) => channel === rows[i]!.channel)
  if (isSame) {
    const fresh = all.slice()
    fresh.splice(first, channels.length, ...channels)
    listed.value = fresh
  } else await list(prefix.peek(), signal)
  looks.value++
}
