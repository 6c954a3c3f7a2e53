/**
 * W4 through a project's ordinary client for Node: reads a channel, stream or consumer from its beginning to the event
 * that is named, and does nothing with it. Prints {"events":N,"seconds":S,"cpu":C}.
 *
 *   node reader.js --kind msgpack|json|poll|redis|nats --port P --channel NAME --events N [--modules DIR]
 */
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { connect } from '../../src/client/node.ts'
import { cpuSeconds } from './sockets.ts'

/** What is used of the clients of peers. */
interface IoRedis {
  readonly Redis: new (port: number, host: string) => { xread(...words: unknown[]): Promise<XRead> }
}
type XRead = [stream: string, entries: [id: string, fields: string[]][]][] | null
interface NatsNode {
  connect(options: object): Promise<object>
}
interface JetStream {
  jetstream(connection: object): {
    readonly consumers: { get(stream: string): Promise<{ consume(options: object): Promise<AsyncIterable<unknown>> }> }
  }
}

/** Events of a page, of Tidemark's largest and of a usual one for the peers. */
const PAGE = 10_000
const REDIS_COUNT = 1_000
/** Where redis.ts and nats.ts put events. */
const [REDIS_STREAM, NATS_STREAM] = ['s', 'S']

const options = { type: 'string' } as const
const { values } = parseArgs({
  options: { kind: options, port: options, channel: options, events: options, modules: options },
})
const port = Number(values.port)
const wanted = Number(values.events)
const server = `http://127.0.0.1:${port}`
const load = (name: string): unknown => createRequire(join(values.modules!, 'package.json'))(name)

async function follow(subprotocol: 'json' | 'msgpack'): Promise<number> {
  let events = 0
  const channel = connect(server, { subprotocol }).channel(values.channel!)
  for await (const event of channel.follow({ after: 0 })) {
    if (event.seq !== ++events) throw new Error(`event ${event.seq} came as number ${events}`)
    if (events === wanted) break
  }
  return events
}

async function poll(): Promise<number> {
  const channel = connect(server).channel(values.channel!)
  let after = 0
  while (after < wanted) {
    const { events } = await channel.read({ after, limit: PAGE })
    if (events.length === 0) break
    after += events.length
  }
  return after
}

async function readRedis(): Promise<number> {
  const { Redis } = load('ioredis') as IoRedis
  const redis = new Redis(port, '127.0.0.1')
  let events = 0
  for (let id = '0'; events < wanted; ) {
    const answer = await redis.xread('COUNT', REDIS_COUNT, 'STREAMS', REDIS_STREAM, id)
    if (answer === null) break
    const entries = answer[0]![1]
    events += entries.length
    id = entries.at(-1)![0]
  }
  return events
}

async function readNats(): Promise<number> {
  const connection = await (load('@nats-io/transport-node') as NatsNode).connect({ servers: `127.0.0.1:${port}` })
  const consumer = await (load('@nats-io/jetstream') as JetStream).jetstream(connection).consumers.get(NATS_STREAM)
  let events = 0
  for await (const _ of await consumer.consume({ max_messages: PAGE })) if (++events === wanted) break
  return events
}

const reads: Readonly<Record<string, () => Promise<number>>> = {
  json: () => follow('json'),
  msgpack: () => follow('msgpack'),
  poll,
  redis: readRedis,
  nats: readNats,
}

const started = performance.now()
const cpu = cpuSeconds()
const events = await reads[values.kind!]!()
const seconds = (performance.now() - started) / 1_000
process.stdout.write(`${JSON.stringify({ events, seconds, cpu: cpuSeconds() - cpu })}\n`, () => process.exit(0))
