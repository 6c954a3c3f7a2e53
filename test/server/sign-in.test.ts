/** Sessions of pages: what the cookie stands for, and all that it does not. */
import type { Browser, Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { Principal } from '../../src/access/principal.ts'
import { Cookies, SESSIONS_MAX, SESSIONS_OF_SUBJECT_MAX } from '../../src/doors/cookies.ts'
import { CHROMIUM, launch } from '../chromium.ts'
import { body, range } from '../parts.ts'
import { call } from './calls.ts'
import { type Guarded, startGuarded } from './guarded.ts'
import { Peer, until } from './stream.ts'

const OWN = { 'sec-fetch-site': 'same-origin' }

/** Signs in and gives the cookie as a browser sends it back. */
async function signIn(guarded: Guarded, token = guarded.credentials.granted): Promise<string> {
  const answer = await call(`${guarded.url}/v1/session`, 'POST', undefined, { authorization: `Bearer ${token}` })
  expect(answer.status).toBe(204)
  return answer.headers.get('set-cookie')!.split(';', 1)[0]!
}

async function started(): Promise<Guarded> {
  const guarded = await startGuarded()
  await guarded.log.append([{ channel: 'orders/1', body: body(1, 2, 3) }])
  return guarded
}

const events = ({ url }: Guarded) => `${url}/v1/channels/orders/1/events`

test('a token becomes a cookie that no script sees, for this site alone, until the token ends', async () => {
  const { url, headers } = await started()
  const answer = await call(`${url}/v1/session`, 'POST', undefined, headers('granted'))
  expect([answer.status, answer.text]).toEqual([204, ''])
  const [, secret, seconds] =
    /^tidemark=([A-Za-z0-9_-]{43}); HttpOnly; SameSite=Strict; Path=\/; Max-Age=(\d+)$/.exec(
      answer.headers.get('set-cookie')!,
    ) ?? []
  expect(secret).toBeDefined()
  expect(Number(seconds)).toBeGreaterThan(500)
  expect(Number(seconds)).toBeLessThanOrEqual(600)
})

test('it stands for the token in GET requests of this server’s pages, and nowhere else', async () => {
  const guarded = await started()
  const { url, port } = guarded
  const cookie = await signIn(guarded)
  const get = (headers: Record<string, string>, path = events(guarded)) => call(path, 'GET', undefined, headers)
  expect((await get({ cookie, ...OWN })).json.events).toHaveLength(3)
  expect((await get({ cookie: `other=1; ${cookie}; more=2`, ...OWN })).status).toBe(200)
  expect((await get({ cookie, origin: url })).status).toBe(200)
  expect((await get({ cookie, ...OWN }, `${url}/v1/channels/elsewhere/events`)).status).toBe(403)
  // Not of a page of this server.
  expect((await get({ cookie })).status).toBe(401)
  expect((await get({ cookie, 'sec-fetch-site': 'none' })).status).toBe(401)
  for (const site of ['same-site', 'cross-site'])
    expect((await get({ cookie, 'sec-fetch-site': site })).status).toBe(403)
  // Not beside another credential, nor with a second cookie of its name, nor any other text.
  expect((await get({ cookie, ...OWN, authorization: 'Bearer x' })).status).toBe(401)
  expect((await get({ cookie: `${cookie}; tidemark=x`, ...OWN })).status).toBe(401)
  expect((await get({ cookie: `tidemark=${guarded.credentials.granted}`, ...OWN })).status).toBe(401)
  expect((await get({ cookie: `x${cookie}`, ...OWN })).status).toBe(401)
  // Not for what changes something.
  const changes: [string, string, unknown][] = [
    ['POST', events(guarded), { data: 1 }],
    ['POST', `${url}/v1/append`, { appends: [{ channel: 'in', events: [{ data: 1 }] }] }],
    ['POST', `${url}/v1/poll`, { channels: { 'orders/1': { after: 0 } } }],
    ['PUT', `${url}/v1/channels/orders%2F1/cursors/web`, { seq: 1 }],
    ['DELETE', `${url}/v1/channels/orders%2F1/cursors/web`, undefined],
    ['POST', `${url}/v1/session`, undefined],
  ]
  for (const [method, path, sent] of changes)
    expect([method, path, (await call(path, method, sent, { cookie, ...OWN })).status]).toEqual([method, path, 401])
  const peer = await Peer.open(`ws://127.0.0.1:${port}/v1/stream`, 'json', { headers: { cookie, ...OWN } })
  peer.send({ op: 'hello' })
  expect((await peer.closed).code).toBe(4401)
  expect((await guarded.log.info('orders/1')).head).toBe(3)
})

test('a session ends when it is told to, with its token, and with its issuer', async () => {
  const guarded = await started()
  const get = async (cookie: string) => (await call(events(guarded), 'GET', undefined, { cookie, ...OWN })).status
  const [left, kept] = [await signIn(guarded), await signIn(guarded)]
  const ended = await call(`${guarded.url}/v1/session`, 'DELETE', undefined, { cookie: left, ...OWN })
  expect(ended.headers.get('set-cookie')).toMatch(/^tidemark=; .*Max-Age=0$/)
  expect([await get(left), await get(kept)]).toEqual([401, 200])
  const short = await signIn(guarded, await guarded.token('anna', ['orders/**'], ['read'], 1))
  await until(async () => (await get(short)) === 401)
  guarded.change(({ keys }) => ({ keys, issuers: [] }))
  await until(async () => (await get(kept)) === 401)
})

test('keys have no session, and without keys there is none', async () => {
  const guarded = await started()
  for (const caller of ['admin', 'publish'] as const)
    expect((await call(`${guarded.url}/v1/session`, 'POST', undefined, guarded.headers(caller))).status).toBe(403)
  const open = await startGuarded({ keys: `${guarded.file}.none` })
  const answer = await call(`${open.url}/v1/session`, 'POST')
  expect([answer.status, answer.headers.get('set-cookie')]).toEqual([204, null])
})

test('sessions are bounded, the oldest goes first; those that are over go at once', () => {
  const cookies = new Cookies()
  let subjects = 0
  const who = (expires: number, sub = `s${subjects++}`) =>
    new Principal({ kind: 'client', sub, expires, source: { isOver: false } })
  const secret = (set: string) => set.split(';', 1)[0]!
  const first = secret(cookies.begin(who(Date.now() + 60_000)))
  const second = secret(cookies.begin(who(Date.now() + 60_000)))
  for (const _ of range(3, SESSIONS_MAX)) cookies.begin(who(Date.now() + 60_000))
  expect([cookies.size, cookies.of(first).isNobody]).toEqual([SESSIONS_MAX, false])
  cookies.begin(who(Date.now() + 60_000))
  expect(cookies.size).toBe(SESSIONS_MAX)
  expect([cookies.of(first).isNobody, cookies.of(second).isNobody]).toEqual([true, false])
  // One subject pushes out its own alone.
  const [own, next] = [1, 2].map(() => secret(cookies.begin(who(Date.now() + 60_000, 'eve'))))
  for (const _ of range(3, SESSIONS_OF_SUBJECT_MAX)) cookies.begin(who(Date.now() + 60_000, 'eve'))
  const other = secret(cookies.begin(who(Date.now() + 60_000)))
  expect(cookies.of(own!).isNobody).toBe(false)
  for (const _ of range(1, 2)) cookies.begin(who(Date.now() + 60_000, 'eve'))
  expect([own, next, other].map((each) => cookies.of(each!).isNobody)).toEqual([true, true, false])
  const short = new Cookies()
  short.begin(who(Date.now() - 1))
  short.begin(who(Date.now() + 60_000))
  expect(short.size).toBe(1)
})

describe.skipIf(!CHROMIUM)('in Chromium', () => {
  let browser: Browser
  beforeAll(async () => {
    browser = await launch()
  })
  afterAll(() => browser?.close())

  async function pageOf(guarded: Guarded): Promise<Page> {
    const page = await browser.newPage()
    onTestFinished(() => page.close())
    await page.route(`${guarded.url}/own.html`, (route) =>
      route.fulfill({ contentType: 'text/html', body: '<body>own</body>' }),
    )
    await page.goto(`${guarded.url}/own.html`)
    return page
  }

  test('an EventSource comes back ten times over renewals of its token, and misses nothing', async () => {
    const guarded = await startGuarded({ retryWindow: 1 })
    const page = await pageOf(guarded)
    const signInThere = (token: string) =>
      page.evaluate(async (given) => {
        const answer = await fetch('/v1/session', { method: 'POST', headers: { authorization: `Bearer ${given}` } })
        return [answer.status, document.cookie]
      }, token)
    const token = () => guarded.token('anna', ['orders/**'], ['read'], 3)
    expect(await signInThere(await token())).toEqual([204, ''])
    await page.evaluate(() => {
      const seen = { opened: 0, seqs: [] as number[], closed: false }
      ;(window as unknown as { seen: typeof seen }).seen = seen
      const source = new EventSource('/v1/channels/orders/1/events')
      source.onopen = () => seen.opened++
      source.onmessage = ({ data }) => seen.seqs.push(JSON.parse(data).seq)
      source.onerror = () => {
        seen.closed = source.readyState === EventSource.CLOSED
      }
    })
    const seen = () =>
      page.evaluate(() => (window as unknown as { seen: { opened: number; seqs: number[]; closed: boolean } }).seen)
    const moment = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))
    const renewing = (async () => {
      while (!page.isClosed() && (await seen()).opened < 11) {
        await signInThere(await token())
        await moment(300)
      }
    })()
    let last = 0
    const append = async () => void (await guarded.log.append([{ channel: 'orders/1', body: body(++last) }]))
    for (let now = await seen(); now.opened < 11; now = await seen()) {
      if (now.closed) throw new Error(`the EventSource has given up after ${now.opened}`)
      await append()
      // The machine is for others meanwhile: most of it is waiting for tokens to end.
      await moment(20)
    }
    await renewing
    await append()
    await until(async () => (await seen()).seqs.at(-1) === last)
    expect((await seen()).seqs).toEqual(range(1, last))
  }, 120_000)

  test('an EventSource beyond what its subject may have is told so, and comes back when there is room', async () => {
    const guarded = await startGuarded({ retryWindow: 1, limits: { connectionsPerSubject: 1 } })
    await guarded.log.append([{ channel: 'orders/1', body: body(1, 2) }])
    const page = await pageOf(guarded)
    const held = await guarded.joined(guarded.credentials.granted)
    await page.evaluate(
      (token) => fetch('/v1/session', { method: 'POST', headers: { authorization: `Bearer ${token}` } }),
      guarded.credentials.granted,
    )
    await page.evaluate(() => {
      const seen = { refused: [] as string[], seqs: [] as number[], state: -1 }
      ;(window as unknown as { seen: typeof seen }).seen = seen
      const source = new EventSource('/v1/channels/orders/1/events?after=1')
      source.addEventListener('tidemark.refused', ({ data }) => seen.refused.push(JSON.parse(data).code))
      source.onmessage = ({ data }) => seen.seqs.push(JSON.parse(data).seq)
      source.onerror = () => {
        seen.state = source.readyState
      }
    })
    const seen = () =>
      page.evaluate(() => (window as unknown as { seen: { refused: string[]; seqs: number[]; state: number } }).seen)
    await until(async () => (await seen()).state >= 0)
    expect(await seen()).toEqual({ refused: ['too-many'], seqs: [], state: 0 })
    held.ws.terminate()
    await until(async () => (await seen()).seqs.length > 0)
    expect((await seen()).seqs).toEqual([2])
  }, 60_000)

  test('without a session, and after it ended, an EventSource is refused', async () => {
    const guarded = await started()
    const page = await pageOf(guarded)
    const open = () =>
      page.evaluate(
        () =>
          new Promise<string>((resolve) => {
            const source = new EventSource('/v1/channels/orders/1/events')
            source.onopen = () => {
              source.close()
              resolve('open')
            }
            source.onerror = () => resolve(source.readyState === EventSource.CLOSED ? 'refused' : 'again')
          }),
      )
    const session = (method: string) =>
      page.evaluate(
        ([method, token]) =>
          fetch('/v1/session', { method: method!, headers: { authorization: `Bearer ${token}` } }).then(
            ({ status }) => status,
          ),
        [method, guarded.credentials.granted],
      )
    expect(await open()).toBe('refused')
    expect([await session('POST'), await open()]).toEqual([204, 'open'])
    expect([await session('DELETE'), await open()]).toEqual([204, 'refused'])
  })
})
