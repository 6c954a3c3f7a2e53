/** Credentials of a function: fetched once for all who ask, renewed, refused, and not to be had for a while. */
import { expect, test } from 'vitest'
import type { State } from '../../src/client/connection.ts'
import { newTokens } from '../../src/client/token.ts'
import { TidemarkError } from '../../src/errors.ts'
import { clientOf, Scripted, seqs } from './scripted.ts'

test('a refused token is asked for anew once, and a second refusal is final', async () => {
  const server = await Scripted.start()
  let given = 0
  const tidemark = clientOf(server, { token: async () => `token-${++given}` })
  const loop = tidemark.channel('a').follow()
  const refuse = async (token: string) => {
    const peer = await server.peer()
    expect(await peer.next('hello')).toMatchObject({ token })
    peer.socket.close(4401, 'expired')
    return peer
  }
  server.meets = 'silence'
  await refuse('token-1')
  server.meets = 'greet'
  const peer = await server.peer()
  expect(await peer.next('hello')).toMatchObject({ token: 'token-2' })
  await peer.accept()
  peer.events('a', 1, 1)
  expect(await seqs(loop, 1)).toEqual([1])
  server.meets = 'silence'
  peer.socket.close(4401, 'expired')
  await refuse('token-3')
  await expect(loop.next()).rejects.toMatchObject({ code: 'unauthorized' })
})

test('a token that can not be had for a while is asked for again: loops, appends and commits wait', async () => {
  const server = await Scripted.start()
  server.respond = () => ({ status: 201, body: { channel: 'a', epoch: 'e1', first: 1, last: 1, head: 1 } })
  const cause = new TypeError('fetch failed')
  let isOffline = true
  const tidemark = clientOf(server, {
    token: async () => {
      if (isOffline) throw cause
      return 'token'
    },
  })
  const waiting: unknown[] = []
  tidemark.onState((state: State, error) => {
    if (state !== 'waiting') return
    waiting.push(error)
    if (waiting.length === 3) isOffline = false
  })
  const appended = tidemark.channel('a').append({ data: 1 })
  const loop = tidemark.channel('a').follow()
  const peer = await server.peer()
  expect(await peer.next('hello')).toMatchObject({ token: 'token' })
  await peer.accept()
  peer.events('a', 1, 1)
  expect(await seqs(loop, 1)).toEqual([1])
  for (const error of waiting) expect(error).toMatchObject({ code: 'unavailable', cause })
  const over = await Promise.race([
    appended,
    peer.next('append').then(({ ref }) => {
      peer.say({ op: 'appended', ref, channel: 'a', epoch: 'e1', first: 1, last: 1, head: 1, durability: 'fsync' })
      return appended
    }),
  ])
  expect(over.last).toBe(1)
})

test('a function that says no ends the loops with what it said', async () => {
  const server = await Scripted.start()
  const no = new TidemarkError('unauthorized', 'Signed out')
  const tidemark = clientOf(server, { token: () => Promise.reject(no) })
  await expect(tidemark.channel('a').follow().next()).rejects.toBe(no)
  await expect(tidemark.channel('a').append({ data: 1 })).rejects.toBe(no)
  expect(tidemark.state).toBe('idle')
})

test('a function that throws at once is as one that rejects', async () => {
  const server = await Scripted.start()
  let asked = 0
  const tidemark = clientOf(server, {
    token: () => {
      if (asked++ < 2) throw new Error('no')
      return 'token'
    },
  })
  tidemark.channel('a').follow()
  const peer = await server.peer()
  expect(await peer.next('hello')).toMatchObject({ token: 'token' })
})

test('who asks while a token is on its way waits for it; a refusal of the one before asks for no other', async () => {
  const asked: ((token: string) => void)[] = []
  const tokens = newTokens(() => new Promise((resolve) => asked.push(resolve)))
  const both = [tokens.token(), tokens.token()]
  expect(asked).toHaveLength(1)
  asked[0]!('old')
  expect(await Promise.all(both)).toEqual(['old', 'old'])
  expect(tokens.renew('old')).toBe(true)
  const next = tokens.token()
  // A slow renewal: the old one is refused meanwhile, at two doors.
  expect(tokens.renew('old')).toBe(true)
  expect(tokens.renew('old')).toBe(true)
  const again = tokens.token()
  expect(asked).toHaveLength(2)
  asked[1]!('new')
  expect(await Promise.all([next, again])).toEqual(['new', 'new'])
  tokens.renew('old')
  expect(await tokens.token()).toBe('new')
  expect(newTokens('text').renew('text')).toBe(false)
})
