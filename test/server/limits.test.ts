/** Channels and cursors that there may be, appends a second: at every door, told as documented, and after a restart. */
import { readFileSync } from 'node:fs'
import { pino } from 'pino'
import { expect, test } from 'vitest'
import { flagOf, SETTING_NAMES } from '../../src/config.ts'
import { Census } from '../../src/doors/census.ts'
import { Guard } from '../../src/doors/guard.ts'
import { LIMIT_NAMES, LIMITS, limitsOf } from '../../src/limits.ts'
import type { Log } from '../../src/log/log.ts'
import { body, range, tempLog } from '../parts.ts'
import { call, problemOf } from './calls.ts'
import { startGuarded } from './guarded.ts'
import { logWith, startTestServer } from './serve.ts'
import { Peer } from './stream.ts'

const JSON_LINES = { 'content-type': 'application/x-ndjson' }

async function channelsOf(log: Log): Promise<string[]> {
  const names: string[] = []
  for await (const { channel } of log.channels('')) names.push(channel)
  return names
}

test('each limit is a setting, and stands in the protocol with its flag and default', () => {
  const page = readFileSync(new URL('../../src/PROTOCOL.md', import.meta.url), 'utf8')
  const rows = page.split('\n').filter((line) => line.startsWith('| '))
  for (const name of LIMIT_NAMES) {
    expect(SETTING_NAMES).toContain(name)
    const row = rows.find((line) => line.includes(`\`--${flagOf(name)}\``))
    expect(row, name).toContain(LIMITS[name].default.toLocaleString('en'))
  }
})

test('beyond the channels that there may be none is made at any door, and those that are there go on', async () => {
  const { url, log } = await startTestServer({ limits: { maxChannels: 10 } })
  const append = (channel: string) => call(`${url}/v1/channels/${channel}/events`, 'POST', { data: 1 })
  // The first append has them counted.
  expect((await append('c/0')).status).toBe(201)
  await expect.poll(async () => (await call(`${url}/v1/admin/settings`)).json.limits.maxChannels).toBe(10)
  let refused = await append('c/1')
  for (let n = 2; refused.status === 201 && n < 20; n++) refused = await append(`c/${n}`)
  expect(problemOf(refused)).toMatchObject({ code: 'too-many', status: 429, limit: 10 })
  expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0)
  expect(await channelsOf(log)).toHaveLength(10)

  const entry = { channel: 'more', events: [{ data: 1 }] }
  const others = [
    await call(`${url}/v1/append`, 'POST', { appends: [{ ...entry, channel: 'c/0' }, entry] }),
    await call(`${url}/v1/channels/more/events`, 'POST', '{"data":1}\n', JSON_LINES),
    await call(`${url}/v1/channels/more`, 'PUT', {}),
  ]
  for (const answer of others) expect(problemOf(answer).code).toBe('too-many')
  const peer = await Peer.open(`${url.replace('http', 'ws')}/v1/stream`, 'json', {})
  peer.send({ op: 'hello' }, { op: 'append', ref: 1, ...entry }, { op: 'append', ref: 2, ...entry, channel: 'c/0' })
  expect(await peer.answer(1)).toMatchObject({ op: 'error', code: 'too-many' })
  expect(await peer.answer(2)).toMatchObject({ op: 'appended', last: 2 })
  expect((await call(`${url}/v1/channels/c%2F1`, 'PUT', { note: 'kept' })).status).toBe(200)
  expect(await channelsOf(log)).toHaveLength(10)

  expect((await call(`${url}/v1/channels/c%2F0`, 'DELETE')).status).toBe(204)
  expect((await call(`${url}/v1/channels/more`, 'PUT', {})).status).toBe(200)
  // It was counted when it was made, not with its first event.
  expect((await append('c/1')).status).toBe(201)
  expect((await append('more')).status).toBe(201)
  expect(problemOf(await append('c/0')).code).toBe('too-many')
})

test('an append that may not make its channel is told so, whatever the number of channels', async () => {
  const { url } = await startTestServer({ createChannels: false, limits: { maxChannels: 1 } })
  for (let n = 0; n < 3; n++)
    expect(problemOf(await call(`${url}/v1/channels/none/events`, 'POST', { data: 1 })).code).toBe('no-channel')
})

test('the cursors of one subject are bounded at every door; its own go on, others are not touched', async () => {
  const guarded = await startGuarded({ limits: { cursorsPerSubject: 3 } })
  const { url, log } = guarded
  await log.append([{ channel: 'orders/1', body: body(1, 2, 3) }])
  const commit = (client: string, caller: 'granted' | 'other' | 'admin', seq = 1) =>
    call(`${url}/v1/channels/orders%2F1/cursors/${client}`, 'PUT', { seq }, guarded.headers(caller))
  for (const n of [1, 2, 3]) expect((await commit(`web-${n}`, 'granted')).status).toBe(200)
  expect(problemOf(await commit('web-4', 'granted'))).toMatchObject({ code: 'too-many', status: 429, limit: 3 })
  expect((await commit('web-4', 'other')).status).toBe(200)
  expect((await commit('web-4', 'admin')).status).toBe(200)
  expect((await commit('web-1', 'granted', 2)).json.seq).toBe(2)

  const polled = await call(
    `${url}/v1/poll`,
    'POST',
    { client: 'web-4', channels: { 'orders/1': { commit: 1 } } },
    guarded.headers('granted'),
  )
  expect(polled.json.pages).toMatchObject([{ channel: 'orders/1', error: { code: 'too-many' } }])
  const peer = await guarded.joined(guarded.credentials.granted, 'web-4')
  const { epoch } = await log.info('orders/1')
  peer.send({ op: 'subscribe', channel: 'orders/1', after: 0 }, { op: 'commit', ref: 7, channel: 'orders/1', seq: 1 })
  expect(await peer.answer(7)).toMatchObject({ op: 'error', code: 'too-many' })
  peer.send({ op: 'commit', ref: 8, channel: 'orders/1', seq: 1, epoch })
  expect(await peer.answer(8)).toMatchObject({ op: 'error', code: 'too-many' })

  const forgotten = `${url}/v1/channels/orders%2F1/cursors/web-1`
  expect((await call(forgotten, 'DELETE', undefined, guarded.headers('granted'))).status).toBe(204)
  expect((await commit('web-4', 'granted')).status).toBe(200)
  expect(problemOf(await commit('web-1', 'granted')).code).toBe('too-many')
})

test('cursors in all are bounded, those that are there are counted, and no number is looked up twice', async () => {
  const log = await tempLog()
  await log.append([{ channel: 'a', body: body(1) }])
  for (const n of range(1, 5)) await log.commit(`web-${n}`, 'a', { seq: 1 })
  const asked: string[] = []
  const counted = logWith(log, {
    count: async (what, beginning, most) => {
      asked.push(`${what} ${beginning}`)
      return log.count!(what, beginning, most)
    },
  })
  const { url } = await startTestServer({ log: counted, limits: { maxCursors: 7 } })
  const commit = (client: string) => call(`${url}/v1/channels/a/cursors/${client}`, 'PUT', { seq: 1 })
  expect((await commit('web-1')).status).toBe(200)
  expect(asked).toEqual([])
  expect((await commit('web-6')).status).toBe(200)
  await expect.poll(() => asked).toEqual(['cursors '])
  expect((await commit('web-7')).status).toBe(200)
  expect(problemOf(await commit('web-8'))).toMatchObject({ code: 'too-many', limit: 7 })
  expect((await commit('web-6')).status).toBe(200)
  expect(asked).toEqual(['cursors '])
})

test('the log counts channels and cursors by how their names begin, up to a number', async () => {
  const log = await tempLog()
  for (const channel of ['a', 'ab', 'b']) await log.configure(channel, {})
  for (const client of ['anna~web', 'anna~app', 'annabel~web', 'bert~web']) {
    await log.commit(client, 'a', { seq: 0 })
    await log.commit(client, 'b', { seq: 0 })
  }
  expect(await log.count!('channels', '', 100)).toBe(3)
  expect(await log.count!('channels', 'a', 100)).toBe(2)
  expect(await log.count!('cursors', 'anna~', 100)).toBe(4)
  expect(await log.count!('cursors', '', 100)).toBe(8)
  expect(await log.count!('cursors', '', 5)).toBe(5)
  for (let n = 0; n < 2_500; n += 100)
    await Promise.all(range(n, n + 99).map((each) => log.commit(`many~${each}`, 'a', { seq: 0 })))
  expect(await log.count!('cursors', 'many~', 10_000)).toBe(2_500)
})

test('a count that fails refuses nobody, and is told once', async () => {
  const lines: unknown[] = []
  const log = logWith(await tempLog(), { count: async () => Promise.reject(new Error('no')) })
  const logger = pino({ level: 'warn' }, { write: (line) => void lines.push(JSON.parse(line)) })
  const census = new Census(log, limitsOf({ maxChannels: 1 }), logger)
  for (let n = 0; n < 100; n++) {
    expect(census.mayMake).toBe(true)
    await census.roomForChannel()
  }
  expect(lines).toMatchObject([{ msg: 'They can not be counted', what: 'channels' }])
})

test('appends under one key are bounded at every door, those of others are not', async () => {
  const guarded = await startGuarded({ limits: { appendsPerKey: 2 } })
  const { url, credentials } = guarded
  const channel = `${url}/v1/channels/orders%2F1/events`
  const append = (caller: 'publish' | 'granted' | 'other', data = '{"data":1}', headers = {}) =>
    call(channel, 'POST', data, { ...guarded.headers(caller), ...headers })
  let refused = await append('publish')
  for (let n = 0; refused.status === 201 && n < 100; n++) refused = await append('publish')
  expect(problemOf(refused)).toMatchObject({ code: 'too-many', status: 429 })
  expect(Number(refused.headers.get('retry-after'))).toBe(1)
  expect((await append('granted')).status).toBe(201)

  const lines = '{"data":1}\n'.repeat(40_000)
  const { head } = await guarded.log.info('orders/1')
  const cut = problemOf(await append('other', lines, JSON_LINES))
  expect(cut.code).toBe('too-many')
  expect(cut.appended).toBe((await guarded.log.info('orders/1')).head - head)
  expect(cut.appended).toBeGreaterThanOrEqual(2_000)
  const peer = await guarded.joined(credentials.other)
  peer.send(...range(1, 9).map((ref) => ({ op: 'append', ref, channel: 'orders/1', events: [{ data: 1 }] })))
  const answers = []
  for (const ref of range(1, 9)) answers.push((await peer.answer(ref)).code)
  expect(answers).toContain('too-many')
})

test('an allowance of appends fills again with time, each key its own', async () => {
  const guarded = await startGuarded()
  const guard = new Guard(limitsOf({ appendsPerKey: 10 }))
  const { Keyring } = await import('../../src/access/keyring.ts')
  const ring = await Keyring.open(guarded.file, pino({ level: 'silent' }))
  const publisher = await ring.of(guarded.credentials.publish)
  const anna = await ring.of(guarded.credentials.granted)
  ring.close()
  const taken = (who: typeof anna, now: number) => {
    for (let n = 0; ; n++)
      try {
        guard.append(who, now)
      } catch (error) {
        expect(error).toMatchObject({ code: 'too-many', details: { retryAfter: 100 } })
        return n
      }
  }
  expect(taken(publisher, 0)).toBe(10)
  expect(taken(publisher, 0)).toBe(0)
  expect(taken(anna, 0)).toBe(10)
  expect(taken(publisher, 500)).toBe(5)
  expect(taken(publisher, 60_000)).toBe(10)
  const free = new Guard()
  for (let n = 0; n < 100_000; n++) free.append(publisher, 0)
})
