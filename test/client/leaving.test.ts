/**
 * Clients that are left at any moment, in any state: every loop ends, every append and commit is answered, nothing stays
 * on the server, and nobody's rejection is unhandled (the runner fails for one).
 */
import { expect, onTestFinished, test } from 'vitest'
import { TidemarkError } from '../../src/errors.ts'
import { Tidemark } from '../../src/package.ts'
import { dice } from '../crash/dice.ts'
import { body, range, SEED } from '../parts.ts'
import { startTestServer } from '../server/serve.ts'
import { Cable } from './cable.ts'

const ROUNDS = 80
/** Longest life of a client, ms. */
const LIFE_MS = 400

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

test(`${ROUNDS} clients that are left at a random moment, amid whatever they do`, { timeout: 240_000 }, async () => {
  console.log(`seed ${SEED}`)
  const random = dice(SEED)
  const { url, log, port } = await startTestServer({ retryWindow: 20 })
  const cable = await Cable.start(port)
  for (const channel of ['a', 'b', 'c']) await log.append([{ channel, body: body(...range(1, 50)) }])
  const states: Record<string, number> = {}
  let appended = 0

  const round = async (n: number): Promise<void> => {
    const late = () => pause(random(3) ? 0 : random(200))
    const tidemark = new Tidemark(cable.url, {
      client: `c${n}`,
      subprotocol: random(2) ? 'json' : 'msgpack',
      ...(random(2) && {
        token: async () => {
          await late()
          if (random(4) === 0) throw new Error('not now')
          return 'token'
        },
      }),
      fetch: async (...request) => {
        await late()
        return fetch(...request)
      },
    })
    const gone = new AbortController()
    const passing = (error: unknown): void => {
      // A commit or an append that could not be sent any more.
      if (!(error instanceof TidemarkError && error.code === 'unavailable')) throw error
    }
    const loops = ['a', 'b', 'c'].map(async (channel, i) => {
      await pause(random(50))
      if (tidemark.state === 'closed') return
      const [options, most] = [{ cursor: true, ...(i && { signal: gone.signal }) } as const, 1 + random(60)]
      const seqs: number[] = []
      for await (const { seq } of tidemark.channel(channel).follow(options)) {
        seqs.push(seq)
        if (random(8) === 0) await pause(random(20))
        if (i === 1 && seqs.length >= most) break
      }
      expect(seqs).toEqual(range(1, seqs.length))
    })
    const appends = range(1, random(5)).map(async () => {
      await tidemark.channel('d').append({ data: n })
      appended++
    })
    const ends = [...loops, ...appends].map((end) => end.catch(passing))
    await pause(random(LIFE_MS))
    if (random(2)) gone.abort()
    states[tidemark.state] = (states[tidemark.state] ?? 0) + 1
    await tidemark.close().catch(passing)
    expect(tidemark.state).toBe('closed')
    await Promise.all(ends)
  }

  const weather = async (): Promise<void> => {
    while (!over) {
      await pause(random(150))
      const what = random(4)
      if (what === 0) cable.cut()
      else if (what === 1) cable.target = cable.target ? 0 : port
      else
        await fetch(`${url}/v1/admin/streamer`, {
          method: 'PUT',
          headers: { 'content-type': 'application/json' },
          body: JSON.stringify({ on: what === 2 }),
        })
    }
    cable.target = port
  }
  let over = false
  const raging = weather()
  onTestFinished(() => {
    over = true
  })
  for (let n = 0; n < ROUNDS; n += 8) await Promise.all(range(n, n + 7).map(round))
  over = true
  await raging
  const figures = async () =>
    (await (await fetch(`${url}/v1/admin/figures`)).json()) as { sockets: number; followers: { poll: number } }
  await expect.poll(async () => (await figures()).sockets, { timeout: 20_000 }).toBe(0)
  await expect.poll(async () => (await figures()).followers.poll, { timeout: 20_000 }).toBe(0)
  const { head } = await log.info('d')
  console.log(`left in ${JSON.stringify(states)}; ${appended} appends answered, ${head} there`)
  expect(head).toBeGreaterThanOrEqual(appended)
  expect(Object.keys(states).length).toBeGreaterThan(2)
})
