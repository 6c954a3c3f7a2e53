/** P4: poll, long poll, SSE and WebSocket from the same position give the same events. */
import { createParser } from 'eventsource-parser'
import { Packr, unpack } from 'msgpackr'
import { expect, onTestFinished, test } from 'vitest'
import { WebSocket } from 'ws'
import { decodeBlock, splitBlocks } from '../../src/block.ts'
import { type Event, isTombstone } from '../../src/event.ts'
import { type EventJson, type NewEventJson, type PageJson, SUBPROTOCOL } from '../../src/wire.ts'
import { SEED } from '../parts.ts'
import { call } from './calls.ts'
import { startTestServer } from './serve.ts'

const EVENTS = 10_000
const STARTS = 6
const packr = new Packr({ useRecords: false })

let state = SEED
function random(below: number): number {
  state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff
  return Math.floor((state / 0x80000000) * below)
}
const pick = <T>(...of: readonly T[]): T => of[random(of.length)]!

const VALUES: readonly unknown[] = [
  null,
  true,
  0,
  -1.5e-7,
  'plain',
  'ünïcödé \u2028 🌊',
  '',
  [],
  {},
  { __proto__: 1, a: [1, { b: null }] },
  'line\nbreak "quoted" \\',
]

function randomEvent(i: number): NewEventJson {
  const named = {
    ...(random(2) && { type: pick('a', 'node.added', 'x/y') }),
    ...(random(4) === 0 && { id: `id ${i}` }),
  }
  switch (random(8)) {
    case 0:
      return { ...named, contentType: 'text/plain', data: pick('text', 'mit ümlaut\nund Zeile', '') }
    case 1:
      return { ...named, dataBase64: Buffer.from([0, 255, random(256), 10, 13]).toString('base64') }
    case 2:
      return { ...named, key: `key ${random(50)} ü` }
    case 3:
      return { type: 'bare' }
    default:
      return { ...named, data: random(3) ? { i, pad: 'x'.repeat(random(400)), v: pick(...VALUES) } : pick(...VALUES) }
  }
}

/** What a reader has in the end, however it came. */
const plain = ({ seq, time, type, key, id, contentType, data, dataBase64, tombstone }: EventJson): unknown => ({
  ...{ seq, time, type, key, id, contentType, data, dataBase64, tombstone },
})

/** A block's event as the JSON doors give it: the rules of the page, written here a second time. */
function fromBlock(event: Event): EventJson {
  const bytes = event.data && Buffer.from(event.data)
  const isText = event.contentType?.startsWith('text/')
  return {
    seq: event.seq,
    time: new Date(event.time).toISOString(),
    ...(event.type !== null && { type: event.type }),
    ...(event.key !== null && { key: event.key }),
    ...(event.id !== null && { id: event.id }),
    ...(event.contentType !== null && { contentType: event.contentType }),
    ...(bytes && event.contentType === null && { data: JSON.parse(bytes.toString()) }),
    ...(bytes && isText && { data: bytes.toString() }),
    ...(bytes && event.contentType !== null && !isText && { dataBase64: bytes.toString('base64') }),
    ...(isTombstone(event) && { tombstone: true as const }),
  }
}

async function byPoll(url: string, after: number, head: number, wait: string): Promise<EventJson[]> {
  const events: EventJson[] = []
  while (after < head) {
    const page = (await call<PageJson>(`${url}/v1/channels/c/events?after=${after}&limit=${1 + random(3_000)}${wait}`))
      .json
    expect(page.after).toBe(after)
    events.push(...page.events)
    after = page.last
  }
  return events
}

async function bySse(url: string, after: number, head: number): Promise<EventJson[]> {
  const abort = new AbortController()
  const answer = await fetch(`${url}/v1/channels/c/events?after=${after}&named=0`, {
    headers: { accept: 'text/event-stream' },
    signal: abort.signal,
  })
  const events: EventJson[] = []
  let caughtUp = false
  const parser = createParser({
    onEvent: ({ event, data }) => {
      if (event === 'tidemark.caughtup') caughtUp = true
      else if (data) events.push(JSON.parse(data))
    },
  })
  const text = new TextDecoder()
  for await (const chunk of answer.body!) {
    parser.feed(text.decode(chunk as Uint8Array, { stream: true }))
    if (caughtUp) break
  }
  abort.abort()
  expect(events.at(-1)?.seq ?? after).toBe(head)
  return events
}

function bySocket(url: string, after: number, head: number, kind: 'json' | 'msgpack'): Promise<EventJson[]> {
  const ws = new WebSocket(`${url.replace('http', 'ws')}/v1/stream`, SUBPROTOCOL[kind])
  onTestFinished(() => ws.terminate())
  const events: EventJson[] = []
  let position = after
  return new Promise((resolve, reject) => {
    ws.on('error', reject)
    ws.on('open', () => {
      const send = (message: unknown): void => ws.send(kind === 'json' ? JSON.stringify(message) : packr.pack(message))
      send({ op: 'hello' })
      send({ op: 'subscribe', channel: 'c', after })
    })
    ws.on('message', (data: Buffer) => {
      const message = kind === 'json' ? JSON.parse(data.toString()) : unpack(data)
      if (message.op === 'events') {
        if (message.after !== position) reject(new Error(`${message.after} does not chain to ${position}`))
        const found: EventJson[] =
          kind === 'json'
            ? message.events
            : splitBlocks(message.blocks).flatMap((block) => decodeBlock(block, position, message.last).map(fromBlock))
        events.push(...found)
        position = message.last
      }
      if (position === head) resolve(events)
    })
  })
}

test(`the same ${EVENTS} random events come from every door, from any position`, { timeout: 120_000 }, async () => {
  console.log(`seed ${SEED}`)
  const { url } = await startTestServer()
  const sent: NewEventJson[] = Array.from({ length: EVENTS }, (_, i) => randomEvent(i))
  for (let at = 0; at < EVENTS; ) {
    const batch = sent.slice(at, at + 1 + random(random(4) === 0 ? 999 : 20))
    const answer = await call(`${url}/v1/channels/c/events`, 'POST', batch)
    expect(answer.json).toMatchObject({ first: at + 1, last: at + batch.length })
    at += batch.length
  }
  for (let n = 0; n < STARTS; n++) {
    const after = n === 0 ? 0 : random(EVENTS)
    const polled = (await byPoll(url, after, EVENTS, '')).map(plain)
    // What was sent is what is read: nothing of it changed, nothing is missing.
    expect(polled.map((event) => (event as EventJson).seq)).toEqual(
      Array.from({ length: EVENTS - after }, (_, i) => after + i + 1),
    )
    const same = (event: NewEventJson | EventJson): unknown => {
      const { type, key, id, data, dataBase64 } = event
      return { type, key, id, data, dataBase64 }
    }
    expect(polled.map((event) => same(event as EventJson))).toEqual(sent.slice(after).map(same))
    expect((await byPoll(url, after, EVENTS, '&wait=5')).map(plain)).toEqual(polled)
    expect((await bySse(url, after, EVENTS)).map(plain)).toEqual(polled)
    expect((await bySocket(url, after, EVENTS, 'json')).map(plain)).toEqual(polled)
    expect((await bySocket(url, after, EVENTS, 'msgpack')).map(plain)).toEqual(polled)
  }
})
