/**
 * Loaded before a server that is profiled (`node --import profiler.js …`): one SIGWINCH (a signal that no server uses)
 * starts a CPU profile, the next one ends it and writes it to the path in BENCH_PROFILE. Each says so on stderr. Beside
 * the profile stands what the process did meanwhile (`Work`): operations of LevelDB, which are counted here and not in
 * the product, the delay of the event loop, the heap, garbage collection, system calls as far as /proc tells them.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { Session } from 'node:inspector/promises'
import { monitorEventLoopDelay, PerformanceObserver } from 'node:perf_hooks'
import { Level } from 'level'

/** What a profiled process did; counts and milliseconds. */
export interface Work {
  readonly seconds: number
  /** Operations by name. */
  readonly level: Readonly<Record<string, number>>
  /** Beyond the tick of the measurement. */
  readonly loop: { readonly p50: number; readonly p99: number; readonly max: number }
  /** MiB. */
  readonly memory: Readonly<Record<'heapUsed' | 'heapPeak' | 'external' | 'rss', number>>
  readonly gcMs: number
  readonly gcCount: number
  /** read- and write-like calls of all threads, and switches that they made by themselves; of Linux. */
  readonly kernel: Readonly<Record<'reads' | 'writes' | 'bytesRead' | 'bytesWritten' | 'switches', number>>
}

const INTERVAL_MICROS = 200
const LOOP_TICK_MS = 5
const HEAP_EVERY_MS = 50
const MIB = 2 ** 20

const session = new Session()
const loop = monitorEventLoopDelay({ resolution: LOOP_TICK_MS })
let running = false
let started = 0
let kernelBefore = kernelCounts()
let heapPeak = 0
let heapTimer: NodeJS.Timeout | undefined
let gc = { ms: 0, count: 0 }
let level: Record<string, number> = {}

new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) gc = { ms: gc.ms + entry.duration, count: gc.count + 1 }
}).observe({ entryTypes: ['gc'] })

// ── LevelDB ──────────────────────────────────────────────────────────────────────────────────────────────────────

type Methods = Record<string, (this: unknown, ...given: unknown[]) => unknown>

/** Counts the calls of these methods; `size` tells how many operations a call is. */
function count(methods: Methods, names: Readonly<Record<string, string>>): void {
  for (const [method, operation] of Object.entries(names)) {
    const original = methods[method]
    if (original === undefined) continue
    methods[method] = function (...given) {
      level[operation] = (level[operation] ?? 0) + 1
      return original.apply(this, given)
    }
  }
}

/** Counts on the class of what a method makes, from the first that it makes. */
function countMade(maker: string, names: Readonly<Record<string, string>>): void {
  const methods = Level.prototype as unknown as Methods
  const original = methods[maker]!
  let known = false
  methods[maker] = function (...given) {
    const made = original.apply(this, given)
    if (!known) count(Object.getPrototypeOf(made) as Methods, names)
    known = true
    return made
  }
}

const DIRECT = { _get: 'get', _getSync: 'get', _getMany: 'getMany', _put: 'put', _del: 'del', _batch: 'batch' }
count(Level.prototype as unknown as Methods, { ...DIRECT, _clear: 'clear', _iterator: 'iterator' })
countMade('_iterator', { _next: 'next', _nextv: 'nextv', _all: 'nextv', _seek: 'seek' })
countMade('_keys', { _next: 'next', _nextv: 'nextv', _all: 'nextv', _seek: 'seek' })
countMade('_values', { _next: 'next', _nextv: 'nextv', _all: 'nextv', _seek: 'seek' })
countMade('_chainedBatch', { _put: 'chained put', _del: 'chained del', _write: 'chained write' })

// ── The rest ─────────────────────────────────────────────────────────────────────────────────────────────────────

function kernelCounts(): Work['kernel'] {
  const counts = { reads: 0, writes: 0, bytesRead: 0, bytesWritten: 0, switches: 0 }
  if (process.platform !== 'linux') return counts
  const field = (text: string, name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(text)?.[1])
  const io = readFileSync('/proc/self/io', 'utf8')
  return {
    reads: field(io, 'syscr'),
    writes: field(io, 'syscw'),
    bytesRead: field(io, 'rchar'),
    bytesWritten: field(io, 'wchar'),
    switches: field(readFileSync('/proc/self/status', 'utf8'), 'voluntary_ctxt_switches'),
  }
}

async function start(): Promise<object> {
  session.connect()
  await session.post('Profiler.enable')
  await session.post('Profiler.setSamplingInterval', { interval: INTERVAL_MICROS })
  await session.post('Profiler.start')
  level = {}
  gc = { ms: 0, count: 0 }
  heapPeak = 0
  heapTimer = setInterval(() => {
    heapPeak = Math.max(heapPeak, process.memoryUsage().heapUsed)
  }, HEAP_EVERY_MS)
  loop.reset()
  loop.enable()
  kernelBefore = kernelCounts()
  started = performance.now()
  return { profiling: true }
}

async function stop(): Promise<object> {
  const work = workDone()
  loop.disable()
  clearInterval(heapTimer)
  const { profile } = await session.post('Profiler.stop')
  session.disconnect()
  writeFileSync(process.env.BENCH_PROFILE!, JSON.stringify({ ...profile, work }))
  return { profiled: true }
}

function workDone(): Work {
  const kernel = Object.entries(kernelCounts()).map(([name, n]) => [name, n - kernelBefore[name as 'reads']])
  const delay = (ns: number): number => Math.max(0, ns / 1e6 - LOOP_TICK_MS)
  const { heapUsed, external, rss } = process.memoryUsage()
  return {
    seconds: (performance.now() - started) / 1_000,
    level,
    loop: { p50: delay(loop.percentile(50)), p99: delay(loop.percentile(99)), max: delay(loop.max) },
    memory: {
      heapUsed: heapUsed / MIB,
      heapPeak: Math.max(heapPeak, heapUsed) / MIB,
      external: external / MIB,
      rss: rss / MIB,
    },
    gcMs: gc.ms,
    gcCount: gc.count,
    kernel: Object.fromEntries(kernel) as Work['kernel'],
  }
}

process.on('SIGWINCH', async () => {
  running = !running
  process.stderr.write(`${JSON.stringify(await (running ? start() : stop()))}\n`)
})
