/** The child's end of teller.ts: how a process that will be killed tells what it does. */
import { writeSync } from 'node:fs'

/** One synchronous write: a line that the parent has is a line that was said before the kill. */
export const tell = (line: unknown): void => {
  writeSync(1, `${JSON.stringify(line)}\n`)
}

/** The same, some of its verbs told before and after each. */
export const toldOf = <T extends object>(of: T, verbs: readonly (keyof T)[]): T =>
  new Proxy(of, {
    get(target, name) {
      const verb: unknown = Reflect.get(target, name)
      if (!verbs.includes(name as keyof T)) return typeof verb === 'function' ? verb.bind(target) : verb
      return async (...args: unknown[]) => {
        tell({ verb: name, is: 'asked' })
        const answer: unknown = await (verb as (...args: unknown[]) => Promise<unknown>).apply(target, args)
        tell({ verb: name, is: 'done' })
        return answer
      }
    },
  })
