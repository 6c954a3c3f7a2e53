import { expect, test, vi } from 'vitest'
import { type ChannelInfo, CURSOR_RENEW_MS, type Cursor } from '../../src/log/log.ts'
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
    const all = channels.flatMap((channel) => clients.map((client) => [client, channel, client.length]))
    if (!log.allCursors) return
    expect((await list(log.allCursors())).map(names)).toEqual(all)
    await log.delete('c1')
    expect((await list(log.allCursors())).map(names)).toEqual(all.filter(([, channel]) => channel !== 'c1'))
  })

  test('Channels and cursors are counted: all, those whose name or whose client begins so, and none beyond the most', async () => {
    const log = await open({ isUntouched: true })
    for (const channel of ['a', 'a/1', 'b']) await append(log, channel, [1])
    for (const channel of ['a', 'b'])
      for (const client of ['u1~x', 'u1~y', 'u2~x']) await log.commit(client, channel, { seq: 1 })
    const count = (what: 'channels' | 'cursors', beginning: string, most = 100) => log.count!(what, beginning, most)
    expect(await Promise.all(['', 'a', 'a/', 'c'].map((beginning) => count('channels', beginning)))).toEqual([
      3, 2, 1, 0,
    ])
    expect(await Promise.all(['', 'u', 'u1~', 'x'].map((beginning) => count('cursors', beginning)))).toEqual([
      6, 6, 4, 0,
    ])
    expect([await count('channels', '', 2), await count('cursors', 'u', 5)]).toEqual([2, 5])
    await log.forget('u1~x', 'a')
    expect([await count('cursors', ''), await count('cursors', 'u1~')]).toEqual([5, 3])
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

  test('The cursors that lag most are told, of all channels or of one, with how many there are', async () => {
    const log = await open()
    const channels = range(1, 30).map((n) => `c/${n}`)
    // Of many more rows than are read at once, and one channel with most of them.
    const clients = (n: number) => range(1, n === 17 ? 1_200 : n % 4).map((i) => `client-${i}`)
    for (const [i, channel] of channels.entries()) {
      await append(log, channel, range(1, 40 + i))
      if (i % 5 === 0) await log.trim(channel, 20)
      const seqs = clients(i).map((_, at) => (at * 7 + i) % (40 + i))
      await Promise.all(clients(i).map((client, at) => log.commit(client, channel, { seq: seqs[at]! })))
    }
    await append(log, channels[3]!, range(1, 500))
    await log.forget('client-1', channels[5]!)
    const all: Behind[] = []
    for (const channel of channels) {
      const info = await log.info(channel)
      for (const cursor of await list(log.cursors({ channel })))
        all.push({ lag: info.head - Math.max(cursor.seq, info.trimmed), cursor, info })
    }
    const expectWorst = async (most: number, channel?: string): Promise<void> => {
      const { cursors, found } = await log.lagging(most, channel)
      const wanted = all.filter(({ info }) => channel === undefined || info.channel === channel)
      expect(found).toBe(wanted.length)
      const lags = cursors.map(({ cursor, info }) => info.head - Math.max(cursor.seq, info.trimmed))
      expect(lags).toEqual(
        wanted
          .map(({ lag }) => lag)
          .sort((a, b) => b - a)
          .slice(0, most),
      )
      const known = new Map(wanted.map(({ cursor, info }) => [`${cursor.channel} ${cursor.client}`, { cursor, info }]))
      const told = new Set(cursors.map(({ cursor: { channel, client } }) => `${channel} ${client}`))
      expect(told.size).toBe(cursors.length)
      for (const each of cursors) expect(each).toEqual(known.get(`${each.cursor.channel} ${each.cursor.client}`))
    }
    for (const most of [1, 3, 40, 700, 5_000]) await expectWorst(most)
    for (const channel of [channels[3]!, channels[4]!, channels[17]!]) await expectWorst(100, channel)
    expect((await log.lagging(1)).cursors[0]!.cursor.channel).toBe(channels[3])
    expect(await refusal(log.lagging(1, 'none'))).toMatchObject({ code: 'no-channel' })
  })

  test('Of a deleted channel no cursor lags, also while its name is used again', async () => {
    const log = await open()
    for (const channel of ['c', 'd']) await append(log, channel, range(1, 9))
    for (const client of ['a', 'b']) for (const channel of ['c', 'd']) await log.commit(client, channel, { seq: 1 })
    await log.delete('c')
    const told = async () => {
      const { cursors, found } = await log.lagging(10)
      expect(found).toBe(cursors.length)
      return cursors.map(({ cursor }) => names(cursor))
    }
    const ofD = [
      ['a', 'd', 1],
      ['b', 'd', 1],
    ]
    expect(await told()).toEqual(ofD)
    await append(log, 'c', range(1, 99))
    expect(await told()).toEqual(ofD)
    await log.commit('b', 'c', { seq: 2 })
    expect(await told()).toEqual([['b', 'c', 2], ...ofD])
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

  test('A commit that moves nothing shows life: the time of a cursor that was silent for long is renewed, its seq stays', async () => {
    const log = await open()
    await append(log, 'c', range(1, 5))
    const { time } = await log.commit('web', 'c', { seq: 3 })
    try {
      for (const [later, renewed] of [
        [CURSOR_RENEW_MS - 60_000, false],
        [CURSOR_RENEW_MS + 60_000, true],
      ] as const) {
        vi.useFakeTimers({ toFake: ['Date'], now: time + later })
        const cursor = await log.commit('web', 'c', { seq: 1 })
        expect(cursor).toMatchObject({ seq: 3, time: renewed ? time + later : time })
        expect(await log.cursor('web', 'c')).toEqual(cursor)
      }
    } finally {
      vi.useRealTimers()
    }
  })

  test('A cursor is forgotten as silent only if it has shown no life since', async () => {
    const log = await open()
    await append(log, 'c', range(1, 5))
    const { time } = await log.commit('web', 'c', { seq: 3 })
    expect(await log.forget('never', 'c', time)).toBe(false)
    expect(await log.forget('web', 'c', time - 1)).toBe(false)
    expect(await log.cursor('web', 'c')).toMatchObject({ seq: 3 })
    // Both in one group: the commit came first.
    const [moved, gone] = await Promise.all([log.seek('web', 'c', { seq: 4 }), log.forget('web', 'c', time - 1)])
    expect([moved.seq, gone]).toEqual([4, false])
    expect(await log.forget('web', 'c', Date.now())).toBe(true)
    expect(await log.cursor('web', 'c')).toBeUndefined()
    expect(await list(log.cursors({ client: 'web' }))).toEqual([])
  })
}

const names = ({ client, channel, seq }: Cursor): unknown[] => [client, channel, seq]

interface Behind {
  readonly lag: number
  readonly cursor: Cursor
  readonly info: ChannelInfo
}
