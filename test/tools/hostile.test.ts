/** Archives that nobody's export wrote: whatever they say, they are refused as damaged, and nothing of them is taken in. */
import { createHash } from 'node:crypto'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import { expect, test } from 'vitest'
import { sealBlock } from '../../src/block.ts'
import { encodeBody } from '../../src/body.ts'
import { putU32 } from '../../src/bytes.ts'
import type { NewEvent } from '../../src/event.ts'
import { type Sum, Summing } from '../../src/log/carry.ts'
import { openLog } from '../../src/log/open.ts'
import { blocksCodec } from '../../tools/archive/blocks.ts'
import { Archivist } from '../../tools/archive/file.ts'
import { linesCodec } from '../../tools/archive/lines.ts'
import { ARCHIVE_FORMAT, type Codec } from '../../tools/archive/record.ts'
import { body, event, range, SEED, tempDir } from '../parts.ts'
import { randomFrom } from './disk.ts'
import { here as run } from './here.ts'

type Piece = Parameters<Summing['add']>[0]

/** An archive whose sums are right, of one channel that is as it is told. */
async function forged(
  codec: Codec,
  channel: object,
  pieces: readonly object[] = [],
  sum: Partial<Sum> = {},
): Promise<string> {
  const file = join(tempDir(), 'forged')
  const parts: Uint8Array[] = []
  const archivist = new Archivist({ write: (bytes) => void parts.push(bytes) }, codec)
  await archivist.write({ is: 'archive', format: ARCHIVE_FORMAT, by: 'us', time: 1, source: 'nowhere', channels: [] })
  const whole = { channel: 'c', epoch: 'aaaaaaaaaa.bbbbbbbbbb', head: 0, trimmed: 0, time: 0, settings: {} }
  await archivist.write({ is: 'channel', ...whole, ...channel } as Piece)
  const summing = new Summing()
  for (const piece of pieces as Piece[]) {
    summing.add(piece)
    await archivist.write(piece)
  }
  await archivist.write({ is: 'end', sum: { ...summing.sum(), ...sum } })
  await archivist.end()
  writeFileSync(file, Buffer.concat(parts))
  return file
}

const cursors = (cursor: object) => [
  { is: 'cursors', cursors: [{ client: 'web', epoch: 'e', seq: 0, time: 0, ...cursor }] },
]

const CASES: readonly [what: string, channel: object, pieces?: readonly object[]][] = [
  ['a name that leads elsewhere', { channel: '../../evil' }],
  ['a name that speaks to terminals', { channel: 'a\n\u001b[31m' }],
  ['a name without an end', { channel: 'x'.repeat(100_000) }],
  ['a name that is none', { channel: 7 }],
  ['a head that no seq is', { head: 1e300, trimmed: 1e300 }],
  ['a head before what was trimmed', { head: 1, trimmed: 2 }],
  ['a time that is none', { time: -1 }],
  ['settings that no call takes', { settings: { retention: { maxAge: 'x', maxEvents: -1 } } }],
  ['no settings', { settings: undefined }],
  ['a cursor of no name', {}, cursors({ client: '../x y' })],
  ['a cursor nowhere', {}, cursors({ seq: -3.5 })],
  ['a record that is not known', {}, [{ is: 'other' }]],
  ['events that are lost elsewhere', { head: 9 }, [{ is: 'lost', after: 'x', upTo: 9 }]],
]

test.each(CASES)('%s', async (_, channel, pieces = []) => {
  for (const codec of [blocksCodec, linesCodec]) {
    const into = join(tempDir(), 'new')
    const file = await forged(codec, channel, pieces)
    expect([codec.name, await run(['import', file, '--check'])]).toMatchObject([codec.name, { code: 65 }])
    expect(await run(['import', file, '--data', into])).toMatchObject({ code: 65 })
    expect(existsSync(into)).toBe(false)
  }
})

const T = 1_000
const at = (after: number, time = T) => ({ after, time })
const two = (channel: string, after: number, time = T) => sealBlock(channel, [body(1, 2)], at(after, time), crc32)
const flipped = Uint8Array.from(two('c', 0))
flipped[flipped.length - 2]! ^= 1
const hidden = sealBlock('c', [encodeBody([event(1, { to: { users: ['u'], groups: [] } })])], at(0), crc32)
hidden[1] = 0

const one = (more: Partial<NewEvent>) => sealBlock('c', [encodeBody([event(1, more)])], at(0), crc32)
const text = (text: string) => ({ data: Buffer.from(text) })

const BLOCK_CASES: readonly [what: string, channel: object, blocks: readonly Uint8Array[]][] = [
  ['a block whose crc is another', { head: 2 }, [flipped]],
  ['a block of another channel', { head: 2 }, [two('other', 0)]],
  ['a block that hides whom it is for', { head: 1 }, [hidden]],
  ['a block that comes twice', { head: 4 }, [two('c', 0), two('c', 0), two('c', 2)]],
  ['blocks with seqs between them', { head: 6 }, [two('c', 0), two('c', 4)]],
  ['blocks in another order', { head: 4 }, [two('c', 2), two('c', 0)]],
  ['a block beyond the head', { head: 2 }, [two('c', 0), two('c', 2)]],
  ['an event whose JSON is none', { head: 1 }, [one(text('{"a":'))]],
  ['an event whose JSON stands on two lines', { head: 1 }, [one(text('[1,\n2]'))]],
  ['an event whose JSON is no UTF-8', { head: 1 }, [one({ data: Uint8Array.of(0x22, 0xff, 0x22) })]],
  ['a type that speaks to EventSource', { head: 1 }, [one({ type: 'a\ndata: b' })]],
  ['a type of the server', { head: 1 }, [one({ type: 'tidemark.gap' })]],
  ['a key that speaks to terminals', { head: 1 }, [one({ key: '\u001b[31m' })]],
  ['an id without an end', { head: 1 }, [one({ id: 'x'.repeat(10_000) })]],
  ['JSON that says what it is', { head: 1 }, [one({ contentType: 'application/json' })]],
  ['an event of nothing', { head: 1 }, [one({ data: null })]],
  ['a key for some', { head: 1 }, [one({ key: 'k', to: { users: ['u'], groups: [] } })]],
  ['blocks whose time falls', { head: 4 }, [two('c', 0), two('c', 2, T - 1)]],
]

test.each(BLOCK_CASES)('Whole sums, and %s', async (_, channel, blocks) => {
  const into = join(tempDir(), 'new')
  // One behind the other, or at once.
  for (const pieces of [[{ is: 'blocks', blocks }], blocks.map((block) => ({ is: 'blocks', blocks: [block] }))]) {
    const file = await forged(blocksCodec, channel, pieces)
    const told = { code: 65, err: expect.stringContaining('damaged at') }
    expect(await run(['import', file, '--check'])).toMatchObject(told)
    for (const command of ['import', 'restore']) expect(await run([command, file, '--data', into])).toMatchObject(told)
    expect(existsSync(into)).toBe(false)
  }
})

test('A sum that is another, whatever of it', async () => {
  const pieces = [{ is: 'blocks', blocks: [two('c', 0)] }, ...cursors({ seq: 1 })]
  const digest = 'a'.repeat(64)
  for (const sum of [
    ...[{ digest }, { cursorsDigest: digest }, { events: 3 }, { bytes: 3 }, { cursors: 2 }, { lost: 1 }],
    { lostCursors: 1 },
  ])
    for (const codec of [blocksCodec, linesCodec]) {
      const file = await forged(codec, { head: 2 }, pieces, sum)
      const told = { code: 65, err: expect.stringContaining('the sum of c is another') }
      expect([sum, await run(['import', file, '--check'])]).toMatchObject([sum, told])
    }
  expect(await run(['import', await forged(blocksCodec, { head: 2 }, pieces), '--check'])).toMatchObject({ code: 0 })
})

test('A frame of blocks that holds none', async () => {
  const file = await forged(blocksCodec, { head: 2 }, [{ is: 'blocks', blocks: [two('c', 0)] }])
  const bytes = readFileSync(file)
  const start = bytes.indexOf(two('c', 0))
  bytes.fill(0xff, start, start + two('c', 0).length)
  putU32(bytes, start - 5, crc32(bytes.subarray(start - 1, start + two('c', 0).length)))
  writeFileSync(file, bytes)
  const told = { code: 65, err: expect.stringContaining('damaged at') }
  expect(await run(['import', file, '--check'])).toMatchObject(told)
})

test('A channel that comes twice, cursors beyond its head', async () => {
  const channel = {
    is: 'channel',
    channel: 'c',
    epoch: 'aaaaaaaaaa.bbbbbbbbbb',
    head: 0,
    trimmed: 0,
    time: 0,
    settings: {},
  }
  for (const pieces of [
    cursors({ epoch: channel.epoch, seq: 1 }),
    [{ is: 'end', sum: new Summing().sum() }, channel],
  ]) {
    const file = await forged(blocksCodec, {}, pieces)
    expect(await run(['import', file, '--check'])).toMatchObject({ code: 65 })
  }
})

test('Lines that are no events, or none that could follow', async () => {
  const line = (seq: number, more: object = {}) => ({
    seq,
    time: '2026-01-01T00:00:00.000Z',
    type: 't',
    data: 1,
    ...more,
  })
  const good = [line(1), line(2)]
  const write = (lines: readonly object[]): string => {
    const head = { is: 'archive', format: ARCHIVE_FORMAT, by: 'us', time: 1, source: 'nowhere', channels: [] }
    const channel = { is: 'channel', channel: 'c', epoch: 'a.b', head: 2, trimmed: 0, time: 0, settings: {} }
    const text = [head, channel, ...lines].map((record) => `${JSON.stringify(record)}\n`).join('')
    const file = join(tempDir(), 'lines')
    writeFileSync(file, text)
    return file
  }
  // Up to its missing end the good one is good.
  const ended = async (lines: readonly object[]) => (await run(['import', write(lines), '--check'])).err
  expect(await ended(good)).toContain('its last record is missing')
  for (const [why, ...lines] of [
    ['is 1–128 bytes', line(1, { type: 'a b' }), line(2)],
    ['unknown', line(1, { unknown: 1 }), line(2)],
    ['seq', line(0.5), line(2)],
    ['time', line(1, { time: 'yesterday' }), line(2)],
    ['time falls', line(1), line(2, { time: '2025-12-31T23:59:59.999Z' })],
    ['too far apart', line(1), line(2, { time: '2025-01-01T00:00:00.000Z' })],
    ['the sum of c', line(1), line(1)],
    ['the sum of c', line(2), line(1)],
    ['counts 3 events', line(1), line(2), line(3)],
  ] as const) {
    const err = await ended([...lines, { is: 'end', sum: new Summing().sum() }])
    expect([why, err]).toEqual([why, expect.stringMatching(new RegExp(`damaged at \\d+.*${why}`))])
  }
})

test('A channel of blocks that ends before its head', async () => {
  const file = await forged(blocksCodec, { head: 5 })
  expect(await run(['import', file, '--check'])).toMatchObject({ code: 65, err: expect.stringContaining('its head 5') })
})

test('Records that come before the first one, or a first one that comes again', async () => {
  const file = await forged(linesCodec, {})
  const lines = readFileSync(file, 'utf8').trimEnd().split('\n')
  const [first, channel, end] = lines.slice(0, -1) as [string, string, string]
  for (const told of [
    [channel, first, end],
    [first, first, channel, end],
    [first, channel, first, end],
  ]) {
    const text = told.map((line) => `${line}\n`).join('')
    const sha256 = createHash('sha256').update(text).digest('hex')
    writeFileSync(file, `${text}${JSON.stringify({ ...JSON.parse(lines.at(-1)!), sha256 })}\n`)
    expect([told, await run(['import', file, '--check'])]).toMatchObject([told, { code: 65 }])
  }
})

test('What is as it may be is taken', async () => {
  for (const codec of [blocksCodec, linesCodec]) {
    // A name that was taken by a call since is one that old logs have.
    const file = await forged(codec, { channel: 'a/erase', head: 3, trimmed: 3 }, cursors({ client: 'anna~web' }))
    expect(await run(['restore', file, '--data', join(tempDir(), 'new')])).toMatchObject({ code: 0 })
  }
})

test('Of an archive of lines any one bit counts, the last record’s too', async () => {
  console.log(`seed ${SEED}`)
  const random = randomFrom(SEED)
  const dir = join(tempDir(), 'log')
  const log = await openLog({ dir })
  const [appended] = await log.append([{ channel: 'c', body: encodeBody([event(1), event('é', { key: 'k' })]) }])
  await log.commit('web', 'c', { seq: 1, epoch: appended!.epoch })
  await log.close()
  const file = join(tempDir(), 'all.ndjson')
  expect(await run(['export', '--data', dir, '-o', file])).toMatchObject({ code: 0 })
  const whole = readFileSync(file)
  for (const at of range(1, whole.length - 1)) {
    const bytes = Buffer.from(whole)
    const bit = random(8)
    bytes[at]! ^= 1 << bit
    writeFileSync(file, bytes)
    const { code, err } = await run(['import', file, '--check'])
    // Another format is one that this version can not read.
    const isFormat = whole.subarray(at - 9, at).toString() === '"format":'
    expect([at, bit, code, err]).toEqual([at, bit, isFormat ? expect.any(Number) : 65, expect.any(String)])
    expect(code).not.toBe(0)
  }
})

test('What is called as a part, and is none, stays as it is', async () => {
  const dir = join(tempDir(), 'log')
  await (await openLog({ dir })).close()
  for (const [name, text] of [
    ['all.ndjson', '{"mine":1}\n{"mine":2}\n'],
    ['all.tidemark', 'x'],
  ] as const) {
    const file = join(tempDir(), name)
    writeFileSync(`${file}.part`, text)
    expect(await run(['export', '--data', dir, '-o', file])).toMatchObject({ code: 73 })
    expect(readFileSync(`${file}.part`, 'utf8')).toBe(text)
  }
})
