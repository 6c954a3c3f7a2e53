/** Compaction of one channel: what it would free, begun after a look, and how far it is. */
import { useSignal } from '@preact/signals'
import { ask, useEvery, wordsOf } from './ask.ts'
import { askFirst } from './dialogs.tsx'
import { age, bytes, count } from './text.ts'

const STATE_MS = 2_000

interface Run {
  readonly running: boolean
  readonly dryRun?: boolean
  readonly phase?: string
  readonly seq?: number
  readonly head?: number
  readonly finishedAt?: string
  readonly report?: {
    readonly events: { readonly before: number; readonly after: number }
    readonly bytes: { readonly before: number; readonly after: number }
  }
  readonly failed?: { readonly code: string; readonly detail: string }
}

export function Compaction({ name }: { name: string }) {
  const run = useSignal<Run>({ running: false })
  const wrong = useSignal<string | undefined>(undefined)
  const path = `channels/${name}/compact`
  useEvery(
    STATE_MS,
    async (signal) => {
      run.value = await ask<Run>(path, { signal })
    },
    [],
  )
  const begin = async (dryRun: boolean) => {
    wrong.value = undefined
    run.value = await ask<Run>(path, { method: 'POST', body: JSON.stringify({ dryRun }) })
  }
  const look = () =>
    begin(true).catch((error) => {
      wrong.value = wordsOf(error)
    })
  const { running, dryRun, report } = run.value
  const isPlan = dryRun === true && report !== undefined && !running
  const really = () =>
    askFirst({
      title: `Compact ${name}?`,
      text: `The newest event of each key stays, and every event without one. ${freed(report!)} It runs in the background, while clients append and follow.`,
      verb: 'Compact',
      isDanger: true,
      act: () => begin(false),
    })
  return (
    <>
      {textOf(run.value)}{' '}
      {!running && (
        <button type="button" onClick={isPlan ? really : look}>
          {isPlan ? 'Compact …' : 'Look what it frees'}
        </button>
      )}
      {wrong.value !== undefined && <span class="warn"> {wrong.value}</span>}
    </>
  )
}

const freed = ({ events, bytes: size }: NonNullable<Run['report']>): string =>
  `${count(events.before - events.after)} of ${count(events.before)} events go, ${bytes(Math.max(0, size.before - size.after))} of ${bytes(size.before)}.`

function textOf({ running, dryRun, phase, seq = 0, head = 0, finishedAt, report, failed }: Run): string {
  if (running)
    return `${phase ?? 'reading'}, ${head === 0 ? 100 : Math.floor((seq / head) * 100)} %${dryRun ? ' (a look)' : ''}`
  if (failed) return `${failed.detail} (${failed.code})`
  if (report === undefined) return ''
  const { events, bytes: size } = report
  const gone = `${count(events.before - events.after)} events, ${bytes(Math.max(0, size.before - size.after))}`
  return dryRun ? `would free ${gone}` : `freed ${gone}, ${age(finishedAt ?? null)}`
}
