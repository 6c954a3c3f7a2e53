/** A server with keys answers admins: who opens its console shows a key first. */
import { useSignal } from '@preact/signals'
import { hasCode } from '../errors.ts'
import { signIn, wordsOf } from './ask.ts'

const NO_KEY = 'This key is not good: it is wrong, was revoked, or has expired'
const NO_ADMIN = 'This is not the key of an admin'

export function SignIn() {
  const key = useSignal('')
  const busy = useSignal(false)
  const wrong = useSignal<string | undefined>(undefined)
  const submit = async (event: Event) => {
    event.preventDefault()
    busy.value = true
    wrong.value = undefined
    try {
      await signIn(key.value.trim())
    } catch (error) {
      if (hasCode(error, 'unauthorized')) wrong.value = NO_KEY
      else if (hasCode(error, 'forbidden')) wrong.value = NO_ADMIN
      else wrong.value = wordsOf(error)
    }
    busy.value = false
  }
  return (
    <main class="sign-in">
      <form onSubmit={submit}>
        <h1>Tidemark</h1>
        <label>
          Admin key
          <input
            type="password"
            name="key"
            autocomplete="off"
            spellcheck={false}
            required
            autofocus
            value={key.value}
            onInput={({ currentTarget }) => (key.value = currentTarget.value)}
          />
        </label>
        <p class="quiet">
          As <code>tidemark keys create admin</code> printed it. It stays in this tab until you sign out or close it.
        </p>
        {wrong.value !== undefined && (
          <p class="warn" role="alert">
            {wrong.value}
          </p>
        )}
        <button type="submit" class="main" disabled={busy.value}>
          Sign in
        </button>
      </form>
    </main>
  )
}
