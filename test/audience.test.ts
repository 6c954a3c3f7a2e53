import { crc32 } from 'node:zlib'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { blockFor, type Reader, reaches } from '../src/audience.ts'
import { checkBlock, decodeBlock, readHeader } from '../src/block.ts'
import { SEED } from './parts.ts'
import { anyBlock, law, plain } from './random.ts'

console.log(`audience: TEST_SEED=${SEED}`)

const anna: Reader = { sub: 'anna', groups: ['/staff/dev', 'guests'] }

test('An event is for the users it names and for all at or below its groups, by whole segments', () => {
  const users = (...users: string[]) => reaches({ users, groups: [] }, anna)
  const groups = (...groups: string[]) => reaches({ users: [], groups }, anna)
  expect(users('anna')).toBe(true)
  expect(users('ben', 'anna')).toBe(true)
  for (const other of ['ann', 'annab', 'Anna', '/staff/dev', '']) expect(users(other)).toBe(false)
  for (const group of ['/staff', '/staff/', '/staff/dev', '/staff/dev/', 'guests', '/'])
    expect(groups(group)).toBe(true)
  for (const group of ['/staffing', '/sta', '/staff/de', '/staff/dev/ops', 'guest', 'anna', 'staff'])
    expect(groups(group)).toBe(false)
  expect(groups('/staffing', 'guests')).toBe(true)
  expect(reaches({ users: ['anna'], groups: ['/staff'] }, { sub: 'ben', groups: [] })).toBe(false)
})

test('A block for a reader holds what it may see, whole and in place, and no word of whom that is for', () => {
  law(
    600,
    fc.tuple(anyBlock, fc.nat(5), fc.nat(5), fc.string()),
    ([{ channel, block, events }, user, group, below]) => {
      const audiences = events.flatMap(({ to }) => to ?? [])
      const sub = audiences.flatMap(({ users }) => users)[user] ?? 'anna'
      const above = audiences.flatMap(({ groups }) => groups)[group]
      const reader: Reader = { sub, groups: above === undefined ? [] : [`${above}/${below}`] }
      const seen = blockFor(reader, channel, block, crc32)
      const { after, last } = checkBlock(channel, seen, crc32)
      expect({ after, last }).toEqual({ after: readHeader(block).after, last: readHeader(block).last })
      const wanted = events
        .filter(({ to }) => to === null || reaches(to, reader))
        .map((event) => ({ ...event, to: null }))
      expect(plain(decodeBlock(seen))).toEqual(plain(wanted))
      if (audiences.length === 0) expect(seen).toBe(block)
    },
  )
})
