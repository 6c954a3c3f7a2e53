import { expect, test } from 'vitest'
import { everybody, NOBODY, OPERATIONS, type Operation, Principal } from '../../src/access/principal.ts'
import { checkClient, checkCursorName } from '../../src/event.ts'
import { readPattern } from '../../src/pattern.ts'
import { codeOf } from '../random.ts'

const grant = (pattern: string, ...operations: Operation[]) => ({ pattern: readPattern(pattern), operations })
const client = (sub: string, ...grants: ReturnType<typeof grant>[]) =>
  new Principal({ kind: 'client', sub, grants, source: { isOver: false } })

test('a client may do what it was granted, where it was granted', () => {
  const anna = client('anna', grant('orders/**', 'read', 'commit'), grant('in/*', 'append'))
  const allowed = ['orders/1', 'in/a', 'other', '_streamer', '_audit', '_x'].map((channel) =>
    OPERATIONS.filter((operation) => anna.may(operation, channel)),
  )
  expect(allowed).toEqual([['read', 'commit'], ['append'], [], ['read'], [], []])
})

test('where it may list is told by beginnings, in order and none within another', () => {
  const lea = client('lea', grant('z/**', 'list'), grant('or*', 'list'), grant('orders/1', 'list'), grant('a', 'read'))
  expect(lea.beginnings('list')).toEqual(['or', 'z/'])
  expect(client('all', grant('**', 'list'), grant('a', 'list')).beginnings('list')).toEqual([''])
  expect(everybody({ isOver: false }).beginnings('list')).toEqual([''])
  expect(NOBODY.beginnings('list')).toEqual([])
})

test('nobody may anything, an admin everything', () => {
  const admin = everybody({ isOver: false })
  for (const channel of ['a', '_streamer', '_audit'])
    for (const operation of OPERATIONS) {
      expect(admin.may(operation, channel)).toBe(true)
      expect(NOBODY.may(operation, channel)).toBe(false)
      expect(codeOf(() => NOBODY.need(operation, channel))).toBe('unauthorized')
    }
  expect(codeOf(() => NOBODY.needAdmin())).toBe('unauthorized')
  expect(codeOf(() => client('anna', grant('**', ...OPERATIONS)).needAdmin())).toBe('forbidden')
})

test('_audit is the admins’ whatever the patterns', () => {
  const all = client('anna', grant('_*', ...OPERATIONS), grant('_audit', ...OPERATIONS))
  expect(OPERATIONS.filter((operation) => all.may(operation, '_audit'))).toEqual([])
  expect(OPERATIONS.filter((operation) => all.may(operation, '_other'))).toEqual([...OPERATIONS])
})

test('an end is an end', () => {
  const source = { isOver: false }
  const anna = new Principal({ kind: 'client', sub: 'anna', grants: [grant('a', 'read')], expires: 1_000, source })
  expect([anna.isOver(999), anna.isOver(1_000)]).toEqual([false, true])
  const bot = new Principal({ kind: 'publish', sub: 'bot', grants: [grant('a', 'read')], source })
  bot.need('read', 'a')
  source.isOver = true
  expect(codeOf(() => bot.need('read', 'a'))).toBe('unauthorized')
})

test('cursors are their subject’s: no two subjects and no plain name ever meet', () => {
  const subs = ['anna', 'anna~x', 'anna%', 'a/b', 'anna@example.com', 'ünà', '.', '..', '~', '%7E', 'x'.repeat(128)]
  const wholes = subs.map((sub) => client(sub).cursor('web-42'))
  expect(new Set(wholes).size).toBe(subs.length)
  expect(wholes.slice(0, 5)).toEqual([
    'anna~web-42',
    'anna%7Ex~web-42',
    'anna%25~web-42',
    'a%2Fb~web-42',
    'anna%40example.com~web-42',
  ])
  for (const [i, sub] of subs.entries()) {
    expect(checkCursorName(wholes[i])).toBe(wholes[i])
    expect(codeOf(() => checkClient(wholes[i]))).toBe('bad-request')
    expect(subs.map((other) => client(other).ownName(wholes[i]!))).toEqual(
      subs.map((other) => (other === sub ? 'web-42' : undefined)),
    )
    expect(codeOf(() => client(sub).cursor('anna~web-42'))).toBe('bad-request')
  }
  const admin = everybody({ isOver: false })
  expect([admin.cursor('web-42'), admin.cursor('anna~web-42')]).toEqual(['web-42', 'anna~web-42'])
  expect(admin.ownName('anna~web-42')).toBe('anna~web-42')
})

test('what is no whole name of a cursor is refused', () => {
  const wrong = ['~a', 'a~', 'a~b~c', 'a%zz~b', 'a%2f~b', 'a b~c', 'a~b/c', 'a~%41', `a~${'b'.repeat(129)}`]
  for (const name of wrong)
    expect(
      codeOf(() => checkCursorName(name)),
      name,
    ).toBe('bad-request')
})
