/** What the log keeps: the runs of the whole server, and channels by the space that they take. */
import { signal, useSignal } from '@preact/signals'
import { useEffect } from 'preact/hooks'
import type { KeeperJson, RunJson, SpaceJson, SpaceRowJson } from '../wire.ts'
import { ask, useEvery, wordsOf } from './ask.ts'
import { limitsText } from './limits.ts'
import { keepingHref, replaceQuery, route } from './route.ts'
import { outcomeOf, Progress, whenOf, workOf } from './runs.tsx'
import { Search } from './search.tsx'
import { age, bytes, count, sizeText, until } from './text.ts'

const LOOK_MS = 5_000
const RUNS_MS = 1_000
/** From a key to the search for it, ms. */
const TYPING_MS = 150
/** Rows of a page. */
const SHOWN = 100

type Order = 'channel' | 'bytes' | 'events' | 'trimmed' | 'time'
interface Asked {
  readonly by: Order
  readonly reverse: boolean
  readonly holds: string
  readonly skip: number
}
const FIRST: Asked = { by: 'bytes', reverse: false, holds: '', skip: 0 }

/** They outlive the page, so that coming back finds the place again. */
const asked = signal<Asked>(FIRST)
const space = signal<SpaceJson | undefined>(undefined)

export function Keeping() {
  return (
    <main class="keeping">
      <div class="bar">
        <h1>Keeping</h1>
        <Keeper keeper={space.value?.keeper} />
      </div>
      <Runs />
      <Spaces />
    </main>
  )
}

function Keeper({ keeper }: { keeper: KeeperJson | undefined }) {
  if (keeper === undefined) return <span class="quiet">…</span>
  const { lookedAt, nextLookAt, events, cursors } = keeper
  return (
    <span class="quiet">
      {`Retention looked at all channels ${lookedAt === null ? 'not yet' : age(lookedAt)}${nextLookAt === null ? '' : `, looks next ${until(nextLookAt)}`}; since the start it dropped ${count(events)} events and forgot ${count(cursors)} cursors.`}
    </span>
  )
}

// ── Runs ─────────────────────────────────────────────────────────────────────────────────────────────────────────

function Runs() {
  const runs = useSignal<readonly RunJson[] | undefined>(undefined)
  const wrong = useSignal<string | undefined>(undefined)
  const look = async (signal?: AbortSignal) => {
    try {
      runs.value = (await ask<{ runs: RunJson[] }>('admin/runs', { signal })).runs
      wrong.value = undefined
    } catch (error) {
      if (!signal?.aborted) wrong.value = wordsOf(error)
    }
  }
  useEvery(RUNS_MS, look, [])
  const isVerifying = runs.value?.some(({ work, running }) => work === 'verify' && running)
  const stop = async ({ work, channel }: RunJson) => {
    try {
      await ask(`channels/${channel}/${work}`, { method: 'DELETE' })
      await look()
    } catch (error) {
      wrong.value = wordsOf(error)
    }
  }
  const verify = async () => {
    try {
      await ask('admin/verify', { method: 'POST', body: '{}' })
      await look()
    } catch (error) {
      wrong.value = wordsOf(error)
    }
  }
  return (
    <section>
      <div class="bar">
        <h2>Runs</h2>
        <button type="button" onClick={verify} disabled={runs.value === undefined || isVerifying}>
          Verify the log
        </button>
        {wrong.value !== undefined && <span class="warn">{wrong.value}</span>}
      </div>
      {/* As high with runs as without, so that nothing below it moves. */}
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls is reached by the keyboard */}
      <ul class="runs" tabIndex={0} aria-label="Runs in the background, newest first">
        {runs.value?.map((run) => (
          <Run key={`${run.work} ${run.startedAt}`} run={run} onStop={stop} />
        ))}
        {runs.value?.length === 0 && <li class="quiet">No run since the server started</li>}
      </ul>
    </section>
  )
}

function Run({ run, onStop }: { run: RunJson; onStop: (run: RunJson) => void }) {
  const { channel, running, failed } = run
  const outcome = outcomeOf(run)
  return (
    <li>
      <span class="work">
        {workOf(run)}
        {channel !== undefined && (
          <>
            {' '}
            <a href={keepingHref(channel)}>{channel}</a>
          </>
        )}
      </span>
      <span class="outcome">
        {running ? (
          <Progress run={run} />
        ) : (
          <span class={failed ? 'warn' : undefined} title={outcome}>
            {outcome}
          </span>
        )}
      </span>
      <span class="quiet when">
        {whenOf(run)}
        {running && channel !== undefined && (
          <button
            type="button"
            class="stop"
            onClick={() => onStop(run)}
            aria-label={`Stop ${workOf(run)} of ${channel}`}
          >
            Stop
          </button>
        )}
      </span>
    </li>
  )
}

// ── Space ────────────────────────────────────────────────────────────────────────────────────────────────────────

function Spaces() {
  const here = route.value
  useEffect(() => {
    const { query } = here
    const by = query.get('by') as Order | null
    asked.value = {
      by: by !== null && COLUMNS.some((column) => column.by === by) ? by : FIRST.by,
      reverse: query.has('reverse'),
      holds: query.get('holds') ?? '',
      skip: Math.max(0, Math.floor(Number(query.get('skip') ?? 0)) || 0),
    }
  }, [here])
  const wrong = useSignal<string | undefined>(undefined)
  const { by, reverse, holds, skip } = asked.value
  useEvery(
    LOOK_MS,
    async (signal) => {
      if (space.peek() !== undefined) await new Promise((resolve) => setTimeout(resolve, TYPING_MS))
      if (signal.aborted) return
      replaceQuery('keeping', queryOf(asked.peek()))
      const query = new URLSearchParams({ by, holds, skip: String(skip), limit: String(SHOWN) })
      if (reverse) query.set('reverse', '1')
      try {
        space.value = await ask<SpaceJson>(`admin/space?${query}`, { signal })
        wrong.value = undefined
      } catch (error) {
        if (!signal.aborted) wrong.value = wordsOf(error)
      }
    },
    [by, reverse, holds, skip],
  )
  const found = space.value
  return (
    <section>
      <div class="bar">
        <h2>Space</h2>
        <Search
          what="Names that hold"
          most={200}
          value={holds}
          onSearch={(text) => {
            asked.value = { ...asked.value, holds: text, skip: 0 }
          }}
        />
        <span class="quiet" role="status">
          {found === undefined ? '…' : sumOf(found)}
        </span>
      </div>
      {wrong.value !== undefined && <p class="warn">{wrong.value}</p>}
      {found !== undefined && <List found={found} />}
      {found !== undefined && <Pages found={found} skip={skip} />}
      <p class="quiet">
        Sizes are the engine’s estimate of disk space: what was written last may not be among them, and what was removed
        just now may still be.
      </p>
    </section>
  )
}

const queryOf = ({ by, reverse, holds, skip }: Asked): Record<string, string> => ({
  ...{ by: by === FIRST.by ? '' : by, reverse: reverse ? '1' : '', holds },
  skip: skip === 0 ? '' : String(skip),
})

function sumOf({ found, channels, complete, events, bytes: size }: SpaceJson): string {
  const of = found < channels ? ` of ${complete ? '' : 'the first '}${count(channels)}` : ''
  const cut = !complete && of === '' ? ', the first by name' : ''
  return `${count(found)}${of} channels${cut}, ${count(events)} events${size === undefined ? '' : `, about ${bytes(size)}`}`
}

interface Column {
  readonly name: string
  /** What it is sorted by. */
  readonly by?: Order
  readonly class?: string
}
const COLUMNS: readonly Column[] = [
  { name: 'Channel', by: 'channel' },
  { name: 'Size', by: 'bytes', class: 'number' },
  { name: 'Events', by: 'events', class: 'number' },
  { name: 'Trimmed', by: 'trimmed', class: 'number wide' },
  { name: 'Oldest', class: 'number' },
  { name: 'Newest', by: 'time', class: 'number wide' },
  { name: 'Keeps', class: 'wide' },
  { name: 'Dropped last', class: 'wide' },
]

function List({ found: { rows } }: { found: SpaceJson }) {
  const { by, reverse } = asked.value
  const sort = (order: Order) => {
    asked.value = { ...asked.value, by: order, reverse: order === by && !reverse, skip: 0 }
  }
  if (rows.length === 0) return <p class="none">No channel has a name that holds this</p>
  return (
    <table class="space">
      <thead>
        <tr>
          {COLUMNS.map(({ name, by: order, class: kind }) => (
            <th
              key={name}
              scope="col"
              class={kind}
              aria-sort={order !== by ? undefined : isRising(by, reverse) ? 'ascending' : 'descending'}
            >
              {order === undefined ? (
                name
              ) : (
                <button type="button" class="link sort" onClick={() => sort(order)}>
                  {name}
                </button>
              )}
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {rows.map((row) => (
          <Row key={row.channel} row={row} />
        ))}
      </tbody>
    </table>
  )
}

/** Names begin with the first, all else with the most. */
const isRising = (by: Order, reverse: boolean): boolean => (by === 'channel') !== reverse

function Row({
  row: { channel, head, trimmed, time, bytes: size, oldest, retention, dropped },
}: {
  row: SpaceRowJson
}) {
  return (
    <tr>
      <td>
        <a href={keepingHref(channel)}>{channel}</a>
      </td>
      <td class="number">{sizeText(size)}</td>
      <td class="number">{count(head - trimmed)}</td>
      <td class="number wide">{count(trimmed)}</td>
      <td class="number">{age(oldest)}</td>
      <td class="number wide">{age(time)}</td>
      <td class={retention === undefined ? 'wide quiet' : 'wide'} title={retention?.from}>
        {limitsText(retention ?? {})}
      </td>
      <td class="wide">{dropped === undefined ? '' : `${count(dropped.events)}, ${age(dropped.time)}`}</td>
    </tr>
  )
}

function Pages({ found: { found, rows }, skip }: { found: SpaceJson; skip: number }) {
  if (found <= SHOWN && skip === 0) return null
  const go = (to: number) => {
    asked.value = { ...asked.value, skip: Math.max(0, to) }
  }
  return (
    <nav class="pages" aria-label="Pages of channels">
      <button type="button" disabled={skip === 0} onClick={() => go(skip - SHOWN)}>
        Previous
      </button>
      <span class="quiet">{`${count(Math.min(skip + 1, found))}–${count(skip + rows.length)} of ${count(found)}`}</span>
      <button type="button" disabled={skip + rows.length >= found} onClick={() => go(skip + SHOWN)}>
        Next
      </button>
    </nav>
  )
}
