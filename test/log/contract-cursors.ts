import { expect, test } from 'vitest'
import type { Cursor } from '../../src/log/log.ts'
import { range } from '../parts.ts'
import { type Open, somewhere } from './contract.ts'
import { append, list, refusal } from './reading.ts'

export function cursorContract(open: Open): void {
  test('A cursor that was never set is undefined; a commit sets it in the history of today', async () => {
    const log = await open()
    const { epoch } = await append(log, 'c', range(1, 5))
    expect(await log.cursor('web', 'c')).toBeUndefined()
    const start = Date.now()
    const cursor = await log.commit('web', 'c', { seq: 3 })
    expect(cursor).toEqual({ client: 'web', channel: 'c', epoch, seq: 3, time: cursor.time })
    expect(cursor.time).toBeGreaterThanOrEqual(start)
    expect(await log.cursor('web', 'c')).toEqual(cursor)
    expect(await log.cursor('other', 'c')).toBeUndefined()
  })

  test('A commit only moves forward: a lower or equal one changes nothing and answers the cursor as it stands', async () => {
    const log = await open()
    await append(log, 'c', range(1, 5))
    const cursor = await log.commit('web', 'c', { seq: 3 })
    for (const seq of [0, 1, 2, 3]) expect(await log.commit('web', 'c', { seq })).toEqual(cursor)
    expect(await log.cursor('web', 'c')).toEqual(cursor)
    expect(await log.commit('web', 'c', { seq: 5 })).toMatchObject({ seq: 5 })
  })

  test('Commits that are under way together leave the cursor at the highest', async () => {
    const log = await open()
    await append(log, 'c', range(1, 50))
    const seqs = range(1, 50).map((i) => (i * 7) % 51)
    const answers = await Promise.all(seqs.map((seq) => log.commit('web', 'c', { seq })))
    for (const [i, { seq }] of answers.entries()) expect(seq).toBeGreaterThanOrEqual(seqs[i]!)
    expect(await log.cursor('web', 'c')).toMatchObject({ seq: 50 })
  })

  test('A commit beyond the head is refused and moves nothing', async () => {
    const log = await open()
    const { epoch } = await append(log, 'c', range(1, 3))
    await log.commit('web', 'c', { seq: 1 })
    for (const move of ['commit', 'seek'] as const)
      expect(await refusal(log[move]('web', 'c', { seq: 4 }))).toMatchObject({
        ...{ code: 'ahead-of-head', epoch, trimmed: 0, head: 3 },
      })
    expect(await log.cursor('web', 'c')).toMatchObject({ seq: 1 })
  })

  test('A commit for another epoch is refused and moves nothing; for the right one it counts', async () => {
    const log = await open()
    const { epoch } = await append(log, 'c', range(1, 3))
    await log.commit('web', 'c', { seq: 1, epoch })
    for (const move of ['commit', 'seek'] as const)
      expect(await refusal(log[move]('web', 'c', { seq: 2, epoch: 'another' }))).toMatchObject({
        ...{ code: 'epoch-changed', epoch, trimmed: 0, head: 3 },
      })
    expect(await log.cursor('web', 'c')).toMatchObject({ seq: 1, epoch })
    expect(await log.commit('web', 'c', { seq: 2, epoch })).toMatchObject({ seq: 2, epoch })
  })

  test('A seek moves a cursor anywhere from 0 to the head', async () => {
    const log = await open()
    await append(log, 'c', range(1, 5))
    await log.trim('c', 2)
    for (const seq of [5, 0, 3, 1, 3]) {
      expect(await log.seek('web', 'c', { seq })).toMatchObject({ client: 'web', channel: 'c', seq })
      expect(await log.cursor('web', 'c')).toMatchObject({ seq })
    }
    expect(await log.commit('web', 'c', { seq: 4 })).toMatchObject({ seq: 4 })
  })

  test('A cursor in a channel that does not exist is refused', async () => {
    const log = await open()
    await append(log, 'other', ['x'])
    const refusals = await Promise.all([
      refusal(log.cursor('web', 'c')),
      refusal(log.commit('web', 'c', { seq: 0 })),
      refusal(log.commit('web', 'c', { seq: 1, epoch: 'x' })),
      refusal(log.seek('web', 'c', { seq: 0 })),
      refusal(log.forget('web', 'c')),
    ])
    expect(refusals.map(({ code }) => code)).toEqual(refusals.map(() => 'no-channel'))
    expect(await list(log.cursors({ client: 'web' }))).toEqual([])
  })

  test('Cursors are listed by channel and by client, in the order of names', async () => {
    const log = await open()
    const clients = ['B', 'a', 'a-1', 'a.b', 'a1', 'ab', 'b', '_x'].sort()
    const channels = ['C', 'c', 'c/1', 'c/10', 'c1', 'd'].sort()
    for (const channel of channels) await append(log, channel, range(1, 9))
    for (const client of [...clients].reverse())
      for (const channel of [...channels].reverse()) await log.commit(client, channel, { seq: client.length })
    for (const channel of channels)
      expect((await list(log.cursors({ channel }))).map(names)).toEqual(
        clients.map((client) => [client, channel, client.length]),
      )
    for (const client of clients)
      expect((await list(log.cursors({ client }))).map(names)).toEqual(
        channels.map((channel) => [client, channel, client.length]),
      )
    expect((await list(log.cursors({ channel: 'c' })))[0]).toEqual(await log.cursor(clients[0]!, 'c'))
    expect(await list(log.cursors({ client: 'nobody' }))).toEqual([])
    expect(await list(log.cursors({ client: 'x' }))).toEqual([])
  })

  test('A forgotten cursor is gone from every list, and begins anew with the next commit', async () => {
    const log = await open()
    await append(log, 'c', range(1, 5))
    await log.commit('web', 'c', { seq: 5 })
    await log.commit('app', 'c', { seq: 2 })
    expect(await log.forget('web', 'c')).toBe(true)
    expect(await log.forget('web', 'c')).toBe(false)
    expect(await log.cursor('web', 'c')).toBeUndefined()
    expect(await list(log.cursors({ client: 'web' }))).toEqual([])
    expect((await list(log.cursors({ channel: 'c' }))).map(names)).toEqual([['app', 'c', 2]])
    expect(await log.commit('web', 'c', { seq: 1 })).toMatchObject({ seq: 1 })
  })

  test('Commits, seeks and forgotten cursors survive closing and opening', async () => {
    const at = somewhere()
    const before = await open({ at })
    await append(before, 'c', range(1, 9))
    await append(before, 'd', range(1, 9))
    const cursors: Cursor[] = []
    cursors.push(await before.commit('committed', 'c', { seq: 7 }))
    await before.commit('forgotten', 'c', { seq: 7 })
    await before.forget('forgotten', 'c')
    await before.commit('sought', 'c', { seq: 7 })
    cursors.push(await before.seek('sought', 'c', { seq: 2 }))
    cursors.push(await before.commit('sought', 'd', { seq: 9 }))
    await before.close()
    const log = await open({ at })
    expect(await list(log.cursors({ channel: 'c' }))).toEqual(cursors.slice(0, 2))
    expect(await list(log.cursors({ client: 'sought' }))).toEqual(cursors.slice(1))
    expect(await log.cursor('forgotten', 'c')).toBeUndefined()
  })

  test('The cursors of a deleted channel are gone, and do not come back with its name', async () => {
    const at = somewhere()
    const before = await open({ at })
    const { epoch: old } = await append(before, 'c', range(1, 9))
    await append(before, 'd', ['x'])
    for (const client of ['a', 'b']) await before.commit(client, 'c', { seq: 8 })
    await before.commit('a', 'd', { seq: 1 })
    await before.delete('c')
    expect((await list(before.cursors({ client: 'a' }))).map(names)).toEqual([['a', 'd', 1]])
    await append(before, 'c', range(1, 9))
    const expectNone = async (log: typeof before): Promise<void> => {
      expect(await log.cursor('a', 'c')).toBeUndefined()
      expect(await log.cursor('b', 'c')).toBeUndefined()
      expect(await list(log.cursors({ client: 'b' }))).toEqual([])
      expect((await list(log.cursors({ client: 'a' }))).map(names)).toEqual([['a', 'd', 1]])
    }
    await expectNone(before)
    expect(await list(before.cursors({ channel: 'c' }))).toEqual([])
    expect(await refusal(before.commit('a', 'c', { seq: 8, epoch: old }))).toMatchObject({ code: 'epoch-changed' })
    expect(await before.commit('b', 'c', { seq: 1 })).toMatchObject({ seq: 1 })
    await before.forget('b', 'c')
    await before.close()
    await expectNone(await open({ at }))
  })
}

const names = ({ client, channel, seq }: Cursor): unknown[] => [client, channel, seq]
