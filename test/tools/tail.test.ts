import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { range, SEED, tempDir } from '../parts.ts'
import { startTestServer } from '../server/serve.ts'
import { randomFrom } from './disk.ts'
import { here } from './here.ts'
import { Program, serving } from './program.ts'

async function append(url: string, channel: string, events: readonly object[]): Promise<void> {
  const response = await fetch(`${url}/v1/channels/${channel}/events`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(events),
  })
  expect(response.status).toBe(201)
}

const numbers = (first: number, last: number) => range(first, last).map((data) => ({ data }))
const call = (url: string, method: string, path: string, body?: object) =>
  fetch(`${url}/v1/${path}`, {
    method,
    ...(body && { headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) }),
  })
const dataOf = (program: { values: Record<string, unknown>[] }) => program.values.map(({ data }) => data)

test('tail shows the newest events as lines, 20 unless told, and ends at the head with --no-follow', async () => {
  const { url } = await startTestServer()
  await append(url, 'orders', [
    ...numbers(1, 30),
    { type: 'order.placed', key: 'k/1', data: { a: 'line\nbreak \u001b[2J \u009b \u202e' } },
    { key: 'k/1' },
    { data: '<p>\n', contentType: 'text/html' },
    { dataBase64: 'AAEC', contentType: 'image/png' },
    { type: 'tick' },
  ])
  const tail = (...args: string[]) => here(['tail', 'orders', '--url', url, '--no-follow', ...args])
  const { code, out, err } = await tail()
  expect([code, err]).toEqual([0, ''])
  const lines = out.trimEnd().split('\n')
  expect(lines).toHaveLength(20)
  const time = String.raw`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z`
  expect(lines[0]).toMatch(new RegExp(`^${time} 16 - - 16$`))
  expect(lines.slice(-5).map((line) => line.replace(/^\S+ /, ''))).toEqual([
    String.raw`31 order.placed k/1 {"a":"line\nbreak \u001b[2J \u009b \u202e"}`,
    '32 - k/1 (gone)',
    String.raw`33 - - "<p>\n"`,
    '34 - - (image/png, 3 bytes)',
    '35 tick - -',
  ])
  expect((await tail('-n', '2')).out.trimEnd().split('\n')).toHaveLength(2)
  expect((await tail('-n', '0')).out).toBe('')
  expect((await tail('--after', 'earliest')).out.trimEnd().split('\n')).toHaveLength(35)
  expect(
    (await tail('--after', '33', '--json')).out
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line)),
  ).toMatchObject([
    { channel: 'orders', seq: 34, contentType: 'image/png', dataBase64: 'AAEC' },
    { channel: 'orders', seq: 35, type: 'tick' },
  ])
})

test('with --no-follow every channel is shown up to its own head, however soon another one is there', async () => {
  const { url } = await startTestServer()
  await append(url, 'small', numbers(1, 3))
  const total = 30_000
  for (let n = 1; n <= total; n += 1_000) await append(url, 'large', numbers(n, n + 999))
  const { code, out } = await here([
    'tail',
    'small',
    'large',
    '--after',
    'earliest',
    '--no-follow',
    '--json',
    '--url',
    url,
  ])
  expect(code).toBe(0)
  const shown = out
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line) as { channel: string; seq: number })
  const of = (name: string) => shown.filter(({ channel }) => channel === name).map(({ seq }) => seq)
  expect(of('small')).toEqual(range(1, 3))
  expect(of('large')).toEqual(range(1, total))
})

test('wrong starts, unknown channels and missing servers end with their codes', async () => {
  const { url } = await startTestServer()
  await append(url, 'orders', numbers(1, 3))
  const cases: [string[], number][] = [
    [['orders', '-n', '1', '--after', '2'], 2],
    [['orders', '--client', 'c', '--after', '2'], 2],
    [['orders', 'orders'], 2],
    [['orders', '--after', 'tomorrow'], 2],
    [['orders@x:y'], 2],
    [['or ders'], 2],
    [['orders', '--client', 'a/b'], 2],
    [['nobody', '--no-follow'], 1],
    [['orders', '--url', 'http://127.0.0.1:9', '--patience', '0s'], 69],
  ]
  for (const [args, expected] of cases) {
    const { code, out, err } = await here(['tail', '--url', url, ...args])
    expect([args, code, out]).toEqual([args, expected, ''])
    expect(err).toMatch(/^tidemark: [^\n]+\n$/)
  }
})

test('Ctrl-C prints where each channel stands, and the next tail goes on exactly there', async () => {
  const { url } = await startTestServer()
  await append(url, 'orders', numbers(1, 5))
  await append(url, 'repo/42', numbers(1, 2))
  const first = new Program(['tail', 'orders', 'repo/42', '--after', 'earliest', '--url', url, '--json'])
  await first.until(() => first.values.length === 7)
  await append(url, 'orders', numbers(6, 6))
  await first.until(() => first.values.length === 8)
  expect(await first.kill('SIGINT')).toBe(0)
  const places = first.err.trimEnd().split('\n')
  expect(places).toEqual([expect.stringMatching(/^orders@[^:]+:6$/), expect.stringMatching(/^repo\/42@[^:]+:2$/)])
  await append(url, 'orders', numbers(7, 9))
  await append(url, 'repo/42', numbers(3, 3))
  const second = new Program(['tail', ...places, '--url', url, '--json'])
  await second.until(() => second.values.length === 4)
  await second.kill('SIGTERM')
  const of = (channel: string) => second.values.filter((value) => value.channel === channel).map(({ data }) => data)
  expect([of('orders'), of('repo/42')]).toEqual([[7, 8, 9], [3]])
})

test('a tail with a name that is killed again and again leaves no event out', async () => {
  console.log(`seed ${SEED}`)
  const random = randomFrom(SEED)
  const { url } = await startTestServer()
  const total = 3_000
  const appending = (async () => {
    for (let n = 1; n <= total; n += 10) await append(url, 'orders', numbers(n, Math.min(n + 9, total)))
  })()
  const seen = new Set<unknown>()
  for (let previous = 0; previous < total; ) {
    const tail = new Program(['tail', 'orders', '--client', 'audit-1', '--url', url, '--json'])
    // Each life sees something new, so that there is an end however late the commits are.
    const enough = Math.min(previous + 1 + random(800), total)
    await tail.until(() => Number(tail.values.at(-1)?.data) >= enough)
    await tail.kill('SIGKILL')
    const run = dataOf(tail) as number[]
    // Each run is without a hole, and begins no later than where the one before was cut.
    expect(run).toEqual(range(run[0]!, run.at(-1)!))
    expect(run[0]).toBeLessThanOrEqual(previous + 1)
    previous = Math.max(previous, run.at(-1)!)
    for (const data of run) seen.add(data)
  }
  await appending
  expect(seen.size).toBe(total)
  const rest = await here(['tail', 'orders', '--client', 'audit-1', '--url', url, '--json', '--no-follow'])
  expect(rest.code).toBe(0)
  const cursors = await here(['cursors', 'orders', '--url', url, '--json'])
  expect(JSON.parse(cursors.out)).toMatchObject({ client: 'audit-1', seq: total, lag: 0 })
})

test('a gap and a reset are told in their place, in words on stderr', async () => {
  const { url } = await startTestServer()
  await append(url, 'orders', numbers(1, 10))
  const place = (await here(['info', 'orders', '--url', url, '--json'])).out
  const { epoch } = JSON.parse(place) as { epoch: string }
  expect((await call(url, 'POST', 'channels/orders/trim', { upTo: 4 })).status).toBe(200)
  const gap = await here(['tail', `orders@${epoch}:2`, '--url', url, '--json', '--no-follow'])
  const [first, ...rest] = gap.out
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>)
  expect(first).toMatchObject({ is: 'gap', channel: 'orders', after: 2, trimmed: 4 })
  expect(rest.map(({ data }) => data)).toEqual(range(5, 10))
  expect(gap.err).toContain('orders')
  // In words only, for a person.
  const words = await here(['tail', `orders@${epoch}:2`, '--url', url, '--no-follow'])
  expect(words.out.trimEnd().split('\n')).toHaveLength(6)
  expect(words.err).toMatch(/gone/)

  expect((await call(url, 'DELETE', 'channels/orders')).status).toBe(204)
  await append(url, 'orders', numbers(100, 101))
  const reset = await here(['tail', `orders@${epoch}:8`, '--url', url, '--json', '--no-follow'])
  const lines = reset.out
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>)
  expect(lines).toMatchObject([
    { is: 'reset', channel: 'orders' },
    { seq: 1, data: 100 },
    { seq: 2, data: 101 },
  ])
  expect(reset.err).toContain('orders')
})

test('a channel that is not there yet is waited for, and a restarted server is joined again', async () => {
  const data = tempDir()
  const server = await serving([], data)
  const { url } = server
  const tail = new Program(['tail', 'later', '--after', 'earliest', '--url', url, '--json'])
  await append(url, 'later', numbers(1, 1))
  await tail.until(() => dataOf(tail).length === 1)
  await server.kill('SIGKILL')
  await tail.until(() => tail.err.includes('trying again'))
  await serving([], data, Number(new URL(url).port))
  await append(url, 'later', numbers(2, 3))
  await tail.until(() => dataOf(tail).length === 3)
  expect(dataOf(tail)).toEqual([1, 2, 3])
})

test('a reader of the output that stops reading ends the tail quietly', async () => {
  const { url } = await startTestServer()
  await append(url, 'orders', numbers(1, 1_000))
  const program = fileURLToPath(new URL('../../dist/bin/tidemark.js', import.meta.url))
  const script = '"$0" "$1" tail orders --after earliest --url "$2" | head -n 1; echo "$PIPESTATUS"'
  // It would follow for ever: the next event meets the closed pipe.
  const running = promisify(execFile)('bash', ['-c', script, process.execPath, program, url])
  let isOver = false
  const over = running.finally(() => {
    isOver = true
  })
  while (!isOver) await append(url, 'orders', numbers(1, 10))
  const { stdout, stderr } = await over
  expect(stdout.trimEnd().split('\n')).toEqual([expect.stringMatching(/ 1 - - 1$/), '0'])
  expect(stderr).toBe('')
})
