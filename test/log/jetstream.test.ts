import { describe, onTestFinished } from 'vitest'
import type { Log } from '../../src/log/log.ts'
import { type LogOptions, openLog } from '../../src/log/open.ts'
import { logContract, type Open } from './contract.ts'
import { natsOfFile } from './nats.ts'
import { list } from './reading.ts'

const nats = await natsOfFile()

let places = 0

const emptied = async (log: Log): Promise<void> => {
  for (const { channel } of await list(log.channels(''))) await log.delete(channel)
}

/** Logs that are closed when the test ends. To make streams takes longer than to empty those of a test before. */
function opener(options: Partial<LogOptions>): Open {
  const free: string[] = []
  const names = new Map<string, string>()
  return async ({ at, isUntouched } = {}) => {
    const known = at === undefined ? undefined : names.get(at)
    const namespace = known ?? (isUntouched ? undefined : free.pop()) ?? `t${++places}`
    if (at !== undefined) names.set(at, namespace)
    const log = await openLog({
      dir: 'nowhere',
      nats: { servers: [nats!.url], namespace, durability: 'fsync' },
      ...options,
    })
    onTestFinished(async () => {
      await log.close()
      if (known === undefined) free.push(namespace)
    })
    if (known === undefined) await emptied(log)
    return log
  }
}

describe.skipIf(!nats)('a nats-server', () => {
  logContract('jetstream', opener({}), ['multiChannel'])
  logContract('jetstream that keeps nothing in memory', opener({ tailBytes: 0 }), ['multiChannel'])
})
