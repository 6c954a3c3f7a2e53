/** Compaction of one channel: what it would free, begun after a look, how far it is, and what the last run came to. */
import { useSignal } from '@preact/signals'
import type { RunJson } from '../wire.ts'
import { ask, useEvery, wordsOf } from './ask.ts'
import { askFirst } from './dialogs.tsx'
import { outcomeOf, Progress, whenOf } from './runs.tsx'

const STATE_MS = 1_000

interface Options {
  readonly minLag: string
  /** Hours. */
  readonly minAge: string
  /** Days. */
  readonly tombstoneAge: string
}
const DEFAULTS: Options = { minLag: '1000', minAge: '0', tombstoneAge: '7' }

const bodyOf = ({ minLag, minAge, tombstoneAge }: Options, dryRun: boolean): string =>
  JSON.stringify({
    ...{ dryRun, minLag: Number(minLag) },
    ...{ minAge: Number(minAge) * 3_600, tombstoneAge: Number(tombstoneAge) * 86_400 },
  })

export function Compaction({ name }: { name: string }) {
  const run = useSignal<RunJson | undefined>(undefined)
  const wrong = useSignal<string | undefined>(undefined)
  const options = useSignal(DEFAULTS)
  /** What this page looked at, and in which run: other options are another plan, and so is the look of somebody else. */
  const looked = useSignal<{ options: Options; startedAt: string | undefined } | undefined>(undefined)
  const path = `channels/${name}/compact`
  useEvery(
    STATE_MS,
    async (signal) => {
      run.value = { work: 'compact', channel: name, ...(await ask<Omit<RunJson, 'work'>>(path, { signal })) }
    },
    [],
  )
  const begin = async (dryRun: boolean) => {
    wrong.value = undefined
    const asked = options.value
    const answer = await ask<Omit<RunJson, 'work'>>(path, { method: 'POST', body: bodyOf(asked, dryRun) })
    looked.value = { options: asked, startedAt: answer.startedAt }
    run.value = { work: 'compact', channel: name, ...answer }
  }
  const look = async (event: Event) => {
    event.preventDefault()
    await begin(true).catch((error) => {
      wrong.value = wordsOf(error)
    })
  }
  const now = run.value
  const isLook = now?.dryRun === true && now.report !== undefined && !now.running
  const isPlan = isLook && looked.value?.options === options.value && looked.value.startedAt === now.startedAt
  const really = () =>
    askFirst({
      title: `Compact ${name}?`,
      text: `The newest event of each key stays, and every event without one. A look said: ${outcomeOf(now!)}. It runs in the background, while clients append and follow.`,
      verb: 'Compact',
      isDanger: true,
      act: () => begin(false),
    })
  return (
    <section class="card compaction">
      <h2>Compaction</h2>
      <p class="quiet">Keeps the newest event of each key, and every event without one; gives the space back.</p>
      <form onSubmit={look}>
        <Numbers options={options.value} onChange={(part) => (options.value = { ...options.value, ...part })} />
        <div class="state">{now !== undefined && <State run={now} />}</div>
        {wrong.value !== undefined && (
          <p class="warn" role="alert">
            {wrong.value}
          </p>
        )}
        <div class="buttons">
          <button type="submit" disabled={now === undefined || now.running}>
            Look what it frees
          </button>
          <button type="button" class="main" disabled={!isPlan} onClick={really}>
            Compact …
          </button>
        </div>
      </form>
    </section>
  )
}

function State({ run }: { run: RunJson }) {
  if (run.running) return <Progress run={run} />
  if (run.startedAt === undefined) return <p class="quiet">No run of this channel since the server started.</p>
  return (
    <>
      <p class={run.failed ? 'warn' : undefined} role="status">
        {outcomeOf(run)}
      </p>
      <p class="quiet">{whenOf(run)}</p>
    </>
  )
}

const FIELDS: readonly (readonly [keyof Options, string, string])[] = [
  ['minLag', 'The newest stay untouched', 'events'],
  ['minAge', 'Younger ones stay untouched', 'hours'],
  ['tombstoneAge', 'Tombstones stay visible', 'days'],
]

function Numbers({ options, onChange }: { options: Options; onChange: (part: Partial<Options>) => void }) {
  return (
    <div class="amounts">
      {FIELDS.map(([field, label, unit]) => (
        <label key={field} class="field">
          <span>{label}</span>
          <input
            type="number"
            min={0}
            step={field === 'minLag' ? 1 : 'any'}
            required
            value={options[field]}
            onInput={({ currentTarget }) => onChange({ [field]: currentTarget.value })}
          />
          <span>{unit}</span>
        </label>
      ))}
    </div>
  )
}
