import { describe, expect, test } from 'vitest'
import { HEADER_BYTES_MAX, JSON_BYTES_MAX } from '../../src/doors/limits.ts'
import { DEPTH_MAX } from '../../src/event.ts'
import { body } from '../parts.ts'
import { call, problemOf, RawConnection } from './calls.ts'
import { startTestServer } from './serve.ts'

const HOST = 'Host: 127.0.0.1\r\n'
const codeOf = (answer: string) => /"code":"([a-z-]+)"/.exec(answer)?.[1]

describe('hostile input', () => {
  const put = (url: string, text: string | Uint8Array) => call(`${url}/v1/admin/streamer`, 'PUT', text)

  test.each<[string, string | Uint8Array]>([
    ['half a text', '{"on":'],
    ['nothing', ''],
    ['two texts', '{"on":true}{"on":true}'],
    ['a comment', '{"on":true/**/}'],
    ['bytes that are not UTF-8', new Uint8Array([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d])],
    ['a byte order mark', '\ufeff{"on":true}'],
    ['a field twice', '{"on":true,"on":false}'],
    ['a prototype', '{"on":true,"__proto__":{"on":false}}'],
    ['a constructor', '{"on":true,"constructor":{"prototype":{}}}'],
    ['nesting beyond any depth', `{"on":${'['.repeat(20_000)}${']'.repeat(20_000)}}`],
    ['nesting beyond the limit', `{"on":${'['.repeat(DEPTH_MAX + 6)}${']'.repeat(DEPTH_MAX + 6)}}`],
    ['an integer beyond 2^53', '{"on":9007199254740993}'],
  ])('%s is a bad request', async (_, text) => {
    const { url } = await startTestServer()
    expect(problemOf(await put(url, text)).code).toBe('bad-request')
    expect(({} as Record<string, unknown>).on).toBeUndefined()
    expect((await call(`${url}/v1/admin/streamer`)).json).toEqual({ on: true })
  })

  test('an address that is written in another way is answered, well asked or not', async () => {
    const { url, log } = await startTestServer()
    await log.append([{ channel: 'c', body: body(1) }])
    const poll = { channels: { c: { after: 0 } } }
    const calls: [string, string, unknown, number, string?][] = [
      ['/v1/poll?x=1', 'POST', poll, 200],
      ['/v1/%70oll', 'POST', poll, 200],
      ['/v1/poll?', 'POST', '{}', 400, 'bad-request'],
      ['/v1/poll?', 'POST', '[', 400, 'bad-request'],
      ['/v1/%63hannels/c/events', 'POST', { data: 2 }, 404, 'not-found'],
      ['/v1/%63hannels/c/events', 'GET', undefined, 404, 'not-found'],
      ['/v1/%65vents?channel=c', 'GET', undefined, 404, 'not-found'],
      ['/livez?', 'GET', undefined, 200],
      ['/livez?x=1', 'GET', undefined, 400, 'bad-request'],
      ['/readyz?x=1', 'GET', undefined, 400, 'bad-request'],
      ['/readyz?', 'GET', undefined, 200],
    ]
    for (const [path, method, sent, status, code] of calls) {
      const answer = await call(url + path, method, sent)
      expect([path, answer.status, answer.json?.code]).toEqual([path, status, code])
    }
    await log.close()
    expect(problemOf(await call(`${url}/readyz?`))).toMatchObject({ code: 'unavailable', state: 'closed' })
  })

  test('a schema says what is wrong where', async () => {
    const { url } = await startTestServer()
    const problem = problemOf(await call(`${url}/v1/channels/a/cursors/b`, 'PUT', { seq: -1, other: 1 }))
    expect(problem.errors).toEqual(
      expect.arrayContaining([
        { pointer: '/seq', detail: expect.any(String) },
        { pointer: '/', detail: expect.any(String) },
      ]),
    )
  })

  test('a large body is refused by its length, before it comes', async () => {
    const { port } = await startTestServer()
    const connection = await RawConnection.open(port)
    connection.send(
      `PUT /v1/admin/streamer HTTP/1.1\r\n${HOST}Content-Type: application/json\r\nContent-Length: ${JSON_BYTES_MAX + 1}\r\n\r\n`,
    )
    expect(codeOf(await connection.until(/\}$/))).toBe('too-large')
  })

  test('a body without a length is refused as soon as it is too large', async () => {
    const { url } = await startTestServer()
    const stream = new ReadableStream({
      pull: (controller) => controller.enqueue(new Uint8Array(16_384).fill(0x20)),
    })
    const response = await fetch(`${url}/v1/admin/streamer`, {
      ...{ method: 'PUT', body: stream, duplex: 'half', headers: { 'content-type': 'application/json' } },
    } as RequestInit).catch((error) => error)
    if (response instanceof Response) expect((await response.json()).code).toBe('too-large')
    else expect(response).toBeInstanceOf(TypeError)
    expect((await call(`${url}/livez`)).status).toBe(200)
  })

  test('another content type or encoding is unsupported', async () => {
    const { url } = await startTestServer()
    const types = ['text/plain', 'application/x-www-form-urlencoded', 'application/json5', 'nonsense', 'text/json']
    for (const type of types)
      expect([
        type,
        problemOf(await call(`${url}/v1/poll`, 'POST', '{"channels":{}}', { 'content-type': type })).code,
      ]).toEqual([type, 'unsupported-type'])
    for (const path of ['/v1/poll', '/v1/channels/a/events'])
      expect(problemOf(await call(url + path, 'POST', '{}', { 'content-encoding': 'gzip' })).code).toBe(
        'unsupported-type',
      )
    expect(
      (await call(`${url}/v1/poll`, 'POST', '{"channels":{}}', { 'content-type': 'Application/JSON; charset=UTF-8' }))
        .status,
    ).toBe(200)
  })

  test.each([
    ['no HTTP', 'SSH-2.0-OpenSSH_9.2\r\n', 'bad-request'],
    ['a header without a name', `GET /livez HTTP/1.1\r\n${HOST}: x\r\n\r\n`, 'bad-request'],
    ['a folded header', `GET /livez HTTP/1.1\r\n${HOST}X: a\r\n b\r\n\r\n`, 'bad-request'],
    [
      'a body with two lengths',
      `POST /v1/poll HTTP/1.1\r\n${HOST}Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}`,
      'bad-request',
    ],
    [
      'a body with a length and in chunks',
      `POST /v1/poll HTTP/1.1\r\n${HOST}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
      'bad-request',
    ],
    ['an address of another server', `GET http://evil.example/livez HTTP/1.1\r\n${HOST}\r\n`, 'bad-request'],
    ['no address', `OPTIONS * HTTP/1.1\r\n${HOST}\r\n`, 'bad-request'],
    ['another expectation', `GET /livez HTTP/1.1\r\n${HOST}Expect: 200-ok\r\n\r\n`, 'bad-request'],
    ['a head without an end', `GET /livez HTTP/1.1\r\n${HOST}X: ${'x'.repeat(HEADER_BYTES_MAX)}`, 'too-large'],
  ])('%s is refused with a problem', async (_, text, code) => {
    const { port, url } = await startTestServer()
    const connection = await RawConnection.open(port)
    connection.send(text)
    const answer = await connection.until(/\}$/)
    expect(answer).toMatch(/^HTTP\/1\.1 4\d\d /)
    expect(answer).toMatch(/content-type: application\/problem\+json/i)
    expect(answer).toMatch(/x-content-type-options: nosniff/i)
    expect(codeOf(answer)).toBe(code)
    expect((await call(`${url}/livez`)).status).toBe(200)
  })

  test('every answer says that its type is not to be guessed', async () => {
    const { url, log } = await startTestServer()
    await log.append([{ channel: 'a', body: body(1) }])
    const paths = [
      '/livez',
      '/metrics',
      '/errors',
      '/openapi.json',
      '/v1/channels',
      '/v1/channels/a/events',
      '/nowhere',
      '/v1/cursors/x',
    ]
    for (const path of paths)
      expect([path, (await call(url + path)).headers.get('x-content-type-options')]).toEqual([path, 'nosniff'])
  })

  test('a slow head and a slow body are refused in time; a slow answer is none', async () => {
    const { port, url } = await startTestServer({ requestTimeout: 200 })
    const waiting = call(`${url}/v1/poll`, 'POST', { channels: { a: { after: 0 } }, wait: 3 })
    const head = await RawConnection.open(port)
    head.send('GET /livez HTTP/1.1\r\n')
    const bodied = await RawConnection.open(port)
    bodied.send(
      `PUT /v1/admin/streamer HTTP/1.1\r\n${HOST}Content-Type: application/json\r\nContent-Length: 11\r\n\r\n{"on"`,
    )
    for (const connection of [head, bodied])
      expect(await connection.toEnd()).toMatch(/^HTTP\/1\.1 408 [\s\S]*"code":"timeout"/)
    expect((await waiting).status).toBe(200)
  })

  test('an NDJSON append may take its time', async () => {
    const { port, log } = await startTestServer({ requestTimeout: 200 })
    const quick = await RawConnection.open(port)
    const connection = await RawConnection.open(port)
    connection.send(
      `POST /v1/channels/a/events HTTP/1.1\r\n${HOST}Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\na\r\n{"data":1}\r\n`,
    )
    // By the time that a head which never ends was refused, the same was asked about this body.
    await quick.send('GET ').toEnd()
    connection.send('b\r\n\n{"data":2}\r\n0\r\n\r\n')
    expect(await connection.until(/\}$/)).toMatch(/^HTTP\/1\.1 201 /)
    expect((await log.info('a')).head).toBe(2)
  })

  test('an NDJSON append whose body stops being HTTP is told how far it came', async () => {
    const { port, log } = await startTestServer()
    const lines = '{"data":1}\n'.repeat(1_001)
    for (const rubbish of ['zz\r\n', 'zz\r\nmore\r\n'.repeat(2_000)]) {
      const connection = await RawConnection.open(port)
      connection.send(
        `POST /v1/channels/a/events HTTP/1.1\r\n${HOST}Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n` +
          `${lines.length.toString(16)}\r\n${lines}\r\n${rubbish}`,
      )
      const answer = await connection.until(/\}$/)
      expect(answer).toMatch(/^HTTP\/1\.1 400 [\s\S]*"code":"bad-request"[\s\S]*"appended":1000[,}]/)
      expect(answer.match(/HTTP\/1\.1 \d/g)).toHaveLength(1)
    }
    expect((await log.info('a')).head).toBe(2_000)
  })
})
