import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { crc32 } from 'node:zlib'
import { expect, test } from 'vitest'
import { sealBlock } from '../../src/block.ts'
import { Tail, type TailChannel, tailBlock } from '../../src/log/tail.ts'
import { body, range } from '../parts.ts'
import { ALL } from './reading.ts'

const CHANNEL: TailChannel = {
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

test('A form of a block is made once, whatever the place of its reader, and goes with the block', () => {
  const { tail, page } = tailOf(105_000, 20, 10)
  let made = 0
  const make = () => {
    made++
    return 'x'.repeat(20_000)
  }
  const early = page(0)!
  expect(early.blockForm(19, 'json', make)).toBe(page(185)!.blockForm(1, 'json', make))
  expect(early.blockForm(18, 'json', make).length).toBe(20_000)
  expect(made).toBe(2)
  // Forms count: two more do not fit beside the oldest blocks.
  for (const i of [16, 17]) early.blockForm(i, 'json', make)
  expect(page(0)!.blocks.length).toBe(20)
  early.blockForm(15, 'json', make)
  expect(page(0)).toBeUndefined()
  // Of a block that is gone nothing is kept or counted.
  tail.forget(1)
  for (const _ of range(1, 10)) early.blockForm(14, 'json', make)
  expect(made).toBe(15)
  tail.push(1, [tailBlock(sealBlock('c', [body('x'.repeat(90_000))], { after: 200, time: 1 }, crc32))])
  expect(tail.page({ ...CHANNEL, head: 201 }, 'x.x', 200, ALL)!.blocks.length).toBe(1)
})

test('Forms are kept of the newest blocks only', () => {
  const { page } = tailOf(20_000, 20, 40)
  const all = page(0)!
  const made: number[] = []
  const make = (i: number) => () => {
    made.push(i)
    return 'x'
  }
  for (const _ of [1, 2]) for (const i of [0, 19]) all.blockForm(i, 'json', make(i))
  expect(made).toEqual([0, 19, 0])
})

test('Only a page that ends at the head is kept for all who stand at its place', () => {
  const { page } = tailOf(1_000_000, 20, 10)
  expect(page(150)!.isShared).toBe(true)
  const middle = page(50, { events: 20, bytes: 1_000_000 })!
  expect(middle).toMatchObject({ last: 70, isShared: false, hasBlockForms: true })
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

test('Of a block that was dropped nothing is kept, also while its neighbours stay', async () => {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  const tail = new Tail(60_000)
  const made: WeakRef<Uint8Array>[] = []
  for (const i of range(0, 199)) {
    const block = tailBlock(sealBlock('c', [body('x'.repeat(500))], { after: i, time: 1 }, crc32))
    made.push(new WeakRef(block.bytes))
    tail.push(1, [block])
  }
  const held = range(0, 199).filter((after) => tail.page({ ...CHANNEL, head: 200 }, 'x.x', after, ALL)).length
  // What a WeakRef was asked for lives until the end of the turn of the event loop.
  await new Promise((resolve) => setImmediate(resolve))
  collect()
  expect(held).toBeGreaterThan(10)
  expect(made.filter((ref) => ref.deref()).length).toBe(held)
  expect(tail.page({ ...CHANNEL, head: 200 }, 'x.x', 199, ALL)!.blocks.length).toBe(1)
})
