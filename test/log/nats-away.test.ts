import { describe, expect, onTestFinished, test, vi } from 'vitest'
import type { Log } from '../../src/log/log.ts'
import { type NatsOptions, openLog } from '../../src/log/open.ts'
import { bigBody, range } from '../parts.ts'
import { Line } from './line.ts'
import { natsOfFile } from './nats.ts'
import { append, never, readAll, refusal, valueIn, watched } from './reading.ts'

const nats = await natsOfFile()

let places = 0
const newPlace = (): string => `a${++places}`

async function opened(options: Partial<NatsOptions>): Promise<Log> {
  const log = await openLog({ dir: 'nowhere', nats: { servers: [nats!.url], ...options } })
  onTestFinished(() => log.close())
  return log
}

/** Two ways to the server, a log that has taken one of them, and one that goes straight. */
async function ways(): Promise<{ log: Log; other: Log; taken: Line; spare: Line }> {
  const namespace = newPlace()
  const lines = [new Line(nats!.url), new Line(nats!.url)]
  const servers = await Promise.all(lines.map((line) => line.open()))
  const log = await opened({ namespace, servers })
  const other = await opened({ namespace })
  const [taken, spare] = lines[0]!.connections > 0 ? lines : lines.reverse()
  return { log, other, taken: taken!, spare: spare! }
}

describe.skipIf(!nats)('a NATS that is cut off', () => {
  test('A server that falls silent is left for another one; who waits goes on waiting, and is told what came', {
    timeout: 40_000,
  }, async () => {
    const { log, other, taken } = await ways()
    const { epoch } = await append(log, 'c', [1])
    // What is known is not asked for before it is written to.
    await Promise.all(range(1, 30).map((i) => append(log, `large/${i}`, [0])))
    const waiting = watched(log.changed('c', { epoch, after: 1 }, never()))
    taken.ends = 'silent'
    taken.passes = 0
    // Sent, and perhaps stored; and one that waits behind it.
    const outcomes = [2, 3].map((i) => append(log, 'c', [i], { idempotencyKey: `k${i}` }).catch((error) => error))
    await append(other, 'c', ['elsewhere'])
    expect(waiting.settled).toBe(false)
    // More than there is room for on the way: the connection is left all the same.
    taken.stand()
    const large = (i: number) =>
      log.append([{ channel: `large/${i}`, body: bigBody(`${i}`, 900_000) }], { idempotencyKey: `l${i}` })
    const unsent = range(1, 30).map((i) => large(i).catch((error) => expect(error.code).toBe('unavailable')))
    await waiting.promise
    await vi.waitFor(() => expect(log.health().state).toBe('ok'), { timeout: 10_000 })
    await Promise.all(unsent)
    for (const i of range(1, 30)) expect(await large(i)).toMatchObject([{ first: 2, last: 2 }])
    for (const [i, outcome] of (await Promise.all(outcomes)).entries())
      if (outcome.code !== undefined) {
        expect(outcome).toMatchObject({ code: 'unavailable', details: { retryAfter: expect.any(Number) } })
        await append(log, 'c', [i + 2], { idempotencyKey: `k${i + 2}` })
      }
    const values = (await readAll(log, 'c')).map(valueIn)
    expect(values.toSorted()).toEqual([1, 2, 3, 'elsewhere'])
    expect((await readAll(other, 'c')).map(valueIn)).toEqual(values)
  })

  test('A server that is cut off from those that have the stream is left for another one', {
    timeout: 60_000,
  }, async () => {
    const { log, other, taken, spare } = await ways()
    const { epoch } = await append(log, 'c', [1])
    const waiting = watched(log.changed('c', { epoch, after: 1 }, never()))
    const alone = nats!.another({ jetstream: null })
    onTestFinished(() => alone.end())
    await alone.start()
    taken.to = alone.url
    spare.isDown = true
    taken.cut()
    await vi.waitFor(() => expect(taken.connections).toBe(0))
    taken.isDown = false
    await vi.waitFor(() => expect(taken.connections).toBe(1), { timeout: 10_000 })
    spare.isDown = false
    await append(other, 'c', [2])
    await vi.waitFor(() => expect(log.health().state).not.toBe('ok'), { timeout: 10_000 })
    await vi.waitFor(() => expect(spare.connections).toBe(1), { timeout: 30_000 })
    await waiting.promise
    await vi.waitFor(() => expect(log.health().state).toBe('ok'), { timeout: 10_000 })
    for (const i of range(3, 5)) await append(log, 'c', [i])
    expect((await readAll(log, 'c')).map(valueIn)).toEqual(range(1, 5))
  })

  test('A piece of a history from elsewhere is refused for now while NATS is gone, and taken when it is back', async () => {
    const { log, taken, spare } = await ways()
    const piece = { from: 'another.life', head: 3, trimmed: 0 }
    const { epoch } = await log.arrive!('c', piece)
    for (const line of [taken, spare]) line.isDown = true
    taken.cut()
    const refused = { code: 'unavailable', retryAfter: expect.any(Number) }
    expect(await refusal(log.arrive!('c', piece))).toMatchObject(refused)
    for (const line of [taken, spare]) line.isDown = false
    await vi.waitFor(() => expect(log.health().state).toBe('ok'), { timeout: 10_000 })
    expect(await log.arrive!('c', piece)).toMatchObject({ epoch, head: 0, isWhole: false })
  })
})
