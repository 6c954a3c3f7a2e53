import { createServer } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { afterEach, describe, expect, onTestFinished, test, vi } from 'vitest'
import { encodeBody } from '../../src/body.ts'
import type { Appended, Log } from '../../src/log/log.ts'
import { openLog } from '../../src/log/open.ts'
import { body, event, range } from '../parts.ts'
import { natsOfFile } from './nats.ts'
import { ALL, append, eventsOf, list, never, readAll, refusal, valueIn, watched } from './reading.ts'

const nats = await natsOfFile()

let places = 0

/** Logs of one place, as the gateways of a cluster have them; closed when the test ends. */
async function gateways(count: number): Promise<Log[]> {
  const namespace = `g${++places}`
  const open = () => openLog({ dir: 'nowhere', nats: { servers: [nats!.url], namespace, durability: 'fsync' } })
  const logs = await Promise.all(range(1, count).map(open))
  for (const log of logs) onTestFinished(() => log.close())
  return logs
}

/** Reads and waits, as every door does, until so many events were seen. */
async function follow(log: Log, channel: string, count: number): Promise<unknown[]> {
  const values: unknown[] = []
  for (let after = 0; values.length < count; ) {
    await log.changed(channel, { after }, never())
    const page = await log.read(channel, { after }, ALL)
    values.push(...eventsOf(page).map(valueIn))
    after = page.last
  }
  return values
}

describe.skipIf(!nats)('gateways over one NATS', () => {
  // Whatever a test did to it.
  afterEach(async () => nats?.start())

  test('A wake-up that NATS loses is made up for: whoever waits is woken all the same', async () => {
    const [log] = (await gateways(1)) as [Log]
    const deaf = await openLog({
      dir: 'nowhere',
      nats: { servers: [nats!.url], namespace: `g${places}`, user: 'deaf', password: 'deaf' },
    })
    onTestFinished(() => deaf.close())
    const { epoch } = await append(log, 'c', [1])
    const waiting = watched(deaf.changed('c', { epoch, after: 1 }, never()))
    const unknown = watched(deaf.changed('d', { after: 0 }, never()))
    // It has looked, and found nothing.
    expect((await deaf.read('c', { epoch, after: 1 }, ALL)).blocks).toEqual([])
    for (const channel of ['c', 'd']) await append(log, channel, ['told to nobody'])
    await Promise.all([waiting.promise, unknown.promise])
    expect((await readAll(deaf, 'c')).map(valueIn)).toEqual([1, 'told to nobody'])
  })

  test('Gateways that race on one channel number it without holes, and each answer names its own events', async () => {
    const logs = await gateways(3)
    const total = 3 * 60
    const following = logs.map((log) => follow(log, 'c', total))
    const answers = await Promise.all(
      logs.flatMap((log, gateway) =>
        range(1, 60).map(async (n) => {
          const key = n % 3 === 0 ? { idempotencyKey: `${gateway}/${n}` } : {}
          return { value: `${gateway}/${n}`, answer: await append(log, 'c', [`${gateway}/${n}`], key) }
        }),
      ),
    )
    const events = await readAll(logs[0]!, 'c')
    expect(events.map(({ seq }) => seq)).toEqual(range(1, total))
    for (const { value, answer } of answers) expect(valueIn(events[answer.first - 1]!)).toBe(value)
    expect(new Set(answers.map(({ answer }) => answer.epoch)).size).toBe(1)
    for (const [gateway, log] of logs.entries()) {
      expect((await readAll(log, 'c')).map(valueIn)).toEqual(events.map(valueIn))
      const own = answers.filter(({ value }) => value.startsWith(`${gateway}/`)).map(({ answer }) => answer.first)
      expect(own, 'a producer keeps its order').toEqual([...own].sort((a, b) => a - b))
    }
    for (const values of await Promise.all(following)) expect(values).toEqual(events.map(valueIn))
  })

  test('Of gateways that believe in one head one wins; those that retry with the head they are told lose no update', async () => {
    const logs = await gateways(2)
    const write = async (log: Log): Promise<void> => {
      for (let expectedSeq = 0; ; ) {
        const outcome = await append(log, 'c', [expectedSeq + 1], { expectedSeq }).catch((error) => error)
        if (outcome.code === undefined) return
        expect(outcome.code).toBe('seq-conflict')
        expectedSeq = outcome.details.head
      }
    }
    await Promise.all(range(1, 16).map((i) => write(logs[i % 2]!)))
    expect((await readAll(logs[0]!, 'c')).map(valueIn)).toEqual(range(1, 16))
  })

  test('Of gateways that append to one channel without a pause none is kept waiting for long', async () => {
    const logs = await gateways(2)
    const total = 1_000
    const sent = [0, 0]
    const most = [0, 0]
    const write = async (i: number, producer: number): Promise<void> => {
      for (let n = 1; sent[0]! + sent[1]! < total; n++) {
        const before = sent[1 - i]!
        await append(logs[i]!, 'c', [0], { idempotencyKey: `${i}.${producer}.${n}` })
        sent[i]!++
        most[i] = Math.max(most[i]!, sent[1 - i]! - before)
      }
    }
    await Promise.all([0, 1].flatMap((i) => [1, 2].map((producer) => write(i, producer))))
    console.log(
      `${sent.join(' and ')} appends of two gateways, at most ${most.join(' and ')} of the other one during one`,
    )
    // The last ones wait until the other gateway has ended.
    expect(Math.max(...most)).toBeLessThan(total / 5)
  })

  test('One append that is sent through two gateways at once happens once', async () => {
    const logs = await gateways(2)
    for (const round of range(1, 20)) {
      const answers = await Promise.all(logs.map((log) => append(log, 'c', [round], { idempotencyKey: `k${round}` })))
      expect(answers.map(({ first }) => first)).toEqual([round, round])
      expect(answers.filter(({ duplicate }) => duplicate).length).toBe(1)
      const entries = ['a', 'b'].map((channel) => ({ channel, body: body(round) }))
      const both = await Promise.all(logs.map((log) => log.append(entries, { idempotencyKey: `m${round}` })))
      for (const answer of both) expect(answer.map(({ first }) => first)).toEqual([round, round])
      expect(both.filter(([first]) => first!.duplicate).length).toBe(1)
    }
  })

  test('What one gateway answered every other gives at once: events, heads, cursors, trims, settings', async () => {
    const [a, b] = (await gateways(2)) as [Log, Log]
    // The other one has its own idea of the channel, and follows it.
    await append(a, 'c', [0])
    await append(b, 'c', [1])
    void watched(b.changed('c', { after: 2 }, never()))
    for (const i of range(2, 40)) {
      const { last, epoch } = await append(a, 'c', [i])
      expect((await readAll(b, 'c', { epoch, after: last - 1 })).map(valueIn)).toEqual([i])
      await a.commit('web', 'c', { seq: last })
      expect(await b.cursor('web', 'c')).toMatchObject({ seq: last })
      expect(await b.commit('web', 'c', { seq: 1 })).toMatchObject({ seq: last })
      await a.trim('c', i - 1)
      expect(await refusal(b.read('c', { after: i - 2 }, ALL))).toMatchObject({ code: 'gap', trimmed: i - 1 })
    }
    await a.seek('web', 'c', { seq: 3 })
    expect(await b.commit('web', 'c', { seq: 5 })).toMatchObject({ seq: 5 })
    await a.configure('c', { note: 'ü' })
    expect((await b.info('c')).settings).toEqual({ note: 'ü' })
    expect(await a.forget('web', 'c')).toBe(true)
    expect(await b.cursor('web', 'c')).toBeUndefined()
    expect(await b.commit('web', 'c', { seq: 1 })).toMatchObject({ seq: 1 })
  })

  test('A channel that one gateway deletes is gone for the others, and nobody appends to its old history', async () => {
    const [a, b] = (await gateways(2)) as [Log, Log]
    for (const round of range(1, 5)) {
      const { epoch } = await append(b, 'c', [round, round])
      await b.commit('web', 'c', { seq: 2 })
      const gone = b.changed('c', { epoch, after: 2 }, never())
      await a.delete('c')
      await gone
      expect(await refusal(b.info('c'))).toMatchObject({ code: 'no-channel' })
      const anew = await append(b, 'c', ['anew'], { idempotencyKey: 'k' })
      expect(anew).toMatchObject({ first: 1 })
      expect(anew.duplicate).toBeUndefined()
      expect(anew.epoch).not.toBe(epoch)
      expect(await b.cursor('web', 'c')).toBeUndefined()
      await a.delete('c')
    }
    expect(await list(b.channels(''))).toEqual([])
  })

  test('Appends amid kills of the server: what was answered is there, once and in order', {
    timeout: 60_000,
  }, async () => {
    const [log, other] = (await gateways(2)) as [Log, Log]
    const acked = new Map<string, Appended>()
    const refusals: Record<string, number> = {}
    let isOver = false
    /** Sends each value until it is answered, under one key for all its tries. */
    const produce = async (producer: string, through: Log): Promise<void> => {
      for (let n = 1; !isOver; n++) {
        const value = `${producer}/${n}`
        while (!acked.has(value)) {
          const outcome = await append(through, 'c', [value], { idempotencyKey: value }).catch((error) => error)
          if (outcome.code === undefined) acked.set(value, outcome)
          else {
            expect(outcome.code).toBe('unavailable')
            expect(outcome.details.retryAfter).toBeGreaterThan(0)
            const kind = outcome.details.outcome ?? 'refused'
            refusals[kind] = (refusals[kind] ?? 0) + 1
            await delay(20)
          }
        }
      }
    }
    /** Without a key, once: an unknown outcome stays unknown. */
    const unknown = new Set<string>()
    const produceOnce = async (): Promise<void> => {
      for (let n = 1; !isOver; n++) {
        const outcome = await append(log, 'c', [`once/${n}`]).catch((error) => error)
        if (outcome.code === undefined) acked.set(`once/${n}`, outcome)
        else if (outcome.details.outcome === 'unknown') unknown.add(`once/${n}`)
        else await delay(20)
      }
    }
    const producing = [produce('a', log), produce('b', other), produceOnce()]
    const follower = new AbortController()
    const seen: unknown[] = []
    const following = (async () => {
      for (let after = 0; !follower.signal.aborted; ) {
        await other.changed('c', { after }, follower.signal).catch(() => undefined)
        const page = await other.read('c', { after }, ALL).catch(() => undefined)
        if (!page) continue
        seen.push(...eventsOf(page).map(valueIn))
        after = page.last
      }
    })()
    for (const _ of range(1, 4)) {
      const before = acked.size
      await vi.waitFor(() => expect(acked.size).toBeGreaterThan(before + 40), { timeout: 20_000 })
      await nats!.kill()
      await vi.waitFor(() => expect(log.health().state).toBe('reopening'))
      await nats!.start()
    }
    const before = acked.size
    await vi.waitFor(() => expect(acked.size).toBeGreaterThan(before + 40), { timeout: 20_000 })
    isOver = true
    await Promise.all(producing)
    const events = await readAll(log, 'c')
    const values = events.map(valueIn) as string[]
    expect(new Set(values).size, 'nothing is there twice').toBe(values.length)
    for (const [value, { first }] of acked) expect(values[first - 1]).toBe(value)
    expect(values.filter((value) => !acked.has(value) && !unknown.has(value))).toEqual([])
    await vi.waitFor(() => expect(seen.length).toBe(values.length), { timeout: 10_000 })
    follower.abort()
    await following
    expect(seen).toEqual(values)
    console.log(`4 kills: ${acked.size} answered, 0 lost, ${unknown.size} unknown; refused ${JSON.stringify(refusals)}`)
  })

  test('While the server stands still appends and reads wait, and go on with it', { timeout: 40_000 }, async () => {
    const [log] = (await gateways(1)) as [Log]
    await append(log, 'c', [1])
    const waiting = watched(log.changed('c', { after: 2 }, never()))
    nats!.pause(true)
    const appends = range(2, 20).map((i) => append(log, 'c', [i]))
    await delay(3_000)
    nats!.pause(false)
    const answers = await Promise.all(appends)
    expect(answers.map(({ first }) => first)).toEqual(range(2, 20))
    await waiting.promise
    expect((await readAll(log, 'c')).map(valueIn)).toEqual(range(1, 20))
  })

  test('Without a server appends are refused with when to come back, those who wait go on waiting', async () => {
    const [log] = (await gateways(1)) as [Log]
    const { epoch } = await append(log, 'c', [1])
    const waiting = watched(log.changed('c', { epoch, after: 1 }, never()))
    await nats!.kill()
    await vi.waitFor(() => expect(log.health()).toMatchObject({ state: 'reopening' }))
    const refused = await refusal(append(log, 'c', [2]))
    expect(refused).toMatchObject({ code: 'unavailable', retryAfter: expect.any(Number) })
    expect(refused.outcome).toBeUndefined()
    expect(waiting.settled).toBe(false)
    await nats!.start()
    await vi.waitFor(async () => expect(await append(log, 'c', [2])).toMatchObject({ first: 2, epoch }), {
      timeout: 10_000,
    })
    await waiting.promise
    expect(log.health()).toMatchObject({ state: 'ok' })
  })

  test('A large channel is read from any place without a hint, and after a trim', async () => {
    const [log, other] = (await gateways(2)) as [Log, Log]
    const data = new Uint8Array(20_000)
    // Of other channels in between, and blocks of very different sizes.
    await Promise.all(
      range(1, 600).map(async (i) => {
        const events = range(1, (i % 7) + 1).map(() => ({ ...event(0), id: `${i}`, data: i % 50 === 0 ? data : null }))
        await log.append([{ channel: `c${i % 3}`, body: encodeBody(events) }])
      }),
    )
    const all = await readAll(log, 'c1')
    for (const after of [0, 1, 57, 300, 555, all.length - 1])
      expect((await readAll(other, 'c1', { after })).map(({ seq }) => seq)).toEqual(range(after + 1, all.length))
    await other.trim('c1', 400)
    expect((await readAll(log, 'c1', { after: 400 })).map(({ id }) => id)).toEqual(all.slice(400).map(({ id }) => id))
  })
})

test('A NATS that is too old, or is not there, is refused in words', async () => {
  const old = createServer((socket) => {
    socket.write('INFO {"server_id":"x","version":"2.11.9","max_payload":1048576,"headers":true,"proto":1}\r\n')
    socket.on('data', () => socket.write('PONG\r\n'))
  })
  await new Promise<void>((resolve) => old.listen(0, '127.0.0.1', resolve))
  const { port } = old.address() as { port: number }
  const open = () => openLog({ dir: 'nowhere', nats: { servers: [`nats://127.0.0.1:${port}`] } })
  await expect(open()).rejects.toMatchObject({ code: 'wrong-config', message: expect.stringContaining('2.11.9') })
  await new Promise((resolve) => old.close(resolve))
  await expect(open()).rejects.toMatchObject({ code: 'unavailable' })
})
