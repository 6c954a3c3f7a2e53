/**
 * Several gateways as one log: each call goes through another one than the call before it, so that what one of them
 * answered every other must know. Calls that wait together go through one, which keeps their order.
 */
import type { Log, Submission } from '../../src/log/log.ts'

/** `Log.submit` over an `append`. */
export const submitBy =
  (append: Log['append']): Log['submit'] =>
  ({ channel, body, expectedSeq, idempotencyKey, create, appended, failed }: Submission): void => {
    const entry = { channel, body, ...(expectedSeq !== undefined && { expectedSeq }) }
    const options = { create, ...(idempotencyKey !== undefined && { idempotencyKey }) }
    append([entry], options).then(([answer]) => appended(answer!), failed)
  }

/** Whichever it is; all are asked, so that all want to be it. */
export const isAnyKeeper = (logs: readonly Log[]): boolean => logs.filter((log) => log.isKeeper ?? true).length > 0

export function alternating(logs: readonly Log[]): Log {
  let [under, turn] = [0, 0]
  const next = (): Log => logs[(under === 0 ? ++turn : turn) % logs.length]!
  const on = (log: Log, name: string, args: readonly unknown[]): Promise<unknown> =>
    Reflect.apply(Reflect.get(log, name), log, args)
  const call = (name: string, args: readonly unknown[]): Promise<unknown> => {
    const answer = on(next(), name, args)
    under++
    return answer.finally(() => {
      under--
    })
  }
  const submit = submitBy((entries, options) => call('append', [entries, options]) as ReturnType<Log['append']>)
  return new Proxy(logs[0]!, {
    get(first, name) {
      if (name === 'isKeeper') return isAnyKeeper(logs)
      const member: unknown = Reflect.get(first, name)
      if (typeof member !== 'function') return member
      if (name === 'health') return () => first.health()
      // It may be a moment old: not what the gateway before just answered.
      if (name === 'recent') return () => undefined
      if (name === 'changed') return (...args: Parameters<Log['changed']>) => next().changed(...args)
      if (name === 'submit') return submit
      if (name === 'channels' || name === 'cursors' || name === 'allCursors')
        return (...args: unknown[]) => on(next(), name, args)
      if (name === 'close') return () => Promise.all(logs.map((log) => log.close()))
      return (...args: unknown[]) => call(String(name), args)
    },
  })
}
