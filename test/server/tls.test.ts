/** TLS of the server itself: every door behind it, a new certificate while it runs, and what may listen where. */
import { once } from 'node:events'
import { copyFileSync, writeFileSync } from 'node:fs'
import { get } from 'node:https'
import { join } from 'node:path'
import { connect, type PeerCertificate, type TLSSocket } from 'node:tls'
import { expect, onTestFinished, test } from 'vitest'
import { WebSocket } from 'ws'
import { changeKeys, makeIssuer, makeKey } from '../../src/access/keysfile.ts'
import { signToken } from '../../src/access/tokens.ts'
import { checkOptions } from '../../src/server/options.ts'
import { type CertificateFiles, makeCertificate } from '../certificate.ts'
import { body, tempDir } from '../parts.ts'
import { loggerTo, RawConnection } from './calls.ts'
import { startTestServer, type TestServer, type TestServerOptions } from './serve.ts'
import { until } from './stream.ts'

async function startTls(options: TestServerOptions = {}): Promise<TestServer & { files: CertificateFiles }> {
  const files = makeCertificate(tempDir())
  return { ...(await startTestServer({ tlsCert: files.cert, tlsKey: files.key, ...options })), files }
}

/** A connection that believes the test's own certificates; ends with the test. */
async function open(port: number, ca: string, more: object = {}): Promise<TLSSocket> {
  const socket = connect({ port, host: '127.0.0.1', ca, ...more })
  onTestFinished(() => void socket.destroy())
  socket.on('error', () => {})
  await once(socket, 'secureConnect')
  return socket
}

/** Sends a request as it is; the answer, when the server has closed. */
async function ask(server: TestServer, ca: string, head: string[]): Promise<string> {
  const socket = await open(server.port, ca)
  let text = ''
  socket.setEncoding('latin1').on('data', (more: string) => {
    text += more
  })
  socket.write(`${head.join('\r\n')}\r\n\r\n`)
  await once(socket, 'close')
  return text
}

test('calls, streams and sockets are served over TLS', async () => {
  const { url, log, files } = await startTls()
  expect(url).toMatch(/^https:\/\/127\.0\.0\.1:\d+$/)
  await log.append([{ channel: 'orders', body: body(1, 2) }])
  const text = await new Promise<string>((resolve, reject) => {
    const req = get(`${url}/v1/channels/orders/events`, { ca: files.ca }, (res) => {
      let read = ''
      res.setEncoding('utf8').on('data', (more: string) => {
        read += more
      })
      res.on('end', () => resolve(read))
    })
    req.on('error', reject)
  })
  expect(JSON.parse(text)).toMatchObject({ channel: 'orders', last: 2 })

  const ws = new WebSocket(`${url.replace('https', 'wss')}/v1/stream`, { ca: files.ca })
  const frames: string[] = []
  ws.on('message', (data) => void frames.push(String(data)))
  await once(ws, 'open')
  ws.send('{"op":"hello"}')
  ws.send('{"op":"subscribe","channel":"orders","after":0}')
  await until(() => frames.some((frame) => frame.includes('"op":"events"')))
  await log.append([{ channel: 'orders', body: body('more') }])
  await until(() => frames.some((frame) => frame.includes('"more"')))
  ws.close()
  await once(ws, 'close')
})

test('a page of this server is one of https:, and an offer of another protocol is an ordinary request', async () => {
  const server = await startTls()
  const { ca } = server.files
  const request = ['GET /livez HTTP/1.1', `Host: localhost:${server.port}`, 'Connection: close']
  const from = (origin: string) => ask(server, ca, [...request, `Origin: ${origin}`])
  expect(await from(`https://localhost:${server.port}`)).toMatch(/^HTTP\/1\.1 200 /)
  expect(await from(`http://localhost:${server.port}`)).toMatch(/^HTTP\/1\.1 403 /)
  const offer = [request[0]!, request[1]!, 'Connection: close, Upgrade, HTTP2-Settings', 'Upgrade: h2c']
  expect(await ask(server, ca, [...offer, 'HTTP2-Settings: AAMAAABkAAQAAP__'])).toMatch(/^HTTP\/1\.1 200 /)
})

test('a session of a page is a cookie of this host alone, over TLS alone', async () => {
  const keys = join(tempDir(), 'keys.json')
  const issuer = makeIssuer({ iss: 'app' })
  changeKeys(keys, () => ({ keys: [], issuers: [issuer] }))
  const server = await startTls({ keys })
  const { ca } = server.files
  const token = await signToken(issuer, { sub: 'anna', perm: [{ ch: '**', ops: ['list'] }], groups: [], seconds: 60 })
  const own = [`Host: localhost:${server.port}`, 'Connection: close', 'Sec-Fetch-Site: same-origin']
  const begun = await ask(server, ca, ['POST /v1/session HTTP/1.1', ...own, `Authorization: Bearer ${token}`])
  const [, secret] = /^set-cookie: __Host-tidemark=([^;]+); Secure; HttpOnly; /im.exec(begun) ?? []
  expect(secret).toBeDefined()
  const list = (name: string) => ask(server, ca, ['GET /v1/channels HTTP/1.1', ...own, `Cookie: ${name}=${secret}`])
  expect(await list('__Host-tidemark')).toMatch(/^HTTP\/1\.1 200 /)
  expect(await list('tidemark')).toMatch(/^HTTP\/1\.1 401 /)
})

test('what is no TLS, or an older one than 1.2, is not served', async () => {
  const { port, files } = await startTls()
  const plain = (await RawConnection.open(port)).send('GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n')
  expect(await plain.toEnd()).not.toContain('200')
  await expect(
    new Promise((resolve, reject) => {
      const versions = { minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' } as const
      connect({ port, ca: files.ca, ...versions }, resolve as () => void).on('error', reject)
    }),
  ).rejects.toMatchObject({ code: expect.stringMatching(/ALERT|PROTOCOL/) })
})

test('a stop waits for nobody who has not begun TLS', async () => {
  const { port, server } = await startTls()
  const silent = await RawConnection.open(port)
  await server.close()
  await silent.toEnd()
})

test('a new certificate counts for new connections; a wrong one changes nothing, loudly', async () => {
  const lines: Record<string, unknown>[] = []
  const { port, files } = await startTls({ logger: loggerTo(lines) })
  const other = makeCertificate(tempDir(), 'other')
  const both = files.ca + other.ca
  const nameNow = async (): Promise<string> => {
    const socket = await open(port, both)
    const { subject } = socket.getPeerCertificate() as PeerCertificate
    socket.destroy()
    return String(subject.CN)
  }
  const kept = await open(port, both)
  expect(await nameNow()).toBe('server')

  // Another's certificate with the key of this one.
  copyFileSync(other.cert, files.cert)
  await until(() => lines.some(({ level, msg }) => level === 50 && String(msg).includes('stays in force')))
  expect(await nameNow()).toBe('server')

  copyFileSync(other.key, files.key)
  await until(() => lines.filter(({ msg }) => msg === 'TLS is in force').length === 2)
  expect(await nameNow()).toBe('other')
  expect(kept.destroyed).toBe(false)

  writeFileSync(files.key, 'nothing')
  await until(() => lines.filter(({ level }) => level === 50).length === 2)
  expect(await nameNow()).toBe('other')
})

test('which address may be listened on is said before anything is opened', async () => {
  const dir = tempDir()
  const files = makeCertificate(dir)
  const keys = join(dir, 'keys.json')
  changeKeys(keys, () => ({ keys: [makeKey({ kind: 'admin' }).entry], issuers: [] }))
  const tls = { tlsCert: files.cert, tlsKey: files.key }
  const refused = async (options: object): Promise<string> => {
    const outcome = await checkOptions(options).then(
      () => new Error('taken'),
      (error: Error) => error,
    )
    expect(outcome).toMatchObject({ code: 'wrong-config' })
    return outcome.message
  }
  for (const host of ['0.0.0.0', '::', '192.0.2.1', 'tidemark.example']) {
    for (const options of [{}, tls, { tls: 'terminated-upstream' }, { keys: join(dir, 'none.json'), ...tls }])
      expect(await refused({ host, ...options })).toContain('tidemark keys create admin')
    expect(await refused({ host, keys })).toMatch(/--tls-cert .*--tls terminated-upstream/)
    expect((await checkOptions({ host, keys, ...tls })).certificate).toBeDefined()
    expect((await checkOptions({ host, keys, tls: 'terminated-upstream' })).certificate).toBeUndefined()
  }
  for (const host of ['127.0.0.1', '127.9.9.9', '::1', 'localhost']) await checkOptions({ host })
  expect(await refused({ tlsCert: files.cert })).toContain('together')
  expect(await refused({ ...tls, tls: 'terminated-upstream' })).toContain('both')
  expect(await refused({ ...tls, tlsKey: join(dir, 'none') })).toContain('ENOENT')
  expect(await refused({ ...tls, tlsKey: files.cert })).toContain('no certificate and its key')
  expect(await refused({ ...tls, tlsKey: makeCertificate(dir, 'other').key })).toContain('KEY_VALUES_MISMATCH')
})
