/** Keys and tokens at every door: what is refused, how it is told, whose cursors are whose, and when it ends. */
import { request } from 'node:http'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { changeKeys, makeKey } from '../../src/access/keysfile.ts'
import { body, tempDir } from '../parts.ts'
import { call, loggerTo, problemOf } from './calls.ts'
import { type Guarded, startGuarded } from './guarded.ts'
import { Peer, seqs, until } from './stream.ts'

const bearer = (text: string) => ({ authorization: `Bearer ${text}` })

/** An event stream that is read until it ends. */
function streaming(url: string, headers: Record<string, string>) {
  const state = { status: 0, text: '', hasEnded: false }
  const req = request(url, { headers: { accept: 'text/event-stream', ...headers } }, (res) => {
    state.status = res.statusCode!
    res.setEncoding('utf8').on('data', (text: string) => {
      state.text += text
    })
    res.on('end', () => {
      state.hasEnded = true
    })
  })
  req.on('error', () => {})
  req.end()
  onTestFinished(() => void req.destroy())
  return state
}

test('every credential that is not good is refused with the same words', async () => {
  const guarded = await startGuarded()
  const { credentials, url } = guarded
  const expired = await guarded.token('anna', ['**'], ['read'], -1)
  const other = makeKey({ kind: 'admin' })
  const shown = ['', 'Bearer', 'Bearer ', 'Basic YTpi', 'Bearer x', credentials.admin, `Bearer ${credentials.admin}x`]
  const headers = [
    undefined,
    ...shown,
    ...[expired, other.text, `${credentials.granted}A`].map((text) => `Bearer ${text}`),
  ]
  const answers = new Set<string>()
  for (const authorization of headers) {
    const answer = await call(
      `${url}/v1/channels`,
      'GET',
      undefined,
      authorization === undefined ? {} : { authorization },
    )
    expect(answer.headers.get('www-authenticate')).toBe('Bearer')
    answers.add(`${answer.status} ${answer.text}`)
  }
  expect([...answers]).toEqual([expect.stringMatching(/^401 .*"code":"unauthorized"/)])
})

test('what may not be done is refused with the same words whether there is such a channel or not', async () => {
  const guarded = await startGuarded()
  await guarded.log.append([{ channel: 'secret/1', body: body('a secret') }])
  const paths = ['/events', '/events?wait=1', '', '/cursors', '/cursors/web']
  for (const path of paths) {
    const [there, gone] = await Promise.all(
      ['secret%2F1', 'secret%2F2'].map((name) =>
        call(`${guarded.url}/v1/channels/${name}${path}`, 'GET', undefined, guarded.headers('granted')),
      ),
    )
    expect(problemOf(there!).code).toBe('forbidden')
    expect(gone!.text.replaceAll('secret/2', 'secret/1')).toBe(there!.text)
  }
  const append = { method: 'POST', body: { data: 1 } }
  const answers = await Promise.all(
    ['secret/1', 'secret/2'].map((name) =>
      call(`${guarded.url}/v1/channels/${name}/events`, append.method, append.body, guarded.headers('granted')),
    ),
  )
  expect(answers.map(({ status }) => status)).toEqual([403, 403])
  expect((await guarded.log.info('secret/1')).head).toBe(1)
})

test('a refused append is answered before its body is read', async () => {
  const guarded = await startGuarded()
  const answer = await new Promise<number>((resolve, reject) => {
    const req = request(
      `${guarded.url}/v1/channels/secret/events`,
      {
        method: 'POST',
        headers: { ...guarded.headers('granted'), 'content-type': 'application/json', expect: '100-continue' },
      },
      (res) => resolve(res.statusCode!),
    )
    req.on('continue', () => reject(new Error('the body was asked for')))
    req.on('error', reject)
    req.flushHeaders()
  })
  expect(answer).toBe(403)
})

test('one forbidden channel of several: an append is refused whole, a poll tells it alone, a stream does not begin', async () => {
  const guarded = await startGuarded()
  await guarded.log.append([
    { channel: 'orders/1', body: body(1) },
    { channel: 'secret', body: body(1) },
  ])
  const headers = guarded.headers('granted')
  const appends = ['orders/1', 'secret'].map((channel) => ({ channel, events: [{ data: 2 }] }))
  expect((await call(`${guarded.url}/v1/append`, 'POST', { appends }, headers)).status).toBe(403)
  expect((await guarded.log.info('orders/1')).head).toBe(1)
  const channels = { 'orders/1': { after: 0 }, secret: { after: 0 } }
  const { pages } = (await call(`${guarded.url}/v1/poll`, 'POST', { channels }, headers)).json
  expect(pages).toMatchObject([
    { channel: 'orders/1', last: 1 },
    { channel: 'secret', error: { code: 'forbidden' } },
  ])
  const stream = streaming(`${guarded.url}/v1/events?channel=orders/1&channel=secret`, headers)
  await until(() => stream.hasEnded)
  expect([stream.status, stream.text.includes('"data":1')]).toEqual([403, false])
})

test('a poll commits only with the right to commit', async () => {
  const guarded = await startGuarded()
  await guarded.log.append([{ channel: 'orders/1', body: body(1, 2) }])
  const reader = bearer(await guarded.token('rita', ['orders/**'], ['read']))
  const asked = { client: 'web', channels: { 'orders/1': { commit: 2 } } }
  const { pages } = (await call(`${guarded.url}/v1/poll`, 'POST', asked, reader)).json
  expect(pages).toMatchObject([{ channel: 'orders/1', error: { code: 'forbidden' } }])
  const path = `${guarded.url}/v1/channels/orders%2F1/cursors/web`
  expect((await call(path, 'PUT', { seq: 1 }, reader)).status).toBe(403)
  const committer = bearer(await guarded.token('rita', ['orders/**'], ['read', 'commit']))
  expect((await call(path, 'PUT', { seq: 1 }, committer)).status).toBe(200)
  expect((await call(path, 'PUT', { seq: 0, seek: true }, committer)).status).toBe(403)
  expect((await call(path, 'DELETE', undefined, committer)).status).toBe(403)
  expect(await guarded.log.cursor('rita~web', 'orders/1')).toMatchObject({ seq: 1 })
})

test('lists hold what the caller may list', async () => {
  const guarded = await startGuarded()
  for (const channel of ['a', 'in', 'orders/1', 'orders/2', 'z']) await guarded.log.append([{ channel, body: body(1) }])
  const list = async (caller: 'granted' | 'without' | 'admin', query = '') =>
    (await call(`${guarded.url}/v1/channels${query}`, 'GET', undefined, guarded.headers(caller))).json
  const names = ({ channels }: { channels: { channel: string }[] }) => channels.map(({ channel }) => channel)
  expect(names(await list('granted'))).toEqual(['in', 'orders/1', 'orders/2'])
  expect(await list('without')).toEqual({ channels: [] })
  // A name that may not be listed is not told as the place to go on from, either.
  for (const channel of ['orders', 'orders/0', 'zz']) await guarded.log.append([{ channel, body: body(1) }])
  const some = bearer(await guarded.token('lea', ['orders/1', 'o*', 'orders/2', 'z*'], ['list']))
  const pages: string[] = []
  for (let after = '' as string | undefined; after !== undefined; ) {
    const query: string = `?limit=1${after === '' ? '' : `&after=${encodeURIComponent(after)}`}`
    const answer = await call<{ channels: { channel: string }[]; next?: string }>(
      `${guarded.url}/v1/channels${query}`,
      'GET',
      undefined,
      some,
    )
    const page = answer.json
    pages.push(...names(page), page.next ?? '-')
    after = page.next
  }
  expect(pages).toEqual(['orders', 'orders', 'orders/1', 'orders/1', 'orders/2', 'orders/2', 'z', 'z', 'zz', '-'])
  const prefixed = await call(`${guarded.url}/v1/channels?prefix=orders/`, 'GET', undefined, some)
  expect(names(prefixed.json)).toEqual(['orders/1', 'orders/2'])
  for (const channel of ['orders', 'orders/0', 'zz']) await guarded.log.delete(channel)
  expect(names(await list('admin')).filter((name) => !name.startsWith('_'))).toEqual([
    'a',
    'in',
    'orders/1',
    'orders/2',
    'z',
  ])
  const first = await list('granted', '?limit=2')
  expect([names(first), first.next]).toEqual([['in', 'orders/1'], 'orders/1'])
  expect(names(await list('granted', `?limit=2&after=${encodeURIComponent(first.next)}`))).toEqual(['orders/2'])
})

test('cursors are their subject’s, at every door', async () => {
  const guarded = await startGuarded()
  const [appended] = await guarded.log.append([{ channel: 'orders/1', body: body(1, 2, 3, 4) }])
  const { epoch } = appended!
  const path = `${guarded.url}/v1/channels/orders%2F1/cursors`
  const as = (caller: 'granted' | 'other' | 'publish' | 'admin') => guarded.headers(caller)
  // HTTP
  const put = await call(`${path}/web`, 'PUT', { seq: 1 }, as('granted'))
  expect(put.json).toMatchObject({ client: 'web', seq: 1 })
  expect((await call(`${path}/web`, 'GET', undefined, as('other'))).status).toBe(404)
  // Poll
  await call(`${guarded.url}/v1/poll`, 'POST', { client: 'web', channels: { 'orders/1': { commit: 2 } } }, as('other'))
  // Socket
  const bot = await guarded.peer('publish')
  bot.send({ op: 'hello', client: 'web' }, { op: 'commit', ref: 1, channel: 'orders/1', seq: 3, epoch })
  expect(await bot.answer(1)).toMatchObject({ op: 'committed', client: 'web', seq: 3 })
  bot.send({ op: 'subscribe', ref: 2, channel: 'orders/1', cursor: true })
  expect(await bot.answer(2)).toMatchObject({ op: 'subscribed', after: 3 })
  // Page and stream from the cursor
  const page = await call(`${guarded.url}/v1/channels/orders/1/events?client=web`, 'GET', undefined, as('granted'))
  expect(seqs(page.json.events)).toEqual([2, 3, 4])
  const stream = streaming(`${guarded.url}/v1/channels/orders/1/events?client=web`, as('other'))
  await until(() => stream.text.includes('"seq":4'))
  expect(stream.text).not.toContain('"seq":2,')
  // Three cursors of one name
  const kept = new Map<string, number>()
  for await (const { client, seq } of guarded.log.cursors({ channel: 'orders/1' })) kept.set(client, seq)
  expect([...kept]).toEqual([
    ['anna~web', 1],
    ['bert~web', 2],
    ['bot~web', 3],
  ])
  const own = (await call(path, 'GET', undefined, as('other'))).json
  expect(own.cursors).toMatchObject([{ client: 'web', seq: 2 }])
  expect((await call(`${guarded.url}/v1/cursors/web`, 'GET', undefined, as('publish'))).json.cursors).toMatchObject([
    { client: 'web', channel: 'orders/1', seq: 3 },
  ])
  // Admins say and are told whole names, others can not say them.
  const all = (await call(path, 'GET', undefined, as('admin'))).json
  expect(all.cursors.map(({ client }: { client: string }) => client)).toEqual(['anna~web', 'bert~web', 'bot~web'])
  expect((await call(`${path}/anna~web`, 'GET', undefined, as('admin'))).json).toMatchObject({
    client: 'anna~web',
    seq: 1,
  })
  expect((await call(`${path}/anna~web`, 'PUT', { seq: 4 }, as('other'))).status).toBe(400)
  expect((await call(`${path}/anna~web`, 'DELETE', undefined, as('other'))).status).toBe(400)
  const spoofs = [
    () => call(`${guarded.url}/v1/channels/orders/1/events?client=anna~web`, 'GET', undefined, as('other')),
    () => call(`${guarded.url}/v1/cursors/anna~web`, 'GET', undefined, as('other')),
    () =>
      call(
        `${guarded.url}/v1/poll`,
        'POST',
        { client: 'anna~web', channels: { 'orders/1': { commit: 4 } } },
        as('other'),
      ),
  ]
  for (const spoof of spoofs) expect((await spoof()).status).toBe(400)
  const spoofing = await guarded.peer('other')
  spoofing.send({ op: 'hello', ref: 1, client: 'anna~web' })
  expect(await spoofing.answer(1)).toMatchObject({ op: 'error', code: 'bad-request' })
  expect(await guarded.log.cursor('anna~web', 'orders/1')).toMatchObject({ seq: 1 })
})

test('a bad header ends the handshake; none waits for the hello; a bad hello closes 4401', async () => {
  const guarded = await startGuarded()
  const url = `${guarded.url.replace('http', 'ws')}/v1/stream`
  await expect(Peer.open(url, 'json', { headers: bearer('x') })).rejects.toThrow('401')
  for (const token of [undefined, 'x', `${guarded.credentials.granted}A`]) {
    const peer = await guarded.peer('none')
    peer.send({ op: 'hello', ...(token !== undefined && { token }) }, { op: 'subscribe', channel: 'orders/1' })
    expect((await peer.closed).code).toBe(4401)
    expect(peer.inbox).toEqual([])
  }
})

test('a hello that was refused for its client may be said again, also behind a token that had to be read', async () => {
  const guarded = await startGuarded()
  const peer = await guarded.peer('none')
  const token = await guarded.token('new')
  peer.send({ op: 'hello', ref: 1, token, client: 'anna~web' })
  expect(await peer.answer(1)).toMatchObject({ op: 'error', code: 'bad-request' })
  peer.send({ op: 'hello', ref: 2, token, client: 'web' })
  expect(await peer.answer(2)).toMatchObject({ op: 'welcome', client: 'web' })
})

test('frames behind a hello wait until its token was read, in their order', async () => {
  const guarded = await startGuarded()
  const peer = await guarded.peer('none')
  const messages = [...Array(50).keys()].map((ref) => ({
    op: 'append',
    ref,
    channel: 'orders/1',
    events: [{ data: ref }],
  }))
  peer.send({ op: 'hello', token: await guarded.token('new') }, ...messages)
  await peer.next('welcome')
  for (const ref of messages.keys()) expect(await peer.next('appended')).toMatchObject({ ref, first: ref + 1 })
})

test('a revoked key ends what runs under it: socket, stream, wait and poll; others go on', async () => {
  const guarded = await startGuarded()
  await guarded.log.append([{ channel: 'orders/1', body: body(1) }])
  const [revoked, kept] = await Promise.all([guarded.peer('publish'), guarded.peer('granted')])
  for (const peer of [revoked, kept]) {
    peer.send({ op: 'hello' }, { op: 'subscribe', channel: 'orders/1' })
    await peer.untilOp('caughtup')
  }
  const headers = guarded.headers('publish')
  const stream = streaming(`${guarded.url}/v1/channels/orders/1/events`, headers)
  const keptStream = streaming(`${guarded.url}/v1/channels/orders/1/events`, guarded.headers('other'))
  await until(() => stream.text.includes('caughtup') && keptStream.text.includes('caughtup'))
  const waiting = call(`${guarded.url}/v1/channels/orders/1/events?after=1&wait=55`, 'GET', undefined, headers)
  const poll = call(`${guarded.url}/v1/poll`, 'POST', { channels: { 'orders/1': { after: 1 } }, wait: 55 }, headers)
  await until(
    async () =>
      (await call(`${guarded.url}/v1/admin/figures`, 'GET', undefined, guarded.headers('admin'))).json.followers
        .poll === 2,
  )
  const started = performance.now()
  guarded.change(({ keys, issuers }) => ({ keys: keys.filter(({ kid }) => kid !== guarded.kids.publish), issuers }))
  const took: Record<string, number> = {}
  const note = (what: string) => {
    took[what] = Math.round(performance.now() - started)
  }
  await Promise.all([
    revoked.closed.then(({ code }) => {
      note('socket')
      expect(code).toBe(4401)
    }),
    until(() => stream.hasEnded).then(() => note('stream')),
    waiting.then(({ status }) => {
      note('wait')
      expect(status).toBe(401)
    }),
    poll.then(({ status }) => {
      note('poll')
      expect(status).toBe(401)
    }),
  ])
  console.log('ended after the file was changed, ms:', took)
  expect((await call(`${guarded.url}/v1/channels/orders/1`, 'GET', undefined, headers)).status).toBe(401)
  await guarded.log.append([{ channel: 'orders/1', body: body('after') }])
  expect(seqs(await kept.events('orders/1', 1, 2))).toEqual([2])
  await until(() => keptStream.text.includes('after'))
  expect(stream.text).not.toContain('after')
})

test('a key that loses a channel keeps its socket and loses the subscription; one that gains gains', async () => {
  const guarded = await startGuarded()
  await guarded.log.append([
    { channel: 'orders/1', body: body(1) },
    { channel: 'in', body: body(1) },
    { channel: 'new', body: body(1) },
  ])
  const peer = await guarded.peer('publish')
  peer.send({ op: 'hello' }, { op: 'subscribe', channel: 'orders/1' }, { op: 'subscribe', channel: 'in' })
  for (let live = 0; live < 2; ) if ((await peer.next()).op === 'caughtup') live++
  const waiting = call(
    `${guarded.url}/v1/channels/in/events?after=1&wait=55`,
    'GET',
    undefined,
    guarded.headers('publish'),
  )
  await until(
    async () =>
      (await call(`${guarded.url}/v1/admin/figures`, 'GET', undefined, guarded.headers('admin'))).json.followers
        .poll === 1,
  )
  guarded.change(({ keys, issuers }) => ({
    keys: keys.map((key) => (key.kid === guarded.kids.publish ? { ...key, channels: ['orders/**', 'new'] } : key)),
    issuers,
  }))
  expect(await peer.next('ended')).toMatchObject({ channel: 'in', code: 'forbidden' })
  expect((await waiting).status).toBe(403)
  peer.send({ op: 'subscribe', ref: 1, channel: 'in' }, { op: 'subscribe', ref: 2, channel: 'new' })
  expect(await peer.answer(1)).toMatchObject({ op: 'error', code: 'forbidden' })
  expect(await peer.answer(2)).toMatchObject({ op: 'subscribed' })
  await guarded.log.append([{ channel: 'orders/1', body: body(2) }])
  expect(seqs(await peer.events('orders/1', 1, 2))).toEqual([2])
})

test('the first key on a running server without keys ends what everybody had', async () => {
  const file = join(tempDir(), 'keys.json')
  const open = await startGuarded({ keys: file })
  await open.log.append([{ channel: 'orders/1', body: body(1) }])
  const peer = await open.peer('none')
  peer.send({ op: 'hello' }, { op: 'subscribe', channel: 'orders/1' })
  await peer.untilOp('caughtup')
  const silent = await open.peer('none')
  const waiting = call(`${open.url}/v1/channels/orders/1/events?after=1&wait=55`)
  const stream = streaming(`${open.url}/v1/channels/orders/1/events`, {})
  await until(() => stream.text.includes('caughtup'))
  await until(async () => (await call(`${open.url}/v1/admin/figures`)).json.followers.poll === 1)
  const { entry, text } = makeKey({ kind: 'admin' })
  changeKeys(file, () => ({ keys: [entry], issuers: [] }))
  expect((await peer.closed).code).toBe(4401)
  expect((await silent.closed).code).toBe(4401)
  expect((await waiting).status).toBe(401)
  await until(() => stream.hasEnded)
  expect((await call(`${open.url}/v1/channels`)).status).toBe(401)
  expect((await call(`${open.url}/v1/channels`, 'GET', undefined, bearer(text))).status).toBe(200)
})

test('when a token ends its socket is closed, its stream ends, its wait answers', async () => {
  const guarded = await startGuarded()
  await guarded.log.append([{ channel: 'orders/1', body: body(1) }])
  const token = await guarded.token('anna', ['orders/**'], ['read'], 2)
  const peer = await guarded.joined(token)
  peer.send({ op: 'subscribe', channel: 'orders/1' })
  const stream = streaming(`${guarded.url}/v1/channels/orders/1/events`, bearer(token))
  const waiting = call(`${guarded.url}/v1/channels/orders/1/events?after=1&wait=55`, 'GET', undefined, bearer(token))
  expect((await peer.closed).code).toBe(4401)
  const answer = await waiting
  expect([answer.status, answer.json.events]).toEqual([200, []])
  await until(() => stream.hasEnded)
  expect(stream.text).toContain('caughtup')
  expect((await call(`${guarded.url}/v1/channels/orders/1/events`, 'GET', undefined, bearer(token))).status).toBe(401)
})

test('a refresh keeps the socket, its subscriptions and its cursors; what the new token lacks is ended', async () => {
  const guarded = await startGuarded()
  await guarded.log.append([
    { channel: 'orders/1', body: body(1) },
    { channel: 'in', body: body(1) },
  ])
  const peer = await guarded.joined(await guarded.token('anna', ['orders/**', 'in'], ['read', 'commit'], 2), 'web')
  peer.send({ op: 'subscribe', channel: 'orders/1' }, { op: 'subscribe', channel: 'in' })
  for (let live = 0; live < 2; ) if ((await peer.next()).op === 'caughtup') live++
  const renewed = await guarded.token('anna', ['orders/**'], ['read', 'commit', 'append'])
  const append = { op: 'append', ref: 3, channel: 'orders/1', events: [{ data: 2 }] }
  peer.send({ ...append, ref: 2 }, { op: 'refresh', ref: 1, token: renewed }, append)
  expect(await peer.next('error')).toMatchObject({ ref: 2, code: 'forbidden' })
  expect(await peer.next('ended')).toMatchObject({ channel: 'in', code: 'forbidden' })
  expect(await peer.next('refreshed')).toMatchObject({ ref: 1 })
  expect(await peer.answer(3)).toMatchObject({ op: 'appended', first: 2 })
  // Past the end of the first token.
  const clock = await guarded.token('clock', [], [], 3)
  await until(async () => (await call(`${guarded.url}/v1/channels`, 'GET', undefined, bearer(clock))).status === 401)
  peer.send({ op: 'commit', ref: 4, channel: 'orders/1', seq: 2 })
  expect(await peer.answer(4)).toMatchObject({ op: 'committed', client: 'web', seq: 2 })
  expect(await guarded.log.cursor('anna~web', 'orders/1')).toMatchObject({ seq: 2 })
  for (const [ref, credential] of [guarded.credentials.other, guarded.credentials.admin].entries()) {
    peer.send({ op: 'refresh', ref: 10 + ref, token: credential })
    expect(await peer.answer(10 + ref)).toMatchObject({ op: 'error', code: 'forbidden' })
  }
  peer.send({ op: 'refresh', ref: 20, token: 'x' })
  expect((await peer.closed).code).toBe(4401)
})

test('a commit that waits to be written is judged by the token of then', async () => {
  const guarded = await startGuarded()
  await guarded.log.append([{ channel: 'orders/1', body: body(1, 2) }])
  const peer = await guarded.joined(await guarded.token('anna', ['orders/**'], ['read', 'commit']), 'web')
  peer.send({ op: 'subscribe', channel: 'orders/1' })
  await peer.untilOp('caughtup')
  const reader = await guarded.token('anna', ['orders/**'], ['read'])
  peer.send({ op: 'commit', channel: 'orders/1', seq: 2 }, { op: 'refresh', ref: 1, token: reader })
  expect(await peer.untilOp('error')).toMatchObject({ channel: 'orders/1', code: 'forbidden' })
  expect(await guarded.log.cursor('anna~web', 'orders/1')).toBeUndefined()
})

test('a long append ends when its key does, and says how far it came', async () => {
  const guarded = await startGuarded()
  const lines = `${JSON.stringify({ data: 1 })}\n`.repeat(1_000)
  const answer = await new Promise<{ status: number; text: string }>((resolve, reject) => {
    const headers = { ...guarded.headers('publish'), 'content-type': 'application/x-ndjson' }
    const req = request(`${guarded.url}/v1/channels/in/events`, { method: 'POST', headers }, (res) => {
      let text = ''
      res.on('data', (chunk: Buffer) => {
        text += chunk
      })
      res.on('end', () => resolve({ status: res.statusCode!, text }))
    })
    req.on('error', reject)
    // A piece is appended when the line behind it has come.
    req.write(`${lines}${JSON.stringify({ data: 2 })}\n`)
    void (async () => {
      await until(async () => (await guarded.log.info('in').catch(() => ({ head: 0 }))).head === 1_000)
      guarded.change(({ issuers }) => ({ keys: [], issuers }))
      await until(
        async () =>
          (await call(`${guarded.url}/v1/channels`, 'GET', undefined, guarded.headers('publish'))).status === 401,
      )
      req.end(lines)
    })()
  })
  expect([answer.status, JSON.parse(answer.text)]).toMatchObject([401, { code: 'unauthorized', appended: 1_000 }])
  expect((await guarded.log.info('in')).head).toBe(1_000)
})

test('readiness without its facts, but for admins', async () => {
  const guarded: Guarded = await startGuarded()
  expect((await call(`${guarded.url}/readyz`)).json).toEqual({ state: 'ok' })
  const all = await call(`${guarded.url}/readyz`, 'GET', undefined, guarded.headers('admin'))
  expect(all.json).toMatchObject({ state: 'ok', engine: 'level', durability: 'fsync' })
})

test('an address that does not exist tells nobody anything', async () => {
  const guarded = await startGuarded()
  const paths = ['/v1/nothing', '/v1/admin/nothing', '/nothing', '/v1/channels/a/state']
  for (const path of paths) {
    expect((await call(guarded.url + path)).status, path).toBe(401)
    expect((await call(guarded.url + path, 'GET', undefined, guarded.headers('granted'))).status, path).not.toBe(401)
  }
})

test('no secret stands in any line of the log, whatever is done with it', async () => {
  const lines: Record<string, unknown>[] = []
  const guarded = await startGuarded({ logger: loggerTo(lines, 'trace') })
  const { credentials, url, issuer } = guarded
  const expired = await guarded.token('anna', ['**'], ['read'], -1)
  const strangers = [makeKey({ kind: 'admin' }).text, 'a-password-that-is-no-key', expired]
  const secrets = [...Object.values(credentials).filter(Boolean), ...strangers, issuer.secret!]
  for (const secret of secrets) {
    const headers = [
      bearer(secret),
      { authorization: secret },
      { cookie: `tidemark=${secret}` },
      { 'x-api-key': secret },
    ]
    for (const header of headers) {
      await call(`${url}/v1/channels/orders/1/events`, 'GET', undefined, header)
      await call(`${url}/v1/channels/orders/1/events`, 'POST', { data: secret }, header)
      await call(`${url}/v1/poll`, 'POST', { token: secret }, header)
      await call(`${url}/metrics`, 'GET', undefined, header)
      await Peer.open(`${url.replace('http', 'ws')}/v1/stream`, 'json', { headers: header }).catch(() => undefined)
    }
    await call(`${url}/v1/channels?token=${secret}`)
    await call(`${url}/v1/channels?prefix=x&api_key=${secret}`)
    const peer = await guarded.peer('granted')
    peer.send({ op: 'hello' }, { op: 'refresh', ref: 1, token: secret })
    await peer.answer(1)
    const hello = await guarded.peer('none')
    hello.send({ op: 'hello', ref: 1, token: secret })
    await Promise.race([hello.answer(1), hello.closed]).catch(() => undefined)
    const odd = await guarded.peer('granted')
    odd.send({ op: 'hello', ref: 1, token: secret, bearer: secret })
    await odd.answer(1)
  }
  guarded.change(({ issuers }) => ({ keys: [], issuers }))
  await until(() => lines.some(({ msg, keys }) => msg === 'Keys are in force' && keys === 0))
  const text = JSON.stringify(lines)
  expect(lines.length).toBeGreaterThan(100)
  const codes = new Set(lines.map(({ code }) => code))
  expect(codes).toContain('unauthorized')
  expect(codes).toContain('bad-request')
  for (const secret of secrets) {
    expect(text).not.toContain(secret)
    // Nor the part of it that is secret.
    expect(text).not.toContain(secret.slice(-30))
  }
})
