/** Limits that more than one workload is compared with. */
import { closeSync, fdatasyncSync, openSync, unlinkSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { dataOf } from './events.ts'
import type { Measure } from './figures.ts'
import { grouped, type Lab } from './lab.ts'

const WRITE_BYTES = 4_096

/** How often this file system takes a write of 4 KiB and makes it durable, one after another. */
export function fsyncLimit(name: string, lab: Lab): Measure {
  const path = join(lab.dir, 'fsync-probe')
  const file = openSync(path, 'w')
  const bytes = Buffer.from(Array.from({ length: WRITE_BYTES / 200 + 1 }, (_, i) => dataOf(i)).join('')).subarray(
    0,
    WRITE_BYTES,
  )
  const times: number[] = []
  const started = performance.now()
  let now = started
  while (now - started < lab.scale.seconds * 500) {
    writeSync(file, bytes)
    fdatasyncSync(file)
    const then = performance.now()
    times.push(then - now)
    now = then
  }
  closeSync(file)
  unlinkSync(path)
  times.sort((a, b) => a - b)
  return {
    name,
    subject: 'limit',
    figure: (times.length / (now - started)) * 1_000,
    unit: 'writes/s',
    durability: 'fsync',
    p50: times[times.length >> 1]!,
    p99: times[Math.floor(times.length * 0.99)]!,
  }
}

export const rawWritesName = (lab: Lab, events: number, sockets: number): string =>
  `raw writes in ${lab.language}, ${events === 1 ? '1 event' : `${events} events`} each, ${sockets === 1 ? '1 socket' : `${grouped(sockets)} sockets`}`

/** How many events a second pass from a process that only writes to a process that only counts. */
export async function rawWritesLimit(lab: Lab, events: number, sockets: number): Promise<Measure> {
  const body = Buffer.from(Array.from({ length: events }, (_, i) => stamped(dataOf(i))).join(''))
  const { child, port } = await lab.drive.send({ connections: sockets, events, seconds: lab.scale.seconds / 2, body })
  const drain = await lab.drive.drain({ port, connections: sockets, mode: 'stream' })
  const sent = await child.json<{ events: number; cpu: number }>('events')
  const got = await drain.exactly(sent.events)
  await drain.stop()
  await child.stop('SIGKILL')
  return {
    name: rawWritesName(lab, events, sockets),
    subject: 'limit',
    figure: (got.events / (got.last - got.first)) * 1e6,
    unit: 'events/s',
    durability: '-',
    cpu: (sent.cpu / sent.events) * 1e6,
    counts: [{ what: 'events delivered', wanted: sent.events, got: got.events }],
  }
}

/** Any time will do: these stamps only mark the events. */
const stamped = (data: string): string => data.replace('0000000000000000', '1700000000000000')
