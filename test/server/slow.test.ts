/**
 * Slow attackers beside healthy clients: nobody healthy loses an event, and whoever attacks is ended by the limits that
 * PROTOCOL.md tells. `SLOW_ATTACKERS=200` is the long form; it prints how much later events arrive.
 */
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, onTestFinished, test } from 'vitest'
import { WebSocket } from 'ws'
import { changeKeys, makeIssuer, makeKey } from '../../src/access/keysfile.ts'
import { OPERATIONS } from '../../src/access/principal.ts'
import { signToken } from '../../src/access/tokens.ts'
import { range, tempDir } from '../parts.ts'
import { Program, type Serving, serving } from '../tools/program.ts'
import { call } from './calls.ts'

/** `SLOW_KINDS=pings,fragments`: these alone. */
const KINDS = process.env.SLOW_KINDS?.split(',') ?? []
const GIVEN = Number(process.env.SLOW_ATTACKERS ?? 0)
const isLong = GIVEN > 0
const ATTACKERS = GIVEN || 16
const CLIENTS = isLong ? 100 : 5
/** Of one phase, ms; attackers go on until those were ended who are to be. */
const CALM_MS = isLong ? 10_000 : 1_000
const SIEGE_MS = Number(process.env.SLOW_MS ?? (isLong ? 66_000 : 4_000))
/** Each healthy client appends this often, ms. */
const EVERY_MS = 100

/** Median, and what one of twenty and of a hundred were later than; ms. */
const quantiles = (latencies: readonly number[]): number[] => {
  const sorted = latencies.toSorted((a, b) => a - b)
  return [0.5, 0.95, 0.99].map((part) => sorted[Math.floor(sorted.length * part)]!)
}

// ── Healthy ──────────────────────────────────────────────────────────────────────────────────────────────────────

interface Healthy {
  readonly seqs: number[]
  latencies: number[]
  sent: number
  /** Appends once. */
  append(): void
}

async function healthy(port: number, token: string, n: number): Promise<Healthy> {
  const ws = new WebSocket(`ws://127.0.0.1:${port}/v1/stream`, 'tidemark.v1.json', {
    perMessageDeflate: false,
    headers: { authorization: `Bearer ${token}` },
  })
  onTestFinished(() => ws.terminate())
  const channel = `healthy/${n}`
  const self: Healthy = {
    seqs: [],
    latencies: [],
    sent: 0,
    append: () =>
      ws.send(JSON.stringify({ op: 'append', ref: ++self.sent, channel, events: [{ data: performance.now() }] })),
  }
  await new Promise((resolve, reject) => ws.once('open', resolve).once('error', reject))
  const isSubscribed = new Promise<void>((resolve) => {
    ws.on('message', (text) => {
      const message = JSON.parse(String(text)) as { op: string; code?: string; events: { seq: number; data: number }[] }
      if (message.op === 'error' || message.op === 'ended') throw new Error(String(text))
      if (message.op === 'subscribed') resolve()
      if (message.op !== 'events') return
      for (const { seq, data } of message.events) {
        self.seqs.push(seq)
        self.latencies.push(performance.now() - data)
      }
    })
  })
  ws.send('{"op":"hello"}')
  ws.send(JSON.stringify({ op: 'subscribe', channel }))
  await isSubscribed
  return self
}

/** All of them append at their pace for so long, each at its own moment; how late events arrived. */
async function work(clients: readonly Healthy[], ms: number): Promise<number[]> {
  for (const client of clients) client.latencies = []
  const end = performance.now() + ms
  await Promise.all(
    clients.map(async (client, n) => {
      await sleep((EVERY_MS * n) / clients.length)
      while (performance.now() < end) {
        client.append()
        await sleep(EVERY_MS)
      }
    }),
  )
  while (clients.some(({ seqs, sent }) => seqs.length < sent)) await sleep(5)
  return clients.flatMap(({ latencies }) => latencies)
}

// ── Attackers ────────────────────────────────────────────────────────────────────────────────────────────────────

interface Siege {
  begin(): void
  /** How those were ended that were, first of all ways. */
  readonly ways: Set<string>
  /** How often each way came. */
  end(): Promise<Record<string, number>>
}

/** They take no time of this process, which watches the clock. */
async function besiege(port: string, count: number, auth: string, kinds: readonly string[]): Promise<Siege> {
  const attackers = new Program([port, `${count}`, ...kinds], { program: 'test/attackers.js', env: { AUTH: auth } })
  // Its start is no attack.
  await attackers.until(() => attackers.values.length > 0)
  return {
    begin: () => void attackers.child.stdin.write('\n'),
    get ways() {
      return new Set(attackers.values.flatMap(({ end }) => (typeof end === 'string' ? [end] : [])))
    },
    async end() {
      attackers.child.stdin.end()
      await attackers.ended()
      return attackers.values.at(-1)!.ends as Record<string, number>
    },
  }
}

/** A server that holds what attackers ask for. */
async function besieged(keys: string, admin: string): Promise<Serving> {
  const server = await serving(['--keys', keys])
  const filler = JSON.stringify(Array.from({ length: 900 }, () => ({ data: 'x'.repeat(1_000) })))
  for (let n = 0; n < 16; n++)
    expect(
      (await call(`${server.url}/v1/channels/big/events`, 'POST', filler, { authorization: `Bearer ${admin}` })).status,
    ).toBe(201)
  return server
}

/** What attackers take from everybody on the machine, whatever they attack: they and their server have its cores, too. */
async function besideAnother<T>(keys: string, admin: string, auth: string, doing: () => Promise<T>): Promise<T> {
  const other = await besieged(keys, admin)
  const siege = await besiege(new URL(other.url).port, ATTACKERS, auth, KINDS)
  siege.begin()
  const done = await doing()
  await siege.end()
  other.child.kill('SIGTERM')
  await other.ended()
  return done
}

test(
  'healthy clients lose nothing beside slow attackers, who are ended',
  async () => {
    const keys = join(tempDir(), 'keys.json')
    const admin = makeKey({ kind: 'admin' })
    const issuer = makeIssuer({ iss: 'app' })
    changeKeys(keys, () => ({ keys: [admin.entry], issuers: [issuer] }))
    const tokenOf = (sub: string, ...channels: string[]) =>
      signToken(issuer, { sub, perm: channels.map((ch) => ({ ch, ops: OPERATIONS })), groups: [], seconds: 600 })
    const server = await besieged(keys, admin.text)
    const { port } = new URL(server.url)

    // Who follows a channel finds it there.
    for (const n of range(1, CLIENTS))
      await call(`${server.url}/v1/channels/healthy/${n}`, 'PUT', {}, { authorization: `Bearer ${admin.text}` })
    const clients = await Promise.all(
      range(1, CLIENTS).map(async (n) => healthy(+port, await tokenOf(`healthy-${n}`, 'healthy/*'), n)),
    )
    const auth = `Authorization: Bearer ${await tokenOf('mallory', 'big', 'junk')}\r\n`
    await work(clients, CALM_MS / 3)
    const calm = await work(clients, CALM_MS)
    const elsewhere = isLong ? await besideAnother(keys, admin.text, auth, () => work(clients, SIEGE_MS)) : []
    const siege = await besiege(port, ATTACKERS, auth, KINDS)
    siege.begin()
    const underSiege = await work(clients, SIEGE_MS)
    const expected = [
      'no hello: 4408',
      'fragments: 1008',
      ...(isLong ? ['slow heads: 408', 'slow bodies: 408', 'answers not read: cut', 'sockets not read: cut'] : []),
    ]
    if (KINDS.length === 0) while (!expected.every((end) => siege.ways.has(end))) await sleep(50)
    const ends = await siege.end()
    const after = await work(clients, CALM_MS)

    const [before, beside, later] = [calm, underSiege, after].map(quantiles) as [number[], number[], number[]]
    const shown = (values: readonly number[]): string => values.map((ms) => ms.toFixed(1)).join(' / ')
    const ratios = beside.map((ms, i) => (ms / Math.max(before[i]!, later[i]!)).toFixed(2)).join(' / ')
    console.log(
      [
        `${CLIENTS} clients beside ${ATTACKERS} attackers: p50 / p95 / p99 ${shown(before)} ms before, ${shown(beside)} beside, ${shown(later)} after: ${ratios} times`,
        ...(isLong ? [`the same attackers at another server of this machine: ${shown(quantiles(elsewhere))} ms`] : []),
        ...Object.entries(ends).map(([end, count]) => `${end} × ${count}`),
      ].join('\n'),
    )
    for (const { seqs, sent } of clients) expect(seqs).toEqual(range(1, sent))
  },
  isLong ? 300_000 : 60_000,
)
