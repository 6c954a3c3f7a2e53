import { describe, expect, test, vi } from 'vitest'
import { connect } from '../../src/client/node.ts'
import { ERRORS, type ErrorCode } from '../../src/errors.ts'
import type { Log } from '../../src/log/log.ts'
import { verifyLog } from '../../src/log/verify.ts'
import { readRetentionRule } from '../../src/retention.ts'
import { body, range, tempLog } from '../parts.ts'
import { type Answer, call, problemOf } from './calls.ts'
import { logWith, startHeld, startTestServer } from './serve.ts'

const append = (log: Log, channel: string, ...values: unknown[]) => log.append([{ channel, body: body(...values) }])

test('what is kept of a channel is set with it, is told, and is done soon; wrong limits are refused', async () => {
  const retain = [readRetentionRule('logs/**: age=7d, consumed')]
  const { url, log } = await startTestServer({ retain })
  await append(log, 'logs/a', ...range(1, 9))
  const at = `${url}/v1/channels/logs/a`
  const told = async () => (await call(at)).json.retention
  expect(await told()).toEqual({ maxAge: 604_800, consumed: true, from: 'pattern logs/**' })
  const retention = { maxAge: 60, maxEvents: 4, maxBytes: 1_000_000, consumed: false }
  const made = (await call(at, 'PUT', { note: 'n', retention })).json
  expect(made).toMatchObject({ settings: { note: 'n', retention }, retention: { ...retention, from: 'channel' } })
  expect(await told()).toEqual({ ...retention, from: 'channel' })
  expect((await call(`${url}/v1/channels`)).json.channels).toEqual([
    expect.not.objectContaining({ retention: expect.anything() }),
  ])
  await expect.poll(async () => (await call(at)).json.trimmed, { timeout: 20_000 }).toBe(5)
  expect((await call(`${url}/metrics`)).text).toContain('tidemark_retention_trimmed_events_total 5')
  await call(at, 'PUT', { retention: {} })
  expect(await told()).toBeUndefined()
  await call(at, 'PUT', {})
  expect(await told()).toMatchObject({ from: 'pattern logs/**' })
  for (const wrong of [
    { maxAge: 0 },
    { maxAge: 1.5 },
    { maxEvents: '5' },
    { maxBytes: -1 },
    { consumed: 1 },
    { age: 5 },
    7,
  ])
    expect(problemOf(await call(at, 'PUT', { retention: wrong })).code).toBe('bad-request')
})

describe('the list of channels', () => {
  test('goes by name, in pieces that say where the next one begins', async () => {
    const { url, log } = await startTestServer()
    for (const channel of ['b', 'repo/10', 'repo/2', 'repo/1', 'a', 'z']) await append(log, channel, 1)
    const names = async (query = '') => {
      const { channels, next } = (await call(`${url}/v1/channels${query}`)).json
      return [channels.map(({ channel }: { channel: string }) => channel).join(), next]
    }
    expect(await names()).toEqual(['a,b,repo/1,repo/10,repo/2,z', undefined])
    expect(await names('?limit=2')).toEqual(['a,b', 'b'])
    expect(await names('?limit=2&after=b')).toEqual(['repo/1,repo/10', 'repo/10'])
    expect(await names('?limit=2&after=repo/10')).toEqual(['repo/2,z', undefined])
    expect(await names('?prefix=repo/')).toEqual(['repo/1,repo/10,repo/2', undefined])
    expect(await names('?prefix=repo%2F1&after=repo/1')).toEqual(['repo/10', undefined])
    expect(await names('?prefix=nothing')).toEqual(['', undefined])
  })

  test.each(['?limit=0', '?limit=1001', '?limit=x', '?limit=1&limit=2', '?lim=1'])(
    '%s is a bad request',
    async (query) => {
      const { url } = await startTestServer()
      expect(problemOf(await call(`${url}/v1/channels${query}`)).code).toBe('bad-request')
    },
  )
})

test('what the events of a channel take on disk is told about, where it was asked for', async () => {
  const log = await tempLog({ writeBufferBytes: 64 * 1024 })
  const { url } = await startTestServer({ log })
  await append(log, 'small', 1)
  for (const _ of range(1, 10)) await append(log, 'large', 'x'.repeat(40_000))
  await vi.waitFor(
    async () => {
      const { channels } = (await call(`${url}/v1/channels?bytes=1`)).json
      expect(channels[0].bytes).toBeGreaterThan(100_000)
      expect(channels[0].bytes).toBeLessThan(1_000_000)
      expect(channels[1].bytes).toBeLessThan(10_000)
    },
    { timeout: 10_000 },
  )
  expect((await call(`${url}/v1/channels`)).json.channels[0]).not.toHaveProperty('bytes')
  expect(problemOf(await call(`${url}/v1/channels?bytes=0`)).code).toBe('bad-request')
})

describe('one channel', () => {
  test('it is told with its head, and under any spelling of its name', async () => {
    const { url, log } = await startTestServer()
    await append(log, 'repo/42:x', ...range(1, 3))
    const { epoch } = await log.info('repo/42:x')
    for (const name of ['repo/42:x', 'repo%2F42:x', 'repo%2f42%3Ax', '%72epo/42:x']) {
      const { status, json } = await call(`${url}/v1/channels/${name}`)
      expect([name, status]).toEqual([name, 200])
      expect(json).toEqual({
        ...{ channel: 'repo/42:x', epoch, head: 3, trimmed: 0, settings: {} },
        bytes: expect.any(Number),
        time: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
      })
    }
  })

  test('settings make a channel or replace what was set', async () => {
    const { url, log } = await startTestServer()
    const made = await call(`${url}/v1/channels/new/one`, 'PUT', { note: 'for a test' })
    expect(made.json).toMatchObject({ channel: 'new/one', head: 0, time: null, settings: { note: 'for a test' } })
    expect((await call(`${url}/v1/channels/new/one`, 'PUT', {})).json.settings).toEqual({})
    expect((await log.info('new/one')).settings).toEqual({})
  })

  test('a deleted channel is gone, and its name begins another history', async () => {
    const { url, log } = await startTestServer()
    await append(log, 'a', 1)
    const { epoch } = await log.info('a')
    const answer = await call(`${url}/v1/channels/a`, 'DELETE')
    expect([answer.status, answer.text]).toEqual([204, ''])
    expect(problemOf(await call(`${url}/v1/channels/a`)).code).toBe('no-channel')
    expect(problemOf(await call(`${url}/v1/channels/a`, 'DELETE')).code).toBe('no-channel')
    await append(log, 'a', 1)
    expect((await call(`${url}/v1/channels/a`)).json.epoch).not.toBe(epoch)
  })

  test('a long note, an unknown setting and a missing body are refused', async () => {
    const { url } = await startTestServer()
    for (const settings of [{ note: 'x'.repeat(1_001) }, { notes: 'x' }, { note: 1 }, [], null, 'x'])
      expect(problemOf(await call(`${url}/v1/channels/a`, 'PUT', JSON.stringify(settings))).code).toBe('bad-request')
    expect(problemOf(await call(`${url}/v1/channels/a`, 'PUT')).code).toBe('bad-request')
    expect(problemOf(await call(`${url}/v1/channels/a`)).code).toBe('no-channel')
  })

  test('system channels are read by everybody and changed by nobody', async () => {
    const { url, log } = await startTestServer()
    await append(log, '_own', 1)
    expect((await call(`${url}/v1/channels/_own`)).status).toBe(200)
    const changes: [string, string, unknown][] = [
      ['', 'PUT', {}],
      ['', 'DELETE', undefined],
      ['/trim', 'POST', { upTo: 1 }],
      ['/compact', 'POST', {}],
    ]
    for (const [resource, method, request] of changes)
      expect(problemOf(await call(`${url}/v1/channels/_own${resource}`, method, request)).code).toBe('forbidden')
    expect(await log.info('_own')).toMatchObject({ head: 1, trimmed: 0 })
  })
})

describe('trim', () => {
  const setUp = async () => {
    const server = await startTestServer()
    await append(server.log, 'a', ...range(1, 10))
    return { ...server, trim: (request: unknown) => call(`${server.url}/v1/channels/a/trim`, 'POST', request) }
  }

  test('up to a seq', async () => {
    const { trim } = await setUp()
    expect((await trim({ upTo: 4 })).json).toMatchObject({ channel: 'a', head: 10, trimmed: 4 })
    expect((await trim({ upTo: 2 })).json.trimmed).toBe(4)
    expect((await trim({ upTo: 99 })).json).toMatchObject({ head: 10, trimmed: 10 })
  })

  test('to the last so many', async () => {
    const { trim } = await setUp()
    expect((await trim({ keepLast: 3 })).json.trimmed).toBe(7)
    expect((await trim({ keepLast: 99 })).json.trimmed).toBe(7)
    expect((await trim({ keepLast: 0 })).json.trimmed).toBe(10)
  })

  test('older than a time or an age', async () => {
    const { trim, log } = await setUp()
    expect((await trim({ olderThan: 3_600 })).json.trimmed).toBe(0)
    const { time } = await log.info('a')
    expect((await trim({ olderThan: new Date(time).toISOString() })).json.trimmed).toBe(0)
    expect((await trim({ olderThan: new Date(time + 1).toISOString() })).json.trimmed).toBe(10)
  })

  test('of the history that is meant, and of no other', async () => {
    const { trim, log, url } = await setUp()
    const { epoch } = await log.info('a')
    expect(problemOf(await trim({ upTo: 4, epoch: 'x.y' }))).toMatchObject({ code: 'epoch-changed', epoch, trimmed: 0 })
    expect((await trim({ keepLast: 3, epoch })).json.trimmed).toBe(7)
    const remove = (meant: string) => call(`${url}/v1/channels/a?epoch=${meant}`, 'DELETE')
    expect(problemOf(await remove('x.y')).code).toBe('epoch-changed')
    expect((await remove(epoch)).status).toBe(204)
  })

  test('by age never drops events of a channel that was made again meanwhile', async () => {
    const log = await tempLog()
    await log.append([{ channel: 'a', body: body(1, 2, 3) }])
    const again: Pick<Log, 'info'> = {
      info: async (channel) => {
        const info = await log.info(channel)
        await log.delete(channel)
        await log.append([{ channel, body: body(1, 2, 3) }])
        return info
      },
    }
    const { url } = await startTestServer({ log: logWith(log, again) })
    expect(problemOf(await call(`${url}/v1/channels/a/trim`, 'POST', { keepLast: 0 })).code).toBe('epoch-changed')
    expect(await log.info('a')).toMatchObject({ head: 3, trimmed: 0 })
  })

  test('exactly one of the three is asked for', async () => {
    const { trim, log } = await setUp()
    const wrong = [{}, { upTo: 1, keepLast: 1 }, { upTo: -1 }, { upTo: '1' }, { keepLast: 1.5 }, { olderThan: 'soon' }]
    for (const request of [...wrong, { olderThan: -1 }, { before: 1 }, [], null])
      expect([request, problemOf(await trim(request)).code]).toEqual([request, 'bad-request'])
    expect((await log.info('a')).trimmed).toBe(0)
  })

  test('of an unknown channel is no-channel', async () => {
    const { url } = await setUp()
    for (const request of [{ upTo: 1 }, { keepLast: 1 }, { olderThan: 0 }])
      expect(problemOf(await call(`${url}/v1/channels/none/trim`, 'POST', request)).code).toBe('no-channel')
  })
})

test('a server that is told so makes channels by PUT alone, whichever way an append comes', async () => {
  const { url, log } = await startTestServer({ createChannels: false })
  const client = connect(url)
  const events = [{ data: 1 }]
  const ways: Record<string, () => Promise<{ status: number; code: unknown }>> = {
    json: async () => told(await call(`${url}/v1/channels/a/events`, 'POST', events)),
    lines: async () =>
      told(await call(`${url}/v1/channels/a/events`, 'POST', '{"data":1}', { 'content-type': 'application/x-ndjson' })),
    several: async () => told(await call(`${url}/v1/append`, 'POST', { appends: [{ channel: 'a', events }] })),
    socket: () =>
      client
        .channel('a')
        .append({ data: 1 })
        .then(
          () => ({ status: 201, code: undefined }),
          (error: { code: ErrorCode }) => ({ status: ERRORS[error.code].status, code: error.code }),
        ),
  }
  const told = ({ status, json }: Answer<{ code?: unknown }>) => ({ status, code: json.code })
  for (const [way, append] of Object.entries(ways))
    expect([way, await append()]).toEqual([way, { status: 404, code: 'no-channel' }])
  await expect(log.info('a')).rejects.toMatchObject({ code: 'no-channel' })
  await call(`${url}/v1/channels/a`, 'PUT', {})
  for (const [way, append] of Object.entries(ways)) expect([way, (await append()).status]).toEqual([way, 201])
  await client.close()
})

test('an event, and all events of a key, are erased in the background, and the audit trail says so', async () => {
  const { url, log } = await startTestServer()
  const erase = `${url}/v1/channels/a/erase`
  for (const [key, data] of Object.entries({ ann: 'one', ben: 'two', cy: 'three' }))
    await call(`${url}/v1/channels/a/events`, 'POST', { key, data })
  const over = async () => {
    for (;;) {
      const { json } = await call(erase)
      if (!json.running) return json as Record<string, unknown>
    }
  }
  expect((await call(erase)).json).toEqual({ running: false })
  expect((await call(erase, 'POST', { key: 'ann' })).json).toMatchObject({ running: true, head: 3 })
  expect(await over()).toMatchObject({ report: { events: 1, first: 1, last: 1, tombstone: 4 } })
  expect((await call(erase, 'POST', { seq: 3 })).json).toMatchObject({ running: true, head: 4 })
  expect(await over()).toMatchObject({ report: { events: 1, first: 3, last: 3, tombstone: null } })
  const { json } = await call(`${url}/v1/channels/a/events?after=0`)
  expect(json.events.map(({ seq, key }: { seq: number; key: string }) => [seq, key])).toEqual([
    [2, 'ben'],
    [4, 'ann'],
  ])
  const records = (await call(`${url}/v1/channels/_audit/events?after=0`)).json.events as {
    type: string
    data: object
  }[]
  const { epoch } = await log.info('a')
  expect(records.map(({ type, data }) => [type, data])).toMatchObject([
    ['erase', { channel: 'a', epoch, key: true, from: 1 }],
    ['erased', { channel: 'a', epoch, events: 1, first: 1, last: 1 }],
    ['erase', { channel: 'a', seq: 3 }],
    ['erased', { channel: 'a', events: 1, first: 3, last: 3 }],
  ])
  expect((await call(erase, 'POST', { seq: 9 })).json).toMatchObject({ running: true })
  expect(await over()).toMatchObject({ failed: { code: 'ahead-of-head' } })
  for (const wrong of [{}, { seq: 0 }, { seq: 1, key: 'ann' }, { key: 'x'.repeat(2_000) }])
    expect([wrong, problemOf(await call(erase, 'POST', wrong)).code]).toEqual([wrong, 'bad-request'])
  expect(problemOf(await call(`${url}/v1/channels/none/erase`, 'POST', { seq: 1 })).code).toBe('no-channel')
  expect(problemOf(await call(`${url}/v1/channels/_audit/erase`, 'POST', { seq: 1 })).code).toBe('forbidden')
})

test('a channel is compacted in the background, one at a time, and tells how far it came', async () => {
  const { url, log } = await startTestServer()
  const compact = `${url}/v1/channels/a/compact`
  const events = Array.from({ length: 40 }, (_, i) => ({ key: `k${i % 4}`, data: i }))
  for (const event of events) await call(`${url}/v1/channels/a/events`, 'POST', event)
  const over = async () => {
    for (;;) {
      const { json } = await call(compact)
      if (!json.running) return json as Record<string, unknown>
    }
  }
  expect((await call(compact)).json).toEqual({ running: false })
  expect((await call(compact, 'POST', { dryRun: true, minLag: 0 })).json).toMatchObject({ running: true, head: 40 })
  const planned = await over()
  expect(planned).toMatchObject({ dryRun: true, report: { events: { before: 40, after: 4 } } })
  expect((await log.read('a', { after: 0 }, { events: 1_000, bytes: 1e6 })).blocks.length).toBe(40)
  const answers = await Promise.all([1, 2].map(() => call(compact, 'POST', { minLag: 0 })))
  expect(answers.map(({ status }) => status).sort()).toEqual([200, 409])
  expect(problemOf(answers.find(({ status }) => status === 409)!)).toMatchObject({ code: 'busy', channel: 'a' })
  const { report } = await over()
  expect(report).toEqual({ ...(planned.report as object), upTo: 40 })
  const { json } = await call(`${url}/v1/channels/a/events?after=0`)
  expect(json).toMatchObject({ last: 40, events: [36, 37, 38, 39].map((data) => ({ seq: data + 1, data })) })
  expect(problemOf(await call(compact, 'POST', { dry: true })).code).toBe('bad-request')
  expect(problemOf(await call(`${url}/v1/channels/none/compact`, 'POST', {})).code).toBe('no-channel')
})

test('a run is told to end, and says how far it was; what it had done stays', async () => {
  const { url, log } = await startHeld()
  await append(log, 'b', 1)
  for (const [verb, asked, phase] of [
    ['compact', { minLag: 0 }, 'rewriting'],
    ['erase', { key: 'k1' }, 'erasing'],
  ] as const) {
    const run = `${url}/v1/channels/a/${verb}`
    const { head } = await log.info('a')
    expect((await call(run, 'POST', asked)).json).toMatchObject({ running: true, head })
    // Of another channel, or of other work, it is not.
    const other = verb === 'erase' ? 'compact' : 'erase'
    expect((await call(`${url}/v1/channels/a/${other}`, 'DELETE')).json).not.toHaveProperty('running', true)
    expect((await call(`${url}/v1/channels/b/${verb}`, 'DELETE')).json).toEqual({ running: false })
    expect((await call(run)).json.running).toBe(true)
    const { json } = await call(run, 'DELETE')
    expect(json).toMatchObject({ running: false, stopped: true, head, finishedAt: expect.any(String) })
    expect(['reading', phase, 'reclaiming']).toContain(json.phase ?? 'reading')
    expect((await call(run)).json).toEqual(json)
    expect((await call(run, 'DELETE')).json).toEqual(json)
    expect((await verifyLog(log)).findings).toEqual([])
  }
  expect(problemOf(await call(`${url}/v1/channels/none/compact`, 'DELETE')).code).toBe('no-channel')
})
