import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test, vi } from 'vitest'
import { natsOfFile } from '../log/nats.ts'
import { range, tempDir } from '../parts.ts'
import { expectEveryPlace, filled, heldBy } from './held.ts'
import { Program, run, serving } from './program.ts'

const nats = await natsOfFile()

const append = async (url: string, channel: string, data: unknown): Promise<Record<string, unknown>> => {
  const response = await fetch(`${url}/v1/channels/${channel}/events`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ data }),
  })
  return { status: response.status, ...((await response.json()) as object) }
}

const read = async (url: string, channel: string, query = 'after=0'): Promise<unknown[]> => {
  const response = await fetch(`${url}/v1/channels/${channel}/events?${query}`)
  const { events } = (await response.json()) as { events: { data: unknown }[] }
  return events.map(({ data }) => data)
}

/** What a server says that ends before it serves. */
async function refused(...args: string[]): Promise<{ code: number; err: string }> {
  const program = new Program(['serve', '--port', '0', '--data', join(tempDir(), 'log'), ...args])
  return { code: await program.ended(), err: program.err }
}

describe.skipIf(!nats)('serve over NATS', () => {
  test('Two servers over one NATS are one log; each says what keeps it and how safe an answered append is', async () => {
    const flags = ['--engine', `${nats!.url},${nats!.url}`, '--nats-namespace', 'two', '--nats-sync', 'always']
    const servers = await Promise.all(range(1, 2).map(() => serving(flags, tempDir())))
    const [a, b] = servers.map(({ url }) => url) as [string, string]
    for (const server of servers)
      for (const word of [nats!.url, 'jetstream', 'after its fsync'])
        await server.until(() => server.err.includes(word))
    const waiting = read(b, 'c', 'after=0&wait=20')
    for (const n of range(1, 20))
      expect(await append(n % 2 ? a : b, 'c', n)).toMatchObject({ status: 201, first: n, durability: 'fsync' })
    expect((await waiting)[0]).toBe(1)
    for (const url of [a, b]) expect(await read(url, 'c')).toEqual(range(1, 20))
    const ready = (await (await fetch(`${a}/readyz`)).json()) as Record<string, unknown>
    expect(ready).toMatchObject({ engine: 'jetstream', durability: 'fsync', capabilities: ['multiChannel'] })
    // A gateway goes, in the middle of a wait; its client goes on with the other one.
    const cut = read(a, 'c', 'after=20&wait=20').catch(() => 'cut')
    await servers[0]!.kill('SIGKILL')
    expect(await cut).toBe('cut')
    const next = read(b, 'c', 'after=20&wait=20')
    await append(b, 'c', 21)
    expect(await next).toEqual([21])
  })

  test('What the engine can not do is refused in words, over HTTP and on the command line', async () => {
    const { url } = await serving(['--engine', nats!.url, '--nats-namespace', 'can'], tempDir())
    await append(url, 'c', 1)
    for (const [verb, asked, flags] of [
      ['compact', {}, []],
      ['erase', { seq: 1 }, ['--seq', '1']],
    ] as const) {
      const answer = await fetch(`${url}/v1/channels/c/${verb}`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(asked),
      })
      expect(answer.status).toBe(501)
      expect(await answer.json()).toMatchObject({ code: 'not-supported', capability: verb })
      const command = new Program([verb, 'c', ...flags, '--url', url])
      expect(await command.ended()).toBe(1)
      expect(command.err).toContain('not-supported')
    }
    expect(await read(url, 'c')).toEqual([1])
  })

  test('Without NATS a server answers 503 with Retry-After, is not ready, and resumes by itself', async () => {
    const { url } = await serving(['--engine', nats!.url, '--nats-namespace', 'gone'], tempDir())
    expect(await append(url, 'c', 1)).toMatchObject({ status: 201, durability: 'unknown' })
    await nats!.kill()
    await vi.waitFor(async () => expect((await fetch(`${url}/readyz`)).status).toBe(503))
    const answer = await fetch(`${url}/v1/channels/c/events`, { method: 'POST', body: 'x' })
    expect([answer.status, Number(answer.headers.get('retry-after'))]).toEqual([503, expect.any(Number)])
    expect((await fetch(`${url}/livez`)).status).toBe(200)
    await nats!.start()
    await vi.waitFor(async () => expect((await fetch(`${url}/readyz`)).status).toBe(200), { timeout: 10_000 })
    expect(await append(url, 'c', 2)).toMatchObject({ status: 201, first: 2 })
    expect(await read(url, 'c')).toEqual([1, 2])
  })

  test('A log is carried into NATS and back: every event, time, epoch and cursor is what it was, at every gateway', async () => {
    const dir = await filled()
    const before = await heldBy(dir, true)
    const flags = ['--engine', nats!.url, '--nats-namespace', 'carried']
    const [a, b] = await Promise.all(range(1, 2).map(() => serving(flags, tempDir())))
    expect(await run(['copy', dir, a!.url, '--same-epochs', '--json'])).toMatchObject({ code: 0 })
    // Whoever holds a position goes on with it.
    for (const { info, cursors } of before)
      for (const { client, seq, epoch } of cursors) {
        const url = `${b!.url}/v1/channels/${info.channel}`
        const cursor = (await (await fetch(`${url}/cursors/${encodeURIComponent(client)}`)).json()) as object
        expect(cursor).toMatchObject({ seq, epoch })
        const after = Math.max(seq, info.trimmed)
        const { status } = await fetch(`${url}/events?after=${after}&epoch=${encodeURIComponent(epoch)}`)
        expect(status).toBe(epoch === info.epoch ? 200 : 409)
      }
    const again = await run(['copy', dir, b!.url, '--same-epochs', '--json'])
    expect(JSON.parse(again.out)).toMatchObject({ present: before.length })
    const back = join(tempDir(), 'back')
    expect(await run(['copy', b!.url, back, '--same-epochs'])).toMatchObject({ code: 0 })
    expect(await heldBy(back, true)).toEqual(before)
    await expectEveryPlace(back, dir)
    expect(await run(['verify', '--data', back])).toMatchObject({ code: 0 })
  })

  test('A durability that is asked for and not there is refused with 78', async () => {
    const engine = ['--engine', nats!.url, '--nats-namespace', 'safe']
    for (const needed of ['replicated', 'fsync'])
      expect(await refused(...engine, '--require-durability', needed)).toEqual({
        ...{ code: 78, err: expect.stringContaining('unknown') },
      })
    const server = await serving([...engine, '--nats-sync', 'always', '--require-durability', 'fsync'], tempDir())
    await server.until(() => server.err.includes('after its fsync'))
  })

  test('A file of credentials that can not be read is refused with 78, a NATS that is not there with 69', async () => {
    const missing = join(tempDir(), 'none.creds')
    expect(await refused('--engine', nats!.url, '--nats-creds', missing)).toEqual({
      ...{ code: 78, err: expect.stringContaining('none.creds') },
    })
    expect(await refused('--engine', 'nats://me:secret@127.0.0.1:1')).toEqual({
      ...{ code: 69, err: expect.not.stringContaining('secret') },
    })
  })
})

test('A durability that is asked for is there with the embedded log', async () => {
  const dir = tempDir()
  mkdirSync(join(dir, 'log'), { recursive: true })
  writeFileSync(join(dir, 'config.yaml'), 'require-durability: fsync\n')
  const server = await serving(['--config', join(dir, 'config.yaml')], dir)
  await server.until(() => server.err.includes('after its fsync'))
})
