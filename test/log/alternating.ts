/**
 * Several gateways as one log: each call goes through another one than the call before it, so that what one of them
 * answered every other must know. Calls that wait together go through one, which keeps their order.
 */
import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { hasCode } from '../../src/errors.ts'
import type { Append, Appended, AppendOptions, Log, Submission } from '../../src/log/log.ts'

/** Between two tries of one call, ms. */
const AGAIN_MS = 50

/** What callers do who are told `unavailable`: they come again. Appends carry a key, so that each happens once. */
export class Patience {
  /** Tries that were refused, by what was said of their outcome. */
  readonly refused: Record<string, number> = {}
  /** The longest that a call took with all its tries, ms. */
  longest = 0
  calls = 0
  /** Appends that were answered, by key and channel: the next one under that key is a duplicate. */
  readonly #answered = new Map<string, Set<string>>()

  /** @param through calls another gateway each time @param isOver nobody is patient any more */
  async call(name: string, args: readonly unknown[], through: Through, isOver: () => boolean): Promise<unknown> {
    const started = performance.now()
    const given = name === 'append' ? keyed(args as [readonly Append[], AppendOptions?]) : args
    const wasThere = await this.#wasThere(name, given, through, isOver)
    for (let isDoubtful = false; ; ) {
      try {
        const answer = await through(name, given)
        this.calls++
        this.longest = Math.max(this.longest, performance.now() - started)
        if (name === 'delete') this.#answered.delete(given[0] as string)
        if (name === 'forget') return answer || (isDoubtful && wasThere)
        return name === 'append' ? this.#appended(given, answer as readonly Appended[], isDoubtful) : answer
      } catch (error) {
        if (isOver() || !hasCode(error, 'unavailable')) {
          // Its first try was the one that did it.
          if (isDoubtful && wasThere && hasCode(error, 'no-channel')) return undefined
          throw error
        }
        isDoubtful = true
        const outcome = String((error as { details?: { outcome?: string } }).details?.outcome ?? 'refused')
        this.refused[outcome] = (this.refused[outcome] ?? 0) + 1
        await delay(AGAIN_MS)
      }
    }
  }

  /** Whether there is what a call takes away, which its second try can not tell. */
  async #wasThere(name: string, args: readonly unknown[], through: Through, isOver: () => boolean): Promise<boolean> {
    if (name !== 'delete' && name !== 'forget') return false
    const look =
      name === 'delete'
        ? this.call('info', args.slice(0, 1), through, isOver)
        : this.call('cursor', args, through, isOver)
    return look.then(
      (found) => found !== undefined,
      () => false,
    )
  }

  #appended(args: readonly unknown[], answers: readonly Appended[], isDoubtful: boolean): readonly Appended[] {
    const { idempotencyKey } = args[1] as { idempotencyKey: string }
    const known = answers.some(({ channel }) => this.#answered.get(channel)?.has(idempotencyKey))
    for (const { channel } of answers)
      this.#answered.set(channel, (this.#answered.get(channel) ?? new Set()).add(idempotencyKey))
    if (!isDoubtful || known) return answers
    return answers.map(({ duplicate, ...answer }) => answer)
  }
}

type Through = (name: string, args: readonly unknown[]) => Promise<unknown>

const keyed = ([entries, options]: [readonly Append[], AppendOptions?]): readonly unknown[] => [
  entries,
  { ...options, idempotencyKey: options?.idempotencyKey ?? randomUUID() },
]

/** @param patience what is `unavailable` is asked again; without it, callers are told */
export function alternating(logs: readonly Log[], patience?: Patience): Log {
  let [under, turn, isClosed] = [0, 0, false]
  const another = (): Log => logs[++turn % logs.length]!
  const next = (): Log => (under === 0 ? another() : logs[turn % logs.length]!)
  const on = (log: Log, name: string, args: readonly unknown[]): Promise<unknown> =>
    Reflect.apply(Reflect.get(log, name), log, args)
  const call = (name: string, args: readonly unknown[]): Promise<unknown> => {
    const answer = patience
      ? patience.call(
          name,
          args,
          (...again) => on(another(), ...again),
          () => isClosed,
        )
      : on(next(), name, args)
    under++
    return answer.finally(() => {
      under--
    })
  }
  async function* all(name: 'channels' | 'cursors' | 'allCursors', args: readonly unknown[]): AsyncGenerator<unknown> {
    const log = next()
    const list = () => on(log, name, args) as unknown as AsyncIterable<unknown>
    if (!patience) return yield* list()
    const collect = async () => {
      const found: unknown[] = []
      for await (const one of list()) found.push(one)
      return found
    }
    yield* (await patience.call(name, [], collect, () => isClosed)) as unknown[]
  }
  const submit = ({ channel, body, expectedSeq, idempotencyKey, create, appended, failed }: Submission): void => {
    const entry = { channel, body, ...(expectedSeq !== undefined && { expectedSeq }) }
    const options = { create, ...(idempotencyKey !== undefined && { idempotencyKey }) }
    call('append', [[entry], options]).then(
      (answers) => appended((answers as readonly Appended[])[0]!),
      (error) => failed(error),
    )
  }
  return new Proxy(logs[0]!, {
    get(first, name) {
      // Whichever it is; all are asked, so that all want to be it.
      if (name === 'isKeeper') return logs.filter((log) => log.isKeeper ?? true).length > 0
      const member: unknown = Reflect.get(first, name)
      if (typeof member !== 'function') return member
      if (name === 'health') return () => first.health()
      // It may be a moment old: not what the gateway before just answered.
      if (name === 'recent') return () => undefined
      if (name === 'changed') return (...args: Parameters<Log['changed']>) => next().changed(...args)
      if (name === 'submit') return submit
      if (name === 'channels' || name === 'cursors' || name === 'allCursors')
        return (...args: unknown[]) => all(name, args)
      if (name === 'close')
        return async () => {
          isClosed = true
          await Promise.all(logs.map((log) => log.close()))
        }
      return (...args: unknown[]) => call(String(name), args)
    },
  })
}
