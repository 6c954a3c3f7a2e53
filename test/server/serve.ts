/** Real parts for tests: a server on a free port over a log of its own, both closed when the test ends. */
import { onTestFinished } from 'vitest'
import { encodeBody } from '../../src/body.ts'
import { TidemarkError } from '../../src/errors.ts'
import type { Log, Submission } from '../../src/log/log.ts'
import type { ServerOptions } from '../../src/server/options.ts'
import { type RunningServer, startServer } from '../../src/server/server.ts'
import { event, range, tempLog } from '../parts.ts'

export interface TestServer {
  readonly url: string
  readonly port: number
  readonly log: Log
  readonly server: RunningServer
}

export interface TestServerOptions extends ServerOptions {
  /** A log to serve; its owner closes it. Default: a fresh one. */
  readonly log?: Log
}

/** Every answer is checked against its schema on the way out. */
export async function startTestServer({ log, ...options }: TestServerOptions = {}): Promise<TestServer> {
  const served = log ?? (await tempLog())
  const server = await startServer(served, { port: 0, checkAnswers: true, ...options })
  onTestFinished(() => server.close())
  return { url: server.url, port: server.port, log: served, server }
}

/** A server whose log has no room for what compaction or erasing would put there: a run on channel `a` waits for it. */
export async function startHeld(): Promise<TestServer> {
  const log = await tempLog()
  for (const n of range(1, 40)) await log.append([{ channel: 'a', body: encodeBody([event(n, { key: `k${n % 4}` })]) }])
  const replace = async (): Promise<never> => {
    throw new TidemarkError('too-many', 'Too many appends wait to be written')
  }
  return { ...(await startTestServer({ log: logWith(log, { replace }) })), log }
}

/** A real log, one of its verbs in other hands: for delays and faults that can not be had otherwise. */
export function logWith(log: Log, verbs: Partial<Log>): Log {
  return new Proxy(log, {
    get(target, name) {
      const { append } = verbs
      if (name === 'submit' && append)
        return (one: Submission) =>
          append([one], one).then(
            ([answer]) => one.appended(answer!),
            (error: unknown) => one.failed(error),
          )
      const verb: unknown = Reflect.get(verbs, name) ?? Reflect.get(target, name)
      return typeof verb === 'function' ? verb.bind(target) : verb
    },
  })
}
