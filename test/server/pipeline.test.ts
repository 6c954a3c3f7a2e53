/** Requests that come together on one connection: answered in their order, and made no sooner than they are taken. */
import { expect, test } from 'vitest'
import { body } from '../parts.ts'
import { call, RawConnection } from './calls.ts'
import { startTestServer } from './serve.ts'

const HOST = 'Host: 127.0.0.1\r\n'
const get = (path: string, more = ''): string => `GET ${path} HTTP/1.1\r\n${HOST}${more}\r\n`

test('answers that nobody takes are made one at a time; read, all of them come in their order', async () => {
  const { url, port, log } = await startTestServer()
  await log.append([{ channel: 'big', body: body('x'.repeat(900_000)) }])
  const connection = await RawConnection.open(port)
  connection.socket.pause()
  connection.send(get('/v1/channels/big/events').repeat(30))
  const ask = async (what: string) => (await call(`${url}/v1/admin/${what}`)).json
  const isStuck = async (): Promise<boolean> => (await ask('connections')).connections[0].waiting > 0
  const staysStuck = async (): Promise<boolean> => {
    for (let n = 0; n < 20; n++) if (!(await isStuck())) return false
    return true
  }
  // The kernel takes some MiB, and then no more.
  await expect.poll(staysStuck, { timeout: 20_000 }).toBe(true)
  expect((await ask('figures')).deliveredEvents).toBeLessThan(20)
  connection.send(get('/v1/channels/none', 'Connection: close\r\n')).socket.resume()
  const text = await connection.toEnd()
  expect(text).toContain('404 Not Found')
  expect(text.match(/HTTP\/1\.1 200 OK/g)).toHaveLength(30)
  expect(text.length).toBeGreaterThan(30 * 900_000)
})

test('an append does not wait for what is before it', async () => {
  const { port, log } = await startTestServer()
  await log.configure('orders', {})
  const connection = await RawConnection.open(port)
  const append = `POST /v1/channels/orders/events HTTP/1.1\r\n${HOST}Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{"data":1}`
  connection.send(get('/v1/channels/orders/events?after=0&wait=55') + append.repeat(3) + get('/v1/channels/none'))
  const text = await connection.until(/404 Not Found/)
  expect([...text.matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, status]) => status)).toEqual([
    '200',
    '201',
    '201',
    '201',
    '404',
  ])
})

test('thousands that come together are all answered, and those of a connection that is gone are not taken up', async () => {
  const { url, port } = await startTestServer()
  const connection = await RawConnection.open(port)
  const many = 5_000
  connection.send(get('/livez').repeat(many) + get('/v1/channels/none', 'Connection: close\r\n'))
  const text = await connection.toEnd()
  expect(text.match(/HTTP\/1\.1 200 OK/g)).toHaveLength(many)

  const gone = await RawConnection.open(port)
  gone.send(get('/v1/channels/orders/events?wait=55') + get('/v1/channels/orders/events?wait=55').repeat(50))
  const polls = async (): Promise<number> => (await call(`${url}/v1/admin/figures`)).json.followers.poll
  await expect.poll(polls).toBe(1)
  gone.socket.destroy()
  await expect.poll(polls).toBe(0)
})
