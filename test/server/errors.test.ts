/** Every code that HTTP can give is provoked once, on a real server. A code without a row here fails. */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { BODIES_BYTES_MAX, MULTI_APPEND_BYTES_MAX } from '../../src/doors/limits.ts'
import { ERRORS, type ErrorCode, type Problem, TidemarkError } from '../../src/errors.ts'
import { blockKey } from '../../src/log/level/keys.ts'
import type { Log } from '../../src/log/log.ts'
import { openLog } from '../../src/log/open.ts'
import { flip, numberOf, withRows } from '../log/stored.ts'
import { body, range, tempDir, tempLog } from '../parts.ts'
import { call, problemOf, RawConnection } from './calls.ts'
import { logWith, startTestServer } from './serve.ts'

/** These end a process at start; no caller ever gets one. */
const PROGRAMS_ONLY: readonly ErrorCode[] = ['in-use', 'cannot-create', 'io-error', 'wrong-config']
/** There is nothing to be unauthorized for without keys. */
const NOT_YET: readonly ErrorCode[] = ['unauthorized']

async function served(): Promise<{ url: string; port: number; log: Log; events: string }> {
  const { url, port, log } = await startTestServer()
  await log.append([{ channel: 'a', body: body(...range(1, 10)) }])
  return { url, port, log, events: `${url}/v1/channels/a/events` }
}

/** A problem that was answered on a bare connection. */
async function rawProblem(connection: RawConnection): Promise<Problem> {
  const [head, text] = (await connection.toEnd()).split('\r\n\r\n')
  expect(head).toMatch(/^content-type: application\/problem\+json\r$/im)
  return JSON.parse(text!)
}

const PROVOKED: Partial<Record<ErrorCode, () => Promise<Problem>>> = {
  async 'bad-request'() {
    const { events } = await served()
    return problemOf(await call(events, 'POST', '{'))
  },
  async forbidden() {
    const { events } = await served()
    return problemOf(await call(events, 'GET', undefined, { origin: 'https://evil.example' }))
  },
  async 'not-found'() {
    const { url } = await served()
    return problemOf(await call(`${url}/v1/nothing`))
  },
  async 'no-channel'() {
    const { url } = await served()
    return problemOf(await call(`${url}/v1/channels/none/events`))
  },
  async 'method-not-allowed'() {
    const { events } = await served()
    const answer = await call(events, 'DELETE')
    expect(answer.headers.get('allow')).toBe('GET, POST')
    return problemOf(answer)
  },
  async 'not-acceptable'() {
    const { events } = await served()
    return problemOf(await call(events, 'GET', undefined, { accept: 'image/png' }))
  },
  async timeout() {
    const { port } = await startTestServer({ requestTimeout: 100 })
    const connection = await RawConnection.open(port)
    connection.send(
      'POST /v1/append HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{',
    )
    return rawProblem(connection)
  },
  async 'seq-conflict'() {
    const { events } = await served()
    return problemOf(await call(`${events}?expectedSeq=9`, 'POST', { data: 1 }))
  },
  async 'epoch-changed'() {
    const { events } = await served()
    return problemOf(await call(`${events}?after=1&epoch=another.life`))
  },
  async 'ahead-of-head'() {
    const { events } = await served()
    return problemOf(await call(`${events}?after=11`))
  },
  async gap() {
    const { events, log } = await served()
    await log.trim('a', 5)
    return problemOf(await call(`${events}?after=4`))
  },
  async 'too-large'() {
    const { url } = await served()
    return problemOf(await call(`${url}/v1/channels/a`, 'PUT', { note: 'x'.repeat(100_000) }))
  },
  async 'unsupported-type'() {
    const { url } = await served()
    return problemOf(await call(`${url}/v1/channels/a`, 'PUT', '{}', { 'content-type': 'text/plain' }))
  },
  async 'key-reused'() {
    const { events } = await served()
    const key = { 'idempotency-key': 'k' }
    await call(events, 'POST', { data: 1 }, key)
    return problemOf(await call(events, 'POST', { data: 2 }, key))
  },
  async 'too-many'() {
    const { port } = await served()
    // Bodies that never end: one more than all bodies together may take. One of them is refused.
    const part = 'x'.repeat(MULTI_APPEND_BYTES_MAX - 1)
    const answers: Promise<Problem>[] = []
    for (let sent = 0; sent <= BODIES_BYTES_MAX; sent += part.length) {
      const connection = await RawConnection.open(port)
      connection.send(
        `POST /v1/append HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: ${MULTI_APPEND_BYTES_MAX}\r\n\r\n${part}`,
      )
      answers.push(rawProblem(connection))
    }
    return Promise.any(answers)
  },
  async internal() {
    const clientFile = join(tempDir(), 'client.js')
    mkdirSync(clientFile)
    const { url } = await startTestServer({ clientFile })
    return problemOf(await call(`${url}/client.js`))
  },
  async 'data-loss'() {
    const dir = tempDir()
    const whole = await openLog({ dir })
    await whole.append([{ channel: 'a', body: body('x'.repeat(1_000)) }])
    await whole.close()
    await withRows(dir, async (rows) => flip(rows, blockKey(await numberOf(rows, 'a'), 1), 4_000))
    const log = await openLog({ dir })
    onTestFinished(() => log.close())
    const { url } = await startTestServer({ log })
    const problem = problemOf(await call(`${url}/v1/channels/a/events?after=0`))
    expect(problem).toMatchObject({ after: 0, upTo: 1, epoch: expect.any(String), trimmed: 0, head: 1 })
    const { pages } = (await call(`${url}/v1/poll`, 'POST', { channels: { a: { after: 0 } } })).json
    expect(pages).toMatchObject([{ channel: 'a', error: { code: 'data-loss', after: 0, upTo: 1 } }])
    return problem
  },
  async 'not-supported'() {
    const whole = await tempLog()
    await whole.append([{ channel: 'a', body: body(1) }])
    const { url } = await startTestServer({ log: logWith(whole, { about: { ...whole.about, capabilities: [] } }) })
    return problemOf(await call(`${url}/v1/channels/a/compact`, 'POST', {}))
  },
  async busy() {
    const whole = await tempLog()
    await whole.append([{ channel: 'a', body: body(1) }])
    const { url } = await startTestServer({ log: logWith(whole, { read: () => new Promise(() => {}) }) })
    await call(`${url}/v1/channels/a/compact`, 'POST', {})
    return problemOf(await call(`${url}/v1/channels/a/compact`, 'POST', {}))
  },
  async unavailable() {
    const { events, log } = await served()
    await log.close()
    const answer = await call(events, 'POST', { data: 1 })
    expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0)
    return problemOf(answer)
  },
  async 'storage-full'() {
    // A disk that is full can not be had here; what the log says then, it says itself.
    const whole = await tempLog()
    const full = new TidemarkError('storage-full', 'No space is left', { outcome: 'unknown' })
    const log = logWith(whole, { append: () => Promise.reject(full) })
    const { url } = await startTestServer({ log })
    const problem = problemOf(await call(`${url}/v1/channels/a/events`, 'POST', { data: 1 }))
    expect(problem.outcome).toBe('unknown')
    return problem
  },
}

const codes = Object.keys(ERRORS) as ErrorCode[]

test.each(codes.filter((code) => !PROGRAMS_ONLY.includes(code) && !NOT_YET.includes(code)))(
  '%s is answered as a problem',
  async (code) => {
    const provoke = PROVOKED[code]
    if (provoke === undefined) throw new Error(`Nothing provokes ${code} over HTTP`)
    const { status, title } = ERRORS[code]
    const problem = await provoke()
    expect(problem).toMatchObject({ code, status, title, type: `/errors#${code}`, detail: expect.any(String) })
  },
)

test('the two lists of exceptions name codes that are still there', () => {
  expect(codes).toEqual(expect.arrayContaining([...PROGRAMS_ONLY, ...NOT_YET]))
})
