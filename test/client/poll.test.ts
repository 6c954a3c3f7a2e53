import { expect, onTestFinished, test, vi } from 'vitest'
import { Tidemark } from '../../src/client/client.ts'
import type { Item } from '../../src/client/subscription.ts'
import { range } from '../parts.ts'
import { type Asked, clientOf, eventsOf, problem, type Said, Scripted, seqs, setClockBack } from './scripted.ts'

const page = (channel: string, after: number, last: number, fields: object = {}) => ({
  channel,
  epoch: 'e1',
  after,
  last,
  head: last,
  trimmed: 0,
  caughtUp: true,
  events: eventsOf(after + 1, last),
  ...fields,
})

/** A server without WebSockets: polls are answered in this order, the last one never. */
async function pollServer(...answers: (object | Said | ((asked: Asked) => object))[]): Promise<Scripted> {
  const server = await Scripted.start()
  server.meets = 403
  let polls = 0
  server.respond = async (asked) => {
    if (asked.url !== '/v1/poll') return problem(404, 'no-channel')
    const answer = answers[polls++]
    if (answer === undefined) return new Promise(() => {})
    const said = typeof answer === 'function' ? answer(asked) : answer
    return 'status' in said ? (said as Said) : { body: { streamer: 'off', pages: [], ...said } }
  }
  return server
}

const polls = (server: Scripted) => server.asked.filter(({ url }) => url === '/v1/poll').map(({ body }) => body)

test('where WebSockets are refused, one poll asks for all channels, each from its own place', async () => {
  const server = await pollServer(
    { pages: [page('a', 0, 2, { caughtUp: false }), page('b', 7, 8)] },
    { pages: [page('a', 2, 3)] },
  )
  const tidemark = clientOf(server)
  const a = tidemark.channel('a').follow()
  const b = tidemark.channel('b').follow({ after: 7, epoch: 'e1' })
  expect(await seqs(a, 3)).toEqual([1, 2, 3])
  expect(await seqs(b, 1)).toEqual([8])
  await server.until(() => polls(server).length === 3)
  expect(polls(server)).toMatchObject([
    { channels: { a: { after: 'earliest' }, b: { after: 7, epoch: 'e1' } }, wait: 0 },
    { channels: { a: { after: 2, epoch: 'e1' }, b: { after: 8, epoch: 'e1' } }, wait: 0 },
    { channels: { a: { after: 3, epoch: 'e1' }, b: { after: 8, epoch: 'e1' } }, wait: 25 },
  ])
  expect(tidemark.state).toBe('polling')
})

test('a loop without a WebSocket to be had polls from the beginning', async () => {
  const server = await pollServer({ pages: [page('a', 0, 1)] })
  // Node before 22 has no WebSocket of its own; a later one must not be found either.
  vi.stubGlobal('WebSocket', undefined)
  onTestFinished(() => void vi.unstubAllGlobals())
  const tidemark = new Tidemark(server.url)
  onTestFinished(() => tidemark.close())
  expect(await seqs(tidemark.channel('a').follow(), 1)).toEqual([1])
  expect(server.asked.filter(({ method }) => method === 'UPGRADE')).toEqual([])
})

test('the streamer turned off leads to polls, turned on back to the socket, from the same places', async () => {
  const server = await Scripted.start()
  let polled = 0
  server.respond = async ({ body }) => {
    const { after } = body.channels.a
    polled++
    if (polled === 1) return { body: { pages: [page('a', after, after + 2)], streamer: 'off' } }
    if (polled === 2) {
      server.meets = 'greet'
      return { body: { pages: [page('a', after, after + 1)], streamer: 'on', streamerRetryAfter: 5 } }
    }
    return new Promise(() => {})
  }
  const tidemark = clientOf(server)
  const states: string[] = []
  tidemark.onState((state) => states.push(state))
  const loop = tidemark.channel('a').follow()
  const first = await server.peer()
  await first.accept()
  first.events('a', 1, 4)
  first.say({ op: 'switch', streamer: 'off', retryAfter: 1 })
  first.socket.close(4503, 'streamer off')
  const second = await server.peer()
  expect(await second.accept()).toMatchObject({ after: 7, epoch: 'e1' })
  second.events('a', 6, 9)
  expect(await seqs(loop, 9)).toEqual(range(1, 9))
  expect(states).toEqual(['connecting', 'open', 'polling', 'open'])
})

test('while polls say that the streamer is off, no socket is tried', async () => {
  const news = (asked: Asked) => ({ pages: [page('a', asked.body.channels.a.after, asked.body.channels.a.after + 1)] })
  const server = await pollServer({ pages: [page('a', 0, 1)] }, ...Array(20).fill(news))
  expect(await seqs(clientOf(server).channel('a').follow(), 21)).toEqual(range(1, 21))
  expect(server.asked.filter(({ method }) => method === 'UPGRADE').length).toBe(1)
})

test('a poll that is answered after the socket took over changes nothing', async () => {
  const server = await Scripted.start()
  server.meets = 403
  const late = deferred()
  let polled = 0
  server.respond = async () => {
    if (++polled === 1) {
      server.meets = 'greet'
      return { body: { pages: [page('a', 0, 2)], streamer: 'on' } }
    }
    await late.promise
    return { body: { pages: [page('a', 2, 5)], streamer: 'on' } }
  }
  const loop = clientOf(server).channel('a').follow()
  const peer = await server.peer()
  expect(await peer.accept()).toMatchObject({ after: 2 })
  late.resolve(undefined)
  peer.events('a', 3, 6)
  expect(await seqs(loop, 6)).toEqual(range(1, 6))
})

function deferred() {
  let resolve: (value: unknown) => void = () => {}
  const promise = new Promise((done) => {
    resolve = done
  })
  return { promise, resolve }
}

test('polls tell gap, reset and caughtup in their place, as a socket does', async () => {
  const server = await pollServer(
    { pages: [page('a', 10, 12, { gap: { after: 0, trimmed: 10 }, trimmed: 10, caughtUp: false })] },
    { pages: [page('a', 0, 1, { reset: true, epoch: 'e2', head: 1 })] },
  )
  const found: Item[] = []
  for await (const item of clientOf(server).channel('a').followItems({ after: 0, epoch: 'e1' })) {
    found.push(item)
    if (item.is === 'caughtup') break
  }
  expect(found).toMatchObject([
    { is: 'gap', after: 0, trimmed: 10 },
    { is: 'events', after: 10, last: 12, events: [{ seq: 11 }, { seq: 12 }] },
    { is: 'reset', epoch: 'e2', trimmed: 0, head: 1 },
    { is: 'events', epoch: 'e2', after: 0, last: 1 },
    { is: 'caughtup', seq: 1 },
  ])
})

test('a channel at its head is told as caught up, and nobody waits before', async () => {
  const server = await pollServer({ pages: [page('a', 4, 4)] })
  const items = clientOf(server).channel('a').followItems({ after: 4, epoch: 'e1' })
  expect((await items.next()).value).toMatchObject({ is: 'caughtup', seq: 4 })
  await server.until(() => polls(server).length === 2)
  expect(polls(server).map(({ wait }) => wait)).toEqual([0, 25])
})

test('an answer that was cut says nothing about the channels without a page', async () => {
  const cut = (asked: Asked) => ({
    pages: [page('busy', asked.body.channels.busy.after, asked.body.channels.busy.after + 1_000, { caughtUp: false })],
  })
  const server = await pollServer(cut, cut, (asked) => ({
    pages: [page('busy', asked.body.channels.busy.after, asked.body.channels.busy.after + 1), page('a', 4, 5)],
  }))
  const tidemark = clientOf(server)
  const busy = tidemark.channel('busy').follow({ after: 0, epoch: 'e1' })
  const items = tidemark.channel('a').followItems({ after: 4, epoch: 'e1' })
  expect(await seqs(busy, 2_001)).toEqual(range(1, 2_001))
  expect((await items.next()).value).toMatchObject({ is: 'events', last: 5 })
  expect((await items.next()).value).toMatchObject({ is: 'caughtup', seq: 5 })
})

test('an error of one channel ends that loop only', async () => {
  const server = await pollServer(
    {
      pages: [
        { channel: 'a', error: { status: 500, code: 'data-loss', detail: 'damaged', after: 3, upTo: 9 } },
        page('b', 0, 1),
      ],
    },
    { pages: [page('b', 1, 2)] },
  )
  const tidemark = clientOf(server)
  const a = tidemark.channel('a').follow({ after: 3, epoch: 'e1' })
  const b = tidemark.channel('b').follow()
  await expect(a.next()).rejects.toMatchObject({ code: 'data-loss', details: { after: 3, upTo: 9 } })
  expect(await seqs(b, 2)).toEqual([1, 2])
  await server.until(() => polls(server).length === 3)
  expect(Object.keys(polls(server)[2].channels)).toEqual(['b'])
})

for (const [status, code] of [
  [401, 'unauthorized'],
  [403, 'forbidden'],
  [404, 'not-found'],
] as const)
  test(`a poll that is refused with ${status} ends the loops`, async () => {
    const server = await pollServer(problem(status, code))
    const tidemark = clientOf(server)
    const loops = ['a', 'b'].map((name) => tidemark.channel(name).follow())
    for (const loop of loops) await expect(loop.next()).rejects.toMatchObject({ code })
    expect(tidemark.state).toBe('idle')
  })

test('a poll with a refused token is asked again with a new one', async () => {
  const server = await Scripted.start()
  server.meets = 403
  server.respond = async ({ headers }) =>
    headers.authorization === 'Bearer token-2'
      ? { body: { pages: [page('a', 0, 1)], streamer: 'off' } }
      : problem(401, 'unauthorized')
  let given = 0
  const loop = clientOf(server, { token: () => `token-${++given}` })
    .channel('a')
    .follow()
  expect(await seqs(loop, 1)).toEqual([1])
})

test('a poll that fails for now is followed by another try, whatever failed', async () => {
  const server = await pollServer(
    problem(503, 'unavailable'),
    { status: 502, body: '<html>bad gateway</html>', headers: { 'content-type': 'text/html' } },
    { status: 200, body: '<html>a portal</html>', headers: { 'content-type': 'text/html' } },
    { status: 429, body: 'slow down', headers: { 'retry-after': '0' } },
    { pages: [page('a', 0, 1)] },
  )
  expect(await seqs(clientOf(server).channel('a').follow(), 1)).toEqual([1])
})

test.each(['null', '', '{"pages":[{"channel":"a",', '{"status":"ok"}'])(
  'an answer that is no poll, %j, is followed by another try',
  async (body) => {
    const server = await pollServer({ status: 200, body }, { pages: [page('a', 0, 1)] })
    expect(await seqs(clientOf(server).channel('a').follow(), 1)).toEqual([1])
  },
)

test('a start at the head goes on from the seq that a poll tells', async () => {
  const server = await pollServer({ pages: [page('a', 41, 41)] }, { pages: [page('a', 41, 42)] })
  expect(await seqs(clientOf(server).channel('a').follow({ after: 'head' }), 1)).toEqual([42])
  expect(polls(server).slice(0, 2)).toMatchObject([
    { channels: { a: { after: 'head', tell: true } }, wait: 0 },
    { channels: { a: { after: 41, epoch: 'e1', tell: false } }, wait: 25 },
  ])
})

test('a start at the cursor goes on from where a poll says that it stands; a cursor of another history is a reset', async () => {
  const server = await pollServer(
    { pages: [page('a', 5, 5), page('b', 2, 2, { epoch: 'e9', reset: true, trimmed: 2 })] },
    { pages: [page('a', 5, 6), page('b', 2, 3, { epoch: 'e9' })] },
  )
  const polled = server.respond
  server.respond = (asked) => (asked.method === 'PUT' ? { body: {} } : polled(asked))
  const tidemark = clientOf(server, { client: 'me' })
  const a = tidemark.channel('a').followItems({ cursor: true })
  const b = tidemark.channel('b').followItems({ cursor: true })
  expect((await a.next()).value).toMatchObject({ is: 'caughtup', seq: 5 })
  expect((await a.next()).value).toMatchObject({ is: 'events', after: 5, last: 6 })
  expect((await b.next()).value).toMatchObject({ is: 'reset', epoch: 'e9', trimmed: 2 })
  expect((await b.next()).value).toMatchObject({ is: 'caughtup', seq: 2 })
  expect((await b.next()).value).toMatchObject({ is: 'events', after: 2, last: 3 })
  expect(polls(server).slice(0, 2)).toMatchObject([
    { client: 'me', channels: { a: { tell: true }, b: { tell: true } } },
    { channels: { a: { after: 5, epoch: 'e1' }, b: { after: 2, epoch: 'e9' } } },
  ])
  expect(polls(server)[0].channels.a).toEqual({ tell: true })
})

test('a seq that came without an epoch learns its history', async () => {
  const server = await pollServer({ pages: [page('a', 4, 4)] }, { pages: [page('a', 4, 5)] })
  expect(await seqs(clientOf(server).channel('a').follow({ after: 4 }), 1)).toEqual([5])
  expect(polls(server)[0].channels.a).toEqual({ after: 4, tell: true })
  expect(polls(server)[1].channels.a).toMatchObject({ after: 4, epoch: 'e1' })
})

test('a channel that the app does not take from is left out of the polls until it does', async () => {
  const more = (asked: Asked) => ({
    pages: Object.entries(asked.body.channels as Record<string, { after: number }>).map(([name, { after }]) =>
      page(name, after, after + 1_000, { caughtUp: false }),
    ),
  })
  const server = await pollServer(...Array(40).fill(more))
  const tidemark = clientOf(server)
  const slow = tidemark.channel('slow').follow({ after: 0, epoch: 'e1' })
  const quick = tidemark.channel('quick').follow({ after: 0, epoch: 'e1' })
  expect(await seqs(quick, 10_000)).toEqual(range(1, 10_000))
  expect(polls(server).at(-1).channels).not.toHaveProperty('slow')
  expect(await seqs(slow, 10_000)).toEqual(range(1, 10_000))
})

test('polls go on while the clock is set back', async () => {
  const server = await pollServer(
    { pages: [page('a', 0, 1)] },
    () => {
      setClockBack()
      return {}
    },
    { pages: [page('a', 1, 2)] },
  )
  expect(await seqs(clientOf(server).channel('a').follow(), 2)).toEqual([1, 2])
})

test('a channel that is followed later joins the poll that is on its way', async () => {
  const server = await pollServer(
    { pages: [page('a', 0, 0)] },
    () => new Promise(() => {}),
    (asked) => ({ pages: asked.body.channels.b ? [page('b', 0, 1)] : [] }),
  )
  const tidemark = clientOf(server)
  const a = tidemark.channel('a').followItems({ after: 0, epoch: 'e1' })
  expect((await a.next()).value).toMatchObject({ is: 'caughtup' })
  await server.until(() => polls(server).length === 2)
  expect(await seqs(tidemark.channel('b').follow(), 1)).toEqual([1])
})
