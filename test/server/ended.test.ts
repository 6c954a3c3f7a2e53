/** What began under a credential that ends meanwhile: nothing is done for it after its end, however slowly it is asked. */
import { type ClientRequest, request } from 'node:http'
import { expect, onTestFinished, test } from 'vitest'
import { body } from '../parts.ts'
import { call } from './calls.ts'
import { type Guarded, startGuarded } from './guarded.ts'
import { until } from './stream.ts'

/** A request whose head is there, and its right was looked at: the server asks for its body. */
async function begun(url: string, method: string, headers: Record<string, string>) {
  const answer: { status: number; text: string } = { status: 0, text: '' }
  let isOver = false
  const req: ClientRequest = request(url, { method, headers: { ...headers, expect: '100-continue' } }, (res) => {
    res.setEncoding('utf8').on('data', (text: string) => {
      answer.text += text
    })
    res.on('end', () => {
      answer.status = res.statusCode!
      isOver = true
    })
  })
  onTestFinished(() => void req.destroy())
  req.on('error', () => {})
  const continued = new Promise<void>((resolve, reject) => {
    req.on('continue', resolve)
    req.on('response', ({ statusCode }) => reject(new Error(`${statusCode} before its body`)))
  })
  req.flushHeaders()
  await continued
  return {
    write: (text: string) => void req.write(text),
    async end(text = '') {
      req.end(text)
      await until(() => isOver)
      return { ...answer, json: answer.text === '' ? undefined : JSON.parse(answer.text) }
    },
  }
}

/** Resolves when the server has taken it up. */
async function revoke(guarded: Guarded, caller: 'publish' | 'admin'): Promise<void> {
  guarded.change(({ keys, issuers }) => ({ keys: keys.filter(({ kid }) => kid !== guarded.kids[caller]), issuers }))
  const headers = guarded.headers(caller)
  await until(async () => (await call(`${guarded.url}/v1/channels`, 'GET', undefined, headers)).status === 401)
}

const JSON_BODY = { 'content-type': 'application/json' }

for (const caller of ['publish', 'admin'] as const) {
  test(`a body that ends after its key (${caller}) does nothing`, async () => {
    const guarded = await startGuarded()
    await guarded.log.append([{ channel: 'orders/1', body: body('one', 'two') }])
    const calls: [method: string, path: string, body: object][] = [
      ['POST', 'channels/orders/1/events', { data: 'late' }],
      ['POST', 'append', { appends: [{ channel: 'orders/1', events: [{ data: 'late' }] }] }],
      ['POST', 'poll', { channels: { 'orders/1': { after: 0 } } }],
      ['PUT', 'channels/orders/1/cursors/web', { seq: 1 }],
      ['PUT', 'channels/orders/1/cursors/web', { seq: 1, seek: true }],
      ...(caller === 'admin'
        ? ([
            ['PUT', 'channels/orders/1', { note: 'late' }],
            ['POST', 'channels/orders/1/trim', { upTo: 1 }],
            ['PUT', 'admin/streamer', { on: false }],
          ] as [string, string, object][])
        : []),
    ]
    const headers = { ...guarded.headers(caller), ...JSON_BODY }
    const slow = await Promise.all(
      calls.map(async ([method, path, asked]) => {
        const text = JSON.stringify(asked)
        const length = { 'content-length': String(Buffer.byteLength(text)) }
        const one = await begun(`${guarded.url}/v1/${path}`, method, { ...headers, ...length })
        one.write(text.slice(0, -1))
        return { path, one, text }
      }),
    )
    await revoke(guarded, caller)
    const answers: [string, number][] = []
    for (const { path, one, text } of slow) answers.push([path, (await one.end(text.slice(-1))).status])
    expect(answers).toEqual(calls.map(([, path]) => [path, 401]))
    expect(await guarded.log.info('orders/1')).toMatchObject({ head: 2, trimmed: 0, settings: {} })
    for await (const cursor of guarded.log.cursors({ channel: 'orders/1' })) expect(cursor).toBeUndefined()
  })

  test(`lines that come after the end of their key (${caller}) are not appended`, async () => {
    const guarded = await startGuarded()
    const headers = { ...guarded.headers(caller), 'content-type': 'application/x-ndjson' }
    const one = await begun(`${guarded.url}/v1/channels/in/events`, 'POST', headers)
    // A piece is taken as soon as it is known that it is whole.
    const lines = (count: number) => '{"data":1}\n'.repeat(count)
    one.write(lines(1_001))
    await until(async () => (await guarded.log.info('in').catch(() => ({ head: 0 }))).head === 1_000)
    await revoke(guarded, caller)
    const { status, json } = await one.end(lines(2_000))
    expect([status, json]).toMatchObject([401, { code: 'unauthorized', appended: 1_000 }])
    expect((await guarded.log.info('in')).head).toBe(1_000)
  })
}

test('an end that is set for a key ends its streams and waits then; one that is put off does not', async () => {
  const guarded = await startGuarded()
  await guarded.log.append([{ channel: 'orders/1', body: body('one') }])
  const headers = guarded.headers('publish')
  const state = { text: '', hasEnded: false }
  const req = request(
    `${guarded.url}/v1/channels/orders/1/events`,
    { headers: { ...headers, accept: 'text/event-stream' } },
    (res) => {
      res.setEncoding('utf8').on('data', (text: string) => {
        state.text += text
      })
      res.on('end', () => {
        state.hasEnded = true
      })
    },
  )
  onTestFinished(() => void req.destroy())
  req.on('error', () => {})
  req.end()
  await until(() => state.text.includes('caughtup'))
  const expires = (at: number) =>
    guarded.change(({ keys, issuers }) => ({
      keys: keys.map((key) =>
        key.kid === guarded.kids.publish ? { ...key, expires: new Date(at).toISOString() } : key,
      ),
      issuers,
    }))
  const waiting = call(`${guarded.url}/v1/channels/orders/1/events?after=1&wait=55`, 'GET', undefined, headers)
  const figures = () => call(`${guarded.url}/v1/admin/figures`, 'GET', undefined, guarded.headers('admin'))
  await until(async () => (await figures()).json.followers.poll === 1)
  expires(Date.now() + 600_000)
  // What was waiting is answered, and may ask again.
  expect((await waiting).status).toBe(200)
  expect(state.hasEnded).toBe(false)
  expires(Date.now() - 1)
  await until(() => state.hasEnded)
  await guarded.log.append([{ channel: 'orders/1', body: body('late') }])
  expect(state.text).not.toContain('late')
})
