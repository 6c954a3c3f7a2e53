import { expect, test, vi } from 'vitest'
import { BODY_BYTES_MAX, type Body, encodeBody } from '../../src/body.ts'
import { APPEND_EVENTS_MAX, formatTime } from '../../src/event.ts'
import type { Appended, Capability } from '../../src/log/log.ts'
import { body, event, range } from '../parts.ts'
import { plain } from '../random.ts'
import { type Open, somewhere } from './contract.ts'
import { append, list, readAll, refusal, seqsAndValues, valueIn } from './reading.ts'

export function appendContract(open: Open, capabilities: readonly Capability[]): void {
  const severalChannels = capabilities.includes('multiChannel')

  test('An append makes its channel, numbers its events from 1 and answers with their seqs', async () => {
    const log = await open()
    const first = await append(log, 'orders', ['a'])
    const { epoch } = await log.info('orders')
    expect(first).toEqual({ channel: 'orders', epoch, first: 1, last: 1, head: 1 })
    expect(await append(log, 'orders', ['b', 'c'])).toEqual({ channel: 'orders', epoch, first: 2, last: 3, head: 3 })
    expect(await seqsAndValues(log, 'orders')).toEqual([
      [1, 'a'],
      [2, 'b'],
      [3, 'c'],
    ])
  })

  test('Every field of an event comes back as it was given', async () => {
    const log = await open()
    const given = [
      event({ bytes: 1024 }, { type: 'node.added', key: '/photos/ü 😀.jpg', id: 'b7c1' }),
      event(undefined, { key: '/photos/a.jpg' }),
      event(null, { type: 't' }),
      { ...event('x'), contentType: 'image/png', data: Uint8Array.of(0, 255, 128) },
      { ...event('x'), contentType: 'text/plain', data: new Uint8Array(0) },
      event('secret', { to: { users: ['ann'], groups: ['/staff', '/ü'] } }),
    ]
    await log.append([{ channel: 'c', body: encodeBody(given) }])
    const { time } = await log.info('c')
    expect(plain(await readAll(log, 'c'))).toEqual(plain(given.map((fields, i) => ({ ...fields, seq: i + 1, time }))))
  })

  test('Appends to different channels share nothing but the log', async () => {
    const log = await open()
    await Promise.all(range(1, 20).map((i) => append(log, `c${i % 4}`, [i])))
    for (const c of range(0, 3))
      expect(await seqsAndValues(log, `c${c}`)).toEqual(
        range(1, 5).map((seq) => [seq, c === 0 ? seq * 4 : (seq - 1) * 4 + c]),
      )
    const epochs = (await list(log.channels(''))).map(({ epoch }) => epoch)
    expect(new Set(epochs).size).toBe(4)
  })

  test('What was answered is there after the log was closed and opened again, under the same epoch', async () => {
    const at = somewhere()
    const before = await open({ at })
    const answer = await append(before, 'c', range(1, 50))
    const info = await before.info('c')
    await before.close()
    const log = await open({ at })
    expect(await log.info('c')).toEqual(info)
    expect(await seqsAndValues(log, 'c', { epoch: answer.epoch, after: 0 })).toEqual(range(1, 50).map((i) => [i, i]))
    expect(await append(log, 'c', ['next'])).toMatchObject({ epoch: answer.epoch, first: 51 })
  })

  test('An append of a thousand events and one that fills a block are taken', async () => {
    const log = await open()
    expect(await append(log, 'c', range(1, APPEND_EVENTS_MAX))).toMatchObject({ first: 1, last: APPEND_EVENTS_MAX })
    const overhead = encodeBody([{ ...event(0), data: new Uint8Array(65_536) }]).bytes.length - 65_536
    const largest = encodeBody([{ ...event(0), data: new Uint8Array(BODY_BYTES_MAX - overhead).fill(7) }])
    expect(largest.bytes.length).toBe(BODY_BYTES_MAX)
    await log.append([{ channel: 'c', body: largest }])
    const [newest] = await readAll(log, 'c', { after: APPEND_EVENTS_MAX })
    expect(newest!.data!.every((byte) => byte === 7)).toBe(true)
  })

  test('An append that does not fit one block is too large, and nothing of it is kept', async () => {
    const log = await open()
    await append(log, 'c', ['before'])
    const tooMany = encodeBody(range(0, APPEND_EVENTS_MAX).map((i) => event(i)))
    const tooLong = { ...body('x'), bytes: new Uint8Array(BODY_BYTES_MAX + 1) }
    for (const refused of [tooMany, tooLong])
      expect(await refusal(log.append([{ channel: 'c', body: refused }]))).toMatchObject({ code: 'too-large' })
    expect(await append(log, 'c', ['after'])).toMatchObject({ first: 2 })
  })

  test('A flood of appends is refused in part, with too-many; what was taken is kept in order and the log goes on', async () => {
    const log = await open()
    const data = new Uint8Array(900 * 1024)
    const flood = range(1, 80).map((i) =>
      log.append([{ channel: 'c', body: encodeBody([{ ...event(i), id: `${i}`, data }]) }]),
    )
    const outcomes = await Promise.allSettled(flood)
    const taken = range(1, 80).filter((i) => outcomes[i - 1]!.status === 'fulfilled')
    const refused = outcomes.filter((outcome) => outcome.status === 'rejected').map(({ reason }) => reason.code)
    expect(new Set(refused)).toEqual(new Set(['too-many']))
    expect(taken.length).toBeGreaterThan(0)
    expect((await readAll(log, 'c')).map(({ id }) => Number(id))).toEqual(taken)
    expect(await append(log, 'c', ['next'])).toMatchObject({ first: taken.length + 1 })
  })

  test('Many appends at once keep the order of each producer, and each answer names its own events', async () => {
    const log = await open()
    const producers = range(1, 8)
    const answers = await Promise.all(
      producers.map((producer) =>
        // Not awaited one by one: a producer's appends are in flight together.
        Promise.all(
          range(1, 60).map((n) =>
            append(
              log,
              'c',
              n % 7 === 0
                ? [
                    [producer, n],
                    [producer, n],
                  ]
                : [[producer, n]],
            ),
          ),
        ),
      ),
    )
    const events = await readAll(log, 'c')
    expect(events.map(({ seq }) => seq)).toEqual(range(1, events.length))
    for (const producer of producers) {
      const own = events.map(valueIn).filter((value) => (value as number[])[0] === producer) as number[][]
      expect(own.map(([, n]) => n)).toEqual(range(1, 60).flatMap((n) => (n % 7 === 0 ? [n, n] : [n])))
      for (const [i, { first, last, head }] of answers[producer - 1]!.entries()) {
        for (const seq of range(first, last)) expect(valueIn(events[seq - 1]!)).toEqual([producer, i + 1])
        expect(head).toBeGreaterThanOrEqual(last)
      }
    }
  })

  test('expectedSeq lets an append through only when it is the head', async () => {
    const log = await open()
    const { epoch } = await append(log, 'c', ['a', 'b'])
    for (const expectedSeq of [0, 1, 3])
      expect(await refusal(append(log, 'c', ['no'], { expectedSeq }))).toMatchObject({
        ...{ code: 'seq-conflict', epoch, trimmed: 0, head: 2 },
      })
    expect(await append(log, 'c', ['c'], { expectedSeq: 2 })).toMatchObject({ first: 3 })
    expect(await seqsAndValues(log, 'c')).toEqual([
      [1, 'a'],
      [2, 'b'],
      [3, 'c'],
    ])
  })

  test('A submission may be of any class: what it says through its getters counts as what it holds', async () => {
    const log = await open()
    const submit = (expectedSeq: number): Promise<Appended> =>
      new Promise((appended, failed) => {
        class Lazy {
          readonly appended = appended
          readonly failed = failed
          get channel(): string {
            return 'c'
          }
          get body(): Body {
            return body('it')
          }
          get expectedSeq(): number {
            return expectedSeq
          }
          get idempotencyKey(): undefined {
            return undefined
          }
          get create(): boolean {
            return true
          }
        }
        log.submit(new Lazy())
      })
    expect(await submit(0)).toMatchObject({ channel: 'c', first: 1 })
    expect(await refusal(submit(0))).toMatchObject({ code: 'seq-conflict', head: 1 })
  })

  test('expectedSeq 0 is the head of a channel that does not exist; a refusal does not make it', async () => {
    const log = await open()
    expect(await refusal(append(log, 'c', ['no'], { expectedSeq: 1 }))).toMatchObject({ code: 'seq-conflict', head: 0 })
    expect(await refusal(log.info('c'))).toMatchObject({ code: 'no-channel' })
    expect(await append(log, 'c', ['yes'], { expectedSeq: 0 })).toMatchObject({ first: 1 })
  })

  test('An append that is not to make its channel is refused where there is none, and makes nothing', async () => {
    const log = await open()
    const create = false
    expect(await refusal(append(log, 'c', [1], { create }))).toMatchObject({ code: 'no-channel' })
    expect(await refusal(append(log, 'c', [1], { create, expectedSeq: 0, idempotencyKey: 'k' }))).toMatchObject({
      code: 'no-channel',
    })
    expect(await list(log.channels(''))).toEqual([])
    await log.configure('c', {})
    const first = await append(log, 'c', [1], { create, idempotencyKey: 'k' })
    expect(first).toMatchObject({ first: 1, last: 1 })
    expect(await append(log, 'c', [1], { create, idempotencyKey: 'k' })).toMatchObject({ first: 1, duplicate: true })
    if (!severalChannels) return
    const both = log.append(
      ['c', 'd'].map((channel) => ({ channel, body: body(2) })),
      { create },
    )
    expect(await refusal(both)).toMatchObject({ code: 'no-channel', channel: 'd' })
    expect((await list(log.channels(''))).map(({ channel, head }) => [channel, head])).toEqual([['c', 1]])
  })

  test('Of many writers that believe in one head, one wins and the others are told the new head', async () => {
    const log = await open()
    await append(log, 'c', ['start'])
    const outcomes = await Promise.allSettled(range(1, 20).map((i) => append(log, 'c', [i, i], { expectedSeq: 1 })))
    expect(outcomes.filter(({ status }) => status === 'fulfilled').length).toBe(1)
    const heads = outcomes.filter((outcome) => outcome.status === 'rejected').map(({ reason }) => reason.details.head)
    expect(heads).toEqual(heads.map(() => 3))
    const winner = outcomes.findIndex(({ status }) => status === 'fulfilled') + 1
    expect((await readAll(log, 'c')).map(valueIn)).toEqual(['start', winner, winner])
  })

  test('expectedSeq counts what was sent before it, also when that is not answered yet', async () => {
    const log = await open()
    const answers = await Promise.all(range(0, 30).map((i) => append(log, 'c', [i], { expectedSeq: i })))
    expect(answers.map(({ first }) => first)).toEqual(range(1, 31))
  })

  test('Writers that retry with the head they were told lose no update', async () => {
    const log = await open()
    const write = async (): Promise<void> => {
      for (let expectedSeq = 0; ; ) {
        const outcome = await append(log, 'c', [expectedSeq + 1], { expectedSeq }).catch((error) => error)
        if (outcome.code === undefined) return
        expect(outcome.code).toBe('seq-conflict')
        expectedSeq = outcome.details.head
      }
    }
    await Promise.all(range(1, 12).map(write))
    expect(await seqsAndValues(log, 'c')).toEqual(range(1, 12).map((i) => [i, i]))
  })

  test('Time never falls within a channel, though the clock of the machine does', async () => {
    const at = somewhere()
    let log = await open({ at })
    try {
      vi.useFakeTimers({ toFake: ['Date'] })
      for (const [i, hour] of [12, 13, 9, 14, 8].entries()) {
        vi.setSystemTime(`2040-01-01T${`${hour}`.padStart(2, '0')}:00:00Z`)
        if (i === 2) {
          await log.close()
          log = await open({ at })
        }
        await append(log, 'c', [hour])
      }
    } finally {
      vi.useRealTimers()
    }
    const times = (await readAll(log, 'c')).map(({ time }) => formatTime(time).slice(11, 13))
    expect(times).toEqual(['12', '13', '13', '14', '14'])
    expect(formatTime((await log.info('c')).time).slice(11, 13)).toBe('14')
  })

  if (!severalChannels) {
    test('An append to several channels is not supported, and nothing of it is kept', async () => {
      const log = await open()
      const entries = ['a', 'b'].map((channel) => ({ channel, body: body(channel) }))
      expect(await refusal(log.append(entries))).toMatchObject({ code: 'not-supported' })
      expect(await list(log.channels(''))).toEqual([])
    })
    return
  }

  test('An append to several channels answers for each, in the order of its entries', async () => {
    const log = await open()
    await append(log, 'b', ['b0'])
    const answers = await log.append(
      ['c', 'a', 'b'].map((channel) => ({ channel, body: body(`${channel}1`, `${channel}2`) })),
    )
    expect(answers.map(({ channel, first, last, head }) => [channel, first, last, head])).toEqual([
      ['c', 1, 2, 2],
      ['a', 1, 2, 2],
      ['b', 2, 3, 3],
    ])
    for (const { channel, epoch, first } of answers)
      expect(await seqsAndValues(log, channel, { epoch, after: first - 1 })).toEqual([
        [first, `${channel}1`],
        [first + 1, `${channel}2`],
      ])
  })

  test('An append to several channels is too large beyond 4 MiB, and nothing of it is kept', async () => {
    const log = await open()
    const entries = range(1, 5).map((i) => ({ channel: `c${i}`, body: body('x'.repeat(900_000)) }))
    expect(await refusal(log.append(entries))).toMatchObject({ code: 'too-large' })
    expect(await list(log.channels(''))).toEqual([])
    expect((await log.append(entries.slice(0, 4))).length).toBe(4)
  })

  test('An append to several channels with one wrong expectedSeq appends nothing anywhere', async () => {
    const log = await open()
    await append(log, 'b', ['b0'])
    const entries = [
      { channel: 'a', body: body('a1') },
      { channel: 'b', body: body('b1'), expectedSeq: 0 },
      { channel: 'c', body: body('c1'), expectedSeq: 0 },
    ]
    expect(await refusal(log.append(entries))).toMatchObject({ code: 'seq-conflict', channel: 'b', head: 1 })
    expect((await list(log.channels(''))).map(({ channel, head }) => [channel, head])).toEqual([['b', 1]])
  })

  test('Of writers that race over two channels each is whole or absent', async () => {
    const log = await open()
    const outcomes = await Promise.allSettled(
      range(1, 12).map((i) => {
        const channels = i % 2 === 0 ? ['a', 'b'] : ['b', 'a']
        return log.append(channels.map((channel) => ({ channel, body: body(i), expectedSeq: Math.floor((i - 1) / 4) })))
      }),
    )
    const won = range(1, 12).filter((i) => outcomes[i - 1]!.status === 'fulfilled')
    expect(won.length).toBeGreaterThan(0)
    const [a, b] = await Promise.all(['a', 'b'].map((channel) => readAll(log, channel)))
    expect(a!.map(valueIn).sort()).toEqual([...won].sort())
    expect(b!.map(valueIn)).toEqual(a!.map(valueIn))
  })

  test('An append to several channels survives closing as a whole', async () => {
    const at = somewhere()
    const before = await open({ at })
    const channels = range(1, 30).map((i) => `c${i}`)
    await before.append(channels.map((channel) => ({ channel, body: body(channel) })))
    await before.close()
    const log = await open({ at })
    for (const channel of channels) expect(await seqsAndValues(log, channel)).toEqual([[1, channel]])
  })
}
