/** What this client shows the server. */
import { TidemarkError } from '../errors.ts'

/** A credential, or how to get one. A function is asked again before what it gave ends, and when the server refuses it. */
export type TokenSource = string | (() => string | Promise<string>) | undefined

export interface Tokens {
  /** @throws unauthorized, with what the app's function threw as its cause */
  token(): Promise<string | undefined>
  /** Forgets a refused token, unless another one was fetched since. True when another one can be had. */
  renew(refused: string | undefined): boolean
}

export function newTokens(source: TokenSource): Tokens {
  let given: string | undefined
  return {
    token: async () => {
      if (typeof source !== 'function') return source
      try {
        given ??= await source()
      } catch (cause) {
        throw new TidemarkError('unauthorized', 'No token', {}, { cause })
      }
      return given
    },
    renew: (refused) => {
      if (given === refused) given = undefined
      return typeof source === 'function'
    },
  }
}
