import { mkdirSync, utimesSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import { describe, expect, test } from 'vitest'
import { sealBlock } from '../../src/block.ts'
import { encodeBody } from '../../src/body.ts'
import { GroupFigures } from '../../src/doors/counts.ts'
import { ERRORS } from '../../src/errors.ts'
import { verifyLog } from '../../src/log/verify.ts'
import { body, event, tempDir, tempLog } from '../parts.ts'
import { call, loggerTo, problemOf } from './calls.ts'
import { startTestServer } from './serve.ts'

describe('probes', () => {
  test('livez tells that the process answers', async () => {
    const { url } = await startTestServer()
    const { status, json, headers } = await call(`${url}/livez`)
    expect([status, json]).toEqual([200, { live: true }])
    expect(headers.get('x-content-type-options')).toBe('nosniff')
    expect(headers.get('cache-control')).toBe('no-store')
  })

  test('readyz tells what the log promises', async () => {
    const { url, log } = await startTestServer()
    const { status, json } = await call(`${url}/readyz`)
    expect(status).toBe(200)
    expect(json).toEqual({ ...log.about, state: 'ok', streamer: 'on' })
    expect(json).toMatchObject({
      durability: 'fsync',
      idWindow: 86_400_000,
      capabilities: ['multiChannel', 'compact', 'erase', 'stateRows'],
    })
    await call(`${url}/v1/admin/streamer`, 'PUT', { on: false })
    expect((await call(`${url}/readyz`)).json.streamer).toBe('off')
  })

  test('readyz is red when the log takes nothing', async () => {
    const { url, log } = await startTestServer()
    await log.close()
    const answer = await call(`${url}/readyz`)
    expect(problemOf(answer)).toMatchObject({ code: 'unavailable', status: 503, state: 'closed', durability: 'fsync' })
    expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0)
    expect((await call(`${url}/livez`)).status).toBe(200)
  })
})

describe('status and switch', () => {
  test('status tells the server and its log at a glance', async () => {
    const { url, log } = await startTestServer({ version: '1.2.3' })
    const { json } = await call(`${url}/v1/admin/status`)
    expect(json).toMatchObject({
      ...log.about,
      ...{ server: 'tidemark/1.2.3', state: 'ok', streamer: 'on', sockets: 0, pendingAppends: 0, pendingBytes: 0 },
    })
    expect(json.connections).toBeGreaterThan(0)
    expect(json.memory).toBeGreaterThan(1e6)
  })

  test('the switch is turned and told', async () => {
    const { url, log } = await startTestServer()
    const at = `${url}/v1/admin/streamer`
    expect((await call(at)).json).toEqual({ on: true })
    expect((await call(at, 'PUT', { on: false })).json).toEqual({ on: false })
    expect((await call(at)).json).toEqual({ on: false })
    expect((await call(`${url}/v1/admin/status`)).json.streamer).toBe('off')
    const other = await startTestServer({ log })
    expect((await call(`${other.url}/v1/admin/streamer`)).json).toEqual({ on: false })
    for (const request of [{ on: 'no' }, {}, { on: true, by: 'me' }, null])
      expect(problemOf(await call(at, 'PUT', request)).code).toBe('bad-request')
  })
})

describe('metrics', () => {
  test('count appends, deliveries, writes and failures, and never name a channel or a client', async () => {
    const groupFigures = new GroupFigures()
    const log = await tempLog({ onGroup: groupFigures.add })
    const { url } = await startTestServer({ log, groupFigures, version: '1.2.3' })
    await call(`${url}/v1/append`, 'POST', {
      appends: [
        { channel: 'secret-name', events: [{ data: 1 }, { data: 2 }] },
        { channel: 'other', events: [{ data: 3 }] },
      ],
    })
    await call(`${url}/v1/channels/secret-name/cursors/secret-client`, 'PUT', { seq: 1 })
    await call(`${url}/v1/poll`, 'POST', { client: 'secret-client', channels: { 'secret-name': {} } })
    await call(`${url}/v1/channels/secret-missing`)
    const { text, headers } = await call(`${url}/metrics`)
    expect(headers.get('content-type')).toMatch(/^text\/plain; version=/)
    const value = (line: string) =>
      Number(
        text
          .split('\n')
          .find((each) => each.startsWith(`tidemark_${line} `))
          ?.split(' ')[1],
      )
    expect(value('appends_total{door="http"}')).toBe(1)
    expect(value('appended_events_total{door="http"}')).toBe(3)
    expect(value('appended_bytes_total{door="http"}')).toBeGreaterThan(10)
    expect(value('append_seconds_count{door="http"}')).toBe(1)
    expect(value('append_events_bucket{le="5",door="http"}')).toBe(1)
    expect(value('delivered_events_total{door="poll"}')).toBe(1)
    expect(value('failures_total{door="http",code="no-channel"}')).toBe(1)
    expect(value('group_seconds_count')).toBe(2)
    expect(value('group_changes_sum')).toBe(2)
    expect(value('group_bytes_total')).toBeGreaterThan(10)
    expect(value('followers{door="stream"}')).toBe(0)
    expect(value('pending_appends')).toBe(0)
    expect(value('build_info{version="1.2.3"}')).toBe(1)
    expect(value('log_state{state="ok"}')).toBe(1)
    expect(text).toContain('process_resident_memory_bytes')
    expect(text).toContain('nodejs_eventloop_lag')
    expect(text).not.toContain('secret')
  })
})

describe('pages', () => {
  test('errors explains every code at the address that problems name', async () => {
    const { url } = await startTestServer()
    const { type } = problemOf(await call(`${url}/v1/channels/none`))
    const [path, anchor] = new URL(type, url).href.slice(url.length).split('#')
    const { status, text, headers } = await call(url + path)
    expect(status).toBe(200)
    expect(headers.get('content-type')).toBe('text/html; charset=utf-8')
    expect(headers.get('content-security-policy')).toContain("default-src 'none'")
    for (const code of [anchor, ...Object.keys(ERRORS)]) expect(text).toContain(`id="${code}"`)
  })

  test('client.js is what was built, with a tag that changes with it', async () => {
    const dir = tempDir()
    const clientFile = join(dir, 'client.js')
    const { url } = await startTestServer({ clientFile })
    expect(problemOf(await call(`${url}/client.js`)).code).toBe('not-found')
    writeFileSync(clientFile, 'export const a = 1')
    const first = await call(`${url}/client.js`)
    expect([first.status, first.text]).toEqual([200, 'export const a = 1'])
    expect(first.headers.get('content-type')).toBe('text/javascript; charset=utf-8')
    const tag = first.headers.get('etag')!
    const known = await call(`${url}/client.js`, 'GET', undefined, { 'if-none-match': tag })
    expect([known.status, known.text]).toEqual([304, ''])
    writeFileSync(clientFile, 'export const a = 2')
    utimesSync(clientFile, new Date(), new Date(Date.now() + 10_000))
    const second = await call(`${url}/client.js`, 'GET', undefined, { 'if-none-match': tag })
    expect([second.status, second.text]).toEqual([200, 'export const a = 2'])
    writeFileSync(join(dir, 'client-msgpack.js'), 'export const b = 1')
    expect((await call(`${url}/client-msgpack.js`)).text).toBe('export const b = 1')
  })

  test('what can not be read is a failure of the server, told in its log alone', async () => {
    const clientFile = join(tempDir(), 'client.js')
    mkdirSync(clientFile)
    const lines: Record<string, unknown>[] = []
    const { url } = await startTestServer({ clientFile, logger: loggerTo(lines) })
    const answer = await call(`${url}/client.js`)
    expect(problemOf(answer)).toMatchObject({ code: 'internal', status: 500 })
    expect(answer.text).not.toContain('EISDIR')
    expect(lines.find(({ code }) => code === 'internal')).toMatchObject({ level: 50, err: { code: 'EISDIR' } })
  })
})

describe('append to several channels', () => {
  const setUp = async () => {
    const { url, log } = await startTestServer()
    const append = (request: unknown, headers?: Record<string, string>) =>
      call(`${url}/v1/append`, 'POST', request, headers)
    return { url, log, append }
  }

  test('all of it is answered and can be read', async () => {
    const { log, append } = await setUp()
    await log.append([{ channel: 'a', body: body(0) }])
    const answer = await append({
      appends: [
        { channel: 'a', events: [{ data: 1 }, { type: 't', data: 2 }], expectedSeq: 1 },
        { channel: 'b/c', events: [{ key: 'k' }] },
      ],
    })
    expect(answer.status).toBe(201)
    expect(answer.json).toEqual({
      durability: 'fsync',
      appended: [
        { channel: 'a', epoch: (await log.info('a')).epoch, first: 2, last: 3, head: 3 },
        { channel: 'b/c', epoch: (await log.info('b/c')).epoch, first: 1, last: 1, head: 1 },
      ],
    })
  })

  test('one conflict, and nothing is appended', async () => {
    const { log, append } = await setUp()
    await log.append([{ channel: 'b', body: body(0) }])
    const answer = await append({
      appends: [
        { channel: 'a', events: [{ data: 1 }] },
        { channel: 'b', events: [{ data: 1 }], expectedSeq: 0 },
      ],
    })
    expect(problemOf(answer)).toMatchObject({ code: 'seq-conflict', status: 409, channel: 'b', head: 1 })
    await expect(log.info('a')).rejects.toMatchObject({ code: 'no-channel' })
  })

  test('a retry under its key is answered as the first time; another append under it is refused', async () => {
    const { log, append } = await setUp()
    const key = { 'idempotency-key': 'once' }
    const request = { appends: ['a', 'b'].map((channel) => ({ channel, events: [{ data: 1 }], expectedSeq: 0 })) }
    const first = await append(request, key)
    const second = await append(request, key)
    expect([first.status, second.status]).toEqual([201, 200])
    expect(second.json).toEqual({ ...first.json, duplicate: true })
    expect((await log.info('a')).head).toBe(1)
    const other = { appends: [{ channel: 'a', events: [{ data: 2 }] }] }
    expect(problemOf(await append(other, key)).code).toBe('key-reused')
    expect(problemOf(await append(request, { 'idempotency-key': 'ä' })).code).toBe('bad-request')
  })

  test('data are kept verbatim', async () => {
    const { url, append } = await setUp()
    await append('{"appends":[{"channel":"a","events":[{"data":{"b":1.50, "a":[1e3]}}]}]}')
    const { text } = await call(`${url}/v1/poll`, 'POST', { channels: { a: { after: 0 } } })
    expect(text).toContain('"data":{"b":1.50, "a":[1e3]}')
  })

  test.each([
    ['no appends', {}, 'bad-request'],
    ['an empty list', { appends: [] }, 'bad-request'],
    ['no events', { appends: [{ channel: 'a' }] }, 'bad-request'],
    ['an empty list of events', { appends: [{ channel: 'a', events: [] }] }, 'bad-request'],
    ['events that are none', { appends: [{ channel: 'a', events: [1] }] }, 'bad-request'],
    ['an unknown field', { appends: [{ channel: 'a', events: [{ data: 1 }] }], durable: true }, 'bad-request'],
    ['an unknown field of an entry', { appends: [{ channel: 'a', events: [{ data: 1 }], x: 1 }] }, 'bad-request'],
    ['an unknown field of an event', { appends: [{ channel: 'a', events: [{ dat: 1 }] }] }, 'bad-request'],
    ['a channel that can not be', { appends: [{ channel: 'a//b', events: [{ data: 1 }] }] }, 'bad-request'],
    ['a system channel', { appends: [{ channel: '_streamer', events: [{ data: 1 }] }] }, 'forbidden'],
    ['a channel twice', { appends: ['a', 'a'].map((channel) => ({ channel, events: [{ data: 1 }] })) }, 'bad-request'],
    ['too many events', { appends: [{ channel: 'a', events: Array(1_001).fill({ data: 1 }) }] }, 'too-large'],
    ['more than a block', { appends: [{ channel: 'a', events: [{ data: 'x'.repeat(1_000_000) }] }] }, 'too-large'],
  ])('%s is refused', async (_, request, code) => {
    const { url, append } = await setUp()
    expect(problemOf(await append(request)).code).toBe(code)
    expect((await call(`${url}/v1/channels`)).json.channels).toEqual([])
  })
})

test('What is no block in an import is its caller’s mistake: the log is not told to be damaged, and takes the right ones', async () => {
  const lines: Record<string, unknown>[] = []
  const { url, log } = await startTestServer({ logger: loggerTo(lines) })
  const block = (channel: string, after: number) => sealBlock(channel, [body(1, 2)], { after, time: 1_000 }, crc32)
  const flipped = Uint8Array.from(block('c', 0))
  flipped[40]! ^= 1
  const piece = { channel: 'c', from: 'aaaaaaaaaa.bbbbbbbbbb', head: 4, trimmed: 0 }
  const post = (more: object) => call(`${url}/v1/admin/import`, 'POST', { ...piece, ...more })
  const blocks = (...of: Uint8Array[]) => ({ blocks: Buffer.concat(of).toString('base64') })
  await post({})
  await post(blocks(block('c', 0)))
  for (const wrong of [
    { blocks: '%%%%' },
    blocks(Buffer.from('no block at all, but some bytes that are long enough')),
    blocks(flipped),
    blocks(block('other', 2)),
    blocks(block('c', 2), Buffer.of(1)),
    blocks(sealBlock('c', [encodeBody([event(1, { data: Buffer.from('{') })])], { after: 2, time: 1_000 }, crc32)),
    // The first one would go.
    blocks(block('c', 2), flipped),
  ]) {
    const { status, json } = await post(wrong)
    expect([wrong, status, json]).toMatchObject([wrong, 400, { code: 'bad-request', channel: 'c' }])
    expect((await post({})).json).toMatchObject({ head: 2, isWhole: false })
  }
  expect((await call(`${url}/readyz`)).status).toBe(200)
  expect(lines.filter(({ level }) => Number(level) > 30)).toEqual([])
  await post(blocks(block('c', 2)))
  expect((await post({ end: { settings: {}, time: null } })).json).toMatchObject({ head: 4, isWhole: true })
  expect(await verifyLog(log)).toMatchObject({ whole: true, events: 4 })
})
