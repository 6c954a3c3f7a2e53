/** `submit`: every append is told once, in its order, whatever happens to the write; and what goes wrong meanwhile. */
import { expect, test, vi } from 'vitest'
import { encodeBody } from '../../src/body.ts'
import { TidemarkError } from '../../src/errors.ts'
import type { Appended, Log, Submission } from '../../src/log/log.ts'
import { Tail } from '../../src/log/tail.ts'
import { body, range, tempLog } from '../parts.ts'
import { failable } from './failable.ts'
import { append, refusal, seqsAndValues } from './reading.ts'

/** Submits, and writes down what is told, by name: a seq or a code. */
class Teller {
  readonly told: string[] = []
  readonly #log: Log

  constructor(log: Log) {
    this.#log = log
  }

  submit(name: string, given: Partial<Submission> = {}): void {
    this.#log.submit({
      ...{ channel: 'c', body: body(name), expectedSeq: undefined, idempotencyKey: undefined, create: true },
      appended: ({ last, duplicate }: Appended) => this.told.push(`${name} ${duplicate ? 'again ' : ''}${last}`),
      failed: (error) => this.told.push(`${name} ${error instanceof TidemarkError ? error.code : String(error)}`),
      ...given,
    })
  }

  async until(count: number): Promise<readonly string[]> {
    await expect.poll(() => this.told.length).toBe(count)
    return this.told
  }
}

test('Submissions of one write are told once each, in their order, those that are refused among them', async () => {
  const teller = new Teller(await tempLog())
  teller.submit('first')
  teller.submit('conflict', { expectedSeq: 7 })
  teller.submit('nowhere', { channel: 'd', create: false })
  teller.submit('second', { expectedSeq: 1, idempotencyKey: 'k' })
  teller.submit('second', { expectedSeq: 1, idempotencyKey: 'k' })
  teller.submit('other', { idempotencyKey: 'k' })
  teller.submit('third')
  expect(await teller.until(7)).toEqual([
    ...['first 1', 'conflict seq-conflict', 'nowhere no-channel', 'second 2', 'second again 2', 'other key-reused'],
    'third 3',
  ])
  teller.submit('none', { body: encodeBody([]) })
  expect((await teller.until(8)).at(-1)).toBe('none bad-request')
})

test('Submissions whose write fails, and those behind it, are told once each; closing tells the rest', async () => {
  const { log, failNextWrite } = await failable()
  const teller = new Teller(log)
  await append(log, 'c', ['before'])
  failNextWrite()
  for (const i of range(1, 5)) teller.submit(`failed${i}`)
  expect(await teller.until(5)).toEqual(range(1, 5).map((i) => `failed${i} unavailable`))
  await expect.poll(() => log.health().state).toBe('ok')
  teller.submit('after')
  const closed = log.close()
  teller.submit('late')
  await closed
  expect((await teller.until(7)).slice(5).sort()).toEqual(['after 2', 'late unavailable'])
})

test('A fault behind a write is told to its appends, and mended by opening again: what is on disk is read', async () => {
  const { log } = await failable()
  await append(log, 'c', [1])
  vi.spyOn(Tail.prototype, 'push').mockImplementationOnce(() => {
    throw new Error('a fault of ours')
  })
  expect(await refusal(append(log, 'c', [2]))).toMatchObject({ code: 'unavailable', outcome: 'unknown' })
  await expect.poll(() => log.health().state).toBe('ok')
  await append(log, 'c', [3])
  expect(await seqsAndValues(log, 'c')).toEqual([
    [1, 1],
    [2, 2],
    [3, 3],
  ])
})

test('A fault of one who is told of a failed write holds up neither the others nor the log', async () => {
  const { log, failNextWrite } = await failable()
  const faults: string[] = []
  const soon = queueMicrotask
  vi.spyOn(globalThis, 'queueMicrotask').mockImplementation((work) =>
    soon(() => {
      try {
        work()
      } catch (error) {
        faults.push(String(error))
      }
    }),
  )
  const teller = new Teller(log)
  await append(log, 'c', [1])
  failNextWrite()
  let calls = 0
  const failed = () => {
    calls++
    throw new Error('a fault of theirs')
  }
  teller.submit('faulty', { failed })
  teller.submit('other')
  expect(await teller.until(1)).toEqual(['other unavailable'])
  await expect.poll(() => log.health().state).toBe('ok')
  teller.submit('after')
  expect((await teller.until(2)).at(-1)).toBe('after 2')
  // A refusal at once, too, is told once.
  const closed = log.close()
  expect(() => teller.submit('late', { failed })).not.toThrow()
  await closed
  expect(calls).toBe(2)
  // Each ends the process, were it not kept from that here.
  expect(faults).toEqual(['Error: a fault of theirs', 'Error: a fault of theirs'])
})

test('A trim is seen by whoever reads behind it, however many channels its write touches', async () => {
  const log = await tempLog()
  await append(log, 'c', range(1, 10))
  const { epoch } = await log.info('c')
  const read = () => log.read('c', { epoch, after: 7 }, { events: 100, bytes: 100_000 })
  expect(await read()).toMatchObject({ trimmed: 0, last: 10 })
  // More than are cached, in one write.
  const others = range(1, 20_500).map((i) => log.configure(`n${i}`, {}))
  const trimmed = log.trim('c', 5)
  await Promise.all([...others, trimmed])
  expect(await read()).toMatchObject({ trimmed: 5, last: 10 })
})
