/** The server that this page was loaded from: calls, and the client for what is followed. */
import { signal } from '@preact/signals'
import { useEffect } from 'preact/hooks'
import { Tidemark } from '../client/browser.ts'
import { baseOf } from '../client/client.ts'
import { type Call, newHttp } from '../client/http.ts'
import { newTokens, type TokenSource } from '../client/token.ts'
import { TidemarkError } from '../errors.ts'

/** Calls lie where the server said in the page, whatever host and path the page was reached under. */
const base = baseOf(new URL(document.body.dataset.api!, document.baseURI))
/** Where an admin's key is kept: as long as this tab is open, and in no other one. */
const KEY = 'tidemark.key'
/** The one place that a credential comes from, for calls and client alike; a server without keys asks for none. */
const token: TokenSource = () => sessionStorage.getItem(KEY) ?? ''

const httpWith = (credential: TokenSource) => newHttp(base, newTokens(credential), (...request) => fetch(...request))
const http = httpWith(token)
export const tidemark = new Tidemark(base, { token })

/** Why the server can not be asked now; undefined while it answers. */
export const trouble = signal<string | undefined>()
/** The server asks for a credential, or for another one than this page has. */
export const isStranger = signal(false)
export const isSignedIn = (): boolean => sessionStorage.getItem(KEY) !== null

/** Begins anew with this key. @throws what the server says to it, when it is no admin's */
export async function signIn(key: string): Promise<void> {
  await httpWith(key).call({ path: 'admin/status' })
  sessionStorage.setItem(KEY, key)
  location.reload()
}

/** What is open was opened under the key: all of it begins anew. */
export function signOut(): void {
  sessionStorage.removeItem(KEY)
  location.reload()
}

/** @throws what the server answered; `unavailable` when no answer came; the signal's reason when it aborts. */
export async function ask<Answer>(path: string, call: Omit<Call, 'path'> = {}): Promise<Answer> {
  try {
    const { value } = await http.call<Answer>({ path, ...call })
    trouble.value = undefined
    return value
  } catch (error) {
    if (error instanceof TidemarkError) {
      trouble.value = error.code === 'unavailable' ? error.message : undefined
      if (error.code === 'unauthorized') isStranger.value = true
    }
    throw error
  }
}

/** What went wrong, in words for a person, with the fields that it is about. */
export function wordsOf(error: unknown): string {
  if (!(error instanceof TidemarkError)) return String(error)
  const { errors } = error.details as { errors?: readonly { pointer: string; detail: string }[] }
  const fields = errors?.map(({ pointer, detail }) => `${pointer.replace(/^\//, '')}: ${detail}`).join('; ')
  return `${error.message}${fields === undefined ? '' : `: ${fields}`} (${error.code})`
}

/**
 * While the component stands: runs `work` at once and again `ms` after each end. A page that nobody sees rests.
 * @param inputs as of useEffect: other ones begin anew
 */
export function useEvery(ms: number, work: (signal: AbortSignal) => Promise<void>, inputs: readonly unknown[]): void {
  useEffect(() => {
    const life = new AbortController()
    void every(ms, work, life.signal)
    return () => life.abort()
  }, inputs)
}

export async function every(
  ms: number,
  work: (signal: AbortSignal) => Promise<void>,
  over: AbortSignal,
): Promise<void> {
  while (!over.aborted) {
    // What failed was told; the next turn tries again. Who is asked for a key first is refused all else.
    if (!document.hidden && !isStranger.value) await work(over).catch(() => undefined)
    await new Promise<void>((resolve) => {
      const done = () => {
        clearTimeout(timer)
        over.removeEventListener('abort', done)
        resolve()
      }
      const timer = setTimeout(done, ms)
      over.addEventListener('abort', done)
    })
  }
}
