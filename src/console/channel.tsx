/** One channel: what is known of it, its events as they come, and one of them whole. */
import { signal as makeSignal, useSignal } from '@preact/signals'
import type { ComponentChildren } from 'preact'
import { useEffect, useLayoutEffect, useMemo, useRef } from 'preact/hooks'
import type { ChannelEvent } from '../client/subscription.ts'
import type { ChannelInfoJson } from '../wire.ts'
import { ask, tidemark, useEvery, wordsOf } from './ask.ts'
import { Named } from './named.tsx'
import { Opened } from './opened.tsx'
import { cursorsHref, keepingHref } from './route.ts'
import { type Column, Rows } from './rows.tsx'
import { Search } from './search.tsx'
import { type Kept, placeOf, Tail } from './tail.ts'
import { age, bytes, clock, count, preview, rate, sizeText, visible } from './text.ts'

const INFO_MS = 2_000
/** Characters of an event's data in its row. */
const PREVIEW = 300
/** Where a tail begins. */
const NEWEST = 'head-100'

const COLUMNS: readonly Column[] = [
  { name: 'Seq', is: 'number' },
  { name: 'Time' },
  { name: 'Type', wide: true },
  { name: 'Key', wide: true },
  { name: 'Data' },
]

/** How the client is joined to the server. */
const state = makeSignal<string>(tidemark.state)
tidemark.onState((now) => {
  state.value = now
})
const STATES: Readonly<Record<string, string>> = {
  open: 'live over a WebSocket',
  polling: 'live by long polls',
  connecting: 'connecting …',
  waiting: 'trying again …',
}

export const Channel = ({ name }: { name: string }) => <Named name={name} page={Whole} />

function Whole({ name }: { name: string }) {
  // To begin at the same place again is to begin again.
  const place = useSignal<{ turn: number; after: number | string }>({ turn: 0, after: NEWEST })
  const opened = useSignal<ChannelEvent | undefined>(undefined)
  const tail = useMemo(() => new Tail(name, place.value.after), [place.value])
  useEffect(() => {
    void tail.run()
    return () => tail.close()
  }, [tail])
  return (
    <main
      class="filled channel"
      onKeyDown={({ key }) => {
        if (key === 'Escape') opened.value = undefined
      }}
    >
      <div class="bar">
        <h1>{name}</h1>
        <Facts name={name} />
      </div>
      <Controls
        tail={tail}
        onPlace={(after) => {
          place.value = { turn: place.value.turn + 1, after }
        }}
      />
      <div class="split">
        <Events
          key={place.value.turn}
          tail={tail}
          isNewest={place.value.after === NEWEST}
          onOpen={(event) => (opened.value = event)}
        />
        {opened.value !== undefined && <Opened event={opened.value} onClose={() => (opened.value = undefined)} />}
      </div>
    </main>
  )
}

function Facts({ name }: { name: string }) {
  const info = useSignal<ChannelInfoJson | undefined>(undefined)
  const speed = useSignal<number | undefined>(undefined)
  const wrong = useSignal<string | undefined>(undefined)
  const before = useMemo(() => ({ head: -1, at: 0 }), [])
  useEvery(
    INFO_MS,
    async (signal) => {
      try {
        const now = await ask<ChannelInfoJson>(`channels/${name}`, { signal })
        const at = performance.now()
        if (before.head >= 0) speed.value = Math.max(0, ((now.head - before.head) * 1_000) / (at - before.at))
        Object.assign(before, { head: now.head, at })
        info.value = now
        wrong.value = undefined
      } catch (error) {
        if (!signal.aborted) wrong.value = wordsOf(error)
      }
    },
    [],
  )
  if (wrong.value !== undefined) return <p class="warn">{wrong.value}</p>
  if (info.value === undefined) return <p class="quiet">…</p>
  const { head, trimmed, epoch, time, settings, bytes: size } = info.value
  return (
    <dl class="facts">
      <Fact name="Head">{count(head)}</Fact>
      <Fact name="Trimmed">{count(trimmed)}</Fact>
      <Fact name="Kept">{count(head - trimmed)}</Fact>
      {size !== undefined && <Fact name="Size">{sizeText(size)}</Fact>}
      <Fact name="Events/s">{speed.value === undefined ? '…' : rate(speed.value)}</Fact>
      <Fact name="Newest">{age(time)}</Fact>
      <Fact name="Epoch">
        <code>{epoch}</code>
      </Fact>
      {settings.note !== undefined && (
        <Fact name="Note">
          <bdi>{visible(settings.note)}</bdi>
        </Fact>
      )}
      <Fact name="Cursors">
        <a href={cursorsHref(name)}>their lag</a>
      </Fact>
      <Fact name="Keeping">
        <a href={keepingHref(name)}>retention, compaction</a>
      </Fact>
    </dl>
  )
}

const Fact = ({ name, children }: { name: string; children: ComponentChildren }) => (
  <div>
    <dt>{name}</dt>
    <dd>{children}</dd>
  </div>
)

function Controls({ tail, onPlace }: { tail: Tail; onPlace: (place: number | string) => void }) {
  const kind = useSignal(NEWEST)
  const value = useSignal('')
  const wrong = useSignal<string | undefined>(undefined)
  const begin = (event: Event) => {
    event.preventDefault()
    wrong.value = undefined
    try {
      onPlace(placeOf(kind.value, value.value))
    } catch (error) {
      wrong.value = wordsOf(error)
    }
  }
  const isPaused = tail.paused.value
  void tail.version.value
  return (
    <div class="controls">
      <form onSubmit={begin}>
        <label>
          From{' '}
          <select value={kind.value} onChange={({ currentTarget }) => (kind.value = currentTarget.value)}>
            <option value={NEWEST}>the newest 100</option>
            <option value="earliest">the oldest kept</option>
            <option value="seq">seq …</option>
            <option value="time">time …</option>
          </select>
        </label>
        {kind.value === 'seq' && (
          <input
            type="text"
            inputMode="numeric"
            pattern="[0-9]{1,16}"
            required
            aria-label="Seq to begin with"
            placeholder="42"
            value={value.value}
            onInput={({ currentTarget }) => (value.value = currentTarget.value)}
          />
        )}
        {kind.value === 'time' && (
          <input
            type="datetime-local"
            step="1"
            required
            aria-label="Time to begin at"
            value={value.value}
            onInput={({ currentTarget }) => (value.value = currentTarget.value)}
          />
        )}
        <button type="submit">Go</button>
      </form>
      <Search
        what="Type, key or data holds"
        label="Show events whose type, key, id or data holds"
        value={tail.filter.value}
        onSearch={(text) => tail.want(text)}
      />
      <button type="button" aria-pressed={isPaused} onClick={() => (tail.paused.value = !isPaused)}>
        {isPaused ? 'Go on' : 'Pause'}
      </button>
      <button type="button" onClick={() => tail.clear()}>
        Clear
      </button>
      <span class="quiet" role="status">
        {tail.over.value ?? (isPaused ? 'paused' : (STATES[state.value] ?? state.value))}
      </span>
      <span class="quiet">{`${count(tail.shown.length)} shown, ${count(tail.came)} came`}</span>
      {wrong.value !== undefined && <span class="warn">{wrong.value}</span>}
    </div>
  )
}

interface EventsProps {
  readonly tail: Tail
  /** Begins at the end of what comes; else at the place that was asked for. */
  readonly isNewest: boolean
  readonly onOpen: (event: ChannelEvent) => void
}

function Events({ tail, isNewest, onOpen }: EventsProps) {
  const at = useSignal(-1)
  const atEnd = useSignal(isNewest)
  void tail.version.value
  const { shown, dropped } = tail
  const before = useRef(dropped)
  useLayoutEffect(() => {
    if (at.value >= 0) at.value = Math.max(at.value - (dropped - before.current), -1)
    before.current = dropped
  }, [dropped])
  return (
    <div class="holder">
      <Rows
        label={`Events of ${tail.channel}`}
        kind="events"
        columns={COLUMNS}
        count={shown.length}
        cells={(i) => cellsOf(shown[i]!)}
        at={at}
        onOpen={(i) => {
          const { event } = shown[i]!
          if (event) onOpen(event)
        }}
        dropped={dropped}
        atEnd={atEnd}
        empty={tail.filter.value === '' ? 'No events yet' : 'Nothing here holds that'}
      />
      {!atEnd.value && (
        <button type="button" class="to-end" onClick={() => (atEnd.value = true)}>
          Newest
        </button>
      )}
    </div>
  )
}

/** A row that scrolls past is shown many times. */
const previews = new WeakMap<ChannelEvent, string>()

function cellsOf({ event, notice }: Kept) {
  if (event === undefined) return notice!
  let text = previews.get(event)
  if (text === undefined) {
    text = previewOf(event)
    previews.set(event, text)
  }
  const { seq, time, type, key } = event
  return [count(seq), clock(time), type ?? '', <bdi>{visible(key ?? '')}</bdi>, <bdi>{text}</bdi>]
}

function previewOf({ data, dataBase64, contentType, tombstone }: ChannelEvent): string {
  if (tombstone) return '(tombstone)'
  if (dataBase64 !== undefined) return `${contentType}, ${bytes((dataBase64.length * 3) / 4)}`
  if (data === undefined) return ''
  return contentType !== undefined && typeof data === 'string'
    ? visible(data.slice(0, PREVIEW))
    : preview(data, PREVIEW)
}
