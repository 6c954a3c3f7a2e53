import { crc32 } from 'node:zlib'
import fc from 'fast-check'
import { unpack } from 'msgpackr'
import { expect, test } from 'vitest'
import { sealBlock, splitBlocks } from '../../src/block.ts'
import { Queue, Rounds } from '../../src/doors/rounds.ts'
import { type Frames, JSON_FRAMES, MSGPACK_FRAMES, PING } from '../../src/formats/frames.ts'
import { Page } from '../../src/log/log.ts'
import { body, range, SEED } from '../parts.ts'

/** A server frame apart, as RFC 6455 §5.2 describes it. */
function parse(frame: Buffer): { opcode: number; payload: Buffer } {
  expect(frame[0]! & 0xf0).toBe(0x80)
  const short = frame[1]!
  expect(short).toBeLessThan(128)
  const [at, length] =
    short < 126 ? [2, short] : short === 126 ? [4, frame.readUInt16BE(2)] : [10, Number(frame.readBigUInt64BE(2))]
  // The shortest form of a length is the only right one.
  expect(length < 126 ? 2 : length < 65_536 ? 4 : 10).toBe(at)
  expect(frame.length).toBe(at + length)
  return { opcode: frame[0]! & 15, payload: frame.subarray(at) }
}

const decode = (frames: Frames, frame: Buffer | readonly Buffer[]) => {
  const { opcode, payload } = parse(Array.isArray(frame) ? Buffer.concat(frame) : (frame as Buffer))
  expect(opcode).toBe(frames.binary ? 2 : 1)
  return frames.binary ? unpack(payload) : JSON.parse(payload.toString())
}

const pageOf = (values: unknown[], after = 0): Page => {
  const block = sealBlock('c', [body(...values)], { after, time: 1 }, crc32)
  const last = after + values.length
  return new Page({ channel: 'c', epoch: 'e.1', after, last, head: last, trimmed: 0, blocks: [block] })
}

test.each([JSON_FRAMES, MSGPACK_FRAMES])('messages of every length are one whole frame', (frames) => {
  const lengths = fc.oneof(fc.nat(300), fc.integer({ min: 65_000, max: 66_000 }))
  fc.assert(
    fc.property(lengths, (length) => {
      const message = { op: 'error', ref: 1, code: 'internal', detail: 'é'.repeat(length) } as const
      expect(decode(frames, frames.message(message))).toEqual(message)
    }),
    { seed: SEED },
  )
  expect(decode(frames, frames.heartbeat)).toEqual({ op: 'heartbeat' })
  expect(parse(PING)).toEqual({ opcode: 9, payload: Buffer.alloc(0) })
})

test.each([JSON_FRAMES, MSGPACK_FRAMES])('a field that is undefined is not sent', (frames) => {
  expect(decode(frames, frames.message({ op: 'pong', ref: undefined }))).toEqual({ op: 'pong' })
})

test('a page is one frame in either form, and its blocks stand in the binary one as they are', () => {
  for (const count of [1, 3, 1_000]) {
    const page = pageOf(range(1, count), 5_000_000_000)
    const json = decode(JSON_FRAMES, JSON_FRAMES.page(page))
    const { events, ...head } = json
    expect(head).toEqual({ op: 'events', channel: 'c', epoch: 'e.1', after: page.after, last: page.last })
    expect(events.map(({ data }: { data: number }) => data)).toEqual(range(1, count))
    const { blocks, ...packed } = decode(MSGPACK_FRAMES, MSGPACK_FRAMES.page(page))
    expect(packed).toEqual(head)
    expect(splitBlocks(blocks)).toEqual(page.blocks.map((block) => Buffer.from(block)))
  }
})

test('a large page that is one reader’s own is the same frame, its blocks uncopied', () => {
  const blocks = [0, 1, 2].map((i) => sealBlock('c', [body('x'.repeat(90_000))], { after: i, time: 1 }, crc32))
  const [own, shared] = [undefined, () => {}].map(
    (onForm) => new Page({ channel: 'c', epoch: 'e.1', after: 0, last: 3, head: 3, trimmed: 0, blocks }, onForm),
  )
  for (const frames of [JSON_FRAMES, MSGPACK_FRAMES]) {
    const [pieces, whole] = [frames.page(own!), frames.page(shared!)]
    expect([pieces.length > 1, whole.length]).toEqual([true, 1])
    expect(Buffer.concat(pieces).equals(whole[0]!)).toBe(true)
  }
  expect(MSGPACK_FRAMES.page(own!)[2]!.buffer).toBe(blocks[1]!.buffer)
})

test('followers of one page share one frame for each subprotocol', () => {
  const block = sealBlock('c', [body(1, 2)], { after: 0, time: 1 }, crc32)
  const of = { channel: 'c', epoch: 'e.1', after: 0, last: 2, head: 2, trimmed: 0, blocks: [block] }
  let kept = 0
  const page = new Page(of, (bytes) => {
    kept += bytes
  })
  expect(JSON_FRAMES.page(page)[0]).toBe(JSON_FRAMES.page(page)[0])
  expect(MSGPACK_FRAMES.page(page)[0]).toBe(MSGPACK_FRAMES.page(page)[0])
  expect(kept).toBe(JSON_FRAMES.page(page)[0]!.length + MSGPACK_FRAMES.page(page)[0]!.length)
  expect(JSON_FRAMES.page(page)).not.toBe(JSON_FRAMES.page(pageOf([1, 2])))
})

test('a round takes everyone who joined before it, and who joins in it gets the next one', async () => {
  const rounds = new Rounds()
  const order: string[] = []
  const done = new Promise<void>((resolve) => {
    const member = (name: string, then?: () => void) => ({
      turn() {
        order.push(name)
        then?.()
      },
    })
    rounds.join(member('a', () => rounds.join(member('c', resolve))))
    rounds.join(member('b', () => void Promise.resolve().then(() => order.push('written'))))
    expect(order).toEqual([])
  })
  await done
  expect(order).toEqual(['a', 'b', 'written', 'c'])
})

test('others run in the middle of a long round', async () => {
  const rounds = new Rounds()
  let had = 0
  const seen: number[] = []
  await new Promise<void>((resolve) => {
    const turn = () => {
      for (const until = performance.now() + 0.2; performance.now() < until; );
      if (++had === 100) resolve()
    }
    for (const _ of range(1, 100)) rounds.join({ turn })
    const look = () => {
      seen.push(had)
      if (had < 100) setImmediate(look)
    }
    look()
  })
  expect(seen.filter((n) => n > 0 && n < 100).length).toBeGreaterThan(1)
})

test('those who are behind get turns in the order in which they joined, and others run in between', async () => {
  const queue = new Queue()
  const order: number[] = []
  let others = 0
  const counting = setInterval(() => others++, 0)
  await new Promise<void>((resolve) => {
    const member = (n: number, left: number) => ({
      turn() {
        order.push(n)
        if (left > 0) queue.join(member(n, left - 1))
        else if (n === 40) resolve()
        for (const until = performance.now() + 0.2; performance.now() < until; );
      },
    })
    for (const n of range(1, 40)) queue.join(member(n, 2))
  })
  clearInterval(counting)
  expect(order).toEqual([...range(1, 40), ...range(1, 40), ...range(1, 40)])
  expect(others).toBeGreaterThan(1)
})

test('behind a slice of those who are behind, others have turns of the event loop to themselves', async () => {
  const queue = new Queue()
  let isOver = false
  let looks = 0
  const look = () => {
    looks++
    if (!isOver) setImmediate(look)
  }
  look()
  /** In which turn of the event loop each had its own. */
  const turns: number[] = []
  await new Promise<void>((resolve) => {
    const turn = () => {
      turns.push(looks)
      for (const until = performance.now() + 3; performance.now() < until; );
      // The last ones join when the slice is over and nobody waits any more.
      if (turns.length >= 10 && turns.length < 15) queueMicrotask(() => queue.join({ turn }))
      if (turns.length === 15) resolve()
    }
    for (const _ of range(1, 10)) queue.join({ turn })
  })
  isOver = true
  for (const [i, n] of turns.slice(1).entries()) expect(n - turns[i]!).toBeGreaterThan(3)
})
