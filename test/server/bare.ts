/** Parts for tests of the hot calls: the handlers on a bare node:http server over a real log, with nothing before them. */
import { setMaxListeners } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { crc32 } from 'node:zlib'
import { pino } from 'pino'
import { onTestFinished } from 'vitest'
import { Keyring } from '../../src/access/keyring.ts'
import { decodeBlock, sealBlock } from '../../src/block.ts'
import type { Body } from '../../src/body.ts'
import { Audit } from '../../src/doors/audit.ts'
import { Census } from '../../src/doors/census.ts'
import { Counts } from '../../src/doors/counts.ts'
import type { Doors } from '../../src/doors/doors.ts'
import { Guard } from '../../src/doors/guard.ts'
import { Pages } from '../../src/doors/pages.ts'
import { LogSwitch } from '../../src/doors/switch.ts'
import { Waits } from '../../src/doors/waits.ts'
import { toTidemarkError } from '../../src/errors.ts'
import type { Event } from '../../src/event.ts'
import { limitsOf } from '../../src/limits.ts'
import { Keeper } from '../../src/log/keeper.ts'
import type { Log } from '../../src/log/log.ts'
import { States } from '../../src/log/states.ts'
import type { HotCall } from '../../src/server/front.ts'
import { holdContinue, sendProblem } from '../../src/server/http.ts'
import { tempLog } from '../parts.ts'

export interface Bare {
  readonly log: Log
  readonly url: string
  readonly port: number
  /** Begins the server's stop, as the doors see it. */
  stop(): void
  /** Codes that were thrown by the handler or told by it in its own way. */
  readonly failures: string[]
  readonly metrics: Counts
  /** Handlers that are not done. */
  underWay(): number
  /** Resolves when the handler of each request so far is done. */
  settled(): Promise<unknown>
}

/** Everything is closed when the test ends. `given` replaces the log that the handler sees. */
export async function serveBare(handler: HotCall, given?: Log): Promise<Bare> {
  const log = given ?? (await tempLog())
  const logger = pino({ level: 'silent' })
  const streamerSwitch = await LogSwitch.open(log, logger)
  const metrics = new Counts()
  const stopping = new AbortController()
  setMaxListeners(0, stopping.signal)
  const failures: string[] = []
  const keyring = Keyring.none()
  const doors: Doors = {
    guard: new Guard(),
    census: new Census(log, limitsOf(), logger),
    audit: new Audit({ log, logger, isOn: () => false, started: () => ({}) }),
    log,
    keeper: new Keeper(log),
    states: new States(log),
    keyring,
    logger,
    metrics,
    switch: streamerSwitch,
    waits: new Waits(log, streamerSwitch, keyring, stopping.signal),
    pages: new Pages(),
    stopping: stopping.signal,
    settings: {
      server: 'tidemark/test',
      path: '/v1',
      retryWindow: 100,
      createChannels: true,
      heartbeat: 25_000,
      limits: limitsOf(),
    },
    failed: (_door, error) => void failures.push(toTidemarkError(error).code),
  }
  const calls: Promise<unknown>[] = []
  let underWay = 0
  const server = createServer((req, res) => {
    const failed = (error: unknown): void => {
      failures.push(toTidemarkError(error).code)
      if (!res.destroyed) sendProblem(res, error)
    }
    underWay++
    const call = handler(req, res, doors, keyring.anybody)
      .catch(failed)
      .finally(() => underWay--)
    calls.push(call)
  })
  server.on('checkContinue', (req, res) => {
    holdContinue(req)
    server.emit('request', req, res)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(async () => {
    stopping.abort()
    server.closeAllConnections()
    await Promise.all([streamerSwitch.close(), new Promise((resolve) => server.close(resolve))])
  })
  const { port } = server.address() as AddressInfo
  return {
    log,
    url: `http://127.0.0.1:${port}`,
    port,
    stop: () => stopping.abort(),
    failures,
    metrics,
    underWay: () => underWay,
    settled: () => Promise.all(calls),
  }
}

/** A body's events, as a reader gets them. */
export const eventsOf = (body: Body): Event[] => decodeBlock(sealBlock('orders', [body], { after: 0, time: 0 }, crc32))

/** Waits until it holds, looking again at each turn of the event loop. */
export async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await holds())) await new Promise((resolve) => setTimeout(resolve, 5))
}
