/** Cursors, those that lag most first; they can be moved and forgotten. */
import { useSignal } from '@preact/signals'
import type { CursorJson, WorstCursorsJson } from '../wire.ts'
import { ask, useEvery, wordsOf } from './ask.ts'
import { askFirst } from './dialogs.tsx'
import { channelHref, route } from './route.ts'
import { age, count } from './text.ts'

const LOOK_MS = 5_000
const SHOWN = 200

export function Cursors() {
  const channel = route.value.query.get('channel') ?? ''
  const found = useSignal<WorstCursorsJson | undefined>(undefined)
  const wrong = useSignal<string | undefined>(undefined)
  const look = async (signal?: AbortSignal) => {
    const query = new URLSearchParams({ limit: String(SHOWN) })
    if (channel !== '') query.set('channel', channel)
    try {
      found.value = await ask<WorstCursorsJson>(`admin/cursors?${query}`, { signal })
      wrong.value = undefined
    } catch (error) {
      if (!signal?.aborted) wrong.value = wordsOf(error)
    }
  }
  useEvery(LOOK_MS, look, [channel])
  /** A look is shared for a while; what was changed here is shown at once. */
  const show = (changed: CursorJson, now: CursorJson | undefined) => {
    const { cursors } = found.value!
    const kept = cursors.flatMap((cursor) => (isSame(cursor, changed) ? (now ?? []) : cursor))
    found.value = { ...found.value!, cursors: kept }
  }
  return (
    <main>
      <div class="bar">
        <h1>Cursors</h1>
        {channel !== '' && (
          <p class="quiet">
            of <a href={channelHref(channel)}>{channel}</a>, <a href="#/cursors">all channels</a>
          </p>
        )}
        <span class="quiet" role="status">
          {found.value === undefined ? '…' : aboutOf(found.value)}
        </span>
      </div>
      {wrong.value !== undefined && <p class="warn">{wrong.value}</p>}
      {found.value !== undefined && <List cursors={found.value.cursors} onChange={show} />}
    </main>
  )
}

const isSame = (a: CursorJson, b: CursorJson): boolean => a.channel === b.channel && a.client === b.client

const aboutOf = ({ cursors, found }: WorstCursorsJson): string =>
  cursors.length < found ? `the ${count(cursors.length)} that lag most of ${count(found)}` : count(found)

type Change = (changed: CursorJson, now: CursorJson | undefined) => void

function List({ cursors, onChange }: { cursors: readonly CursorJson[]; onChange: Change }) {
  if (cursors.length === 0) return <p class="none">No client has set a cursor here</p>
  return (
    <div class="scrolled">
      <table class="cursors">
        <thead>
          <tr>
            <th scope="col">Client</th>
            <th scope="col">Channel</th>
            <th scope="col" class="number">
              Lag
            </th>
            <th scope="col" class="number wide">
              Seq
            </th>
            <th scope="col" class="wide">
              Moved
            </th>
            <th scope="col">
              <span class="hidden">Change</span>
            </th>
          </tr>
        </thead>
        <tbody>
          {cursors.map((cursor) => (
            <tr key={`${cursor.channel} ${cursor.client}`}>
              <td class="client">{cursor.client}</td>
              <td class="at">
                <a href={channelHref(cursor.channel)}>{cursor.channel}</a>
              </td>
              <td class={cursor.lag > 0 ? 'number lags' : 'number'}>{count(cursor.lag)}</td>
              <td class="number wide">{count(cursor.seq)}</td>
              <td class="wide whole">{age(cursor.time)}</td>
              <td class="does">
                <button type="button" onClick={() => seek(cursor, onChange)}>
                  Seek …
                </button>
                <button type="button" onClick={() => forget(cursor, onChange)}>
                  Delete …
                </button>
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  )
}

const pathOf = ({ channel, client }: CursorJson): string => `channels/${channel}/cursors/${client}`

function seek(cursor: CursorJson, onChange: Change): void {
  const { client, channel, seq, lag } = cursor
  askFirst({
    title: `Move the cursor of ${client}`,
    text: `It stands after seq ${count(seq)} of ${channel}. Moved back, ${client} gets events again; moved on, it does not get those between. A client that runs may commit over it.`,
    verb: 'Move',
    number: { label: 'The last seq that counts as handled', value: seq, most: seq + lag },
    act: async (to) => {
      const body = JSON.stringify({ seq: to, seek: true })
      onChange(cursor, await ask<CursorJson>(pathOf(cursor), { method: 'PUT', body }))
    },
  })
}

function forget(cursor: CursorJson, onChange: Change): void {
  const { client, channel } = cursor
  askFirst({
    title: `Delete the cursor of ${client}`,
    text: `${client} will begin at the oldest kept event of ${channel} when it comes by its cursor again.`,
    verb: 'Delete',
    isDanger: true,
    act: async () => {
      await ask(pathOf(cursor), { method: 'DELETE' })
      onChange(cursor, undefined)
    },
  })
}
