import { crc32 } from 'node:zlib'
import fc from 'fast-check'
import { unpack } from 'msgpackr'
import { expect, test } from 'vitest'
import { buildBlock, checkBlock, decodeBlock, readHeader, sealBlock, splitBlocks } from '../../src/block.ts'
import { encodeBody } from '../../src/body.ts'
import type { NewEvent } from '../../src/event.ts'
import { parseJsonBody } from '../../src/formats/parse.ts'
import {
  blocksHead,
  cutPage,
  eventLines,
  eventsBytes,
  eventsPieces,
  lastWithin,
  pageFields,
  pageJson,
} from '../../src/formats/render.ts'
import { type BlockForms, Page } from '../../src/log/log.ts'
import type { EventJson } from '../../src/wire.ts'
import { event } from '../parts.ts'
import { law, spanOf } from '../random.ts'

const TIME = Date.parse('2026-11-22T18:48:00.123Z')

/** A page of these blocks, from a position within the first to one within the last. */
function pageOf(blocks: Uint8Array[], { after = 0, last }: { after?: number; last: number }): Page {
  return new Page({ channel: 'orders', epoch: 'x.1', after, last, head: last + 5, trimmed: 0, blocks })
}

const sealed = (events: readonly NewEvent[], after = 0): Uint8Array =>
  sealBlock('orders', [encodeBody(events)], { after, time: TIME }, crc32)

const pageWith = (...events: NewEvent[]): Page => pageOf([sealed(events)], { last: events.length })

const shown = (page: Page, options = {}): EventJson[] => JSON.parse(`[${eventsBytes(page, options).bytes}]`)

test('An event shows what it was given and nothing else.', () => {
  const all = { type: 'node.added', key: '/photos/ä"\\.jpg', id: 'b7 "c1"\\' }
  expect(shown(pageWith(event({ bytes: 1024 }, all), event(undefined, { type: 'ping' }), event(null)))).toEqual([
    { seq: 1, time: '2026-11-22T18:48:00.123Z', ...all, data: { bytes: 1024 } },
    { seq: 2, time: '2026-11-22T18:48:00.123Z', type: 'ping' },
    { seq: 3, time: '2026-11-22T18:48:00.123Z', data: null },
  ])
})

test('A key without data is a tombstone.', () => {
  const [gone, kept] = shown(pageWith(event(undefined, { key: 'a' }), event(null, { key: 'a' })))
  expect(gone).toMatchObject({ key: 'a', tombstone: true })
  expect(gone).not.toHaveProperty('data')
  expect(kept).toMatchObject({ key: 'a', data: null })
  expect(kept).not.toHaveProperty('tombstone')
})

test('Text types come as text where they are UTF-8; everything else comes as base64.', () => {
  const as = (contentType: string, data: Uint8Array): NewEvent => ({ ...event(1), contentType, data })
  const broken = new Uint8Array([0x61, 0xff])
  const page = pageWith(
    as('text/plain; charset=utf-8', Buffer.from('ü"\n😀')),
    as('application/xml', Buffer.from('<a/>')),
    as('application/geo+json', Buffer.from('{"a":1}')),
    as('text/plain', broken),
    as('image/png', Buffer.from('plain')),
    as('text/plain', new Uint8Array(0)),
  )
  expect(shown(page).map(({ seq, time, ...rest }) => rest)).toEqual([
    { contentType: 'text/plain; charset=utf-8', data: 'ü"\n😀' },
    { contentType: 'application/xml', data: '<a/>' },
    { contentType: 'application/geo+json', data: '{"a":1}' },
    { contentType: 'text/plain', dataBase64: 'Yf8=' },
    { contentType: 'image/png', dataBase64: 'cGxhaW4=' },
    { contentType: 'text/plain', data: '' },
  ])
})

test('Whom an event is addressed to is told only when asked for.', () => {
  const page = pageWith(
    event(1, { to: { users: ['änn'], groups: [] } }),
    event(2, { to: { users: [], groups: ['/s'] } }),
  )
  expect(shown(page).some((one) => 'to' in one)).toBe(false)
  expect(shown(page, { withTo: true }).map(({ to }) => to)).toEqual([{ users: ['änn'] }, { groups: ['/s'] }])
})

test('Data stands as its sender wrote it.', () => {
  const datas = ['{"b":1.50,"a":[-0,1E2]}', '"\\u00e9\\/\\ud800"', '{"a":1,"a":2}', '"ü€😀"', '{"__proto__":{"x":1}}']
  const body = parseJsonBody(Buffer.from(`[${datas.map((data) => `{"data":${data}}`).join()}]`))
  const page = pageOf([sealBlock('orders', [body], { after: 0, time: TIME }, crc32)], { last: datas.length })
  const text = eventsBytes(page).bytes.toString()
  for (const data of datas) expect(text).toContain(`"data":${data}}`)
})

test('An event names its channel and whom it is for only where that is asked for.', () => {
  const page = pageWith(event({ a: 'ü' }, { to: { users: ['ännä'], groups: [] } }))
  expect(shown(page)[0]).not.toHaveProperty('to')
  expect(shown(page)[0]).not.toHaveProperty('channel')
  const told = { channel: 'orders', to: { users: ['ännä'] }, data: { a: 'ü' } }
  expect(shown(page, { withTo: true, withChannel: true })).toMatchObject([told])
})

test('Any page, once with parts of every length, says what its blocks decode to.', () => {
  const texts = fc.string({ unit: 'binary', maxLength: 300 })
  const some = fc.option(texts, { nil: null })
  const given = fc.record({ key: some, id: some, data: fc.option(fc.jsonValue(), { nil: undefined }) })
  law(300, fc.array(given, { minLength: 1, maxLength: 20 }), (all) => {
    const events = all.map(({ data, key, id }) => event(data, { key, id }))
    const json = shown(pageWith(...events))
    expect(json.map(({ seq }) => seq)).toEqual(events.map((_, i) => i + 1))
    for (const [i, { key, id, data }] of json.entries()) {
      expect([key ?? null, id ?? null]).toEqual([events[i]!.key, events[i]!.id])
      expect(JSON.stringify(data)).toBe(events[i]!.data === null ? undefined : Buffer.from(events[i]!.data!).toString())
    }
  })
})

test('Lines are events, one each.', () => {
  const lines = eventLines(pageWith(event('a\nb'), event(2))).bytes.toString()
  expect(lines.split('\n')).toHaveLength(3)
  expect(
    lines
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line).data),
  ).toEqual(['a\nb', 2])
})

test('A page begins behind its position and ends at its last, whatever its blocks hold beyond.', () => {
  const page = pageOf([sealed([event(1), event(2), event(3)]), sealed([event(4), event(5)], 3)], { after: 2, last: 4 })
  expect(shown(page).map(({ seq }) => seq)).toEqual([3, 4])
  expect(eventsBytes(page)).toMatchObject({ last: 4, count: 2 })
  expect(eventsBytes(page, { limit: 1 })).toMatchObject({ last: 3, count: 1 })
})

test('Events in pieces, some of them kept with their blocks, are the same text from any place to any other.', () => {
  const mixed = event('ü', { to: { users: ['ann'], groups: [] } })
  const blocks = [sealed([event(1), mixed, event(3)]), sealed([event(4)], 3), sealed([event(5), mixed], 4)]
  const forms = new Map<string, unknown>()
  for (const after of [0, 1, 3, 2, 0])
    for (const last of [3, 4, 5, 6]) {
      if (after === last) continue
      const inside = blocks.filter((block) => readHeader(block).last > after && readHeader(block).after < last)
      const ofBlock: BlockForms = (index, name, make) => {
        const key = `${name} ${readHeader(inside[index]!).last}`
        if (!forms.has(key)) forms.set(key, make(inside[index]!))
        return forms.get(key) as ReturnType<typeof make>
      }
      const plain = pageOf(inside, { after, last })
      const page = new Page(plain, undefined, ofBlock)
      const text = eventsBytes(plain, { withTo: true }).bytes.toString()
      expect(Buffer.concat(eventsPieces(page)).toString()).toBe(text)
      expect(Buffer.concat(eventsPieces(plain)).toString()).toBe(text)
    }
  expect(forms.size).toBe(3)
})

test('The whole answer says where it ends and whether that is the head.', () => {
  const page = new Page({
    ...pageFields(pageWith(event(1), event('ü')), 2),
    head: 2,
    blocks: pageWith(event(1), event('ü')).blocks,
  })
  expect(JSON.parse(pageJson(page).bytes.toString())).toMatchObject({
    channel: 'orders',
    epoch: 'x.1',
    after: 0,
    last: 2,
    head: 2,
    trimmed: 0,
    caughtUp: true,
    events: [{ data: 1 }, { data: 'ü' }],
  })
  expect(JSON.parse(pageJson(page, { limit: 1 }).bytes.toString())).toMatchObject({
    last: 1,
    caughtUp: false,
    events: [{ data: 1 }],
  })
  const empty = new Page({ ...pageFields(page, 2), after: 2, blocks: [] })
  expect(JSON.parse(pageJson(empty).bytes.toString())).toMatchObject({ after: 2, last: 2, caughtUp: true, events: [] })
})

test('Blocks in a map are one bin behind the fields.', () => {
  const page = pageWith(event(1))
  const map = unpack(Buffer.concat([blocksHead(pageFields(page, 1), page.blocks), ...page.blocks]))
  expect(map).toMatchObject({
    channel: 'orders',
    epoch: 'x.1',
    after: 0,
    last: 1,
    head: 6,
    trimmed: 0,
    caughtUp: false,
  })
  expect(splitBlocks(map.blocks)).toHaveLength(1)
})

/** Neighbouring blocks, some with seqs left out, some dense; and a page cut out of them anywhere. */
const pages = fc
  .record({
    blocks: fc.array(fc.array(fc.boolean(), { minLength: 1, maxLength: 6 }), { minLength: 1, maxLength: 4 }),
    from: fc.nat(100),
    to: fc.nat(100),
  })
  .map(({ blocks, from, to }) => {
    let after = 0
    const built: Uint8Array[] = []
    const seqs: number[] = []
    for (const kept of blocks) {
      const events = kept.flatMap((keep, i) =>
        keep ? [{ ...event(`e${after + i + 1}`), seq: after + i + 1, time: TIME }] : [],
      )
      const last = after + kept.length
      built.push(buildBlock('orders', { after, last, time: TIME }, events.map(spanOf), crc32)!)
      seqs.push(...events.map(({ seq }) => seq))
      after = last
    }
    // A position within the first block, an end within the last.
    const first = decodeRange(built[0]!)
    const end = decodeRange(built.at(-1)!)
    const start = first.after + (from % (first.last - first.after))
    const least = Math.max(start + 1, end.after + 1)
    const last = least + (to % (end.last - least + 1))
    return { page: pageOf(built, { after: start, last }), seqs: seqs.filter((seq) => seq > start && seq <= last) }
  })

const decodeRange = (block: Uint8Array): { after: number; last: number } => {
  const { after, last } = checkBlock('orders', block, crc32)
  return { after, last }
}

test('Cut anywhere, a page gives its first events, and reading on from there gives the rest.', () => {
  law(500, fc.tuple(pages, fc.integer({ min: 1, max: 12 })), ([{ page, seqs }, limit]) => {
    const { bytes, last, count } = eventsBytes(page, { limit })
    const given: EventJson[] = JSON.parse(`[${bytes}]`)
    expect(given.map(({ seq }) => seq)).toEqual(seqs.slice(0, limit))
    expect(count).toBe(given.length)
    expect(last).toBe(lastWithin(page, limit))
    expect(last).toBeGreaterThan(page.after)
    expect(last).toBeLessThanOrEqual(page.last)
    expect(seqs.filter((seq) => seq > last)).toEqual(seqs.slice(limit))
  })
})

test('A cut page holds exactly its events in whole blocks that chain from its position to its end.', () => {
  law(500, fc.tuple(pages, fc.integer({ min: 1, max: 12 })), ([{ page, seqs }, limit]) => {
    const cut = cutPage(page, limit)
    expect(cut.blocks.flatMap((block) => decodeBlock(block)).map(({ seq }) => seq)).toEqual(seqs.slice(0, limit))
    let position = page.after
    for (const block of cut.blocks) {
      const header = checkBlock('orders', block, crc32)
      expect(header.after).toBe(position)
      position = header.last
    }
    expect([position, cut.after, cut.head]).toEqual([cut.last, page.after, page.head])
    expect(cut.last).toBe(lastWithin(page, limit))
  })
})

test('A page that is cut nowhere is given back as it is.', () => {
  const page = pageOf([sealed([event(1), event(2)]), sealed([event(3)], 2)], { last: 3 })
  expect(cutPage(page, 3)).toBe(page)
  expect(cutPage(page, 2).last).toBe(2)
})

test('Events that share some of their fields show each its own, over blocks and times, also where the page outgrows what is kept', () => {
  const data = 'x'.repeat(1_000)
  const type = (i: number): string | null => (i % 7 < 4 ? 'same' : i % 7 < 6 ? `sam${i % 2}` : null)
  const key = (i: number): string | null => (i % 5 < 3 ? null : 'k')
  const events = Array.from({ length: 6_000 }, (_, i) => event(`${i} ${data}`, { type: type(i), key: key(i) }))
  const blocks = Array.from({ length: 12 }, (_, i) => sealed(events.slice(i * 500, i * 500 + 500), i * 500))
  const dense = shown(pageOf(blocks, { last: 6_000 }))
  expect(dense.map(({ type, key, data }) => [type ?? null, key ?? null, data])).toEqual(
    events.map((_, i) => [type(i), key(i), `${i} ${data}`]),
  )
  const spans = events.slice(0, 40).map((each, i) => spanOf({ ...each, seq: i + 1, time: TIME + (i >> 2) }))
  const timed = buildBlock('orders', { after: 0, last: 40, time: TIME }, spans, crc32) as Uint8Array
  expect(shown(pageOf([timed], { last: 40 })).map(({ time }) => Date.parse(time) - TIME)).toEqual(
    spans.map((_, i) => i >> 2),
  )
})
