/**
 * Makes the golden files of today's format: `node dist/test/golden/make.js test/golden/format-N`.
 * A folder that exists is never made again: what an old version wrote is what later ones must open.
 */
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { crc32 } from 'node:zlib'
import { buildBlock, decodeBlock, readHeader, type Span, sealBlock } from '../../src/block.ts'
import { encodeBody } from '../../src/body.ts'
import { type Event, type NewEvent, SEQ_MAX } from '../../src/event.ts'
import type { Log } from '../../src/log/log.ts'
import { openLog } from '../../src/log/open.ts'

/** An event as the golden JSON holds it: its data in hex. */
export type EventRecord = Omit<Event, 'data'> & { readonly data: string | null }

export interface BlockRecord {
  readonly what: string
  readonly channel: string
  readonly header: Omit<ReturnType<typeof readHeader>, 'crc' | 'length'>
  readonly events: readonly EventRecord[]
  readonly hex: string
}

export interface StoreRecord {
  /** When the store was closed, ms. */
  readonly time: number
  readonly channels: readonly {
    readonly channel: string
    readonly epoch: string
    readonly head: number
    readonly trimmed: number
    readonly time: number
    readonly settings: Readonly<Record<string, unknown>>
    readonly events: readonly EventRecord[]
  }[]
  readonly cursors: readonly { client: string; channel: string; epoch: string; seq: number; time: number }[]
  /** Appends of one event under an idempotency key, with their answers. */
  readonly receipts: readonly {
    readonly key: string
    readonly entries: readonly { readonly channel: string; readonly data: string }[]
    readonly answers: readonly { channel: string; epoch: string; first: number; last: number }[]
  }[]
}

export const record = ({ data, ...event }: Event): EventRecord => ({
  ...event,
  data: data && Buffer.from(data).toString('hex'),
})

const event = (data: string | null, fields: Partial<NewEvent> = {}): NewEvent => ({
  ...{ type: null, key: null, id: null, contentType: null, to: null },
  data: data === null ? null : Buffer.from(data),
  ...fields,
})

const TIME = Date.UTC(2026, 10, 22, 18, 48, 0, 123)

/** Every field, every length form of MessagePack that a small file can hold. */
const SAMPLES: readonly NewEvent[] = [
  event('{"bytes":1024}', { type: 'node.added', key: '/photos/ü 😀.jpg', id: 'b7c1' }),
  event(null, { key: '/photos/a.jpg' }),
  event('null', { type: 't' }),
  event('', { contentType: 'text/plain; charset=utf-8' }),
  event('\u0000\u00ff', { contentType: 'application/octet-stream' }),
  event(`"${'x'.repeat(300)}"`, { key: 'k'.repeat(40), id: 'i'.repeat(128), type: 'y'.repeat(31) }),
  event('7', { key: 'é'.repeat(200) }),
]
const ADDRESSED: readonly NewEvent[] = [
  event('1', { to: { users: ['ann', 'bob ü'], groups: [] } }),
  event('2', { to: { users: [], groups: Array.from({ length: 17 }, (_, i) => `/staff/${i}`) } }),
  event('3'),
]

function blocks(): BlockRecord[] {
  const span = (given: NewEvent, seq: number, time: number): Span => {
    const { bytes, flags } = encodeBody([given])
    return { seq, time, bytes, flags }
  }
  const built = (what: string, range: { after: number; last: number; time: number }, spans: readonly Span[]) =>
    made(what, 'files', buildBlock('files', range, spans, crc32)!)
  const made = (what: string, channel: string, block: Uint8Array): BlockRecord => {
    const { crc: _, length: __, ...header } = readHeader(block)
    return { what, channel, header, events: decodeBlock(block).map(record), hex: Buffer.from(block).toString('hex') }
  }
  const at = { after: 41, time: TIME }
  return [
    made(
      'one event',
      'orders',
      sealBlock('orders', [encodeBody([event('{"total":12}')])], { after: 0, time: TIME }, crc32),
    ),
    made('dense: every field', 'orders/eu:1', sealBlock('orders/eu:1', [encodeBody(SAMPLES)], at, crc32)),
    made(
      'dense: two bodies in one',
      'orders',
      sealBlock('orders', [SAMPLES.slice(0, 2), ADDRESSED].map(encodeBody), at, crc32),
    ),
    made('addressed', 'orders', sealBlock('orders', [encodeBody(ADDRESSED)], at, crc32)),
    made(
      'the last seq',
      'orders',
      sealBlock('orders', [encodeBody([event('1')])], { after: SEQ_MAX - 1, time: TIME }, crc32),
    ),
    built(
      'holes',
      { after: 10, last: 30, time: TIME },
      [11, 12, 17, 29].map((seq, i) => span(SAMPLES[i]!, seq, TIME)),
    ),
    built(
      'times',
      { after: 10, last: 13, time: TIME },
      [11, 12, 13].map((seq, i) => span(SAMPLES[i]!, seq, TIME + i * 60_000)),
    ),
    built(
      'holes and times',
      { after: 2 ** 40, last: 2 ** 40 + 2 ** 32, time: TIME },
      [1, 2 ** 31, 2 ** 32 - 1].map((offset, i) => span(SAMPLES[i]!, 2 ** 40 + offset, TIME - 1_000 + i * 1_000)),
    ),
    built('holes: nothing left', { after: 10, last: 30, time: TIME }, []),
  ]
}

async function fill(dir: string): Promise<StoreRecord> {
  const receipts: StoreRecord['receipts'][number][] = []
  const keyed = async (log: Log, key: string, ...channels: string[]): Promise<void> => {
    const entries = channels.map((channel) => ({ channel, data: `"${key} ${channel}"` }))
    const appends = entries.map(({ channel, data }) => ({ channel, body: encodeBody([event(data)]) }))
    const answers = (await log.append(appends, { idempotencyKey: key })).map(({ head: _, ...answer }) => answer)
    receipts.push({ key, entries, answers })
  }
  const append = (log: Log, channel: string, ...events: NewEvent[]) =>
    log.append([{ channel, body: encodeBody(events) }])

  const first = await openLog({ dir })
  await append(first, 'orders', ...SAMPLES)
  await keyed(first, 'k1', 'orders')
  await append(first, 'deleted', event('1'))
  await first.commit('web', 'deleted', { seq: 1 })
  await first.delete('deleted')
  await append(first, 'files/eu', ...SAMPLES.slice(0, 3), ...ADDRESSED)
  await first.trim('files/eu', 4)
  await first.configure('empty', { note: 'a note, ü' })
  await first.commit('web', 'orders', { seq: 5 })
  await first.commit('app', 'files/eu', { seq: 6 })
  await first.close()

  // Opened again, so that one part lies in a table and one in the write-ahead file.
  const log = await openLog({ dir })
  await append(log, 'orders', ...Array.from({ length: 40 }, (_, i) => event(`${i}`)))
  await keyed(log, 'k 2 ~', 'files/eu', 'orders', 'both')
  await append(log, 'deleted', event('"made again"'))
  await log.commit('web', 'orders', { seq: 30 })
  await log.seek('app', 'orders', { seq: 2 })

  const channels: StoreRecord['channels'][number][] = []
  const cursors: StoreRecord['cursors'][number][] = []
  for await (const info of log.channels('')) {
    const page = await log.read(info.channel, { after: info.trimmed }, { events: 10_000, bytes: 1 << 20 })
    const events = page.blocks.flatMap((block) => decodeBlock(block, info.trimmed)).map(record)
    channels.push({ ...info, settings: { ...info.settings }, events })
    for await (const cursor of log.cursors({ channel: info.channel })) cursors.push(cursor)
  }
  await log.close()
  return { time: Date.now(), channels, cursors, receipts }
}

async function make(folder: string): Promise<void> {
  if (existsSync(folder)) throw new Error(`${folder} is there already; a new format gets a folder of its own`)
  mkdirSync(folder, { recursive: true })
  const write = (name: string, value: unknown): void =>
    writeFileSync(join(folder, name), `${JSON.stringify(value, null, 1)}\n`, { mode: 0o644 })
  write('blocks.json', blocks())
  const dir = join(folder, 'log')
  write('log.json', await fill(dir))
  // What belongs to the process and the machine that made it.
  for (const name of ['holder.json', 'store/LOG', 'store/LOG.old', 'store/LOCK'])
    rmSync(join(dir, name), { force: true })
}

const folder = process.argv[2]
if (import.meta.filename === process.argv[1] && folder) await make(resolve(folder))
