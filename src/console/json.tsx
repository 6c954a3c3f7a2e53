/** A JSON value as a tree whose parts open and close; what is closed is not in the page. */
import { useSignal } from '@preact/signals'
import { count, visible } from './text.ts'

/** Parts of an object or array, and characters of a string, that are shown until more are asked for. */
const PARTS = 100
const CHARS = 2_000
/** Levels that are open at first. */
const OPEN = 2

export function Json({ value, name, depth = 0 }: { value: unknown; name?: string; depth?: number }) {
  const label = name === undefined ? undefined : <span class="name">{visible(name)}: </span>
  if (value !== null && typeof value === 'object') return <Parts value={value} label={label} depth={depth} />
  return (
    <div class="leaf">
      {label}
      {typeof value === 'string' ? <Text text={value} /> : <span class="literal">{String(value)}</span>}
    </div>
  )
}

function Parts({ value, label, depth }: { value: object; label: preact.ComponentChildren; depth: number }) {
  const open = useSignal(depth < OPEN)
  const most = useSignal(PARTS)
  const isList = Array.isArray(value)
  const names = Object.keys(value)
  const size = isList ? `[${count(names.length)}]` : `{${count(names.length)}}`
  if (names.length === 0)
    return (
      <div class="leaf">
        {label}
        <span class="literal">{isList ? '[]' : '{}'}</span>
      </div>
    )
  return (
    <details open={open.value} onToggle={({ currentTarget }) => (open.value = currentTarget.open)}>
      <summary>
        {label}
        <span class="quiet">{size}</span>
      </summary>
      {open.value && (
        <div class="parts">
          {names.slice(0, most.value).map((name) => (
            <Json key={name} name={name} value={(value as Record<string, unknown>)[name]} depth={depth + 1} />
          ))}
          {names.length > most.value && (
            <button type="button" class="link" onClick={() => (most.value += PARTS * 5)}>
              {count(names.length - most.value)} more
            </button>
          )}
        </div>
      )}
    </details>
  )
}

function Text({ text }: { text: string }) {
  const whole = useSignal(text.length <= CHARS)
  return (
    <bdi class="string">
      {visible(JSON.stringify(whole.value ? text : text.slice(0, CHARS)))}
      {!whole.value && (
        <button type="button" class="link" onClick={() => (whole.value = true)}>
          all {count(text.length)} characters
        </button>
      )}
    </bdi>
  )
}
