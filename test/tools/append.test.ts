import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import type { EventJson, PageJson } from '../../src/wire.ts'
import { range, tempDir } from '../parts.ts'
import { startTestServer } from '../server/serve.ts'
import { here, starting } from './here.ts'
import { Program, run, serving } from './program.ts'
import { losingAnswers } from './proxy.ts'

async function read(url: string, channel: string): Promise<EventJson[]> {
  const events: EventJson[] = []
  for (let after = 0; ; ) {
    const response = await fetch(`${url}/v1/channels/${channel}/events?after=${after}&limit=10000`)
    expect(response.status).toBe(200)
    const page = (await response.json()) as PageJson
    events.push(...page.events)
    after = page.last
    if (page.caughtUp) return events
  }
}

test('one event is appended as its options say, and its place printed', async () => {
  const { url } = await startTestServer()
  const append = (...args: string[]) => here(['append', 'orders', '--url', url, ...args])
  const dir = tempDir()
  const bytes = Buffer.from(range(0, 255))
  writeFileSync(join(dir, 'bytes'), bytes)
  writeFileSync(join(dir, 'page.html'), '<p>é\n</p>')

  expect(await append('--type', 'order.placed', '--key', 'k', '--id', 'i', '--data', '{"b":1, "a":[1.50]}')).toEqual({
    code: 0,
    out: 'orders 1\n',
    err: '',
  })
  expect((await append('--key', 'k', '--tombstone')).out).toBe('orders 2\n')
  expect((await append('--file', join(dir, 'bytes'))).out).toBe('orders 3\n')
  expect((await append('--file', join(dir, 'page.html'), '--content-type', 'text/html')).out).toBe('orders 4\n')
  expect((await append('--type', 'tick')).out).toBe('orders 5\n')
  expect((await append('--data', 'null')).out).toBe('orders 6\n')
  const piped = await run(['append', 'orders', '--url', url, '--file', '-', '--key', 'in'], { input: 'from stdin' })
  expect(piped.out).toBe('orders 7\n')
  const json = await append('--data', '"x"', '--json')
  expect(JSON.parse(json.out)).toMatchObject({ channel: 'orders', first: 8, last: 8, head: 8, durability: 'fsync' })

  const events = (await read(url, 'orders')).map(({ seq: _, time: __, ...event }) => event)
  expect(events).toEqual([
    { type: 'order.placed', key: 'k', id: 'i', data: { b: 1, a: [1.5] } },
    { key: 'k', tombstone: true },
    { contentType: 'application/octet-stream', dataBase64: bytes.toString('base64') },
    { contentType: 'text/html', data: '<p>é\n</p>' },
    { type: 'tick' },
    { data: null },
    { key: 'in', contentType: 'application/octet-stream', dataBase64: Buffer.from('from stdin').toString('base64') },
    { data: 'x' },
  ])
})

test('a wrong or refused append ends with the exit code of its problem, and appends nothing', async () => {
  const { url } = await startTestServer()
  const big = join(tempDir(), 'big')
  writeFileSync(big, Buffer.alloc(2_000_000))
  await here(['append', 'orders', '--url', url, '--data', '1'])
  const cases: [string[], number, string?][] = [
    [['orders', '--data', 'hello'], 2, '\'"hello"\''],
    [['orders', '--data', '9007199254740993'], 2],
    [['orders', '--key', 'k'], 2, '--tombstone'],
    [['orders', '--tombstone'], 2, '--key'],
    [['orders', '--id', 'i'], 2],
    [['orders', '--data', '1', '--file', 'x'], 2],
    [['orders', '--file', '/nowhere/at/all'], 2],
    [['orders', '--file', big], 1],
    [['orders', '--expected-seq', '1'], 2],
    [['orders', '--expected-seq', '0', '--data', '2'], 1, 'seq-conflict'],
    [['orders', '--expected-seq', 'x', '--data', '2'], 2],
    [['or ders', '--data', '1'], 2],
    [['_streamer', '--data', '1'], 77],
    [['orders', '--type', 'error', '--data', '1'], 2],
    [['orders', '--data', '1', '--patience', '5'], 2],
    [['orders', '--data', '1', '--content-type', 'text/plain'], 2],
    [['orders', '--data', '1', '--url', 'http://user:pw@127.0.0.1'], 2],
    [['orders', '--data', '1', '--url', 'http://:pw@127.0.0.1'], 2],
  ]
  for (const [args, expected, word = ''] of cases) {
    const { code, out, err } = await here(['append', '--url', url, ...args])
    expect([args, code, out]).toEqual([args, expected, ''])
    expect(err).toContain(word)
  }
  expect((await here(['append', 'orders', '--url', url], { isTTY: true })).code).toBe(2)
  expect(await read(url, 'orders')).toHaveLength(1)
  const json = await here(['append', 'orders', '--url', url, '--expected-seq', '0', '--data', '2', '--json'])
  expect(JSON.parse(json.err)).toMatchObject({ code: 'seq-conflict', head: 1 })
})

test('the same append under the same idempotency key is there once', async () => {
  const { url } = await startTestServer()
  const args = ['append', 'orders', '--url', url, '--data', '1', '--idempotency-key', 'once', '--json']
  const [first, second] = [await here(args), await here(args)]
  expect(JSON.parse(second.out)).toMatchObject({ first: 1, last: 1, duplicate: true })
  expect(JSON.parse(first.out)).not.toHaveProperty('duplicate')
  const other = await here([...args, '--type', 'other'])
  expect(other.code).toBe(1)
  expect(await read(url, 'orders')).toHaveLength(1)
})

test('an append whose answer gets lost is asked for again and is there once', async () => {
  const { url } = await startTestServer()
  let lost = 0
  const lossy = await losingAnswers(url, () => lost++ % 3 < 2)
  const one = await here(['append', 'one', '--url', lossy, '--data', '1', '--json'])
  expect(JSON.parse(one.out)).toMatchObject({ first: 1, last: 1, duplicate: true })
  expect(await read(url, 'one')).toHaveLength(1)
  const input = range(1, 2_500)
    .map((data) => JSON.stringify({ data }))
    .join('\n')
  const many = await here(['append', 'many', '--url', lossy, '--json'], { input })
  expect(JSON.parse(many.out)).toMatchObject({ first: 1, last: 2_500, events: 2_500 })
  expect((await read(url, 'many')).map(({ data }) => data)).toEqual(range(1, 2_500))
  expect(lost).toBeGreaterThan(9)
  // Who has no patience is told the key, and may try again.
  const none = await losingAnswers(url, () => true)
  const args = ['append', 'two', '--data', '1', '--idempotency-key', 'my-key', '--json']
  const refused = await here([...args, '--url', none, '--patience', '0s'])
  expect(refused.code).toBe(69)
  expect(JSON.parse(refused.err)).toMatchObject({ code: 'unavailable', outcome: 'unknown', idempotencyKey: 'my-key' })
  expect(JSON.parse((await here([...args, '--url', url])).out)).toMatchObject({ first: 1, duplicate: true })
})

test('a server that is not there ends with 69, and nothing is said to be unknown', async () => {
  const there = createServer().listen(0, '127.0.0.1')
  await once(there, 'listening')
  const { port } = there.address() as AddressInfo
  await new Promise((resolve) => there.close(resolve))
  const args = ['append', 'orders', '--url', `http://127.0.0.1:${port}`, '--patience', '0s', '--json']
  const one = await here([...args, '--data', '1'])
  const many = await here(args, { input: '{"data":1}\n{"data":2}\n' })
  for (const { code, err } of [one, many]) {
    expect(code).toBe(69)
    expect(JSON.parse(err)).toMatchObject({ code: 'unavailable' })
    expect(JSON.parse(err)).not.toHaveProperty('outcome')
    expect(JSON.parse(err)).not.toHaveProperty('idempotencyKey')
  }
})

test('lines without an answer are named, and told no key that lines could not be sent again with', async () => {
  const { url } = await startTestServer()
  let posts = 0
  const lossy = await losingAnswers(url, () => ++posts > 1)
  const program = new Program(['append', 'orders', '--url', lossy, '--patience', '0s'])
  program.child.stdin.write('{"data":1}\n')
  await fetch(`${url}/v1/channels/orders/events?wait=20`)
  program.child.stdin.end('{"data":2}\n')
  expect(await program.ended()).toBe(69)
  expect(program.err).toMatch(/^tidemark: Line 2: .*unknown/)
  expect(program.err).not.toContain('--idempotency-key')
  expect(program.out).toBe('orders 1 (1 events)\n')
})

test('an append that is left by Ctrl-C without an answer says so, and its key', async () => {
  const silent = createServer()
  const asked = once(silent, 'request')
  silent.listen(0, '127.0.0.1')
  await once(silent, 'listening')
  onTestFinished(() => {
    silent.closeAllConnections()
    silent.close()
  })
  const { port } = silent.address() as AddressInfo
  const args = ['--data', '1', '--idempotency-key', 'my-key', '--url', `http://127.0.0.1:${port}`, '--json']
  const append = starting(['append', 'orders', ...args])
  await asked
  append.stop()
  expect(await append.ended).toBe(69)
  expect(JSON.parse(append.err)).toMatchObject({ code: 'unavailable', outcome: 'unknown', idempotencyKey: 'my-key' })
})

test('an append whose result can not be written says what was appended', async () => {
  const { url } = await startTestServer()
  const append = new Program(['append', 'orders', '--url', url, '--data', '1'], { stdout: '/dev/full' })
  expect(await append.ended()).toBe(74)
  expect(append.err).toMatch(/^tidemark: [^\n]*ENOSPC[^\n]*appended orders 1\n$/)
  expect(await read(url, 'orders')).toHaveLength(1)
})

test('lines before one that is not UTF-8 are appended, and it is named', async () => {
  const { url } = await startTestServer()
  const program = new Program(['append', 'orders', '--url', url, '--json'])
  program.child.stdin.end(
    Buffer.concat([Buffer.from('\ufeff{"data":1}\n{"data":"'), Buffer.from([0xff]), Buffer.from('"}\n')]),
  )
  expect(await program.ended()).toBe(2)
  expect(JSON.parse(program.err)).toMatchObject({ code: 'bad-request', line: 2 })
  expect((await read(url, 'orders')).map(({ data }) => data)).toEqual([1])
})

test('lines of stdin become events, in order, in batches; the answer covers all of them', async () => {
  const { url } = await startTestServer()
  const lines = range(1, 2_500).map((n) => JSON.stringify({ type: 'n', data: n, ...(n % 2 && { key: `é${n}` }) }))
  const input = `${lines.slice(0, 10).join('\n')}\n\n \n${lines.slice(10).join('\r\n')}`
  const { code, out, err } = await here(['append', 'many', '--url', url, '--json'], { input })
  expect([code, err]).toEqual([0, ''])
  expect(JSON.parse(out)).toMatchObject({ channel: 'many', first: 1, last: 2_500, events: 2_500 })
  expect((await read(url, 'many')).map(({ data }) => data)).toEqual(range(1, 2_500))
  const none = await here(['append', 'many', '--url', url], { input: '\n' })
  expect([none.code, none.out]).toEqual([0, ''])
})

test('a line that is no event is named; what came before it in earlier batches is appended and told', async () => {
  const { url } = await startTestServer()
  const lines = range(1, 1_500).map((n) => JSON.stringify({ data: n }))
  const wrong: [string, string][] = [
    ['{"data":', 'Line 1500'],
    ['{"data":1},{"data":2}', 'Line 1500'],
    ['7', 'Line 1500'],
    ['{"dta":1}', 'Line 1500'],
    ['{"data":1,"type":"error"}', 'Line 1500'],
  ]
  for (const [i, [line, where]] of wrong.entries()) {
    const input = [...lines.slice(0, -1), line].join('\n')
    const { code, out, err } = await here(['append', `wrong-${i}`, '--url', url], { input })
    expect([line, code]).toEqual([line, 2])
    expect(err).toContain(where)
    const there = await read(url, `wrong-${i}`)
    expect(there.length).toBeLessThan(1_500)
    expect(out).toBe(`wrong-${i} 1–${there.length} (${there.length} events)\n`)
  }
})

test('events go out while their input stays open, and Ctrl-C still tells what was appended', async () => {
  const { url } = await startTestServer()
  const program = new Program(['append', 'live', '--url', url, '--json'])
  for (const n of range(1, 3)) {
    program.child.stdin.write(`${JSON.stringify({ data: n })}\n`)
    const page = await fetch(`${url}/v1/channels/live/events?after=${n - 1}&wait=20`)
    expect(((await page.json()) as PageJson).events.map(({ data }) => data)).toEqual([n])
  }
  program.child.kill('SIGINT')
  expect(await program.ended()).toBe(0)
  expect(program.values).toMatchObject([{ first: 1, last: 3, events: 3 }])
})

test('a server that is killed and started again amid a stream has each event once', async () => {
  const data = tempDir()
  let server = await serving([], data)
  const { url } = server
  const program = new Program(['append', 'stream', '--url', url, '--json', '--patience', '1m'])
  const total = 20_000
  const feeding = (async () => {
    for (const n of range(1, total))
      if (!program.child.stdin.write(`${JSON.stringify({ data: n })}\n`))
        await new Promise((resolve) => program.child.stdin.once('drain', resolve))
    program.child.stdin.end()
  })()
  const headOf = async (): Promise<number> => {
    const response = await fetch(`${url}/v1/channels/stream`)
    return response.status === 200 ? ((await response.json()) as { head: number }).head : 0
  }
  for (const target of [2_000, 9_000]) {
    while ((await headOf()) < target) await new Promise(setImmediate)
    await server.kill('SIGKILL')
    server = await serving([], data, Number(new URL(url).port))
  }
  await feeding
  expect(await program.ended()).toBe(0)
  expect((await read(url, 'stream')).map(({ data }) => data)).toEqual(range(1, total))
})
