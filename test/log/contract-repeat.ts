import { expect, test } from 'vitest'
import type { Appended, Capability } from '../../src/log/log.ts'
import { body, range } from '../parts.ts'
import { type Open, somewhere } from './contract.ts'
import { append, readAll, refusal, seqsAndValues, valueIn } from './reading.ts'

export function repeatContract(open: Open, capabilities: readonly Capability[]): void {
  const key = { idempotencyKey: 'k1' }

  test('The same append under the same key gives the first answer again, with the head as it is now', async () => {
    const log = await open()
    const answer = await append(log, 'c', ['a', 'b'], key)
    expect(answer.duplicate).toBeUndefined()
    await append(log, 'c', ['other'])
    for (const _ of range(1, 2))
      expect(await append(log, 'c', ['a', 'b'], key)).toEqual({ ...answer, head: 3, duplicate: true })
    expect((await readAll(log, 'c')).map(valueIn)).toEqual(['a', 'b', 'other'])
  })

  test('A key is remembered over closing and opening', async () => {
    const at = somewhere()
    const before = await open({ at })
    const answer = await append(before, 'c', ['a'], key)
    await before.close()
    const log = await open({ at })
    expect(await append(log, 'c', ['a'], key)).toEqual({ ...answer, duplicate: true })
    expect(await refusal(append(log, 'c', ['b'], key))).toMatchObject({ code: 'key-reused' })
    expect((await log.info('c')).head).toBe(1)
  })

  test('A key is remembered though its events were trimmed', async () => {
    const at = somewhere()
    const before = await open({ at })
    const answer = await append(before, 'c', ['a'], key)
    await append(before, 'c', ['b'])
    await before.trim('c', 2)
    expect(await append(before, 'c', ['a'], key)).toEqual({ ...answer, head: 2, duplicate: true })
    await before.close()
    const log = await open({ at })
    expect(await append(log, 'c', ['a'], key)).toEqual({ ...answer, head: 2, duplicate: true })
    expect(await append(log, 'c', ['c'])).toMatchObject({ first: 3 })
  })

  test('Another append under a used key is refused and appends nothing', async () => {
    const log = await open()
    await append(log, 'c', ['a'], key)
    for (const values of [['b'], ['a', 'a'], ['a ']])
      expect(await refusal(append(log, 'c', values, key))).toMatchObject({ code: 'key-reused' })
    expect((await log.info('c')).head).toBe(1)
  })

  test('A retry while the first is under way waits for its answer', async () => {
    const log = await open()
    const answers = await Promise.all(range(1, 10).map(() => append(log, 'c', ['a', 'b'], key)))
    const { epoch } = await log.info('c')
    for (const { duplicate: _, ...answer } of answers)
      expect(answer).toEqual({ channel: 'c', epoch, first: 1, last: 2, head: 2 })
    expect(answers.filter(({ duplicate }) => duplicate).length).toBe(9)
    expect((await log.info('c')).head).toBe(2)
  })

  test('Another append under the key of one that is under way is refused', async () => {
    const log = await open()
    const [first, second] = await Promise.all([append(log, 'c', ['a'], key), refusal(append(log, 'c', ['b'], key))])
    expect(second).toMatchObject({ code: 'key-reused' })
    expect(first).toMatchObject({ first: 1, last: 1 })
    expect((await log.info('c')).head).toBe(1)
  })

  test('A key is looked at before expectedSeq', async () => {
    const log = await open()
    const answer = await append(log, 'c', ['a'], { ...key, expectedSeq: 0 })
    await append(log, 'c', ['b'])
    expect(await append(log, 'c', ['a'], { ...key, expectedSeq: 0 })).toEqual({ ...answer, head: 2, duplicate: true })
    expect(await refusal(append(log, 'c', ['z'], { ...key, expectedSeq: 0 }))).toMatchObject({ code: 'key-reused' })
  })

  test('A retry that is under way together with its first passes expectedSeq too', async () => {
    const log = await open()
    const answers = await Promise.all(range(1, 3).map(() => append(log, 'c', ['a'], { ...key, expectedSeq: 0 })))
    expect(answers.map(({ first }) => first)).toEqual([1, 1, 1])
    expect(answers.filter(({ duplicate }) => duplicate).length).toBe(2)
  })

  test('A refused append leaves its key unused', async () => {
    const log = await open()
    const conflict = { ...key, expectedSeq: 1 }
    expect(await refusal(append(log, 'c', ['b'], conflict))).toMatchObject({ code: 'seq-conflict' })
    await append(log, 'c', ['a'])
    expect(await append(log, 'c', ['b'], conflict)).toMatchObject({ first: 2 })
    expect(await append(log, 'c', ['b'], conflict)).toMatchObject({ first: 2, duplicate: true })
  })

  test('A retry beside a first that is refused is refused with it, and the key stays unused', async () => {
    const log = await open()
    const conflict = { ...key, expectedSeq: 1 }
    const outcomes = await Promise.allSettled([1, 2].map(() => append(log, 'c', ['b'], conflict)))
    for (const outcome of outcomes) expect(outcome).toMatchObject({ reason: { code: 'seq-conflict' } })
    await append(log, 'c', ['a'])
    expect(await append(log, 'c', ['b'], conflict)).toMatchObject({ first: 2 })
  })

  test('A key belongs to its channel: in another one it is another key', async () => {
    const log = await open()
    await append(log, 'a', ['x'], key)
    const answer = await append(log, 'b', ['y'], key)
    expect(answer).toMatchObject({ channel: 'b', first: 1 })
    expect(answer.duplicate).toBeUndefined()
    expect(await append(log, 'b', ['y'], key)).toEqual({ ...answer, duplicate: true })
  })

  test('Keys may be any printable ASCII, and none is taken for another', async () => {
    const log = await open()
    const keys = [' ', '~', 'a', 'a ', 'ab', 'A', 'k'.repeat(127), 'k'.repeat(128), '/', '"']
    for (const [i, idempotencyKey] of keys.entries())
      expect((await append(log, 'c', [i], { idempotencyKey })).first).toBe(i + 1)
    for (const [i, idempotencyKey] of keys.entries())
      expect(await append(log, 'c', [i], { idempotencyKey })).toMatchObject({
        first: i + 1,
        last: i + 1,
        duplicate: true,
      })
  })

  test('Each of many appends that were written together has its own receipt', async () => {
    const at = somewhere()
    const before = await open({ at })
    const send = (log: typeof before) =>
      Promise.all(
        range(1, 100).map((i) => append(log, `c${i % 3}`, range(1, (i % 5) + 1), { idempotencyKey: `k${i}` })),
      )
    const answers = await send(before)
    await before.close()
    const log = await open({ at })
    const again = await send(log)
    expect(again.map(({ head: _, ...answer }) => answer)).toEqual(
      answers.map(({ head: _, ...answer }) => ({ ...answer, duplicate: true })),
    )
    for (const c of range(0, 2)) expect((await log.info(`c${c}`)).head).toBe(countOf(answers, `c${c}`))
  })

  test('Keys of a deleted channel do not answer for the new one', async () => {
    const at = somewhere()
    const before = await open({ at })
    const { epoch } = await append(before, 'c', ['a', 'b'], key)
    await before.delete('c')
    const answer = await append(before, 'c', ['z'], key)
    expect(answer).toMatchObject({ first: 1, last: 1 })
    expect(answer.duplicate).toBeUndefined()
    expect(answer.epoch).not.toBe(epoch)
    await before.close()
    const log = await open({ at })
    expect(await append(log, 'c', ['z'], key)).toEqual({ ...answer, duplicate: true })
  })

  test('A channel that was deleted while its first append waited does not answer with the old history', async () => {
    const log = await open()
    await append(log, 'c', ['old'])
    const [first, , again] = await Promise.all([
      append(log, 'c', ['a'], key),
      log.delete('c'),
      append(log, 'c', ['a'], key).catch((error) => error),
    ])
    const outcome = again.code ?? again.epoch
    // Whichever came first, nobody is told of events in a history that does not hold them.
    if (outcome === first.epoch) expect(again.duplicate).toBe(true)
    else expect(await seqsAndValues(log, 'c', { epoch: outcome, after: 0 })).toEqual([[1, 'a']])
  })

  if (!capabilities.includes('multiChannel')) return

  test('The receipt of an append to several channels lasts as long as one of them', async () => {
    const at = somewhere()
    const entries = ['a', 'b'].map((channel) => ({ channel, body: body(`${channel}1`) }))
    const before = await open({ at })
    const answers = await before.append(entries, key)
    await before.delete('a')
    const again = answers.map(({ head: _, ...answer }) => ({ ...answer, duplicate: true }))
    expect(await before.append(entries, key)).toMatchObject(again)
    await append(before, 'a', ['another history'])
    await before.close()
    const log = await open({ at })
    expect(await log.append(entries, key)).toMatchObject(again)
    expect(await refusal(append(log, 'b', ['b1'], key))).toMatchObject({ code: 'key-reused' })
    for (const c of ['a', 'b']) expect((await log.info(c)).head).toBe(1)
  })

  test('A key of an append to several channels covers all of them', async () => {
    const at = somewhere()
    const entries = ['a', 'b'].map((channel) => ({ channel, body: body(`${channel}1`) }))
    const before = await open({ at })
    const answers = await before.append(entries, key)
    await append(before, 'b', ['b2'])
    const duplicates = answers.map((answer, i) => ({ ...answer, head: i + 1, duplicate: true }))
    expect(await before.append(entries, key)).toEqual(duplicates)
    await before.close()
    const log = await open({ at })
    expect(await log.append(entries, key)).toEqual(duplicates)
    expect(await refusal(log.append(entries.slice(0, 1), key))).toMatchObject({ code: 'key-reused' })
    expect(await refusal(log.append([entries[0]!, { channel: 'b', body: body('b3') }], key))).toMatchObject({
      code: 'key-reused',
    })
    expect((await log.info('b')).head).toBe(2)
  })
}

/** How many events the answers gave to one channel. */
const countOf = (answers: readonly Appended[], name: string): number =>
  answers.filter(({ channel }) => channel === name).reduce((sum, { first, last }) => sum + last - first + 1, 0)
