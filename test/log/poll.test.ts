import { describe, expect, test } from 'vitest'
import { readOrWait } from '../../src/log/follow.ts'
import type { Place } from '../../src/log/log.ts'
import { tempLog } from '../parts.ts'
import { ALL, append, eventsOf, refusal, until, valueIn, watched } from './reading.ts'

describe('a long poll', () => {
  test('answers at once with what is there', async () => {
    const log = await tempLog()
    const { epoch } = await append(log, 'c', [1, 2])
    const page = await readOrWait(log, 'c', { epoch, after: 1 }, ALL, until(log))
    expect(page).toMatchObject({ after: 1, last: 2, head: 2 })
    expect(eventsOf(page).map(valueIn)).toEqual([2])
  })

  test('waits at the head for the next event', async () => {
    const log = await tempLog()
    await append(log, 'c', [1])
    const poll = watched(readOrWait(log, 'c', { after: 1 }, ALL, until(log)))
    await append(log, 'other', [1])
    expect(poll.settled).toBe(false)
    await append(log, 'c', [2])
    expect(eventsOf(await poll.promise).map(valueIn)).toEqual([2])
  })

  test('does not miss an append between its read and its wait', async () => {
    const log = await tempLog()
    await append(log, 'c', [1])
    const wait = until(log)
    const late = {
      isOver: false,
      changed: async (channel: string, from: Place): Promise<void> => {
        await append(log, 'c', [2])
        await wait.changed(channel, from)
      },
    }
    expect(eventsOf(await readOrWait(log, 'c', { after: 1 }, ALL, late)).map(valueIn)).toEqual([2])
  })

  test('answers with an empty page when its time is over', async () => {
    const log = await tempLog()
    const { epoch } = await append(log, 'c', [1])
    const over = new AbortController()
    const poll = readOrWait(log, 'c', { after: 1 }, ALL, until(log, over.signal))
    over.abort()
    expect(await poll).toMatchObject({ epoch, after: 1, last: 1, head: 1, blocks: [], caughtUp: true })
    expect(await readOrWait(log, 'c', { after: 1 }, ALL, until(log, over.signal))).toMatchObject({
      last: 1,
      blocks: [],
    })
    expect(await readOrWait(log, 'c', { after: 0 }, ALL, until(log, over.signal))).toMatchObject({ last: 1 })
  })

  test('of a channel that does not exist waits for it; without time to wait it is refused', async () => {
    const log = await tempLog()
    const poll = readOrWait(log, 'c', { after: 0 }, ALL, until(log))
    const over = new AbortController()
    const late = refusal(readOrWait(log, 'c', { after: 0 }, ALL, until(log, over.signal)))
    over.abort()
    expect(await late).toMatchObject({ code: 'no-channel' })
    expect(await refusal(readOrWait(log, 'c', { after: 0 }, ALL, until(log, AbortSignal.abort())))).toMatchObject({
      code: 'no-channel',
    })
    expect(await refusal(readOrWait(log, 'c', { epoch: 'old', after: 0 }, ALL, until(log)))).toMatchObject({
      code: 'no-channel',
    })
    await append(log, 'c', [1])
    expect(eventsOf(await poll).map(valueIn)).toEqual([1])
  })

  test('is refused when its place is not in the history, also when that happens while it waits', async () => {
    const log = await tempLog()
    const { epoch } = await append(log, 'c', [1, 2, 3])
    await log.trim('c', 2)
    expect(await refusal(readOrWait(log, 'c', { after: 1 }, ALL, until(log)))).toMatchObject({
      code: 'gap',
      trimmed: 2,
    })
    expect(await refusal(readOrWait(log, 'c', { after: 4 }, ALL, until(log)))).toMatchObject({ code: 'ahead-of-head' })
    expect(await refusal(readOrWait(log, 'c', { epoch: 'x', after: 3 }, ALL, until(log)))).toMatchObject({
      code: 'epoch-changed',
    })
    const poll = refusal(readOrWait(log, 'c', { epoch, after: 3 }, ALL, until(log)))
    await Promise.all([log.delete('c'), append(log, 'c', [1, 2, 3])])
    expect(await poll).toMatchObject({ code: 'epoch-changed' })
    const second = await log.info('c')
    const gone = refusal(readOrWait(log, 'c', { epoch: second.epoch, after: 3 }, ALL, until(log)))
    await log.delete('c')
    expect(await gone).toMatchObject({ code: 'no-channel' })
  })

  test('is refused with unavailable when the log closes under it', async () => {
    const log = await tempLog()
    await append(log, 'c', [1])
    const poll = refusal(readOrWait(log, 'c', { after: 1 }, ALL, until(log)))
    await log.close()
    expect(await poll).toMatchObject({ code: 'unavailable' })
  })
})
