/** The server at a glance: its state, the switch of the streamer, and charts of the last minutes. */
import { useSignal } from '@preact/signals'
import type { FiguresJson } from '../wire.ts'
import { ask, useEvery, wordsOf } from './ask.ts'
import { Chart, type Line } from './chart.tsx'
import { figures, headSamples, heads, lookAtHeads, type Sample, samples } from './history.ts'
import { channelHref } from './route.ts'
import { bytes, count, duration, rate, span } from './text.ts'

const HEADS_MS = 5_000
const LINES = ['--line-1', '--line-2', '--line-3', '--line-4', '--line-5'] as const

interface StatusJson {
  readonly server: string
  readonly engine: string
  readonly durability: string
  readonly idWindow: number
}

export function Overview() {
  const status = useSignal<StatusJson | undefined>(undefined)
  useEvery(
    30_000,
    async (signal) => {
      status.value = await ask<StatusJson>('admin/status', { signal })
    },
    [],
  )
  useEvery(HEADS_MS, lookAtHeads, [])
  const now = figures.value
  return (
    <main class="overview">
      <h1>Overview</h1>
      <div class="cards">
        <State now={now} status={status.value} />
        <Streamer now={now} />
        <Room now={now} />
      </div>
      <Charts />
    </main>
  )
}

function State({ now, status }: { now: FiguresJson | undefined; status: StatusJson | undefined }) {
  return (
    <section class="card">
      <h2>Server</h2>
      <dl>
        <dt>State</dt>
        <dd>
          <span class={`pill ${now?.state === 'ok' ? 'good' : 'bad'}`}>{now?.state ?? '…'}</span>
          {now?.reason !== undefined && <p class="warn">{now.reason}</p>}
        </dd>
        <dt>Version</dt>
        <dd>{status?.server ?? '…'}</dd>
        <dt>Engine</dt>
        <dd>{status === undefined ? '…' : `${status.engine}, answers after ${status.durability}`}</dd>
        <dt>Running for</dt>
        <dd>{now === undefined ? '…' : duration(Date.now() - Date.parse(now.startedAt))}</dd>
      </dl>
    </section>
  )
}

/** The switch as the server says it stands, whoever turned it. */
function Streamer({ now }: { now: FiguresJson | undefined }) {
  const turning = useSignal(false)
  const failed = useSignal<string | undefined>(undefined)
  const on = now?.streamer === 'on'
  const turn = async () => {
    turning.value = true
    failed.value = undefined
    try {
      await ask('admin/streamer', { method: 'PUT', body: JSON.stringify({ on: !on }) })
      figures.value = { ...figures.value!, streamer: on ? 'off' : 'on' }
    } catch (error) {
      failed.value = wordsOf(error)
    }
    turning.value = false
  }
  return (
    <section class="card streamer">
      <h2>Streamer</h2>
      <button
        type="button"
        role="switch"
        class="switch"
        aria-checked={on}
        disabled={now === undefined || turning.value}
        onClick={turn}
      >
        <span aria-hidden="true" />
        {now === undefined ? '…' : on ? 'On' : 'Off'}
      </button>
      <p class="quiet" role="status">
        {on ? 'Clients follow over WebSockets.' : 'Clients follow by long polls; nothing is lost.'}
      </p>
      {failed.value !== undefined && <p class="warn">{failed.value}</p>}
      <dl>
        <dt>Sockets</dt>
        <dd>{now === undefined ? '…' : count(now.sockets)}</dd>
        <dt>Waiting polls</dt>
        <dd>{now === undefined ? '…' : count(now.followers.poll)}</dd>
        <dt>Event streams</dt>
        <dd>{now === undefined ? '…' : count(now.followers.sse)}</dd>
        <dt>Connections</dt>
        <dd>{now === undefined ? '…' : <a href="#/connections">{count(now.connections)}</a>}</dd>
      </dl>
    </section>
  )
}

function Room({ now }: { now: FiguresJson | undefined }) {
  const looked = heads.value
  return (
    <section class="card">
      <h2>Load</h2>
      <dl>
        <dt>Memory</dt>
        <dd>{now === undefined ? '…' : bytes(now.memory)}</dd>
        <dt>Waiting appends</dt>
        <dd>{now === undefined ? '…' : `${count(now.pendingAppends)}, ${bytes(now.pendingBytes)}`}</dd>
        <dt>Log on disk</dt>
        <dd>{now?.disk === undefined ? '–' : bytes(now.disk.used)}</dd>
        <dt>Free on disk</dt>
        <dd>{now?.disk === undefined ? '–' : `${bytes(now.disk.free)} of ${bytes(now.disk.size)}`}</dd>
        <dt>Channels</dt>
        <dd>
          {looked === undefined ? (
            '…'
          ) : (
            <a href="#/channels">{`${looked.complete ? '' : 'more than '}${count(looked.channels)}`}</a>
          )}
        </dd>
      </dl>
    </section>
  )
}

function Charts() {
  const all = samples.value
  const times = all.map(({ time }) => time)
  const line = (name: string, color: string, of: (sample: Sample) => number | null): Line => ({
    ...{ name, color },
    values: all.map(of),
  })
  const moved = headSamples.value
  return (
    <div class="charts">
      <Chart
        title="Events"
        about="a second"
        times={times}
        text={rate}
        step={0.1}
        lines={[
          line('appended', '--line-1', ({ appended }) => appended),
          line('delivered', '--line-2', ({ delivered }) => delivered),
        ]}
      />
      <Chart
        title="Heads"
        about="events a second of the busiest channels"
        times={moved.map(({ time }) => time)}
        text={rate}
        step={0.1}
        lines={busiest().map((name, i) => ({
          name,
          color: LINES[i]!,
          href: channelHref(name),
          values: moved.map(({ rates }) => rates.get(name) ?? 0),
        }))}
      />
      <Chart
        title="Writes"
        about="time of one write with its fsync"
        times={times}
        text={span}
        step={0.01}
        lines={[
          line('mean', '--line-1', ({ write }) => write),
          line('99 of 100', '--line-3', ({ slowWrite }) => slowWrite),
        ]}
      />
      <Chart
        title="Followers"
        about="joined now"
        reach={4}
        times={times}
        text={count}
        step={1}
        lines={[
          line('sockets', '--line-1', ({ sockets }) => sockets),
          line('event streams', '--line-2', ({ streams }) => streams),
          line('waiting polls', '--line-4', ({ polls }) => polls),
        ]}
      />
    </div>
  )
}

/** The channels that moved most in the time that is shown, by name, so that lines keep their colours. */
function busiest(): string[] {
  const sums = new Map<string, number>()
  for (const { rates } of headSamples.value)
    for (const [name, rate] of rates) sums.set(name, (sums.get(name) ?? 0) + rate)
  return [...sums]
    .sort(([, a], [, b]) => b - a)
    .slice(0, LINES.length)
    .map(([name]) => name)
    .sort()
}
