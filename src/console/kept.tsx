/** One channel as it is kept: the space that it takes, its retention, and compaction. */
import { type Signal, useSignal } from '@preact/signals'
import type { ComponentChildren } from 'preact'
import { isSystemChannel } from '../event.ts'
import type { ChannelInfoJson, KeeperJson, SpaceJson, SpaceRowJson } from '../wire.ts'
import { ask, useEvery, wordsOf } from './ask.ts'
import { Compaction } from './compaction.tsx'
import { limitsText } from './limits.ts'
import { Named } from './named.tsx'
import { Retention } from './retention.tsx'
import { channelHref, cursorsHref } from './route.ts'
import { age, count, sizeText, until } from './text.ts'

const LOOK_MS = 2_000

/** What is known of the channel. */
interface Known {
  readonly info: ChannelInfoJson
  readonly row: SpaceRowJson
  readonly keeper: KeeperJson
}

export const Kept = ({ name }: { name: string }) => <Named name={name} page={Whole} />

function Whole({ name }: { name: string }) {
  const known = useSignal<Known | undefined>(undefined)
  const wrong = useSignal<string | undefined>(undefined)
  const look = async (signal?: AbortSignal) => {
    try {
      const [info, { rows, keeper }] = await Promise.all([
        ask<ChannelInfoJson>(`channels/${name}`, { signal }),
        ask<SpaceJson>(`admin/space?channel=${encodeURIComponent(name)}`, { signal }),
      ])
      known.value = { info, row: rows[0]!, keeper }
      wrong.value = undefined
    } catch (error) {
      if (!signal?.aborted) wrong.value = wordsOf(error)
    }
  }
  useEvery(LOOK_MS, look, [])
  const isOurs = !isSystemChannel(name)
  return (
    <main class="kept">
      <div class="bar">
        <h1>{name}</h1>
        <span class="quiet">
          <a href="#/keeping">all channels</a> · <a href={channelHref(name)}>its events</a> ·{' '}
          <a href={cursorsHref(name)}>its cursors</a>
        </span>
        {wrong.value !== undefined && <span class="warn">{wrong.value}</span>}
      </div>
      <div class="cards">
        <Space known={known} />
        {known.value !== undefined && <Retention info={known.value.info} isOurs={isOurs} onChange={look} />}
        {isOurs && <Compaction name={name} />}
      </div>
    </main>
  )
}

function Space({ known: { value: known } }: { known: Signal<Known | undefined> }) {
  const fact = (name: string, text: (known: Known) => ComponentChildren) => (
    <>
      <dt>{name}</dt>
      <dd>{known === undefined ? '…' : text(known)}</dd>
    </>
  )
  return (
    <section class="card">
      <h2>Space</h2>
      <dl>
        {fact('Size, about', ({ row }) => sizeText(row.bytes))}
        {fact('Events', ({ row: { head, trimmed } }) => count(head - trimmed))}
        {fact('Seqs', ({ row: { head, trimmed } }) =>
          head === trimmed ? `none, the head is ${count(head)}` : `${count(trimmed + 1)} … ${count(head)}`,
        )}
        {fact('Trimmed', ({ row }) => count(row.trimmed))}
        {fact('Oldest event', ({ row }) => age(row.oldest))}
        {fact('Newest event', ({ row }) => age(row.time))}
        {fact('Keeps', ({ row: { retention } }) => limitsText(retention ?? {}))}
        {fact('As said by', ({ row: { retention } }) => whoSays(retention?.from))}
        {fact('State', ({ info: { state } }) => stateText(state))}
        {fact('Dropped last', ({ row: { dropped } }) =>
          dropped === undefined ? 'nothing since the start' : `${count(dropped.events)} events, ${age(dropped.time)}`,
        )}
        {fact('Next look', ({ row: { retention }, keeper: { nextLookAt } }) =>
          retention === undefined || nextLookAt === null ? '–' : until(nextLookAt),
        )}
      </dl>
      <p class="quiet">
        Events are counted by their seqs, the holes that compaction leaves too. Limits hold within about a second of an
        append; the next look is for what grows old.
      </p>
    </section>
  )
}

const stateText = (state: ChannelInfoJson['state']): string =>
  state === undefined
    ? 'in memory, when asked for'
    : `on disk, ${state.keys === undefined ? 'not begun yet' : `${count(state.keys)} keys at ${count(state.at!)}`}, as said by ${whoSays(state.from)}`

const whoSays = (from: string | undefined): string =>
  from === undefined ? '–' : from === 'channel' ? 'the channel’s settings' : `the configuration, ${from}`
