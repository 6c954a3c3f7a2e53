/**
 * What the mixed load does. Deed number n is a function of n alone, its bodies byte for byte, so that whoever reads a
 * log back knows what must stand there, and whoever retries an append sends it as it was sent.
 */

import { type Body, encodeBody } from '../../src/body.ts'
import { dice } from './dice.ts'

export type Deed =
  | {
      readonly do: 'append'
      /** Events by channel. */
      readonly entries: readonly { readonly channel: string; readonly count: number }[]
      readonly key?: string
      /** Says the head that it believes in. */
      readonly expects: boolean
    }
  | { readonly do: 'commit'; readonly channel: string; readonly client: string }
  | { readonly do: 'trim' | 'keep' | 'delete' | 'reopen' | 'compact' }

/** Appended to and nothing else. */
export const KEPT = ['kept/a', 'kept/b', 'kept/c']
export const EXPECTED = 'expected'
export const TRIMMED = 'trimmed'
/** Deleted and made again. */
export const REBORN = 'reborn'
export const CHANNELS = [...KEPT, EXPECTED, TRIMMED, REBORN]
export const CLIENTS = ['web-1', 'web-2', 'web-3']
/** Channels in which cursors are kept. */
export const FOLLOWED = ['kept/a', TRIMMED]

export function deedOf(n: number): Deed {
  const random = dice(n)
  const kind = random(1_000)
  if (kind < 4) return { do: 'reopen' }
  if (kind < 16) return { do: 'delete' }
  if (kind < 33) return { do: 'keep' }
  if (kind < 50) return { do: 'trim' }
  // None of its events has a key: small blocks become larger ones, and that is all.
  if (kind < 65) return { do: 'compact' }
  if (kind < 200) return { do: 'commit', channel: FOLLOWED[random(2)]!, client: CLIENTS[random(CLIENTS.length)]! }
  const keyed = random(3) === 0
  const key = keyed ? { key: `key-${n}` } : {}
  const count = (): number => 1 + random(random(20) === 0 ? 150 : 4)
  const one = (channel: string) => ({ do: 'append' as const, expects: false, entries: [{ channel, count: count() }] })
  if (kind < 300) return { ...one(EXPECTED), ...key, expects: true }
  if (kind < 450) {
    const channels = [...KEPT, TRIMMED].slice(random(2))
    return { do: 'append', ...key, expects: false, entries: channels.map((channel) => ({ channel, count: count() })) }
  }
  // A receipt is filed under its channel and goes with it.
  if (kind < 550) return one(REBORN)
  return { ...one([...KEPT, TRIMMED][random(4)]!), ...key }
}

/** The data of event i of an append in one channel. */
export function dataOf(n: number, channel: string, i: number, of: number): Buffer {
  const pad = 'x'.repeat(dice(n * 1_000 + i)(300))
  return Buffer.from(JSON.stringify({ n, i, of, channel, pad }))
}

export function bodyOf(n: number, channel: string, count: number): Body {
  const events = Array.from({ length: count }, (_, i) => ({
    ...{ type: 'crash', key: null, id: null, contentType: null, to: null },
    data: dataOf(n, channel, i, count),
  }))
  return encodeBody(events)
}
