/**
 * The seam torture: while events are appended to many channels, the lines are cut in the middle of frames, the streamer
 * is switched, servers are killed and started again, clients led from one to another; followers in this process or in a
 * browser's page watch that each event comes once and in order. What happens is a function of the seed; when it happens
 * is up to the machine.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { expect, onTestFinished } from 'vitest'
import type { Tidemark } from '../../src/client/client.ts'
import { connect } from '../../src/client/node.ts'
import { type Dice, dice } from '../crash/dice.ts'
import { range, tempDir } from '../parts.ts'
import { Cable } from './cable.ts'
import { Victims } from './victims.ts'

export const CHANNELS = 20
export const EVENTS = 20_000
/** Largest batch of one append. */
const BATCH_MAX = 60
/** Appends that wait for an answer while the storm goes on. */
const IN_FLIGHT = 40
/** The name that the followers commit under. */
export const CLIENT = 'app'

const name = (i: number): string => `files/${i}`
export const CHANNEL_NAMES = range(0, CHANNELS - 1).map(name)

/** What followers have seen so far. */
export interface Seen {
  /** Events that each channel's loop body has finished. */
  readonly handled: Readonly<Record<string, number>>
  /** What should not have come, in words. */
  readonly wrong: readonly string[]
}

/** Followers of all channels. */
export interface Followers {
  seen(): Promise<Seen>
  /** How long to wait before they are asked again, ms: in a page it costs much more than here. */
  readonly pauseMs: number
  /** Whether loop bodies stand still, each after so many more events: in the event after those it has finished. */
  hold(still: boolean, after: number): Promise<void>
  close(): Promise<void>
}

export type Follow = (url: string, random: Dice) => Promise<Followers>

/** How often each thing was done. */
export interface Storm {
  /** Times that connections broke. */
  cuts: number
  switches: number
  kills: number
  /** Times that clients were led to another server. */
  moves: number
  /** The longest that an append took, with all its tries, ms. */
  longest: number
}

/** A server's own word, past the lines that are being cut. One that is without its log for a moment is asked again. */
async function ask<T>(port: number, path: string, put?: object): Promise<T> {
  for (;;) {
    const response = await fetch(`http://127.0.0.1:${port}/v1/${path}`, {
      ...(put && { method: 'PUT', headers: { 'content-type': 'application/json' }, body: JSON.stringify(put) }),
    })
    const answer = (await response.json()) as T
    if (response.status === 503) continue
    expect(response.status).toBe(200)
    return answer
  }
}

/**
 * One storm. Throws what went wrong.
 * @param servers what it is over, which ends with it; default: one server on a directory of its own
 * @param events in all, over CHANNELS
 */
export async function storm(seed: number, follow: Follow, servers?: Victims, events = EVENTS): Promise<Storm> {
  const over = servers ?? (await Victims.start([[tempDir()]]))
  try {
    return await run(seed, follow, over, events / CHANNELS)
  } finally {
    // Of two hundred storms not all servers are to stay until the last one is over.
    await over.end()
  }
}

async function run(seed: number, follow: Follow, servers: Victims, perChannel: number): Promise<Storm> {
  const random = dice(seed)
  const done: Storm = { cuts: 0, switches: 0, kills: 0, moves: 0, longest: 0 }
  const events = perChannel * CHANNELS
  /** Of the followers, and of those who append: each may be with another server. */
  const cables = [await Cable.start(servers.any(random)), await Cable.start(servers.any(random))] as const
  const followers = await follow(cables[0].url, random)

  const appending = append(cables[1].url, random, perChannel, done)
  // A failure is thrown where it is awaited, below; until then it is nobody's unhandled rejection.
  appending.catch(() => {})

  const cutSoon = (): void => {
    const cable = cables[random(2)]!
    let left = 1 + random(60_000)
    cable.cuts = (piece) => {
      left -= piece.length
      if (left > 0) return false
      cable.cuts = () => false
      done.cuts++
      return true
    }
  }
  const cut = (): void => {
    const cable = cables[random(2)]!
    const target = servers.any(random)
    if (target !== cable.target) done.moves++
    cable.target = target
    if (cable.cut() > 0) done.cuts++
  }
  /** While the app stands still, cursors come as far as what it has finished, and never further. */
  const expectCursors = async (): Promise<void> => {
    // So that they stand amid their batches.
    await followers.hold(true, random(30))
    for (;;) {
      const path = `cursors/${CLIENT}`
      const { cursors } = await ask<{ cursors: { channel: string; seq: number }[] }>(servers.any(random), path)
      // Some may still be on their way to where they stand.
      const { handled } = await followers.seen()
      for (const { channel, seq } of cursors) expect(seq, `cursor of ${channel}`).toBeLessThanOrEqual(handled[channel]!)
      const reached = new Map(cursors.map(({ channel, seq }) => [channel, seq]))
      if (CHANNEL_NAMES.every((channel) => (reached.get(channel) ?? 0) === handled[channel])) break
      await delay(2 * followers.pauseMs)
    }
    await followers.hold(false, 0)
  }
  const restart = async (): Promise<void> => {
    if (random(2) === 0) await expectCursors()
    done.kills++
    await servers.restart(random, (gone, other) => {
      for (const cable of cables)
        if (cable.target === gone || cable.target === 0) {
          if (gone !== 0 && other !== 0) done.moves++
          cable.target = other
        }
    })
  }
  const doSomething = async (isLate: boolean): Promise<void> => {
    // A short storm may be half over before a line has broken: then the streamer is switched.
    const what = isLate && done.cuts + done.switches === 0 ? 5 : random(10)
    if (what < 3) cutSoon()
    else if (what < 5) cut()
    else if (what < 9) {
      done.switches++
      await ask(servers.any(random), 'admin/streamer', { on: random(2) === 0 })
    } else await restart()
  }

  const sum = (counts: Seen['handled']): number => Object.values(counts).reduce((a, b) => a + b, 0)
  /** Waits until so many events were handled in all. */
  const handled = async (count: number): Promise<void> => {
    for (let seen = await followers.seen(); sum(seen.handled) < count; seen = await followers.seen()) {
      expect(seen.wrong).toEqual([])
      await delay(followers.pauseMs)
    }
  }
  for (let at = 0; at < events; ) {
    at = Math.min(events, at + 100 + random(1_500))
    await handled(at)
    if (at < events) await doSomething(at * 2 > events)
  }
  if (done.kills === 0) await restart()
  await appending
  await expectCursors()
  const handledAll = Object.fromEntries(CHANNEL_NAMES.map((channel) => [channel, perChannel]))
  expect(await followers.seen()).toEqual({ handled: handledAll, wrong: [] })
  await followers.close()
  for (const channel of CHANNEL_NAMES)
    expect(await ask(servers.any(random), `channels/${channel}`)).toMatchObject({ head: perChannel, trimmed: 0 })
  return done
}

/** Appends all events, each channel's in order, in batches of any size, through one line. */
async function append(url: string, random: Dice, perChannel: number, done: Storm): Promise<void> {
  const tidemark = connect(url)
  const next = new Map(CHANNEL_NAMES.map((channel) => [channel, 1]))
  const open = new Set<Promise<unknown>>()
  try {
    while (next.size > 0) {
      const channel = [...next.keys()][random(next.size)]!
      const first = next.get(channel)!
      const last = Math.min(perChannel, first + random(BATCH_MAX))
      if (last === perChannel) next.delete(channel)
      else next.set(channel, last + 1)
      const started = performance.now()
      const answer = tidemark
        .channel(channel)
        .append(range(first, last).map((n) => ({ data: n })))
        .then((appended) => {
          done.longest = Math.max(done.longest, performance.now() - started)
          expect(appended).toMatchObject({ first, last })
        })
        .finally(() => open.delete(answer))
      open.add(answer)
      if (open.size >= IN_FLIGHT) await Promise.race(open)
    }
    await Promise.all(open)
  } finally {
    await tidemark.close()
  }
}

/** What follows all channels with their cursors, and what it has seen so far. */
export interface Following extends Seen {
  /** Whether it stands still, from so many events of each channel on. */
  hold(still: boolean, after: number): void
  close(): Promise<void>
}

/** It also runs in a page, as text: nothing of this file may be used in it. */
export function follow(tidemark: Tidemark, channels: readonly string[]): Following {
  const handled: Record<string, number> = {}
  const wrong: string[] = []
  const passes = new Map<string, number>()
  let still: Promise<void> | undefined
  let goOn: (() => void) | undefined
  const followOne = async (channel: string): Promise<void> => {
    handled[channel] = 0
    for await (const { seq, data } of tidemark.channel(channel).follow({ cursor: true })) {
      if (seq !== handled[channel]! + 1 || data !== seq) wrong.push(`${channel}: ${seq} after ${handled[channel]}`)
      if (still && (passes.get(channel) ?? 0) <= 0) await still
      passes.set(channel, (passes.get(channel) ?? 0) - 1)
      handled[channel] = seq
    }
  }
  for (const channel of channels) followOne(channel).catch((error) => wrong.push(String(error)))
  return {
    handled,
    wrong,
    hold: (wanted, after) => {
      goOn?.()
      for (const channel of channels) passes.set(channel, after)
      still = wanted
        ? new Promise((resolve) => {
            goOn = resolve
          })
        : undefined
    },
    close: () => tidemark.close(),
  }
}

/** Followers in this process. */
export const inNode: Follow = async (url, random) => {
  const tidemark = connect(url, { client: CLIENT, subprotocol: random(2) === 0 ? 'json' : 'msgpack' })
  onTestFinished(() => tidemark.close().catch(() => {}))
  const { handled, hold, wrong, close } = follow(tidemark, CHANNEL_NAMES)
  return {
    seen: async () => ({ handled: { ...handled }, wrong }),
    pauseMs: 5,
    hold: async (still, after) => hold(still, after),
    close,
  }
}
