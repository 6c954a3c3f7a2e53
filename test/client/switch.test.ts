/**
 * The switch is turned on while polls begin and end: each client hears of it by the poll that is on its way or by the
 * next one, never by the end of a wait, which would be 25 s later.
 */
import { expect, onTestFinished, test } from 'vitest'
import { connect } from '../../src/client/node.ts'
import { dice } from '../crash/dice.ts'
import { body, range, SEED } from '../parts.ts'
import { startTestServer } from '../server/serve.ts'

/** Less than a poll's wait, ms. */
const HEARD_MS = 15_000
const ROUNDS = 20
/** Requests and answers take up to so long, and so far apart is what happens, ms. */
const DELAY_MS = 60

/** Resolves when it holds; throws when it would have needed the end of a wait. */
async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  const end = Date.now() + HEARD_MS
  while (!(await holds())) {
    if (Date.now() > end) throw new Error(`${what}: not within ${HEARD_MS} ms`)
    await pause(5)
  }
}

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

const press = (url: string, on: boolean): Promise<unknown> =>
  fetch(`${url}/v1/admin/streamer`, {
    method: 'PUT',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ on }),
  })

const waits = (request: RequestInit | undefined): boolean => String(request?.body).includes('"wait":25')

/** Polls that the server holds. */
const waiting = async (url: string): Promise<number> =>
  ((await (await fetch(`${url}/v1/admin/figures`)).json()) as { followers: { poll: number } }).followers.poll

test('a poll that begins just after the switch was turned is told at once', { timeout: 60_000 }, async () => {
  const { url, log } = await startTestServer({ retryWindow: 20 })
  await log.append([{ channel: 'a', body: body(1) }])
  await press(url, false)
  let isHeld = false
  let arrived = (): void => {}
  const begun = new Promise<void>((resolve) => {
    arrived = resolve
  })
  let release = (): void => {}
  const released = new Promise<void>((resolve) => {
    release = resolve
  })
  const tidemark = connect(url, {
    fetch: async (...request) => {
      if (isHeld && waits(request[1])) {
        arrived()
        await released
      }
      return fetch(...request)
    },
  })
  onTestFinished(() => tidemark.close())
  const seqs: number[] = []
  void tidemark.channel('a').follow({}, ({ seq }) => seqs.push(seq))
  await until('a waiting poll', async () => (await waiting(url)) === 1)
  isHeld = true
  // What is wanted now makes the poll begin anew.
  void tidemark.channel('b').follow({}, () => {})
  await begun
  await press(url, true)
  release()
  await until('the socket', () => tidemark.state === 'open')
  expect(seqs).toEqual([1])
})

test(`${ROUNDS} turns of the switch amid polls that begin anew and take their time: each is heard, no event is lost`, {
  timeout: 240_000,
}, async () => {
  console.log(`seed ${SEED}`)
  const random = dice(SEED)
  const { url, log } = await startTestServer({ retryWindow: 20 })
  const tidemark = connect(url, {
    fetch: async (...request) => {
      await pause(random(DELAY_MS))
      const response = await fetch(...request)
      await pause(random(DELAY_MS))
      return response
    },
  })
  onTestFinished(() => tidemark.close())
  const seqs: number[] = []
  const wrong: unknown[] = []
  tidemark
    .channel('a')
    .follow({}, ({ seq }) => seqs.push(seq))
    .catch((error) => wrong.push(error))
  for (const round of range(1, ROUNDS)) {
    await press(url, false)
    await until('polls', () => tidemark.state === 'polling')
    if (random(4) > 0) await until('a waiting poll', async () => (await waiting(url)) > 0)
    const left = new AbortController()
    await Promise.all([
      pause(random(DELAY_MS)).then(() => press(url, true)),
      pause(random(DELAY_MS)).then(() => {
        tidemark
          .channel(`other/${round}`)
          .follow({ signal: left.signal }, () => {})
          .catch((error) => wrong.push(error))
      }),
      pause(random(DELAY_MS)).then(() => log.append([{ channel: 'a', body: body(round) }])),
    ])
    await until(`round ${round}: the socket`, () => tidemark.state === 'open')
    await until(`round ${round}: its event`, () => seqs.length === round)
    left.abort()
  }
  expect(seqs).toEqual(range(1, ROUNDS))
  expect(wrong).toEqual([])
})
