/** What is told of the space of channels, of what limits would drop, and of the runs in the background. */
import { expect, test, vi } from 'vitest'
import { encodeBody } from '../../src/body.ts'
import { readRetentionRule } from '../../src/retention.ts'
import type { RunJson, SpaceJson } from '../../src/wire.ts'
import { body, event, range, tempLog } from '../parts.ts'
import { call, problemOf } from './calls.ts'
import { logWith, startTestServer } from './serve.ts'

const PATIENCE = { timeout: 15_000, interval: 50 }

test('channels by the space that they take: sorted, searched, in pages, with what retention does', async () => {
  const log = await tempLog()
  // As if tables held so much of them: what was written last is in none.
  const sizes: Record<string, number> = { 'logs/a': 3_000, 'logs/B': 1_000, orders: 2_000 }
  const served = logWith(log, { bytes: async (channel) => sizes[channel] ?? 0 })
  const { url } = await startTestServer({ log: served, retain: [readRetentionRule('logs/**: events=4, age=7d')] })
  const kept = { orders: 30, 'logs/a': 10, 'logs/B': 3, none: 0 }
  await log.configure('none', {})
  for (const [channel, events] of Object.entries(kept))
    if (events > 0) await log.append([{ channel, body: body(...range(1, events)) }])
  await log.trim('orders', 5)
  const ask = async (query: string) => (await call<SpaceJson>(`${url}/v1/admin/space?${query}`)).json
  const names = async (query: string) => (await ask(query)).rows.map(({ channel }) => channel)

  // A look is shared for a while: the first one may be of before retention was applied.
  await vi.waitFor(async () => expect((await ask('holds=logs/a')).rows[0]!.trimmed).toBe(6), PATIENCE)
  const all = await vi.waitFor(async () => {
    const found = await ask('')
    expect(found.events).toBe(25 + 4 + 3)
    // The look that trimmed may not be over.
    expect(found.keeper.lookedAt).not.toBeNull()
    return found
  }, PATIENCE)
  expect(all).toMatchObject({ channels: 4, complete: true, found: 4, bytes: 6_000 })
  expect(all.keeper).toMatchObject({ trims: 1, events: 6, cursors: 0 })
  expect(Date.parse(all.keeper.nextLookAt!)).toBeGreaterThan(Date.parse(all.keeper.lookedAt!))
  const [first] = all.rows
  expect(first).toMatchObject({ channel: 'logs/a', head: 10, trimmed: 6, bytes: 3_000, dropped: { events: 6 } })
  expect(first!.retention).toEqual({ maxEvents: 4, maxAge: 604_800, from: 'pattern logs/**' })
  expect(first!.oldest).toBe(first!.time)
  expect(all.rows.at(-1)).toMatchObject({ channel: 'none', time: null, oldest: null })

  expect(await names('by=bytes')).toEqual(['logs/a', 'orders', 'logs/B', 'none'])
  expect(await names('by=events')).toEqual(['orders', 'logs/a', 'logs/B', 'none'])
  expect(await names('by=events&reverse=1')).toEqual(['none', 'logs/B', 'logs/a', 'orders'])
  expect((await names('by=trimmed')).slice(0, 2)).toEqual(['logs/a', 'orders'])
  expect(await names('by=time')).toEqual(['logs/B', 'logs/a', 'orders', 'none'])
  expect(await names('by=channel')).toEqual(['logs/B', 'logs/a', 'none', 'orders'])
  expect(await names('by=channel&skip=1&limit=2')).toEqual(['logs/a', 'none'])
  const part = await ask('holds=LOGS&limit=1')
  expect(part).toMatchObject({ channels: 4, found: 2, events: 7, bytes: 4_000 })
  expect(part.rows).toHaveLength(1)

  const one = await ask('channel=orders')
  expect(one).toMatchObject({ found: 1, events: 25, bytes: 2_000, rows: [{ channel: 'orders', head: 30, trimmed: 5 }] })
  expect(one.rows[0]).not.toHaveProperty('retention')
  expect(problemOf(await call(`${url}/v1/admin/space?channel=gone`)).code).toBe('no-channel')
  // What went since the look is left out.
  await log.delete('orders')
  expect(await names('by=events')).not.toContain('orders')
  for (const wrong of ['limit=0', 'limit=201', 'skip=-1', 'by=age', 'reverse=0', 'channel=..', 'more=1'])
    expect([wrong, problemOf(await call(`${url}/v1/admin/space?${wrong}`)).code]).toEqual([wrong, 'bad-request'])
})

test('an engine that does not know how much a channel takes tells all the rest', async () => {
  const log = await tempLog()
  const { url } = await startTestServer({ log: logWith(log, { bytes: () => Promise.reject(new Error('not known')) }) })
  for (const [channel, events] of Object.entries({ a: 2, b: 5 }))
    await log.append([{ channel, body: body(...range(1, events)) }])
  const { json } = await call<SpaceJson>(`${url}/v1/admin/space`)
  expect(json).not.toHaveProperty('bytes')
  expect(json.rows.map(({ channel, bytes }) => [channel, bytes])).toEqual([
    ['b', undefined],
    ['a', undefined],
  ])
})

test('a plan says what limits would drop now, of the call or of the configuration, and drops nothing', async () => {
  const { url, log } = await startTestServer({ retain: [readRetentionRule('logs/**: events=4')] })
  await log.append([{ channel: 'logs/a', body: body(...range(1, 10)) }])
  // Its own settings keep everything: the keeper lets it be.
  await log.configure('logs/a', { retention: {} })
  const plan = async (query: string) => (await call(`${url}/v1/admin/retention?channel=logs/a${query}`)).json
  expect(await plan('')).toMatchObject({
    ...{ head: 10, trimmed: 0, upTo: 6, more: false },
    retention: { maxEvents: 4, from: 'pattern logs/**' },
  })
  expect(await plan('&maxEvents=9')).toMatchObject({ upTo: 1, retention: { maxEvents: 9, from: 'channel' } })
  const everything = await plan('&everything=1')
  expect(everything.upTo).toBe(0)
  expect(everything).not.toHaveProperty('retention')
  expect(await plan('&consumed=1')).toMatchObject({ upTo: 0 })
  await log.commit('web', 'logs/a', { seq: 3 })
  expect(await plan('&consumed=1')).toMatchObject({ upTo: 3, retention: { consumed: true } })
  expect(await plan('&maxAge=60&maxBytes=1')).toMatchObject({ upTo: 0 })
  expect((await log.info('logs/a')).trimmed).toBe(0)
  expect(problemOf(await call(`${url}/v1/admin/retention?channel=none&maxEvents=1`)).code).toBe('no-channel')
  for (const wrong of ['', 'channel=a&maxAge=0', 'channel=a&maxEvents=1.5', 'channel=a&consumed=0', 'channel=a&age=1'])
    expect([wrong, problemOf(await call(`${url}/v1/admin/retention?${wrong}`)).code]).toEqual([wrong, 'bad-request'])
})

test('the runs of a server: how far one is, what the others came to, newest first', async () => {
  const log = await tempLog()
  let go = (): void => {}
  const held = new Promise<void>((resolve) => {
    go = resolve
  })
  const served = logWith(log, {
    replace: async (channel, replacement) => {
      await held
      return log.replace!(channel, replacement)
    },
  })
  const { url } = await startTestServer({ log: served })
  const runs = async () => (await call<{ runs: RunJson[] }>(`${url}/v1/admin/runs`)).json.runs
  expect(await runs()).toEqual([])
  for (const i of range(1, 60))
    await log.append([{ channel: 'c', body: encodeBody([event('x'.repeat(500), { key: `k${i % 3}` })]) }])
  await log.trim('c', 10)
  await call(`${url}/v1/channels/c/compact`, 'POST', { minLag: 0 })
  const [running] = await vi.waitFor(async () => {
    const found = await runs()
    expect(found[0]).toMatchObject({ running: true, phase: 'rewriting' })
    return found
  }, PATIENCE)
  expect(running).toMatchObject({ work: 'compact', channel: 'c', trimmed: 10, head: 60, freed: 0, dryRun: false })
  await call(`${url}/v1/admin/verify`, 'POST', {})
  go()
  const ended = await vi.waitFor(async () => {
    const found = await runs()
    expect(found.map((run) => run.running)).toEqual([false, false])
    return found
  }, PATIENCE)
  expect(ended).toMatchObject([
    { work: 'verify', report: { whole: true, channels: 1, findings: 0, losses: 0 } },
    { work: 'compact', channel: 'c', report: { events: { before: 50, after: 3 }, blocks: { before: 50, after: 1 } } },
  ])
  expect(ended[1]).not.toHaveProperty('freed')
  await call(`${url}/v1/channels/c/erase`, 'POST', { seq: 60 })
  await vi.waitFor(async () => expect((await runs())[0]).toMatchObject({ work: 'erase', running: false }), PATIENCE)
  // The last 50 that ended.
  for (const _ of range(1, 60)) {
    await call(`${url}/v1/channels/c/compact`, 'POST', { dryRun: true })
    await vi.waitFor(async () => expect((await runs())[0]!.running).toBe(false), { timeout: 5_000, interval: 2 })
  }
  expect(await runs()).toHaveLength(50)
})
