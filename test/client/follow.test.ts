import { expect, onTestFinished, test } from 'vitest'
import { Tidemark as Client, type Tidemark, type TidemarkOptions } from '../../src/client/client.ts'
import { COMMIT_MS } from '../../src/client/commit.ts'
import { connect } from '../../src/client/node.ts'
import { eventsOf, type Peer, problem, Scripted } from './scripted.ts'

const NAME: TidemarkOptions = { client: 'me' }

async function open(options: TidemarkOptions = NAME): Promise<{ server: Scripted; tidemark: Tidemark }> {
  const server = await Scripted.start()
  server.respond = () => ({ body: {} })
  const tidemark = connect(server.url, options)
  onTestFinished(() => tidemark.close())
  return { server, tidemark }
}

/** Answers each commit at once; gives what was committed, in order. */
function keepCommits(peer: Peer): () => number[] {
  void (async () => {
    for (;;) {
      const { ref, channel, seq } = await peer.next('commit')
      const time = '2026-11-22T18:48:00.123Z'
      peer.say({ op: 'committed', ref, client: 'me', channel, epoch: 'e1', seq, lag: 0, time })
    }
  })()
  return () => peer.received.filter(({ op }) => op === 'commit').map(({ seq }) => seq)
}

const puts = (server: Scripted) =>
  server.asked.filter(({ method }) => method === 'PUT').map(({ url, body }) => [url, body])

test('a loop from the cursor commits what its body has finished, and goes on from there after a lost socket', async () => {
  const { server, tidemark } = await open()
  const loop = tidemark.channel('a').follow({ cursor: true })
  const peer = await server.peer()
  expect(await peer.next('hello')).toMatchObject({ client: 'me' })
  const commits = keepCommits(peer)
  expect(await peer.accept({ after: 4 })).toMatchObject({ cursor: true })
  peer.events('a', 5, 6)
  expect((await loop.next()).value?.seq).toBe(5)
  expect(commits()).toEqual([])
  expect((await loop.next()).value?.seq).toBe(6)
  await peer.until(() => commits().includes(5))
  peer.cut()
  const second = await server.peer()
  expect(await second.accept()).toMatchObject({ after: 6, epoch: 'e1' })
})

test('commits that come quickly share one', async () => {
  const { server, tidemark } = await open()
  const loop = tidemark.channel('a').follow({ cursor: true })
  const peer = await server.peer()
  const commits = keepCommits(peer)
  await peer.accept()
  const start = Date.now()
  for (let seq = 1; seq <= 100; seq++) {
    peer.events('a', seq, seq)
    expect((await loop.next()).value?.seq).toBe(seq)
  }
  await peer.until(() => commits().at(-1) === 99)
  // One at once, then one for each rest between two.
  expect(commits().length).toBeLessThanOrEqual(2 + (Date.now() - start) / COMMIT_MS)
  expect(commits()).toEqual([...commits()].sort((a, b) => a - b))
})

test('break sends the last commit, of what was finished before the event that it left', async () => {
  const { server, tidemark } = await open()
  const loop = tidemark.channel('a').follow({ cursor: true })
  const peer = await server.peer()
  keepCommits(peer)
  await peer.accept()
  peer.events('a', 1, 9)
  for await (const { seq } of loop) if (seq === 4) break
  expect(puts(server).at(-1)).toEqual(['/v1/channels/a/cursors/me', { seq: 3, epoch: 'e1' }])
  await peer.next('unsubscribe')
})

test('a body that throws commits nothing of the event in its hands', async () => {
  const { server, tidemark } = await open()
  const loop = tidemark.channel('a').follow({ cursor: true })
  const peer = await server.peer()
  keepCommits(peer)
  await peer.accept()
  peer.events('a', 1, 9)
  const broken = new Error('the body failed')
  const run = async () => {
    for await (const { seq } of loop) if (seq === 3) throw broken
  }
  await expect(run()).rejects.toBe(broken)
  expect(puts(server).at(-1)).toEqual(['/v1/channels/a/cursors/me', { seq: 2, epoch: 'e1' }])
})

test('a signal in the middle of a batch commits what was finished, not the batch', async () => {
  const { server, tidemark } = await open()
  const stop = new AbortController()
  const loop = tidemark.channel('a').follow({ cursor: true, signal: stop.signal })
  const peer = await server.peer()
  keepCommits(peer)
  await peer.accept()
  peer.events('a', 1, 9)
  const found: number[] = []
  for await (const { seq } of loop) {
    found.push(seq)
    if (seq === 4) stop.abort()
  }
  expect(found).toEqual([1, 2, 3, 4])
  expect(puts(server).at(-1)).toEqual(['/v1/channels/a/cursors/me', { seq: 4, epoch: 'e1' }])
  expect(loop.place).toEqual({ epoch: 'e1', after: 4 })
})

test('a signal that was aborted before ends the loop at once, without a connection', async () => {
  const { server, tidemark } = await open()
  const loop = tidemark.channel('a').follow({ signal: AbortSignal.abort() })
  expect(await loop.next()).toEqual({ value: undefined, done: true })
  expect(server.asked).toEqual([])
})

test('positions that pass without an event are committed, too', async () => {
  const { server, tidemark } = await open()
  const loop = tidemark.channel('a').follow({ cursor: true })
  const peer = await server.peer()
  const commits = keepCommits(peer)
  await peer.accept()
  peer.events('a', 1, 2, { last: 40 })
  void (async () => {
    for await (const _ of loop);
  })()
  await peer.until(() => commits().at(-1) === 40)
  peer.say({ op: 'events', channel: 'a', epoch: 'e1', after: 40, last: 70, events: [] })
  peer.say({ op: 'caughtup', channel: 'a', seq: 70 })
  await peer.until(() => commits().at(-1) === 70)
})

test('after a reset that was handled, the cursor stands in the new history', async () => {
  const { server, tidemark } = await open()
  const items = tidemark.channel('a').followItems({ cursor: true })
  const peer = await server.peer()
  const commits = keepCommits(peer)
  await peer.accept({ after: 0 })
  peer.events('a', 1, 9)
  peer.say({ op: 'reset', channel: 'a', epoch: 'e2', trimmed: 0, head: 0 })
  expect((await items.next()).value?.is).toBe('events')
  expect((await items.next()).value?.is).toBe('reset')
  // The commit of 9 is of the old history, and the socket counts for the new one by now.
  void items.next()
  await peer.until(() => commits().length > 0)
  expect(puts(server)).toEqual([['/v1/channels/a/cursors/me', { seq: 9, epoch: 'e1' }]])
  expect(commits()).toEqual([0])
})

test('a commit that the server refuses for good ends the loop with its code', async () => {
  const { server, tidemark } = await open()
  const loop = tidemark.channel('a').follow({ cursor: true })
  const peer = await server.peer()
  await peer.accept()
  peer.events('a', 1, 2)
  await loop.next()
  await loop.next()
  const { ref } = await peer.next('commit')
  peer.say({ op: 'error', ref, code: 'forbidden', detail: 'read only' })
  await expect(loop.next()).rejects.toMatchObject({ code: 'forbidden' })
})

test('a commit whose answer was lost is sent again, wherever it can be', async () => {
  const { server, tidemark } = await open()
  const loop = tidemark.channel('a').follow({ cursor: true })
  const peer = await server.peer()
  await peer.accept()
  peer.events('a', 1, 2)
  await loop.next()
  await loop.next()
  await peer.next('commit')
  peer.cut()
  await server.until(() => puts(server).length > 0 || server.peers[1]?.received.some(({ op }) => op === 'commit'))
  const second = await server.peer()
  keepCommits(second)
  await second.accept()
  await second.until(() => puts(server).length > 0 || second.received.some(({ op }) => op === 'commit'))
})

test('with manual commits nothing is committed but what the app says, and the call resolves when it is durable', async () => {
  const { server, tidemark } = await open()
  const channel = tidemark.channel('a')
  const loop = channel.follow({ cursor: true, commit: 'manual' })
  const peer = await server.peer()
  await peer.accept()
  peer.events('a', 1, 9)
  for (let i = 0; i < 5; i++) await loop.next()
  let isDurable = false
  const committed = channel.commit(3).then(() => {
    isDurable = true
  })
  const { ref, seq } = await peer.next('commit')
  expect([seq, isDurable]).toEqual([3, false])
  peer.say({
    op: 'committed',
    ref,
    client: 'me',
    channel: 'a',
    epoch: 'e1',
    seq,
    lag: 6,
    time: '2026-11-22T18:48:00.123Z',
  })
  await committed
  await loop.return()
  expect(puts(server)).toEqual([])
})

test('a commit without a loop goes over HTTP, and says what was refused', async () => {
  const { server, tidemark } = await open()
  await tidemark.channel('a').commit(7)
  await tidemark.channel('a').commit(8, { epoch: 'e1' })
  expect(puts(server)).toEqual([
    ['/v1/channels/a/cursors/me', { seq: 7 }],
    ['/v1/channels/a/cursors/me', { seq: 8, epoch: 'e1' }],
  ])
  server.respond = () => problem(409, 'ahead-of-head', { head: 8 })
  await expect(tidemark.channel('a').commit(99)).rejects.toMatchObject({ code: 'ahead-of-head' })
})

test('a commit that can not be sent when the loop ends is told, and nothing waits for ever', async () => {
  const { server, tidemark } = await open()
  server.meets = 403
  const loop = tidemark.channel('a').follow({ cursor: true })
  server.respond = ({ method, url }) => {
    if (method === 'PUT') return problem(503, 'unavailable')
    const page = { channel: 'a', epoch: 'e1', after: 0, last: 2, head: 2, trimmed: 0, caughtUp: true }
    const events = [1, 2].map((seq) => ({ seq, time: '2026-11-22T18:48:00.123Z', data: seq }))
    return { body: url === '/v1/poll' ? { pages: [{ ...page, events }], streamer: 'off' } : { ...page, events: [] } }
  }
  await loop.next()
  await loop.next()
  await expect(loop.return()).rejects.toMatchObject({ code: 'unavailable' })
})

test('closing the client sends the commits that are due', async () => {
  const { server, tidemark } = await open()
  const loop = tidemark.channel('a').follow({ cursor: true })
  const peer = await server.peer()
  const commits = keepCommits(peer)
  await peer.accept()
  peer.events('a', 1, 9)
  for (let i = 0; i < 8; i++) await loop.next()
  await tidemark.close()
  expect(commits().at(-1)).toBe(7)
})

test('closing the client sends the commits of a loop whose signal has just ended it', async () => {
  const { server, tidemark } = await open()
  const gone = new AbortController()
  const loop = tidemark.channel('a').follow({ cursor: true, signal: gone.signal })
  const peer = await server.peer()
  const commits = keepCommits(peer)
  await peer.accept()
  peer.events('a', 1, 9)
  for (let i = 0; i < 8; i++) await loop.next()
  gone.abort()
  await tidemark.close()
  // The channel is left, so that it goes over HTTP, unless it was due before.
  expect(Math.max(...commits(), ...puts(server).map(([, { seq }]) => seq))).toBe(7)
})

test('read gives one page, and throws what the server refuses', async () => {
  const { server, tidemark } = await open()
  const page = { channel: 'a/b', epoch: 'e1', after: 1, last: 1, head: 1, trimmed: 0, caughtUp: true, events: [] }
  server.respond = () => ({ body: page })
  expect(await tidemark.channel('a/b').read({ after: 'head-5', limit: 7, wait: 3, epoch: 'e1' })).toEqual(page)
  await tidemark.channel('a/b').read({ cursor: true })
  expect(server.asked.map(({ url }) => url)).toEqual([
    '/v1/channels/a/b/events?after=head-5&limit=7&wait=3&epoch=e1',
    '/v1/channels/a/b/events?client=me',
  ])
  server.respond = () => problem(410, 'gap', { after: 1, trimmed: 9 })
  await expect(tidemark.channel('a').read({ after: 1 })).rejects.toMatchObject({ code: 'gap', details: { trimmed: 9 } })
  server.respond = () => undefined
  await expect(tidemark.channel('a').read()).rejects.toMatchObject({ code: 'unavailable' })
  for (const body of ['<html>a portal</html>', 'null', '', '{}', '{"channel":"a/b","events":[']) {
    server.respond = () => ({ body })
    await expect(tidemark.channel('a').read(), body).rejects.toMatchObject({ code: 'unavailable' })
    await expect(tidemark.channel('a').last(3), body).rejects.toMatchObject({ code: 'unavailable' })
  }
  server.respond = () => new Promise(() => {})
  await expect(tidemark.channel('a').read({ signal: AbortSignal.timeout(20) })).rejects.toMatchObject({
    name: 'TimeoutError',
  })
})

test('last gives the newest events as one page, however many answers they take', async () => {
  const { server, tidemark } = await open()
  const page = (after: number, last: number) => ({
    ...{ channel: 'a', epoch: 'e1', after, last, head: 9, trimmed: 0, caughtUp: last === 9 },
    events: eventsOf(after + 1, last),
  })
  const answers = [page(4, 7), page(7, 9)]
  server.respond = () => ({ body: answers.shift() })
  const { events, epoch, last } = await tidemark.channel('a').last(5)
  expect([events.map(({ seq }) => seq), epoch, last]).toEqual([[5, 6, 7, 8, 9], 'e1', 9])
  expect(server.asked.map(({ url }) => url)).toEqual([
    '/v1/channels/a/events?after=head-5&limit=5',
    '/v1/channels/a/events?after=7&limit=2&epoch=e1',
  ])
})

test('a callback is awaited before the next event, and its promise tells how the loop ended', async () => {
  const { server, tidemark } = await open()
  const stop = new AbortController()
  const done: number[] = []
  const followed = tidemark.channel('a').follow({ cursor: true, signal: stop.signal }, async ({ seq }) => {
    await Promise.resolve()
    done.push(seq)
    if (seq === 3) stop.abort()
  })
  const peer = await server.peer()
  keepCommits(peer)
  await peer.accept()
  peer.events('a', 1, 9)
  await followed
  expect(done).toEqual([1, 2, 3])
  expect(puts(server).at(-1)).toEqual(['/v1/channels/a/cursors/me', { seq: 3, epoch: 'e1' }])
  const broken = tidemark.channel('a').follow({ after: 3 }, () => Promise.reject(new Error('the callback failed')))
  await peer.accept()
  peer.events('a', 4, 4)
  await expect(broken).rejects.toThrow('the callback failed')
})

test('names, positions and addresses are checked before anything is sent', () => {
  const bad = expect.objectContaining({ code: 'bad-request' })
  const tidemark = new Client('http://127.0.0.1:1')
  expect(() => tidemark.channel('a//b')).toThrowError(bad)
  expect(() => tidemark.channel('a').follow({ after: 'tomorrow' })).toThrowError(bad)
  expect(() => tidemark.channel('a').follow({ after: -1 })).toThrowError(bad)
  expect(() => tidemark.channel('a').follow({ cursor: true })).toThrowError(bad)
  expect(() => new Client('http://127.0.0.1:1', { client: 'a/b' })).toThrowError(bad)
  const named = new Client('http://127.0.0.1:1', NAME)
  expect(() => named.channel('a').follow({ cursor: true, after: 4 })).toThrowError(bad)
  for (const url of ['', 'nowhere', 'ftp://127.0.0.1', 'http://user:word@127.0.0.1', 'http://127.0.0.1/?token=x'])
    expect(() => new Client(url)).toThrowError(bad)
})

test('the path of the address is where the interface lies', async () => {
  const { server } = await open()
  server.respond = () => ({ body: { events: [] } })
  for (const [path, expected] of [
    ['', '/v1/channels/a/events'],
    ['/', '/v1/channels/a/events'],
    ['/queue/v1', '/queue/v1/channels/a/events'],
    ['/queue/v1/', '/queue/v1/channels/a/events'],
  ]) {
    await new Client(server.url.replace('http', 'ws') + path).channel('a').read()
    expect(server.asked.at(-1)?.url).toBe(expected)
  }
})
