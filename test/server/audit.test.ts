/** The audit trail: what stands in it, what never does, and that nobody waits for it. */
import { expect, test } from 'vitest'
import { makeKey } from '../../src/access/keysfile.ts'
import { decodeBlock } from '../../src/block.ts'
import { Audit } from '../../src/doors/audit.ts'
import { AUDIT_CHANNEL, type Event } from '../../src/event.ts'
import type { Log } from '../../src/log/log.ts'
import { readRetentionRule } from '../../src/retention.ts'
import { tempLog } from '../parts.ts'
import { call, loggerTo } from './calls.ts'
import { type Guarded, startGuarded } from './guarded.ts'
import { startTestServer } from './serve.ts'
import { Peer, until } from './stream.ts'

// biome-ignore lint/suspicious/noExplicitAny: tests look into entries as they like
type Entry = { type: string; data: any }

async function trail(log: Log): Promise<Entry[]> {
  const info = await log.info(AUDIT_CHANNEL).catch(() => undefined)
  if (info === undefined) return []
  const page = await log.read(AUDIT_CHANNEL, { after: 0 }, { events: 10_000, bytes: 1 << 24 })
  return page.blocks
    .flatMap((block) => decodeBlock(block, 0))
    .map(({ type, data }: Event) => ({ type: type!, data: JSON.parse(new TextDecoder().decode(data!)) }))
}

const ofType = async (log: Log, type: string) => (await trail(log)).filter((entry) => entry.type === type)

test('starts, keys, what admins change, refusals and the stop stand in it, in their order', async () => {
  const guarded = await startGuarded({ shown: [{ name: 'port', value: '0', from: 'flag --port' }] })
  const { log, url, kids } = guarded
  const as = (caller: 'admin' | 'granted' | 'without') => guarded.headers(caller)
  expect((await call(`${url}/v1/channels/orders`, 'PUT', { note: 'kept' }, as('admin'))).status).toBe(200)
  await call(`${url}/v1/channels/orders/1/events`, 'POST', { data: 'a secret of its own' }, as('granted'))
  await call(`${url}/v1/channels/orders%2F1/trim`, 'POST', { upTo: 1 }, as('admin'))
  await call(`${url}/v1/channels/nowhere/trim`, 'POST', { upTo: 1 }, as('admin'))
  await call(`${url}/v1/channels/orders%2F1/cursors/anna~web`, 'PUT', { seq: 1 }, as('admin'))
  await call(`${url}/v1/channels/orders%2F1/cursors/anna~web`, 'PUT', { seq: 0, seek: true }, as('admin'))
  await call(`${url}/v1/channels/orders%2F1/cursors/web`, 'DELETE', undefined, as('granted'))
  await call(`${url}/v1/admin/figures`, 'GET', undefined, as('admin'))
  for (let n = 0; n < 3; n++) await call(`${url}/v1/admin/figures`, 'GET', undefined, as('granted'))
  await call(`${url}/v1/channels`, 'GET', undefined, { authorization: 'Bearer tm_adm_none' })
  const peer = await Peer.open(`${url.replace('http', 'ws')}/v1/stream`, 'json', {})
  peer.send({ op: 'hello', token: 'wrong' })
  await peer.closed

  const more = makeKey({ kind: 'publish', note: 'more' })
  guarded.change(({ keys, issuers }) => ({
    keys: [...keys.filter(({ kid }) => kid !== kids.publish).map((key) => ({ ...key, note: 'renamed' })), more.entry],
    issuers,
  }))
  await until(async () => (await ofType(log, 'keys')).length === 1)
  await guarded.server.close()

  const told = await trail(log)
  expect(told.map(({ type }) => type)).toEqual(['start', ...Array(4).fill('call'), 'keys', 'refused', 'stop'])
  expect(told[0]!.data).toMatchObject({ url: `${url}/v1`, settings: [{ name: 'port', value: '0' }] })
  const admin = { who: kids.admin, kind: 'admin', address: '127.0.0.1' }
  expect((await ofType(log, 'call')).map(({ data }) => data)).toEqual([
    { ...admin, method: 'PUT', route: '/v1/channels/:channel', channel: 'orders', status: 200 },
    { ...admin, method: 'POST', route: '/v1/channels/:channel/trim', channel: 'orders/1', status: 200 },
    { ...admin, method: 'POST', route: '/v1/channels/:channel/trim', channel: 'nowhere', status: 404 },
    {
      ...admin,
      method: 'PUT',
      route: '/v1/channels/:channel/cursors/:client',
      channel: 'orders/1',
      client: 'anna~web',
      status: 200,
    },
  ])
  expect((await ofType(log, 'keys'))[0]!.data).toEqual({
    made: [{ kind: 'publish', name: more.entry.kid }],
    changed: [{ kind: 'admin', name: kids.admin }],
    revoked: [{ kind: 'publish', name: kids.publish }],
  })
  expect((await ofType(log, 'refused'))[0]!.data).toEqual({
    since: expect.any(String),
    refusals: [
      { code: 'forbidden', address: '127.0.0.1', count: 3 },
      { code: 'unauthorized', address: '127.0.0.1', count: 2 },
    ],
  })
  const text = JSON.stringify(told)
  for (const secret of [...Object.values(guarded.credentials).filter(Boolean), more.text, 'a secret of its own'])
    expect(text).not.toContain(secret)
  for (const { entry } of [more]) expect(text).not.toContain(entry.digest)
})

test('of an import the end stands in it, not each piece', async () => {
  const { log, url, headers, kids, server } = await startGuarded()
  const piece = (more: object) =>
    call(
      `${url}/v1/admin/import`,
      'POST',
      { channel: 'moved', from: 'a.b', head: 3, trimmed: 3, ...more },
      headers('admin'),
    )
  for (const more of [{}, {}, { end: { settings: {}, time: null } }])
    expect([more, (await piece(more)).status]).toEqual([more, 200])
  await server.close()
  expect((await ofType(log, 'call')).map(({ data }) => data)).toEqual([
    {
      ...{ who: kids.admin, kind: 'admin', address: '127.0.0.1' },
      ...{ method: 'POST', route: '/v1/admin/import', channel: 'moved', status: 200 },
    },
  ])
})

test('admins alone read it, and nobody writes it', async () => {
  const guarded = await startGuarded()
  await until(async () => (await trail(guarded.log)).length === 1)
  const events = `${guarded.url}/v1/channels/_audit/events`
  for (const caller of ['publish', 'granted', 'without', 'other'] as const)
    expect((await call(events, 'GET', undefined, guarded.headers(caller))).status).toBe(403)
  expect((await call(events)).status).toBe(401)
  const admin = guarded.headers('admin')
  expect((await call(events, 'GET', undefined, admin)).json.events[0].type).toBe('start')
  expect((await call(events, 'POST', { data: 1 }, admin)).status).toBe(403)
  expect((await call(`${guarded.url}/v1/channels/_audit`, 'DELETE', undefined, admin)).status).toBe(403)
  expect((await call(`${guarded.url}/v1/channels/_audit/trim`, 'POST', { keepLast: 0 }, admin)).status).toBe(403)
})

test('a server without keys keeps none', async () => {
  const { url, log, server } = await startTestServer()
  await call(`${url}/v1/channels/orders`, 'PUT', {})
  await server.close()
  expect(await trail(log)).toEqual([])
})

test('while the log takes nothing, calls go on, what waits is bounded, and what was lost is told', async () => {
  const lines: Record<string, unknown>[] = []
  const log = await tempLog()
  let isBroken = true
  const broken = new Proxy(log, {
    get(target, name) {
      if (name === 'append' && isBroken) return () => Promise.reject(new Error('no disk'))
      const verb: unknown = Reflect.get(target, name)
      return typeof verb === 'function' ? verb.bind(target) : verb
    },
  })
  const retry = 20
  const audit = new Audit({ log: broken, logger: loggerTo(lines), isOn: () => true, started: () => ({}), retry })
  audit.started()
  const made = Array.from({ length: 1_500 }, (_, n) => ({ kind: 'publish' as const, name: `k${n}` }))
  for (const key of made) audit.keys({ made: [key], changed: [], revoked: [] })
  await until(() => lines.some(({ msg }) => String(msg).includes('can not be written now')))
  isBroken = false
  await until(async () => (await trail(log)).length === 1_000)
  audit.keys({ made: [], changed: [], revoked: [made[0]!] })
  await audit.close()
  const told = await trail(log)
  expect(told[999]!.data.made[0].name).toBe('k998')
  expect(told[1_000]!.data).toMatchObject({ revoked: [made[0]], lost: 501 })
  expect(told.at(-1)!.type).toBe('stop')
})

test('a flood of refusals from many addresses is one entry of bounded length', async () => {
  const log = await tempLog()
  const audit = new Audit({ log, logger: loggerTo([]), isOn: () => true, started: () => ({}) })
  audit.started()
  for (let n = 0; n < 5_000; n++) audit.refused('unauthorized', `192.0.${n >> 8}.${n & 255}`)
  await audit.close()
  const [refused] = await ofType(log, 'refused')
  expect(refused!.data.refusals.length).toBe(200)
  expect(refused!.data.others).toBe(4_800)
})

test('it is kept for a year and to 1 GiB, or as a rule says', async () => {
  const retentionOf = async ({ url, headers }: Guarded) =>
    (await call(`${url}/v1/channels/_audit`, 'GET', undefined, headers('admin'))).json.retention
  const usual = await startGuarded()
  await until(async () => (await ofType(usual.log, 'start')).length === 1)
  expect(await retentionOf(usual)).toEqual({ maxAge: 31_536_000, maxBytes: 1024 ** 3, from: 'pattern _audit' })

  const short = await startGuarded({ retain: [readRetentionRule('_audit: events=5')] })
  for (let n = 0; n < 12; n++) await call(`${short.url}/v1/channels/c${n}`, 'PUT', {}, short.headers('admin'))
  expect(await retentionOf(short)).toEqual({ maxEvents: 5, from: 'pattern _audit' })
  await until(async () => {
    const { head, trimmed } = await short.log.info(AUDIT_CHANNEL)
    return head === 13 && trimmed === 8
  })
})
