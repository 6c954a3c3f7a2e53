/**
 * Loaded before a server that is profiled (`node --import profiler.js …`): one SIGWINCH (a signal that no server uses)
 * starts a CPU profile, the next one ends it and writes it to the path in BENCH_PROFILE. Each says so on stderr.
 */
import { writeFileSync } from 'node:fs'
import { Session } from 'node:inspector/promises'

const INTERVAL_MICROS = 200

const session = new Session()
let running = false

async function start(): Promise<object> {
  session.connect()
  await session.post('Profiler.enable')
  await session.post('Profiler.setSamplingInterval', { interval: INTERVAL_MICROS })
  await session.post('Profiler.start')
  return { profiling: true }
}

async function stop(): Promise<object> {
  const { profile } = await session.post('Profiler.stop')
  session.disconnect()
  writeFileSync(process.env.BENCH_PROFILE!, JSON.stringify(profile))
  return { profiled: true }
}

process.on('SIGWINCH', async () => {
  running = !running
  process.stderr.write(`${JSON.stringify(await (running ? start() : stop()))}\n`)
})
