import { Agent, request as httpRequest } from 'node:http'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { WebSocket } from 'ws'
import { decodeBlock } from '../../src/block.ts'
import { DEPTH_MAX } from '../../src/event.ts'
import { HEADER_BYTES_MAX, JSON_BYTES_MAX, STOP_MS } from '../../src/server/limits.ts'
import { body, range, tempLog } from '../parts.ts'
import { call, loggerTo, problemOf, RawConnection } from './calls.ts'
import { startTestServer } from './serve.ts'

const HOST = 'Host: 127.0.0.1\r\n'
const codeOf = (answer: string) => /"code":"([a-z-]+)"/.exec(answer)?.[1]

describe('addresses', () => {
  test('a channel may hold slashes, encoded or not, in every call', async () => {
    const { url, log } = await startTestServer()
    await log.append([{ channel: 'repo/42/x:y', body: body(1) }])
    for (const name of ['repo/42/x:y', 'repo%2F42%2Fx%3Ay', 'repo/42%2fx:y', 'rep%6F/42/x:y']) {
      const at = `${url}/v1/channels/${name}`
      expect((await call(at)).json.channel).toBe('repo/42/x:y')
      expect((await call(`${at}/cursors/web`, 'PUT', { seq: 1 })).json).toMatchObject({
        channel: 'repo/42/x:y',
        seq: 1,
      })
      expect((await call(`${at}%2Fcursors%2Fweb`)).json).toMatchObject({ client: 'web', seq: 1 })
      expect((await call(`${at}/cursors`)).json.cursors).toHaveLength(1)
      expect((await call(`${at}%2fevents?after=0`)).json.events).toHaveLength(1)
      expect((await call(`${at}/trim`, 'POST', { upTo: 0 })).json.trimmed).toBe(0)
    }
  })

  test('they are decoded once, and names that can not be are refused', async () => {
    const { port } = await startTestServer()
    const names = [
      'a%252Fb',
      'a//b',
      'a/../b',
      '%2e%2e',
      'a%00b',
      'a%',
      'a%ff',
      'a%20b',
      'x'.repeat(201),
      '%C3%A4',
      'a/state/b',
    ]
    for (const name of names)
      for (const resource of ['', '/events', '/cursors', '/cursors/web', '/trim']) {
        const connection = await RawConnection.open(port)
        const path = `/v1/channels/${name}${resource}`
        connection.send(`GET ${path} HTTP/1.1\r\n${HOST}Connection: close\r\n\r\n`)
        expect([path, codeOf(await connection.toEnd())]).toEqual([path, 'bad-request'])
      }
  })

  test('a prefix stands in place of /v1, and /v1 is nothing then', async () => {
    const { url, log } = await startTestServer({ path: '/queue/v1' })
    await log.append([{ channel: 'a', body: body(1) }])
    expect((await call(`${url}/queue/v1/channels/a/events?after=0`)).json.events).toHaveLength(1)
    expect((await call(`${url}/queue/v1/channels/a`)).status).toBe(200)
    expect((await call(`${url}/livez`)).status).toBe(200)
    for (const path of ['/v1/channels/a', '/v1/channels/a/events', '/queue/channels/a'])
      expect(problemOf(await call(url + path)).code).toBe('not-found')
    const { paths } = (await call(`${url}/openapi.json`)).json
    expect(Object.keys(paths)).toContain('/queue/v1/poll')
  })

  test.each(['v1', '/', '/v1/', '/a b', '/a//b', ''])('the prefix %j is refused', async (path) => {
    await expect(startTestServer({ path })).rejects.toMatchObject({ code: 'wrong-config' })
  })

  test('unknown addresses are not found, and known ones say what they take', async () => {
    const { url } = await startTestServer()
    for (const path of ['/', '/v1', '/v1/', '/v1/nothing', '/v2/channels', '/v1/cursors', '/index.html'])
      expect([path, problemOf(await call(url + path)).code]).toEqual([path, 'not-found'])
    const taken: [string, string, string][] = [
      ['DELETE', '/v1/channels/a/events', 'GET, POST'],
      ['PATCH', '/v1/channels/a/b', 'DELETE, GET, HEAD, PUT'],
      ['GET', '/v1/channels/a/trim', 'POST'],
      ['POST', '/v1/channels/a/cursors/b', 'DELETE, GET, HEAD, PUT'],
      ['GET', '/v1/append', 'POST'],
      ['GET', '/v1/poll', 'POST'],
      ['POST', '/v1/events', 'GET'],
      ['POST', '/livez', 'GET, HEAD'],
      ['OPTIONS', '/v1/channels', 'GET, HEAD'],
    ]
    for (const [method, path, allow] of taken) {
      const answer = await call(url + path, method)
      expect([method, path, problemOf(answer).code]).toEqual([method, path, 'method-not-allowed'])
      expect([path, answer.headers.get('allow')]).toEqual([path, allow])
    }
  })

  test('HEAD is answered as GET, without the body', async () => {
    const { url, log } = await startTestServer()
    await log.append([{ channel: 'a', body: body(1) }])
    const answer = await call(`${url}/v1/channels/a`, 'HEAD')
    expect([answer.status, answer.text]).toEqual([200, ''])
    expect((await call(`${url}/v1/channels/none`, 'HEAD')).status).toBe(404)
  })

  test('a taken port is told', async () => {
    const { port } = await startTestServer()
    await expect(startTestServer({ port })).rejects.toMatchObject({ code: 'unavailable' })
  })
})

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
})

describe('connections', () => {
  test('an offer to speak another protocol is passed over', async () => {
    const { port } = await startTestServer()
    const connection = await RawConnection.open(port)
    const request = '{"channels":{"a":{}}}'
    connection.send(
      `POST /v1/poll HTTP/1.1\r\n${HOST}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n` +
        `Content-Type: application/json\r\nContent-Length: ${request.length}\r\n\r\n${request.slice(0, 5)}`,
    )
    connection.send(request.slice(5))
    expect(await connection.until(/"streamer":"on"\}$/)).toMatch(/^HTTP\/1\.1 200 /)
    connection.send(`GET /livez HTTP/1.1\r\n${HOST}Connection: close\r\n\r\n`)
    expect(await connection.toEnd()).toMatch(/\{"live":true\}$/)
  })

  test('sockets are opened at /v1/stream and nowhere else', async () => {
    const { port, url } = await startTestServer()
    const upgrade =
      'Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n'
    for (const [path, status] of Object.entries({
      '/v1/stream': '101',
      '/v1/streams': '404',
      '/v1/channels': '404',
      '/': '404',
    })) {
      const connection = await RawConnection.open(port)
      connection.send(`GET ${path} HTTP/1.1\r\n${HOST}${upgrade}\r\n`)
      expect([path, (await connection.until(/\r\n\r\n/)).slice(9, 12)]).toEqual([path, status])
      connection.socket.destroy()
    }
    const plain = await call(`${url}/v1/stream`)
    expect(problemOf(plain).code).toBe('bad-request')
    expect(plain.headers.get('upgrade')).toBe('websocket')
  })

  test('more connections than allowed are closed and counted', async () => {
    const { port } = await startTestServer({ connections: 2 })
    const held = await RawConnection.open(port)
    const other = await RawConnection.open(port)
    const dropped = await RawConnection.open(port)
    expect(await dropped.toEnd()).toBe('')
    other.socket.destroy()
    held.send(`GET /metrics HTTP/1.1\r\n${HOST}Connection: close\r\n\r\n`)
    expect(await held.toEnd()).toContain('tidemark_failures_total{door="http",code="too-many"} 1')
  })

  test('a client that waits for the word to go on gets it', async () => {
    const { port, log } = await startTestServer()
    for (const [path, status] of Object.entries({ '/v1/channels/a/events': 201, '/v1/poll': 400 })) {
      const connection = await RawConnection.open(port)
      connection.send(
        `POST ${path} HTTP/1.1\r\n${HOST}Expect: 100-continue\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n`,
      )
      await connection.until(/^HTTP\/1\.1 100 Continue\r\n\r\n$/)
      connection.send('{"data":1}')
      expect(await connection.until(/\}$/)).toContain(`HTTP/1.1 ${status} `)
    }
    expect((await log.info('a')).head).toBe(1)
  })
})

describe('the log of the server', () => {
  test('holds one line per request, and neither data nor queries nor credentials', async () => {
    const lines: Record<string, unknown>[] = []
    const { url } = await startTestServer({ logger: loggerTo(lines) })
    await call(`${url}/v1/channels/orders/events?type=t-s3cret&id=q-s3cret`, 'POST', 'd-s3cret', {
      ...{
        'content-type': 'text/plain',
        authorization: 'Bearer a-s3cret',
        cookie: 'c-s3cret',
        'idempotency-key': 'i-s3cret',
      },
    })
    await call(`${url}/v1/channels/orders/events?token=x-s3cret`)
    await call(`${url}/v1/channels/orders?x=q-s3cret`)
    await call(`${url}/v1/append`, 'POST', '{"appends":[{"f-s3cret":1}]}')
    await call(`${url}/v1/poll`, 'POST', '{"s3cret')
    await vi.waitFor(() => expect(lines.filter(({ msg }) => msg === 'Request')).toHaveLength(5))
    const requests = lines.filter(({ msg }) => msg === 'Request')
    expect(requests[0]).toMatchObject({
      ...{ level: 20, method: 'POST', path: '/v1/channels/orders/events', status: 201, ms: expect.any(Number) },
    })
    const refusals = lines.filter(({ code }) => code !== undefined)
    expect(refusals.map(({ code, level }) => [code, level])).toEqual(Array(4).fill(['bad-request', 30]))
    expect(JSON.stringify(lines)).not.toContain('s3cret')
  })

  test('somebody else’s page is a warning, a failure of the server an error', async () => {
    const lines: Record<string, unknown>[] = []
    const { url, log } = await startTestServer({ logger: loggerTo(lines, 'info') })
    await call(`${url}/livez`, 'GET', undefined, { origin: 'https://evil.example' })
    await log.close()
    await call(`${url}/v1/channels/a/events`, 'POST', { data: 1 })
    expect(lines.filter(({ code }) => code).map(({ code, level, door }) => [code, level, door])).toEqual([
      ['forbidden', 40, 'http'],
      ['unavailable', 40, 'http'],
    ])
  })
})

describe('stopping', () => {
  test('polls are answered, streams end, sockets are told when to come back, and readyz is red', async () => {
    const { url, port, log, server } = await startTestServer()
    await log.append([{ channel: 'a', body: body(1) }])
    const polls = [
      call(`${url}/v1/poll`, 'POST', { channels: { a: { after: 1 } }, wait: 50 }),
      call(`${url}/v1/channels/a/events?after=1&wait=50`),
    ]
    const stream = await RawConnection.open(port)
    await stream
      .send(`GET /v1/channels/a/events HTTP/1.1\r\n${HOST}Accept: text/event-stream\r\n\r\n`)
      .until(/caughtup/)
    const socket = new WebSocket(`${url.replace('http', 'ws')}/v1/stream`)
    const closed = new Promise<string>((resolve) =>
      socket.once('close', (code, reason) => resolve(`${code} ${reason}`)),
    )
    await new Promise((resolve) => socket.once('open', resolve))
    const idle = await RawConnection.open(port)
    await idle.send(`GET /livez HTTP/1.1\r\n${HOST}\r\n`).until(/\}$/)
    const silent = await RawConnection.open(port)
    const kept = await RawConnection.open(port)
    await kept.send(`GET /readyz HTTP/1.1\r\n${HOST}\r\n`).until(/\}$/)
    while (!/followers\{door="poll"\} 2/.test((await call(`${url}/metrics`)).text)) await log.info('a')

    const stopped = server.close()
    // This one is on its way when the server begins to stop.
    kept.send(`GET /readyz HTTP/1.1\r\n${HOST}\r\n`)
    expect(await kept.toEnd()).toMatch(/HTTP\/1\.1 503 [\s\S]*"code":"unavailable"[\s\S]*"state":"stopping"/)
    for (const answer of await Promise.all(polls)) expect(answer.status).toBe(200)
    expect(await stream.toEnd()).toMatch(/retry: \d+\n\n\r\n0\r\n\r\n$/)
    expect(await closed).toMatch(/^1001 retry=\d+$/)
    await Promise.all([idle.toEnd(), silent.toEnd(), stopped])
    await expect(fetch(`${url}/livez`)).rejects.toThrow()
    expect(log.health().state).toBe('ok')
  })

  test('appends under load are answered or refused, and none that was answered is lost', async () => {
    const log = await tempLog()
    const { port, server } = await startTestServer({ log })
    const agent = new Agent({ keepAlive: true })
    onTestFinished(() => agent.destroy())
    const answered: number[] = []
    let refused = 0
    let stopping = false
    const append = (data: number) =>
      new Promise<'answered' | 'refused' | 'down'>((resolve) => {
        const options = { port, agent, method: 'POST', path: '/v1/channels/load/events' }
        const request = httpRequest({ ...options, headers: { 'content-type': 'application/json' } }, (response) => {
          response.resume().once('close', () => resolve(response.statusCode === 201 ? 'answered' : 'refused'))
        })
        request.once('error', () => resolve('down')).end(JSON.stringify({ data }))
      })
    let next = 0
    const worker = async () => {
      for (;;) {
        const data = next++
        const outcome = await append(data)
        if (outcome === 'answered') answered.push(data)
        else if (outcome === 'refused') refused++
        else if (stopping) return
        else throw new Error('The server went away before it was stopped')
      }
    }
    const workers = Promise.all(range(1, 32).map(worker))
    const polls = range(1, 20).map(() =>
      fetch(`http://127.0.0.1:${port}/v1/poll`, {
        ...{ method: 'POST', headers: { 'content-type': 'application/json' } },
        body: JSON.stringify({ channels: { quiet: { after: 0 } }, wait: 50 }),
      }).then((response) => response.status),
    )
    await vi.waitFor(() => expect(answered.length).toBeGreaterThan(500), { timeout: 20_000 })
    stopping = true
    const started = performance.now()
    await server.close()
    const took = performance.now() - started
    await workers
    expect(await Promise.all(polls)).toEqual(polls.map(() => 200))
    // The deadline of the stop itself, not a measure of this machine.
    expect(took).toBeLessThan(STOP_MS + 2_000)
    expect(refused).toBe(0)
    const kept = new Set<number>()
    const { epoch, head } = await log.info('load')
    for (let after = 0; after < head; ) {
      const page = await log.read('load', { epoch, after }, { events: 10_000, bytes: 1e6 })
      for (const block of page.blocks)
        for (const event of decodeBlock(block, after)) kept.add(JSON.parse(new TextDecoder().decode(event.data!)))
      after = page.last
    }
    expect(answered.filter((data) => !kept.has(data))).toEqual([])
  })

  test('an append without an end is told how far it came', async () => {
    const { port, log, server } = await startTestServer()
    const connection = await RawConnection.open(port)
    connection.send(
      `POST /v1/channels/a/events HTTP/1.1\r\n${HOST}Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n`,
    )
    const lines = '{"data":1}\n'.repeat(1_000)
    const send = () => connection.send(`${lines.length.toString(16)}\r\n${lines}\r\n`)
    const sending = setInterval(send, 10)
    onTestFinished(() => clearInterval(sending))
    await vi.waitFor(async () => expect((await log.info('a')).head).toBeGreaterThan(3_000))
    await server.close()
    const answer = await connection.toEnd()
    expect(answer).toMatch(/^HTTP\/1\.1 503 /)
    const { code, appended, last } = JSON.parse(answer.split('\r\n\r\n')[1]!)
    expect({ code, appended, last }).toEqual({ code: 'unavailable', appended: last, last: (await log.info('a')).head })
  })

  test('closing twice is closing once', async () => {
    const { server } = await startTestServer()
    await Promise.all([server.close(), server.close()])
    await server.close()
  })
})
