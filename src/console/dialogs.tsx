/** Questions that are asked before something is changed for good. */
import { signal, useSignal } from '@preact/signals'
import { useLayoutEffect, useRef } from 'preact/hooks'
import { wordsOf } from './ask.ts'

export interface Question {
  readonly title: string
  readonly text: string
  /** What the button says that does it. */
  readonly verb: string
  readonly isDanger?: boolean
  /** Asks for a number too. */
  readonly number?: { readonly label: string; readonly value: number; readonly most: number }
  /** What fails is told in the dialog, which stays. */
  readonly act: (number: number) => Promise<void>
}

const asked = signal<Question | undefined>(undefined)

export function askFirst(question: Question): void {
  asked.value = question
}

export function Dialogs() {
  return asked.value === undefined ? null : <Dialog question={asked.value} />
}

function Dialog({ question }: { question: Question }) {
  const { title, text, verb, isDanger, number, act } = question
  const box = useRef<HTMLDialogElement>(null)
  const value = useSignal(String(number?.value ?? ''))
  const busy = useSignal(false)
  const wrong = useSignal<string | undefined>(undefined)
  useLayoutEffect(() => {
    // The focus goes back to where it was.
    const before = document.activeElement
    box.current!.showModal()
    return () => before instanceof HTMLElement && before.isConnected && before.focus()
  }, [])
  const close = () => {
    asked.value = undefined
  }
  const submit = async (event: Event) => {
    event.preventDefault()
    busy.value = true
    try {
      await act(Number(value.value))
      close()
    } catch (error) {
      wrong.value = wordsOf(error)
    }
    busy.value = false
  }
  return (
    <dialog ref={box} aria-labelledby="dialog-title" onClose={close}>
      <form onSubmit={submit}>
        <h2 id="dialog-title">{title}</h2>
        <p>{text}</p>
        {number && (
          <label>
            {number.label}{' '}
            <input
              type="number"
              min={0}
              max={number.most}
              step={1}
              required
              value={value.value}
              onInput={({ currentTarget }) => (value.value = currentTarget.value)}
            />
          </label>
        )}
        {wrong.value !== undefined && <p class="warn">{wrong.value}</p>}
        <div class="buttons">
          <button type="button" onClick={close}>
            Cancel
          </button>
          <button type="submit" class={isDanger ? 'danger' : 'main'} disabled={busy.value}>
            {verb}
          </button>
        </div>
      </form>
    </dialog>
  )
}
