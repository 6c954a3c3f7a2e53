import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { expect, onTestFinished, test } from 'vitest'
import type { Tidemark } from '../../src/client/client.ts'
import { PENDING_APPENDS_MAX } from '../../src/client/outbox.ts'
import { range } from '../parts.ts'
import { type Asked, clientOf, type Peer, problem, Scripted } from './scripted.ts'

const appended = (channel: string, first: number, last = first) => ({
  channel,
  epoch: 'e1',
  first,
  last,
  head: last,
  durability: 'fsync',
})

/** A client whose socket is open, and the other end of it. */
async function open(server: Scripted): Promise<{ tidemark: Tidemark; peer: Peer }> {
  const tidemark = clientOf(server)
  tidemark.channel('followed').follow()
  const peer = await server.peer()
  await peer.accept()
  return { tidemark, peer }
}

const posts = (server: Scripted): Asked[] => server.asked.filter(({ method }) => method === 'POST')

test('without a socket an append takes HTTP, with everything it was given', async () => {
  const server = await Scripted.start()
  server.respond = () => ({ status: 201, body: appended('a/b', 4, 5) })
  const answer = await clientOf(server, { token: 'secret' })
    .channel('a/b')
    .append([{ data: 1 }, { type: 't' }], { expectedSeq: 3, idempotencyKey: 'mine' })
  expect(answer).toEqual(appended('a/b', 4, 5))
  const { url, headers, body } = posts(server)[0]!
  expect(url).toBe('/v1/channels/a/b/events?expectedSeq=3')
  expect(headers).toMatchObject({
    'idempotency-key': 'mine',
    authorization: 'Bearer secret',
    'content-type': 'application/json',
  })
  expect(body).toEqual([{ data: 1 }, { type: 't' }])
})

test('over an open socket appends are pipelined, and answered with what the server said', async () => {
  const server = await Scripted.start()
  const { tidemark, peer } = await open(server)
  const answers = range(1, 50).map((data) => tidemark.channel('a').append({ data }))
  for (const data of range(1, 50)) {
    const { ref, events, idempotencyKey } = await peer.next('append')
    expect(events).toEqual([{ data }])
    expect(idempotencyKey).toMatch(/^\d+(,\d+){3}$/)
    peer.say({ op: 'appended', ref, ...appended('a', data) })
  }
  expect(await Promise.all(answers)).toEqual(range(1, 50).map((seq) => appended('a', seq)))
  expect(posts(server)).toEqual([])
})

test('an append that is on its way over HTTP is answered before the next one takes a socket that opened meanwhile', async () => {
  const server = await Scripted.start()
  let answer = (): void => {}
  server.respond = ({ url }) =>
    url === '/v1/poll'
      ? problem(503, 'unavailable')
      : new Promise((resolve) => {
          answer = () => resolve({ status: 201, body: appended('a', 1) })
        })
  const tidemark = clientOf(server)
  const first = tidemark.channel('a').append({ data: 1 })
  await server.call(({ url }) => url.startsWith('/v1/channels/a/'))
  tidemark.channel('followed').follow()
  const peer = await server.peer()
  await peer.accept()
  const second = tidemark.channel('a').append({ data: 2 })
  // Of another channel, so it waits for nobody.
  const other = tidemark.channel('b').append({ data: 3 })
  for (const [channel, append] of [
    ['b', other],
    ['a', second],
  ] as const) {
    const sent = await peer.next('append')
    expect(sent.channel).toBe(channel)
    peer.say({ op: 'appended', ref: sent.ref, ...appended(channel, 2) })
    answer()
    await append
  }
  expect(await first).toEqual(appended('a', 1))
})

test('appends whose answers were lost with the socket are sent again in order, each under its first key', async () => {
  const server = await Scripted.start()
  const { tidemark, peer } = await open(server)
  server.respond = ({ url, body }) =>
    url === '/v1/poll'
      ? problem(503, 'unavailable')
      : { status: 200, body: { ...appended('a', body[0].data), duplicate: true } }
  const answers = range(1, 5).map((data) => tidemark.channel('a').append({ data }))
  await peer.until(() => peer.received.filter(({ op }) => op === 'append').length === 5)
  const sent = await peer.next('append')
  peer.say({ op: 'appended', ref: sent.ref, ...appended('a', 1) })
  await answers[0]
  server.meets = 403
  peer.cut()
  expect((await Promise.all(answers)).map(({ first, duplicate }) => [first, duplicate])).toEqual([
    [1, undefined],
    ...range(2, 5).map((seq) => [seq, true]),
  ])
  const keys = peer.received.filter(({ op }) => op === 'append').map(({ idempotencyKey }) => idempotencyKey)
  expect(
    posts(server)
      .filter(({ url }) => url !== '/v1/poll')
      .map(({ headers }) => headers['idempotency-key']),
  ).toEqual(keys.slice(1))
})

test('an append is sent again, under the same key, until somebody answers', async () => {
  const server = await Scripted.start()
  const answers = [
    undefined,
    problem(503, 'unavailable', { retryAfter: 1 }),
    problem(500, 'internal', { outcome: 'unknown' }),
    { status: 504, body: '<html>gateway</html>' },
    { status: 200, body: '{"portal":true}' },
    { status: 201, body: appended('a', 1) },
  ]
  let tried = 0
  server.respond = () => answers[tried++]
  expect(await clientOf(server).channel('a').append({ data: 1 })).toEqual(appended('a', 1))
  const asked = posts(server)
  expect(asked.length).toBe(answers.length)
  expect(new Set(asked.map(({ headers }) => headers['idempotency-key'])).size).toBe(1)
})

test('what the server refuses is thrown, not tried again', async () => {
  const server = await Scripted.start()
  const tidemark = clientOf(server)
  for (const [status, code] of [
    [400, 'bad-request'],
    [403, 'forbidden'],
    [409, 'seq-conflict'],
    [413, 'too-large'],
    [422, 'key-reused'],
    [500, 'internal'],
    [507, 'storage-full'],
  ] as const) {
    server.respond = () => problem(status, code, { head: 9 })
    await expect(tidemark.channel('a').append({ data: 1 })).rejects.toMatchObject({ code, details: { head: 9 } })
  }
  expect(posts(server).length).toBe(7)
})

test('a refusal over the socket is thrown, and the appends behind it go on', async () => {
  const server = await Scripted.start()
  const { tidemark, peer } = await open(server)
  const first = tidemark.channel('a').append({ data: 1 }, { expectedSeq: 7 })
  const second = tidemark.channel('a').append({ data: 2 })
  const [one, two] = [await peer.next('append'), await peer.next('append')]
  expect(one.expectedSeq).toBe(7)
  peer.say({ op: 'error', ref: one.ref, channel: 'a', code: 'seq-conflict', detail: 'no', head: 3 })
  peer.say({ op: 'appended', ref: two.ref, ...appended('a', 4) })
  await expect(first).rejects.toMatchObject({ code: 'seq-conflict', details: { head: 3 } })
  expect(await second).toEqual(appended('a', 4))
})

test('an append that is not taken now is sent again on the same socket, before those behind it', async () => {
  const server = await Scripted.start()
  const { tidemark, peer } = await open(server)
  const first = tidemark.channel('a').append({ data: 1 })
  const one = await peer.next('append')
  peer.say({ op: 'error', ref: one.ref, code: 'too-many', detail: 'later', retryAfter: 1 })
  peer.say({ op: 'pong' })
  await peer.until(() => peer.received.filter(({ op }) => op === 'append').length === 2)
  const again = await peer.next('append')
  expect(again).toEqual({ ...one, ref: again.ref })
  peer.say({ op: 'appended', ref: again.ref, ...appended('a', 1) })
  expect(await first).toEqual(appended('a', 1))
})

test('an append that fits no frame takes HTTP, in its turn', async () => {
  const server = await Scripted.start()
  server.meets = 'silence'
  const tidemark = clientOf(server)
  tidemark.channel('followed').follow()
  const peer = await server.peer()
  peer.welcome(20_000, 4_096)
  await peer.accept()
  server.respond = () => ({ status: 201, body: appended('a', 2) })
  const answers = [{ data: 1 }, { data: 'é'.repeat(2_048) }, { data: 3 }].map((event) =>
    tidemark.channel('a').append(event),
  )
  const first = await peer.next('append')
  expect(posts(server)).toEqual([])
  peer.say({ op: 'appended', ref: first.ref, ...appended('a', 1) })
  expect((await answers[1])?.last).toBe(2)
  const third = await peer.next('append')
  expect(third.events).toEqual([{ data: 3 }])
  peer.say({ op: 'appended', ref: third.ref, ...appended('a', 3) })
  expect((await Promise.all(answers)).map(({ last }) => last)).toEqual([1, 2, 3])
})

test('what is appended is what it was at the call, whenever it is sent', async () => {
  const server = await Scripted.start()
  const event = { data: { n: 1 } }
  const answer = clientOf(server).channel('a').append(event)
  server.respond = () => ({ status: 201, body: appended('a', 1) })
  event.data.n = 2
  await answer
  expect(posts(server)[0]!.body).toEqual([{ data: { n: 1 } }])
})

test('an append can be given up, and its key names it for another try', async () => {
  const server = await Scripted.start()
  server.respond = () => new Promise(() => {})
  const stop = new AbortController()
  const answer = clientOf(server).channel('a').append({ data: 1 }, { signal: stop.signal, idempotencyKey: 'k' })
  await server.call(({ method }) => method === 'POST')
  stop.abort()
  await expect(answer).rejects.toMatchObject({ name: 'AbortError' })
})

test('the appends behind one that was given up go on', async () => {
  const server = await Scripted.start()
  server.respond = ({ body }) => (body[0].data === 1 ? new Promise(() => {}) : { status: 201, body: appended('a', 1) })
  const stop = new AbortController()
  const channel = clientOf(server).channel('a')
  const first = channel.append({ data: 1 }, { signal: stop.signal })
  const second = channel.append({ data: 2 })
  await server.call(({ method }) => method === 'POST')
  stop.abort()
  await expect(first).rejects.toMatchObject({ name: 'AbortError' })
  expect(await second).toEqual(appended('a', 1))
})

test('closing waits for the answers that are due', async () => {
  const server = await Scripted.start()
  const { tidemark, peer } = await open(server)
  const answer = tidemark.channel('a').append({ data: 1 })
  const { ref } = await peer.next('append')
  const closed = tidemark.close()
  peer.say({ op: 'appended', ref, ...appended('a', 1) })
  await closed
  expect(await answer).toEqual(appended('a', 1))
  await expect(tidemark.channel('a').append({ data: 2 })).rejects.toMatchObject({ code: 'unavailable' })
})

test('what has no answer when the client has closed says that its outcome is unknown', async () => {
  const server = await Scripted.start()
  server.respond = () => new Promise(() => {})
  const tidemark = clientOf(server)
  const answers = [tidemark.channel('a').append({ data: 1 }), tidemark.channel('a').append({ data: 2 })]
  const settled = Promise.allSettled(answers)
  await tidemark.close()
  for (const { reason } of (await settled) as PromiseRejectedResult[])
    expect(reason).toMatchObject({ code: 'unavailable', details: { outcome: 'unknown' } })
})

test('a program that has closed its client ends, whatever an append was waiting for', async () => {
  const server = await Scripted.start()
  server.respond = () => problem(429, 'too-many', { retryAfter: 60_000 })
  const program = `
    const { Tidemark } = await import(${JSON.stringify(new URL('../../dist/src/package.js', import.meta.url).href)})
    const tidemark = new Tidemark(${JSON.stringify(server.url)})
    tidemark.channel('a').append({ data: 1 }).catch(() => {})
    process.once('SIGUSR2', () => tidemark.close())
    process.stdout.write('ready')
    setTimeout(() => {}, 5_000)`
  const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  onTestFinished(() => void child.kill('SIGKILL'))
  await Promise.all([once(child.stdout, 'data'), server.call(({ method }) => method === 'POST')])
  child.kill('SIGUSR2')
  // A minute, if it waited for the end of its rest.
  expect(await once(child, 'exit')).toEqual([0, null])
})

test('more appends than may wait are refused, not kept', async () => {
  const server = await Scripted.start()
  server.respond = () => new Promise(() => {})
  const tidemark = clientOf(server)
  const answers = range(1, PENDING_APPENDS_MAX).map((data) => tidemark.channel('a').append({ data }))
  await expect(tidemark.channel('a').append({ data: 0 })).rejects.toMatchObject({ code: 'too-many' })
  const settled = Promise.allSettled(answers)
  await tidemark.close()
  expect((await settled).every(({ status }) => status === 'rejected')).toBe(true)
})
