/** All channels: searched by the beginning of their names, their heads and rates as far as they are seen. */
import { signal } from '@preact/signals'
import { useEffect } from 'preact/hooks'
import type { ChannelInfoJson } from '../wire.ts'
import { at, dropped, type Listed, listed, seen, seenHeads, toEnd, watchList } from './listing.ts'
import { channelHref, replaceQuery, route } from './route.ts'
import { type Column, Rows } from './rows.tsx'
import { Search } from './search.tsx'
import { age, count, rate, sizeText } from './text.ts'

const COLUMNS: readonly Column[] = [
  { name: 'Channel' },
  { name: 'Head', is: 'number' },
  { name: 'Trimmed', is: 'number', wide: true },
  { name: 'Kept', is: 'number', wide: true },
  { name: 'Size', is: 'number', wide: true },
  { name: 'Events/s', is: 'number' },
  { name: 'Newest', wide: true },
]

/** It outlives the page, so that coming back finds it again. */
const prefix = signal('')

export function Channels() {
  const here = route.value
  useEffect(() => look(here.query.get('prefix') ?? ''), [here])

  const search = prefix.value
  useEffect(() => {
    const life = new AbortController()
    void watchList(search, life.signal)
    replaceQuery('channels', { prefix: search })
    return () => life.abort()
  }, [search])

  const { channels: all, state } = listed.value
  return (
    <main class="filled">
      <div class="bar">
        <h1>Channels</h1>
        <Search what="Names that begin with" most={200} value={search} onSearch={look} />
        <span class="quiet" role="status">
          {stateOf(listed.value)}
        </span>
      </div>
      <Rows
        label="Channels"
        kind="channels"
        columns={COLUMNS}
        count={all.length}
        cells={(i) => cellsOf(all[i]!)}
        at={at}
        toEnd={toEnd}
        dropped={dropped.value}
        onOpen={(i) => {
          location.hash = channelHref(all[i]!.channel)
        }}
        onSeen={(first, last) => {
          seen.value = { first, last }
        }}
        empty={state === 'loading' ? 'Looking …' : 'No channel has a name that begins so'}
      />
    </main>
  )
}

/** A search begins at the top of what it finds. */
function look(search: string): void {
  if (search === prefix.peek()) return
  prefix.value = search
  at.value = -1
  toEnd.value = false
}

function stateOf({ channels: { length }, state }: Listed): string {
  if (state === 'loading') return `${count(length)} …`
  if (state === 'all') return count(length)
  return state === 'cut' ? `the first ${count(length)}: search for more of a name` : state
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
    size === undefined ? '' : sizeText(size),
    known === undefined ? '' : rate(known.rate),
    age(time),
  ]
}
