import { afterAll, describe, onTestFinished } from 'vitest'
import type { Log } from '../../src/log/log.ts'
import { type LogOptions, openLog } from '../../src/log/open.ts'
import { logContract, type Open } from './contract.ts'
import { NatsServer, natsProgram } from './nats.ts'

const program = await natsProgram()
const nats = program === undefined ? undefined : new NatsServer(program)
await nats?.start()
afterAll(() => nats?.end())

let places = 0
const newPlace = (): string => `t${++places}`

/** Opens a log that is closed when the test ends. */
async function opened(namespace: string, options: Partial<LogOptions> = {}): Promise<Log> {
  const log = await openLog({
    dir: 'nowhere',
    nats: { servers: [nats!.url], namespace, durability: 'fsync' },
    ...options,
  })
  onTestFinished(() => log.close())
  return log
}

function opener(options: Partial<LogOptions>): Open {
  const names = new Map<string, string>()
  return ({ at } = {}) => {
    const name = (at !== undefined && names.get(at)) || newPlace()
    if (at !== undefined) names.set(at, name)
    return opened(name, options)
  }
}

describe.skipIf(!nats)('a nats-server', () => {
  logContract('jetstream', opener({}), ['multiChannel'])
  logContract('jetstream that keeps nothing in memory', opener({ tailBytes: 0 }), ['multiChannel'])
})
