import { once } from 'node:events'
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import type { AppendedJson, PageJson } from '../../src/wire.ts'
import { range, tempDir } from '../parts.ts'
import { Program, run, serving } from './program.ts'

const post = (url: string, channel: string, data: unknown): Promise<Response> =>
  fetch(`${url}/v1/channels/${channel}/events`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ data }),
  })

test('serve tells its address, data, engine and durability, and loudly that there are no keys', async () => {
  const data = tempDir()
  const server = await serving([], data)
  expect(server.url).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/)
  expect((await fetch(`${server.url}/livez`)).status).toBe(200)
  const told = server.values.find(({ msg }) => msg === 'Serving')
  expect(told).toMatchObject({ level: 'info', data: join(data, 'log'), engine: 'level', durability: 'fsync' })
  const [serves, warns] = server.err.split('\n')
  for (const word of [server.url, join(data, 'log'), 'level', 'fsync']) expect(serves).toContain(word)
  expect(warns).toContain('NO KEYS')
  expect(server.values.some(({ level, msg }) => level === 'warn' && String(msg).startsWith('NO KEYS'))).toBe(true)
})

test('a stop under load answers what it took, loses nothing that was answered, and exits 0', async () => {
  const data = tempDir()
  const server = await serving([], data)
  const answered = new Set<string>()
  let tried = 0
  const producers = range(1, 16).map(async (producer) => {
    for (let n = 0; ; n++) {
      const id = `${producer}-${n}`
      try {
        tried++
        const response = await post(server.url, `load-${producer % 4}`, id)
        if (response.status !== 201) return
        await response.json()
        answered.add(id)
      } catch (error) {
        // The server is gone; what had no answer may be there or not.
        if (error instanceof TypeError) return
        throw error
      }
    }
  })
  const poll = fetch(`${server.url}/v1/channels/quiet/events?wait=50`)
  while (answered.size < 300) await new Promise(setImmediate)
  const code = await server.kill('SIGTERM')
  await Promise.all(producers)
  await Promise.allSettled([poll])
  expect(code).toBe(0)
  expect(server.values.at(-1)).toMatchObject({ msg: 'The log is closed' })
  expect(tried).toBeGreaterThanOrEqual(answered.size)

  const again = await serving([], data)
  const there = new Set<string>()
  for (const n of range(0, 3))
    for (let after = 0; ; ) {
      const response = await fetch(`${again.url}/v1/channels/load-${n}/events?after=${after}&limit=10000`)
      const page = (await response.json()) as PageJson
      for (const event of page.events) there.add(event.data as string)
      after = page.last
      if (page.caughtUp) break
    }
  expect([...answered].filter((id) => !there.has(id))).toEqual([])
})

test('a second signal ends a stop that takes its time', async () => {
  const server = await serving()
  const { port } = new URL(server.url)
  const slow = connect(Number(port), '127.0.0.1')
  slow.on('error', () => undefined)
  slow.write('POST /v1/channels/x/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n')
  slow.write('Transfer-Encoding: chunked\r\n\r\n9\r\n{"data":1\r\n')
  // An answer on another connection says that the server has read the head of this one.
  await once(slow, 'connect')
  await post(server.url, 'y', 1)
  server.child.kill('SIGTERM')
  await server.until(() => server.values.some(({ msg }) => msg === 'Stopping'))
  expect(await server.kill('SIGTERM')).toBe(1)
  expect(server.values.some(({ msg }) => msg === 'The log is closed')).toBe(false)
  slow.destroy()
})

test('a log that is in use is refused with 75 and the pid of its holder', async () => {
  const data = tempDir()
  const server = await serving([], data)
  const second = await run(['serve', '--port', '0', '--data', join(data, 'log')])
  expect(second.code).toBe(75)
  expect(second.err).toContain(String(server.child.pid))
})

test('a directory that can not be made ends with 73, a taken port with 69', async () => {
  const data = tempDir()
  writeFileSync(join(data, 'file'), 'not a directory')
  expect((await run(['serve', '--port', '0', '--data', join(data, 'file', 'log')])).code).toBe(73)
  expect((await run(['serve', '--port', '0', '--data', '/proc/nope/log'])).code).toBe(73)
  // What is not ours stays as it is.
  expect((await run(['serve', '--port', '0', '--data', data])).code).toBe(78)
  expect(readdirSync(data)).toEqual(['file'])
  const server = await serving()
  const { port } = new URL(server.url)
  expect((await run(['serve', '--port', port, '--data', join(data, 'log')])).code).toBe(69)
  // The refused one let go of the log.
  const third = await serving([], data)
  expect(await third.kill('SIGTERM')).toBe(0)
})

test('serve takes its settings from a file, and another path for its calls', async () => {
  const dir = tempDir()
  mkdirSync(join(dir, 'etc'))
  writeFileSync(join(dir, 'etc/tidemark.yaml'), 'path: /tide\nlog-level: info\n')
  const server = await serving(['--config', join(dir, 'etc/tidemark.yaml')])
  const base = new URL(server.url)
  expect(base.pathname).toBe('/tide')
  const appended = await run(['append', 'orders', '--data', '1', '--url', server.url, '--json'])
  expect(JSON.parse(appended.out) as AppendedJson).toMatchObject({ channel: 'orders', first: 1, last: 1 })
})

test('a stdout that takes no log lines costs lines, neither the serving nor the stop', async () => {
  const args = ['serve', '--port', '0', '--data', join(tempDir(), 'log')]
  const server = new Program(args, { stdout: '/dev/full' })
  const url = await server.until(() => /serving (http:\S+)\/v1 from/.exec(server.err)?.[1])
  expect((await post(url, 'x', 1)).status).toBe(201)
  expect(await server.kill('SIGTERM')).toBe(0)
  expect(server.err.match(/ENOSPC/g)).toHaveLength(1)
  expect(server.err).toMatch(/\d+ log lines were lost\n$/)
})

test('nor does a reader of the log that has stopped reading', async () => {
  const server = await serving(['--log-level', 'debug'])
  server.child.stdout.pause()
  // More than stands in the pipe and in the memory of both sides.
  for (let n = 0; n < 400; n++) await (await fetch(`${server.url}/${'x'.repeat(12_000)}`)).arrayBuffer()
  expect((await post(server.url, 'x', 1)).status).toBe(201)
  server.child.kill('SIGTERM')
  await server.until(() => server.err.includes('log lines were lost\n'))
  server.child.stdout.resume()
  expect(await server.ended()).toBe(0)
})
