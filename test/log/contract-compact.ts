/** What compaction rests on: blocks in place of others, and the run of the epoch. */
import { crc32 } from 'node:zlib'
import { expect, test } from 'vitest'
import { buildBlock, readHeader, spansOf } from '../../src/block.ts'
import { encodeBody } from '../../src/body.ts'
import { compactChannel } from '../../src/log/compact.ts'
import { Follower, seqAt } from '../../src/log/follow.ts'
import type { Capability, Log, Replacement } from '../../src/log/log.ts'
import { event, range } from '../parts.ts'
import { type Open, somewhere } from './contract.ts'
import { ALL, append, eventsOf, readAll, refusal, seqsAndValues, valueIn } from './reading.ts'

/** Everything, whatever its age and place; done at once. */
const ALL_OF_IT = { minLag: 0, tombstoneAge: -60_000, restTimes: 0 } as const

/** Appends one block: `k` is an event of key k, `-k` its tombstone, a number one without a key. */
const put = (log: Log, ...what: readonly (string | number)[]) => {
  const events = what.map((it, i) =>
    typeof it === 'number'
      ? event(it)
      : it.startsWith('-')
        ? event(undefined, { key: it.slice(1) })
        : event(`${it}${i}`, { key: it }),
  )
  return log.append([{ channel: 'c', body: encodeBody(events) }])
}
/** Every event, its data as plain bytes. */
const eventsIn = async (log: Log) =>
  (await readAll(log, 'c')).map((it) => ({ ...it, data: it.data && Uint8Array.from(it.data) }))
const seqsOf = async (log: Log, after = 0) => (await readAll(log, 'c', { after })).map(({ seq }) => seq)

/** One block in place of all blocks of `c`, without some of its events. */
async function merged(log: Log, without: readonly number[] = []): Promise<Replacement> {
  const { epoch, trimmed, blocks } = await log.read('c', { after: (await log.info('c')).trimmed }, ALL)
  const replaced = blocks.map((block) => readHeader(block))
  const { after, time } = replaced[0]!
  const last = replaced.at(-1)!.last
  const spans = blocks.flatMap(spansOf).filter(({ seq }) => !without.includes(seq))
  return { epoch, trimmed, replaced, blocks: [buildBlock('c', { after, last, time }, spans, crc32)!] }
}

export function compactContract(open: Open, capabilities: readonly Capability[]): void {
  if (!capabilities.includes('compact')) {
    test('An engine that does not compact says so', async () => {
      const log = await open()
      await append(log, 'c', [1])
      expect(await refusal(compactChannel(log, 'c'))).toMatchObject({ code: 'not-supported', capability: 'compact' })
    })
    return
  }

  test('Blocks stand in place of others, from every place, also after closing and opening', async () => {
    const at = somewhere()
    let log = await open({ at })
    for (const value of range(1, 9)) await append(log, 'c', [value])
    const before = await log.info('c')
    expect(await log.replace!('c', await merged(log, [1, 4, 5, 9]))).toBe(true)
    for (const reopened of [false, true]) {
      if (reopened) {
        await log.close()
        log = await open({ at })
      }
      expect(await log.info('c')).toEqual(before)
      for (const after of range(0, 8)) {
        const page = await log.read('c', { epoch: before.epoch, after }, ALL)
        expect(page).toMatchObject({ after, last: 9, head: 9 })
        expect(eventsOf(page).map(valueIn)).toEqual([2, 3, 6, 7, 8].filter((seq) => seq > after))
      }
    }
    expect(await append(log, 'c', ['ten'])).toMatchObject({ first: 10 })
    expect((await seqsAndValues(log, 'c', { after: 7 })).at(-1)).toEqual([10, 'ten'])
  })

  test('What does not stand there any more is not replaced', async () => {
    const log = await open()
    for (const value of range(1, 6)) await append(log, 'c', [value])
    const old = await merged(log, [2])
    expect(await log.replace!('c', old)).toBe(true)
    expect(await log.replace!('c', old)).toBe(false)
    expect(await seqsOf(log)).toEqual([1, 3, 4, 5, 6])
    const other = await merged(log)
    expect(await refusal(log.replace!('c', { ...other, epoch: 'other' }))).toMatchObject({ code: 'epoch-changed' })
    await log.delete('c')
    for (const value of range(1, 6)) await append(log, 'c', [value])
    expect(await refusal(log.replace!('c', other))).toMatchObject({ code: 'epoch-changed' })
    expect(await seqsOf(log)).toEqual(range(1, 6))
  })

  test('A trim that came into a stretch since it was read stands', async () => {
    const log = await open()
    for (const value of range(1, 6)) await append(log, 'c', [value])
    for (const upTo of [3, 6]) {
      const old = await merged(log)
      const [trimmed, replaced] = await Promise.all([log.trim('c', upTo), log.replace!('c', old)])
      expect([trimmed.trimmed, replaced]).toEqual([upTo, false])
      expect(await seqsOf(log, upTo)).toEqual(range(upTo + 1, 6))
    }
  })

  test('What is not a chain over the same seqs is refused', async () => {
    const log = await open()
    for (const value of range(1, 4)) await append(log, 'c', [value])
    const { replaced, ...rest } = await merged(log)
    for (const wrong of [replaced.slice(1), replaced.slice(0, -1), [replaced[0]!, replaced[3]!], []])
      await expect(log.replace!('c', { ...rest, replaced: wrong })).rejects.toThrow()
    await expect(log.replace!('c', { ...rest, replaced, blocks: [] })).rejects.toThrow()
    // Its header tells of one event, it holds four.
    const lying = buildBlock('c', { ...replaced[0]!, last: 4 }, rest.blocks.flatMap(spansOf), crc32)!
    expect(await refusal(log.replace!('c', { ...rest, replaced, blocks: [lying] }))).toMatchObject({ code: 'internal' })
    expect(await seqsOf(log)).toEqual(range(1, 4))
  })

  test('A reader who may have missed what is cleaned is told; others are moved to the new run', async () => {
    const at = somewhere()
    let log = await open({ at })
    for (const value of range(1, 9)) await append(log, 'c', [value])
    const { epoch } = await log.info('c')
    const gone = new AbortController()
    const waits = log.changed('c', { epoch, after: 9 }, gone.signal).catch((reason) => reason)
    const cleaned = await log.clean!('c', 5, epoch)
    expect(cleaned).toMatchObject({ epoch: `${epoch}~1`, head: 9, trimmed: 0 })
    for (const reopened of [false, true]) {
      if (reopened) {
        gone.abort('moved on silently')
        expect(await waits).toBe('moved on silently')
        await log.close()
        log = await open({ at })
      }
      for (const after of range(1, 4))
        expect(await refusal(log.read('c', { epoch, after }, ALL))).toMatchObject({
          ...{ code: 'epoch-changed', epoch: cleaned.epoch },
        })
      for (const after of [0, 5, 6, 9])
        expect(await log.read('c', { epoch, after }, ALL)).toMatchObject({ epoch: cleaned.epoch, last: 9 })
      await log.changed('c', { epoch, after: 4 }, gone.signal.aborted ? new AbortController().signal : gone.signal)
    }
    expect(await log.clean!('c', 3, epoch)).toMatchObject({ epoch: `${epoch}~2` })
    expect(await refusal(log.read('c', { epoch: cleaned.epoch, after: 4 }, ALL))).toMatchObject({
      code: 'epoch-changed',
    })
  })

  test('A cursor keeps the run in which its client stood there', async () => {
    const log = await open()
    for (const value of range(1, 9)) await append(log, 'c', [value])
    const { epoch } = await log.info('c')
    await log.commit('web', 'c', { seq: 2 })
    const cleaned = await log.clean!('c', 5, epoch)
    expect(await log.cursor('web', 'c')).toMatchObject({ seq: 2, epoch })
    const { follower } = await Follower.open(log, 'c', { client: 'web' })
    expect(await follower.next(ALL)).toMatchObject({ is: 'reset', epoch: cleaned.epoch })
    expect(await log.commit('web', 'c', { seq: 3 })).toMatchObject({ seq: 3, epoch })
    expect(await log.commit('web', 'c', { seq: 4, epoch })).toMatchObject({ seq: 4, epoch })
    expect(await log.commit('web', 'c', { seq: 5, epoch })).toMatchObject({ seq: 5, epoch: cleaned.epoch })
    expect(await log.seek('web', 'c', { seq: 1, epoch })).toMatchObject({ seq: 1, epoch })
    expect(await log.commit('web', 'c', { seq: 2, epoch: cleaned.epoch })).toMatchObject({ epoch: cleaned.epoch })
  })

  test('A cursor before what was cleaned is over for a client that begins anew, and for nobody else', async () => {
    const log = await open()
    for (const value of range(1, 9)) await append(log, 'c', [value])
    const { epoch } = await log.info('c')
    await log.commit('web', 'c', { seq: 4, epoch })
    const cleaned = await log.clean!('c', 5, epoch)
    for (const mine of [undefined, epoch])
      expect(await log.commit('web', 'c', { seq: 2, ...(mine && { epoch: mine }) })).toMatchObject({ seq: 4, epoch })
    const anew = { seq: 2, epoch: cleaned.epoch }
    expect(await log.commit('web', 'c', anew)).toMatchObject(anew)
    expect(await log.commit('web', 'c', { ...anew, seq: 1 })).toMatchObject(anew)
    await log.commit('far', 'c', { seq: 7 })
    expect(await log.commit('far', 'c', anew)).toMatchObject({ seq: 7 })
  })

  test('Who begins anew is in the run of now, and is not told again', async () => {
    const log = await open()
    for (const value of range(1, 9)) await append(log, 'c', [value])
    const { epoch } = await log.info('c')
    const cleaned = await log.clean!('c', 5, epoch)
    for (const [seq, at] of [
      [0, cleaned.epoch],
      [3, epoch],
      [7, epoch],
    ] as const) {
      const { follower, opened } = await Follower.open(log, 'c', { after: { at: 'seq', seq }, epoch })
      expect([seq, opened.epoch]).toEqual([seq, at])
      expect([seq, (await follower.next(ALL))!.is]).toEqual([seq, seq === 3 ? 'reset' : 'page'])
    }
  })

  test('A time is looked up while tombstones are about to go', async () => {
    const log = await open()
    for (const value of range(1, 9)) await append(log, 'c', [value])
    const info = await log.info('c')
    const amid = new Proxy(log, {
      get: (target, name) => {
        const verb: unknown = Reflect.get(target, name)
        if (name !== 'read') return typeof verb === 'function' ? verb.bind(target) : verb
        return async (...args: Parameters<Log['read']>) => {
          const { epoch } = await log.info('c')
          if (epoch === info.epoch) await log.clean!('c', 9, epoch)
          return target.read(...args)
        }
      },
    })
    expect(await seqAt(amid, info, { at: 'time', time: 1 })).toBe(0)
  })

  test('The newest event of each key stays, and every event without one; seqs and times stay', async () => {
    const log = await open()
    await put(log, 'a', 1, 'b')
    await put(log, 'a', 'a')
    await put(log, 2)
    await put(log, 'b', 'c', '-c', '-d')
    const before = await eventsIn(log)
    const planned = await compactChannel(log, 'c', { ...ALL_OF_IT, tombstoneAge: 60_000, dryRun: true })
    expect(await eventsIn(log)).toEqual(before)
    const report = await compactChannel(log, 'c', { ...ALL_OF_IT, tombstoneAge: 60_000 })
    expect(report).toEqual(planned)
    expect(report).toMatchObject({ upTo: 10, events: { before: 10, after: 6 }, tombstones: 0, complete: true })
    expect(report.blocks).toEqual({ before: 4, after: 1 })
    expect(await eventsIn(log)).toEqual(before.filter(({ seq }) => [2, 5, 6, 7, 9, 10].includes(seq)))
    expect((await log.read('c', { after: 0 }, ALL)).blocks.length).toBe(1)
    expect(await compactChannel(log, 'c', { ...ALL_OF_IT, tombstoneAge: 60_000 })).toMatchObject({
      ...{ events: { before: 6, after: 6 }, bytes: { before: report.bytes.after, after: report.bytes.after } },
    })
  })

  test('The newest events are not touched', async () => {
    const log = await open()
    for (const key of ['a', 'a', 'a', 'b', 'a', 'a']) await put(log, key)
    await compactChannel(log, 'c', { ...ALL_OF_IT, minLag: 3 })
    expect(await seqsOf(log)).toEqual([4, 5, 6])
    await compactChannel(log, 'c', { ...ALL_OF_IT, minAge: 60_000 })
    expect(await seqsOf(log)).toEqual([4, 5, 6])
  })

  test('Tombstones that are old enough go, and whoever may have missed them is told', async () => {
    const log = await open()
    await put(log, 'a', 'b')
    await put(log, '-a')
    await put(log, 'c')
    const { epoch } = await log.info('c')
    expect(await compactChannel(log, 'c', ALL_OF_IT)).toMatchObject({ tombstones: 1, events: { before: 4, after: 2 } })
    expect(await seqsOf(log)).toEqual([2, 4])
    for (const after of [1, 2])
      expect(await refusal(log.read('c', { epoch, after }, ALL))).toMatchObject({ code: 'epoch-changed' })
    for (const after of [0, 3, 4]) expect(await log.read('c', { epoch, after }, ALL)).toMatchObject({ last: 4 })
  })

  test('An append that is sent again has its first answer, though its events are gone', async () => {
    const at = somewhere()
    let log = await open({ at })
    const send = (key: string) =>
      log.append([{ channel: 'c', body: encodeBody([event('x', { key: 'a' }), event(undefined, { key: 'b' })]) }], {
        idempotencyKey: key,
      })
    const [first] = await send('first')
    await send('second')
    await compactChannel(log, 'c', ALL_OF_IT)
    expect(await seqsOf(log)).toEqual([3])
    for (const reopened of [false, true]) {
      if (reopened) {
        await log.close()
        log = await open({ at })
      }
      expect(await send('first')).toEqual([{ ...first, head: 4, duplicate: true }])
    }
    expect(await seqsOf(log)).toEqual([3])
  })

  test('More keys than fit in memory are taken a part at a time', async () => {
    const log = await open()
    for (const round of range(1, 3)) await put(log, ...range(1, 300).map((key) => `key ${key} ${round === 4}`))
    const options = { ...ALL_OF_IT, newestBytes: 4_000 }
    expect(await compactChannel(log, 'c', { ...options, dryRun: true })).toMatchObject({ events: { after: 300 } })
    expect(await compactChannel(log, 'c', options)).toMatchObject({ events: { before: 900, after: 300 } })
    expect(await seqsOf(log)).toEqual(range(601, 900))
  })

  test('Space is given back while others append', async () => {
    const log = await open()
    for (const value of range(1, 50)) await append(log, 'c', [value])
    await log.trim('c', 40)
    const [, ...answers] = await Promise.all([
      log.reclaim?.('c', 0, 40),
      ...range(51, 70).map((v) => append(log, 'c', [v])),
    ])
    expect(answers.map(({ last }) => last)).toEqual(range(51, 70))
    expect((await readAll(log, 'c', { after: 40 })).map(valueIn)).toEqual(range(41, 70))
  })
}
