import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { type Measure, type Row, rowsOf, short, spreadOf, tableOf, wrongCounts } from '../../tools/bench/figures.ts'
import { peerNames } from '../../tools/bench/peers.ts'
import { tempDir } from '../parts.ts'

/** A run takes some ten seconds on two cores of their own; they may be shared with much else. */
const RUN_MS = 240_000

const BENCH = fileURLToPath(new URL('../../dist/tools/bench/bench.js', import.meta.url))

function startBench(dir: string, ...args: string[]): ChildProcess {
  const child = spawn(process.execPath, [BENCH, '--quick', '--dir', dir, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  onTestFinished(() => void child.kill('SIGTERM'))
  return child
}

/** Runs a bench to its end; `dir` is where it keeps everything. */
async function runBench(dir: string, ...args: string[]): Promise<{ code: number; out: string }> {
  const child = startBench(dir, ...args)
  const [out, err, [code]] = await Promise.all([text(child.stdout!), text(child.stderr!), once(child, 'close')])
  if (code !== 0) console.error(out, err)
  return { code, out }
}

/** Ids of processes that were started with this text on their command line. */
function processesWith(argument: string): string[] {
  return readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid)) return false
    try {
      return readFileSync(join('/proc', pid, 'cmdline'), 'utf8').includes(argument)
    } catch (error) {
      // It ended while we looked.
      if (['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')) return false
      throw error
    }
  })
}

interface Document {
  results: { workload: string; rows: Row[] }[]
}

/** Every count is right; tells each ratio, which is for people to look at: times of so small a run prove nothing. */
function check({ results }: Document): void {
  for (const { workload, rows } of results) {
    expect(new Set(rows.map((row) => row.subject)), workload).toEqual(new Set(['tidemark', 'limit']))
    for (const measure of rows.flatMap((row) => row.runs)) {
      expect(Number.isFinite(measure.figure), `${workload} ${measure.name}`).toBe(true)
      for (const count of measure.counts ?? []) expect(count.got, `${measure.name}: ${count.what}`).toBe(count.wanted)
    }
    for (const { name, ratios } of rows)
      for (const { limit, ratio } of ratios)
        console.log(`ratio  ${workload}  ${name}: ${short(ratio.median)} of ${limit}`)
  }
}

describe('npm run bench', () => {
  test(
    'measures every workload beside its limits, counts right, and leaves nothing behind',
    async () => {
      const dir = tempDir()
      const file = join(tempDir(), 'bench.json')
      const { code, out } = await runBench(dir, '--json', file)
      expect(code).toBe(0)
      const document = JSON.parse(readFileSync(file, 'utf8')) as Document
      const { results } = document
      // Where no nats-server can be had, the bench says so.
      const ninth = out.includes('MISSING PEER  W9: nats-server') ? [] : ['W9']
      const usual = ['W1', 'W2', 'W3', 'W4', 'W5', 'W6', 'W7', 'W8']
      expect(results.map((result) => result.workload)).toEqual([...usual, ...ninth])
      for (const { workload } of results) expect(out).toContain(`${workload}  `)
      check(document)
      const counted = results.flatMap(({ rows }) => rows.flatMap((row) => row.runs.flatMap((run) => run.counts ?? [])))
      expect(counted.length).toBeGreaterThan(50)
      expect(readdirSync(dir)).toEqual([])
    },
    RUN_MS,
  )

  test(
    'draws cost curves over channels, subscribers and stored events',
    async () => {
      const file = join(tempDir(), 'bench.json')
      const { code } = await runBench(tempDir(), 'curves', '--json', file)
      expect(code).toBe(0)
      const document = JSON.parse(readFileSync(file, 'utf8')) as Document
      check(document)
      // Two points of each of three curves, five figures each; the second is compared with the first.
      const rows = document.results[0]!.rows.filter((row) => row.subject === 'tidemark')
      expect(rows).toHaveLength(30)
      expect(rows.flatMap((row) => row.runs[0]!.limits!)).toHaveLength(15)
    },
    RUN_MS,
  )

  test(
    'does the same with load programs in Node, and says so',
    async () => {
      const { code, out } = await runBench(tempDir(), '--load', 'node', '--rows', 'message', 'W1', 'W4')
      expect(code).toBe(0)
      expect(out).toContain('load and receivers: Node programs')
    },
    RUN_MS,
  )

  test('shows what the time of the server goes into', async () => {
    const { code, out } = await runBench(tempDir(), '--profile', '--rows', 'NDJSON', 'W1')
    expect(code).toBe(0)
    expect(out).toMatch(/^ +\d+\.\d % {2}\S/m)
    expect(out).toMatch(/for each appended event: LevelDB .*chained put [\d.]+/)
    expect(out).toMatch(/event loop late by p50/)
  })

  test('ends its processes and removes its files when it is interrupted', async () => {
    const dir = tempDir()
    const child = startBench(dir, 'W1', '--runs', '100')
    child.stdout!.resume()
    const closed = once(child, 'close')
    // The first figure of a server of ours: more than the bench itself is running.
    for await (const chunk of child.stderr!) if (String(chunk).includes('HTTP JSON')) break
    expect(processesWith(dir).length).toBeGreaterThan(1)
    child.kill('SIGINT')
    expect(await closed).toEqual([130, null])
    expect(processesWith(dir)).toEqual([])
    expect(readdirSync(dir)).toEqual([])
  })

  test('does so too when nobody reads its output any more', async () => {
    const dir = tempDir()
    const child = startBench(dir, 'W1', '--rows', 'HTTP JSON, 1 event', '--runs', '20')
    child.stdout!.destroy()
    child.stderr!.destroy()
    expect((await once(child, 'close'))[0]).not.toBe(0)
    await vi.waitFor(() => expect(processesWith(dir)).toEqual([]))
    expect(readdirSync(dir)).toEqual([])
  })

  test('knows its peers by name', async () => {
    expect(peerNames('redis,ds')).toEqual(['redis', 'ds'])
    expect(() => peerNames('redis,kafka')).toThrow('no peer kafka')
    expect((await once(startBench(tempDir(), 'W1', '--peers', 'kafka'), 'close'))[0]).toBe(1)
  })

  test('says loudly when there is no nats-server', async () => {
    vi.stubEnv('NATS_SERVER_BIN', '/nowhere/nats-server')
    onTestFinished(() => void vi.unstubAllEnvs())
    const { code, out } = await runBench(tempDir(), 'W9')
    expect(code).toBe(0)
    expect(out).toContain(
      "MISSING PEER  W9: nats-server can't be had: NATS_SERVER_BIN: there is no /nowhere/nats-server",
    )
  })

  test('refuses a workload that it does not know', async () => {
    const child = startBench(tempDir(), 'W99')
    expect((await once(child, 'close'))[0]).toBe(2)
  })
})

describe('figures', () => {
  const measure = (name: string, figure: number, more: Partial<Measure> = {}): Measure => ({
    name,
    subject: 'tidemark',
    figure,
    unit: 'events/s',
    durability: 'fsync',
    ...more,
  })

  test('have the median of an odd and of an even number of runs', () => {
    expect(spreadOf([9, 1, 4])).toEqual({ median: 4, least: 1, most: 9 })
    expect(spreadOf([8, 2])).toEqual({ median: 5, least: 2, most: 8 })
  })

  test('are compared with the limit of their own run', () => {
    const runs = [
      [measure('a', 10, { limits: ['limit'] }), measure('limit', 20)],
      [measure('a', 90, { limits: ['limit'] }), measure('limit', 100)],
      [measure('a', 30, { limits: ['limit'] }), measure('limit', 50)],
    ]
    expect(rowsOf(runs)[0]!.ratios).toEqual([{ limit: 'limit', ratio: { median: 0.6, least: 0.5, most: 0.9 } }])
  })

  test('are compared with the peers that did the same work, and with the best of them', () => {
    const peer = (name: string, figure: number, work: string, more: Partial<Measure> = {}): Measure =>
      measure(name, figure, { subject: 'peer', work, ...more })
    const runs = [
      [measure('a', 10, { work: 'one' }), peer('p', 20, 'one'), peer('q', 5, 'one'), peer('other', 1, 'batch')],
      [measure('a', 60, { work: 'one' }), peer('p', 80, 'one'), peer('q', 10, 'one'), peer('other', 1, 'batch')],
    ]
    const [row, ofPeer] = rowsOf(runs)
    expect(row!.peers).toEqual([
      { peer: 'p', ratio: { median: 0.625, least: 0.5, most: 0.75 } },
      { peer: 'q', ratio: { median: 4, least: 2, most: 6 } },
    ])
    expect(row!.best?.peer).toBe('p')
    expect([ofPeer!.peers, ofPeer!.best]).toEqual([[], undefined])
    expect(tableOf('W', rowsOf(runs))).toMatch(/ a .* 0\.625 × a {3}4\.00 × b {3}best peer: 0\.625 × a\n/)
  })

  test('have the fastest peer as the best where less is better', () => {
    const ms = (name: string, figure: number, subject: Measure['subject']): Measure =>
      measure(name, figure, { subject, work: 'delivery', unit: 'ms' })
    const [row] = rowsOf([[ms('a', 2, 'tidemark'), ms('slow', 8, 'peer'), ms('quick', 1, 'peer')]])
    expect(row!.best).toEqual({ peer: 'quick', ratio: { median: 2, least: 2, most: 2 } })
  })

  test('of a peer may be wrong without failing the bench', () => {
    const lost = { subject: 'peer' as const, counts: [{ what: 'events delivered', wanted: 3, got: 2 }] }
    const rows = rowsOf([[measure('p', 1, lost)]])
    expect(wrongCounts(rows)).toEqual([])
    expect(wrongCounts(rows, true)).toHaveLength(1)
  })

  test('name every count that is wrong, in whichever run', () => {
    const counts = (got: number) => ({ counts: [{ what: 'events delivered', wanted: 3, got }] })
    expect(wrongCounts(rowsOf([[measure('a', 1, counts(3))]]))).toEqual([])
    expect(wrongCounts(rowsOf([[measure('a', 1, counts(3))], [measure('a', 1, counts(4))]]))).toHaveLength(1)
  })

  test('are written with three digits', () => {
    expect([5_130_000, 24_120, 812.4, 1.456, 0.0671, 0, 9_999].map(short)).toEqual([
      '5.13M',
      '24.1k',
      '812',
      '1.46',
      '0.067',
      '0.00',
      '9999',
    ])
  })
})
