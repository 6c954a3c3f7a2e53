/** Frames read past `ws` come out as `ws` alone would have read them, however they are cut. */
import { Duplex, type Writable } from 'node:stream'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import * as ws from 'ws'
import { FRAME_BYTES_MAX, Incoming, Unfinished } from '../../src/streamer/incoming.ts'

/** How `ws` reads; its types do not tell of it. */
const { Receiver } = ws as unknown as { Receiver: new (options: object) => Writable }
const { WebSocket } = ws

interface Frame {
  readonly first: number
  readonly payload: Uint8Array
  readonly mask: readonly [number, number, number, number] | undefined
}

function bytesOf({ first, payload, mask }: Frame): Buffer {
  const { length } = payload
  const masked = mask ? 0x80 : 0
  const head = length < 126 ? [length] : length < 0x10000 ? [126, length >> 8, length & 255] : undefined
  const size = head ?? [127, 0, 0, 0, 0, ...new Uint8Array(new Uint32Array([length]).buffer).toReversed()]
  size[0]! |= masked
  return Buffer.concat([
    Uint8Array.from([first, ...size, ...(mask ?? [])]),
    mask ? payload.map((byte, i) => byte ^ mask[i & 3]!) : payload,
  ])
}

/** What a receiver says of bytes that come in these chunks; then the newest PING of each chunk with any. */
function heard(chunks: readonly Buffer[], isPast: boolean): unknown[] {
  const said: unknown[] = []
  const state: { readyState: number } = { readyState: WebSocket.OPEN }
  const receiver = new Receiver({ isServer: true, maxPayload: FRAME_BYTES_MAX, maxFragments: 64 })
  const told = (payload: Buffer, binary: boolean): void => {
    if (state.readyState === WebSocket.OPEN) said.push(['message', payload.toString('hex'), binary])
  }
  const pings = new Map<number, string>()
  let now = 0
  const ping = (payload: Buffer): unknown => pings.set(now, payload.toString('hex'))
  const pong = (): unknown => said.push('pong')
  receiver.on('message', told)
  // What gets to `ws` all the same is answered by nobody.
  receiver.on('ping', isPast ? () => said.push('a lost ping') : ping)
  receiver.on('pong', isPast ? () => said.push('a lost pong') : pong)
  // `ws` closes at once for a close frame, and only in the next tick for a wrong one.
  receiver.on('conclude', (code: number) => {
    said.push(['close', code])
    state.readyState = WebSocket.CLOSING
  })
  receiver.on('error', () => {})
  const { createError } = receiver as unknown as { createError(...args: unknown[]): Error }
  Object.assign(receiver, {
    createError: (...args: unknown[]) => {
      said.push(['error', args[3]])
      return createError.apply(receiver, args)
    },
  })
  const feed = (bytes: Buffer): void => {
    if (state.readyState === WebSocket.OPEN) receiver.write(bytes)
  }
  const heardOf = { message: told, taken: () => {}, ping, pong, crowded: () => said.push('crowded') }
  const unfinished = new Unfinished(FRAME_BYTES_MAX * 2)
  const incoming = new Incoming(state as ws.WebSocket, receiver, new Duplex(), feed, heardOf, unfinished)
  for (const chunk of chunks) {
    if (isPast) incoming.take(Buffer.from(chunk))
    else feed(Buffer.from(chunk))
    now++
  }
  if (isPast) incoming.flush()
  return [...said, ...pings]
}

const text = fc.string({ unit: 'grapheme', maxLength: 300 }).map((value) => Buffer.from(value))
const anyMask = fc.tuple(fc.nat(255), fc.nat(255), fc.nat(255), fc.nat(255))
const frame: fc.Arbitrary<Frame> = fc.record({
  first: fc.oneof(
    { weight: 12, arbitrary: fc.constantFrom(0x81, 0x82) },
    { weight: 3, arbitrary: fc.constantFrom(0x01, 0x02, 0x00, 0x80) },
    { weight: 2, arbitrary: fc.constantFrom(0x89, 0x8a) },
    { weight: 1, arbitrary: fc.nat(255) },
  ),
  payload: fc.oneof({ weight: 6, arbitrary: text }, { weight: 1, arbitrary: fc.uint8Array({ maxLength: 140 }) }),
  mask: fc.oneof({ weight: 40, arbitrary: anyMask }, { weight: 1, arbitrary: fc.constant(undefined) }),
})

test('any frames, cut anywhere, are read as ws reads them', () => {
  let messages = 0
  const law = fc.property(
    fc.array(frame, { minLength: 1, maxLength: 12 }),
    fc.array(fc.nat(2_000), { maxLength: 8 }),
    (frames, cuts) => {
      const whole = Buffer.concat(frames.map(bytesOf))
      const places = [0, ...cuts.map((cut) => cut % (whole.length + 1)), whole.length].toSorted((a, b) => a - b)
      const chunks = places.slice(1).map((end, i) => whole.subarray(places[i], end))
      const said = heard(chunks, true)
      messages += said.length
      expect(said).toEqual(heard(chunks, false))
    },
  )
  fc.assert(law, { numRuns: 2_000 })
  expect(messages).toBeGreaterThan(2_000)
})

test('every cut of a message of each length form gives the message', () => {
  for (const length of [0, 1, 125, 126, 65_535, 65_536]) {
    const payload = Buffer.alloc(length, 'x')
    const bytes = bytesOf({ first: 0x81, payload, mask: [1, 2, 3, 4] })
    const two = Buffer.concat([bytes, bytes])
    for (const cut of [1, 2, 3, 5, 6, 7, 9, 13, 14, 15, length, bytes.length - 1, bytes.length + 1, bytes.length + 3])
      expect(heard([two.subarray(0, cut), two.subarray(cut)], true)).toEqual(heard([two], false))
  }
})

test('a frame that claims more than may come is refused by its header', () => {
  const bytes = bytesOf({ first: 0x82, payload: Buffer.alloc(FRAME_BYTES_MAX + 1), mask: [9, 8, 7, 6] })
  expect(heard([bytes.subarray(0, 20)], true)).toEqual([['error', 1009]])
})
