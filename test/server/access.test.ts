import { describe, expect, test } from 'vitest'
import { Access } from '../../src/doors/access.ts'
import { HEADER_LINES_MAX } from '../../src/doors/limits.ts'
import { Peers } from '../../src/doors/peers.ts'
import { hasCode } from '../../src/errors.ts'
import { call, RawConnection } from './calls.ts'
import { startTestServer, type TestServer } from './serve.ts'

const OPTIONS = {
  hostNames: ['box.test', 'proxy.test:8443', 'UPPER.test'],
  origins: ['https://app.example', 'http://localhost:5173', 'HTTPS://Shop.example:443/', 'tauri://localhost'],
}

/** Sends a request head as it is, and gives the status and code it was answered with. */
async function ask(server: TestServer, lines: string[], target = '/livez', method = 'GET'): Promise<string> {
  const connection = await RawConnection.open(server.port)
  connection.send(`${[`${method} ${target} HTTP/1.1`, ...lines, 'Connection: close'].join('\r\n')}\r\n\r\n`)
  const answer = await connection.toEnd()
  return `${answer.slice(9, 12)} ${/"code":"([a-z-]+)"/.exec(answer)?.[1] ?? ''}`.trim()
}

describe('who may call a server without keys', () => {
  const own = 'Host: 127.0.0.1:7070'
  const cases: [what: string, lines: string[], answer: string][] = [
    ['a loopback address', ['Host: 127.0.0.1'], '200'],
    ['a loopback address with another port, as through a tunnel', ['Host: 127.0.0.1:9999'], '200'],
    ['another loopback address', ['Host: 127.8.9.1:7070'], '200'],
    ['the loopback address of IPv6', ['Host: [::1]:7070'], '200'],
    ['localhost in any case', ['Host: LocalHost:7070'], '200'],
    ['a name under localhost', ['Host: files.localhost'], '200'],
    ['a listed host name', ['Host: box.test'], '200'],
    ['a listed host name with any port', ['Host: box.test:1234'], '200'],
    ['a listed host name in another case', ['Host: upper.TEST'], '200'],
    ['a listed host name with its port', ['Host: proxy.test:8443'], '200'],
    ['a listed host name with another port than listed', ['Host: proxy.test:80'], '403 forbidden'],
    ['a name that was rebound to loopback', ['Host: evil.example:7070'], '403 forbidden'],
    ['a name that begins like loopback', ['Host: 127.0.0.1.evil.example'], '403 forbidden'],
    ['a name that ends like localhost', ['Host: notlocalhost'], '403 forbidden'],
    ['an address that is not loopback', ['Host: 10.0.0.1:7070'], '403 forbidden'],
    ['a loopback name and more behind its port', ['Host: localhost:80:evil'], '403 forbidden'],
    ['a loopback name with a port that is none', ['Host: localhost:evil.example'], '403 forbidden'],
    ['a loopback address of IPv6 and more behind it', ['Host: [::1]evil.example'], '403 forbidden'],
    ['no host', [], '400 bad-request'],
    ['an empty host', ['Host: '], '400 bad-request'],
    ['two hosts', ['Host: 127.0.0.1', 'Host: evil.example'], '400 bad-request'],
    ['two hosts, the wrong one first', ['Host: evil.example', 'host: 127.0.0.1'], '400 bad-request'],
    ['the page of this server', [own, 'Origin: http://127.0.0.1:7070'], '200'],
    ['the page of this server on port 80', ['Host: localhost', 'Origin: http://localhost:80'], '200'],
    ['a page of the same host on another port', [own, 'Origin: http://127.0.0.1:8080'], '403 forbidden'],
    ['a page of the same host over TLS', [own, 'Origin: https://127.0.0.1:7070'], '403 forbidden'],
    ['a page of localhost to 127.0.0.1', [own, 'Origin: http://localhost:7070'], '403 forbidden'],
    ['a page of a rebound name', ['Host: evil.example', 'Origin: http://evil.example'], '403 forbidden'],
    ['a page of another site', [own, 'Origin: https://evil.example'], '403 forbidden'],
    ['a page without an origin of its own', [own, 'Origin: null'], '403 forbidden'],
    ['an empty origin', [own, 'Origin: '], '403 forbidden'],
    ['a listed origin', [own, 'Origin: https://app.example'], '200'],
    ['a listed origin, written otherwise in the list', [own, 'Origin: https://shop.example'], '200'],
    ['a listed origin of an app', [own, 'Origin: tauri://localhost'], '200'],
    ['a listed origin with another port', [own, 'Origin: https://app.example:444'], '403 forbidden'],
    ['a listed origin without its TLS', [own, 'Origin: http://app.example'], '403 forbidden'],
    ['an origin that begins like a listed one', [own, 'Origin: https://app.example.evil'], '403 forbidden'],
    ['two origins', [own, 'Origin: https://app.example', 'Origin: https://evil.example'], '403 forbidden'],
    ['a typed address', [own, 'Sec-Fetch-Site: none'], '200'],
    ['a request of this server’s page', [own, 'Sec-Fetch-Site: same-origin'], '200'],
    ['a request of another site without an origin', [own, 'Sec-Fetch-Site: cross-site'], '403 forbidden'],
    ['a request of a sister site', [own, 'Sec-Fetch-Site: same-site'], '403 forbidden'],
    ['a value that browsers may bring', [own, 'Sec-Fetch-Site: next-door'], '403 forbidden'],
    [
      'a request of another site that claims to be the same',
      [own, 'Origin: http://127.0.0.1:7070', 'Sec-Fetch-Site: cross-site'],
      '403 forbidden',
    ],
    ['a listed site', [own, 'Origin: https://app.example', 'Sec-Fetch-Site: cross-site'], '200'],
    ['a listed sister site', [own, 'Origin: http://localhost:5173', 'Sec-Fetch-Site: same-site'], '200'],
    [
      'more headers than are read, the origin behind them',
      [own, ...Array.from({ length: HEADER_LINES_MAX }, (_, i) => `X-${i}: 1`), 'Origin: https://evil.example'],
      '400 bad-request',
    ],
  ]

  test('requests are judged by Host, Origin and Sec-Fetch-Site', async () => {
    const server = await startTestServer(OPTIONS)
    const answers: [string, string][] = []
    for (const [what, lines] of cases) answers.push([what, await ask(server, lines)])
    expect(answers).toEqual(cases.map(([what, , answer]) => [what, answer]))
  })

  test('upgrades are judged as requests are', async () => {
    const server = await startTestServer(OPTIONS)
    const upgrade = [
      'Upgrade: websocket',
      'Sec-WebSocket-Version: 13',
      `Sec-WebSocket-Key: ${btoa('0123456789abcdef')}`,
    ]
    for (const [what, lines, answer] of cases) {
      const connection = await RawConnection.open(server.port)
      connection.send(
        `${['GET /v1/stream HTTP/1.1', ...lines, ...upgrade, 'Connection: Upgrade'].join('\r\n')}\r\n\r\n`,
      )
      const head = await connection.until(/\r\n\r\n/)
      expect([what, head.slice(9, 12)]).toEqual([what, answer === '200' ? '101' : answer.slice(0, 3)])
      connection.socket.destroy()
    }
  })

  test('a refused call is answered before its body is read', async () => {
    const server = await startTestServer()
    const connection = await RawConnection.open(server.port)
    connection.send(
      'POST /v1/channels/orders/events HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: https://evil.example\r\n' +
        'Content-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{',
    )
    expect(await connection.until(/\r\n\r\n/)).toMatch(/^HTTP\/1\.1 403 /)
    const expecting = await RawConnection.open(server.port)
    expecting.send(
      'POST /v1/channels/orders/events HTTP/1.1\r\nHost: evil.example\r\nExpect: 100-continue\r\n' +
        'Content-Type: application/json\r\nContent-Length: 1000000\r\n\r\n',
    )
    expect(await expecting.until(/\r\n\r\n/)).toMatch(/^HTTP\/1\.1 403 /)
    await expect(server.log.info('orders')).rejects.toMatchObject({ code: 'no-channel' })
  })

  test('a form or a plain fetch of another site can not append', async () => {
    const server = await startTestServer()
    const types = ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data; boundary=x']
    for (const type of types) {
      const lines = ['Host: 127.0.0.1', 'Origin: null', 'Sec-Fetch-Site: cross-site', `Content-Type: ${type}`]
      const target = '/v1/channels/orders/events'
      expect(await ask(server, [...lines, 'Content-Length: 0'], target, 'POST')).toBe('403 forbidden')
    }
  })
})

describe('CORS', () => {
  test('answers to listed origins may be read by their pages, failures too', async () => {
    const { url } = await startTestServer(OPTIONS)
    for (const path of ['/livez', '/v1/channels/none/events', '/nowhere']) {
      const { headers } = await call(url + path, 'GET', undefined, { origin: 'https://app.example' })
      expect(headers.get('access-control-allow-origin')).toBe('https://app.example')
      expect(headers.get('vary')).toContain('Origin')
    }
  })

  test('nobody else is told anything', async () => {
    const { url } = await startTestServer(OPTIONS)
    for (const headers of [{}, { origin: url }, { origin: 'https://evil.example' }]) {
      const answer = await call(`${url}/livez`, 'GET', undefined, headers as Record<string, string>)
      expect([...answer.headers.keys()].filter((name) => name.startsWith('access-control'))).toEqual([])
    }
  })

  test('a preflight of a listed origin is answered for every method and header of the protocol', async () => {
    const { url } = await startTestServer(OPTIONS)
    const asked = { 'access-control-request-method': 'PUT', 'access-control-request-headers': 'idempotency-key' }
    const target = `${url}/v1/channels/a/cursors/b`
    const answer = await call(target, 'OPTIONS', undefined, {
      origin: 'https://app.example',
      'access-control-request-private-network': 'true',
      ...asked,
    })
    expect(answer.status).toBe(204)
    expect(answer.headers.get('access-control-allow-methods')).toBe('GET, HEAD, POST, PUT, DELETE')
    expect(answer.headers.get('access-control-allow-headers')).toContain('Idempotency-Key')
    expect(answer.headers.get('access-control-allow-private-network')).toBe('true')
    expect((await call(target, 'OPTIONS', undefined, { origin: 'https://evil.example', ...asked })).status).toBe(403)
  })
})

describe('credentials in a URL', () => {
  const refused = [
    'token',
    'TOKEN',
    'access_token',
    'access-token',
    'api_key',
    'apiKey',
    'auth',
    'jwt',
    'password',
    'secret',
    '%74oken',
  ]

  test.each(refused)('?%s= is refused on every call', async (name) => {
    const { url } = await startTestServer()
    for (const path of ['/livez', '/v1/channels/a/events', '/v1/channels'])
      expect((await call(`${url}${path}?x=1&${name}=s3cret`)).json.code).toBe('bad-request')
  })

  test('they are refused on upgrades', async () => {
    const server = await startTestServer()
    const lines = ['Host: 127.0.0.1', 'Upgrade: websocket']
    const connection = await RawConnection.open(server.port)
    connection.send(`GET /v1/stream?token=x HTTP/1.1\r\n${lines.join('\r\n')}\r\nConnection: Upgrade\r\n\r\n`)
    expect(await connection.toEnd()).toMatch(/^HTTP\/1\.1 400 /)
  })

  test('key is the key of an event on an append, and unknown everywhere else', async () => {
    const { url } = await startTestServer()
    const appended = await call(`${url}/v1/channels/files/events?key=/a.jpg&type=added`, 'POST', 'x', {
      'content-type': 'text/plain',
    })
    expect(appended.status).toBe(201)
    expect((await call(`${url}/v1/channels/files/events`)).json.events[0].key).toBe('/a.jpg')
    for (const path of ['/livez', '/v1/channels/files/events', '/v1/channels', '/v1/channels/files'])
      expect((await call(`${url}${path}?key=x`)).json.code).toBe('bad-request')
  })
})

describe('configuration', () => {
  const peers = new Peers({ trustedProxies: [], tlsUpstream: false })
  const LOOPBACK = { hostNames: [], origins: [], isPublic: false, peers }

  test.each(['*', 'null', 'app.example', 'https://*.example', 'https://app.example/path', 'https://', ''])(
    'the origin %j is refused',
    (origin) => {
      expect(() => new Access({ ...LOOPBACK, origins: [origin] })).toThrow(
        expect.toSatisfy((error) => hasCode(error, 'wrong-config')),
      )
    },
  )

  test.each(['*', 'a b', 'http://box', 'box/path', ''])('the host name %j is refused', (name) => {
    expect(() => new Access({ ...LOOPBACK, hostNames: [name] })).toThrow(
      expect.toSatisfy((error) => hasCode(error, 'wrong-config')),
    )
  })

  test.each(['0.0.0.0', '::', '10.0.0.1', 'example.com'])('without keys it does not listen on %s', async (host) => {
    await expect(startTestServer({ host })).rejects.toMatchObject({ code: 'wrong-config' })
  })

  test.each(['127.0.0.1', 'localhost', '127.0.0.2'])('it listens on %s', async (host) => {
    const { url } = await startTestServer({ host })
    expect((await call(`${url}/livez`)).status).toBe(200)
  })
})
