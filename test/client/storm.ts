/**
 * The seam torture: while events are appended to many channels, the line is cut in the middle of frames, the streamer
 * is switched, the server is killed and started again; followers in this process or in a browser's page watch that
 * each event comes once and in order. What happens is a function of the seed; when it happens is up to the machine.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { expect, onTestFinished } from 'vitest'
import { connect } from '../../src/client/node.ts'
import { type Dice, dice } from '../crash/dice.ts'
import { range, tempDir } from '../parts.ts'
import { Cable } from './cable.ts'

export const CHANNELS = 20
export const EVENTS = 20_000
const PER_CHANNEL = EVENTS / CHANNELS
/** Largest batch of one append. */
const BATCH_MAX = 60
/** Appends that wait for an answer while the storm goes on. */
const IN_FLIGHT = 40
/** The name that the followers commit under. */
export const CLIENT = 'app'

const name = (i: number): string => `files/${i}`
export const CHANNEL_NAMES = range(0, CHANNELS - 1).map(name)

/** What followers of all channels have to tell. */
export interface Followers {
  /** Events that each channel's loop body has finished. */
  handled(): Promise<Record<string, number>>
  /** Whether loop bodies stand still, each after so many more events: in the event after those it has finished. */
  hold(still: boolean, after: number): Promise<void>
  /** What should not have come, in words. */
  wrong(): Promise<readonly string[]>
  close(): Promise<void>
}

export type Follow = (url: string, random: Dice) => Promise<Followers>

/** How often each thing was done. */
export interface Storm {
  cuts: number
  switches: number
  kills: number
}

export async function startVictim(dir: string): Promise<{ child: ChildProcess; port: number }> {
  const child = spawn(process.execPath, ['dist/test/client/victim.js', dir], { stdio: ['ignore', 'pipe', 'inherit'] })
  onTestFinished(() => void child.kill('SIGKILL'))
  const [line] = await once(createInterface(child.stdout!), 'line')
  return { child, port: Number(line) }
}

/** The server's own word, past the line that is being cut. */
async function ask<T>(port: number, path: string, put?: object): Promise<T> {
  const response = await fetch(`http://127.0.0.1:${port}/v1/${path}`, {
    ...(put && { method: 'PUT', headers: { 'content-type': 'application/json' }, body: JSON.stringify(put) }),
  })
  expect(response.status).toBe(200)
  return (await response.json()) as T
}

/** One storm. Throws what went wrong. */
export async function storm(seed: number, follow: Follow): Promise<Storm> {
  const random = dice(seed)
  const done: Storm = { cuts: 0, switches: 0, kills: 0 }
  const dir = tempDir()
  let { child, port } = await startVictim(dir)
  const cable = await Cable.start(port)
  const followers = await follow(cable.url, random)

  const appending = append(cable.url, random)
  // A failure is thrown where it is awaited, below; until then it is nobody's unhandled rejection.
  appending.catch(() => {})

  const cutSoon = (): void => {
    let left = 1 + random(60_000)
    cable.cuts = (piece) => {
      left -= piece.length
      if (left > 0) return false
      cable.cuts = () => false
      done.cuts++
      return true
    }
  }
  /** While the app stands still, cursors come as far as what it has finished, and never further. */
  const expectCursors = async (): Promise<void> => {
    // So that they stand amid their batches.
    await followers.hold(true, random(30))
    for (;;) {
      const { cursors } = await ask<{ cursors: { channel: string; seq: number }[] }>(port, `cursors/${CLIENT}`)
      // Some may still be on their way to where they stand.
      const handled = await followers.handled()
      for (const { channel, seq } of cursors) expect(seq, `cursor of ${channel}`).toBeLessThanOrEqual(handled[channel]!)
      const reached = new Map(cursors.map(({ channel, seq }) => [channel, seq]))
      if (CHANNEL_NAMES.every((channel) => (reached.get(channel) ?? 0) === handled[channel])) break
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
    await followers.hold(false, 0)
  }
  const restart = async (): Promise<void> => {
    if (random(2) === 0) await expectCursors()
    cable.target = 0
    child.kill('SIGKILL')
    await once(child, 'exit')
    done.kills++
    ;({ child, port } = await startVictim(dir))
    cable.target = port
  }
  const doSomething = async (): Promise<void> => {
    const what = random(10)
    if (what < 3) cutSoon()
    else if (what < 5) {
      done.cuts++
      cable.cut()
    } else if (what < 9) {
      done.switches++
      await ask(port, 'admin/streamer', { on: random(2) === 0 })
    } else await restart()
  }

  const sum = (counts: Record<string, number>): number => Object.values(counts).reduce((a, b) => a + b, 0)
  /** Waits until so many events were handled in all. */
  const handled = async (events: number): Promise<void> => {
    while (sum(await followers.handled()) < events) {
      expect(await followers.wrong()).toEqual([])
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
  }
  for (let at = 0; at < EVENTS; ) {
    at = Math.min(EVENTS, at + 100 + random(1_500))
    await handled(at)
    if (at < EVENTS) await doSomething()
  }
  if (done.kills === 0) await restart()
  await appending
  await expectCursors()
  expect(await followers.wrong()).toEqual([])
  expect(await followers.handled()).toEqual(Object.fromEntries(CHANNEL_NAMES.map((channel) => [channel, PER_CHANNEL])))
  await followers.close()
  for (const channel of CHANNEL_NAMES)
    expect(await ask(port, `channels/${channel}`)).toMatchObject({ head: PER_CHANNEL, trimmed: 0 })
  // Of two hundred storms not all servers are to stay until the last one is over.
  child.kill('SIGKILL')
  await once(child, 'exit')
  return done
}

/** Appends all events, each channel's in order, in batches of any size, through the same line. */
async function append(url: string, random: Dice): Promise<void> {
  const tidemark = connect(url)
  const next = new Map(CHANNEL_NAMES.map((channel) => [channel, 1]))
  const open = new Set<Promise<unknown>>()
  try {
    while (next.size > 0) {
      const channel = [...next.keys()][random(next.size)]!
      const first = next.get(channel)!
      const last = Math.min(PER_CHANNEL, first + random(BATCH_MAX))
      if (last === PER_CHANNEL) next.delete(channel)
      else next.set(channel, last + 1)
      const answer = tidemark
        .channel(channel)
        .append(range(first, last).map((n) => ({ data: n })))
        .then((appended) => expect(appended).toMatchObject({ first, last }))
        .finally(() => open.delete(answer))
      open.add(answer)
      if (open.size >= IN_FLIGHT) await Promise.race(open)
    }
    await Promise.all(open)
  } finally {
    await tidemark.close()
  }
}
