/** Appends of one socket that come together: one append for the log, and for the client what each alone would be. */
import type { Socket } from 'node:net'
import fc from 'fast-check'
import { expect, test, vi } from 'vitest'
import { TidemarkError } from '../../src/errors.ts'
import type { Submission } from '../../src/log/log.ts'
import { range, SEED } from '../parts.ts'
import { type Message, type Peer, SUBPROTOCOLS, startStream } from './stream.ts'

/** In one write. */
function sendTogether(peer: Peer, messages: readonly object[]): void {
  const { _socket: socket } = peer.ws as unknown as { readonly _socket: Socket }
  socket.cork()
  peer.send(...messages)
  socket.uncork()
}

/** The answers to these refs, in the order in which they came; PONGs overtake those that wait for the disk. */
async function answers(peer: Peer, count: number): Promise<Message[]> {
  const all: Message[] = []
  while (all.length < count) all.push(await peer.next())
  return all.filter(({ op }) => op !== 'pong')
}

const channel = fc.constantFrom('a', 'a', 'a', 'b')
const step = fc.oneof(
  { weight: 6, arbitrary: fc.record({ is: fc.constant('plain'), channel, size: fc.integer({ min: 1, max: 3 }) }) },
  { weight: 1, arbitrary: fc.record({ is: fc.constantFrom('expected', 'conflict', 'keyed'), channel }) },
  { weight: 1, arbitrary: fc.record({ is: fc.constantFrom('wrong', 'system', 'ping') }) },
) as fc.Arbitrary<{ is: string; channel?: string; size?: number }>

test.each(SUBPROTOCOLS)('each gets its own answer, in its order, and its own events, %s', async (subprotocol) => {
  const { log, client } = await startStream()
  const heads = new Map<string, number>()
  const written = new Map<string, number[]>()
  const peer = await client(subprotocol)
  let ref = 0
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 40 }), async (steps) => {
      const expected: object[] = []
      const messages = steps.map(({ is, channel = 'a', size = 1 }) => {
        const events = range(1, size).map((n) => ({ data: ++ref * 10 + n }))
        const append = { op: 'append', ref: ref % 2 === 0 ? ref : `é"${ref}`, channel, events }
        const head = heads.get(channel) ?? 0
        const refused = (code: string) => expected.push({ op: 'error', ref: append.ref, code })
        if (is === 'ping') return { op: 'ping', ref }
        if (is === 'wrong') refused('bad-request')
        if (is === 'wrong') return { ...append, events: [...events, { nonsense: 1 }] }
        if (is === 'system') refused('forbidden')
        if (is === 'system') return { ...append, channel: '_switch' }
        if (is === 'conflict') refused('seq-conflict')
        if (is === 'conflict') return { ...append, expectedSeq: head + 1 }
        const key = `${ref}`
        const answer = { op: 'appended', ref: append.ref, channel, first: head + 1, last: head + size }
        expected.push(answer)
        heads.set(channel, head + size)
        written.set(channel, [...(written.get(channel) ?? []), ...events.map(({ data }) => data)])
        if (is === 'expected') return { ...append, expectedSeq: head }
        return is === 'keyed' ? { ...append, idempotencyKey: key } : append
      })
      sendTogether(peer, messages)
      const told = await answers(peer, messages.length)
      expect(told).toMatchObject(expected)
    }),
    { seed: SEED, numRuns: 60, endOnFailure: true },
  )
  for (const [name, values] of written) {
    const reader = await client()
    reader.send({ op: 'subscribe', channel: name, after: 0 })
    await reader.next('subscribed')
    const read: unknown[] = []
    while (read.length < values.length)
      for (const { data } of (await reader.next('events')).events as { data: unknown }[]) read.push(data)
    expect(read).toEqual(values)
    expect((await log.info(name)).head).toBe(values.length)
  }
})

test('they are one append for the log, as far as one holds them', async () => {
  const { log, client, doors } = await startStream()
  const submit = vi.spyOn(log, 'submit')
  const peer = await client()
  const append = (ref: number, more: object = {}) => ({
    op: 'append',
    ref,
    channel: 'c',
    events: [{ data: 1 }],
    ...more,
  })
  sendTogether(
    peer,
    range(1, 10).map((ref) => append(ref)),
  )
  expect((await answers(peer, 10)).map(({ first }) => first)).toEqual(range(1, 10))
  expect(submit).toHaveBeenCalledTimes(1)
  expect(doors.metrics.appends.stream).toMatchObject({ appends: 10, events: 10 })

  submit.mockClear()
  const keyed = append(2, { idempotencyKey: 'k' })
  sendTogether(peer, [append(1), keyed, keyed, append(4), append(5, { expectedSeq: 13 })])
  const told = await answers(peer, 5)
  expect(told.map(({ last, duplicate }) => [last, duplicate === true])).toEqual([
    ...[
      [11, false],
      [12, false],
      [12, true],
      [13, false],
      [14, false],
    ],
  ])
  expect(submit).toHaveBeenCalledTimes(5)

  // Requests keep their order: what stands between two appends comes between them.
  submit.mockClear()
  sendTogether(peer, [append(1), { op: 'ping' }, append(2)])
  expect((await answers(peer, 3)).map(({ last }) => last)).toEqual([15, 16])
  expect(submit).toHaveBeenCalledTimes(2)

  submit.mockClear()
  const events = range(1, 5).map((data) => ({ data }))
  sendTogether(
    peer,
    range(1, 800).map((ref) => append(ref, { events })),
  )
  expect((await answers(peer, 800)).map(({ last }) => last)).toEqual(range(1, 800).map((n) => 16 + 5 * n))
  expect(submit.mock.calls.every(([{ body }]) => body.count <= 1_000)).toBe(true)
})

test('what the log refuses is told to each', async () => {
  const { log, client } = await startStream()
  const peer = await client()
  vi.spyOn(log, 'submit').mockImplementation((submission: Submission) =>
    submission.failed(new TidemarkError('storage-full', 'The disk is full', { retryAfter: 7 })),
  )
  sendTogether(
    peer,
    range(1, 5).map((ref) => ({ op: 'append', ref, channel: 'c', events: [{ data: ref }] })),
  )
  const told = await answers(peer, 5)
  expect(told).toMatchObject(range(1, 5).map((ref) => ({ op: 'error', ref, code: 'storage-full', retryAfter: 7 })))
})

test.each(SUBPROTOCOLS)('what the log refuses at once is told to those behind it, too, %s', async (subprotocol) => {
  const { log, client } = await startStream()
  const peer = await client(subprotocol)
  await log.close()
  const append = (ref: number, channel: string) => ({ op: 'append', ref, channel, events: [{ data: ref }] })
  const messages = [append(1, 'a'), append(2, 'b'), append(3, 'b'), append(4, 'a'), { op: 'ping' }, append(5, 'a')]
  sendTogether(peer, messages)
  expect((await answers(peer, messages.length)).map(({ ref, code }) => [ref, code])).toEqual(
    range(1, 5).map((ref) => [ref, 'unavailable']),
  )
})

test('one that is refused at the door stands between the others', async () => {
  const { client, doors } = await startStream()
  const peer = await client()
  let asked = 0
  vi.spyOn(doors.guard, 'append').mockImplementation(() => {
    if (++asked === 2) throw new TidemarkError('too-many', 'Too many appends a second')
  })
  sendTogether(
    peer,
    range(1, 4).map((ref) => ({ op: 'append', ref, channel: 'c', events: [{ data: ref }] })),
  )
  const told = await answers(peer, 4)
  expect(told.map(({ ref, op }) => [ref, op])).toEqual(
    [1, 2, 3, 4].map((ref) => [ref, ref === 2 ? 'error' : 'appended']),
  )
})
