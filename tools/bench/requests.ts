/**
 * The files that load and drain programs send from: appends over HTTP in each of its forms, appends and subscriptions
 * over WebSocket. Both programs know nothing of the protocol but how an answer looks.
 */
import { Packr } from 'msgpackr'
import { SUBPROTOCOL, WAIT_SECONDS_MAX } from '../../src/wire.ts'
import { dataOf } from './events.ts'

/** How an append is written. `opaque`: MessagePack whose data are bytes that the server does not look into. */
export type Form = 'json' | 'ndjson' | 'msgpack' | 'opaque'
export type Wire = keyof typeof SUBPROTOCOL

/** Every byte of a client's frame is XORed with it: the server has the same work with any mask but zero. */
const MASK = 0x5a
const TYPE = 'node.changed'
/** Different events of a request file: enough that no part of the store repeats within a compressor's window. */
const DIFFERENT_EVENTS = 6_400

/** Most events of a long poll's answer. */
const WAIT_LIMIT = 1_000
/** Characters that take the place of {last:…}. */
const LAST_DIGITS = 16

const packr = new Packr({ useRecords: false })
const utf8 = new TextEncoder()

export const contentTypeOf: Record<Form, string> = {
  json: 'application/json',
  ndjson: 'application/x-ndjson',
  msgpack: 'application/msgpack',
  opaque: 'application/msgpack',
}

const jsonEvent = (i: number): string => `{"type":"${TYPE}","data":${dataOf(i)}}`

function packedEvent(form: Form, i: number): object {
  const contentType = form === 'opaque' ? 'application/octet-stream' : 'application/json'
  return { type: TYPE, contentType, data: utf8.encode(dataOf(i)) }
}

/** The body of an append of `size` events, the first being event `first`. */
function bodyOf(form: Form, first: number, size: number): Uint8Array {
  const each = <T>(make: (i: number) => T): T[] => Array.from({ length: size }, (_, i) => make(first + i))
  if (form === 'ndjson') return utf8.encode(each(jsonEvent).join('\n'))
  if (form === 'json') return utf8.encode(size === 1 ? jsonEvent(first) : `[${each(jsonEvent).join(',')}]`)
  const events = each((i) => packedEvent(form, i))
  return packr.pack(size === 1 ? events[0] : events)
}

/** A request file: an opening, then `requests`, each of `size` events. */
function fileOf(opening: Uint8Array, size: number, requests: Iterable<Uint8Array>): Buffer {
  const parts: Uint8Array[] = [u32(opening.length), opening]
  for (const request of requests) parts.push(u32(request.length, size), request)
  return Buffer.concat(parts)
}

function u32(...values: number[]): Buffer {
  const bytes = Buffer.alloc(4 * values.length)
  values.forEach((value, i) => {
    bytes.writeUInt32LE(value, 4 * i)
  })
  return bytes
}

/** The name of a channel in appends that go to many channels in turn: the load program fills in {turn}. */
export const inTurn = (prefix: string): string => `${prefix}-{turn}`
/** Channel `i` of them. */
export const nameInTurn = (prefix: string, i: number): string => `${prefix}-${String(i).padStart(6, '0')}`

/** Appends of `size` events each over HTTP. */
export function httpAppends(port: number, channel: string, form: Form, size: number): Buffer {
  const head = `POST /v1/channels/${channel}/events HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nContent-Type: ${contentTypeOf[form]}\r\n`
  const requests = Array.from({ length: DIFFERENT_EVENTS / size }, (_, i) => {
    const body = bodyOf(form, i * size, size)
    return Buffer.concat([utf8.encode(`${head}Content-Length: ${body.length}\r\n\r\n`), body])
  })
  return fileOf(new Uint8Array(), size, requests)
}

/** Reads of a page of JSON from each of these places in turn; counted as one event each. */
export function httpReads(port: number, channel: string, places: readonly number[], limit: number): Buffer {
  const requests = places.map((after) => {
    const path = `/v1/channels/${channel}/events?after=${after}&limit=${limit}`
    return utf8.encode(`GET ${path} HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nAccept: application/json\r\n\r\n`)
  })
  return fileOf(new Uint8Array(), 1, requests)
}

/** Appends of one event each over a WebSocket. */
export function streamAppends(port: number, channel: string, wire: Wire): Buffer {
  const requests = Array.from({ length: DIFFERENT_EVENTS }, (_, i) =>
    wire === 'json'
      ? maskedFrame(`{"op":"append","ref":1,"channel":"${channel}","events":[${jsonEvent(i)}]}`)
      : maskedFrame(packr.pack({ op: 'append', ref: 1, channel, events: [packedEvent('msgpack', i)] })),
  )
  return fileOf(opening(port, wire, []), 1, requests)
}

/** What a subscriber sends: upgrade, hello, subscribe. */
export function subscription(port: number, wire: Wire, channel: string, after: number | 'head'): Buffer {
  return opening(port, wire, [{ op: 'subscribe', channel, after }])
}

/** The request of a poll; the drain program fills in {after}. */
export function pollRequest(port: number, channel: string, accept: string, limit: number): Buffer {
  const path = `/v1/channels/${channel}/events?after={after}&limit=${limit}`
  return Buffer.from(`GET ${path} HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nAccept: ${accept}\r\n\r\n`)
}

/** The request of a long poll. A bare server knows only what stands behind the `?`. */
export function waitRequest(port: number, channel: string, accept: string): Buffer {
  const path = `/v1/channels/${channel}/events?after={after}&limit=${WAIT_LIMIT}&wait=${WAIT_SECONDS_MAX}`
  return Buffer.from(`GET ${path} HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nAccept: ${accept}\r\n\r\n`)
}

/** A long poll of many channels; the drain program fills in how far it came in each. */
export function manyWaitRequest(port: number, channels: readonly string[]): Buffer {
  const asked = channels.map((channel) => `"${channel}":{"after":{last:${channel}}}`)
  const body = `{"channels":{${asked.join(',')}},"wait":${WAIT_SECONDS_MAX},"limit":${WAIT_LIMIT}}`
  const length = body.replace(/\{last:[^}]+\}/g, ' '.repeat(LAST_DIGITS)).length
  const head = `POST /v1/poll HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nContent-Type: application/json\r\n`
  return Buffer.from(`${head}Accept: application/json\r\nContent-Length: ${length}\r\n\r\n${body}`)
}

function opening(port: number, wire: Wire, messages: readonly object[]): Buffer {
  const frames = [{ op: 'hello' }, ...messages].map((message) =>
    maskedFrame(wire === 'json' ? JSON.stringify(message) : packr.pack(message)),
  )
  return Buffer.concat([upgradeTo('/v1/stream', port, SUBPROTOCOL[wire]), ...frames])
}

/** The request that opens a WebSocket. */
export function upgradeTo(path: string, port = 80, subprotocol?: string): Buffer {
  const upgrade = [
    `GET ${path} HTTP/1.1`,
    `Host: 127.0.0.1:${port}`,
    'Upgrade: websocket',
    'Connection: Upgrade',
    'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==',
    'Sec-WebSocket-Version: 13',
    ...(subprotocol === undefined ? [] : [`Sec-WebSocket-Protocol: ${subprotocol}`]),
  ]
  return Buffer.from(`${upgrade.join('\r\n')}\r\n\r\n`)
}

/** A request file for a peer: the same events; `write` makes the request that appends these. */
export function requestFile(size: number, write: (data: readonly string[]) => string, opening = ''): Buffer {
  const requests = Array.from({ length: DIFFERENT_EVENTS / size }, (_, i) =>
    utf8.encode(write(Array.from({ length: size }, (_, n) => dataOf(i * size + n)))),
  )
  return fileOf(utf8.encode(opening), size, requests)
}

/** A request file for a peer that takes appends over HTTP; `write` makes the body. */
export const postFile = (path: string, size: number, write: (data: readonly string[]) => string): Buffer =>
  requestFile(size, (data) => {
    const body = write(data)
    const head = `POST ${path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: ${contentTypeOf.json}\r\n`
    return `${head}Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`
  })

/** One WebSocket frame of a client: text for a string, binary for bytes. */
export function maskedFrame(payload: string | Uint8Array): Buffer {
  const bytes = Buffer.from(payload)
  const size = bytes.length < 126 ? [0x80 | bytes.length] : [0x80 | 126, bytes.length >> 8, bytes.length & 255]
  const head = [typeof payload === 'string' ? 0x81 : 0x82, ...size, MASK, MASK, MASK, MASK]
  for (let i = 0; i < bytes.length; i++) bytes[i]! ^= MASK
  return Buffer.concat([Uint8Array.from(head), bytes])
}
