/** What is withheld costs its reader nothing to ask for: between two turns of the event loop little of it is looked at. */
import { request } from 'node:http'
import { expect, onTestFinished, test } from 'vitest'
import { Principal } from '../../src/access/principal.ts'
import { isAddressed } from '../../src/audience.ts'
import { encodeBody } from '../../src/body.ts'
import type { Log, Page } from '../../src/log/log.ts'
import { TURN_BYTES } from '../../src/log/seen.ts'
import { readPattern } from '../../src/pattern.ts'
import { poll } from '../../src/server/poll.ts'
import { stream } from '../../src/server/sse.ts'
import { event, range, tempLog } from '../parts.ts'
import { serveBare, until } from './bare.ts'
import { call } from './calls.ts'

const eve = new Principal({
  kind: 'client',
  sub: 'eve',
  grants: [{ pattern: readPattern('**'), operations: ['read'] }],
  source: { isOver: false },
})
/** Most that one page takes beyond the rest. */
const PAGE_BYTES = 1024 * 1024 + 960 * 1024

/** The log, and the most bytes of addressed blocks that were given out between two turns of the event loop. */
async function metered(): Promise<{ log: Log; most: () => number }> {
  const log = await tempLog()
  let looked = 0
  let most = 0
  const note = (page: Page | undefined): Page | undefined => {
    const before = looked
    for (const block of page?.blocks ?? []) if (isAddressed(block)) looked += block.length
    if (before === 0 && looked > 0)
      setImmediate(() => {
        looked = 0
      })
    most = Math.max(most, looked)
    return page
  }
  const metering: Log = new Proxy(log, {
    get(target, name) {
      const value = Reflect.get(target, name)
      if (name === 'recent') return (...args: Parameters<Log['recent']>) => note(target.recent(...args))
      if (name === 'read') return async (...args: Parameters<Log['read']>) => note(await target.read(...args))
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
  return { log: metering, most: () => most }
}

const withheld = encodeBody(range(1, 1_000).map((value) => event(value, { to: { users: ['ben'], groups: [] } })))

test('a poll of many channels, all of it for somebody else', async () => {
  const { log, most } = await metered()
  const names = range(1, 200).map((i) => `c${i}`)
  await Promise.all(names.map((channel) => log.append([{ channel, body: withheld }])))
  const bare = await serveBare((req, res, doors) => poll(req, res, doors, eve), log)
  const channels = Object.fromEntries(names.map((name) => [name, { after: 0 }]))
  const { json } = await call(bare.url, 'POST', { channels, limit: 10_000 })
  console.log('bytes looked at in one turn:', most())
  expect(json.pages.map(({ last, events }: { last: number; events: [] }) => [last, events.length])).toEqual(
    names.map(() => [1_000, 0]),
  )
  expect(most()).toBeLessThan(TURN_BYTES + PAGE_BYTES)
})

test('a stream over a long history, all of it for somebody else', async () => {
  const { log, most } = await metered()
  await Promise.all(range(1, 200).map(() => log.append([{ channel: 'c', body: withheld }])))
  const bare = await serveBare((req, res, doors) => stream(req, res, doors, eve), log)
  let text = ''
  const req = request(`${bare.url}/v1/channels/c/events`, { headers: { accept: 'text/event-stream' } }, (res) =>
    res.setEncoding('utf8').on('data', (more: string) => {
      text += more
    }),
  )
  onTestFinished(() => void req.destroy())
  req.on('error', () => {})
  req.end()
  await until(() => text.includes('caughtup'))
  console.log('bytes looked at in one turn:', most())
  expect(text).toContain(':200000\n')
  expect(text).not.toContain('data: 1')
  expect(most()).toBeLessThan(TURN_BYTES + PAGE_BYTES)
})
