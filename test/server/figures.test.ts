import { request } from 'node:http'
import { expect, onTestFinished, test, vi } from 'vitest'
import { GroupFigures } from '../../src/doors/counts.ts'
import { limitsOf } from '../../src/limits.ts'
import { body, range, tempDir, tempLog } from '../parts.ts'
import { call, problemOf } from './calls.ts'
import { startTestServer } from './serve.ts'
import { Peer } from './stream.ts'

async function openStream(url: string, client?: string): Promise<Peer> {
  const socket = await Peer.open(`${url.replace('http', 'ws')}/v1/stream`, 'json', {})
  socket.send({ op: 'hello', client })
  await socket.next('welcome')
  return socket
}

test('figures count what was appended, delivered, written and refused, whatever the door', async () => {
  const groupFigures = new GroupFigures()
  const dir = tempDir()
  const log = await tempLog({ dir, onGroup: groupFigures.add })
  const { url } = await startTestServer({ log, groupFigures, dir })
  const before = (await call(`${url}/v1/admin/figures`)).json
  expect(before).toMatchObject({ appends: 0, appendedEvents: 0, deliveredEvents: 0, state: 'ok', streamer: 'on' })
  await call(`${url}/v1/channels/a/events`, 'POST', [{ data: 1 }, { data: 2 }])
  await call(`${url}/v1/channels/a/events`)
  await call(`${url}/v1/channels/none/events`)
  const socket = await openStream(url)
  socket.send({ op: 'subscribe', channel: 'a' })
  await socket.until(({ op }) => op === 'caughtup')
  const { json } = await call(`${url}/v1/admin/figures`)
  expect(json).toMatchObject({ appends: 1, appendedEvents: 2, deliveredEvents: 4, failures: 1, sockets: 1 })
  expect(json.followers).toEqual({ poll: 0, sse: 0, stream: 1 })
  expect(json.at).toBeGreaterThan(before.at)
  const { groups, disk } = json
  expect(groups.count).toBe(1)
  expect(groups.counts).toHaveLength(groups.bounds.length + 1)
  expect(groups.counts.reduce((sum: number, count: number) => sum + count)).toBe(1)
  expect(groups.seconds).toBeGreaterThan(0)
  expect(disk.size).toBeGreaterThanOrEqual(disk.free)
  expect(disk.used).toBeGreaterThan(100)
})

test('without them, figures say nothing of writes and disk', async () => {
  const { url } = await startTestServer()
  const { json } = await call(`${url}/v1/admin/figures`)
  expect(json).not.toHaveProperty('groups')
  expect(json).not.toHaveProperty('disk')
})

test('heads tell which channels moved since the look before, fastest first', async () => {
  const { url, log } = await startTestServer()
  for (const channel of ['slow', 'fast', 'still']) await log.append([{ channel, body: body(1) }])
  const first = (await call(`${url}/v1/admin/heads`)).json
  expect(first).toMatchObject({ over: 0, channels: 3, complete: true, heads: [] })
  await log.append([{ channel: 'fast', body: body(...range(1, 50)) }])
  await log.append([{ channel: 'slow', body: body(2) }])
  // Looks are shared for a while.
  const { json } = await vi.waitFor(
    async () => {
      const answer = await call(`${url}/v1/admin/heads?limit=5`)
      expect(answer.json.over).toBeGreaterThan(0)
      return answer
    },
    { timeout: 10_000, interval: 200 },
  )
  expect(json.heads.map(({ channel, head }: { channel: string; head: number }) => [channel, head])).toEqual([
    ['fast', 51],
    ['slow', 2],
  ])
  expect(json.heads[0].rate).toBeCloseTo(50_000 / json.over, 6)
})

test('cursors of all channels or of one, those that lag most first, no more than asked for', async () => {
  const { url, log } = await startTestServer()
  for (const [channel, cursors] of Object.entries({ a: { x: 9, y: 1 }, b: { x: 5 }, c: {} })) {
    await log.append([{ channel, body: body(...range(1, 10)) }])
    for (const [client, seq] of Object.entries(cursors)) await log.commit(client, channel, { seq })
  }
  const names = async (query: string) => {
    const { json } = await call(`${url}/v1/admin/cursors${query}`)
    expect(json.found).toBe(query.includes('channel=a') ? 2 : query.includes('channel=c') ? 0 : 3)
    return json.cursors.map(({ channel, client, lag }: Record<string, unknown>) => `${channel} ${client} ${lag}`)
  }
  expect(await names('')).toEqual(['a y 9', 'b x 5', 'a x 1'])
  expect(await names('?limit=1')).toEqual(['a y 9'])
  expect(await names('?channel=a')).toEqual(['a y 9', 'a x 1'])
  expect(await names('?channel=c')).toEqual([])
  expect(problemOf(await call(`${url}/v1/admin/cursors?channel=none`)).code).toBe('no-channel')
})

test('connections tell their door, client and channels, and all are counted', async () => {
  const { url, log, port } = await startTestServer()
  await log.append([{ channel: 'a', body: body(1) }])
  const socket = await openStream(url, 'web-1')
  socket.send({ op: 'subscribe', channel: 'a' })
  await socket.until(({ op }) => op === 'caughtup')
  const opened = [
    ['/v1/channels/a/events', { accept: 'text/event-stream' }],
    ['/v1/channels/a/events?after=head&wait=20', {}],
  ] as const
  for (const [path, headers] of opened) {
    const req = request({ port, path, headers, agent: false }).on('error', () => {})
    onTestFinished(() => void req.destroy())
    req.end()
  }
  const { json } = await vi.waitFor(async () => {
    const answer = await call(`${url}/v1/admin/connections`)
    const doors = answer.json.connections.map(({ door }: { door: string }) => door)
    for (const door of ['stream', 'sse', 'poll', 'http']) expect(doors).toContain(door)
    return answer
  })
  expect(json.count).toBe(json.connections.length)
  const found = json.connections.find(({ door }: { door: string }) => door === 'stream')
  expect(found).toMatchObject({ client: 'web-1', subscriptions: 1, waiting: 0 })
  expect(found.address).toMatch(/^127\.0\.0\.1:\d+$/)
  expect(Date.now() - Date.parse(found.since)).toBeLessThan(60_000)
  const one = (await call(`${url}/v1/admin/connections?limit=1`)).json
  expect(one.connections).toHaveLength(1)
  expect(one.count).toBeGreaterThan(3)
})

test('settings are those that the server was given, with its limits', async () => {
  const shown = [{ name: 'port', value: '0', from: 'flag --port' }]
  const { url } = await startTestServer({ shown, version: '1.2.3', limits: { maxConnections: 77 } })
  const { json } = await call(`${url}/v1/admin/settings`)
  expect(json).toMatchObject({ server: 'tidemark/1.2.3', url: `${url}/v1`, settings: shown })
  expect(json.limits).toMatchObject({ ...limitsOf(), maxConnections: 77 })
})

test('lists are bounded', async () => {
  const { url } = await startTestServer()
  for (const call_ of ['heads', 'cursors', 'connections'])
    for (const limit of ['0', '1001', '-1', 'x'])
      expect(problemOf(await call(`${url}/v1/admin/${call_}?limit=${limit}`)).code).toBe('bad-request')
})
