/**
 * Publishes to the JetStream stream of nats.ts through NATS' own client for Node and waits for each acknowledgement: the
 * flags and the report of load.c, as far as it has them. One process, one connection, as a gateway has.
 *
 *   node publish.js --port P --connections PRODUCERS [--depth N] --size EVENTS [--seconds S --warm S | --count REQUESTS]
 *
 * A request is `size` publishes, sent together; each producer has `depth` of them in flight.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { jetstream } from '@nats-io/jetstream'
import { connect } from '@nats-io/transport-node'
import { dataOf } from './events.ts'
import { cpuSeconds, epochMicros, flags, Histogram, nowMicros, STAMP, STAMP_DIGITS } from './sockets.ts'

/** As in nats.ts. */
const SUBJECT = 's.a'
const DIFFERENT_EVENTS = 6_400
/** Longest wait for an acknowledgement: many are in flight, and a server may write each to disk. */
const ACK_MS = 20_000

const values = flags(['port', 'connections', 'depth', 'size', 'seconds', 'warm', 'count', 'protocol'])
const size = Number(values.size)
const count = Number(values.count ?? 0)
const events = Array.from({ length: DIFFERENT_EVENTS }, (_, i) => {
  const bytes = Buffer.from(dataOf(i))
  return { bytes, at: bytes.indexOf(STAMP) + STAMP.length }
})

const nc = await connect({ servers: `127.0.0.1:${values.port}` })
const js = jetstream(nc, { timeout: ACK_MS })
const latency = new Histogram()
const report = { answered: 0, events: 0, total: 0, errors: 0, late: 0 }
let phase: 'warm' | 'measure' | 'drain' = 'warm'
let launched = 0
let sum = 0n

function publish(stamp: number): Promise<unknown> {
  const { bytes, at } = events[report.total++ % events.length]!
  const data = Buffer.from(bytes)
  data.write(String(stamp).padStart(STAMP_DIGITS, '0'), at, 'latin1')
  sum += BigInt(stamp)
  return js.publish(SUBJECT, data)
}

async function produce(): Promise<void> {
  while (phase !== 'drain' && (count === 0 || launched < count)) {
    launched++
    const start = nowMicros()
    const stamp = Math.floor(epochMicros())
    await Promise.all(Array.from({ length: size }, (_, i) => publish(stamp + i)))
    if (phase !== 'measure') continue
    report.answered++
    report.events += size
    latency.add(nowMicros() - start)
  }
}

function enter(next: 'measure' | 'drain'): void {
  phase = next
  console.log(JSON.stringify({ phase }))
}

// Of a count nothing is warm-up.
if (count > 0) enter('measure')
const started = nowMicros()
const producers = Array.from({ length: Number(values.connections) * Number(values.depth ?? 1) }, produce)
let measured = started
if (count > 0) await Promise.all(producers)
else {
  await sleep(Number(values.warm ?? 0) * 1_000)
  enter('measure')
  measured = nowMicros()
  await sleep(Number(values.seconds) * 1_000)
}
const seconds = (nowMicros() - measured) / 1e6
enter('drain')
await Promise.all(producers)
await nc.close()
const [p50us, p99us] = [latency.at(0.5), latency.at(0.99)]
const told = { ...report, seconds, p50us, p99us, sum: String(BigInt.asUintN(64, sum)), cpu: cpuSeconds() }
process.stdout.write(`${JSON.stringify(told)}\n`, () => process.exit(0))
