/** Open connections: those whose other side takes least first. */
import { useSignal } from '@preact/signals'
import type { ConnectionJson } from '../wire.ts'
import { ask, useEvery, wordsOf } from './ask.ts'
import { age, bytes, count } from './text.ts'

const LOOK_MS = 2_000
const SHOWN = 200

interface ConnectionsJson {
  readonly count: number
  readonly connections: readonly ConnectionJson[]
}

const DOORS: Readonly<Record<ConnectionJson['door'], string>> = {
  stream: 'WebSocket',
  sse: 'event stream',
  poll: 'poll',
  http: 'call',
  idle: 'idle',
}

export function Connections() {
  const found = useSignal<ConnectionsJson | undefined>(undefined)
  const wrong = useSignal<string | undefined>(undefined)
  useEvery(
    LOOK_MS,
    async (signal) => {
      try {
        found.value = await ask<ConnectionsJson>(`admin/connections?limit=${SHOWN}`, { signal })
        wrong.value = undefined
      } catch (error) {
        if (!signal.aborted) wrong.value = wordsOf(error)
      }
    },
    [],
  )
  const { count: all = 0, connections = [] } = found.value ?? {}
  return (
    <main>
      <div class="bar">
        <h1>Connections</h1>
        <span class="quiet" role="status">
          {found.value === undefined
            ? '…'
            : `${connections.length < all ? `${count(connections.length)} of ` : ''}${count(all)}`}
        </span>
      </div>
      {wrong.value !== undefined && <p class="warn">{wrong.value}</p>}
      <div class="scrolled">
        <table>
          <thead>
            <tr>
              <th scope="col">Address</th>
              <th scope="col">Door</th>
              <th scope="col">Client</th>
              <th scope="col" class="number wide">
                Channels
              </th>
              <th scope="col" class="number">
                Waiting
              </th>
              <th scope="col" class="wide">
                Opened
              </th>
            </tr>
          </thead>
          <tbody>
            {connections.map(({ address, door, client, subscriptions, waiting, since }) => (
              <tr key={address}>
                <td class="whole">{address}</td>
                <td class="whole">{DOORS[door] ?? door}</td>
                <td>{client ?? '–'}</td>
                <td class="number wide">{door === 'stream' ? count(subscriptions) : '–'}</td>
                <td class={waiting > 0 ? 'number lags' : 'number'}>{bytes(waiting)}</td>
                <td class="wide whole">{age(since)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </main>
  )
}
