/** Audience: whoever reads at whatever door gets every event that is for them, and not a byte of any other one. */
import { Packr, unpack } from 'msgpackr'
import { expect, onTestFinished, test } from 'vitest'
import { WebSocket } from 'ws'
import { signToken } from '../../src/access/tokens.ts'
import { reaches } from '../../src/audience.ts'
import type { Audience } from '../../src/event.ts'
import { SUBPROTOCOL } from '../../src/wire.ts'
import { range, SEED } from '../parts.ts'
import { call } from './calls.ts'
import { type Guarded, startGuarded } from './guarded.ts'

const EVENTS = 2_000
const CHANNEL = 'orders/all'
const packr = new Packr({ useRecords: false })

let state = SEED
function random(below: number): number {
  state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff
  return Math.floor((state / 0x80000000) * below)
}
const some = <T>(of: readonly T[]): T[] => of.filter(() => random(3) === 0)

/** Names that stand nowhere but in audiences and tokens: found in what a reader got, they were told to it. */
const USERS = ['aud-anna', 'aud-ben', 'aud-cleo', 'aud-nobody']
const GROUPS = ['/aud-staff', '/aud-staff/dev', '/aud-staff/dev/night', '/aud-staffing', '/aud-guests']

interface Who {
  readonly name: string
  readonly headers: Record<string, string>
  readonly sees: (to: Audience | undefined) => boolean
  readonly isToldWhom: boolean
}

async function callers(guarded: Guarded): Promise<Who[]> {
  const clients = [
    { sub: 'aud-anna', groups: ['/aud-staff/dev'] },
    { sub: 'aud-ben', groups: [] },
    { sub: 'aud-cleo', groups: ['/aud-staff', '/aud-guests'] },
  ]
  const perm = [{ ch: '**', ops: ['read' as const] }]
  const signed = clients.map(async (reader): Promise<Who> => {
    const token = await signToken(guarded.issuer, { ...reader, perm, seconds: 600 })
    const sees = (to: Audience | undefined) => to === undefined || reaches(to, reader)
    return { name: reader.sub, headers: { authorization: `Bearer ${token}` }, isToldWhom: false, sees }
  })
  const all = (['admin', 'publish'] as const).map(
    (name): Who => ({ name, headers: guarded.headers(name), isToldWhom: true, sees: () => true }),
  )
  return [...(await Promise.all(signed)), ...all]
}

/** Follows from `after` until `last` was passed; everything that came, as it came. */
type Door = (guarded: Guarded, who: Who, after: number, last: number) => Promise<string>

/** Pages one behind the other. `ask` gives what came, and the place after it. */
async function paged(
  after: number,
  last: number,
  ask: (after: number) => Promise<{ text: string; at: { after: number; last: number } }>,
): Promise<string> {
  let text = ''
  for (let place = after; place < last; ) {
    const { text: came, at } = await ask(place)
    expect(at.after).toBe(place)
    expect(at.last).toBeGreaterThanOrEqual(place)
    place = at.last
    text += came
  }
  return text
}

const read =
  (accept: string, wait: number): Door =>
  ({ url }, who, after, last) =>
    paged(after, last, async (place) => {
      const path = `/v1/channels/${CHANNEL}/events?after=${place}&limit=${1 + random(900)}${wait ? `&wait=${wait}` : ''}`
      const answer = await fetch(url + path, { headers: { ...who.headers, accept } })
      const bytes = Buffer.from(await answer.arrayBuffer())
      const text = bytes.toString('latin1')
      expect(answer.status, text).toBe(200)
      const header = (name: string): number => Number(answer.headers.get(`tidemark-${name}`))
      if (accept.endsWith('msgpack')) return { text, at: unpack(bytes) }
      return {
        text,
        at: accept.endsWith('ndjson') ? { after: header('after'), last: header('last') } : JSON.parse(text),
      }
    })

const poll =
  (accept: string, wait: number): Door =>
  ({ url }, who, after, last) =>
    paged(after, last, async (place) => {
      const body = JSON.stringify({
        channels: { [CHANNEL]: { after: place }, 'orders/none': {} },
        wait,
        limit: 1 + random(900),
      })
      const headers = { ...who.headers, accept, 'content-type': 'application/json' }
      const answer = await fetch(`${url}/v1/poll`, { method: 'POST', body, headers })
      const bytes = Buffer.from(await answer.arrayBuffer())
      const text = bytes.toString('latin1')
      expect(answer.status, text).toBe(200)
      const { pages } = accept.endsWith('msgpack') ? unpack(bytes) : JSON.parse(text)
      return {
        text,
        at: pages.find(({ channel }: { channel: string }) => channel === CHANNEL) ?? { after: place, last: place },
      }
    })

const stream =
  (several: boolean): Door =>
  async ({ url }, who, after, last) => {
    const path = several ? `/v1/events?channel=${CHANNEL}@${after}` : `/v1/channels/${CHANNEL}/events?after=${after}`
    const over = new AbortController()
    onTestFinished(() => over.abort())
    const headers = { ...who.headers, accept: 'text/event-stream' }
    const answer = await fetch(url + path, { headers, signal: over.signal })
    expect(answer.status).toBe(200)
    let text = ''
    for await (const chunk of answer.body!) {
      text += Buffer.from(chunk as Uint8Array).toString('latin1')
      const at = text.lastIndexOf('\nid: ')
      if (text.endsWith('\n\n') && Number(/:(\d+)\n/.exec(text.slice(at))?.[1]) >= last) break
    }
    over.abort()
    return text
  }

const socket =
  (kind: keyof typeof SUBPROTOCOL): Door =>
  ({ url }, who, after, last) =>
    new Promise((resolve, reject) => {
      const ws = new WebSocket(`${url.replace('http', 'ws')}/v1/stream`, SUBPROTOCOL[kind], { headers: who.headers })
      onTestFinished(() => ws.terminate())
      let text = ''
      let place = after
      ws.on('error', reject)
      ws.on('open', () => {
        const send = (message: unknown): void =>
          ws.send(kind === 'json' ? JSON.stringify(message) : packr.pack(message))
        send({ op: 'hello' })
        send({ op: 'subscribe', channel: CHANNEL, after })
      })
      ws.on('message', (data: Buffer) => {
        text += data.toString('latin1')
        const message = kind === 'json' ? JSON.parse(data.toString()) : unpack(data)
        if (message.op !== 'events') return
        if (message.after !== place) reject(new Error(`${message.after} does not chain to ${place}`))
        place = message.last
        if (place >= last) resolve(text)
      })
    })

const DOORS: Readonly<Record<string, Door>> = {
  'read JSON': read('application/json', 0),
  'read NDJSON': read('application/x-ndjson', 0),
  'read MessagePack': read('application/msgpack', 0),
  'long poll JSON': read('application/json', 5),
  'long poll MessagePack': read('application/msgpack', 5),
  'poll JSON': poll('application/json', 5),
  'poll MessagePack': poll('application/msgpack', 5),
  'SSE of one channel': stream(false),
  'SSE of several': stream(true),
  'socket JSON': socket('json'),
  'socket MessagePack': socket('msgpack'),
}
/** Doors that are at an event when it comes. */
const LIVE = Object.keys(DOORS).filter((name) => !name.startsWith('read'))

test(`of ${EVENTS} random events everybody gets theirs at every door, live and later, and nobody another's`, {
  timeout: 120_000,
}, async () => {
  console.log(`audience at the doors: TEST_SEED=${SEED}`)
  const guarded = await startGuarded()
  await guarded.log.configure('orders/none', {})
  await guarded.log.configure(CHANNEL, {})
  const who = await callers(guarded)
  const audiences = new Map<number, Audience>()
  const events = range(1, EVENTS).map((n) => {
    const to = { users: some(USERS), groups: some(GROUPS) }
    const data = `mark-${n}- ${'x'.repeat(random(300))}`
    // The last one is for all: then everybody has heard of all others.
    if (n === EVENTS || random(2) === 0 || to.users.length + to.groups.length === 0) return { data }
    audiences.set(n, to)
    return { data, to }
  })

  /** What is wrong with what a reader got, in words. */
  const judged = async (name: string, one: Who, after: number): Promise<string[]> => {
    const text = await DOORS[name]!(guarded, one, after, EVENTS)
    const marks = [...text.matchAll(/mark-(\d+)-/g)].map(([, n]) => Number(n))
    // A block may begin before the place that it was asked for: its reader drops what it has.
    const isBlocks = name.endsWith('MessagePack')
    const got = isBlocks ? [...new Set(marks)].filter((n) => n > after) : marks
    const shown = marks.filter((n) => !one.sees(audiences.get(n)))
    const wanted = range(after + 1, EVENTS).filter((n) => one.sees(audiences.get(n)))
    const wrong: string[] = []
    const tells = `${name}, ${one.name} from ${after}`
    if (got.join() !== wanted.join()) {
      const seen = new Set(got)
      const missed = wanted.filter((n) => !seen.has(n)).slice(0, 9)
      wrong.push(`${tells}: ${got.length} of ${wanted.length}, missed ${missed}`)
    }
    if (shown.length > 0) wrong.push(`${tells}: shown ${shown}`)
    if (text.includes('aud-') !== one.isToldWhom) wrong.push(`${tells}: told whom events are for`)
    return wrong
  }
  const live = Promise.all(LIVE.flatMap((name) => who.map((one) => judged(name, one, 0))))
  for (let at = 0; at < EVENTS; ) {
    const batch = events.slice(at, at + 1 + random(random(4) === 0 ? 200 : 8))
    const answer = await call(`${guarded.url}/v1/channels/${CHANNEL}/events`, 'POST', batch, guarded.headers('publish'))
    expect(answer.json).toMatchObject({ first: at + 1 })
    at += batch.length
  }
  expect((await live).flat()).toEqual([])
  for (const name of Object.keys(DOORS))
    for (const one of who) for (const after of [0, random(EVENTS)]) expect(await judged(name, one, after)).toEqual([])
})

test('a new token that says less shows less, from the next event on', async () => {
  const guarded = await startGuarded()
  const sign = (groups: string[]) =>
    signToken(guarded.issuer, { sub: 'anna', perm: [{ ch: 'in', ops: ['read'] }], groups, seconds: 600 })
  const append = (n: number) =>
    call(
      `${guarded.url}/v1/channels/in/events`,
      'POST',
      { data: n, to: { groups: ['/staff'] } },
      guarded.headers('publish'),
    )
  await append(1)
  const peer = await guarded.joined(await sign(['/staff']))
  peer.send({ op: 'subscribe', channel: 'in', after: 0 })
  await peer.next('subscribed')
  expect((await peer.next('events')).events).toMatchObject([{ data: 1 }])
  await peer.next('caughtup')
  peer.send({ op: 'refresh', ref: 1, token: await sign([]) })
  await peer.next('refreshed')
  await append(2)
  expect(await peer.next('events')).toMatchObject({ after: 1, last: 2, events: [] })
  peer.send({ op: 'refresh', ref: 2, token: await sign(['/staff/night']) })
  await peer.next('refreshed')
  peer.send({ op: 'subscribe', channel: 'in', after: 1 })
  await peer.next('subscribed')
  expect((await peer.next('events')).events).toMatchObject([{ data: 2 }])
})
