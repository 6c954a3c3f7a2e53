/** What a write tells its appends when nobody can say any more whether the leader that it asked was one. */
import { expect, test } from 'vitest'
import { Appending } from '../../src/log/jetstream/appending.ts'
import type { Channels } from '../../src/log/jetstream/channels.ts'
import { Unled } from '../../src/log/jetstream/failures.ts'
import { Lanes } from '../../src/log/jetstream/lanes.ts'
import type { Link } from '../../src/log/jetstream/link.ts'
import { Writer } from '../../src/log/jetstream/writer.ts'
import type { AppendOptions } from '../../src/log/log.ts'
import { body } from '../parts.ts'

/** An engine whose leader is cut off from its replicas, and whose connection ends as soon as that is found. */
function engineOfOneCutOff() {
  const link = {
    isConnected: true,
    canBatch: true,
    facts: { life: 'l', replicas: 3 },
    nc: { isClosed: () => false },
    heedWay: () => {},
    subjectOf: (name: string) => name,
    placeOf: async () => undefined,
    sure: async () => link.leave(),
    publish: async () => link.leave(Object.assign(new Error('nobody is there'), { name: 'NoRespondersError' })),
    leave: (why: Error = new Unled()): never => {
      link.isConnected = false
      throw why
    },
  }
  const known = (name: string) => ({ name, seq: 0, record: undefined })
  const channels = { known, freshKnown: async (name: string) => known(name) } as unknown as Channels
  const writer = new Writer(link as unknown as Link, channels, { refused: () => {} })
  const lanes = new Lanes()
  return (value: unknown, { expectedSeq, ...options }: AppendOptions & { expectedSeq?: number } = {}) =>
    new Promise<unknown>((appended, failed) => {
      const entry = { channel: 'c', body: body(value), expectedSeq }
      const means = { link: link as unknown as Link, channels, writer }
      lanes.enter(new Appending(means, [entry], options, { appended, failed }))
    }).catch((error) => error.code)
}

test.each([
  ['another head', { expectedSeq: 7 }],
  ['another head, under a key', { idempotencyKey: 'k', expectedSeq: 7 }],
  ['no channel', { create: false }],
])('A refusal that may be untrue is not told, who was refused is to come again: %s', async (_, options) => {
  const append = engineOfOneCutOff()
  expect(await append(1, options)).toBe('unavailable')
})

test('Who was refused for what stood before it in a write that was not stored is to come again, too', async () => {
  const append = engineOfOneCutOff()
  expect(await Promise.all([append(1), append(2, { expectedSeq: 0 })])).toEqual(['unavailable', 'unavailable'])
})
