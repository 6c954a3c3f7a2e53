/** A closed level log, looked at and edited from below: its rows as LevelDB holds them. */
import { join } from 'node:path'
import { Level } from 'level'
import { decodeName, nameKey } from '../../src/log/level/keys.ts'

export type Rows = Level<Uint8Array, Uint8Array>

export async function withRows<T>(dir: string, work: (rows: Rows) => Promise<T>): Promise<T> {
  const rows: Rows = new Level(join(dir, 'store'), {
    ...{ keyEncoding: 'view', valueEncoding: 'view', compression: false, createIfMissing: false },
  })
  await rows.open()
  try {
    return await work(rows)
  } finally {
    await rows.close()
  }
}

/** The number that a channel's keys hold. */
export async function numberOf(rows: Rows, channel: string): Promise<number> {
  const row = await rows.get(nameKey(channel))
  if (row === undefined) throw new Error(`no name row of ${channel}`)
  return decodeName(nameKey(channel), row).channel
}

/** Flips one bit of a stored value. */
export async function flip(rows: Rows, key: Uint8Array, bit: number): Promise<void> {
  const row = await rows.get(key)
  if (row === undefined) throw new Error(`no row ${Buffer.from(key).toString('hex')}`)
  const value = Uint8Array.from(row)
  value[(bit >> 3) % value.length]! ^= 1 << (bit & 7)
  await rows.put(key, value)
}
