/** Whatever comes over the wire is taken or refused with a code: the decoders by themselves, then a whole server. */
import { isUtf8 } from 'node:buffer'
import { crc32 } from 'node:zlib'
import fc from 'fast-check'
import { Packr } from 'msgpackr'
import { expect, test } from 'vitest'
import { blockFor } from '../../src/audience.ts'
import { buildBlock, checkBlock, decodeBlock, readHeader, sliceBlock, spansOf, splitBlocks } from '../../src/block.ts'
import { encodeBody } from '../../src/body.ts'
import { jsonCodec } from '../../src/client/codec.ts'
import { msgpackCodec } from '../../src/client/msgpack.ts'
import { APPEND_BYTES_MAX } from '../../src/doors/limits.ts'
import { BadFrame, readRequest } from '../../src/formats/intake.ts'
import { NdjsonReader, parseJsonBody, parseMsgpackBody } from '../../src/formats/parse.ts'
import { askedPoll } from '../../src/server/asked.ts'
import { readAppends } from '../../src/server/multi.ts'
import type { Dice } from '../crash/dice.ts'
import { anyValue, bent, GROWTH_BYTES_MAX, held, INPUTS, Judge, mutate, newDice } from '../fuzz.ts'
import { event, SEED } from '../parts.ts'
import { anyBlock } from '../random.ts'

const PER_KIND = Math.ceil(INPUTS / 14) || 400
const CHANNEL = 'orders'

type Values = readonly unknown[]
const EVENTS: Values = [
  { data: { bytes: 1024, deep: [[{ a: [null, true, 1.5e3] }]] }, type: 'node.added', key: '/a.jpg', id: 'b7c1' },
  { data: 'é\u2028 \\ud83d\\ude00', contentType: 'text/plain', type: 'note' },
  { dataBase64: 'AAECAw==', contentType: 'application/octet-stream' },
  { data: null, to: { users: ['anna', 'bert'], groups: ['/staff', '/staff/dev'] } },
  { key: '/b.txt' },
]
const POLLS: Values = [
  { client: 'web-42', channels: { orders: { commit: 43, epoch: 'x1' }, files: { after: 7, epoch: null } }, wait: 25 },
  { channels: { a: { after: 'head-50', tell: true }, 'b/c': { after: 'time:2026-11-22T18:48:00Z' } }, limit: 1000 },
]
const MULTI: Values = [
  {
    appends: [
      { channel: 'a', events: [EVENTS[0]], expectedSeq: 3 },
      { channel: 'b/c', events: EVENTS.slice(1) },
    ],
  },
]
const MESSAGES: Values = [
  { op: 'hello', token: 'a.b.c', client: 'web-42' },
  { op: 'subscribe', ref: 'r', channel: CHANNEL, after: 41, epoch: 'x1' },
  { op: 'subscribe', channel: 'a/b', cursor: true },
  { op: 'unsubscribe', channel: CHANNEL, ref: 3 },
  { op: 'commit', ref: 4, channel: CHANNEL, seq: 43 },
  { op: 'append', ref: 5, channel: CHANNEL, events: EVENTS, expectedSeq: 2, idempotencyKey: 'k-1' },
  { op: 'refresh', token: 'a.b.c' },
  { op: 'ping', ref: 6 },
]
const FROM_SERVER: Values = [
  { op: 'welcome', server: 's', client: null, heartbeat: 25_000, limits: { frameBytes: 1_048_576, subscriptions: 9 } },
  { op: 'events', channel: CHANNEL, epoch: 'x1', after: 0, last: 2, events: [{ seq: 1 }, { seq: 2, data: 1 }] },
  { op: 'error', ref: 1, code: 'gap', detail: 'd', title: 't', status: 410 },
]

const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value) ?? 'null')
const lines = (value: unknown): Buffer =>
  Buffer.concat([EVENTS, value].flat().map((line) => Buffer.concat([json(line), Buffer.from('\n')])))
const packr = new Packr({ useRecords: false })
const packed = (value: unknown): Buffer => packr.pack(value ?? null)

/** Valid ones bent as values, or their bytes mutated. */
function inputs(dice: Dice, values: Values, write: (value: unknown) => Buffer): () => Buffer {
  const corpus = values.map(write)
  return () => {
    if (dice(3) > 0) return mutate(dice, corpus)
    const value = dice(12) === 0 ? anyValue(dice) : bent(dice, values[dice(values.length)])
    return dice(4) === 0 ? mutate(dice, [write(value)]) : write(value)
  }
}

const blocks: readonly Buffer[] = fc
  .sample(anyBlock, { seed: SEED, numRuns: 200 })
  .map(({ block }) => Buffer.from(block))

/** A block with lies in its header or its body, and half of the time a crc that believes them. */
function block(dice: Dice): Buffer {
  const bytes = mutate(dice, blocks)
  if (bytes.length < 36) return bytes
  if (dice(4) === 0) bytes.set([[0, 255, 127, 1][dice(4)]!, dice(256)], [2, 12, 20, 28][dice(4)]! + dice(6))
  if (dice(2)) {
    bytes.writeUInt32BE(bytes.length, 4)
    bytes.writeUInt32BE(0, 8)
    bytes.writeUInt32BE(crc32(bytes, crc32(Buffer.from(CHANNEL))), 8)
  }
  return bytes
}

const isBadFrame = (error: unknown): boolean => error instanceof BadFrame
/** A client ends a socket for whatever is thrown on the way in. */
const isError = (error: unknown): boolean => error instanceof Error

test('decoders take what they are given, or refuse it with a code, at once and without a trace', () => {
  const judge = new Judge()
  const kinds: [
    kind: string,
    next: (dice: Dice) => () => Buffer,
    take: (bytes: Uint8Array) => unknown,
    also?: (error: unknown) => boolean,
  ][] = [
    ['JSON body', (dice) => inputs(dice, [...EVENTS, EVENTS], json), parseJsonBody],
    ['MessagePack body', (dice) => inputs(dice, [...EVENTS, EVENTS], packed), parseMsgpackBody],
    [
      'NDJSON body',
      (dice) => inputs(dice, EVENTS, lines),
      (bytes) => {
        const reader = new NdjsonReader(APPEND_BYTES_MAX)
        const cut = bytes.length >> 1
        for (const part of [bytes.subarray(0, cut), bytes.subarray(cut)]) Array.from(reader.push(part))
        Array.from(reader.finish())
      },
    ],
    ['poll', (dice) => inputs(dice, POLLS, json), askedPoll],
    ['multi-append', (dice) => inputs(dice, MULTI, json), readAppends],
    [
      'JSON frame',
      (dice) => {
        const next = inputs(dice, MESSAGES, json)
        // Who calls has seen to it that text is UTF-8.
        return () => {
          const bytes = next()
          return isUtf8(bytes) ? bytes : Buffer.from(bytes.toString('latin1'))
        }
      },
      (bytes) => readRequest(bytes, false),
      isBadFrame,
    ],
    ['MessagePack frame', (dice) => inputs(dice, MESSAGES, packed), (bytes) => readRequest(bytes, true), isBadFrame],
    ['block', (dice) => () => block(dice), (bytes) => decodeBlock(bytes)],
    ['block as it is checked', (dice) => () => block(dice), (bytes) => checkBlock(CHANNEL, bytes, crc32)],
    [
      'block of an audience',
      (dice) => () => block(dice),
      (bytes) => blockFor({ sub: 'anna', groups: ['/staff/dev'] }, CHANNEL, bytes, crc32),
    ],
    [
      'block that is cut',
      (dice) => () => block(dice),
      (bytes) => {
        const { after, last } = readHeader(bytes)
        spansOf(bytes)
        sliceBlock(CHANNEL, bytes, { after: after + 1, last: Math.max(after + 2, last - 1) }, crc32)
      },
    ],
    ['run of blocks', (dice) => () => Buffer.concat([block(dice), block(dice)]), splitBlocks],
    [
      'JSON frame to a client',
      (dice) => inputs(dice, FROM_SERVER, json),
      (bytes) => {
        const message = jsonCodec.decode(Buffer.from(bytes).toString())
        if (message.op === 'events') jsonCodec.frame(message, bytes.length).events(CHANNEL, 0)
      },
      isError,
    ],
    [
      'MessagePack frame to a client',
      (dice) => inputs(dice, FROM_SERVER, packed),
      (bytes) => {
        msgpackCodec.decode(bytes)
      },
      isError,
    ],
    [
      'blocks to a client',
      (dice) => () => block(dice),
      (bytes) => {
        const message = {
          op: 'events',
          channel: CHANNEL,
          epoch: 'x1',
          after: 0,
          last: Number.MAX_SAFE_INTEGER,
          blocks: bytes,
        } as const
        // The last block reaches what the message says.
        const at = bytes.length < 36 ? undefined : readHeader(bytes)
        msgpackCodec.frame({ ...message, after: at?.after ?? 0, last: at?.last ?? 9 }, bytes.length).events(CHANNEL, 0)
      },
    ],
  ]
  const warmUp = 200
  let before = 0
  for (const [round, count] of [
    [0, warmUp],
    [1, PER_KIND],
  ] as const) {
    if (round === 1) before = held()
    for (const [kind, next, take, also] of kinds) {
      const draw = next(newDice(`${kind} ${round}`))
      for (let i = 0; i < count; i++) judge.try(kind, draw(), take, also)
    }
  }
  const grown = held() - before
  judge.report(grown)
  judge.verdict()
  expect(grown).toBeLessThan(GROWTH_BYTES_MAX)
  // Dice that only make rubbish would prove little.
  for (const [kind] of kinds) expect(judge.taken(kind), kind).toBeGreaterThan(0)
  expect(buildBlock(CHANNEL, { after: 0, last: 1, time: 0 }, [], crc32)).toBeDefined()
  expect(encodeBody([event(1)]).count).toBe(1)
}, 600_000)
