/**
 * A scripted run for those who stop a log at every single call: its steps, and with them every seq that it gives, come
 * from a seed alone, so that whoever opens what is left knows what must be there.
 */
import { type Body, encodeBody } from '../../src/body.ts'
import { dice } from './dice.ts'

/** What one append puts in one channel: events first … last of the channel's n-th life. */
export interface Entry {
  readonly channel: string
  readonly life: number
  readonly first: number
  readonly last: number
}

export type Step =
  | { readonly do: 'append'; readonly n: number; readonly entries: readonly Entry[]; readonly key?: string }
  | { readonly do: 'commit'; readonly n: number; readonly client: string; readonly at: Entry }
  | { readonly do: 'trim'; readonly n: number; readonly at: Entry }
  | { readonly do: 'delete'; readonly n: number; readonly channel: string; readonly life: number }
  | { readonly do: 'reopen'; readonly n: number }

export const CHANNELS = ['a', 'b', 'c/d', 'trimmed', 'reborn']
export const CLIENTS = ['web-1', 'web-2']
const REBORN = 4
/** Longest filling of an event, bytes: some hundred appends fill several of LevelDB's log files. */
const PAD_MAX = 1_200

/** Step n stands at n. */
export function sceneOf(seed: number, length: number): Step[] {
  const random = dice(seed)
  const lives = new Map(CHANNELS.map((channel) => [channel, { life: 0, head: 0 }]))
  const steps: Step[] = []
  const entry = (channel: string): Entry => {
    const state = lives.get(channel)!
    const first = state.head + 1
    state.head += 1 + random(random(12) === 0 ? 40 : 4)
    return { channel, life: state.life, first, last: state.head }
  }
  const upTo = (channel: string, back: number): Entry => {
    const { life, head } = lives.get(channel)!
    return { channel, life, first: 0, last: Math.max(0, head - random(back)) }
  }
  for (let n = 0; n < length; n++) {
    const kind = random(100)
    const followed = CHANNELS[random(3) === 0 ? REBORN : 0]!
    // Once in any case.
    if (n === length >> 1 || (n > 5 && kind < 2)) steps.push({ do: 'reopen', n })
    else if (kind < 5 && lives.get('trimmed')!.head > 0) steps.push({ do: 'trim', n, at: upTo('trimmed', 12) })
    else if (kind < 8 && lives.get('reborn')!.head > 0) {
      const state = lives.get('reborn')!
      steps.push({ do: 'delete', n, channel: 'reborn', life: state.life })
      lives.set('reborn', { life: state.life + 1, head: 0 })
    } else if (kind < 22 && lives.get(followed)!.head > 0)
      steps.push({ do: 'commit', n, client: CLIENTS[random(2)]!, at: upTo(followed, 8) })
    else {
      const channels = random(4) === 0 ? CHANNELS.slice(random(2), 2 + random(3)) : [CHANNELS[random(CHANNELS.length)]!]
      const key = random(3) === 0 ? { key: `key-${n}` } : {}
      steps.push({ do: 'append', n, entries: channels.map(entry), ...key })
    }
  }
  return steps
}

/** The data of an event, byte for byte. */
export function dataOf(n: number, { channel, first }: Entry, seq: number): Buffer {
  const pad = 'x'.repeat(dice(n * 1_000 + seq)(PAD_MAX))
  return Buffer.from(JSON.stringify({ n, channel, first, seq, pad }))
}

export function bodyOf(n: number, entry: Entry): Body {
  const events = Array.from({ length: entry.last - entry.first + 1 }, (_, i) => ({
    ...{ type: 'scene', key: null, id: null, contentType: null, to: null },
    data: dataOf(n, entry, entry.first + i),
  }))
  return encodeBody(events)
}
