/** Who calls, through proxies or not, and by which name a public server may be called. */
import { IncomingMessage } from 'node:http'
import { Socket } from 'node:net'
import { expect, test } from 'vitest'
import { Access } from '../../src/doors/access.ts'
import { Peers } from '../../src/doors/peers.ts'

const PROXIES = ['10.0.0.0/8', '127.0.0.1', 'fd00::/8']

interface From {
  readonly remote?: string
  readonly local?: string
  readonly encrypted?: boolean
}

function requestOf(headers: Record<string, string>, { remote = '127.0.0.1', local, encrypted }: From = {}) {
  const socket = Object.create(new Socket(), {
    remoteAddress: { value: remote },
    localAddress: { value: local },
    encrypted: { value: encrypted },
  }) as Socket
  const req = new IncomingMessage(socket)
  req.url = '/v1/channels'
  req.headers = headers
  req.rawHeaders = Object.entries(headers).flat()
  return req
}

const believing = new Peers({ trustedProxies: PROXIES, tlsUpstream: false })

test.each([
  ['a caller of its own', '192.0.2.1', undefined, '192.0.2.1'],
  ['a caller of its own that names another', '192.0.2.1', '198.51.100.9', '192.0.2.1'],
  ['a proxy that names nobody', '10.0.0.7', undefined, '10.0.0.7'],
  ['a proxy', '10.0.0.7', '192.0.2.1', '192.0.2.1'],
  ['a proxy on a socket of IPv6', '::ffff:10.0.0.7', '192.0.2.1', '192.0.2.1'],
  ['a caller that names another to a proxy', '10.0.0.7', '198.51.100.9, 192.0.2.1', '192.0.2.1'],
  ['two proxies', '10.0.0.7', '192.0.2.1, 10.9.9.9', '192.0.2.1'],
  ['proxies alone', '10.0.0.7', '10.1.1.1,10.9.9.9', '10.1.1.1'],
  ['with a port', '10.0.0.7', '192.0.2.1:5034', '192.0.2.1'],
  ['IPv6 with a port', 'fd00::7', '[2001:db8::1]:443', '2001:db8::1'],
  ['no address', '10.0.0.7', '192.0.2.1, unknown', '10.0.0.7'],
  ['nothing at all', '10.0.0.7', '', '10.0.0.7'],
])('the address of %s', (_, remote, forwarded, address) => {
  const headers = forwarded === undefined ? {} : { 'x-forwarded-for': forwarded }
  expect(believing.address(requestOf(headers, { remote }))).toBe(address)
  const nobody = new Peers({ trustedProxies: [], tlsUpstream: false })
  expect(nobody.address(requestOf(headers, { remote }))).toBe(remote.replace('::ffff:', ''))
})

test('TLS is what the connection has, what a trusted proxy says, or what the operator says', () => {
  const upstream = new Peers({ trustedProxies: PROXIES, tlsUpstream: true })
  const cases: [Peers, Record<string, string>, From, boolean][] = [
    [believing, {}, { encrypted: true }, true],
    [believing, {}, {}, false],
    [believing, { 'x-forwarded-proto': 'https' }, { remote: '10.0.0.7' }, true],
    [believing, { 'x-forwarded-proto': 'http, HTTPS' }, { remote: '10.0.0.7' }, true],
    [believing, { 'x-forwarded-proto': 'https, http' }, { remote: '10.0.0.7' }, false],
    [believing, { 'x-forwarded-proto': 'https' }, { remote: '192.0.2.1' }, false],
    [upstream, { host: 'app.example' }, { remote: '192.0.2.1' }, true],
    [upstream, { host: 'app.example', 'x-forwarded-proto': 'http' }, { remote: '10.0.0.7' }, false],
    [upstream, { host: '127.0.0.1:7070' }, {}, false],
  ]
  for (const [peers, headers, from, isSecure] of cases)
    expect([headers, from, peers.isSecure(requestOf(headers, from))]).toEqual([headers, from, isSecure])
})

test('a page of a server behind TLS is of the same origin with https: and not without', () => {
  const peers = new Peers({ trustedProxies: [], tlsUpstream: true })
  const access = new Access({ hostNames: ['app.example'], origins: [], isPublic: false, peers })
  const admitted = (host: string, origin: string): boolean => {
    try {
      access.admit(requestOf({ host, origin }))
      return true
    } catch (error) {
      expect(error).toMatchObject({ code: 'forbidden' })
      return false
    }
  }
  expect(admitted('app.example', 'https://app.example')).toBe(true)
  expect(admitted('app.example:443', 'https://app.example')).toBe(true)
  expect(admitted('app.example', 'http://app.example')).toBe(false)
  expect(admitted('app.example', 'https://app.example:8443')).toBe(false)
  // On this machine, past the proxy.
  expect(admitted('localhost:7070', 'http://localhost:7070')).toBe(true)
})

test('a public server may be called by the address at which it was reached, by no other and by no name', () => {
  const rules = (isPublic: boolean) => new Access({ hostNames: [], origins: [], isPublic, peers: believing })
  const isAdmitted = (isPublic: boolean, host: string, local: string): boolean => {
    try {
      rules(isPublic).admit(requestOf({ host }, { local }))
      return true
    } catch {
      return false
    }
  }
  expect(isAdmitted(true, '192.0.2.9:7070', '192.0.2.9')).toBe(true)
  expect(isAdmitted(true, '192.0.2.9', '::ffff:192.0.2.9')).toBe(true)
  expect(isAdmitted(true, '[2001:db8::9]:7070', '2001:db8::9')).toBe(true)
  expect(isAdmitted(true, '192.0.2.8', '192.0.2.9')).toBe(false)
  expect(isAdmitted(true, 'rebound.example', '192.0.2.9')).toBe(false)
  expect(isAdmitted(false, '192.0.2.9', '192.0.2.9')).toBe(false)
})

test.each(['10.0.0.0/33', '10.0.0.0/', 'proxy.example', '10.0.0.0/8/8', 'fd00::/129', ''])(
  'the trusted proxy %j is refused',
  (text) => {
    expect(() => new Peers({ trustedProxies: [text], tlsUpstream: false })).toThrow(
      expect.objectContaining({ code: 'wrong-config' }),
    )
  },
)
