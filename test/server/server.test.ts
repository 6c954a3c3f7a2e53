import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { once } from 'node:events'
import type { Socket } from 'node:net'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { body } from '../parts.ts'
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

  test('a connection that offers another protocol each time is not listened to more and more', async () => {
    const { port } = await startTestServer()
    const sockets = new Set<Socket>()
    const seen = (message: unknown) => void sockets.add((message as { socket: Socket }).socket)
    subscribe('http.server.request.start', seen)
    onTestFinished(() => void unsubscribe('http.server.request.start', seen))
    const connection = await RawConnection.open(port)
    const listeners: number[] = []
    for (let n = 1; n <= 40; n++) {
      connection.send(`GET /livez HTTP/1.1\r\n${HOST}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n`)
      while (connection.received.split('"live":true').length <= n) await once(connection.socket, 'data')
      const [socket] = [...sockets].filter(({ localPort }) => localPort === port)
      listeners.push(socket!.eventNames().reduce((sum, name) => sum + socket!.listenerCount(name), 0))
    }
    expect(new Set(listeners.slice(1)).size).toBe(1)
  })

  test('a handshake that is none is answered as every other call', async () => {
    const { port } = await startTestServer()
    const key = 'Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n'
    const version = 'Sec-WebSocket-Version: 13\r\n'
    const cases: [method: string, headers: string, status: string, code: string][] = [
      ['POST', key + version, '405', 'method-not-allowed'],
      ['GET', version, '400', 'bad-request'],
      ['GET', `${version}Sec-WebSocket-Key: short\r\n`, '400', 'bad-request'],
      ['GET', `${key}Sec-WebSocket-Version: 7\r\n`, '400', 'bad-request'],
      ['GET', `${key}${version}Sec-WebSocket-Protocol: a,,b\r\n`, '400', 'bad-request'],
    ]
    for (const [method, headers, status, code] of cases) {
      const connection = await RawConnection.open(port)
      connection.send(
        `${method} /v1/stream HTTP/1.1\r\n${HOST}Connection: Upgrade\r\nUpgrade: websocket\r\n${headers}\r\n`,
      )
      const answer = await connection.until(/\}$/)
      expect([method, headers, answer.slice(9, 12)]).toEqual([method, headers, status])
      expect(answer).toMatch(/\r\ncontent-type: application\/problem\+json\r\n/i)
      expect(answer).toMatch(/\r\nx-content-type-options: nosniff\r\n/i)
      expect(answer).toContain(`"code":"${code}"`)
      if (status === '400') expect(answer).toContain('\r\nSec-WebSocket-Version: 13\r\n')
      connection.socket.destroy()
    }
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
    const { port } = await startTestServer({ limits: { maxConnections: 2 } })
    const held = await RawConnection.open(port)
    const other = await RawConnection.open(port)
    const dropped = await RawConnection.open(port)
    expect(await dropped.toEnd()).toBe('')
    other.socket.destroy()
    held.send(`GET /metrics HTTP/1.1\r\n${HOST}Connection: close\r\n\r\n`)
    expect(await held.toEnd()).toContain('tidemark_failures_total{door="http",code="too-many"} 1')
  })

  test.each([
    ['callers', 'application/json', 20],
    ['followers by SSE', 'text/event-stream', 1],
  ])(
    '%s that do not take what they asked for are cut before they hold too much, the others are not',
    async (_, accept, times) => {
      const { port, url, log } = await startTestServer({ unsentBytes: 20_000_000 })
      // More than the kernel keeps for a caller that reads nothing.
      for (let i = 0; i < 12; i++) await log.append([{ channel: 'a', body: body('x'.repeat(900_000)) }])
      const asking = (type: string) => `GET /v1/channels/a/events?after=0 HTTP/1.1\r\n${HOST}Accept: ${type}\r\n\r\n`
      const greedy: RawConnection[] = []
      for (let i = 0; i < 40; i++) {
        const connection = await RawConnection.open(port)
        connection.socket.pause()
        connection.send(asking(accept).repeat(times))
        greedy.push(connection)
      }
      const timeouts = async () =>
        Number(/failures_total\{door="http",code="timeout"\} (\d+)/.exec((await call(`${url}/metrics`)).text)?.[1] ?? 0)
      while ((await timeouts()) === 0) await call(`${url}/v1/channels/a`)
      const reader = await RawConnection.open(port)
      await reader.send(asking('application/json')).until(/x"\}\]\}$/)
      for (const { socket } of greedy) socket.destroy()
    },
  )

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
