/** Idempotency keys are their subject's own, as cursors are. */
import { expect, test } from 'vitest'
import { call, problemOf } from './calls.ts'
import { startGuarded } from './guarded.ts'

test('no subject meets the idempotency key of another, at any door', async () => {
  const guarded = await startGuarded()
  const { url, headers } = guarded
  const key = { 'idempotency-key': 'order-1' }
  const callers = ['granted', 'other', 'publish', 'admin'] as const
  let first = 0
  for (const caller of callers) {
    const named = { ...headers(caller), ...key }
    const asked = ['one', 'one', 'two'].map(
      (data) => () => call(`${url}/v1/channels/in/events`, 'POST', { data }, named),
    )
    const [made, again, other] = [await asked[0]!(), await asked[1]!(), await asked[2]!()]
    expect([made.status, made.json.first]).toEqual([201, ++first])
    expect([again.status, again.json]).toMatchObject([200, { first, duplicate: true }])
    expect(problemOf(other).code).toBe('key-reused')
    // Whose key it is stands nowhere in what is told.
    expect(other.text).not.toContain('~')
  }
  for (const caller of callers) {
    const several = { appends: [{ channel: 'orders/1', events: [{ data: caller }] }] }
    const lines = { ...headers(caller), ...key, 'content-type': 'application/x-ndjson' }
    const path = `${url}/v1/channels/orders/2/events`
    expect((await call(`${url}/v1/append`, 'POST', several, { ...headers(caller), ...key })).status).toBe(201)
    // More than one piece.
    const many = '{"data":1}\n'.repeat(1_500)
    expect([(await call(path, 'POST', many, lines)).status, (await call(path, 'POST', many, lines)).status]).toEqual([
      201, 200,
    ])
    const peer = await guarded.peer(caller)
    const append = { op: 'append', channel: 'orders/3', events: [{ data: 1 }], idempotencyKey: 'order-1' }
    peer.send({ op: 'hello' }, { ...append, ref: 1 }, { ...append, ref: 2 })
    expect(await peer.answer(1)).toMatchObject({ op: 'appended' })
    expect(await peer.answer(2)).toMatchObject({ op: 'appended', duplicate: true })
  }
  const heads = await Promise.all(['orders/1', 'orders/2', 'orders/3'].map((name) => guarded.log.info(name)))
  expect(heads.map(({ head }) => head)).toEqual([4, 6_000, 4])
})

test('a subject finds its key again with another token, and no key of its own meets another subject’s', async () => {
  const guarded = await startGuarded()
  const append = async (sub: string, key: string) => {
    const authorization = `Bearer ${await guarded.token(sub)}`
    return call(`${guarded.url}/v1/channels/in/events`, 'POST', { data: 1 }, { authorization, 'idempotency-key': key })
  }
  expect((await append('a', 'b~c')).status).toBe(201)
  expect((await append('a~b', 'c')).status).toBe(201)
  expect((await append('a%7Eb', 'c')).status).toBe(201)
  expect((await append('a', 'b~c')).status).toBe(200)
  const longest = await append('ü'.repeat(64), '~'.repeat(128))
  expect(longest.status).toBe(201)
  expect((await append('ü'.repeat(64), '~'.repeat(128))).json).toMatchObject({ duplicate: true })
})
