import { crc32 } from 'node:zlib'
import { expect, test } from 'vitest'
import { sealBlock, sliceBlock } from '../../src/block.ts'
import { encodeBody } from '../../src/body.ts'
import type { ArrivalPiece } from '../../src/log/arrival.ts'
import type { Log } from '../../src/log/log.ts'
import { body, event, range } from '../parts.ts'
import { type Open, somewhere } from './contract.ts'
import { ALL, append, list, never, readAll, refusal, seqsAndValues, watched } from './reading.ts'

const T = Date.UTC(2020, 0, 1)
const FROM = 'aaaaaaaaaa.bbbbbbbbbb'

/** Blocks of `c` of three events each, from behind `after` on. */
const blocksOf = (after: number, last: number, time = T): Uint8Array[] =>
  range(0, (last - after) / 3 - 1).map((i) => {
    const first = after + i * 3 + 1
    return sealBlock('c', [body(first, first + 1, first + 2)], { after: first - 1, time: time + first }, crc32)
  })

/** A history of `c` that was trimmed to 6 and goes to 18. */
const OF = { from: FROM, head: 18, trimmed: 6 } satisfies ArrivalPiece
const END = { settings: { note: 'from elsewhere' }, time: T + 99 }

const arriveIn =
  (log: Log) =>
  (piece: Partial<ArrivalPiece>, channel = 'c') =>
    log.arrive!(channel, { ...OF, ...piece })

export function arriveContract(open: Open): void {
  test('A history that comes in pieces is there at its end, with its seqs, times, settings and cursors', async () => {
    const at = somewhere()
    let log = await open({ at })
    const { epoch, ...begun } = await arriveIn(log)({})
    expect(begun).toEqual({ channel: 'c', head: 6, trimmed: 6, isWhole: false })
    expect(epoch).not.toBe(FROM)
    expect(await arriveIn(log)({ blocks: blocksOf(6, 12) })).toMatchObject({ epoch, head: 12, isWhole: false })
    const waiter = watched(log.changed('c', { after: 6 }, never()))
    // Nobody sees it, and nobody takes its name.
    expect(await refusal(log.info('c'))).toMatchObject({ code: 'no-channel' })
    expect(await list(log.channels(''))).toEqual([])
    expect(await refusal(append(log, 'c', ['mine']))).toMatchObject({ code: 'unavailable' })
    expect(await refusal(log.configure('c', {}))).toMatchObject({ code: 'unavailable' })
    expect(
      await refusal(
        log.append([
          { channel: 'd', body: body(1) },
          { channel: 'c', body: body(1) },
        ]),
      ),
    ).toMatchObject({ code: 'unavailable' })
    expect(await refusal(log.info('d'))).toMatchObject({ code: 'no-channel' })
    await arriveIn(log)({ blocks: blocksOf(12, 18) })
    const cursors = [
      { client: 'web', epoch, seq: 9, time: T + 5 },
      { client: 'old', epoch: 'another.life', seq: 99, time: T + 6 },
    ]
    await arriveIn(log)({ cursors })
    expect(await list(log.cursors({ client: 'web' }))).toEqual([])
    expect(waiter.settled).toBe(false)
    expect(await arriveIn(log)({ end: END })).toMatchObject({ epoch, head: 18, trimmed: 6, isWhole: true })
    await waiter.promise
    for (const reopened of [false, true]) {
      if (reopened) {
        await log.close()
        log = await open({ at })
      }
      const info = { channel: 'c', epoch, head: 18, trimmed: 6, time: T + 99, settings: END.settings }
      expect(await log.info('c')).toEqual(info)
      const events = await readAll(log, 'c', { epoch, after: 6 })
      expect(events.map(({ seq, time }) => [seq, time])).toEqual(
        range(7, 18).map((seq) => [seq, T + Math.floor((seq - 1) / 3) * 3 + 1]),
      )
      expect(await refusal(log.read('c', { after: 5 }, ALL))).toMatchObject({ code: 'gap', trimmed: 6 })
      expect(await list(log.cursors({ channel: 'c' }))).toEqual(
        [...cursors].reverse().map((cursor) => ({ channel: 'c', ...cursor })),
      )
      expect(await list(log.cursors({ client: 'web' }))).toHaveLength(1)
    }
    expect(await append(log, 'c', ['next'])).toMatchObject({ epoch, first: 19 })
  })

  test('An arrival goes on where it came to, over restarts, and each piece twice is as once', async () => {
    const at = somewhere()
    const arrive = async (piece: Partial<ArrivalPiece>) => {
      const log = await open({ at })
      const arrived = await arriveIn(log)(piece)
      await log.close()
      return arrived
    }
    for (const [piece, head] of [
      [{}, 6],
      [{ blocks: blocksOf(6, 12) }, 12],
      [{ blocks: blocksOf(6, 18) }, 18],
      [{ end: END }, 18],
    ] as const)
      for (const _ of [1, 2]) {
        expect(await arrive(piece)).toMatchObject({ head })
        expect(await arrive({})).toMatchObject({ head, isWhole: 'end' in piece })
      }
    const log = await open({ at })
    expect(await seqsAndValues(log, 'c', { after: 6 })).toEqual(range(7, 18).map((seq) => [seq, seq]))
    await append(log, 'c', ['mine'])
    // It holds that history, and more by now.
    expect(await arriveIn(log)({})).toMatchObject({ head: 18, isWhole: true })
  })

  test('Nothing is mixed into a channel that holds another history', async () => {
    const log = await open()
    const { epoch } = await append(log, 'c', [1, 2])
    for (const piece of [{}, { blocks: blocksOf(6, 9) }, { end: END }, { from: epoch }])
      expect(await refusal(arriveIn(log)(piece))).toMatchObject({ code: 'epoch-changed', head: 2 })
    await arriveIn(log)({ drop: true })
    expect(await seqsAndValues(log, 'c')).toEqual([
      [1, 1],
      [2, 2],
    ])
    // It is that history itself.
    expect(await log.arrive!('c', { from: epoch, head: 2, trimmed: 0 })).toMatchObject({ isWhole: true })
  })

  test('What does not continue, or is not whole, is refused and changes nothing', async () => {
    const log = await open()
    const [block] = blocksOf(6, 9)
    expect(await refusal(arriveIn(log)({ blocks: [block!] }))).toMatchObject({ code: 'seq-conflict' })
    await arriveIn(log)({})
    const flipped = Uint8Array.from(block!)
    flipped[40]! ^= 1
    // Bytes that stand behind its last event, in its length and its crc.
    const longer = sealBlock(
      'c',
      [{ ...body(7), bytes: Buffer.concat([body(7).bytes, Buffer.of(0xc0)]) }],
      { after: 6, time: T },
      crc32,
    )
    const late = sealBlock('c', [body(7)], { after: 6, time: T + 50 }, crc32)
    const early = sealBlock('c', [body(8)], { after: 7, time: T + 49 }, crc32)
    const hidden = sealBlock(
      'c',
      [encodeBody([event(1, { to: { users: ['u'], groups: [] } })])],
      { after: 6, time: T },
      crc32,
    )
    for (const [code, piece] of [
      ['seq-conflict', { blocks: blocksOf(9, 12) }],
      ['bad-request', { blocks: [flipped] }],
      ['bad-request', { blocks: [sealBlock('other', [body(7)], { after: 6, time: T }, crc32)] }],
      ['bad-request', { blocks: [longer] }],
      ['bad-request', { blocks: [Uint8Array.of(1, 2, 3)] }],
      ['bad-request', { blocks: [late, early] }],
      ['bad-request', { blocks: blocksOf(6, 21) }],
      ['bad-request', { lostUpTo: 19 }],
      ['seq-conflict', { end: END }],
    ] as const)
      expect([piece, await refusal(arriveIn(log)(piece))]).toMatchObject([piece, { code }])
    expect(hidden[1]).toBe(4)
    hidden[1] = 0
    expect(await refusal(arriveIn(log)({ blocks: [hidden] }))).toMatchObject({ code: 'bad-request' })
    expect(await arriveIn(log)({})).toMatchObject({ head: 6 })
  })

  test('A trim there, and events that are lost there, are as they are there', async () => {
    const log = await open()
    await arriveIn(log)({})
    await arriveIn(log)({ blocks: blocksOf(6, 9) })
    expect(await arriveIn(log)({ trimmed: 12 })).toMatchObject({ head: 12, trimmed: 12 })
    expect(await arriveIn(log)({ trimmed: 12, lostUpTo: 14 })).toMatchObject({ head: 14 })
    const [cut] = blocksOf(12, 15).map((block) => sliceBlock('c', block, { after: 14, last: 15 }, crc32))
    await arriveIn(log)({ trimmed: 12, blocks: [cut!, ...blocksOf(15, 18)] })
    await arriveIn(log)({ trimmed: 12, end: END })
    expect(await log.info('c')).toMatchObject({ trimmed: 12, head: 18 })
    expect(await refusal(log.read('c', { after: 12 }, ALL))).toMatchObject({ code: 'data-loss', upTo: 14 })
    expect(await seqsAndValues(log, 'c', { after: 14 })).toEqual(range(15, 18).map((seq) => [seq, seq]))
    expect(await log.losses?.()).toEqual([{ channel: 'c', after: 12, upTo: 14 }])
  })

  test('An epoch that is kept holds for the readers of then; those of an older run take their state anew', async () => {
    for (const from of [FROM, `${FROM}~3`]) {
      const log = await open()
      const piece = { from, head: 9, trimmed: 6, sameEpoch: true }
      await log.arrive!('c', piece)
      await log.arrive!('c', { ...piece, blocks: blocksOf(6, 9) })
      expect(await log.arrive!('c', { ...piece, end: END })).toMatchObject({ epoch: from })
      expect(await append(log, 'c', [10])).toMatchObject({ epoch: from, first: 10 })
      expect(await seqsAndValues(log, 'c', { epoch: from, after: 8 })).toEqual([
        [9, 9],
        [10, 10],
      ])
      await log.commit('web', 'c', { seq: 9, epoch: from })
      if (from !== FROM)
        expect(await refusal(log.read('c', { epoch: `${FROM}~2`, after: 8 }, ALL))).toMatchObject({
          code: 'epoch-changed',
        })
      expect(await refusal(log.arrive!('e', { ...OF, from: 'opaque', sameEpoch: true }))).toMatchObject({
        code: 'bad-request',
      })
    }
  })

  test('An epoch whose channel was made here and deleted is not gone on with: its seqs were seen', async () => {
    const log = await open()
    const { epoch: from } = await append(log, 'c', [1, 2, 3])
    await log.delete('c')
    const piece = { from, head: 2, trimmed: 0 }
    expect(await refusal(log.arrive!('c', { ...piece, sameEpoch: true }))).toMatchObject({ code: 'epoch-changed' })
    const { epoch } = await log.arrive!('c', piece)
    expect(epoch).not.toBe(from)
    // Nor is one that comes anew under this, while it comes: what came stays.
    expect(await refusal(log.arrive!('c', { ...piece, sameEpoch: true }))).toMatchObject({ code: 'epoch-changed' })
    expect(await log.arrive!('c', piece)).toMatchObject({ epoch, isWhole: false })
  })

  test('An arrival that is dropped, deleted or begun anew leaves nothing, and its name is free', async () => {
    const log = await open()
    const cursors = [{ client: 'web', epoch: FROM, seq: 1, time: T }]
    for (const end of [() => arriveIn(log)({ drop: true }), () => log.delete('c')]) {
      await arriveIn(log)({})
      await arriveIn(log)({ blocks: blocksOf(6, 9), cursors })
      await end()
    }
    await arriveIn(log)({ from: 'another.life' })
    expect(await arriveIn(log)({})).toMatchObject({ head: 6 })
    await arriveIn(log)({ blocks: blocksOf(6, 9) })
    await arriveIn(log)({ drop: true })
    expect(await append(log, 'c', ['mine'])).toMatchObject({ first: 1 })
    expect(await list(log.cursors({ client: 'web' }))).toEqual([])
    await log.delete('c')
    expect(await refusal(log.delete('c'))).toMatchObject({ code: 'no-channel' })
    expect(await arriveIn(log)({})).toMatchObject({ head: 6, isWhole: false })
  })
}
