/** The retention of one channel: as it is set, and changed after a look at what that drops. */
import { useSignal } from '@preact/signals'
import type { ComponentChildren } from 'preact'
import type { ChannelInfoJson, PlanJson, RetentionJson } from '../wire.ts'
import { ask, useEvery, wordsOf } from './ask.ts'
import { askFirst } from './dialogs.tsx'
import {
  AGE_UNITS,
  type Amount,
  type Choice,
  type Draft,
  draftOf,
  limitsText,
  retentionOf,
  SIZE_UNITS,
} from './limits.ts'
import { count } from './text.ts'

/** From a key to the plan for it, ms. */
const TYPING_MS = 300
/** A plan is made anew this often, for events come. */
const PLAN_MS = 10_000

const CHOICES: readonly (readonly [Choice, string])[] = [
  ['configured', 'As the server is configured'],
  ['everything', 'Keep everything'],
  ['own', 'Limits of its own'],
]

interface RetentionProps {
  readonly info: ChannelInfoJson
  readonly isOurs: boolean
  readonly onChange: () => Promise<void>
}

export function Retention({ info, isOurs, onChange }: RetentionProps) {
  const saved = info.settings.retention
  // What is typed stays while others look on; what was applied is begun with anew.
  return (
    <section class="card retention">
      <h2>Retention</h2>
      {isOurs ? (
        <Limits key={JSON.stringify(saved ?? null)} info={info} onChange={onChange} />
      ) : (
        <p class="quiet">The server keeps its own channels itself: they are set in its configuration.</p>
      )}
    </section>
  )
}

function Limits({ info, onChange }: Omit<RetentionProps, 'isOurs'>) {
  const { channel, settings } = info
  const draft = useSignal<Draft>(draftOf(settings.retention))
  const plan = useSignal<PlanJson | string | undefined>(undefined)
  const change = (part: Partial<Draft>) => {
    draft.value = { ...draft.value, ...part }
  }
  const own = retentionOf(draft.value)
  const asked = JSON.stringify(own ?? null)
  const isEmpty = draft.value.choice === 'own' && Object.keys(own!).length === 0
  useEvery(
    PLAN_MS,
    async (signal) => {
      await new Promise((resolve) => setTimeout(resolve, TYPING_MS))
      if (signal.aborted || isEmpty) return
      try {
        plan.value = await planOf(channel, own, signal)
      } catch (error) {
        if (!signal.aborted) plan.value = wordsOf(error)
      }
    },
    [asked],
  )
  const isSame = asked === JSON.stringify(retentionOf(draftOf(settings.retention)) ?? null)
  const apply = async (event: Event) => {
    event.preventDefault()
    try {
      const now = await planOf(channel, own)
      plan.value = now
      askFirst({
        title: `Change what is kept of ${channel}?`,
        text: `${inForceText(now)} ${planText(now)} What is dropped is gone for good.`,
        verb: 'Apply',
        isDanger: now.upTo > now.trimmed || now.more,
        act: async () => {
          // The settings are replaced whole: what else they say stays.
          const { settings: fresh } = await ask<ChannelInfoJson>(`channels/${channel}`)
          const { retention: _, ...others } = fresh
          const body = { ...others, ...(own && { retention: own }) }
          await ask(`channels/${channel}`, { method: 'PUT', body: JSON.stringify(body) })
          await onChange()
        },
      })
    } catch (error) {
      plan.value = wordsOf(error)
    }
  }
  return (
    <form onSubmit={apply}>
      <fieldset>
        <legend class="hidden">What of {channel} is kept</legend>
        {CHOICES.map(([choice, text]) => (
          <label key={choice}>
            <input
              type="radio"
              name="choice"
              checked={draft.value.choice === choice}
              onChange={() => change({ choice })}
            />{' '}
            {text}
          </label>
        ))}
      </fieldset>
      <fieldset class="amounts" disabled={draft.value.choice !== 'own'}>
        <legend class="hidden">Its own limits</legend>
        <Field label="Age at most" units={AGE_UNITS} amount={draft.value.age} onChange={(age) => change({ age })} />
        <div class="field">
          <span>Events at most</span>
          <Numeric label="Events at most" value={draft.value.events} onInput={(events) => change({ events })} />
        </div>
        <Field
          label="Bytes at most"
          units={SIZE_UNITS}
          amount={draft.value.size}
          onChange={(size) => change({ size })}
        />
        <label>
          <input
            type="checkbox"
            checked={draft.value.consumed}
            onChange={({ currentTarget }) => change({ consumed: currentTarget.checked })}
          />{' '}
          Only what every cursor has passed goes
        </label>
      </fieldset>
      <div class="plan" role="status">
        {isEmpty ? <p class="quiet">Without any limit everything is kept.</p> : <Plan plan={plan.value} />}
      </div>
      <div class="buttons">
        <button type="button" disabled={isSame} onClick={() => (draft.value = draftOf(settings.retention))}>
          Undo
        </button>
        <button type="submit" class="main" disabled={isSame || isEmpty}>
          Apply …
        </button>
      </div>
    </form>
  )
}

function planOf(channel: string, own: RetentionJson | undefined, signal?: AbortSignal): Promise<PlanJson> {
  const query = new URLSearchParams({ channel })
  for (const [name, value] of Object.entries(own ?? {})) query.set(name, value === true ? '1' : String(value))
  // Limits that are none drop nothing, whatever the configuration says.
  if (own !== undefined && Object.keys(own).length === 0) query.set('everything', '1')
  return ask<PlanJson>(`admin/retention?${query}`, { signal })
}

function Plan({ plan }: { plan: PlanJson | string | undefined }): ComponentChildren {
  if (plan === undefined) return <p class="quiet">…</p>
  if (typeof plan === 'string') return <p class="warn">{plan}</p>
  const isDropping = plan.upTo > plan.trimmed
  return (
    <>
      <p>{inForceText(plan)}</p>
      <p class={isDropping || plan.more ? 'off' : 'quiet'}>{planText(plan)}</p>
    </>
  )
}

const inForceText = ({ retention }: PlanJson): string => {
  if (retention === undefined) return 'Everything is kept.'
  const by = retention.from === 'channel' ? '' : ` (configured, ${retention.from})`
  return `Kept: ${limitsText(retention)}${by}.`
}

function planText({ head, trimmed, upTo, more }: PlanJson): string {
  const gone = upTo - trimmed
  const beyond = more ? ' There is more to look through than at once: more may go.' : ''
  if (gone === 0) return more ? `How much would go takes longer to count than a look.` : 'Nothing would go now.'
  const share = Math.round((gone / (head - trimmed)) * 100)
  return `Now ${more ? 'at least ' : ''}${count(gone)} of ${count(head - trimmed)} events would go (${share} %): seqs ${count(trimmed + 1)} … ${count(upTo)}.${beyond}`
}

interface FieldProps {
  readonly label: string
  readonly units: Readonly<Record<string, number>>
  readonly amount: Amount
  readonly onChange: (amount: Amount) => void
}

function Field({ label, units, amount, onChange }: FieldProps) {
  return (
    <div class="field">
      <span>{label}</span>
      <Numeric label={label} value={amount.text} onInput={(text) => onChange({ ...amount, text })} />
      <select
        aria-label={`${label}, unit`}
        value={amount.unit}
        onChange={({ currentTarget }) => onChange({ ...amount, unit: currentTarget.value })}
      >
        {Object.keys(units).map((unit) => (
          <option key={unit} value={unit}>
            {unit}
          </option>
        ))}
      </select>
    </div>
  )
}

function Numeric({ label, value, onInput }: { label: string; value: string; onInput: (text: string) => void }) {
  return (
    <input
      type="text"
      inputMode="decimal"
      pattern="[0-9]{1,16}(\.[0-9]{1,6})?"
      title="A number"
      aria-label={label}
      placeholder="no limit"
      autocomplete="off"
      value={value}
      onInput={({ currentTarget }) => onInput(currentTarget.value)}
    />
  )
}
