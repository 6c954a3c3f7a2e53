import { crc32 } from 'node:zlib'
import { expect, test } from 'vitest'
import { sealBlock } from '../../src/block.ts'
import type { Channel } from '../../src/log/level/channels.ts'
import { Tail, tailBlock } from '../../src/log/level/tail.ts'
import { body, range } from '../parts.ts'
import { ALL } from './reading.ts'

const CHANNEL: Channel = {
  ...{ name: 'c', number: 1, settings: {}, life: 'x', head: 0, trimmed: 0, time: 0, cleaned: 0, run: 0 },
}

/** A tail with blocks of `size` events each, and a reader of it. */
function tailOf(budget: number, blocks: number, size: number) {
  const tail = new Tail(budget)
  for (const i of range(0, blocks - 1)) {
    const values = range(i * size + 1, (i + 1) * size)
    tail.push(1, [tailBlock(sealBlock('c', [body(...values)], { after: i * size, time: 1 }, crc32))])
  }
  const channel = { ...CHANNEL, head: blocks * size }
  const page = (after: number, limits = ALL) => tail.page(channel, 'x.x', after, limits)
  return { tail, page }
}

test('Forms that readers make count into the budget, and push the oldest blocks out', () => {
  const { page } = tailOf(100_000, 20, 10)
  expect(page(0)!.blocks.length).toBe(20)
  page(150)!.form('large', () => 'x'.repeat(99_000))
  expect(page(0)).toBeUndefined()
})

test('Readers at one place share a page whose last block goes beyond their limit, as it would be made for each', () => {
  const { page } = tailOf(1_000_000, 2, 60)
  const limits = { events: 100, bytes: 1_000_000 }
  expect(page(0, limits)).toMatchObject({ last: 120 })
  expect(page(0, limits)).toBe(page(0, limits))
  expect(page(0, { events: 50, bytes: 1_000_000 })).toMatchObject({ last: 60 })
  expect(page(0, { events: 100, bytes: 1 })).toMatchObject({ last: 60 })
  expect(page(0, limits)).toMatchObject({ last: 120 })
})

test('Blocks leave in the order in which they came, whatever was trimmed or forgotten meanwhile', () => {
  const { tail, page } = tailOf(1_000_000, 10, 1)
  const other = tailBlock(sealBlock('d', [body(1)], { after: 0, time: 1 }, crc32))
  tail.push(2, [other])
  tail.trim(1, 5)
  expect(page(4)).toBeUndefined()
  expect(page(5)!.blocks.length).toBe(5)
  // Larger than what may stay beside the two newest of channel 1.
  const large = tailBlock(sealBlock('e', [body('x'.repeat(900_000))], { after: 0, time: 1 }, crc32))
  tail.push(3, [large])
  tail.push(3, [{ ...large, after: 1, last: 2 }])
  expect(page(5)).toBeUndefined()
  expect(page(9)).toBeUndefined()
  expect(tail.page({ ...CHANNEL, number: 3, head: 2 }, 'x.x', 1, ALL)!.blocks.length).toBe(1)
})
