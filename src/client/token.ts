/** What this client shows the server. */
import { TidemarkError } from '../errors.ts'

/** A credential, or how to get one. A function is asked again before what it gave ends, and when the server refuses it. */
export type TokenSource = string | (() => string | Promise<string>) | undefined

export interface Tokens {
  /** @throws the TidemarkError that the app's function threw; `unavailable`, with whatever else it threw as its cause */
  token(): Promise<string | undefined>
  /** Forgets a refused token, unless another one was fetched since. True when another one can be had. */
  renew(refused: string | undefined): boolean
}

export function newTokens(source: TokenSource): Tokens {
  /** What is shown, or is being fetched for all who ask meanwhile. */
  let given: Promise<string> | undefined
  /** The same once it is there; until then what no token is. */
  let known: unknown

  const fetched = async (): Promise<string> => {
    known = fetched
    const token = await (source as () => string)()
    known = token
    return token
  }

  return {
    token: async () => {
      if (typeof source !== 'function') return source
      given ??= fetched()
      try {
        return await given
      } catch (cause) {
        given = undefined
        throw cause instanceof TidemarkError ? cause : new TidemarkError('unavailable', 'No token', {}, { cause })
      }
    },
    renew: (refused) => {
      if (known === refused) given = undefined
      return typeof source === 'function'
    },
  }
}
