import { expect, test } from 'vitest'
import { TidemarkError } from '../../src/errors.ts'
import { type Job, Lanes } from '../../src/log/jetstream/lanes.ts'

test('What waits behind a write that NATS did not take is refused with it, unsent; what comes later has its turn', async () => {
  const lanes = new Lanes()
  const ran: string[] = []
  const enter = (name: string, { channels = ['c'], fails }: { channels?: string[]; fails?: TidemarkError } = {}) =>
    new Promise<unknown>((resolve) => {
      const run = async () => {
        ran.push(name)
        if (fails) throw fails
        return { jobs: 1, tell: () => resolve('done') }
      }
      const job: Job = { names: channels, bytes: 1, run, reject: resolve }
      lanes.enter(job)
    })
  const unknown = new TidemarkError('unavailable', 'no answer', { outcome: 'unknown' })
  const refused = { code: 'unavailable', details: { retryAfter: expect.any(Number) } }
  const outcomes = Promise.all([
    enter('first', { fails: unknown }),
    enter('second'),
    enter('other', { channels: ['d'] }),
    enter('third'),
    enter('both', { channels: ['c', 'd'] }),
  ])
  const [first, second, other, third, pair] = await outcomes
  expect(first).toBe(unknown)
  for (const behind of [second, third]) {
    expect(behind).toMatchObject(refused)
    // It was not sent: nobody needs to ask what became of it.
    expect((behind as TidemarkError).details).not.toHaveProperty('outcome')
  }
  expect([other, pair]).toEqual(['done', 'done'])
  const conflict = new TidemarkError('seq-conflict', 'no')
  expect(await Promise.all([enter('fourth', { fails: conflict }), enter('fifth')])).toEqual([conflict, 'done'])
  // Of several lanes, in each of them.
  const both = ['c', 'd']
  const [several, ...behind] = await Promise.all([
    enter('several', { channels: both, fails: unknown }),
    ...both.map((channel) => enter(`behind in ${channel}`, { channels: [channel] })),
  ])
  expect([several, ...behind]).toMatchObject([unknown, refused, refused])
  expect(ran.sort()).toEqual(['both', 'fifth', 'first', 'fourth', 'other', 'several'])
  expect([lanes.pendingJobs, lanes.pendingBytes]).toEqual([0, 0])
})
