import { expect, test } from 'vitest'
import type { Log } from '../../src/log/log.ts'
import { body, range } from '../parts.ts'
import { type Open, somewhere } from './contract.ts'
import { ALL, append, list, never, readAll, refusal, seqsAndValues, valueIn } from './reading.ts'

const namesOf = async (log: Log, prefix: string, after?: string): Promise<string[]> =>
  (await list(log.channels(prefix, after))).map(({ channel }) => channel)

export function channelContract(open: Open): void {
  test('Trim drops exactly the events up to its seq, in the middle of a block too', async () => {
    const at = somewhere()
    let log = await open({ at })
    for (const first of [1, 11, 21]) await append(log, 'c', range(first, first + 9))
    const { epoch } = await log.info('c')
    for (const upTo of [1, 9, 10, 15, 29]) {
      expect(await log.trim('c', upTo)).toMatchObject({ channel: 'c', epoch, trimmed: upTo, head: 30 })
      for (const reopened of [false, true]) {
        if (reopened) {
          await log.close()
          log = await open({ at })
        }
        expect(await log.info('c')).toMatchObject({ epoch, trimmed: upTo, head: 30 })
        expect((await readAll(log, 'c', { epoch, after: upTo })).map(valueIn)).toEqual(range(upTo + 1, 30))
        expect(await refusal(log.read('c', { after: upTo - 1 }, ALL))).toMatchObject({ code: 'gap', trimmed: upTo })
      }
    }
  })

  test('A trim beyond the head ends at the head; a lower one changes nothing', async () => {
    const log = await open()
    await append(log, 'c', range(1, 5))
    expect(await log.trim('c', 0)).toMatchObject({ trimmed: 0, head: 5 })
    expect(await log.trim('c', 3)).toMatchObject({ trimmed: 3, head: 5 })
    expect(await log.trim('c', 2)).toMatchObject({ trimmed: 3, head: 5 })
    expect(await log.trim('c', 99)).toMatchObject({ trimmed: 5, head: 5 })
    expect(await append(log, 'c', ['next'])).toMatchObject({ first: 6 })
    expect(await log.trim('c', 1)).toMatchObject({ trimmed: 5, head: 6 })
    expect(await seqsAndValues(log, 'c', { after: 5 })).toEqual([[6, 'next']])
    expect(await refusal(log.trim('unknown', 1))).toMatchObject({ code: 'no-channel' })
  })

  test('Seqs are not used again after a trim to empty, nor after closing and opening', async () => {
    const at = somewhere()
    const before = await open({ at })
    const { epoch } = await append(before, 'c', range(1, 5))
    await before.trim('c', 5)
    expect(await before.read('c', { epoch, after: 5 }, ALL)).toMatchObject({ last: 5, blocks: [] })
    await before.close()
    let log = await open({ at })
    expect(await log.info('c')).toMatchObject({ epoch, head: 5, trimmed: 5 })
    expect(await append(log, 'c', ['six'])).toMatchObject({ epoch, first: 6 })
    await log.trim('c', 6)
    await log.close()
    log = await open({ at })
    expect(await append(log, 'c', ['seven'], { expectedSeq: 6 })).toMatchObject({ epoch, first: 7 })
    expect(await seqsAndValues(log, 'c', { epoch, after: 6 })).toEqual([[7, 'seven']])
  })

  test('A trim amid appends and readers takes nothing that is newer', async () => {
    const log = await open()
    await append(log, 'c', [1])
    const writing = (async () => {
      for (const i of range(2, 120)) await append(log, 'c', [i])
    })()
    const trimming = (async () => {
      for (let upTo = 0; upTo < 100; ) {
        upTo = (await log.trim('c', upTo + 10)).trimmed
        const { head, trimmed } = await log.info('c')
        expect((await readAll(log, 'c', { after: trimmed })).map(valueIn).slice(0, head - trimmed)).toEqual(
          range(trimmed + 1, head),
        )
      }
    })()
    await Promise.all([writing, trimming])
    const { trimmed } = await log.info('c')
    expect((await readAll(log, 'c', { after: trimmed })).map(valueIn)).toEqual(range(trimmed + 1, 120))
  })

  test('A deleted channel is gone for every verb, and its neighbours are as they were', async () => {
    const log = await open()
    for (const c of ['a', 'b', 'c']) await append(log, c, [c])
    await log.delete('b')
    const refusals = await Promise.all([
      refusal(log.info('b')),
      refusal(log.read('b', { after: 0 }, ALL)),
      refusal(log.trim('b', 1)),
      refusal(log.delete('b')),
      refusal(log.commit('web', 'b', { seq: 0 })),
    ])
    expect(refusals.map(({ code }) => code)).toEqual(refusals.map(() => 'no-channel'))
    expect(await namesOf(log, '')).toEqual(['a', 'c'])
    for (const c of ['a', 'c']) expect(await seqsAndValues(log, c)).toEqual([[1, c]])
    expect(await refusal(append(log, 'b', ['x'], { expectedSeq: 1 }))).toMatchObject({ code: 'seq-conflict', head: 0 })
  })

  test('A trim or a delete that means another history leaves this one alone', async () => {
    const log = await open()
    await append(log, 'c', range(1, 5))
    const { epoch: old } = await log.info('c')
    await log.delete('c', old)
    await append(log, 'c', range(1, 5))
    const { epoch } = await log.info('c')
    for (const refused of [log.trim('c', 3, old), log.delete('c', old)])
      expect(await refusal(refused)).toMatchObject({ code: 'epoch-changed', epoch, trimmed: 0, head: 5 })
    expect((await readAll(log, 'c', { epoch, after: 0 })).map(valueIn)).toEqual(range(1, 5))
    expect(await log.trim('c', 3, epoch)).toMatchObject({ epoch, trimmed: 3, head: 5 })
    await log.delete('c', epoch)
    expect(await refusal(log.info('c'))).toMatchObject({ code: 'no-channel' })
  })

  test('A channel made again begins at 1 under another epoch, and nothing old comes back', async () => {
    const at = somewhere()
    let log = await open({ at })
    const epochs = new Set<string>()
    for (const round of range(1, 4)) {
      // Larger than what a page or a clearing step holds.
      for (const first of [1, 501, 1_001]) await append(log, 'c', range(first, first + 499))
      await log.configure('c', { note: `round ${round}` })
      await log.trim('c', round * 100)
      epochs.add((await log.info('c')).epoch)
      await log.delete('c')
      if (round % 2 === 0) {
        await log.close()
        log = await open({ at })
        expect(await refusal(log.info('c'))).toMatchObject({ code: 'no-channel' })
      }
      const { epoch } = await append(log, 'c', [`round ${round}`])
      expect(epochs.has(epoch)).toBe(false)
      expect(await log.info('c')).toMatchObject({ head: 1, trimmed: 0, settings: {} })
      expect(await seqsAndValues(log, 'c', { epoch, after: 0 })).toEqual([[1, `round ${round}`]])
      await log.close()
      log = await open({ at })
      expect(await seqsAndValues(log, 'c', { epoch, after: 0 })).toEqual([[1, `round ${round}`]])
      await log.delete('c')
    }
    expect(epochs.size).toBe(4)
  })

  test('configure makes a channel, replaces its settings and touches nothing else', async () => {
    const at = somewhere()
    const before = await open({ at })
    const made = await before.configure('c', { note: 'first' })
    expect(made).toMatchObject({ channel: 'c', head: 0, trimmed: 0, time: 0, settings: { note: 'first' } })
    await append(before, 'c', ['a', 'b'], { expectedSeq: 0 })
    await before.trim('c', 1)
    const changed = await before.configure('c', { note: 'second ü' })
    expect(changed).toMatchObject({ epoch: made.epoch, head: 2, trimmed: 1, settings: { note: 'second ü' } })
    await before.close()
    const log = await open({ at })
    expect(await log.info('c')).toEqual(changed)
    expect((await log.configure('c', {})).settings).toEqual({})
    expect(await seqsAndValues(log, 'c', { after: 1 })).toEqual([[2, 'b']])
  })

  test('Channels are listed by prefix and after a name, in the order of their bytes', async () => {
    const log = await open()
    const names = [
      'a',
      'A',
      'a/b',
      'a/b/c',
      'a/bc',
      'a-b',
      'a.b',
      'a:b',
      'a0',
      'aa',
      'b',
      'b/1',
      'b/10',
      'b/2',
      '_s',
      'z',
    ]
    for (const name of names) await append(log, name, [name])
    const sorted = [...names].sort()
    expect(await namesOf(log, '')).toEqual(sorted)
    for (const prefix of ['a', 'a/', 'a/b', 'b/1', 'B', 'zz', '_'])
      expect(await namesOf(log, prefix)).toEqual(sorted.filter((name) => name.startsWith(prefix)))
    for (const after of ['', 'A', 'a/b', 'a/b0', 'zz'])
      expect(await namesOf(log, '', after)).toEqual(sorted.filter((name) => name > after))
    expect(await namesOf(log, 'a/', 'a/b')).toEqual(['a/b/c', 'a/bc'])
    expect(await namesOf(log, 'b', 'a')).toEqual(['b', 'b/1', 'b/10', 'b/2'])
    expect(await namesOf(log, 'a', 'b')).toEqual([])
  })

  test('A listing may be left early, and holds every channel however many there are', async () => {
    const log = await open()
    const names = range(1, 700).map((i) => `n/${`${i}`.padStart(4, '0')}`)
    await Promise.all(names.map((name) => append(log, name, [name])))
    expect(await namesOf(log, 'n/')).toEqual(names)
    const page: string[] = []
    for await (const { channel } of log.channels('n/', names[99]!)) {
      page.push(channel)
      if (page.length === 100) break
    }
    expect(page).toEqual(names.slice(100, 200))
  })

  test('Closing finishes what was accepted, and is harmless twice', async () => {
    const at = somewhere()
    const before = await open({ at })
    const accepted = range(1, 200).map((i) => append(before, `c${i % 3}`, [i]))
    const reopened = async (): Promise<Log> => {
      void before.close()
      // The second call, too, resolves when the log is closed, not before.
      await before.close()
      return open({ at })
    }
    const [log, ...answers] = await Promise.all([reopened(), ...accepted])
    for (const [i, { channel, first }] of answers.entries())
      expect(await seqsAndValues(log, channel, { after: first - 1 })).toContainEqual([first, i + 1])
  })

  test('A closed log is unavailable to every verb, and to those who wait', async () => {
    const log = await open()
    await append(log, 'c', ['a'])
    expect(log.health()).toMatchObject({ state: 'ok', pendingAppends: 0, pendingBytes: 0 })
    const waits = [log.changed('c', { after: 1 }, never()), log.changed('unknown', { after: 0 }, never())].map(refusal)
    await log.close()
    expect(log.health().state).toBe('closed')
    const refusals = await Promise.all([
      ...waits,
      refusal(log.append([{ channel: 'c', body: body('b') }])),
      refusal(log.read('c', { after: 0 }, ALL)),
      refusal(log.changed('c', { after: 1 }, never())),
      refusal(log.info('c')),
      refusal(log.configure('c', {})),
      refusal(log.cursor('web', 'c')),
      refusal(log.commit('web', 'c', { seq: 1 })),
      refusal(log.seek('web', 'c', { seq: 1 })),
      refusal(log.forget('web', 'c')),
      refusal(log.trim('c', 1)),
      refusal(log.delete('c')),
      refusal(list(log.cursors({ channel: 'c' }))),
      refusal(list(log.channels(''))),
    ])
    expect(refusals.map(({ code }) => code)).toEqual(refusals.map(() => 'unavailable'))
  })
}
