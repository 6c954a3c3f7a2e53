import { expect, test } from 'vitest'
import { range } from '../parts.ts'
import { startTestServer } from '../server/serve.ts'
import { here as run } from './here.ts'

const append = (url: string, channel: string, data = 1) =>
  run(['append', channel, '--data', String(data), '--url', url])

test('channels lists all channels or those with a prefix, as a table and as JSON lines', async () => {
  const { url } = await startTestServer()
  for (const channel of ['orders', 'repo/1', 'repo/2', 'repo/2']) await append(url, channel)
  const json = await run(['channels', '--url', url, '--json'])
  const rows = json.out
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>)
  expect(rows.filter(({ channel }) => !String(channel).startsWith('_'))).toMatchObject([
    { channel: 'orders', head: 1, trimmed: 0 },
    { channel: 'repo/1', head: 1 },
    { channel: 'repo/2', head: 2 },
  ])
  const table = await run(['channels', 'repo/', '--url', url])
  const [head, ...lines] = table.out.trimEnd().split('\n')
  expect(head).toMatch(/^CHANNEL +HEAD +TRIMMED/)
  expect(lines).toEqual([expect.stringMatching(/^repo\/1 +1 +0 /), expect.stringMatching(/^repo\/2 +2 +0 /)])
  const none = await run(['channels', 'none/', '--url', url, '--json'])
  expect([none.code, none.out]).toEqual([0, ''])
})

test('channels reads on until there are no more pages', async () => {
  const { url } = await startTestServer()
  const names = range(1, 1_100).map((n) => `c/${String(n).padStart(4, '0')}`)
  const appends = { appends: names.slice(0, 1_000).map((channel) => ({ channel, events: [{ data: 1 }] })) }
  const response = await fetch(`${url}/v1/append`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(appends),
  })
  expect(response.status).toBe(201)
  await Promise.all(
    names.slice(1_000).map((name) => fetch(`${url}/v1/channels/${name}/events?type=t`, { method: 'POST', body: 'x' })),
  )
  const { out } = await run(['channels', 'c/', '--url', url, '--json'])
  expect(
    out
      .trimEnd()
      .split('\n')
      .map((line) => (JSON.parse(line) as { channel: string }).channel),
  ).toEqual(names)
  expect((await run(['channels', 'c/', '--url', url])).out.trimEnd().split('\n')).toHaveLength(1_101)
})

test('info tells of one channel, and that there is none', async () => {
  const { url } = await startTestServer()
  await append(url, 'orders')
  const { out } = await run(['info', 'orders', '--url', url])
  expect(out).toMatch(/^channel +orders$/m)
  expect(out).toMatch(/^head +1$/m)
  const json = await run(['info', 'orders', '--url', url, '--json'])
  expect(JSON.parse(json.out)).toMatchObject({ channel: 'orders', head: 1, trimmed: 0, settings: {} })
  const none = await run(['info', 'nobody', '--url', url])
  expect([none.code, none.out]).toEqual([1, ''])
  expect(none.err).toContain('no-channel')
})

test('cursors lists who stands where', async () => {
  const { url } = await startTestServer()
  for (const n of range(1, 3)) await append(url, 'orders', n)
  for (const [client, seq] of [
    ['a', 1],
    ['b', 3],
  ] as const)
    await fetch(`${url}/v1/channels/orders/cursors/${client}`, {
      method: 'PUT',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ seq }),
    })
  const { out } = await run(['cursors', 'orders', '--url', url])
  expect(out.trimEnd().split('\n').slice(1)).toEqual([
    expect.stringMatching(/^a +1 +2 /),
    expect.stringMatching(/^b +3 +0 /),
  ])
  expect((await run(['cursors', 'nobody', '--url', url])).code).toBe(1)
})

test('streamer turns the switch and tells where it stands', async () => {
  const { url } = await startTestServer()
  const streamer = async (to: string) =>
    JSON.parse((await run(['streamer', to, '--url', url, '--json'])).out) as unknown
  expect(await streamer('status')).toEqual({ on: true })
  expect(await streamer('off')).toEqual({ on: false })
  expect(await streamer('status')).toEqual({ on: false })
  expect((await run(['streamer', 'on', '--url', url])).out).toBe('the streamer is on\n')
})

test('without a server every one of them ends with 69', async () => {
  for (const args of [['channels'], ['info', 'x'], ['cursors', 'x'], ['streamer', 'status']])
    expect((await run([...args, '--url', 'http://127.0.0.1:9'])).code).toBe(69)
})
