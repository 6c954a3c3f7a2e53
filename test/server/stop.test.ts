import { Agent, request as httpRequest } from 'node:http'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { WebSocket } from 'ws'
import { decodeBlock } from '../../src/block.ts'
import { STOP_MS } from '../../src/doors/limits.ts'
import type { Log } from '../../src/log/log.ts'
import { body, range, tempLog } from '../parts.ts'
import { call, RawConnection } from './calls.ts'
import { logWith, startTestServer } from './serve.ts'

const HOST = 'Host: 127.0.0.1\r\n'

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

  test('an append that is under way when the others are gone is still answered', async () => {
    const log = await tempLog()
    let write = () => {}
    const held = new Promise<void>((resolve) => {
      write = resolve
    })
    const append: Log['append'] = async (...entries) => {
      await held
      return log.append(...entries)
    }
    const { url, port, server } = await startTestServer({ log: logWith(log, { append }) })
    const appending = call(`${url}/v1/channels/a/events`, 'POST', { data: 1 })
    const idle = await RawConnection.open(port)
    await idle.send(`GET /livez HTTP/1.1\r\n${HOST}\r\n`).until(/\}$/)
    const stopped = server.close()
    await idle.toEnd()
    write()
    expect((await appending).status).toBe(201)
    await stopped
    expect((await log.info('a')).head).toBe(1)
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
