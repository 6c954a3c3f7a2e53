/** How the tests of the log read it: whole channels, refusals, promises that are still waiting. */
import { crc32 } from 'node:zlib'
import { expect } from 'vitest'
import { checkBlock, decodeBlock } from '../../src/block.ts'
import { TidemarkError } from '../../src/errors.ts'
import type { Event, NewEvent } from '../../src/event.ts'
import type { Wait } from '../../src/log/follow.ts'
import type { Appended, AppendOptions, Log, Page, Place, ReadLimits } from '../../src/log/log.ts'
import { body } from '../parts.ts'

export const ALL: ReadLimits = { events: 10_000, bytes: 1024 * 1024 }
/** Each page is one block. */
export const BLOCKWISE: ReadLimits = { events: 1, bytes: 1 }

/** The events that a reader takes from a page. Fails unless its blocks are whole and chain from `after` to `last`. */
export function eventsOf(page: Page): Event[] {
  let position = page.after
  const events = page.blocks.flatMap((block, i) => {
    const header = checkBlock(page.channel, block, crc32)
    if (i === 0) expect(header.after).toBeLessThanOrEqual(position)
    else expect(header.after).toBe(position)
    expect(header.last).toBeGreaterThan(position)
    position = header.last
    return decodeBlock(block, page.after, page.last)
  })
  if (page.blocks.length === 0) expect(page.last).toBe(page.after)
  else expect(page.last).toBeLessThanOrEqual(position)
  expect(page.last).toBeLessThanOrEqual(page.head)
  return events
}

/** Every event from a place to the head, page by page. */
export async function readAll(log: Log, channel: string, from: Place = { after: 0 }, limits = ALL): Promise<Event[]> {
  const events: Event[] = []
  for (let after = from.after; ; ) {
    const page = await log.read(channel, { ...from, after }, limits)
    expect(page.after).toBe(after)
    events.push(...eventsOf(page))
    if (page.caughtUp) return events
    expect(page.last).toBeGreaterThan(after)
    after = page.last
  }
}

/** What was given to `event()` or `body()`. */
export const valueIn = ({ data }: NewEvent): unknown => data && JSON.parse(Buffer.from(data).toString())

/** `[seq, value]` of every event from a place to the head. */
export const seqsAndValues = async (log: Log, channel: string, from?: Place, limits?: ReadLimits): Promise<unknown[]> =>
  (await readAll(log, channel, from, limits)).map((event) => [event.seq, valueIn(event)])

/** Appends one event per value to one channel. */
export async function append(
  log: Log,
  channel: string,
  values: readonly unknown[],
  { expectedSeq, ...options }: AppendOptions & { readonly expectedSeq?: number } = {},
): Promise<Appended> {
  const entry = { channel, body: body(...values), ...(expectedSeq === undefined ? {} : { expectedSeq }) }
  const answers = await log.append([entry], options)
  expect(answers.length).toBe(1)
  return answers[0]!
}

/** Code and details of the coded refusal that this must end in. */
export async function refusal(outcome: Promise<unknown>): Promise<Record<string, unknown>> {
  try {
    await outcome
  } catch (error) {
    if (error instanceof TidemarkError) return { code: error.code, ...error.details }
    throw error
  }
  return expect.fail('it was not refused')
}

export async function list<T>(of: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = []
  for await (const one of of) all.push(one)
  return all
}

/** Keeps watch over a promise without failing on its rejection. */
export function watched<T>(promise: Promise<T>): { readonly promise: Promise<T>; readonly settled: boolean } {
  const watch = { promise, settled: false }
  const settle = (): void => {
    watch.settled = true
  }
  promise.then(settle, settle)
  return watch
}

/** A signal that nobody aborts. */
export const never = (): AbortSignal => new AbortController().signal

/** A wait that is over when the signal aborts. */
export const until = (log: Log, signal: AbortSignal = never()): Wait => ({
  get isOver() {
    return signal.aborted
  },
  async changed(channel, from) {
    try {
      await log.changed(channel, from, signal)
    } catch (error) {
      if (!signal.aborted) throw error
    }
  },
})

/** The same log, with something that happens to it as one of its verbs is about to answer: the moment of a race. */
export function amid(log: Log, verb: 'read' | 'cursor' | 'info', happens: () => Promise<unknown>): Log {
  let pending: (() => Promise<unknown>) | undefined = happens
  return new Proxy(log, {
    get(target, name) {
      const member = Reflect.get(target, name)
      if (typeof member !== 'function') return member
      // Nothing happens in the middle of what is done at once.
      if (name === 'recent') return verb === 'read' ? () => undefined : member.bind(target)
      return async (...args: unknown[]) => {
        const answer = await Reflect.apply(member, target, args)
        const now = name === verb ? pending : undefined
        if (now) pending = undefined
        await now?.()
        return answer
      }
    },
  })
}
