/**
 * What the guards of the level engine cost: the same blocks appended through it, and straight into a LevelDB with group
 * commit alone (no crc, no commit row, no high-water mark, no watermark, no receipts), in turns.
 *
 *   node dist/tools/bench/guards.js [--seconds 3] [--runs 5] [--data DIR]
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { Level } from 'level'
import { sealBlock } from '../../src/block.ts'
import { type Body, encodeBody } from '../../src/body.ts'
import { openLog } from '../../src/log/open.ts'
import { dataOf } from './events.ts'

const PRODUCERS = 64
const CHANNEL = 'bench'
const LEVEL_OPTIONS = {
  ...{ keyEncoding: 'view', valueEncoding: 'view', compression: false },
  ...{ writeBufferSize: 16 * 1024 * 1024, blockSize: 16 * 1024, maxFileSize: 16 * 1024 * 1024 },
} as const

/** Something that takes bodies and resolves when they are on disk. */
interface Sink {
  append(body: Body): Promise<unknown>
  close(): Promise<void>
}

async function guarded(dir: string): Promise<Sink> {
  const log = await openLog({ dir })
  return { append: (body) => log.append([{ channel: CHANNEL, body }]), close: () => log.close() }
}

/** Group commit over LevelDB and nothing else: what waits shares the next write. */
async function bare(dir: string): Promise<Sink> {
  const db = new Level<Uint8Array, Uint8Array>(dir, LEVEL_OPTIONS)
  await db.open()
  let waiting: { body: Body; done: () => void }[] = []
  let running = false
  let head = 0
  const key = Buffer.alloc(13)
  key[0] = 0x65
  const run = async (): Promise<void> => {
    running = true
    while (waiting.length > 0) {
      await new Promise((resolve) => setImmediate(resolve))
      const group = waiting
      waiting = []
      const after = head
      for (const { body } of group) head += body.count
      key.writeBigUInt64BE(BigInt(head), 5)
      const block = sealBlock(
        CHANNEL,
        group.map(({ body }) => body),
        { after, time: Date.now() },
        () => 0,
      )
      const batch = db.batch()
      batch.put(Uint8Array.from(key), block)
      batch.put(Buffer.from('head'), Buffer.alloc(36))
      await batch.write({ sync: true } as object)
      for (const { done } of group) done()
    }
    running = false
  }
  return {
    append: (body) =>
      new Promise<void>((done) => {
        waiting.push({ body, done })
        if (!running) void run()
      }),
    close: () => db.close(),
  }
}

/** Events a second that 64 producers append, one after the other each. */
async function rate(sink: Sink, size: number, seconds: number): Promise<number> {
  const bodies = Array.from({ length: 100 }, (_, i) =>
    encodeBody(
      Array.from({ length: size }, (_, n) => ({
        ...{ type: null, key: null, id: null, contentType: null, to: null },
        data: Buffer.from(dataOf((i * size + n) % 5_000)),
      })),
    ),
  )
  let events = 0
  const started = performance.now()
  const until = started + seconds * 1_000
  const producer = async (n: number): Promise<void> => {
    for (let i = n; performance.now() < until; i++) {
      await sink.append(bodies[i % bodies.length]!)
      events += size
    }
  }
  await Promise.all(Array.from({ length: PRODUCERS }, (_, n) => producer(n)))
  return events / ((performance.now() - started) / 1_000)
}

const { values } = parseArgs({
  options: { seconds: { type: 'string' }, runs: { type: 'string' }, data: { type: 'string' } },
})
const seconds = Number(values.seconds ?? 3)
const runs = Number(values.runs ?? 5)
for (const size of [1, 100]) {
  const ratios: number[] = []
  for (let run = 0; run < runs; run++) {
    const dir = mkdtempSync(join(values.data ?? tmpdir(), 'tidemark-guards-'))
    try {
      const figures: number[] = []
      // In turns, so that a slower moment of the machine is both's.
      for (const open of run % 2 ? [guarded, bare] : [bare, guarded]) {
        const sink = await open(join(dir, open.name))
        await rate(sink, size, seconds / 4)
        figures.push(await rate(sink, size, seconds))
        await sink.close()
      }
      const [withGuards, without] = run % 2 ? figures : figures.reverse()
      ratios.push(withGuards! / without!)
      console.log(
        `appends of ${size}: with guards ${Math.round(withGuards!)} events/s, without ${Math.round(without!)}: ${(withGuards! / without!).toFixed(2)}`,
      )
    } finally {
      rmSync(dir, { recursive: true })
    }
  }
  ratios.sort((a, b) => a - b)
  console.log(
    `appends of ${size}, ${PRODUCERS} producers, fsync, in-process: ${ratios[ratios.length >> 1]!.toFixed(2)} of LevelDB with group commit alone (${ratios[0]!.toFixed(2)}–${ratios.at(-1)!.toFixed(2)}, ${runs} runs)`,
  )
}
