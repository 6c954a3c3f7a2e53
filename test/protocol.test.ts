/** The protocol page is held against the code: its hex examples, its error codes, its limits. */
import { readFileSync } from 'node:fs'
import { crc32 } from 'node:zlib'
import { expect, test } from 'vitest'
import { checkBlock, decodeBlock } from '../src/block.ts'
import { ERRORS } from '../src/errors.ts'

const page = readFileSync(new URL('../src/PROTOCOL.md', import.meta.url), 'utf8')
const examples = [...page.matchAll(/```hex\n([0-9a-f\s]+)```/g)].map(([, hex]) =>
  Buffer.from(hex!.replaceAll(/\s/g, ''), 'hex'),
)
const time = Date.parse('2026-11-22T18:48:00.123Z')
const none = { type: null, key: null, id: null, contentType: null, data: null, to: null }
const text = (value: string): Uint8Array => new TextEncoder().encode(value)
const plain = (block: Uint8Array): unknown[] =>
  decodeBlock(block).map((event) => ({ ...event, data: event.data && Uint8Array.from(event.data) }))

test('the three blocks of the page are whole and hold what the page says', () => {
  expect(examples).toHaveLength(3)
  const [first, second, third] = examples as [Buffer, Buffer, Buffer]
  expect(checkBlock('orders', first, crc32)).toMatchObject({ after: 0, last: 1, count: 1, time, flags: 0 })
  expect(plain(first)).toEqual([{ ...none, seq: 1, time, data: text('1') }])
  expect(checkBlock('files', second, crc32)).toMatchObject({ after: 41, last: 43, count: 2, flags: 8 })
  expect(plain(second)).toEqual([
    { ...none, seq: 42, time, type: 'node.added', key: '/a.jpg', data: text('{"bytes":1024}') },
    { ...none, seq: 43, time, key: '/b.txt' },
  ])
  expect(checkBlock('files', third, crc32)).toMatchObject({ after: 6, last: 9, count: 2, flags: 11 })
  expect(plain(third)).toEqual([
    { ...none, seq: 7, time, key: '/a', data: text('1') },
    { ...none, seq: 9, time: time + 2000, type: 'note', contentType: 'text/plain', data: text('é') },
  ])
})

test('every code that a caller can get stands in the page with its HTTP status', () => {
  const programsOnly = ['in-use', 'cannot-create', 'io-error', 'wrong-config']
  for (const [code, { status }] of Object.entries(ERRORS))
    if (!programsOnly.includes(code)) expect(page).toContain(`${code} ${status}`)
})
